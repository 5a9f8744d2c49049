"""What to say when no architecture keeps the budgets: least values, what binds, the nearest design. All exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.search.exact.model import ArcFlow
from toolchain.units import Budget, format_value

Feasible: TypeAlias = Callable[[Sequence[tuple[int, int]]], "tuple[int, ...] | None"]
"""Bounds in steps -> a path that keeps them, or None where it is proved that there is none."""

_PRECISION: Final = 1e-4


def least_path(
    model: ArcFlow, column: int, allowed: npt.NDArray[np.bool_] | None = None
) -> tuple[int, tuple[int, ...]]:
    """The least cost of one metric over all paths, in steps, and a path that has it.

    Raises:
        ConfigurationError: no path leads through the model.
    """
    largest = model.metrics[column].combine == "max"
    best: list[int | None] = [None] * model.nodes
    best[-1] = 0 if not largest else -(2**62)
    chosen = [-1] * model.nodes
    start, end = model.start.tolist(), model.end.tolist()
    costs = model.costs[:, column].tolist()
    for arc in range(model.arcs - 1, -1, -1):
        ahead = best[end[arc]]
        if ahead is None or (allowed is not None and not allowed[arc]):
            continue
        through = max(costs[arc], ahead) if largest else costs[arc] + ahead
        here = best[start[arc]]
        if here is None or through < here:
            best[start[arc]], chosen[start[arc]] = through, arc
    value = best[0]
    if value is None:
        raise ConfigurationError("no path leads through the model: some choice has no candidate in any state")
    node, path = 0, []
    while node != model.nodes - 1:
        path.append(chosen[node])
        node = end[chosen[node]]
    return value, tuple(path)


def explain(
    model: ArcFlow, budgets: Sequence[Budget], allowed: npt.NDArray[np.bool_] | None, feasible: Feasible
) -> InfeasibleError:
    """The error for budgets that no architecture keeps; the caller raises it.

    `least` has every metric of the model. `binding` holds the budgets below their own least value; where each can be
    kept alone, an irreducible set that cannot be kept together (drop any one and there is a design). `nearest` is the
    architecture with the least largest relative violation, to 0.01 %.
    """
    paths = {m.name: least_path(model, j, allowed)[1] for j, m in enumerate(model.metrics)}
    least = {name: model.amounts(model.totals(path)[1])[name] for name, path in paths.items()}
    alone = tuple(b.metric for b in budgets if feasible(model.bounds([b])) is None)
    binding = alone or _irreducible(model, budgets, feasible)
    nearest = _nearest(model, budgets, [paths[b.metric] for b in budgets], feasible)
    costs = model.amounts(model.totals(nearest)[1])
    bounds = {b.metric: b.bound for b in budgets}
    if alone:
        said = "; ".join(
            f"{m} cannot be below {format_value(m, least[m])}, the budget is {format_value(m, bounds[m])}"
            for m in alone
        )
        message = f"no architecture of the space keeps the budgets: {said}"
    else:
        said = " and ".join(f"{m} <= {format_value(m, bounds[m])}" for m in binding)
        message = f"no architecture keeps {said} together, though each can be kept alone (proved)"
    over = ", ".join(
        f"{b.metric} {format_value(b.metric, costs[b.metric])} (+{100 * (costs[b.metric] / b.bound - 1):.1f} %)"
        for b in budgets
        if costs[b.metric] > b.bound
    )
    return InfeasibleError(
        message,
        remedy=f"the nearest design needs {over}: allow that, or widen the space" if over else "",
        least=least,
        binding=binding,
        nearest=model.architecture(nearest),
        nearest_costs=costs,
    )


def _irreducible(model: ArcFlow, budgets: Sequence[Budget], feasible: Feasible) -> tuple[str, ...]:
    kept = list(budgets)
    for budget in budgets:
        rest = [b for b in kept if b is not budget]
        if rest and feasible(model.bounds(rest)) is None:
            kept = rest
    return tuple(b.metric for b in kept)


def _nearest(
    model: ArcFlow, budgets: Sequence[Budget], starts: Sequence[tuple[int, ...]], feasible: Feasible
) -> tuple[int, ...]:
    def violation(path: tuple[int, ...]) -> float:
        costs = model.amounts(model.totals(path)[1])
        return max(costs[b.metric] / b.bound - 1 for b in budgets)

    best = min(starts, key=violation)
    low, high = 0.0, violation(best)
    while high - low > _PRECISION * (1 + high):
        middle = (low + high) / 2
        path = feasible(model.bounds([Budget(b.metric, b.bound * (1 + middle)) for b in budgets]))
        if path is None:
            low = middle
        else:
            best = min(best, path, key=violation)
            high = min(middle, violation(best))
    return best
