"""The deploy stage: the model goes to the target, is checked and measured there, and stands beside the prediction."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from profilers.footprint import footprint_of
from profilers.lut import Lut, Network
from profilers.profile import session_metric
from profilers.settle import settled_plans
from profilers.steady import best_anchor, slowdown, steady_table
from targets.session import Job, Session
from toolchain.errors import ConfigurationError, DeviceError, VerificationError
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.graph import Graph
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack
from toolchain.report.comparison import ComparisonRow, compare
from toolchain.units import Budget
from toolchain.workflow.accuracy import AccuracyStep, accuracy_steps
from toolchain.workflow.config import TargetSection
from toolchain.workflow.deploy_check import check_outputs, read_exported
from toolchain.workflow.exported import (
    FLOAT_TFLITE,
    INT8_TFLITE,
    MODEL_JSON,
    check_exported,
    model_file,
    programs,
)
from toolchain.workflow.project import Progress, Project, silent, target_called
from toolchain.workflow.sessions import in_time, open_session
from toolchain.workflow.target_costs import open_target_costs
from toolchain.workflow.targets import place_of

STAGE = "deploy"
MEASURE_TRIES = 4
SAMPLES: Final = 4  # of the test split, that go along to be tried


@dataclass(frozen=True)
class TargetDeployed:
    """What happened on one target.

    Attributes:
        name, url: the target's.
        stack: what every number below belongs to.
        place: where the model lies now.
        model: name of the deployed file.
        samples: test samples that ran on the target.
        accuracy: share of right answers on the target, 0 to 1.
        agreement: share of samples with the reference's top-1.
        differing: output values that are not equal to the reference's; None for float models.
        max_difference: largest difference from the reference: int8 steps, or absolute for float models.
        slowdown: how much slower than in its best phase the machine was when the network was measured; 1 is best.
            Predictions refer to the best phase.
        note: what every figure must be read with, e.g. that no hardware was used; may be empty.
        details: what the device reported beside its figures, e.g. the depth of its stack.
    """

    name: str
    url: str
    stack: Stack
    place: str
    model: str
    samples: int
    accuracy: float
    agreement: float
    differing: int | None
    max_difference: float
    slowdown: float
    note: str
    details: Mapping[str, str]


@dataclass(frozen=True)
class DeployOutcome:
    """One network on all targets of the project.

    Attributes:
        text: the network.
        accuracy_before: "float" and "int8" accuracy by the references, from the export.
        rows: metrics, predicted beside measured; named after the targets where there are several.
        targets: what happened on each.
        accuracies: the network's accuracy at every step, from the search to the targets.
    """

    text: str
    accuracy_before: Mapping[str, float]
    rows: tuple[ComparisonRow, ...]
    targets: tuple[TargetDeployed, ...]
    accuracies: tuple[AccuracyStep, ...] = ()


@dataclass(frozen=True)
class UndoOutcome:
    """Where what stood before the last deployment stands again: (target's name, place)."""

    places: tuple[tuple[str, str], ...]


def deploy(
    project: Project,
    *,
    only: str = "",
    place: str | None = None,
    progress: Progress = silent,
    wait: bool = False,
) -> DeployOutcome:
    """Check the exported model's outputs on every target with the test split; then deploy and measure it on each.

    Args:
        only: name or URL of one of the project's targets: the others are left as they are.
        place: where on the target; default: `boardfit/<project>` in the user's home on a Linux board, else
            results/deployed in the project. Several targets have places of their own (`workflow.targets.place_of`).
        wait: wait for another process that measures on a device.

    Raises:
        ConfigurationError: nothing was exported, or other files, or another network than the search found, or not in
            the form that a target takes.
        VerificationError: a target's answers are not the reference's; nothing is deployed on any. Or a board counts
            other bytes of flash or RAM than were predicted.
        DeviceError: a target cannot be opened, is busy, or could not measure the network.
    """
    found, exported = check_exported(project)
    targets = (target_called(project.config, only),) if only else project.config.target
    stacks = {one["name"]: one["stack"] for one in found["targets"]}
    deployed, measured, predicted = [], dict[str, Measurement](), dict(found["predicted"])
    with ExitStack() as opened:
        ready = [_open(opened, project, target, stacks[target.name], progress) for target in targets]
        steps, done = 3 * len(targets), 0

        def step(note: str, target: TargetSection) -> None:
            nonlocal done
            progress("deploy", done, steps, note if len(targets) == 1 else f"{note} ({target.name})")
            done += 1

        checks = []
        for one in ready:
            step("checking outputs", one.target)
            name = "check" if len(targets) == 1 else f"{one.target.name} check"
            tell = partial(_samples, progress, name)
            checks.append(check_outputs(project, one.session, one.model, one.name, tell))
        for one, (check, inputs) in zip(ready, checks, strict=True):
            target, session = one.target, one.session
            step("copying", target)
            where = session.deploy(
                one.model, place_of(project, target, place), files=_beside(project, inputs[:SAMPLES])
            )
            step("measuring", target)
            found_here = _measure(session, one.model, wait)
            tflite = INT8_TFLITE if target.precision == "int8" else FLOAT_TFLITE
            graph = read_exported(project, tflite)
            if one.plan.patches is not None:
                predicted |= _with_patches(project, one, graph, predicted, wait, progress)
            values = {**_measured(session, found_here), **_bytes(one, graph, tflite, found_here)}
            measured |= {project.metric(target, metric): value for metric, value in values.items()}
            speed = _remember(project, session, exported["text"], one.plan.operators(graph), found_here)
            deployed.append(
                TargetDeployed(
                    name=target.name,
                    url=target.url,
                    stack=session.stack,
                    place=where,
                    model=one.name,
                    slowdown=speed,
                    note=_note(session, found, target),
                    details=found_here.details,
                    **check,
                )
            )
        progress("deploy", steps, steps, "")
    # Of several targets' budgets those that were looked at.
    budgets = tuple(
        Budget(b["metric"], b["bound"]) for b in found["budgets"] if not only or b["metric"] in measured
    )
    predicted = {k: v for k, v in predicted.items() if k in measured}
    outcome = DeployOutcome(
        exported["text"],
        exported["accuracy"],
        compare(budgets, predicted, measured),
        tuple(deployed),
        accuracy_steps(project, found, exported, [(one.name, one.accuracy, one.samples) for one in deployed]),
    )
    _record(project, outcome, exported["inputs"])
    return outcome


def _record(project: Project, outcome: DeployOutcome, exported: str) -> None:
    """Keep the outcome. What was deployed to other targets before stands there, when it was of the same files.

    Args:
        exported: fingerprint of what the files depended on.
    """
    record = asdict(outcome)
    record["rows"] = [row.as_dict() for row in outcome.rows]
    record["targets"] = [{**asdict(one), "stack": one.stack.as_dict()} for one in outcome.targets]
    before = project.latest(STAGE)
    if before is not None and before.get("depends") == {"export": exported}:
        for key, names in (
            ("targets", ("name",)),
            ("rows", ("metric",)),
            ("accuracies", ("step", "split", "target")),
        ):
            now = [tuple(one[name] for name in names) for one in record[key]]
            kept = [one for one in before[key] if tuple(one[name] for name in names) not in now]
            record[key] = [*record[key], *kept]
    project.write_record(STAGE, {"export": exported}, record)


def undo(project: Project, *, only: str = "", place: str | None = None) -> UndoOutcome:
    """Put back on every target what stood there before the last deployment; twice in a row changes nothing.

    Args:
        only, place: as they were given to `deploy`.

    Raises:
        ConfigurationError: nothing stood there before, or it was of other firmware. On the targets before, it is done.
        DeviceError: a target cannot be opened.
    """
    places = []
    for target in (target_called(project.config, only),) if only else project.config.target:
        with open_session(target.url, target.precision) as session:
            places.append((target.name, session.undo(place_of(project, target, place))))
    project.drop_record(STAGE)  # what it describes does not stand there any more
    return UndoOutcome(tuple(places))


def _samples(progress: Progress, stage: str, done: int, total: int) -> None:
    progress(stage, done, total, "samples")


@dataclass(frozen=True, eq=False)
class _Ready:
    """A target that is open, with the file that it takes, and the plan of a program."""

    target: TargetSection
    session: Session
    name: str
    model: bytes
    plan: Plan


def _open(
    opened: ExitStack, project: Project, target: TargetSection, stack: str, progress: Progress
) -> _Ready:
    """Args: `stack`: fingerprint of what the search's prices are of."""
    session = opened.enter_context(open_session(target.url, target.precision, progress))
    name, plan = model_file(session.model_format, target.precision), DIRECT
    if target.name in (planned := programs(project)):
        name, plan = planned[target.name].name, planned[target.name].plan
    path = project.model_folder / name
    if not path.is_file():
        missing = "its packages are missing here" if name.endswith(".onnx") else "it is of another target"
        remedy = "pip install 'boardfit[onnx]', then " if name.endswith(".onnx") else ""
        raise ConfigurationError(
            f"{name} was not exported: {missing}", remedy=f"{remedy}run `boardfit export`"
        )
    if session.device is not None and stack != session.stack.fingerprint:
        raise ConfigurationError(
            "the search's prices are of another firmware, board or timing than this target's",
            remedy="run `boardfit profile`, then `boardfit search`",
        )
    return _Ready(target, session, name, path.read_bytes(), plan)


def _beside(project: Project, inputs: NDArray[Any]) -> dict[str, bytes]:
    """What goes along with the model: class names, what its numbers mean, and samples to try it with."""
    samples = io.BytesIO()
    np.save(samples, np.ascontiguousarray(inputs), allow_pickle=False)
    return {
        "labels.txt": "".join(f"{name}\n" for name in project.data.classes).encode(),
        MODEL_JSON: (project.model_folder / MODEL_JSON).read_bytes(),
        "inputs.npy": samples.getvalue(),
    }


def _with_patches(
    project: Project,
    one: _Ready,
    graph: Graph,
    predicted: Mapping[str, float],
    wait: bool,
    progress: Progress,
) -> dict[str, float]:
    """What the table foretells of a plan with patches when all of their operators have rows, as in rounds. A search
    alone opens no device: it takes those without a row as shares of whole ones.
    """
    metric = session_metric(one.session)
    if project.metric(one.target, metric) not in predicted:
        return {}  # nothing that is measured was foretold
    with Lut.open(project.lut_path) as lut:
        settled_plans(
            lut, one.session, {"": graph}, lambda *_: one.plan,
            wait=wait, progress=lambda done, total: progress("patches", done, total, "operators"),
        )  # fmt: skip
    costs = open_target_costs(project, one.target, [metric], strict=False)
    found = costs.of_graph(graph, one.plan)
    return {project.metric(one.target, name): found[name] for name in costs.measured(0.0)}


def _note(session: Session, found: Mapping[str, Any], target: TargetSection) -> str:
    """What the target's figures must be read with: what it is, and what the prediction rested on."""
    notes = [] if session.device is None else [session.device.note]
    prices = next(one for one in found["targets"] if one["name"] == target.name)
    if prices["predicted"]:
        notes.append(
            f"the predicted {session_metric(session)} rests on {prices['predicted_in_network']} operators of this "
            f"network that were predicted, not measured (off by {100 * prices['predicted_error']:.1f} %, "
            "cross-validated)"
        )
    return "; ".join(filter(None, notes))


def _measure(session: Session, model: bytes, wait: bool) -> Measurement:
    """The whole network; on a CPU measured again, up to `MEASURE_TRIES` times, while the machine is in a slow phase.

    Raises:
        DeviceError: the target could not measure the network.
    """
    tries: list[Measurement] = []
    while len(tries) < MEASURE_TRIES and not (tries and not tries[-1].unstable):
        (result,) = session.measure([Job("network", model)], wait=wait)
        if result.measurement is None:
            raise DeviceError(
                f"the target could not measure the network: {result.failure}",
                remedy="look at the target: `boardfit doctor --target URL`; then run the command again",
            )
        tries.append(result.measurement)
    best = best_anchor(tries)
    return min(tries, key=lambda found: (found.unstable, slowdown(found, best)))


def _measured(session: Session, found: Measurement) -> dict[str, Measurement]:
    """The measurement, and a board's cycles as a time, too."""
    time = in_time(found, session)
    return {found.metric: found, **({} if time is None else {time.metric: time})}


def _bytes(ready: _Ready, graph: Graph, tflite: str, found: Measurement) -> dict[str, Measurement]:
    """Flash, RAM, parameters and MACs. On a machine with files, of the network's .tflite file, also where another
    runtime's file is deployed (docs/cli.md). On a board, what the part holds, as the device itself counts it.

    Raises:
        VerificationError: a board counts otherwise than was computed.
    """
    session = ready.session
    footprint = footprint_of(session.model_format, graph.operators, session.device)
    computed = footprint.of_graph(graph, ready.plan)
    counts = {**computed, "params": graph.params, "macs": graph.macs}
    rows = {
        metric: Measurement(metric, float(value), Evidence.COMPUTED, details={"file": tflite})
        for metric, value in counts.items()
    }
    if session.device is not None:
        for metric in ("flash_bytes", "ram_bytes"):
            counted = float(found.details[metric])
            if footprint.exact and counted != computed[metric]:
                raise VerificationError(
                    f"the device counts {counted:,.0f} {metric}, the plan says {computed[metric]:,}",
                    remedy="run `boardfit export --force`; if it stays, report it as a bug",
                )
            rows[metric] = Measurement(metric, counted, Evidence.COUNTED)
    return rows


def _remember(
    project: Project, session: Session, text: str, operators: tuple[Operator, ...], found: Measurement
) -> float:
    """Keep the whole network's measurement, from which the next calibration learns; gives its `slowdown`."""
    with Lut.open(project.lut_path) as lut:
        lut.put_network(session.stack, Network(text, operators), found)
        return slowdown(found, steady_table(lut, session.stack, session_metric(session)).best_anchor_us)
