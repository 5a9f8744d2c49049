"""Opening targets with the two reference models that the measuring protocol of a noisy machine wants."""

from __future__ import annotations

from profilers.lut import Lut
from profilers.profile import anchor_model, baseline_model
from targets.session import Described, Session, is_board, model_format, open_target
from toolchain.errors import ConfigurationError
from toolchain.graph.operator import DType
from toolchain.measurement import MEASURED_METRICS, Evidence, Measurement
from toolchain.workflow.project import Progress, silent

LATENCY, CYCLES = "latency_us", "cycles"
MEASURED = frozenset(MEASURED_METRICS.values())


def open_session(url: str, precision: DType = "float32", progress: Progress = silent) -> Session:
    """Open a target for measuring and running, on a CPU with the anchor and baseline of a precision.

    Args:
        progress: told before and after; it takes seconds where firmware is built or a network is slow.

    Raises:
        ConfigurationError: no such target, it does not take this precision, or a package that writes its model files
            is missing.
        DeviceError: its engine is not installed, or the device does not answer.
    """
    progress("open", 0, 1, url)
    session = _open(url, precision)
    progress("open", 1, 1, url)
    return session


def _open(url: str, precision: DType) -> Session:
    form = model_format(url)
    if is_board(url):
        if precision != "int8":
            raise ConfigurationError(
                f"{url} takes no {precision} model", remedy='set target.precision = "int8", or use cpu:litert'
            )
        return open_target(url)
    if form == "pt2":
        precision = "float32"
    return open_target(url, anchor=anchor_model(form, precision), baseline=baseline_model(form, precision))


def in_time(cycles: Measurement, target: Described) -> Measurement | None:
    """A board's cycles as `latency_us` at its clock, with the same evidence; None for any other measurement."""
    if target.device is None or cycles.metric != CYCLES:
        return None
    factor = 1e6 / target.device.clock_hz
    return Measurement(
        LATENCY, cycles.value * factor, cycles.evidence, tuple(s * factor for s in cycles.samples),
        cycles.unstable, {"clock_hz": str(target.device.clock_hz)}, cycles.taken_at,
    )  # fmt: skip


def metrics_of(target: Described) -> tuple[str, ...]:
    """What is measured on a target, and what follows from it: cycles are a time, instructions are none."""
    metric = MEASURED_METRICS[target.evidence]
    return (metric, LATENCY) if metric == CYCLES else (metric,)


def explain_missing(url: str, metric: str, target: Described, known: tuple[str, ...]) -> ConfigurationError:
    """The error for a budget on a metric that a target does not give."""
    if target.evidence is Evidence.INSTRUCTIONS and metric in (LATENCY, CYCLES):
        return ConfigurationError(
            f"{url} gives no {metric}: the timing of its core is not validated, so only instructions are counted",
            remedy="budget instructions instead, measure on a real board (serial:...), or fit the timing model to one "
            "with `boardfit calibrate`",
        )
    return ConfigurationError(f"{url} gives no {metric}", remedy=f"it gives {', '.join(known)}")


def other_stacks(lut: Lut, about: Described) -> str:
    """What tells the rows that a table has of the same target from those wanted, e.g. "; those of this target that it
    has differ in firmware"; empty where it has none.
    """
    mine = about.stack.as_dict()
    others = [stack.as_dict() for stack in lut.stacks() if stack != about.stack]
    differing = [
        sorted({name for name, _ in other.items() ^ mine.items()})
        for other in others
        if other.get("target") == mine.get("target")
    ]
    if not differing:
        return ""
    nearest = ", ".join(name.replace("_", " ") for name in min(differing, key=len))
    return f"; those of this target that it has differ in {nearest}"
