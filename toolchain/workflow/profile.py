"""The profile stage: the operators of the space, and a few whole networks, measured into the table on every target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from profilers.calibrate import Calibration, calibrate, keep_constant
from profilers.footprint import footprint_of, with_algorithms
from profilers.lut import Failure, Lut, Network, Subject
from profilers.predicted import (
    Filled,
    KindError,
    failed_operators,
    fill,
    keep_errors,
    measured_operators,
    next_to_measure,
)
from profilers.profile import ProfileReport, profile_networks, profile_operators, session_metric
from profilers.settle import settled_plans
from profilers.single import CONSTANT_NETWORKS, constant_models
from profilers.steady import SteadyTable, steady_table
from targets.session import Session, model_format
from toolchain.errors import DeviceError, LutError
from toolchain.export.native.plan import Plan
from toolchain.graph import Graph
from toolchain.graph.chain import Chain
from toolchain.graph.operator import DType, Operator
from toolchain.measurement import Stack
from toolchain.spaces import Architecture
from toolchain.workflow.config import TargetSection, parse_share
from toolchain.workflow.exported import model_file
from toolchain.workflow.models import structural_graph, structural_onnx
from toolchain.workflow.project import Progress, Project, silent
from toolchain.workflow.sessions import open_session
from toolchain.workflow.targets import each

NETWORK_SEED = (
    0x5EED  # which networks calibrate must not change with the project's seed: rows would not be found
)
ROUNDS = 4  # in which a share of the space is chosen: each learns from what the ones before measured


@dataclass(frozen=True)
class TargetProfile:
    """What was done on one target.

    Attributes:
        name, url: the target's.
        stack: what the rows belong to.
        operators: what happened to the operators of the space.
        networks: what happened to the whole networks; None when the project asks for none.
        calibration: the correction of sums and its error on held-out networks; None without networks.
        failures: (signature, reason) of operators that the target could not measure.
        slow: rows of this space that were measured while the machine was slow; they are used corrected.
        space: distinct operators of the space, on a board once for each algorithm.
        predicted: those without a row, which will be predicted.
        kinds: of those, how far each kind's predictions are off.
        note: what every figure must be read with, e.g. that no hardware was used; may be empty.
    """

    name: str
    url: str
    stack: Stack
    operators: ProfileReport
    networks: ProfileReport | None
    calibration: Calibration | None
    failures: tuple[tuple[str, str], ...]
    slow: int
    space: int
    predicted: int = 0
    kinds: Mapping[str, KindError] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ProfileOutcome:
    """What the stage did.

    Attributes:
        table: file of the table, which holds the rows of all stacks.
        targets: what was done on each, in the order of the project file.
    """

    table: str
    targets: tuple[TargetProfile, ...]


@dataclass(frozen=True)
class _Wanted:
    """What is measured: the same for every target of a precision.

    Attributes:
        chain: the space. graphs: whole networks that calibrate, by name.
        files: int8 ONNX files of those networks, where a target takes them.
    """

    chain: Chain
    graphs: Mapping[str, Graph]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class _How:
    """What the user asked of this run."""

    share: float
    retry: bool
    wait: bool


def profile(
    project: Project,
    *,
    progress: Progress = silent,
    retry: bool = False,
    wait: bool = False,
    share: str = "",
) -> ProfileOutcome:
    """Measure what the table lacks on every target, store each row as it comes, fit the calibrations.

    Independent devices work side by side (`workflow.targets.each`).

    Args:
        retry: measure failed and unstable rows again.
        wait: wait for another process that measures on a device.
        share: of the operators, e.g. "25 %"; by default the project file's.

    Raises:
        DeviceError: a target cannot be opened or is busy. Rows measured before stay.
        ConfigurationError: a target takes no model of its precision.
    """
    targets = project.config.target
    how = _How(parse_share(share or project.config.profile.share), retry, wait)
    for target in targets:
        model_file(model_format(target.url), target.precision)  # could be measured, but never deployed
    # Made here, not beside the measuring: that has the machine for itself, and torch's seeds are the process's.
    wanted = {
        precision: _prepare(project, precision, progress)
        for precision in dict.fromkeys(target.precision for target in targets)
    }
    found = each(
        targets, lambda target, tell: _profile(project, target, wanted[target.precision], how, tell), progress
    )
    return ProfileOutcome(str(project.lut_path), tuple(found))


def calibration_networks(project: Project, count: int) -> list[Architecture]:
    """The architectures that calibrate: drawn from the space, the same in every run."""
    rng = np.random.default_rng(NETWORK_SEED)
    drawn = [project.space.sample(rng) for _ in range(count)]
    return list(dict.fromkeys(drawn))


def _prepare(project: Project, precision: DType, progress: Progress) -> _Wanted:
    progress("space", 0, 1, "lowering blocks")
    chain = project.space.chain(precision)
    progress("space", 1, 1, f"{len(chain.operators)} distinct operators")
    int8_onnx = precision == "int8" and any(
        target.precision == "int8" and model_format(target.url) == "onnx" for target in project.config.target
    )
    graphs, files = {}, {}
    architectures = calibration_networks(project, project.config.profile.networks)
    for index, architecture in enumerate(architectures):
        name = project.space.encode(architecture)
        graphs[name] = structural_graph(project, architecture, precision)
        if int8_onnx:
            files[name] = structural_onnx(project, architecture)
        progress("networks", index + 1, len(architectures), "building")
    return _Wanted(chain, graphs, files)


def _profile(
    project: Project, target: TargetSection, wanted: _Wanted, how: _How, progress: Progress
) -> TargetProfile:
    """One target, with a connection to the table of its own (SQLite's belong to a thread)."""
    with (
        Lut.open(project.lut_path) as lut,
        open_session(target.url, target.precision, progress) as session,
    ):
        stack, metric = session.stack, session_metric(session)
        space = with_algorithms(session.model_format, wanted.chain.operators)
        operators = _operators(lut, session, space, how, progress)
        graphs = {**(constant_models() if session.device is not None else {}), **wanted.graphs}
        files = wanted.files if session.model_format == "onnx" else {}
        plans = _plans(lut, session, graphs, how, progress)
        networks = _networks(lut, session, graphs, files, plans, how, progress) if graphs else None
        table = steady_table(lut, stack, metric)
        filled = _filled(lut, stack, metric, table, space)
        calibration = None
        if networks is not None:
            changed = operators.measured + networks.measured > 0
            calibration = _calibrate(lut, session, graphs, table, filled, changed)
        inside = set(space)
        failures = tuple(
            (row.subject.signature, row.outcome.reason)
            for row in lut.rows(stack, metric, subject="operator")
            if isinstance(row.outcome, Failure)
            and isinstance(row.subject, Operator)
            and row.subject in inside
        )
        return TargetProfile(
            target.name, target.url, stack, operators, networks, calibration, failures, len(table.slow & inside),
            len(space), len(filled.predicted), filled.kinds, "" if session.device is None else session.device.note,
        )  # fmt: skip


def _operators(
    lut: Lut, session: Session, space: Sequence[Operator], how: _How, progress: Progress
) -> ProfileReport:
    """Measure the space, or so much of it as was asked for, in rounds that learn from one another."""

    def measure(chosen: Sequence[Operator], retry: bool) -> ProfileReport:
        return profile_operators(
            lut,
            session,
            chosen,
            retry_failures=retry,
            retry_unstable=retry,
            again=_slow(lut, session) if retry else (),
            progress=lambda done, total: progress("profile", done, total, "operators"),
            wait=how.wait,
        )

    if how.share >= 1:
        return measure(space, how.retry)
    stack, metric = session.stack, session_metric(session)
    there = lut.known(stack, metric, "operator")
    reports = [measure([op for op in space if op.signature in there], how.retry)]
    for number in range(1, ROUNDS + 1):
        measured = measured_operators(steady_table(lut, stack, metric))
        refused = failed_operators(lut, stack, metric)
        able = [op for op in space if op not in refused]
        reports.append(measure(next_to_measure(able, measured, how.share, number / ROUNDS), False))
    failed = {name: why for report in reports for name, why in report.failed.items()}
    return ProfileReport(
        sum(report.measured for report in reports),
        reports[0].skipped,
        failed,
        sum(report.unstable for report in reports),
        sum(report.seconds for report in reports),
    )


def _filled(lut: Lut, stack: Stack, metric: str, table: SteadyTable, space: Sequence[Operator]) -> Filled:
    """What stands in for the operators without a row; how far that is off is kept in the table.

    Operators that cannot be predicted are left out: the search says what is missing, if it needs them.
    """
    measured, refused = measured_operators(table), failed_operators(lut, stack, metric)
    usual = [op for op in space if op.algorithm == "direct" and op not in refused]
    try:
        filled = fill(measured, refused, usual, [op for op in space if op.algorithm != "direct"])
    except LutError:
        return fill(measured, refused, [op for op in space if op in measured])
    if filled.predicted:
        keep_errors(lut, stack, metric, filled.kinds)
    return filled


def _slow(lut: Lut, session: Session) -> list[Operator]:
    """Operators whose rows come from a slow phase of the machine."""
    found = steady_table(lut, session.stack, session_metric(session)).slow
    return [subject for subject in found if isinstance(subject, Operator)]


def _plans(
    lut: Lut, session: Session, graphs: Mapping[str, Graph], how: _How, progress: Progress
) -> dict[str, Plan]:
    """The fastest plans that the part has room for: networks are measured as they would be deployed."""

    def choose(graph: Graph, values: Mapping[Operator, float]) -> Plan:
        footprint = footprint_of(session.model_format, graph.operators, session.device)
        return footprint.plan(graph, footprint.limits, lambda op: values.get(op, math.inf))

    return settled_plans(
        lut, session, graphs, choose,
        wait=how.wait, progress=lambda done, total: progress("patches", done, total, "operators"),
    )  # fmt: skip


def _networks(
    lut: Lut,
    session: Session,
    graphs: Mapping[str, Graph],
    files: Mapping[str, bytes],
    plans: Mapping[str, Plan],
    how: _How,
    progress: Progress,
) -> ProfileReport:
    return profile_networks(
        lut,
        session,
        graphs,
        files=files,
        plans=plans,
        retry_failures=how.retry,
        retry_unstable=how.retry,
        progress=lambda done, total: progress("calibrate", done, total, "whole networks"),
        wait=how.wait,
    )


def _calibrate(
    lut: Lut, session: Session, graphs: Mapping[str, Graph], table: SteadyTable, filled: Filled, changed: bool
) -> Calibration | None:
    """The calibration of today's rows: the kept one, where nothing was measured since, else a new one."""
    metric = session_metric(session)
    values = {**{op: filled.values[op] for op in filled.predicted}, **measured_operators(table)}
    usable = [
        (subject.name, subject.operators, value)
        for subject, value in table.values.items()
        if isinstance(subject, Network)
        and subject.name not in CONSTANT_NETWORKS
        and all(op in values for op in subject.operators)
    ]
    row = lut.calibration(session.stack, metric)
    if row is not None and not changed:
        kept = Calibration.from_json(row.text)
        # A run that was killed between the last network and the fit leaves one of fewer networks behind. That a network
        # was measured again since, as a candidate or deployed, is no reason to move all prices.
        if max(kept.n_fit, kept.n_held_out) >= sum(name in graphs for name, _, _ in usable):
            return kept
    if session.device is not None and table.evidence is not None:
        single, double = _constants(table.values)
        return keep_constant(
            lut, session.stack, 2 * single - double, values, usable, metric=metric, evidence=table.evidence
        )
    if not usable or table.evidence is None:
        return None
    return calibrate(lut, session.stack, values, usable, metric=metric, evidence=table.evidence)


def _constants(values: Mapping[Subject, float]) -> tuple[float, float]:
    """What the networks of one and of two equal operators cost.

    Raises:
        DeviceError: the device could not measure them.
    """
    found = {s.name: value for s, value in values.items() if isinstance(s, Network)}
    if not all(name in found for name in CONSTANT_NETWORKS):
        raise DeviceError(
            "the runtime's constant was not measured: the device refused a network of one operator",
            remedy="run `boardfit profile --retry`",
        )
    one, two = CONSTANT_NETWORKS
    return found[one], found[two]
