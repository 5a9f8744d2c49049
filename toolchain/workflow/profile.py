"""The profile stage: every operator of the space, and a few whole networks, measured into the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from profilers.calibrate import Calibration, calibrate, keep_constant
from profilers.lut import Failure, Lut, Network, Subject
from profilers.profile import ProfileReport, profile_networks, profile_operators, session_metric
from profilers.single import CONSTANT_NETWORKS, constant_models
from profilers.steady import steady_table
from targets.session import Session
from toolchain.errors import DeviceError
from toolchain.graph import Graph
from toolchain.graph.operator import Operator
from toolchain.measurement import Stack
from toolchain.spaces import Architecture
from toolchain.workflow.deploy import model_file
from toolchain.workflow.models import structural_graph, structural_onnx
from toolchain.workflow.project import Progress, Project, silent
from toolchain.workflow.sessions import open_session

NETWORK_SEED = (
    0x5EED  # which networks calibrate must not change with the project's seed: rows would not be found
)


@dataclass(frozen=True)
class ProfileOutcome:
    """What the stage did.

    Attributes:
        stack: what the rows belong to.
        table: file of the table.
        operators: what happened to the operators of the space.
        networks: what happened to the whole networks; None when the project asks for none.
        calibration: the correction of sums and its error on held-out networks; None without networks.
        failures: (signature, reason) of operators that the target could not measure.
        slow: rows of this space that were measured while the machine was slow; they are used corrected.
        note: what every figure must be read with, e.g. that no hardware was used; may be empty.
    """

    stack: Stack
    table: str
    operators: ProfileReport
    networks: ProfileReport | None
    calibration: Calibration | None
    failures: tuple[tuple[str, str], ...]
    slow: int
    note: str = ""


def profile(
    project: Project,
    *,
    progress: Progress = silent,
    retry: bool = False,
    wait: bool = False,
) -> ProfileOutcome:
    """Measure what the table lacks, store each row as it comes, fit the calibration.

    Args:
        retry: measure failed and unstable rows again.
        wait: wait for another process that measures on the device.

    Raises:
        DeviceError: the target cannot be opened or is busy. Rows measured before stay.
        ConfigurationError: the target takes no model of this precision.
    """
    precision = project.config.target.precision
    progress("space", 0, 1, "lowering blocks")
    chain = project.space.chain(precision)
    progress("space", 1, 1, f"{len(chain.operators)} distinct operators")
    with Lut.open(project.lut_path) as lut, open_session(project.config.target.url, precision) as session:
        model_file(session.model_format, precision)  # refuses what could be measured but never deployed
        operators = profile_operators(
            lut,
            session,
            chain.operators,
            retry_failures=retry,
            retry_unstable=retry,
            again=_slow(lut, session) if retry else (),
            progress=lambda done, total: progress("profile", done, total, "operators"),
            wait=wait,
        )
        networks = None
        calibration = None
        metric = session_metric(session)
        if project.config.profile.networks or session.device is not None:
            networks, calibration = _calibrate(
                project, lut, session, progress, retry, wait, operators.measured > 0
            )
        wanted = set(chain.operators)
        failures = tuple(
            (row.subject.signature, row.outcome.reason)
            for row in lut.rows(session.stack, metric, subject="operator")
            if isinstance(row.outcome, Failure)
            and isinstance(row.subject, Operator)
            and row.subject in wanted
        )
        slow = len(steady_table(lut, session.stack, metric).slow & wanted)
        return ProfileOutcome(
            session.stack, str(project.lut_path), operators, networks, calibration, failures, slow,
            "" if session.device is None else session.device.note,
        )  # fmt: skip


def calibration_networks(project: Project, count: int) -> list[Architecture]:
    """The architectures that calibrate: drawn from the space, the same in every run."""
    rng = np.random.default_rng(NETWORK_SEED)
    drawn = [project.space.sample(rng) for _ in range(count)]
    return list(dict.fromkeys(drawn))


def _slow(lut: Lut, session: Session) -> list[Operator]:
    """Operators whose rows come from a slow phase of the machine."""
    found = steady_table(lut, session.stack, session_metric(session)).slow
    return [subject for subject in found if isinstance(subject, Operator)]


def _calibrate(
    project: Project,
    lut: Lut,
    session: Session,
    progress: Progress,
    retry: bool,
    wait: bool,
    operators_changed: bool,
) -> tuple[ProfileReport, Calibration | None]:
    metric = session_metric(session)
    graphs: dict[str, Graph] = {}
    if session.device is not None:
        graphs |= constant_models()
    files: dict[str, bytes] = {}
    int8_onnx = session.model_format == "onnx" and project.config.target.precision == "int8"
    wanted = calibration_networks(project, project.config.profile.networks)
    for index, architecture in enumerate(wanted):
        name = project.space.encode(architecture)
        graphs[name] = structural_graph(project, architecture)
        if int8_onnx:
            files[name] = structural_onnx(project, architecture)
        progress("networks", index + 1, len(wanted), "building")
    report = profile_networks(
        lut,
        session,
        graphs,
        files=files,
        retry_failures=retry,
        retry_unstable=retry,
        progress=lambda done, total: progress("calibrate", done, total, "whole networks"),
        wait=wait,
    )
    kept = lut.calibration(session.stack, metric)
    newest = max(
        (
            row.outcome.taken_at
            for row in lut.rows(session.stack, metric, subject="network")
            if isinstance(row.subject, Network) and row.subject.name in graphs
        ),
        default="",
    )
    # A run that was killed between the last network and the fit leaves an older calibration behind.
    fresh = kept is not None and kept.created_at >= newest
    if kept is not None and fresh and not report.measured and not operators_changed:
        return report, Calibration.from_json(kept.text)
    table = steady_table(lut, session.stack, metric)
    values = {subject: value for subject, value in table.values.items() if isinstance(subject, Operator)}
    usable = [
        (subject.name, subject.operators, value)
        for subject, value in table.values.items()
        if isinstance(subject, Network)
        and subject.name not in CONSTANT_NETWORKS
        and all(op in values for op in subject.operators)
    ]
    if session.device is not None and table.evidence is not None:
        single, double = _constants(table.values)
        return report, keep_constant(
            lut, session.stack, 2 * single - double, values, usable, metric=metric, evidence=table.evidence
        )
    if not usable or table.evidence is None:
        return report, None
    return report, calibrate(lut, session.stack, values, usable, metric=metric, evidence=table.evidence)


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
