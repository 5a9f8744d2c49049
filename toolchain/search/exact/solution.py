"""What the exact solver answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toolchain.search.exact.certificate import Certificate

Engine = Literal["c", "python"]


@dataclass(frozen=True, slots=True)
class Solution:
    """The best architecture within the budgets.

    Attributes:
        path: arc indices of the model.
        architecture: candidate per choice, -1 where the path does not touch the choice (`ArcFlow.architecture`).
        value: in steps; `score` in the unit of the contributions, base included.
        costs: steps per metric of the model, in its order.
        resources: metric -> amount in its unit, base included; every metric of the model.
        slack: metric with a budget -> what is left of it, in its unit, counted down to whole steps.
        prices: metric with a budget -> shadow price: score per unit of the metric, from the Lagrangian dual (0 for a
            budget that does not bind and for maxima). First-order; exact differences are in `explain.what_if`.
        bound: no architecture within the budgets has a larger value, by weak duality, in steps; `upper` as a score.
        proved: True when the answer is optimal, False when a limit stopped the proof (then `upper` bounds it).
        certificate: what `certificate.verify` checks.
        engine: which code ran.
        labels, arcs_left: how much work it was: partial paths, and arcs that fixing left.
        seconds: wall time of the solve.
    """

    path: tuple[int, ...]
    architecture: tuple[int, ...]
    value: int
    score: float
    costs: tuple[int, ...]
    resources: Mapping[str, float]
    slack: Mapping[str, float]
    prices: Mapping[str, float]
    bound: int
    upper: float
    proved: bool
    certificate: Certificate = field(repr=False)
    engine: Engine
    labels: int
    arcs_left: int
    seconds: float
