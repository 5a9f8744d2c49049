"""Metrics, their units, and the text that users write for them ("2 ms", "64 kB").

A metric's name ends in its unit (`latency_us`, `flash_bytes`); counts have none (`macs`, `params`, `cycles`).
kB is 1000 bytes, KiB is 1024 (design.md, section 2).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

from toolchain.errors import ConfigurationError

# budget key in boardfit.toml -> (metric, {unit as written: factor to the metric's unit})
_TIME: Final = {"ns": 1e-3, "us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}
_SIZE: Final = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
_ENERGY: Final = {"nJ": 1e-3, "uJ": 1.0, "µJ": 1.0, "mJ": 1e3, "J": 1e6}
_COUNT: Final = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
BUDGET_METRICS: Final[dict[str, tuple[str, dict[str, float]]]] = {
    "latency": ("latency_us", _TIME),
    "flash": ("flash_bytes", _SIZE),
    "ram": ("ram_bytes", _SIZE),
    "energy": ("energy_uj", _ENERGY),
    "cycles": ("cycles", _COUNT),
    "instructions": ("instructions", _COUNT),
    "macs": ("macs", _COUNT),
    "params": ("params", _COUNT),
}


# What belongs to a network whatever it runs on.
NETWORK_METRICS: Final = ("params", "macs")


def plain_metric(name: str) -> str:
    """A metric without the target that it is of: `pi:latency_us` -> `latency_us`."""
    return name.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper bound on one metric. Budgets are hard: a result above one is never a success.

    Attributes:
        metric: name with its unit, e.g. `latency_us`.
        bound: the largest allowed value, in the metric's unit.
        share: where it was asked for relative to the space ("25 %": 0.25); None otherwise. Says nothing else.
    """

    metric: str
    bound: float
    share: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound) or self.bound <= 0:
            raise ConfigurationError(
                f"budget for {self.metric} is {self.bound}; it must be a positive finite number",
                remedy='write a value above 0, e.g. latency = "2 ms"',
            )

    def keeps(self, value: float) -> bool:
        """True when `value` is within the budget (equal counts as within)."""
        return value <= self.bound


@dataclass(frozen=True, slots=True)
class QuantileBudget:
    """A budget relative to the space: as cheap as the cheapest `share` of its networks, on this very device.

    For somebody who does not know yet what the device can do, and for experiments that must mean the same on
    every machine. It becomes a `Budget` when the costs are known.
    """

    metric: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigurationError(
                f"budget for {self.metric} is {100 * self.share:g} % of the networks; it must be above 0, at most 100",
                remedy='write e.g. "25 %": as cheap as the cheapest quarter of the space',
            )


def parse_limit(key: str, text: str | float | int) -> Budget | QuantileBudget:
    """Read a budget with a unit (`"2 ms"`) or relative to the space (`"25 %"`: its cheapest quarter).

    Raises:
        ConfigurationError: as `parse_budget`.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", str(text))
    if found is None:
        return parse_budget(key, text)
    if key not in BUDGET_METRICS:
        raise _unknown(key)
    return QuantileBudget(BUDGET_METRICS[key][0], float(found.group(1)) / 100)


def parse_budget(key: str, text: str | float | int) -> Budget:
    """Read one budget as users write it: `parse_budget("latency", "2 ms")` -> latency_us <= 2000.

    Args:
        key: `latency`, `flash`, `ram`, `energy`, `cycles`, `instructions`, `macs` or `params`.
        text: number and unit; counts may be bare numbers, the others need their unit.

    Raises:
        ConfigurationError: unknown key, unit or malformed number; the message lists what is allowed.
    """
    if key not in BUDGET_METRICS:
        raise _unknown(key)
    metric, units = BUDGET_METRICS[key]
    found = re.fullmatch(r"\s*([0-9]+(?:[._][0-9]+)*(?:[eE][+-]?[0-9]+)?)\s*([A-Za-zµ]*)\s*", str(text))
    if found is None:
        raise ConfigurationError(
            f"budget {key} = {text!r} is not a number with a unit", remedy=_example(key, units)
        )
    number, unit = found.group(1).replace("_", ""), found.group(2)
    if unit not in units:
        raise ConfigurationError(
            f"budget {key} = {text!r}: unit {unit!r} is not one of {', '.join(u or '(none)' for u in units)}",
            remedy=_example(key, units),
        )
    try:
        value = float(number)
    except ValueError:
        raise ConfigurationError(
            f"budget {key} = {text!r} is not a number with a unit", remedy=_example(key, units)
        ) from None
    return Budget(metric, value * units[unit])


def _unknown(key: str) -> ConfigurationError:
    return ConfigurationError(
        f"unknown budget {key!r}", remedy=f"use one of {', '.join(sorted(BUDGET_METRICS))}"
    )


def _example(key: str, units: dict[str, float]) -> str:
    unit = next(iter(u for u in ("ms", "kB", "uJ", "M") if u in units))
    return f'write for example {key} = "20 {unit}"'


def format_value(metric: str, value: float) -> str:
    """A value as people read it, with its unit: ("latency_us", 1840.0) -> "1.840 ms"."""
    if metric.endswith("_us"):
        return _scaled(value, (("s", 1e6), ("ms", 1e3), ("us", 1.0)))
    if metric.endswith("_bytes"):
        return f"{value:,.0f} B" if value < 1000 else _scaled(value, (("MB", 1e6), ("kB", 1e3)))
    if metric.endswith("_uj"):
        return _scaled(value, (("J", 1e6), ("mJ", 1e3), ("uJ", 1.0)))
    return f"{value:,.0f}"


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    for unit, factor in units:
        if abs(value) >= factor:
            return f"{value / factor:.3f} {unit}"
    unit, factor = units[-1]
    return f"{value / factor:.3f} {unit}"
