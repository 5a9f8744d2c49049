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

from profilers.profile import session_metric
from targets.session import Session
from toolchain.errors import ConfigurationError
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.measurement import Measurement, Stack
from toolchain.report.comparison import ComparisonRow, compare
from toolchain.units import Budget
from toolchain.workflow.accuracy import AccuracyStep, accuracy_steps
from toolchain.workflow.config import TargetSection
from toolchain.workflow.deploy_check import check_outputs, read_exported
from toolchain.workflow.deploy_costs import counted, measure, remember, with_patches, with_time
from toolchain.workflow.exported import (
    FLOAT_TFLITE,
    INT8_TFLITE,
    MODEL_JSON,
    check_exported,
    model_file,
    programs,
)
from toolchain.workflow.project import Progress, Project, silent, target_called
from toolchain.workflow.sessions import open_session
from toolchain.workflow.targets import place_of

STAGE = "deploy"
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
            found_here = measure(session, one.model, wait)
            tflite = INT8_TFLITE if target.precision == "int8" else FLOAT_TFLITE
            graph = read_exported(project, tflite)
            speed = remember(project, session, exported["text"], one.plan.operators(graph), found_here)
            if one.plan.patches is not None:
                predicted |= with_patches(
                    project, target, session, one.plan, graph, predicted, wait, progress
                )
            values = with_time(session, found_here) | counted(session, one.plan, graph, tflite, found_here)
            measured |= {project.metric(target, metric): value for metric, value in values.items()}
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
