"""The whole Pareto front of score against one additive cost: every optimum of every budget in one pass.

Nemhauser and Ullmann's dynamic program on the layered graph: per node the undominated (cost, value) pairs of all
partial paths, merged over the arcs that come in. Works with coupled channels, where nodes are (position, state).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.search.exact.model import ArcFlow
from toolchain.search.exact.solver import restricted
from toolchain.search.protocols import Floats, Ints
from toolchain.units import Budget

_Points = tuple[Ints, Ints]


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """A Pareto front, cost and value both rising.

    Attributes:
        model, metric: what it belongs to.
        costs, values: (points,) int64 steps.
        error: how much score a point may miss at most (0: the front is exact and complete).
    """

    model: ArcFlow
    metric: str
    costs: Ints
    values: Ints
    error: float
    _nodes: tuple[_Points, ...] = field(repr=False)
    _alive: npt.NDArray[np.bool_] = field(repr=False)

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def amounts(self) -> Floats:
        """(points,) cost in the metric's unit, base included."""
        metric = self.model.metrics[self.model.column(self.metric)]
        return np.array([metric.amount(c) for c in self.costs.tolist()])

    @property
    def scores(self) -> Floats:
        """(points,) score, base included."""
        return np.array([self.model.score(v) for v in self.values.tolist()])

    def at(self, budget: Budget) -> int | None:
        """Index of the best point within a budget on the front's metric, or None where even the first is above.

        Raises:
            ConfigurationError: a budget on another metric.
        """
        if budget.metric != self.metric:
            raise ConfigurationError(f"the front is over {self.metric}, the budget on {budget.metric}")
        limit = self.model.metrics[self.model.column(self.metric)].steps(budget.bound)
        index = int(np.searchsorted(self.costs, limit, side="right")) - 1
        return None if index < 0 else index

    def path(self, index: int) -> tuple[int, ...]:
        """The arcs of a point, found by going backward through the nodes' fronts; the first that fits."""
        column = self.model.column(self.metric)
        cost, value = int(self.costs[index]), int(self.values[index])
        node, path = self.model.nodes - 1, []
        into = np.argsort(self.model.end, kind="stable")
        ends = self.model.end[into]
        while node:
            low, high = np.searchsorted(ends, [node, node + 1])
            for arc in into[low:high].tolist():
                if not self._alive[arc]:
                    continue
                c = cost - int(self.model.costs[arc, column])
                v = value - int(self.model.value[arc])
                costs, values = self._nodes[int(self.model.start[arc])]
                at = int(np.searchsorted(costs, c))
                if at < len(costs) and costs[at] == c and values[at] == v:
                    path.append(arc)
                    node, cost, value = int(self.model.start[arc]), c, v
                    break
            else:  # pragma: no cover - every point came over some arc
                raise AssertionError("a point of the front has no path")
        return tuple(reversed(path))

    def architecture(self, index: int) -> tuple[int, ...]:
        """The candidates of a point's path (`ArcFlow.architecture`)."""
        return self.model.architecture(self.path(index))


def pareto_front(
    model: ArcFlow,
    metric: str,
    *,
    budgets: Sequence[Budget] = (),
    epsilon: float = 0.0,
) -> Front:
    """All undominated (cost, score) pairs of one additive metric.

    Args:
        model: the space in integers.
        metric: the cost, a sum.
        budgets: on maxima (peak RAM), which delete arcs, and on `metric` itself, which cuts the front off. Budgets on
            other sums make it a problem with two costs: solve a sweep instead.
        epsilon: score by which a partial path must beat the cheaper ones to be kept. 0 gives the exact complete
            front; otherwise a point may miss at most `Front.error` = epsilon * arcs of the longest path.

    Raises:
        ConfigurationError: a metric that is a maximum, a budget on another sum, or a negative epsilon.
    """
    column = model.column(metric)
    if model.metrics[column].combine != "sum":
        raise ConfigurationError(f"{metric} is a maximum: a front is over a sum")
    if epsilon < 0:
        raise ConfigurationError(f"epsilon is {epsilon}; it must not be negative")
    alive, columns, limits = restricted(model, model.bounds(budgets))
    if any(c != column for c in columns):
        raise ConfigurationError(
            f"a front over {metric} cannot hold a budget on another sum", remedy="use `sweep` over budgets"
        )
    skip = int(epsilon / float(model.value_unit))
    after = _least_after(model, column, alive)
    limit = int(limits[0]) if len(limits) else 2**62
    arriving: list[list[_Points]] = [[] for _ in range(model.nodes)]
    nodes: list[_Points] = []
    empty: _Points = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    arriving[0] = [(np.zeros(1, np.int64), np.zeros(1, np.int64))]
    depth = np.zeros(model.nodes, np.int64)
    for node in range(model.nodes):
        parts = arriving[node]
        arriving[node] = []
        if not parts:
            nodes.append(empty)
            continue
        if len(parts) > 1:
            here = _undominated(
                np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), skip
            )
        else:
            here = parts[0]
        if limit < 2**62:
            within = here[0] + after[node] <= limit
            here = here[0][within], here[1][within]
        nodes.append(here)
        arcs = np.arange(model.first[node], model.first[node + 1])
        arcs = arcs[alive[arcs] & (after[model.end[arcs]] < 2**62)]
        ends = model.end[arcs]
        for end in np.unique(ends).tolist():
            parallel = arcs[ends == end]
            costs, values = _undominated(model.costs[parallel, column], model.value[parallel], 0)
            depth[end] = max(depth[end], depth[node] + 1)
            both = (
                (here[0][None, :] + costs[:, None]).ravel(),
                (here[1][None, :] + values[:, None]).ravel(),
            )
            arriving[end].append(both if len(costs) == 1 else _undominated(*both, skip))
    error = float(skip * model.value_unit) * 2 * int(depth[-1])
    return Front(model, metric, *nodes[-1], error, tuple(nodes), alive)


def _undominated(costs: Ints, values: Ints, skip: int) -> _Points:
    """Cost rising, value rising by more than `skip` each time."""
    if not len(costs):
        return costs, values
    order = np.argsort(costs)
    c, v = costs[order], values[order]
    top = np.maximum.accumulate(v)
    keep = np.empty(len(v), np.bool_)
    keep[0] = True
    np.greater(v[1:], top[:-1], out=keep[1:])
    c, v = c[keep], v[keep]
    # Of equal costs the last has the largest value.
    last = np.empty(len(c), np.bool_)
    last[-1] = True
    np.not_equal(c[1:], c[:-1], out=last[:-1])
    c, v = c[last], v[last]
    return (c, v) if skip <= 0 else _thinned(c, v, skip)


def _thinned(costs: Ints, values: Ints, skip: int) -> _Points:
    """Drop points that are at most `skip` better than a kept cheaper one."""
    kept, last = [], None
    for index, value in enumerate(values.tolist()):
        if last is None or value > last + skip:
            kept.append(index)
            last = value
    return costs[kept], values[kept]


def _least_after(model: ArcFlow, column: int, alive: npt.NDArray[np.bool_]) -> Ints:
    """Least cost from each node to the sink; 2^62 where no path leads there."""
    least = np.full(model.nodes, 2**62)
    least[-1] = 0
    for node in range(model.nodes - 2, -1, -1):
        arcs = slice(int(model.first[node]), int(model.first[node + 1]))
        ahead = least[model.end[arcs]]
        ok = alive[arcs] & (ahead < 2**62)
        if ok.any():
            least[node] = (model.costs[arcs, column][ok] + ahead[ok]).min()
    return least
