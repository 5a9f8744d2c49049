"""The targets' metrics along one space: as a table that prices in batches, and as arcs for exact selection."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from profilers.cost import ArcMetric, CostTable
from profilers.footprint import FLASH, RAM
from profilers.patched import Prefix, banded, least_ram, prefixes
from profilers.planned import PlannedTable, Policies
from toolchain.errors import ConfigurationError
from toolchain.graph.chain import Arc, Chain
from toolchain.workflow.project import Project
from toolchain.workflow.target_costs import TargetCosts

MOST_PREFIXES: Final = 32  # ways to patch that are looked at, where a network's RAM is too much otherwise


@dataclass(frozen=True, eq=False)
class _Along:
    """A target's metrics along the arcs of the first target's chain.

    Attributes:
        names: metric -> its name in the project.
        other: arc of that chain -> the target's own: the same block at its precision.
    """

    costs: TargetCosts
    names: Mapping[str, str]
    other: Callable[[Arc], Arc]

    def arcs(self, plan: Callable[[Arc], Arc], only: Iterable[str] | None = None) -> dict[str, ArcMetric]:
        """The metrics, by the project's names, of arcs whose operators got their algorithms from `plan`."""

        def moved(found: ArcMetric) -> ArcMetric:
            return replace(found, value=lambda arc: found.value(plan(self.other(arc))))

        chosen = self.costs.arcs if only is None else {name: self.costs.arcs[name] for name in only}
        return {self.names[name]: moved(found) for name, found in chosen.items()}


def _along(project: Project, targets: Sequence[TargetCosts]) -> list[_Along]:
    """Raises: ConfigurationError: the space's blocks are not the same at the targets' precisions."""
    chain = targets[0].chain
    found = []
    for costs in targets:
        names = {metric: project.metric(costs.target, metric) for metric in costs.arcs}
        other = _same if costs.chain is chain else _pairs(chain, costs.chain)
        found.append(_Along(costs, names, other))
    return found


def _pairs(chain: Chain, other: Chain) -> Callable[[Arc], Arc]:
    """Arcs of one precision's chain -> those of another's: the same blocks, arc by arc."""
    sides = [[arc for arcs in side.arcs for arc in arcs] for side in (chain, other)]
    places = [[(arc.candidate, arc.start, arc.end) for arc in arcs] for arcs in sides]
    if places[0] != places[1]:
        raise ConfigurationError(
            "the blocks of this space differ between int8 and float32",
            remedy="give all targets one precision",
        )
    # By identity: equal arcs of two positions need not be equal at the other precision. The space keeps its arcs.
    pairs: dict[int, Arc] = {id(a): b for a, b in zip(*sides, strict=True)}
    return lambda arc: pairs[id(arc)]


def _same(arc: Arc) -> Arc:
    return arc


def table(project: Project, targets: Sequence[TargetCosts]) -> CostTable | PlannedTable:
    """Prices of the space, each architecture's under plans within the targets' bounds."""
    chain = targets[0].chain
    make = partial(CostTable.of, candidates=[len(c.candidates) for c in project.space.choices])
    arcs: dict[str, ArcMetric] = {}
    policies = []
    for along in _along(project, targets):
        costs, plans = along.costs, along.costs.plans
        most = costs.bounds.get(RAM, math.inf)
        if plans is not None:
            prices = plans.prices(costs.chain, most)
            policies.append(
                Policies(
                    tuple(along.names[name] for name in costs.planned),
                    {along.names[name]: costs.bounds[name] for name in (FLASH, RAM) if name in costs.bounds},
                    [partial(_policy, make, chain, along, plans.policy(price, most)) for price in prices],
                    [partial(_patched, make, chain, along, way) for way in _ways(costs)],
                )
            )
        # What belongs to the network (parameters, MACs) is the first target's.
        for name, metric in along.arcs(_same if plans is None else plans.policy(0.0, most)).items():
            arcs.setdefault(name, metric)
    fastest = make(chain, arcs, stack=targets[0].stack if len(targets) == 1 else None)
    return PlannedTable(fastest, tuple(policies)) if policies else fastest


def _policy(
    make: Callable[..., CostTable], chain: Chain, along: _Along, policy: Callable[[Arc], Arc]
) -> CostTable:
    return make(chain, along.arcs(policy, along.costs.planned))


def _patched(make: Callable[..., CostTable], chain: Chain, along: _Along, way: _Way) -> CostTable:
    """A policy whose first blocks run patch by patch; blocks that cannot are not available."""
    able = [tuple(arc for arc in arcs if way.arc(along.other(arc)) is not None) for arcs in chain.arcs]
    return make(
        replace(chain, arcs=tuple(able)),
        along.arcs(lambda arc: way.arc(arc) or arc, along.costs.planned),
    )


def alternatives(project: Project, targets: Sequence[TargetCosts]) -> tuple[Chain, Mapping[str, ArcMetric]]:
    """See `Costs.alternatives`. A network that runs patch by patch takes a way of its own through copies of the states
    within its prefix, and is on the usual way behind it: what a patch costs depends on the whole prefix.
    """
    chain, sides = targets[0].chain, _along(project, targets)
    versions: dict[int, tuple[Arc, ...]] = {}
    positions: list[list[Arc]] = [[] for _ in chain.arcs]
    states = [list(shapes) for shapes in chain.states]

    def add(position: int, arc: Arc, version: tuple[Arc, ...]) -> None:
        # A new object for each: metrics find what it stands for by identity.
        positions[position].append(replace(arc, operators=version[0].operators))
        versions[id(positions[position][-1])] = version

    for position, arcs in enumerate(chain.arcs):
        for arc in arcs:
            ways = [
                (side.other(arc),) if side.costs.plans is None
                else side.costs.plans.alternatives(side.other(arc))
                for side in sides
            ]  # fmt: skip
            for version in itertools.product(*ways):
                add(position, arc, version)
    every = itertools.product(*([_Way(0, side.costs.policy), *_ways(side.costs)] for side in sides))
    for way in itertools.islice(every, 1, MOST_PREFIXES):
        behind = max(one.positions for one in way)
        first = [0, *(len(shapes) for shapes in states[1:behind]), 0]
        for position in range(behind):
            if position:
                states[position] += chain.states[position]
            for arc in chain.arcs[position]:
                ran = (one.arc(side.other(arc)) for one, side in zip(way, sides, strict=True))
                version = tuple(one for one in ran if one is not None)
                if len(version) == len(sides):
                    moved = replace(arc, start=arc.start + first[position], end=arc.end + first[position + 1])
                    add(position, moved, version)

    def seen(found: ArcMetric, index: int) -> ArcMetric:
        return replace(found, value=lambda arc: found.value(versions[id(arc)][index]))

    metrics: dict[str, ArcMetric] = {}
    for index, side in enumerate(sides):
        for name, found in side.costs.arcs.items():
            metrics.setdefault(side.names[name], seen(found, index))
    return Chain(tuple(map(tuple, states)), tuple(map(tuple, positions)), chain.choices), metrics


@dataclass(frozen=True, eq=False)
class _Way:
    """How a target runs the first positions: so many of them in patches, `arc` gives each arc as it runs then, None for
    one that cannot."""

    positions: int
    arc: Callable[[Arc], Arc | None]


def _ways(costs: TargetCosts) -> Iterator[_Way]:
    """The ways of a target's networks with patches. What their arcs become is found when it is first asked for."""
    if costs.plans is None:
        return
    most = costs.bounds.get(RAM, math.inf)
    prices = costs.plans.prices(costs.chain, most)
    for head in _heads(costs, most):
        for price in dict.fromkeys((prices[0], prices[-1])):
            yield _Way(head.positions, _banded(costs.chain, head, costs.plans.policy(price, most)))


def _heads(costs: TargetCosts, most: float) -> list[Prefix]:
    """What may run in patches for a bound on RAM. Where no network keeps that either: what needs the least of all, so
    that people are told how far it is.
    """
    chain, ram = costs.chain, costs.footprint.ram
    heads = list(itertools.islice(prefixes(chain, ram, most), MOST_PREFIXES))
    whole = least_ram(chain, ram, costs.policy)
    if whole <= most or any(_ram_in_patches(costs, head) <= most for head in heads):
        return heads
    needed = {head: _ram_in_patches(costs, head) for head in prefixes(chain, ram, whole - 1)}
    best = min(needed, key=needed.__getitem__, default=None)
    return [] if best is None or needed[best] >= whole else [best]


def _ram_in_patches(costs: TargetCosts, head: Prefix) -> float:
    return least_ram(costs.chain, costs.footprint.ram, _banded(costs.chain, head, costs.policy))


def _banded(chain: Chain, head: Prefix, policy: Callable[[Arc], Arc]) -> Callable[[Arc], Arc | None]:
    """Each arc as it runs with this prefix in patches; None for one that cannot."""
    bands = cache(lambda: banded(chain, head, policy))
    return lambda arc: bands()[id(arc)] if id(arc) in bands() else policy(arc)
