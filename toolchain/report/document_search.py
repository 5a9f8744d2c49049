"""What a report's document says of the search: its course, why the network is as it is, and the rounds of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolchain.report.number import Number


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the space beside others.

    Attributes:
        text: as people read it.
        score: its accuracy, by the search's own evaluation; None where none is known.
        predicted, measured: metric -> number; measured on the target as a whole network.
        chosen: the answer.
    """

    text: str
    score: Number | None
    predicted: Mapping[str, Number]
    measured: Mapping[str, Number] = field(default_factory=dict)
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a gradient search: accuracy of the mixture (0 to 1), per metric least, middle and greatest cost of
    its networks, share of steps within the budgets, entropy of the choices in nats."""

    epoch: int
    accuracy: float | None
    candidate: float | None
    costs: Mapping[str, tuple[float, float, float]]
    kept: float
    entropy: float | None


@dataclass(frozen=True, slots=True)
class Course:
    """How the network was found."""

    method: str
    seed: int
    evaluations: int
    seconds: float
    repaired: bool
    epochs: tuple[Epoch, ...]
    networks: tuple[Network, ...]
    front: tuple[tuple[float, float], ...]
    front_metric: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a design choice adds to the accuracy, on average over blocks (BINAS); value and error are shares."""

    what: str
    number: Number


@dataclass(frozen=True, slots=True)
class Worth:
    """What more of a budget buys: bound, the trial's bound, and the accuracy that the exact optimum then gains."""

    metric: str
    bound: Number
    more: Number
    gain: Number


@dataclass(frozen=True, slots=True)
class Swap:
    """One other candidate at one choice: the network's costs with it, and which budgets that would break."""

    candidate: str
    costs: Mapping[str, Number]
    breaks: tuple[str, ...]
    chosen: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """A choice of the winner beside the other candidates that could stand there."""

    choice: str
    chosen: str
    swaps: tuple[Swap, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """Why the network is as it is.

    Attributes:
        effects: what properties pay. worth: what larger budgets buy. proof: one sentence, or empty.
        kendall, spearman, ranked: agreement of predicted and measured accuracies on so many random networks.
        reasons: per choice, what the others would cost.
    """

    effects: tuple[Effect, ...]
    worth: tuple[Worth, ...]
    proof: str
    kendall: float | None
    spearman: float | None
    ranked: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the loop: candidates measured as whole networks, mean error of their predictions, and what followed
    from it. `correction` is as the table keeps it: metric -> its fields."""

    round: int
    seconds: float | None
    networks: tuple[Network, ...]
    errors_percent: Mapping[str, float]
    correction: Mapping[str, Any]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The loop: its rounds, the tolerance (metric -> per cent), whether it settled, and why it ended."""

    rounds: tuple[Round, ...]
    tolerance: Mapping[str, float]
    limit: int | None
    settled: bool
    why: str
