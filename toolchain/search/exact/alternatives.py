"""Around an optimum: the next best designs, what more or less budget changes exactly, and sweeps over budgets."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.search.exact.model import ArcFlow
from toolchain.search.exact.solution import Engine, Solution
from toolchain.search.exact.solver import solve, solve_or_none
from toolchain.units import Budget


@dataclass(frozen=True, slots=True)
class Change:
    """What a different budget does.

    Attributes:
        metric: the budget that is changed.
        amount: by how much, in the metric's unit.
        gain: score gained (never negative for more budget); None where no design keeps the changed budgets.
        solution: the optimum under the changed budgets, or None.
    """

    metric: str
    amount: float
    gain: float | None
    solution: Solution | None


def best_designs(
    model: ArcFlow, budgets: Sequence[Budget], count: int, *, engine: Engine | None = None
) -> list[Solution]:
    """The `count` best architectures within the budgets, best first; fewer where there are no more. Exact.

    Lawler's scheme: the paths other than those found fall into disjoint sets ("as path p up to some arc, then any
    other arc"), each of which has its own optimum; the best of these is next. Parallel arcs of one candidate (a block
    under several plans) count as one arc: what is fixed or barred is the candidate, so no architecture comes twice.

    Raises:
        InfeasibleError: no architecture keeps the budgets.
        ConfigurationError: count < 1.
    """
    if count < 1:
        raise ConfigurationError(f"count is {count}; it must be at least 1")
    first = solve(model, budgets, engine=engine)
    kinds = np.stack([model.start, model.end, model.choice, model.candidate])
    _, group = np.unique(kinds, axis=1, return_inverse=True)
    group = group.reshape(-1)
    # (-value, order, solution, arcs of the path that are fixed, groups of arcs barred at the node behind them)
    waiting: list[tuple[int, int, Solution, int, frozenset[int]]] = [(-first.value, 0, first, 0, frozenset())]
    found: list[Solution] = []
    made = 1
    while waiting and len(found) < count:
        _, _, solution, fixed, barred = heapq.heappop(waiting)
        found.append(solution)
        if len(found) == count:
            break
        for position in range(fixed, len(solution.path)):
            closed = {int(group[solution.path[position]])} | (barred if position == fixed else set())
            allowed = np.ones(model.arcs, np.bool_)
            for arc in solution.path[:position]:
                there = slice(model.first[model.start[arc]], model.first[model.start[arc] + 1])
                allowed[there] = group[there] == group[arc]
            node = model.start[solution.path[position]]
            there = slice(model.first[node], model.first[node + 1])
            allowed[there] = ~np.isin(group[there], list(closed))
            if not allowed[there].any():
                continue
            other = solve_or_none(model, budgets, allowed=allowed, engine=engine)
            if other is not None:
                heapq.heappush(waiting, (-other.value, made, other, position, frozenset(closed)))
                made += 1
    return found


def what_if(
    model: ArcFlow,
    budgets: Sequence[Budget],
    changes: Mapping[str, float],
    *,
    engine: Engine | None = None,
) -> list[Change]:
    """What one more (or less) millisecond or kilobyte is worth, exactly, by solving again: one budget at a time.

    Args:
        model, budgets: as for `solve`.
        changes: metric with a budget -> amount to add to it, in its unit; negative to tighten.

    Raises:
        InfeasibleError: no architecture keeps the unchanged budgets.
        ConfigurationError: a metric without a budget.
    """
    base = solve(model, budgets, engine=engine)
    bounds = {b.metric: b.bound for b in budgets}
    found = []
    for metric, amount in changes.items():
        if metric not in bounds:
            raise ConfigurationError(
                f"{metric} has no budget to change; there are {', '.join(bounds) or 'none'}"
            )
        if bounds[metric] + amount <= 0:
            found.append(Change(metric, amount, None, None))
            continue
        changed = [Budget(b.metric, b.bound + (amount if b.metric == metric else 0.0)) for b in budgets]
        solution = solve_or_none(model, changed, engine=engine)
        gain = None if solution is None else float((solution.value - base.value) * model.value_unit)
        found.append(Change(metric, amount, gain, solution))
    return found


def sweep(
    model: ArcFlow,
    budgets: Sequence[Budget],
    metric: str,
    bounds: Sequence[float],
    *,
    engine: Engine | None = None,
) -> list[Solution | None]:
    """The optimum for each bound on `metric`, the other budgets as given; None where there is none.

    For fronts under several additive budgets, and for models too large for `pareto_front`.
    """
    others = [b for b in budgets if b.metric != metric]
    return [solve_or_none(model, [*others, Budget(metric, bound)], engine=engine) for bound in bounds]
