"""Binds the costs of all targets into one cost model of a space, and the exact check beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from profilers.cost import ArcMetric, CostTable
from profilers.footprint import FLASH, RAM
from profilers.patched import Prefix, banded, prefixes
from profilers.planned import PlannedTable, Policies
from toolchain.errors import ConfigurationError
from toolchain.graph import Graph
from toolchain.graph.chain import Arc, Chain
from toolchain.graph.operator import DType
from toolchain.spaces import Architecture
from toolchain.units import Budget, plain_metric
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import Project, fingerprint
from toolchain.workflow.target_costs import (
    TargetCosts,
    calibration_fingerprint,
    factor_of,
    open_target_costs,
    scope_of,
)

__all__ = [
    "Costs", "TargetCosts", "calibration_fingerprint", "evidence_text", "factor_of", "open_costs", "scope_of",
]  # fmt: skip

MOST_PREFIXES: Final = (
    32  # ways to patch that the table looks at, where a network's RAM is too much otherwise
)


@dataclass(frozen=True, eq=False)
class Costs:
    """Everything that says what an architecture costs on the project's targets.

    Attributes:
        table: prices in batches; the `CostModel` of a search. Metrics have the names of `Config.metric`.
        targets: one by one, in the order of the project file.
    """

    project: Project
    table: CostTable | PlannedTable
    targets: tuple[TargetCosts, ...]

    @property
    def chain(self) -> Chain:
        """The space at the first target's precision."""
        return self.targets[0].chain

    def alternatives(self) -> tuple[Chain, Mapping[str, ArcMetric]]:
        """For exact selection: the space with an arc for every choice of plans that may pay, ways through its first
        positions patch by patch included, and how metrics are made from its arcs.
        """
        return _alternatives(self.project, self.targets)

    @property
    def fingerprint(self) -> str:
        """Changes when any row or a calibration changes, but not when a newer measurement (a deployed network's)
        only shows that the machine can be faster: that scales all values alike. Corrections are not in it.
        """
        return fingerprint([costs.basis for costs in self.targets], self.table.metrics)

    @property
    def corrections(self) -> str:
        """Changes with what is learned of chosen networks: the corrections in force, and the rows of patches."""
        priced = [c for c in self.targets if c.values]
        rows = [
            sorted((op.signature, f"{v:.9g}") for op, v in c.patched.items()) for c in priced if c.patched
        ]
        return fingerprint([c.correction and c.correction.to_json() for c in priced], *rows)

    def under(self, limits: Iterable[Budget]) -> Costs:
        """The same with plans that keep these budgets, too; `table` and `exact` speak of such plans then."""
        asked = {b.metric: b.bound for b in limits}
        targets = []
        for costs in self.targets:
            bounds = dict(costs.bounds)
            for plain in (FLASH, RAM):
                bound = asked.get(self.project.metric(costs.target, plain))
                if bound is not None:
                    bounds[plain] = min(bound, bounds.get(plain, bound))
            targets.append(replace(costs, bounds=bounds))
        return replace(self, table=_table(self.project, targets), targets=tuple(targets))

    def predict(self, architecture: Architecture) -> dict[str, float]:
        """The costs that are foretold of one network: by `table`, but under its own best plan where it has plans."""
        prices = self.table.price([tuple(architecture)])[0].tolist()
        found = dict(zip(self.table.metrics, prices, strict=True))
        for costs in self.targets:
            if costs.plans is not None:
                graph = structural_graph(self.project, architecture, costs.target.precision)
                of_graph = costs.of_graph(graph)
                found |= {
                    self.project.metric(costs.target, metric): of_graph[metric] for metric in costs.planned
                }
        return found

    def exact(self, architecture: Architecture) -> dict[str, float]:
        """The network's costs on all targets, see `TargetCosts.decided`."""
        graphs: dict[DType, Graph] = {}
        found: dict[str, float] = {}
        for costs in self.targets:
            precision = costs.target.precision
            if precision not in graphs:
                graphs[precision] = structural_graph(self.project, architecture, precision)
            for metric, value in costs.decided(graphs[precision]).items():
                found[self.project.metric(costs.target, metric)] = value
        return found


def open_costs(project: Project, budgeted: Sequence[str], *, strict: bool = False) -> Costs:
    """The cost model of the project's space on its targets, from the table. No device need be attached.

    Operators without a row are priced by prediction where their kind can be predicted (`profilers.predicted`).

    Args:
        budgeted: metrics that must be there; without a measured one among them an empty table is no error.
        strict: refuse predictions.

    Raises:
        LutError: a latency (cycles, instructions) budget, but operators without a row that cannot be predicted, or
            with `strict` any.
        ConfigurationError: a budget on a metric that no target gives, or targets whose networks are not the same.
    """
    targets = project.config.target
    wanted: dict[str, list[str]] = {target.name: [] for target in targets}
    for asked in budgeted:
        owners = [t for t in targets if project.metric(t, plain_metric(asked)) == asked]
        if not owners:
            raise ConfigurationError(
                f"a budget on {asked}: there is no such target, or none is named",
                remedy=f"write NAME:KEY with one of {', '.join(t.name for t in targets)}",
            )
        for target in owners:
            wanted[target.name].append(plain_metric(asked))
    found = tuple(open_target_costs(project, target, wanted[target.name], strict) for target in targets)
    return Costs(project, _table(project, found), found)


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


def _table(project: Project, targets: Sequence[TargetCosts]) -> CostTable | PlannedTable:
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


def _alternatives(project: Project, targets: Sequence[TargetCosts]) -> tuple[Chain, Mapping[str, ArcMetric]]:
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
    heads = itertools.islice(prefixes(costs.chain, costs.footprint.ram, most), MOST_PREFIXES)
    for head in heads:
        for price in dict.fromkeys((prices[0], prices[-1])):
            yield _Way(head.positions, _banded(costs.chain, head, costs.plans.policy(price, most)))


def _banded(chain: Chain, head: Prefix, policy: Callable[[Arc], Arc]) -> Callable[[Arc], Arc | None]:
    bands = cache(lambda: banded(chain, head, policy))
    return lambda arc: bands()[id(arc)] if id(arc) in bands() else policy(arc)


def evidence_text(costs: Costs, metric: str) -> str:
    """What a predicted value is, e.g. "predicted from host_wall"."""
    kind, origin = costs.table.evidence[metric].value, costs.table.origins.get(metric, "")
    return f"{kind} from {origin}" if origin else kind
