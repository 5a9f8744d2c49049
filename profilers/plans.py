"""Plans of a space: the algorithm of each operator, chosen for every arc of a chain.

A plan trades bytes for cycles (`toolchain.export.native.plan`). Two readings of a chain carry that choice:

- `PlanSpace.policy`: one algorithm for each operator where it stands, by a price of a byte of flash: the least
  cost + price * flash among those that fit the RAM (Lagrange's multiplier; Everett 1963). A policy gives an ordinary
  cost table, and a few policies the lower convex hull of what flash buys (`profilers.planned`).
- `PlanSpace.alternatives`: all choices that no other beats in cost, flash and RAM at once: parallel arcs, between which
  an exact solver decides. Along a path cost and flash are sums and RAM is a maximum, so nothing better is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from profilers.cost import ArcMetric
from toolchain.graph.chain import Arc, Chain
from toolchain.graph.liveness import Live
from toolchain.graph.operator import Operator

MOST_PRICES: Final = 16  # of a byte, at which policies are made


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute an operator where it stands.

    Attributes:
        operator: with its algorithm.
        cost: what is to be small, e.g. cycles. flash: bytes. ram: bytes of everything that lives while it runs.
    """

    operator: Operator
    cost: float
    flash: float
    ram: float


@dataclass(frozen=True, eq=False)
class PlanSpace:
    """The plans of a space on one target.

    Attributes:
        options: operator of a chain -> itself under each algorithm that has a cost, where there is more than one.
        cost, flash, ram: of arcs whose operators have their algorithms.
    """

    options: Mapping[Operator, tuple[Operator, ...]]
    cost: ArcMetric
    flash: ArcMetric
    ram: ArcMetric
    _ways: dict[tuple[Operator, Live], tuple[Way, ...]] = field(default_factory=dict, repr=False)

    def ways(self, op: Operator, live: Live) -> tuple[Way, ...]:
        """How an operator can be computed where these bytes live (`Arc.live`)."""
        key = (op, live)
        if key not in self._ways:
            arcs = [Arc(0, 0, 0, (way,), 0, 0, (live,)) for way in self.options.get(op, (op,))]
            self._ways[key] = tuple(
                Way(arc.operators[0], self.cost.value(arc), self.flash.value(arc), self.ram.value(arc))
                for arc in arcs
            )
        return self._ways[key]

    def prices(self, chain: Chain, ram_bytes: float = math.inf) -> tuple[float, ...]:
        """Prices of a byte of flash at which policies differ, ascending: from 0, where all is as fast as it can be, to
        where nothing is bought. At most `MOST_PRICES`, evenly chosen.
        """
        places = {
            (op, live)
            for arcs in chain.arcs
            for arc in arcs
            for op, live in zip(arc.operators, arc.live, strict=True)
            if op in self.options
        }
        worths = {worth for place in places for worth, _ in _hull(self.ways(*place), ram_bytes)}
        every = [0.0, *sorted(worths - {math.inf, 0.0})]
        count = min(len(every), MOST_PRICES)
        if count == 1:
            return tuple(every)
        return tuple(every[round(i * (len(every) - 1) / (count - 1))] for i in range(count))

    def policy(self, price: float, ram_bytes: float = math.inf) -> Callable[[Arc], Arc]:
        """The arcs of a chain with their operators' algorithms at a price of a byte of flash.

        An operator none of whose algorithms fits the RAM takes the one that needs the least.
        """
        known: dict[int, tuple[Arc, Arc]] = {}  # by identity: hashing an arc costs more than choosing

        def choose(arc: Arc) -> Arc:
            if id(arc) not in known:
                known[id(arc)] = (arc, self._at(arc, price, ram_bytes))
            return known[id(arc)][1]

        return choose

    def _at(self, arc: Arc, price: float, ram_bytes: float) -> Arc:
        if not any(op in self.options for op in arc.operators):
            return arc
        operators = []
        for op, live in zip(arc.operators, arc.live, strict=True):
            chosen = [way for worth, way in _hull(self.ways(op, live), ram_bytes) if worth > price]
            operators.append(chosen[-1].operator)
        return replace(arc, operators=tuple(operators))

    def alternatives(self, arc: Arc) -> tuple[Arc, ...]:
        """The arc under every choice of algorithms that no other beats in cost, flash and RAM; itself alone where
        there is nothing to choose.
        """
        if not any(op in self.options for op in arc.operators):
            return (arc,)
        found = [_Sum(0.0, 0.0, 0.0, ())]
        for op, live in zip(arc.operators, arc.live, strict=True):
            ways = self.ways(op, live)
            found = _undominated(before.plus(way) for before in found for way in ways)
        return tuple(replace(arc, operators=one.operators) for one in found)


@dataclass(frozen=True, slots=True)
class _Sum:
    """Ways of the operators so far, added up."""

    flash: float
    cost: float
    ram: float
    operators: tuple[Operator, ...]

    def plus(self, way: Way) -> _Sum:
        return _Sum(
            self.flash + way.flash,
            self.cost + way.cost,
            max(self.ram, way.ram),
            (*self.operators, way.operator),
        )


def _undominated(sums: Iterable[_Sum]) -> list[_Sum]:
    kept: list[_Sum] = []
    for one in sorted(sums, key=lambda s: (s.flash, s.cost, s.ram)):
        if not any(other.cost <= one.cost and other.ram <= one.ram for other in kept):
            kept.append(one)
    return kept


def _hull(ways: Iterable[Way], ram_bytes: float) -> list[tuple[float, Way]]:
    """The ways that fit the RAM and lie on the lower convex hull of cost over flash, from the smallest on, each with
    the cost that a byte saves from the one before (falling; inf for the first).
    """
    ways = tuple(ways)
    fitting = [way for way in ways if way.ram <= ram_bytes] or [min(ways, key=lambda way: way.ram)]
    hull: list[tuple[float, Way]] = []
    for way in sorted(fitting, key=lambda w: (w.flash, w.cost)):
        if hull and way.cost >= hull[-1][1].cost:
            continue
        worth = _worth(hull[-1][1], way) if hull else math.inf
        while len(hull) > 1 and worth >= hull[-1][0]:
            hull.pop()
            worth = _worth(hull[-1][1], way)
        hull.append((worth, way))
    return hull


def _worth(small: Way, large: Way) -> float:
    return (small.cost - large.cost) / (large.flash - small.flash)
