"""What networks cost on one target: its rows, predictions, calibration and plans, bound into metrics of a chain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from profilers.calibrate import Calibration
from profilers.correct import Correction, correction_history, rows_before
from profilers.cost import MACS, PARAMS, ArcMetric, operator_sum
from profilers.footprint import FLASH, RAM, Footprint, footprint_of, with_algorithms
from profilers.lut import Lut, Network
from profilers.plans import PlanSpace
from profilers.predicted import Filled, failed_operators, fill, measured_operators
from profilers.profile import session_metric
from profilers.settle import patch_operators
from profilers.steady import steady_table
from targets.session import Description, Device, describe
from toolchain.errors import LutError
from toolchain.export.native.plan import Plan, estimated_cycles
from toolchain.graph import Graph
from toolchain.graph.chain import Arc, Chain
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Stack
from toolchain.workflow.config import TargetSection
from toolchain.workflow.project import Project, fingerprint
from toolchain.workflow.sessions import CYCLES, LATENCY, explain_missing, metrics_of, other_stacks

PARAMETERS, OPERATIONS = "params", "macs"
COMPUTED = (PARAMETERS, OPERATIONS, FLASH, RAM)


@dataclass(frozen=True, eq=False)
class TargetCosts:
    """What an architecture costs on one target. Metrics have their plain names here.

    Attributes:
        target: of the project.
        chain: the space's operators at the target's precision.
        arcs: metric -> how it is made from the chain's arcs.
        metric: what the target measures: `latency_us`, `cycles` or `instructions`.
        values: operator -> value (a CPU's at its best speed), also of operators by other algorithms than the usual one;
            empty when nothing is budgeted or known.
        filled: which of them are predicted; None when none is.
        patched: measured values of operators that the space has with other heights: those of patches.
        calibration: correction of sums, or None.
        correction: what networks near the optimum said of the calibrated sums, or None (profilers.correct).
        known: operators of a network -> its measured value; those behind the correction.
        footprint: how bytes of flash and RAM are counted.
        plans: which algorithms the programs of the space can take; None on targets that take no programs.
        bounds: `flash_bytes` and `ram_bytes` that a plan must keep: the part's, and budgets (`under`).
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
    patched: Mapping[Operator, float]
    calibration: Calibration | None
    correction: Correction | None
    known: Mapping[tuple[Operator, ...], float]
    footprint: Footprint
    plans: PlanSpace | None
    bounds: Mapping[str, float]
    stack: Stack
    device: Device | None
    basis: str

    @property
    def planned(self) -> tuple[str, ...]:
        """The metrics that depend on the plan."""
        return tuple(name for name in self.arcs if name not in (PARAMETERS, OPERATIONS))

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

    def plan(self, graph: Graph) -> Plan:
        """The plan that a network is priced, written and deployed with here: the fastest within the bounds."""
        return self.footprint.plan(graph, self.bounds, self.cost_of)

    def policy(self, arc: Arc) -> Arc:
        """An arc with its operators' fastest algorithms that fit the RAM."""
        if self.plans is None:
            return arc
        return self.plans.policy(0.0, self.bounds.get(RAM, math.inf))(arc)

    def cost_of(self, op: Operator) -> float:
        """What plans are chosen by: the measured value of an operator under its algorithm, inf where it has none. An
        estimate where nothing is measured at all: then no time is reported either.
        """
        if not self.values:
            return estimated_cycles(op, op.algorithm)
        return self.values.get(op, self.patched.get(op, math.inf))

    def with_rows(self, rows: Mapping[Operator, float]) -> TargetCosts:
        """The same for networks' graphs (`of_graph`) with other values of some operators."""
        patched = {op: rows.get(op, value) for op, value in self.patched.items()}
        values = {op: rows.get(op, value) for op, value in self.values.items()}
        return replace(self, values=values, patched=patched)

    def shares(self, graph: Graph, plan: Plan) -> tuple[Operator, ...]:
        """The operators of a plan's patches that have no value: they are taken as shares of whole ones."""
        if not self.values:
            return ()
        return tuple(op for op in patch_operators(graph, plan) if self.cost_of(op) == math.inf)

    def of_graph(self, graph: Graph, plan: Plan | None = None) -> dict[str, float]:
        """A network's costs from its own graph under its plan; what is measured is the calibrated, corrected sum of its
        operators.

        Bytes, parameters and MACs are exact. Times cannot be: they are measured after deployment, or before
        (`decided`).
        """
        plan = self.plan(graph) if plan is None else plan
        counts = {"params": graph.params, "macs": graph.macs, **self.footprint.of_graph(graph, plan)}
        costs = {name: float(value) for name, value in counts.items()}
        if self.values:
            total = sum(self._node_cost(graph, plan, index) for index in range(len(graph.nodes)))
            if self.calibration is not None:
                total = float(self.calibration.predict(total, len(plan.operators(graph))))
            costs |= self.measured(total * self.factor)
        return costs

    def _node_cost(self, graph: Graph, plan: Plan, index: int) -> float:
        """Of one node. A patch's operator without a row costs its share of the whole one, as `choose_plan` takes it."""
        whole, algorithm = graph.nodes[index].operator, plan.algorithm(index)
        parts = [replace(op, algorithm=algorithm) for op in plan.parts(graph, index)]
        usual = self.values[replace(whole, algorithm=algorithm)]
        size = math.prod(whole.output)
        costs = ((op, self.cost_of(op)) for op in parts)
        return sum(usual * math.prod(op.output) / size if cost == math.inf else cost for op, cost in costs)

    def measured(self, value: float) -> dict[str, float]:
        """A value of the measured metric, on a board also as a time."""
        costs = {self.metric: value}
        if self.device is not None and self.metric == CYCLES:
            costs[LATENCY] = value * 1e6 / self.device.clock_hz
        return costs

    def decided(self, graph: Graph) -> dict[str, float]:
        """What decisions rest on: as `of_graph`, but of a network that was measured, what was measured."""
        plan = self.plan(graph)
        costs, value = self.of_graph(graph, plan), self.known.get(plan.operators(graph))
        return costs if value is None or not self.values else costs | self.measured(value)


def open_target_costs(
    project: Project, target: TargetSection, budgeted: Sequence[str], strict: bool
) -> TargetCosts:
    """The costs of one target; arguments and errors as `costs.open_costs`, metrics by their plain names."""
    chain = project.space.chain(target.precision)
    about = describe(target.url)
    metric, measured = session_metric(about), metrics_of(about)
    for asked in budgeted:
        if asked not in (*measured, *COMPUTED):
            raise explain_missing(target.url, asked, about, (*measured, *COMPUTED))
    needed = bool(set(measured) & set(budgeted))
    others = [op for op in with_algorithms(about.model_format, chain.operators) if op.algorithm != "direct"]
    values: Mapping[Operator, float] = {}
    filled = None
    patched: Mapping[Operator, float] = {}
    calibration = None
    correction = None
    known: Mapping[tuple[Operator, ...], float] = {}
    evidence: Evidence | None = None
    older = ""
    basis: list[tuple[str, str]] = []
    if project.lut_path.exists():
        with Lut.open(project.lut_path) as lut:
            table = steady_table(lut, about.stack, metric)
            every = measured_operators(table)
            values = {op: every[op] for op in (*chain.operators, *others) if op in every}
            alike = {_but_for_rows(op) for op in (*chain.operators, *others)}
            patched = {op: v for op, v in every.items() if op not in values and _but_for_rows(op) in alike}
            missing = [op for op in chain.operators if op not in every]
            if missing and needed and strict:
                every_one = len(chain.operators) + len(others)
                raise LutError(
                    f"{metric} on {target.name}: {every_one - len(values)} of {every_one} operators of this space have "
                    "no row, and predictions are refused",
                    remedy="run `boardfit profile` without --share, or search without --strict",
                )
            if values and not strict and len(values) < len(chain.operators) + len(others):
                filled = _predicted(lut, about, metric, every, chain, others, needed)
                values = filled.values if filled else values
                filled = filled if filled and filled.predicted else None
            evidence = table.evidence
            older = "" if values else other_stacks(lut, about)
            row = lut.calibration(about.stack, metric)
            if row is not None:
                calibration = Calibration.from_json(row.text)
            history = [c for _, c in correction_history(lut, about.stack, metric, scope_of(chain))]
            correction = history[-1] if history else None
            behind = set() if correction is None else {network.key for network in correction.networks}
            known = {
                subject.operators: value
                for subject, value in table.values.items()
                if isinstance(subject, Network) and subject.fingerprint in behind
            }
            speed = table.best_anchor_us or 1.0
            # As it was before rounds added to it: what they learn is told apart (`Costs.corrections`).
            resting = rows_before(
                history, {op.signature: v / speed for op, v in every.items() if op not in patched}
            )
            named = {op.signature for op in values}
            guessed = filled is not None or any(row.before is None for c in history for row in c.rows)
            basis = sorted((name, f"{v:.9g}") for name, v in resting.items() if guessed or name in named)
    missing = [op for op in chain.operators if op not in values]
    if missing and not needed:
        values, patched, calibration, correction, basis = (
            {},
            {},
            None,
            None,
            [],
        )  # half a table prices nothing
    elif missing and not values:
        raise LutError(
            f"{project.lut_path.name} has no rows of {about.stack.label} for this space{older}",
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
    plans = _plans(chain, others, values, arcs.get(metric), footprint)
    arcs |= {"params": PARAMS, "macs": MACS, "flash_bytes": footprint.flash, "ram_bytes": footprint.ram}
    told = None if calibration is None else calibration.to_json()
    return TargetCosts(
        target,
        chain,
        arcs,
        metric,
        values,
        filled,
        patched,
        calibration,
        correction,
        known,
        footprint,
        plans,
        footprint.limits,
        about.stack,
        about.device,
        fingerprint(about.stack.fingerprint, basis, told),
    )


def _but_for_rows(op: Operator) -> tuple[object, ...]:
    """What a patch's operator has in common with the whole one."""
    channels = tuple(shape[3] if len(shape) == 4 else shape for shape in op.inputs)
    return (op.kind, channels, op.output[2:], op.kernel, op.stride, op.activation, op.dtype, op.algorithm)


def _plans(
    chain: Chain,
    others: Sequence[Operator],
    values: Mapping[Operator, float],
    cost: ArcMetric | None,
    footprint: Footprint,
) -> PlanSpace | None:
    """The choices that networks of a space have. Where nothing is measured an estimate decides; no time is told then.

    Args:
        others: operators of the chain by other algorithms.
        cost: of arcs, from `values`; None where nothing is measured.
    """
    options: dict[Operator, tuple[Operator, ...]] = {}
    for op in others:
        if cost is None or op in values:
            usual = replace(op, algorithm="direct")
            options[usual] = (*options.get(usual, (usual,)), op)
    if footprint.isa is None:
        return None
    choosing = {op for ways in options.values() for op in ways}
    estimated = ArcMetric(
        "sum", lambda arc: sum(estimated_cycles(op, op.algorithm) for op in arc.operators if op in choosing)
    )
    return PlanSpace(options, cost or estimated, footprint.flash, footprint.ram)


def _predicted(
    lut: Lut,
    about: Description,
    metric: str,
    every: Mapping[Operator, float],
    chain: Chain,
    others: Sequence[Operator],
    needed: bool,
) -> Filled | None:
    """All operators of a space with a cost; None where some can have none, and none is needed.

    Raises:
        LutError: some can have none.
    """
    try:
        return fill(every, failed_operators(lut, about.stack, metric), chain.operators, others)
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
