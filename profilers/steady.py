"""Host times brought to one speed of the machine.

A CPU that shares its clock, caches or cores with others steps between speeds for seconds or minutes. What stays
is the ratio of a time to the anchor model's time in the same window: over repeated runs it varies by 0.2 to 0.3 %
where the time itself varies by 0.7 % in a good phase and by 17 % across phases (docs/lut.md, "How a noisy machine is
measured"). So a table whose rows were measured in different phases is used as ratio times the best anchor of the stack.
The rows themselves stay as they were measured. Values of other evidence are not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profilers.lut import Lut, Subject
from toolchain.errors import LutError
from toolchain.measurement import Evidence, Measurement, Stack

SLOW = 1.2  # an anchor this much above the best: the correction is large, measuring again would be better


@dataclass(frozen=True)
class SteadyTable:
    """The usable values of one metric on one stack, at the machine's best known speed.

    Attributes:
        values: operator or network -> value in the metric's unit.
        evidence: of every value; None when there is none.
        best_anchor_us: the anchor's time that the values refer to; None where nothing has an anchor.
        slow: subjects that were measured while the anchor was more than `SLOW` times its best.
    """

    values: Mapping[Subject, float]
    evidence: Evidence | None
    best_anchor_us: float | None
    slow: frozenset[Subject]


def steady_table(lut: Lut, stack: Stack, metric: str) -> SteadyTable:
    """All measured operators and networks of a stack, corrected for the phase that each was measured in.

    Raises:
        LutError: the rows are of different evidence.
    """
    rows = [row for row in lut.rows(stack, metric) if not row.failed]
    kinds = {row.measurement.evidence for row in rows}
    if len(kinds) > 1:
        raise LutError(
            f"{lut.name}: rows of {metric} on {stack.label} are of different evidence: {', '.join(sorted(kinds))}",
            remedy="the stack must tell them apart; export, drop the wrong rows and import again",
        )
    best = best_anchor(row.measurement for row in rows)
    values: dict[Subject, float] = {}
    slow = set()
    for row in rows:
        factor = slowdown(row.measurement, best)
        values[row.subject] = row.value / factor
        if factor > SLOW:
            slow.add(row.subject)
    return SteadyTable(values, next(iter(kinds), None), best, frozenset(slow))


def best_anchor(measurements: Iterable[Measurement]) -> float | None:
    """The fastest anchor among measurements, in microseconds; None when none has one."""
    return min((a for a in map(_anchor, measurements) if a is not None), default=None)


def slowdown(measurement: Measurement, best_anchor_us: float | None) -> float:
    """How much slower than its best the machine was at this measurement; 1 where that is not known."""
    anchor = _anchor(measurement)
    return 1.0 if anchor is None or best_anchor_us is None else anchor / best_anchor_us


def _anchor(measurement: Measurement) -> float | None:
    if measurement.evidence is not Evidence.HOST_WALL:
        return None
    try:
        value = float(measurement.details["anchor_us"])
    except (KeyError, ValueError):
        return None
    return value if 0 < value < float("inf") else None
