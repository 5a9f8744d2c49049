"""Binds a space's chain, the table and the calibration into one cost model, and the exact check beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from profilers.calibrate import Calibration
from profilers.cost import MACS, PARAMS, ArcMetric, CostTable, operator_sum
from profilers.footprint import Footprint, footprint_of
from profilers.lut import Lut
from profilers.profile import session_metric
from profilers.steady import steady_table
from targets.session import Device, describe
from toolchain.errors import LutError
from toolchain.graph.chain import Chain
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Stack
from toolchain.spaces import Architecture
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import Project, fingerprint
from toolchain.workflow.sessions import CYCLES, LATENCY, explain_missing, metrics_of

COMPUTED = ("params", "macs", "flash_bytes", "ram_bytes")


@dataclass(frozen=True, eq=False)
class Costs:
    """Everything that says what an architecture costs on the project's target.

    Attributes:
        chain: the space's operators.
        arcs: metric -> how it is made from the chain's arcs.
        table: prices by `arcs`, in batches; the `CostModel` of a search.
        metric: what the target measures: `latency_us`, `cycles` or `instructions`.
        values: operator -> measured value (a CPU's at its best speed); empty when nothing is budgeted or known.
        calibration: correction of sums, or None.
        footprint: how bytes of flash and RAM are counted.
        stack: of the measured rows.
        device: the microcontroller, or None.
        speed: the anchor's time that the values refer to, or None where they refer to none.
    """

    project: Project
    chain: Chain
    arcs: Mapping[str, ArcMetric]
    table: CostTable
    metric: str
    values: Mapping[Operator, float]
    calibration: Calibration | None
    footprint: Footprint
    stack: Stack
    device: Device | None = None
    speed: float | None = None

    @property
    def mape(self) -> float | None:
        """Mean error of predicted latencies or cycles on held-out networks, in per cent."""
        return None if self.calibration is None else self.calibration.mape

    @property
    def note(self) -> str:
        """What every figure must be read with; may be empty."""
        return "" if self.device is None else self.device.note

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
        """The network's costs from its own graph and file; what is measured is the calibrated sum of its operators.

        Bytes, parameters and MACs are exact. Times cannot be: they are measured after deployment.
        """
        graph = structural_graph(self.project, architecture)
        counts = {"params": graph.params, "macs": graph.macs, **self.footprint.of_graph(graph)}
        costs = {name: float(value) for name, value in counts.items()}
        if self.values:
            total = sum(self.values[op] for op in graph.operators)
            if self.calibration is not None:
                total = float(self.calibration.predict(total, len(graph.operators)))
            costs[self.metric] = total
            if self.device is not None and self.metric == CYCLES:
                costs[LATENCY] = total * 1e6 / self.device.clock_hz
        return costs


def open_costs(project: Project, budgeted: Sequence[str]) -> Costs:
    """The cost model of the project's space on its target, from the table. The device need not be attached.

    Args:
        budgeted: metrics that must be there; without a measured one among them an empty table is no error.

    Raises:
        LutError: a latency (cycles, instructions) budget, but operators without a row.
        ConfigurationError: a budget on a metric that this target does not give.
    """
    url = project.config.target.url
    chain = project.space.chain(project.config.target.precision)
    target = describe(url)
    metric, measured = session_metric(target), metrics_of(target)
    for asked in budgeted:
        if asked not in (*measured, *COMPUTED):
            raise explain_missing(url, asked, target, (*measured, *COMPUTED))
    values: dict[Operator, float] = {}
    calibration = None
    evidence: Evidence | None = None
    speed = None
    if project.lut_path.exists():
        with Lut.open(project.lut_path) as lut:
            table = steady_table(lut, target.stack, metric)
            values = {op: table.values[op] for op in chain.operators if op in table.values}
            evidence, speed = table.evidence, table.best_anchor_us
            found = lut.calibration(target.stack, metric)
            if found is not None:
                calibration = Calibration.from_json(found.text)
    missing = len(chain.operators) - len(values)
    if missing and not set(measured) & set(budgeted):
        values, calibration = {}, None  # half a table prices nothing
    elif missing and not values:
        raise LutError(
            f"{project.lut_path.name} has no rows of {target.stack.label} for this space",
            remedy="run `boardfit profile`",
        )
    arcs: dict[str, ArcMetric] = {}
    if values:
        origin = evidence.value if evidence else ""
        arcs[metric] = operator_sum(metric, values, chain, calibration=calibration, origin=origin)
        if target.device is not None and metric == CYCLES:
            arcs[LATENCY] = _in_time(arcs[metric], target.device)
    footprint = footprint_of(target.model_format, chain.operators, target.device)
    arcs |= {"params": PARAMS, "macs": MACS, "flash_bytes": footprint.flash, "ram_bytes": footprint.ram}
    prices = CostTable.of(
        chain, arcs, candidates=[len(c.candidates) for c in project.space.choices], stack=target.stack
    )
    return Costs(
        project,
        chain,
        arcs,
        prices,
        metric,
        values,
        calibration,
        footprint,
        target.stack,
        target.device,
        speed,
    )


def _in_time(cycles: ArcMetric, device: Device) -> ArcMetric:
    """The same sum in microseconds at the device's clock."""
    factor = 1e6 / device.clock_hz
    return replace(cycles, value=lambda arc: cycles.value(arc) * factor, base=cycles.base * factor)


def evidence_text(costs: Costs, metric: str) -> str:
    """What a predicted value is, e.g. "predicted from host_wall"."""
    kind, origin = costs.table.evidence[metric].value, costs.table.origins.get(metric, "")
    return f"{kind} from {origin}" if origin else kind
