"""Which architectures keep all budgets, how to reach one, and what to say when there is none.

Works on any `CostModel` through its protocol alone. A space of up to `ENUMERABLE` architectures is enumerated, so
that the answer is a proof; a larger one is searched (least values, swap descent, then a vectorised evolution of the
largest relative violation). Each single budget is proved either way, by `CostModel.least`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.search.protocols import Architecture, CostModel, Floats, Ints, PlanningCostModel
from toolchain.units import Budget, format_value

ENUMERABLE: Final = 200_000
"""Spaces with at most this many tuples of indices are enumerated instead of searched."""

_CHUNK: Final = 65_536
_POPULATION: Final = 256
_GENERATIONS: Final = 60
_STALE: Final = 15
_RESTARTS: Final = 2
_WALKS: Final = 12


@dataclass(frozen=True, slots=True)
class Limits:
    """Budgets lined up with the columns of a cost model.

    Attributes:
        budgets: one per metric.
        columns: (budgets,) column of each budget's metric in `CostModel.price`.
        bounds: (budgets,) the bounds, in the metrics' units.
    """

    budgets: tuple[Budget, ...]
    columns: Ints
    bounds: Floats

    @classmethod
    def of(cls, cost: CostModel, budgets: Sequence[Budget]) -> Limits:
        """Find each budget's column.

        Raises:
            ConfigurationError: a budget's metric is not in the cost model, or two budgets are on one metric.
        """
        metrics = [b.metric for b in budgets]
        unknown = [m for m in metrics if m not in cost.metrics]
        if unknown:
            raise ConfigurationError(
                f"the cost model has no {', '.join(unknown)}; it has {', '.join(cost.metrics)}",
                remedy="profile that metric, or remove the budget",
            )
        if len(set(metrics)) < len(metrics):
            raise ConfigurationError(f"two budgets on one metric: {', '.join(sorted(metrics))}")
        return cls(
            tuple(budgets),
            np.array([cost.metrics.index(m) for m in metrics], dtype=np.int64),
            np.array([b.bound for b in budgets], dtype=np.float64),
        )

    def violations(self, prices: Floats) -> Floats:
        """(n, metrics) prices -> (n, budgets) relative violations (c - b) / b, 0 where kept, inf where not valid."""
        over = (prices[:, self.columns] - self.bounds) / self.bounds
        return np.maximum(over, 0.0)

    def keeps(self, prices: Floats) -> npt.NDArray[np.bool_]:
        """(n, metrics) prices -> (n,) True where every budget is kept (equal counts) and the architecture is valid."""
        within = np.concatenate([np.isfinite(prices), prices[:, self.columns] <= self.bounds], axis=1)
        mask: npt.NDArray[np.bool_] = np.logical_and.reduce(within, axis=1)
        return mask


@dataclass(frozen=True, slots=True)
class Nearest:
    """The valid architecture with the least largest relative violation that was found.

    Attributes:
        architecture: candidate indices.
        violation: its largest relative violation, 0 when it keeps all budgets.
        proven: True when the whole space was enumerated: nothing is nearer.
    """

    architecture: Architecture
    violation: float
    proven: bool


def feasible(cost: CostModel, architectures: Ints, budgets: Sequence[Budget]) -> npt.NDArray[np.bool_]:
    """(n, choices) architectures -> (n,) True where valid and within every budget by the cost model."""
    return Limits.of(cost, budgets).keeps(cost.price(architectures))


def price_one(cost: CostModel, architecture: Architecture) -> dict[str, float]:
    """Metric -> value of one architecture by the cost model."""
    row = cost.price(np.array([architecture], dtype=np.int64))[0]
    return {metric: float(value) for metric, value in zip(cost.metrics, row, strict=True)}


def find_feasible(
    cost: CostModel,
    budgets: Sequence[Budget],
    rng: np.random.Generator,
    start: Architecture | None = None,
) -> Architecture | None:
    """One architecture within every budget, or None when none was found (see `nearest_design` for the proof).

    Args:
        cost: the cost model.
        budgets: at most one per metric.
        rng: decides ties of the evolution on large spaces.
        start: a valid architecture to start from; the result stays close to it where swap descent gets through.
    """
    limits = Limits.of(cost, budgets)
    if start is not None:
        end, key = descend(cost, limits, start)
        if key[0] == 0:
            return end
    nearest = nearest_design(cost, budgets, rng)
    return nearest.architecture if nearest.violation == 0 else None


def descend(cost: CostModel, limits: Limits, start: Architecture) -> tuple[Architecture, tuple[float, float]]:
    """Best single swap after best single swap, by largest then summed relative violation, until none is better.

    Returns:
        the last architecture and its (largest, summed) relative violation; (0, 0) means feasible.
    """
    current = start
    here = cost.price(np.array([start], dtype=np.int64))
    key = _keys(limits, here)[0]
    while key[0] > 0:
        best: tuple[tuple[float, float], float, int, int] | None = None
        for choice, rows in enumerate(cost.swaps(current)):
            prices = np.asarray(rows)
            for candidate, its_key in enumerate(_keys(limits, prices)):
                # Among swaps that help alike (all those that reach feasibility), the one that changes least.
                if its_key < key and (best is None or its_key <= best[0]):
                    found = (its_key, _change(limits, prices[candidate], here[0]), choice, candidate)
                    best = found if best is None else min(best, found)
        if best is None:
            break
        key, _, choice, candidate = best
        current = (*current[:choice], candidate, *current[choice + 1 :])
        here = cost.price(np.array([current], dtype=np.int64))
    return current, key


def nearest_design(cost: CostModel, budgets: Sequence[Budget], rng: np.random.Generator) -> Nearest:
    """The architecture with the least largest relative violation; a feasible one where one is found.

    Ties go to the smaller sum of violations. Spaces of up to `ENUMERABLE` index tuples are enumerated.

    Args:
        cost: the cost model.
        budgets: at most one per metric.
        rng: makes the search on large spaces repeatable.
    """
    limits = Limits.of(cost, budgets)
    least = cost.least()
    names = [b.metric for b in budgets] or list(least)
    starts = list(dict.fromkeys(tuple(least[name][1]) for name in names))
    best, key = starts[0], (math.inf, math.inf)
    for start in starts:
        end, end_key = descend(cost, limits, start)
        if end_key < key:
            best, key = end, end_key
    sizes = [len(rows) for rows in cost.swaps(starts[0])]
    enumerable = math.prod(sizes) <= ENUMERABLE
    if key[0] == 0:
        return Nearest(best, 0.0, enumerable)
    if enumerable:
        for block in _all_tuples(sizes):
            best, key = _better(limits, cost, block, best, key)
        return Nearest(best, key[0], True)
    for _ in range(_RESTARTS):
        best, key = _evolve_violation(cost, limits, sizes, starts, best, key, rng)
        if key[0] == 0:
            break
    return Nearest(best, key[0], False)


def random_walk(
    cost: CostModel, limits: Limits, start: Architecture, rng: np.random.Generator, sweeps: int = 1
) -> Architecture:
    """From one architecture to a random one through swaps: each choice, in random order, is redrawn uniformly.

    From a feasible start every step stays feasible; from another, every step stays valid. So it needs no rejection.
    """
    current = start
    inside = bool(limits.keeps(cost.price(np.array([start], dtype=np.int64)))[0])
    for _ in range(sweeps):
        for choice in rng.permutation(len(start)):
            prices = np.asarray(cost.swaps(current)[choice])
            allowed = np.flatnonzero(limits.keeps(prices) if inside else np.isfinite(prices).all(axis=1))
            if len(allowed):
                current = (*current[:choice], int(rng.choice(allowed)), *current[choice + 1 :])
    return current


def feasible_neighbours(cost: CostModel, limits: Limits, start: Architecture) -> Iterator[Architecture]:
    """Feasible architectures near `start`: itself, then its feasible single swaps, the least change in cost first.

    The change is the largest relative difference over the budgets' metrics.
    """
    here = cost.price(np.array([start], dtype=np.int64))
    if limits.keeps(here)[0]:
        yield start
    found: list[tuple[float, Architecture]] = []
    for choice, rows in enumerate(cost.swaps(start)):
        prices = np.asarray(rows)
        for candidate in np.flatnonzero(limits.keeps(prices)):
            if candidate != start[choice]:
                swapped = (*start[:choice], int(candidate), *start[choice + 1 :])
                found.append((_change(limits, prices[candidate], here[0]), swapped))
    yield from (swapped for _, swapped in sorted(found))


def require_feasible(cost: CostModel, budgets: Sequence[Budget], rng: np.random.Generator) -> Architecture:
    """One feasible architecture.

    Raises:
        InfeasibleError: none exists or none was found; see `explain_infeasible`.
    """
    nearest = nearest_design(cost, budgets, rng)
    if nearest.violation > 0:
        raise explain_infeasible(cost, budgets, rng, nearest)
    return nearest.architecture


def explain_infeasible(
    cost: CostModel, budgets: Sequence[Budget], rng: np.random.Generator, nearest: Nearest | None = None
) -> InfeasibleError:
    """The error that says why no architecture keeps the budgets; the caller raises it.

    `binding` holds the metrics whose least value is above the bound; where each budget can be kept alone, an
    irreducible set of budgets that cannot be kept together (deletion filter: drop any one and a design is found).

    Args:
        cost: the cost model.
        budgets: the budgets that were found infeasible.
        rng: for the searches on large spaces.
        nearest: result of `nearest_design`, when the caller has it.
    """
    least = {metric: float(value) for metric, (value, _) in cost.least().items()}
    nearest = nearest or nearest_design(cost, budgets, rng)
    costs = price_one(cost, nearest.architecture)
    alone = tuple(b.metric for b in budgets if least[b.metric] > b.bound)
    binding = alone or _irreducible(cost, budgets, rng)
    bounds = {b.metric: b.bound for b in budgets}
    if alone:
        said = "; ".join(
            f"{m} cannot be below {format_value(m, least[m])}, the budget is {format_value(m, bounds[m])}"
            for m in alone
        )
        message = f"no architecture of the space keeps the budgets: {said}"
    else:
        said = " and ".join(f"{m} <= {format_value(m, bounds[m])}" for m in binding)
        how = "every architecture was priced" if nearest.proven else "none found by search, not proved"
        message = f"no architecture keeps {said} together, though each can be kept alone ({how})"
    return InfeasibleError(
        message,
        remedy=_remedy(costs, budgets),
        least=least,
        binding=binding,
        nearest=nearest.architecture,
        nearest_costs=costs,
    )


def _remedy(costs: Mapping[str, float], budgets: Sequence[Budget]) -> str:
    over = [
        f"{b.metric} {format_value(b.metric, costs[b.metric])} (+{100 * (costs[b.metric] / b.bound - 1):.1f} %)"
        for b in budgets
        if costs[b.metric] > b.bound
    ]
    return f"the nearest design needs {', '.join(over)}: allow that, or widen the space"


def _irreducible(cost: CostModel, budgets: Sequence[Budget], rng: np.random.Generator) -> tuple[str, ...]:
    kept = list(budgets)
    for budget in budgets:
        rest = [b for b in kept if b is not budget]
        free = cost.keeping([b.metric for b in rest]) if isinstance(cost, PlanningCostModel) else cost
        if rest and find_feasible(free, rest, rng) is None:
            kept = rest
    return tuple(b.metric for b in kept)


def _change(limits: Limits, prices: Floats, before: Floats) -> float:
    """Largest difference between two rows of prices over the budgets' metrics, in shares of the bounds."""
    moved = np.abs(prices[limits.columns] - before[limits.columns]) / limits.bounds
    return float(moved.max(initial=0.0))


def _keys(limits: Limits, prices: Floats) -> list[tuple[float, float]]:
    over = limits.violations(prices)
    over[~np.isfinite(prices).all(axis=1)] = np.inf
    return list(zip(over.max(axis=1, initial=0.0).tolist(), over.sum(axis=1).tolist(), strict=True))


def _better(
    limits: Limits, cost: CostModel, block: Ints, best: Architecture, key: tuple[float, float]
) -> tuple[Architecture, tuple[float, float]]:
    keys = _keys(limits, cost.price(block))
    first = min(range(len(keys)), key=keys.__getitem__)
    if keys[first] < key:
        return tuple(int(i) for i in block[first]), keys[first]
    return best, key


def _all_tuples(sizes: Sequence[int]) -> Iterator[Ints]:
    """All index tuples in lexicographic order, in blocks."""
    total = math.prod(sizes)
    for begin in range(0, total, _CHUNK):
        ranks = np.arange(begin, min(begin + _CHUNK, total))
        yield np.stack(np.unravel_index(ranks, tuple(sizes)), axis=1).astype(np.int64)


def _evolve_violation(
    cost: CostModel,
    limits: Limits,
    sizes: Sequence[int],
    starts: Sequence[Architecture],
    best: Architecture,
    key: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Architecture, tuple[float, float]]:
    """A plain evolution of (largest, summed) violation; whole generations are priced at once."""
    length, counts = len(sizes), np.array(sizes)
    walks = [random_walk(cost, limits, starts[i % len(starts)], rng) for i in range(_WALKS)]
    drawn = rng.integers(0, counts, size=(_POPULATION, length))
    population = np.concatenate([np.array([best, *starts, *walks], dtype=np.int64), drawn])
    stale = 0
    for _ in range(_GENERATIONS):
        population = np.unique(population, axis=0)
        over = limits.violations(cost.price(population))
        order = np.lexsort((over.sum(axis=1), over.max(axis=1)))[:_POPULATION]
        population = population[order]
        top = (float(over[order[0]].max()), float(over[order[0]].sum()))
        if top < key:
            best, key, stale = tuple(int(i) for i in population[0]), top, 0
        else:
            stale += 1
        if key[0] == 0 or stale >= _STALE:
            break
        # Better ones breed more: the square of a uniform number leans towards the front.
        parents = (rng.random((2, _POPULATION)) ** 2 * len(population)).astype(np.int64)
        crossed = np.where(
            rng.random((_POPULATION, length)) < 0.5, population[parents[0]], population[parents[1]]
        )
        mutate = rng.random((_POPULATION, length)) < 1.5 / length
        children = np.where(mutate, rng.integers(0, counts, size=(_POPULATION, length)), crossed)
        population = np.concatenate([population, children])
    end, end_key = descend(cost, limits, best)
    return (end, end_key) if end_key < key else (best, key)
