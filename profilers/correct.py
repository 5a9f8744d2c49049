"""What whole networks near the optimum say about a cost model: one factor on top of the calibration.

The calibration is fitted on random networks; a search returns networks that are all of one kind, the best under a
budget, and there a model can be off by more than its error on random ones. So the best candidates are measured, and
sums are multiplied by one factor:

    factor = exp(shrinkage * mean),   mean = weighted mean of log(measured / predicted)

Networks count by how near their cost is to that of the winner (`WIDTH`). The mean is shrunk by how well it is known,
shrinkage = mean^2 / (mean^2 + standard error^2): a deviation of a few candidates that is no larger than what the model
errs on single networks anyway is mostly noise, one that all share is not. All networks measured so far take part, so a
factor moves less and less, and cannot swing from round to round.

One factor cannot mend the rows of single operators. Where networks disagree by more than it explains, the rows of their
operators are measured again (`wrong_kinds`), and a correction holds what stood before and what stands since (`rows`).

Each correction is kept in the table, dated, among the calibrations of its stack; nothing is overwritten (docs/lut.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import numpy as np

from profilers.calibrate import Calibration
from profilers.lut import CalibrationRow, Lut, Row
from toolchain.errors import ConfigurationError, LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

WIDTH: Final = 0.5  # of the weights, in the logarithm of the cost: a network 1.65 times as dear counts 0.6
UNKNOWN_SPREAD: Final = 0.05  # of single networks about a model that nothing has judged yet
_PREFIX: Final = "correction of "  # of a metric's name, among the calibrations of a stack


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole network that was measured.

    Attributes:
        name: as people read it.
        key: `Network.fingerprint`, of its row in the table.
        predicted: by the cost model without any correction, in the metric's unit.
        measured: at the machine's best known speed, in the metric's unit.
    """

    name: str
    key: str
    predicted: float
    measured: float

    @property
    def log_ratio(self) -> float:
        return math.log(self.measured / self.predicted)


@dataclass(frozen=True, slots=True)
class RowAgain:
    """An operator's row that was measured again, and moved.

    Attributes:
        signature: of the operator.
        before: the value that stood, at the machine's best known speed then; None where it was predicted.
        value: the new one at the same speed, in the metric's unit.
        speed: the anchor's time that both refer to, in microseconds; 1 on a board.
        measurement: the new row, as `Measurement` has it.
    """

    signature: str
    before: float | None
    value: float
    speed: float
    measurement: Mapping[str, Any]

    @classmethod
    def of(
        cls, op: Operator, before: float | None, value: float, speed: float, found: Measurement
    ) -> RowAgain:
        """Arguments as the attributes."""
        stored = {**asdict(found), "evidence": found.evidence.value, "samples": list(found.samples)}
        return cls(op.signature, before, value, speed, stored)

    def row(self, stack: Stack) -> Row:
        """As it stands in a table."""
        stored = dict(self.measurement)
        samples, evidence = tuple(stored.pop("samples")), Evidence(stored.pop("evidence"))
        return Row(
            stack, Operator.parse(self.signature), Measurement(**stored, samples=samples, evidence=evidence)
        )


@dataclass(frozen=True, slots=True)
class Correction:
    """One correction of one metric on one stack for one space.

    Attributes:
        metric: e.g. `cycles`. stack: fingerprint of what was measured on.
        scope: fingerprint of the space's operators; a correction says nothing about another space.
        calibration: fingerprint of the calibration that it stands on; "" where there is none.
        round: of the loop that made it, from 1.
        factor: what predictions are multiplied by. before: the factor that was in force until then.
        mean: weighted mean of log(measured / predicted). shrinkage: 0 to 1, how much of it is believed.
        spread: standard deviation of single networks about the mean, as a share.
        at: predicted cost of the winner, about which networks are weighted, in the metric's unit.
        error_before_percent, error_after_percent: mean absolute error of the weighted networks with the factor
            before, and with this one.
        networks: all that it rests on, predicted with the new rows.
        rows: what was measured again in its round, and moved; the rows in the table are these since.
    """

    metric: str
    stack: str
    scope: str
    calibration: str
    round: int
    factor: float
    before: float
    mean: float
    shrinkage: float
    spread: float
    at: float
    error_before_percent: float
    error_after_percent: float
    networks: tuple[Candidate, ...]
    rows: tuple[RowAgain, ...] = ()

    def to_json(self) -> str:
        """One line of JSON; the same correction gives the same text."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Correction:
        """The correction that `to_json` wrote.

        Raises:
            LutError: it is none.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            values.setdefault("rows", [])  # tables of versions that measured no row again
            if set(values) != {f.name for f in fields(cls)}:
                raise ValueError(f"fields are {sorted(values)}")
            networks = tuple(Candidate(**one) for one in values.pop("networks"))
            rows = tuple(RowAgain(**one) for one in values.pop("rows"))
            found = cls(**values, networks=networks, rows=rows)
            if not (math.isfinite(found.factor) and found.factor > 0):
                raise ValueError(f"factor is {found.factor}")
            return found
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LutError(
                f"not a stored correction: {error}", remedy="measure again with `boardfit run`"
            ) from error

    def applied(self, calibration: Calibration) -> Calibration:
        """The calibration with the factor on all its terms."""
        return replace(
            calibration,
            intercept=calibration.intercept * self.factor,
            scale=calibration.scale * self.factor,
            per_operator=calibration.per_operator * self.factor,
        )


def fit_correction(
    networks: Sequence[Candidate],
    *,
    metric: str,
    stack: Stack,
    scope: str,
    at: float,
    calibration: str = "",
    usual_error: float | None = None,
    round: int = 1,
    before: float = 1.0,
    rows: Iterable[RowAgain] = (),
) -> Correction:
    """The factor that networks measured near the optimum ask for.

    Args:
        networks: at least one; predictions without any correction.
        metric, stack, scope, calibration, round, rows: copied to the result.
        at: predicted cost of the winner, without correction, in the metric's unit.
        usual_error: what the calibrated model errs on networks that it was not fitted on, as a share; None where that
            is not known. It counts as much as one more network in the estimate of the spread.
        before: the factor that is in force now.

    Raises:
        ConfigurationError: no network, or a cost that is not positive and finite.
    """
    costs = [at, *(cost for n in networks for cost in (n.predicted, n.measured))]
    if not networks or not all(math.isfinite(cost) and cost > 0 for cost in costs):
        raise ConfigurationError(f"a correction of {metric} needs networks with positive costs, got {costs}")
    ratios = np.array([n.log_ratio for n in networks])
    distances = np.array([math.log(n.predicted / at) for n in networks]) / WIDTH
    weights = np.exp(-0.5 * distances**2)
    if weights.sum() < 1e-9:  # all very far away: better than nothing, equally
        weights = np.ones(len(networks))
    weights /= weights.sum()
    mean = float(weights @ ratios)
    effective = 1.0 / float(weights @ weights)
    prior = usual_error if usual_error is not None and math.isfinite(usual_error) else UNKNOWN_SPREAD
    squares = effective * float(weights @ (ratios - mean) ** 2)
    spread = math.sqrt((prior**2 + squares) / effective)
    error = spread**2 / effective
    shrinkage = mean**2 / (mean**2 + error) if mean else 0.0
    factor = math.exp(shrinkage * mean)

    def percent(used: float) -> float:
        return float(100 * weights @ np.abs(used * np.exp(-ratios) - 1))

    return Correction(
        metric=metric,
        stack=stack.fingerprint,
        scope=scope,
        calibration=calibration,
        round=round,
        factor=factor,
        before=before,
        mean=mean,
        shrinkage=shrinkage,
        spread=spread,
        at=at,
        error_before_percent=percent(before),
        error_after_percent=percent(factor),
        networks=tuple(sorted(networks, key=lambda n: n.key)),
        rows=tuple(rows),
    )


def moved_text(rows: Iterable[RowAgain | Mapping[str, Any]]) -> str:
    """What moved when rows were measured again, e.g. "30 rows of conv2d x 1.98 to 2.00"; empty where none did.

    Args:
        rows: of a correction, also as JSON has them.
    """
    kinds: dict[str, list[float]] = {}
    new = 0
    for row in (one if isinstance(one, RowAgain) else RowAgain(**one) for one in rows):
        if row.before is None:
            new += 1
        else:
            kinds.setdefault(row.signature.partition(" ")[0], []).append(row.value / row.before)
    parts = []
    for kind, ratios in sorted(kinds.items()):
        least, most = (f"{ratio:.3g}" for ratio in (min(ratios), max(ratios)))
        counted = "1 row" if len(ratios) == 1 else f"{len(ratios)} rows"
        parts.append(f"{counted} of {kind} x {least}" + (f" to {most}" if most != least else ""))
    if new:
        parts.append("1 row that was predicted" if new == 1 else f"{new} rows that were predicted")
    return ", ".join(parts)


def correction_row(stack: Stack, correction: Correction, created_at: str) -> CalibrationRow:
    """How a correction stands in a table: appended (`Lut.absorb`), and once however often it is offered."""
    return CalibrationRow(stack, _PREFIX + correction.metric, correction.to_json(), created_at)


def correction_history(
    lut: Lut, stack: Stack | None, metric: str, scope: str | None = None
) -> list[tuple[str, Correction]]:
    """(time, correction) of a metric, oldest first; the newest is in force.

    Args:
        stack, scope: None means all.

    Raises:
        LutError: an entry is no correction.
    """
    rows = lut.calibration_history(stack, _PREFIX + metric)
    found = [(row.created_at, Correction.from_json(row.text)) for row in rows]
    return [one for one in found if scope in (None, one[1].scope)]


def wrong_kinds(ratios: Mapping[Operator, float], tolerance_percent: float) -> frozenset[str]:
    """Kinds of which more rows by one algorithm moved than stayed when they were measured again: not single rows are
    wrong there.

    Args:
        ratios: operator -> new value / the one that stood.
    """
    moved: dict[tuple[str, str], list[bool]] = {}
    for op, ratio in ratios.items():
        moved.setdefault((op.kind, op.algorithm), []).append(has_moved(ratio, tolerance_percent))
    return frozenset(kind for (kind, _), found in moved.items() if 2 * sum(found) > len(found))


def has_moved(ratio: float, tolerance_percent: float) -> bool:
    """Whether two values whose ratio this is differ by more than the tolerance."""
    return abs(math.log(ratio)) > math.log1p(tolerance_percent / 100)


def rows_before(history: Iterable[Correction], values: Mapping[str, float]) -> dict[str, float]:
    """A table's values as they were before rounds measured rows again; rows that were new then are left out.

    Args:
        history: of one stack, metric and scope, oldest first.
        values: signature -> value, as a share of the machine's best known speed; so is the answer.
    """
    found = dict(values)
    for correction in reversed(list(history)):
        for row in correction.rows:
            value = found.get(row.signature)
            if value is None or not math.isclose(row.value / row.speed, value, rel_tol=1e-9):
                continue  # measured otherwise since
            if row.before is None:
                del found[row.signature]
            else:
                found[row.signature] = row.before / row.speed
    return found


def is_correction(metric: str) -> bool:
    """Whether an entry among a table's calibrations is a correction."""
    return metric.startswith(_PREFIX)
