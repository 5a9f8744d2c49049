"""Binds a space's chain, the table and the calibration into one cost model, and the exact check beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from profilers.calibrate import Calibration
from profilers.cost import CostTable
from profilers.counts import flash_model, graph_costs
from profilers.lut import Lut
from profilers.steady import steady_table
from toolchain.errors import ConfigurationError, LutError
from toolchain.graph.chain import Chain
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Stack
from toolchain.spaces import Architecture
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import Project, fingerprint
from toolchain.workflow.sessions import LATENCY, target_stack

COMPUTED = ("params", "macs", "flash_bytes", "ram_bytes")


@dataclass(frozen=True, eq=False)
class Costs:
    """Everything that says what an architecture costs on the project's target.

    Attributes:
        chain: the space's operators.
        table: prices by the table, in batches; the `CostModel` of a search.
        values: operator -> measured value at the machine's best speed; empty when nothing is budgeted or known.
        calibration: correction of sums, or None.
        stack: of the measured rows.
        speed: the anchor's time that the values refer to, or None where they refer to none.
    """

    project: Project
    chain: Chain
    table: CostTable
    values: Mapping[Operator, float]
    calibration: Calibration | None
    stack: Stack
    speed: float | None = None

    @property
    def mape(self) -> float | None:
        """Mean error of predicted latencies on held-out networks, in per cent."""
        return None if self.calibration is None else self.calibration.mape

    @property
    def fingerprint(self) -> str:
        """Changes when any row or the calibration changes, but not when a newer measurement (a deployed network's)
        only shows that the machine can be faster: that scales all values alike.
        """
        speed = self.speed or 1.0
        rows = sorted((op.signature, f"{value / speed:.9g}") for op, value in self.values.items())
        calibration = None if self.calibration is None else self.calibration.to_json()
        return fingerprint(self.stack.fingerprint, rows, calibration, self.table.metrics)

    def exact(self, architecture: Architecture) -> dict[str, float]:
        """The network's costs from its own graph and file; the latency is the calibrated sum of its operators.

        Bytes, parameters and MACs are exact. Latency cannot be: it is measured after deployment.
        """
        graph = structural_graph(self.project, architecture)
        costs: dict[str, float] = {k: float(v) for k, v in graph_costs(graph).items() if k in COMPUTED}
        if self.values:
            total = sum(self.values[op] for op in graph.operators)
            if self.calibration is None:
                costs[LATENCY] = total
            else:
                costs[LATENCY] = float(self.calibration.predict(total, len(graph.operators)))
        return costs


def open_costs(project: Project, budgeted: Sequence[str]) -> Costs:
    """The cost model of the project's space on its target, from the table.

    Args:
        budgeted: metrics that must be there; without a latency among them an empty table is no error.

    Raises:
        LutError: a latency budget, but operators without a row.
        ConfigurationError: a budget on a metric that this target does not give.
    """
    chain = project.space.chain(project.config.target.precision)
    stack = target_stack(project.config.target.url)
    known = (LATENCY, *COMPUTED)
    unknown = [metric for metric in budgeted if metric not in known]
    if unknown:
        raise ConfigurationError(
            f"{project.config.target.url} gives no {unknown[0]}", remedy=f"it gives {', '.join(known)}"
        )
    values: dict[Operator, float] = {}
    calibration = None
    evidence: Evidence | None = None
    speed = None
    if project.lut_path.exists():
        with Lut.open(project.lut_path) as lut:
            table = steady_table(lut, stack, LATENCY)
            values = {op: table.values[op] for op in chain.operators if op in table.values}
            evidence, speed = table.evidence, table.best_anchor_us
            found = lut.calibration(stack, LATENCY)
            if found is not None:
                calibration = Calibration.from_json(found.text)
    missing = len(chain.operators) - len(values)
    if missing and LATENCY not in budgeted:
        values, calibration = {}, None  # half a table prices nothing
    elif missing and not values:
        raise LutError(
            f"{project.lut_path.name} has no rows of {stack.label} for this space",
            remedy="run `boardfit profile`",
        )
    prices = CostTable.build(
        chain,
        {LATENCY: values} if values else {},
        calibrations={LATENCY: calibration} if calibration is not None else None,
        flash=flash_model(chain.operators),
        candidates=[len(choice.candidates) for choice in project.space.choices],
        origin=evidence.value if evidence else "",
        stack=stack,
    )
    return Costs(project, chain, prices, values, calibration, stack, speed)


def evidence_text(costs: Costs, metric: str) -> str:
    """What a predicted value is, e.g. "predicted from host_wall"."""
    kind, origin = costs.table.evidence[metric].value, costs.table.origins.get(metric, "")
    return f"{kind} from {origin}" if origin else kind
