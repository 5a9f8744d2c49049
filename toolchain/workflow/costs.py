"""Binds the costs of all targets into one cost model of a space, and the exact check beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from profilers.cost import ArcMetric, CostTable
from profilers.footprint import FLASH, RAM
from profilers.planned import PlannedTable
from toolchain.errors import ConfigurationError
from toolchain.graph import Graph
from toolchain.graph.chain import Chain
from toolchain.graph.operator import DType
from toolchain.spaces import Architecture
from toolchain.units import Budget, plain_metric
from toolchain.workflow import joined
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
        return joined.alternatives(self.project, self.targets)

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
        return replace(self, table=joined.table(self.project, targets), targets=tuple(targets))

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
    return Costs(project, joined.table(project, found), found)


def evidence_text(costs: Costs, metric: str) -> str:
    """What a predicted value is, e.g. "predicted from host_wall"."""
    kind, origin = costs.table.evidence[metric].value, costs.table.origins.get(metric, "")
    return f"{kind} from {origin}" if origin else kind
