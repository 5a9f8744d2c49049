"""From ranked candidates to the one that is returned: only what the exact checker passes, repaired where needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.search.feasibility import (
    Limits,
    explain_infeasible,
    feasible_neighbours,
    find_feasible,
    nearest_design,
    price_one,
    random_walk,
)
from toolchain.search.protocols import Architecture, CostModel, ExactChecker
from toolchain.units import Budget, format_value

MAX_CHECKS: Final = 100
"""Exact checks spent on repair before giving up; each may lower, quantise and write a network."""

_POOL: Final = 8
_ROUNDS: Final = 20
_WALKS: Final = 10


@dataclass(frozen=True, slots=True)
class Chosen:
    """The pick.

    Attributes:
        architecture: keeps every budget, by the cost model and by the checker.
        exact: the checker's values; empty without a checker.
        repaired: True when it is none of the ranked candidates.
    """

    architecture: Architecture
    exact: Mapping[str, float]
    repaired: bool


def choose(
    cost: CostModel,
    budgets: Sequence[Budget],
    ranked: Sequence[Architecture],
    checker: ExactChecker | None,
    rng: np.random.Generator,
    *,
    start: Architecture | None = None,
    score: Callable[[Architecture], float] | None = None,
) -> Chosen:
    """The first ranked candidate that passes; else a feasible one near the best, else any feasible one.

    Where the checker finds more than the cost model predicted, the repair searches under budgets tightened by that
    ratio, so a cost model that is some per cent too low does not send it in circles. At most `MAX_CHECKS` exact
    checks are spent on the repair.

    Args:
        cost: the cost model; ranked candidates over a budget by it are passed over.
        budgets: at most one per metric.
        ranked: the searcher's candidates, best first.
        checker: prices the real graph and file; None accepts the cost model's word.
        rng: makes the repair repeatable.
        start: where the repair starts when no candidate is ranked (any valid architecture).
        score: larger is better; decides among the first few repaired designs that pass.

    Raises:
        InfeasibleError: no architecture keeps the budgets, or none of those checked passes exactly.
        ConfigurationError: the checker does not give a metric that has a budget.
    """
    limits = Limits.of(cost, budgets)
    check = _Check(cost, limits, checker)
    ranked = [a for a in dict.fromkeys(ranked) if limits.keeps(cost.price(np.array([a])))[0]]
    for architecture in ranked:
        if check(architecture):
            return Chosen(architecture, check.exact[architecture], False)

    check.left = MAX_CHECKS
    origin = ranked[0] if ranked else start
    for source in (_near(cost, check, origin, rng), _anywhere(cost, check, rng)):
        passing = list(islice((a for a in source if check(a)), _POOL if score else 1))
        if passing:
            best = max(passing, key=score) if score else passing[0]
            return Chosen(best, check.exact[best], True)
    if not check.exact:
        raise explain_infeasible(cost, budgets, rng)
    raise check.error()


class _Check:
    """Exact checks with memory: what failed by how much tightens the budgets for the repair."""

    def __init__(self, cost: CostModel, limits: Limits, checker: ExactChecker | None) -> None:
        self.cost, self.limits, self.checker = cost, limits, checker
        self.exact: dict[Architecture, Mapping[str, float]] = {}
        self.left: int | None = None
        self.tightest = {b.metric: 1.0 for b in limits.budgets}

    def __call__(self, architecture: Architecture) -> bool:
        """True when the architecture passes. False when it does not, was checked before, or no checks are left."""
        if architecture in self.exact or self.left == 0:
            return False
        if self.left is not None:
            self.left -= 1
        values = dict(self.checker(architecture)) if self.checker else {}
        self.exact[architecture] = values
        if self.checker is None:
            return True
        missing = [b.metric for b in self.limits.budgets if b.metric not in values]
        if missing:
            raise ConfigurationError(f"the exact checker gives no {', '.join(missing)}, which has a budget")
        broken = [b.metric for b in self.limits.budgets if not b.keeps(values[b.metric])]
        if broken:
            predicted = price_one(self.cost, architecture)
            for metric in broken:
                if np.isfinite(values[metric]) and 0 < predicted[metric] < values[metric]:
                    ratio = predicted[metric] / values[metric]
                    self.tightest[metric] = min(self.tightest[metric], ratio)
        return not broken

    def tightened(self) -> list[Budget]:
        return [Budget(b.metric, b.bound * self.tightest[b.metric]) for b in self.limits.budgets]

    def error(self) -> InfeasibleError:
        """Every checked architecture keeps the budgets by the cost model, and none does exactly."""

        def worst(values: Mapping[str, float]) -> float:
            return max((values[b.metric] - b.bound) / b.bound for b in self.limits.budgets)

        nearest = min(self.exact, key=lambda a: (worst(self.exact[a]), a))
        costs = self.exact[nearest]
        broken = [b for b in self.limits.budgets if not b.keeps(costs[b.metric])]
        said = ", ".join(
            f"{b.metric} {format_value(b.metric, costs[b.metric])} of {format_value(b.metric, b.bound)}"
            for b in broken
        )
        return InfeasibleError(
            f"{len(self.exact)} architectures that keep the budgets by the cost model were checked exactly, and "
            f"none keeps them; the nearest has {said}",
            remedy="allow what the nearest needs, or calibrate the cost model on this target",
            least={metric: float(value) for metric, (value, _) in self.cost.least().items()},
            binding=tuple(b.metric for b in broken),
            nearest=nearest,
            nearest_costs=costs,
        )


def _near(
    cost: CostModel, check: _Check, origin: Architecture | None, rng: np.random.Generator
) -> Iterator[Architecture]:
    """Feasible designs near `origin`, each round under budgets as tight as the last checks showed."""
    for _ in range(_ROUNDS):
        budgets = check.tightened()
        base = find_feasible(cost, budgets, rng, origin)
        if base is None:
            return
        for architecture in feasible_neighbours(cost, Limits.of(cost, budgets), base):
            yield architecture
            if check.tightened() != budgets:
                break  # the cost model is lower than the checker: aim lower before spending more checks
        else:
            return
        origin = base


def _anywhere(cost: CostModel, check: _Check, rng: np.random.Generator) -> Iterator[Architecture]:
    """Random feasible designs, and those of least cost."""
    for budgets in (check.tightened(), list(check.limits.budgets)):
        nearest = nearest_design(cost, budgets, rng)
        if nearest.violation == 0:
            yield nearest.architecture
            limits = Limits.of(cost, budgets)
            for _ in range(_WALKS):
                yield random_walk(cost, limits, nearest.architecture, rng)
    for _, architecture in cost.least().values():
        if check.limits.keeps(cost.price(np.array([architecture])))[0]:
            yield tuple(architecture)
