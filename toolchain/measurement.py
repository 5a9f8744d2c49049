"""What a number is worth: its evidence, the stack that it belongs to, and its samples.

Numbers of different evidence never share a column, a ranking or a ratio (design.md, section 2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Evidence(StrEnum):
    """How a number came to be."""

    CYCLES_MEASURED = "cycles_measured"  # a counter on silicon
    CYCLES_ESTIMATED = "cycles_estimated"  # a virtual board's timing model
    INSTRUCTIONS = "instructions"  # an emulator's instruction count
    HOST_WALL = "host_wall"  # wall-clock time on a CPU or GPU
    COUNTED = "counted"  # bytes in use, as the device itself reports them
    COMPUTED = "computed"  # closed form, exact by construction (bytes of a file, an arena plan)
    PREDICTED = "predicted"  # a cost model's answer, from rows of the evidence its stack names


# What a device measures, by how it does so.
MEASURED_METRICS: Final[Mapping[Evidence, str]] = {
    Evidence.CYCLES_MEASURED: "cycles",
    Evidence.CYCLES_ESTIMATED: "cycles",
    Evidence.INSTRUCTIONS: "instructions",
    Evidence.HOST_WALL: "latency_us",
}


@dataclass(frozen=True)
class Stack:
    """Everything that a number depends on: board, core, clock, runtime and version, kernels, threads, dtype...

    Attributes:
        fields: sorted (key, value) pairs, all text. Build with `Stack.of(...)`.
    """

    fields: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, mapping: Mapping[str, object]) -> Stack:
        """A stack from any mapping; values become text, keys are sorted."""
        return cls(tuple(sorted((str(k), str(v)) for k, v in mapping.items())))

    def as_dict(self) -> dict[str, str]:
        return dict(self.fields)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over the canonical JSON of the fields: the key of a LUT's rows."""
        text = json.dumps(self.fields, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """Short text for tables: target and runtime."""
        known = self.as_dict()
        parts = [known.get("target", ""), known.get("runtime", ""), known.get("runtime_version", "")]
        return " ".join(p for p in parts if p) or self.fingerprint


@dataclass(frozen=True)
class Measurement:
    """One metric of one thing on one stack.

    Attributes:
        metric: name with unit, e.g. `latency_us`.
        value: the estimator's value, in the metric's unit (p5 for host wall time).
        evidence: how it came to be.
        samples: the raw samples in the metric's unit, or quantiles when there were too many to keep.
        unstable: the measuring protocol's gate was not met (docs/lut.md).
        details: more figures and notes, e.g. {"anchor_ratio": "0.31"}; text only.
        taken_at: ISO 8601 time in UTC.
    """

    metric: str
    value: float
    evidence: Evidence
    samples: tuple[float, ...] = ()
    unstable: bool = False
    details: Mapping[str, str] = field(default_factory=dict)
    taken_at: str = ""
