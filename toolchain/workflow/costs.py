"""Binds a space's chain, the table and the calibrations into one cost model, and the exact check beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from profilers.calibrate import Calibration
from profilers.correct import Correction, kept_correction
from profilers.cost import MACS, PARAMS, ArcMetric, CostTable, operator_sum
from profilers.footprint import Footprint, footprint_of
from profilers.lut import Lut, Network
from profilers.predicted import Filled, failed_operators, fill, measured_operators
from profilers.profile import session_metric
from profilers.steady import steady_table
from targets.session import Description, Device, describe
from toolchain.errors import ConfigurationError, LutError
from toolchain.graph import Graph
from toolchain.graph.chain import Arc, Chain
from toolchain.graph.operator import DType, Operator
from toolchain.measurement import Evidence, Stack
from toolchain.spaces import Architecture
from toolchain.units import plain_metric
from toolchain.workflow.config import TargetSection
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import Project, fingerprint
from toolchain.workflow.sessions import CYCLES, LATENCY, explain_missing, metrics_of

COMPUTED = ("params", "macs", "flash_bytes", "ram_bytes")


@dataclass(frozen=True, eq=False)
class TargetCosts:
    """What an architecture costs on one target. Metrics have their plain names here.

    Attributes:
        target: of the project.
        chain: the space's operators at the target's precision.
        arcs: metric -> how it is made from the chain's arcs.
        metric: what the target measures: `latency_us`, `cycles` or `instructions`.
        values: operator -> value (a CPU's at its best speed); empty when nothing is budgeted or known.
        filled: which of them are predicted; None when none is.
        calibration: correction of sums, or None.
        correction: what networks near the optimum said of the calibrated sums, or None (profilers.correct).
        known: operators of a network -> its measured value; those behind the correction.
        footprint: how bytes of flash and RAM are counted.
        stack: of the measured rows.
        device: the microcontroller, or None.
        basis: what the values rest on, but for the correction; changes with any row that matters.
    """

    target: TargetSection
    chain: Chain
    arcs: Mapping[str, ArcMetric]
    metric: str
    values: Mapping[Operator, float]
    filled: Filled | None
    calibration: Calibration | None
    correction: Correction | None
    known: Mapping[tuple[Operator, ...], float]
    footprint: Footprint
    stack: Stack
    device: Device | None
    basis: str

    @property
    def mape(self) -> float | None:
        """Mean error of calibrated latencies or cycles on held-out networks, in per cent."""
        return None if self.calibration is None else self.calibration.mape

    @property
    def note(self) -> str:
        """What every figure must be read with; may be empty."""
        notes = [] if self.device is None else [self.device.note]
        if self.filled is not None:
            notes.append(f"{self.metric} rests on {predicted_text(self.filled)}")
        return "; ".join(filter(None, notes))

    @property
    def factor(self) -> float:
        """What calibrated sums are multiplied by."""
        return factor_of(self.correction, self.calibration)

    def of_graph(self, graph: Graph) -> dict[str, float]:
        """A network's costs from its own graph; what is measured is the calibrated, corrected sum of its operators.

        Bytes, parameters and MACs are exact. Times cannot be: they are measured after deployment, or before
        (`decided`).
        """
        counts = {"params": graph.params, "macs": graph.macs, **self.footprint.of_graph(graph)}
        costs = {name: float(value) for name, value in counts.items()}
        if self.values:
            total = sum(self.values[op] for op in graph.operators)
            if self.calibration is not None:
                total = float(self.calibration.predict(total, len(graph.operators)))
            costs |= self.measured(total * self.factor)
        return costs

    def measured(self, value: float) -> dict[str, float]:
        """A value of the measured metric, on a board also as a time."""
        costs = {self.metric: value}
        if self.device is not None and self.metric == CYCLES:
            costs[LATENCY] = value * 1e6 / self.device.clock_hz
        return costs

    def decided(self, graph: Graph) -> dict[str, float]:
        """What decisions rest on: as `of_graph`, but of a network that was measured, what was measured."""
        costs, value = self.of_graph(graph), self.known.get(graph.operators)
        return costs if value is None or not self.values else costs | self.measured(value)


@dataclass(frozen=True, eq=False)
class Costs:
    """Everything that says what an architecture costs on the project's targets.

    Attributes:
        chain: the space's operators, at the first target's precision.
        arcs: metric -> how it is made from the chain's arcs; metrics have the names of `Config.metric`.
        table: prices by `arcs`, in batches; the `CostModel` of a search.
        targets: one by one, in the order of the project file.
    """

    project: Project
    chain: Chain
    arcs: Mapping[str, ArcMetric]
    table: CostTable
    targets: tuple[TargetCosts, ...]

    @property
    def fingerprint(self) -> str:
        """Changes when any row or a calibration changes, but not when a newer measurement (a deployed network's)
        only shows that the machine can be faster: that scales all values alike. Corrections are not in it.
        """
        return fingerprint([costs.basis for costs in self.targets], self.table.metrics)

    @property
    def corrections(self) -> str:
        """Changes with the corrections in force."""
        return fingerprint([c.correction and c.correction.to_json() for c in self.targets if c.values])

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
    found = tuple(_open_target(project, target, wanted[target.name], strict) for target in targets)
    chain = found[0].chain
    arcs: dict[str, ArcMetric] = {}
    for costs in found:
        for metric, arc in _along(chain, costs).items():
            arcs.setdefault(project.metric(costs.target, metric), arc)
    prices = CostTable.of(
        chain,
        arcs,
        candidates=[len(c.candidates) for c in project.space.choices],
        stack=found[0].stack if len(found) == 1 else None,
    )
    return Costs(project, chain, arcs, prices, found)


def _open_target(
    project: Project, target: TargetSection, budgeted: Sequence[str], strict: bool
) -> TargetCosts:
    chain = project.space.chain(target.precision)
    about = describe(target.url)
    metric, measured = session_metric(about), metrics_of(about)
    for asked in budgeted:
        if asked not in (*measured, *COMPUTED):
            raise explain_missing(target.url, asked, about, (*measured, *COMPUTED))
    needed = bool(set(measured) & set(budgeted))
    values: Mapping[Operator, float] = {}
    filled = None
    calibration = None
    correction = None
    known: Mapping[tuple[Operator, ...], float] = {}
    evidence: Evidence | None = None
    basis: list[tuple[str, str]] = []
    if project.lut_path.exists():
        with Lut.open(project.lut_path) as lut:
            table = steady_table(lut, about.stack, metric)
            every = measured_operators(table)
            values = {op: every[op] for op in chain.operators if op in every}
            missing = len(chain.operators) - len(values)
            if missing and needed and strict:
                raise LutError(
                    f"{metric} on {target.name}: {missing} of {len(chain.operators)} operators of this space have no "
                    "row, and predictions are refused",
                    remedy="run `boardfit profile` without --share, or search without --strict",
                )
            if missing and values and not strict:
                filled = _predicted(lut, about, metric, every, chain, needed)
                values = filled.values if filled else values
            evidence = table.evidence
            row = lut.calibration(about.stack, metric)
            if row is not None:
                calibration = Calibration.from_json(row.text)
            correction = kept_correction(lut, about.stack, metric, scope_of(chain))
            behind = set() if correction is None else {network.key for network in correction.networks}
            known = {
                subject.operators: value
                for subject, value in table.values.items()
                if isinstance(subject, Network) and subject.fingerprint in behind
            }
            speed = table.best_anchor_us or 1.0
            basis = sorted(
                (op.signature, f"{value / speed:.9g}")
                for op, value in every.items()
                if filled is not None or op in values
            )
    missing = len(chain.operators) - len(values)
    if missing and not needed:
        values, calibration, correction, basis = {}, None, None, []  # half a table prices nothing
    elif missing and not values:
        raise LutError(
            f"{project.lut_path.name} has no rows of {about.stack.label} for this space",
            remedy="run `boardfit profile`",
        )
    arcs: dict[str, ArcMetric] = {}
    if values:
        origin = evidence.value if evidence else ""
        if filled is not None:
            origin += f" and {predicted_text(filled)}"
        summed = operator_sum(metric, values, chain, calibration=calibration, origin=origin)
        factor = factor_of(correction, calibration)
        arcs[metric] = summed if factor == 1.0 else _scaled(summed, factor)
        if about.device is not None and metric == CYCLES:
            arcs[LATENCY] = _in_time(arcs[metric], about.device)
    footprint = footprint_of(about.model_format, chain.operators, about.device)
    arcs |= {"params": PARAMS, "macs": MACS, "flash_bytes": footprint.flash, "ram_bytes": footprint.ram}
    told = None if calibration is None else calibration.to_json()
    return TargetCosts(
        target,
        chain,
        arcs,
        metric,
        values,
        filled,
        calibration,
        correction,
        known,
        footprint,
        about.stack,
        about.device,
        fingerprint(about.stack.fingerprint, basis, told),
    )


def _predicted(
    lut: Lut, about: Description, metric: str, every: Mapping[Operator, float], chain: Chain, needed: bool
) -> Filled | None:
    """All operators of a space with a cost; None where some can have none, and none is needed.

    Raises:
        LutError: some can have none.
    """
    try:
        return fill(every, failed_operators(lut, about.stack, metric), chain.operators)
    except LutError as error:
        if not needed:
            return None
        missing = sum(op not in every for op in chain.operators)
        raise LutError(
            f"{metric}: {missing} of {len(chain.operators)} operators of this space have no row; {error.message}",
            remedy=error.remedy,
        ) from error


def predicted_text(filled: Filled) -> str:
    """How many operators are predicted, and how far that is off."""
    return (
        f"{len(filled.predicted)} of {len(filled.values)} operators predicted, off by "
        f"{100 * filled.error:.1f} % (cross-validated)"
    )


def _along(chain: Chain, costs: TargetCosts) -> Mapping[str, ArcMetric]:
    """A target's metrics along another precision's chain: the same blocks, arc by arc.

    Raises:
        ConfigurationError: the space's blocks are not the same at both precisions.
    """
    if costs.chain is chain:
        return costs.arcs
    sides = [[arc for arcs in side.arcs for arc in arcs] for side in (chain, costs.chain)]
    places = [[(arc.candidate, arc.start, arc.end) for arc in arcs] for arcs in sides]
    if places[0] != places[1]:
        raise ConfigurationError(
            "the blocks of this space differ between int8 and float32",
            remedy="give all targets one precision",
        )
    # By identity: equal arcs of two positions need not be equal at the other precision. The space keeps its arcs.
    other: dict[int, Arc] = {id(a): b for a, b in zip(*sides, strict=True)}

    def moved(found: ArcMetric) -> ArcMetric:
        return replace(found, value=lambda arc: found.value(other[id(arc)]))

    return {name: moved(found) for name, found in costs.arcs.items()}


def _in_time(cycles: ArcMetric, device: Device) -> ArcMetric:
    """The same sum in microseconds at the device's clock."""
    return _scaled(cycles, 1e6 / device.clock_hz)


def _scaled(found: ArcMetric, factor: float) -> ArcMetric:
    return replace(found, value=lambda arc: found.value(arc) * factor, base=found.base * factor)


def scope_of(chain: Chain) -> str:
    """Fingerprint of a space's operators, which a correction belongs to."""
    return fingerprint([op.signature for op in chain.operators])


def calibration_fingerprint(calibration: Calibration | None) -> str:
    """What a correction stands on; "" for sums that nothing calibrates."""
    return "" if calibration is None else fingerprint(calibration.to_json())


def factor_of(correction: Correction | None, calibration: Calibration | None) -> float:
    """The factor on calibrated sums; 1 for a correction of another calibration than today's."""
    if correction is None or correction.calibration != calibration_fingerprint(calibration):
        return 1.0
    return correction.factor


def evidence_text(costs: Costs, metric: str) -> str:
    """What a predicted value is, e.g. "predicted from host_wall"."""
    kind, origin = costs.table.evidence[metric].value, costs.table.origins.get(metric, "")
    return f"{kind} from {origin}" if origin else kind
