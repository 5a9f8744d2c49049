"""What a report's document says of one target: the network's operators and memory there, and the lookup table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolchain.report.number import Number


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of the winner: its signature, which step it is, and its cost measured alone.

    Attributes:
        time: the same in microseconds, where the target counts cycles at a known clock.
        how: what computes it, where the target has several ways, e.g. "winograd"; may be empty.
    """

    step: int
    signature: str
    number: Number | None
    time: Number | None = None
    how: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor or scratch memory in the arena: bytes [offset, offset + size) from step `first` to step `last`."""

    name: str
    offset: int
    size: int
    first: int
    last: int
    scratch: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory over time of the winner.

    Attributes:
        method: whose plan it is. steps: what runs at each step, from step 1 on. arena: of the plan, in bytes.
        bound: no plan of these lifetimes is smaller. live: bytes that are needed at each step, from step 0 on.
        device: what the device reports as its arena; None where it reports none.
    """

    method: str
    steps: tuple[str, ...]
    places: tuple[Place, ...]
    arena: Number
    bound: Number
    live: tuple[int, ...]
    device: Number | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole network, predicted and measured, that calibrated or judged the sums of operators."""

    text: str
    predicted: Number
    measured: Number


@dataclass(frozen=True, slots=True)
class Kind:
    """How many operators of a kind the space has, and how many of them are measured, predicted, failed, unstable."""

    kind: str
    operators: int
    measured: int
    predicted: int
    failed: int
    unstable: int


@dataclass(frozen=True, slots=True)
class Table:
    """What the lookup table knows of the space on one target, and how far its sums are off.

    Attributes:
        mape: mean error of predictions on held-out networks, per cent. method: how that was found.
        networks: behind it. predicted_error: of operators without a row, per cent, cross-validated.
        formula: how a sum becomes a network's cost, in words; empty where nothing is corrected.
        history: (time, text) of each calibration, the oldest first.
    """

    metric: str
    kinds: tuple[Kind, ...]
    failures: tuple[tuple[str, str], ...]
    mape: float | None
    method: str
    networks: int
    spearman: float | None
    predicted_error: float | None
    samples: tuple[Sample, ...]
    formula: str
    history: tuple[tuple[str, str], ...]
    first_row: str = ""
    last_row: str = ""

    @property
    def measured(self) -> int:
        """Measured operators of the space."""
        return sum(kind.measured for kind in self.kinds)

    @property
    def operators(self) -> int:
        """Operators of the space."""
        return sum(kind.operators for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Target:
    """One target: what it is, and the winner on it.

    Attributes:
        note: what every figure must be read with, e.g. that no hardware was used.
        metric: what the target measures; `steps` and `overhead` (what a run costs beside its operators, where that was
            measured) have it.
        details: what the device reported beside its figures.
    """

    name: str
    url: str
    precision: str
    stack: str
    note: str
    place: str
    model: str
    metric: str
    steps: tuple[Step, ...]
    overhead: Number | None
    memory: Memory | None
    table: Table | None
    details: Mapping[str, str] = field(default_factory=dict)
    slowdown: float | None = None
