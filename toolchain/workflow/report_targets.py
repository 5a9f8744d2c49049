"""What a report says of each target: the winner's operators, its memory over time, and what the table knows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from profilers.calibrate import Calibration
from profilers.footprint import ISA, with_algorithms
from profilers.lut import CalibrationRow, Failure, Lut, Network, Row
from profilers.predicted import fill, measured_operators
from profilers.single import CONSTANT_NETWORKS
from profilers.steady import SteadyTable, steady_table
from targets.session import model_format
from toolchain.errors import BoardfitError, LutError
from toolchain.export.native import footprint as native
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.graph import Graph
from toolchain.graph.memory import MemoryPlan, plan, scratch_name
from toolchain.graph.operator import Operator
from toolchain.graph.tflite_reader import read_tflite
from toolchain.measurement import MEASURED_METRICS, Stack
from toolchain.report.document import Missing
from toolchain.report.document_target import Kind, Memory, Place, Sample, Step, Table, Target
from toolchain.report.number import Number, finite, unit_of
from toolchain.workflow.config import TargetSection
from toolchain.workflow.exported import FLOAT_TFLITE, INT8_TFLITE
from toolchain.workflow.project import Project

PROFILE = "`boardfit profile`"


def gather_target(
    project: Project,
    section: TargetSection,
    prices: Mapping[str, Any],
    deployed: Mapping[str, Any] | None,
    exported: bool,
    missing: list[Missing],
) -> Target:
    """One target of the project.

    Args:
        prices: its entry in the search's record; empty where no search has finished.
        deployed: its entry in the deployment's record, where that is of the network that the search found.
        exported: the files of that network stand in the model folder.
        missing: gets what cannot be told.
    """
    stack = str(prices.get("stack", ""))
    fields: Mapping[str, str] = {}
    metric = ""
    steps: tuple[Step, ...] = ()
    overhead, table = None, None
    graph = _graph(project, section) if exported else None
    written = Plan.from_dict(prices["plan"]) if prices.get("plan") else DIRECT
    if project.lut_path.exists():
        try:
            with Lut.open(project.lut_path, read_only=True) as lut:
                known = {one.fingerprint: one for one in lut.stacks()}
                if stack not in known:
                    missing.append(
                        Missing(
                            f"costs of operators on {section.name}",
                            f"{project.lut_path.name} has no rows of the stack that the search's prices rest on",
                            PROFILE,
                        )
                    )
                else:
                    fields = known[stack].as_dict()
                    metric = measured_metric(lut, known[stack])
                    steady = steady_table(lut, known[stack], metric)
                    calibration = _calibration(lut.calibration(known[stack], metric))
                    steps = () if graph is None else _steps(graph, written, steady, stack, fields)
                    overhead = _overhead(calibration, stack)
                    table = _table(project, section, lut, known[stack], steady, calibration)
        except BoardfitError as error:
            missing.append(
                Missing(
                    f"the lookup table's rows of {section.name}",
                    error.message,
                    error.remedy or PROFILE,
                    damaged=True,
                )
            )
    else:
        missing.append(Missing("costs of operators", f"there is no {project.lut_path.name} yet", PROFILE))
    if table is not None:
        _note_gaps(section.name, table, missing)
    return Target(
        section.name,
        section.url,
        section.precision,
        stack,
        str((deployed or prices).get("note", "")),
        str((deployed or {}).get("place", "")),
        str((deployed or {}).get("model", "")),
        metric,
        steps,
        overhead,
        None if graph is None else _memory(graph, written, section, stack, deployed, missing),
        table,
        dict((deployed or {}).get("details", {})),
        (deployed or {}).get("slowdown"),
    )


def measured_metric(lut: Lut, stack: Stack) -> str:
    """What the rows of a stack are of; `latency_us` where there is none."""
    found = {row.metric for row in lut.rows(stack)}
    return next((m for m in dict.fromkeys(MEASURED_METRICS.values()) if m in found), "latency_us")


def stacks_of(project: Project) -> dict[str, Mapping[str, str]]:
    """Every stack of the project's table by its fingerprint; empty where there is no readable table."""
    try:
        with Lut.open(project.lut_path, read_only=True) as lut:
            return {one.fingerprint: one.as_dict() for one in lut.stacks()}
    except LutError:
        return {}


def _graph(project: Project, section: TargetSection) -> Graph | None:
    path = project.model_folder / (INT8_TFLITE if section.precision == "int8" else FLOAT_TFLITE)
    try:
        return read_tflite(path.read_bytes())
    except (OSError, BoardfitError):
        return None


def _steps(
    graph: Graph, written: Plan, table: SteadyTable, stack: str, fields: Mapping[str, str]
) -> tuple[Step, ...]:
    """Every operator of the network with its row; None where it has none (its cost was predicted)."""
    evidence = table.evidence
    clock = fields.get("clock_hz", "")
    found = []
    for index, node in enumerate(graph.nodes):
        algorithm = written.algorithm(index)
        parts = [replace(op, algorithm=algorithm) for op in written.parts(graph, index)]
        number = time = None
        if evidence is not None and all(op in table.values for op in parts):
            value = sum(table.values[op] for op in parts)
            unit = "us" if evidence.value == "host_wall" else "count"
            number = Number(value, unit, evidence.value, "", stack)
            if clock.isdecimal() and evidence.value.startswith("cycles"):
                time = Number(value * 1e6 / int(clock), "us", evidence.value, "", stack)
        how = [
            *([algorithm] if algorithm != "direct" else []),
            *([f"{len(parts)} patches"] * (len(parts) > 1)),
        ]
        found.append(Step(index + 1, node.operator.signature, number, time, ", ".join(how)))
    return tuple(found)


def _overhead(calibration: Calibration | None, stack: str) -> Number | None:
    """What a run costs beside its operators, where that was measured."""
    if calibration is None or calibration.method != "measured constant":
        return None
    return Number(calibration.intercept, unit_of(calibration.metric), calibration.evidence.value, "", stack)


def _formula(calibration: Calibration | None) -> str:
    if calibration is None:
        return ""
    if calibration.method == "measured constant":
        return f"the sum of the operators' own + {calibration.intercept:,.0f} for the runtime"
    sign = "-" if calibration.per_operator < 0 else "+"
    return (
        f"{calibration.intercept:.3g} + {calibration.scale:.3g} x sum {sign} {abs(calibration.per_operator):.3g} x "
        f"operators, fitted to {calibration.n_fit} networks"
    )


def _memory(
    graph: Graph,
    written: Plan,
    section: TargetSection,
    stack: str,
    deployed: Mapping[str, Any] | None,
    missing: list[Missing],
) -> Memory:
    """Where activations and scratch memory lie, as the program or TensorFlow Lite Micro plans it."""
    form = model_format(section.url)
    if form in ISA:
        found, whose = native.memory_plan(graph, ISA[form], plan=written), "native runtime"
    else:
        found, whose = plan(graph), "TensorFlow Lite Micro's plan (greedy)"
    details = (deployed or {}).get("details", {})
    device = None
    if str(details.get("arena_bytes", "")).isdecimal():
        device = Number(float(details["arena_bytes"]), "bytes", "counted", "", stack)
    scratch = {scratch_name(index) for index in range(len(graph.nodes))}
    if form in ISA and device is not None and device.value != found.arena_bytes:
        missing.append(
            Missing(
                f"memory over time on {section.name} as it was deployed",
                f"the device reports an arena of {device.value:,.0f} bytes, the plan drawn here has "
                f"{found.arena_bytes:,}: it was deployed under another plan",
                "`boardfit deploy`",
            )
        )
    return Memory(
        whose,
        tuple(node.operator.signature for node in graph.nodes),
        tuple(
            Place(t.name, found.offsets[t.name], t.size, t.first, t.last, t.name in scratch)
            for t in found.tensors
        ),
        Number(float(found.arena_bytes), "bytes", "computed"),
        Number(float(found.lower_bound), "bytes", "computed"),
        _live(found, len(graph.nodes)),
        device,
    )


def _live(found: MemoryPlan, steps: int) -> tuple[int, ...]:
    return tuple(sum(t.size for t in found.tensors if t.first <= step <= t.last) for step in range(steps + 1))


def _calibration(row: CalibrationRow | None) -> Calibration | None:
    return None if row is None else Calibration.from_json(row.text)


def _table(
    project: Project,
    section: TargetSection,
    lut: Lut,
    stack: Stack,
    steady: SteadyTable,
    calibration: Calibration | None,
) -> Table:
    metric = measured_metric(lut, stack)
    space = with_algorithms(model_format(section.url), project.space.chain(section.precision).operators)
    rows = {row.subject: row for row in lut.rows(stack, metric, subject="operator")}
    kinds = Counter(map(_kind, space))
    measured = [op for op in space if op in rows and not rows[op].failed]
    failed = [op for op in space if op in rows and rows[op].failed]
    off = _predicted_error(steady, set(failed), space)

    def count(operators: Sequence[Operator], kind: str) -> int:
        return sum(_kind(op) == kind for op in operators)

    unstable = [op for op in measured if rows[op].unstable]
    times = sorted(row.outcome.taken_at for row in rows.values())
    held = None if calibration is None else calibration
    return Table(
        metric,
        tuple(
            Kind(
                kind,
                number,
                count(measured, kind),
                number - count(measured, kind) - count(failed, kind),
                count(failed, kind),
                count(unstable, kind),
            )
            for kind, number in sorted(kinds.items())
        ),
        tuple((op.signature, _reason(rows[op])) for op in failed),
        finite(held.mape) if held else None,
        held.method if held else "",
        held.n_held_out if held else 0,
        finite(held.spearman) if held else None,
        off,
        () if calibration is None else _samples(steady, calibration, stack.fingerprint),
        _formula(calibration),
        tuple((row.created_at, row.text) for row in lut.calibration_history(stack, metric)),
        times[0] if times else "",
        times[-1] if times else "",
    )


def _kind(op: Operator) -> str:
    return op.kind if op.algorithm == "direct" else f"{op.kind}, {op.algorithm}"


def _reason(row: Row) -> str:
    return row.outcome.reason if isinstance(row.outcome, Failure) else ""


def _predicted_error(steady: SteadyTable, refused: set[Operator], space: Sequence[Operator]) -> float | None:
    """How far predictions of operators without a row are off, per cent; None where none is predicted or can be."""
    try:
        filled = fill(measured_operators(steady), refused, [op for op in space if op not in refused])
    except LutError:
        return None
    return None if math.isnan(filled.error) else 100 * filled.error


def _samples(steady: SteadyTable, calibration: Calibration, stack: str) -> tuple[Sample, ...]:
    """Whole networks that were measured, by the table and as measured."""
    assert steady.evidence is not None  # there is a calibration, so there are rows
    unit, evidence = unit_of(calibration.metric), steady.evidence.value
    found = []
    for subject, value in steady.values.items():
        if not isinstance(subject, Network) or subject.name in CONSTANT_NETWORKS:
            continue
        if not all(op in steady.values for op in subject.operators):
            continue
        raw = sum(steady.values[op] for op in subject.operators)
        predicted = float(calibration.predict(raw, len(subject.operators)))
        found.append(
            Sample(
                subject.name,
                Number(predicted, unit, "predicted", evidence, stack),
                Number(value, unit, evidence, "", stack),
            )
        )
    return tuple(sorted(found, key=lambda sample: sample.measured.value or 0.0))


def _note_gaps(name: str, table: Table, missing: list[Missing]) -> None:
    predicted = sum(kind.predicted for kind in table.kinds)
    failed = sum(kind.failed for kind in table.kinds)
    unstable = sum(kind.unstable for kind in table.kinds)
    if predicted:
        off = (
            ""
            if table.predicted_error is None
            else f", off by {table.predicted_error:.1f} % (cross-validated)"
        )
        missing.append(
            Missing(
                f"{predicted} of {table.operators} operators of the space on {name}",
                f"they were not measured: their cost is predicted{off}",
                "`boardfit profile --share '100 %'`",
            )
        )
    if failed:
        missing.append(
            Missing(
                f"{failed} operators on {name}",
                "the target could not measure them",
                "`boardfit profile --retry`",
            )
        )
    if unstable:
        missing.append(
            Missing(
                f"{unstable} operators on {name}, steadily",
                "they were measured while the machine was noisy (unstable)",
                "`boardfit profile --retry`",
            )
        )
    if not table.samples:
        missing.append(
            Missing(
                f"how far sums of operators are off on {name}",
                "no whole network of the space was measured",
                f"set `profile.networks`, then {PROFILE}",
            )
        )
