"""A figure with what it is worth: the smallest part of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from toolchain.units import format_value

# How numbers come to be: the kinds of `toolchain.measurement.Evidence`, and those of accuracies.
EVIDENCE: Final[Mapping[str, str]] = {
    "asked": "a budget, as the project asks for it",
    "cycles_measured": "counted by the cycle counter of a real chip",
    "cycles_estimated": "cycles of an emulated board by a timing model; no hardware was used",
    "instructions": "instructions that an emulator counted; they are no time",
    "host_wall": "wall-clock time on a CPU or GPU",
    "counted": "bytes in use, as the device itself counts them",
    "computed": "follows exactly from the network and its file",
    "predicted": "the cost model's answer, from rows of the lookup table",
    "shared_weights": "validation samples, with weights that many networks share; good for ranking, lower than after "
    "training",
    "estimated": "predicted from measured accuracy contributions of single design choices",
    "reference": "test samples, by the reference implementation on this computer",
    "on_target": "test samples, run on the target itself",
}

# The same in a word or two, for tables.
LABELS: Final[Mapping[str, str]] = {
    "asked": "budget",
    "cycles_measured": "measured",
    "cycles_estimated": "estimated",
    "instructions": "instructions",
    "host_wall": "measured",
    "counted": "counted",
    "computed": "computed",
    "predicted": "predicted",
    "shared_weights": "shared weights",
    "estimated": "estimated",
    "reference": "reference",
    "on_target": "on the target",
}


@dataclass(frozen=True, slots=True)
class Number:
    """A figure and what it is worth.

    Attributes:
        value: in `unit`; None where it is not known, or no finite number.
        unit: "us", "bytes", "uj", "count", "share" (0 to 1) or "percent".
        evidence: a key of `EVIDENCE`.
        source: what a predicted or estimated number rests on, e.g. "cycles_estimated"; may be empty.
        stack: fingerprint of the stack that it belongs to; empty where it belongs to the network alone.
        error: standard error, in the unit; None where none is known.
        unstable: the measuring gate was not met.
    """

    value: float | None
    unit: str
    evidence: str
    source: str = ""
    stack: str = ""
    error: float | None = None
    unstable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", finite(self.value))
        object.__setattr__(self, "error", finite(self.error))


def shown(number: Number | None, *, error: bool = True) -> str:
    """A number as people read it: "1.848 ms", "97.49 %", "88.9 ± 0.4 %", "-" where it is not known."""
    if number is None or number.value is None:
        return "-"
    if number.unit in ("share", "percent"):
        scale, digits = (100.0, 2) if number.unit == "share" else (1.0, 2)
        spread = f" ± {scale * number.error:.{digits}f}" if error and number.error else ""
        return f"{scale * number.value:.{digits}f}{spread} %"
    return format_value({"us": "_us", "bytes": "_bytes", "uj": "_uj"}.get(number.unit, ""), number.value)


def plain(value: Any) -> Any:
    """As JSON knows it; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def finite(value: float | None) -> float | None:
    """The value, or None where it is not a finite number."""
    return None if value is None or not math.isfinite(value) else float(value)


def unit_of(metric: str) -> str:
    """The unit of a metric by its name: `pi:latency_us` -> "us"; counts have none."""
    endings = {"_us": "us", "_bytes": "bytes", "_uj": "uj"}
    return next((unit for ending, unit in endings.items() if metric.endswith(ending)), "count")
