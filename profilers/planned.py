"""Prices of architectures whose programs have a choice of plans: each is priced under a plan that keeps the bounds.

A target's plans come as policies (`profilers.plans`), each an ordinary cost table. Policies are nested: a later one
takes no more flash at any operator, and all take RAM that fits wherever any plan's does. So the policies that keep the
bounds are the last ones, and the price of an architecture is that of the first of them; of the last where none does.

What that means. A price is what a real plan costs, so an architecture that keeps its budgets by the table keeps them
with that plan. The best plan of an architecture (an exact knapsack, `choose_plan`) costs the same or less: at most by
what the operators of one price save, less where all policies differ by few operators. An architecture may thus be
refused that only the exact plan brings below a bound; none is let through that no plan does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.cost import Architecture, Combine, CostTable, Floats
from toolchain.measurement import Evidence


@dataclass(frozen=True, eq=False)
class Policies:
    """The metrics of one target that depend on the plan.

    Attributes:
        metrics: their names, in the order of each policy's table.
        bounds: of these metrics, name -> largest value that a plan may have.
        tables: makes the table of a policy, from the fastest to the smallest.
        patched: the same of policies that run first blocks patch by patch, in no order: for networks that keep the
            bounds under none of `tables`. The first metric is to be small.
    """

    metrics: tuple[str, ...]
    bounds: Mapping[str, float]
    tables: Sequence[Callable[[], CostTable]]
    patched: Sequence[Callable[[], CostTable]] = ()
    _made: dict[int, CostTable] = field(default_factory=dict, repr=False)

    def table(self, policy: int) -> CostTable:
        """A policy's table, made when it is first needed: most architectures fit under the first policy."""
        if policy not in self._made:
            self._made[policy] = (*self.tables, *self.patched)[policy]()
        return self._made[policy]

    @property
    def policies(self) -> int:
        """Number of tables."""
        return len(self.tables) + len(self.patched)

    def keeps(self, prices: Floats) -> NDArray[np.bool_]:
        """(n, metrics) -> (n,) True where all bounds are kept, or where there is no such architecture."""
        bounds = np.array([self.bounds.get(name, math.inf) for name in self.metrics])
        return np.asarray(((prices <= bounds) | np.isinf(prices)).all(axis=1))


@dataclass(frozen=True, eq=False)
class PlannedTable:
    """The `CostModel` of a space with plans.

    Attributes:
        fastest: all metrics, under every target's first policy.
        targets: the metrics with a choice, target by target.
    """

    fastest: CostTable
    targets: tuple[Policies, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names, in the order of the columns."""
        return self.fastest.metrics

    @property
    def combines(self) -> tuple[Combine, ...]:
        """ "sum" or "max" per metric."""
        return self.fastest.combines

    @property
    def evidence(self) -> Mapping[str, Evidence]:
        """Metric -> evidence of a price."""
        return self.fastest.evidence

    @property
    def origins(self) -> Mapping[str, str]:
        """Metric -> what a predicted price rests on."""
        return self.fastest.origins

    def price(self, architectures: NDArray[Any] | Sequence[Sequence[int]]) -> Floats:
        """As `CostTable.price`, each architecture under a plan that keeps the bounds where one does."""
        codes = np.asarray(architectures)
        found = self.fastest.price(codes)
        for target in self.targets:
            columns = self._columns(target)
            over = np.flatnonzero(~target.keeps(found[:, columns]))
            if len(over):
                found[np.ix_(over, columns)] = _settled(target, _prices_of(codes[over]), len(over))
        return found

    def swaps(self, architecture: Sequence[int]) -> list[Floats]:
        """As `CostTable.swaps`; every row is what `price` gives."""
        found = self.fastest.swaps(architecture)
        every = np.concatenate(found)
        for target in self.targets:
            columns = self._columns(target)
            over = np.flatnonzero(~target.keeps(every[:, columns]))
            if len(over):
                every[np.ix_(over, columns)] = _settled(target, _swaps_of(architecture, over), len(over))
        return np.split(every, np.cumsum([len(rows) for rows in found])[:-1])

    def least(self) -> dict[str, tuple[float, Architecture]]:
        """As `CostTable.least`, under any policy: a metric's least value when all other bounds are free. The price of
        that architecture may be higher, as it keeps the bounds, and flash higher because it is spent on cycles.
        """
        found = self.fastest.least()
        for target in self.targets:
            for policy in range(1, target.policies):
                table = target.table(policy)
                for name, entry in table.least().items() if table.paths() else ():
                    found[name] = min(found[name], entry)
        return found

    def keeping(self, metrics: Collection[str]) -> PlannedTable:
        """The same with the bounds on these metrics alone: what a network costs where the others are free."""
        targets = [
            replace(target, bounds={m: b for m, b in target.bounds.items() if m in metrics})
            for target in self.targets
        ]
        return PlannedTable(self.fastest, tuple(targets))

    def paths(self) -> int:
        """The number of architectures in which every candidate is available."""
        return self.fastest.paths()

    def _columns(self, target: Policies) -> NDArray[np.intp]:
        return np.array([self.metrics.index(name) for name in target.metrics], np.intp)


Pricing = Callable[[CostTable, NDArray[np.intp]], Floats]
"""(table, indices of rows) -> their prices by this table."""


def _prices_of(codes: NDArray[Any]) -> Pricing:
    return lambda table, rows: table.price(codes[rows])


def _swaps_of(architecture: Sequence[int], over: NDArray[np.intp]) -> Pricing:
    every = cache(lambda table: np.concatenate(table.swaps(architecture))[over])
    return lambda table, rows: every(table)[rows]


def _settled(target: Policies, price: Pricing, count: int) -> Floats:
    """Prices of rows that are over the bounds under the first policy: each under the first policy that keeps them,
    found by bisection, or the last.
    """
    everything, last = np.arange(count), len(target.tables) - 1
    found = price(target.table(last), everything)
    # Between a policy that is known to be over and one that keeps the bounds.
    over, kept = np.zeros(count, np.intp), np.full(count, last)
    waiting = np.flatnonzero(target.keeps(found) & (kept - over > 1))
    while len(waiting):
        middle = (over[waiting] + kept[waiting]) // 2
        for policy in np.unique(middle).tolist():
            rows = waiting[middle == policy]
            prices = price(target.table(policy), rows)
            keeps = target.keeps(prices)
            kept[rows[keeps]] = policy
            over[rows[~keeps]] = policy
            found[rows[keeps]] = prices[keeps]
        waiting = waiting[kept[waiting] - over[waiting] > 1]
    _patch(target, price, found, np.flatnonzero(~target.keeps(found)))
    return found


def _patch(target: Policies, price: Pricing, found: Floats, rows: NDArray[np.intp]) -> None:
    """Where no other policy keeps the bounds: the best of those with patches, if one of them does."""
    best = np.full(len(rows), np.inf)
    for policy in range(len(target.tables), target.policies if len(rows) else 0):
        prices = price(target.table(policy), rows)
        better = target.keeps(prices) & (prices[:, 0] < best)
        best[better] = prices[better, 0]
        found[rows[better]] = prices[better]
