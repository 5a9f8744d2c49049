"""The deploy stage: the model goes to the target, is checked and measured there, and stands beside the prediction."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from profilers.footprint import footprint_of
from profilers.lut import Lut, Network
from profilers.profile import session_metric
from profilers.steady import best_anchor, slowdown, steady_table
from targets.session import Job, ModelFormat, Session
from toolchain.errors import ConfigurationError, DeviceError, VerificationError
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.export.verify import Limits
from toolchain.graph import Graph, dequantize_array, quantize_array
from toolchain.graph.float_reference import run_float
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import Operator
from toolchain.graph.tflite_reader import read_tflite
from toolchain.measurement import Evidence, Measurement, Stack
from toolchain.report.comparison import ComparisonRow, compare
from toolchain.units import Budget
from toolchain.workflow.config import TargetSection
from toolchain.workflow.data import to_nhwc
from toolchain.workflow.export import (
    FLOAT_ONNX,
    FLOAT_PT2,
    FLOAT_TFLITE,
    INT8_ONNX,
    INT8_TFLITE,
    MODEL_JSON,
    PROGRAMS,
    changed_file,
    export_inputs,
    programs,
)
from toolchain.workflow.project import Progress, Project, silent
from toolchain.workflow.sessions import in_time, open_session
from toolchain.workflow.targets import place_of

STAGE = "deploy"
# An engine rounds in its own way (XNNPACK differs from TFLite Micro by a few steps); most answers must stay.
LEAST_AGREEMENT = 0.97
MEASURE_TRIES = 4
SAMPLES: Final = 4  # of the test split, that go along to be tried

_FILES: Mapping[tuple[ModelFormat, str], str] = {
    ("tflite", "int8"): INT8_TFLITE,
    ("tflite", "float32"): FLOAT_TFLITE,
    ("onnx", "int8"): INT8_ONNX,
    ("onnx", "float32"): FLOAT_ONNX,
    ("pt2", "float32"): FLOAT_PT2,
    **{(form, "int8"): name for form, name in PROGRAMS.items()},
}


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
    """

    text: str
    accuracy_before: Mapping[str, float]
    rows: tuple[ComparisonRow, ...]
    targets: tuple[TargetDeployed, ...]


@dataclass(frozen=True)
class UndoOutcome:
    """Where what stood before the last deployment stands again: (target's name, place)."""

    places: tuple[tuple[str, str], ...]


def deploy(
    project: Project, *, place: str | None = None, progress: Progress = silent, wait: bool = False
) -> DeployOutcome:
    """Check the exported model's outputs on every target with the test split; then deploy and measure it on each.

    Args:
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
    targets = project.config.target
    stacks = {one["name"]: one["stack"] for one in found["targets"]}
    deployed, measured = [], dict[str, Measurement]()
    with ExitStack() as opened:
        ready = [_open(opened, project, target, stacks[target.name]) for target in targets]
        steps, done = 3 * len(targets), 0

        def step(note: str, target: TargetSection) -> None:
            nonlocal done
            progress("deploy", done, steps, note if len(targets) == 1 else f"{note} ({target.name})")
            done += 1

        checks = []
        for one in ready:
            step("checking outputs", one.target)
            checks.append(_check_outputs(project, one.session, one.model, one.name))
        for one, (check, inputs) in zip(ready, checks, strict=True):
            target, session = one.target, one.session
            step("copying", target)
            where = session.deploy(
                one.model, place_of(project, target, place), files=_beside(project, inputs[:SAMPLES])
            )
            step("measuring", target)
            found_here = _measure(session, one.model, wait)
            tflite = INT8_TFLITE if target.precision == "int8" else FLOAT_TFLITE
            graph = _read(project, tflite)
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
    budgets = tuple(Budget(b["metric"], b["bound"]) for b in found["budgets"])
    predicted = {k: v for k, v in found["predicted"].items() if k in measured}
    outcome = DeployOutcome(
        exported["text"], exported["accuracy"], compare(budgets, predicted, measured), tuple(deployed)
    )
    record = asdict(outcome)
    record["rows"] = [row.as_dict() for row in outcome.rows]
    record["targets"] = [{**asdict(one), "stack": one.stack.as_dict()} for one in outcome.targets]
    project.write_record(STAGE, {}, record)
    return outcome


def undo(project: Project, *, place: str | None = None) -> UndoOutcome:
    """Put back on every target what stood there before the last deployment; twice in a row changes nothing.

    Args:
        place: as it was given to `deploy`.

    Raises:
        ConfigurationError: nothing stood there before, or it was of other firmware. On the targets before, it is done.
        DeviceError: a target cannot be opened.
    """
    places = []
    for target in project.config.target:
        with open_session(target.url, target.precision) as session:
            places.append((target.name, session.undo(place_of(project, target, place))))
    project.drop_record(STAGE)  # what it describes does not stand there any more
    return UndoOutcome(tuple(places))


@dataclass(frozen=True, eq=False)
class _Ready:
    """A target that is open, with the file that it takes, and the plan of a program."""

    target: TargetSection
    session: Session
    name: str
    model: bytes
    plan: Plan


def _open(opened: ExitStack, project: Project, target: TargetSection, stack: str) -> _Ready:
    """Args: `stack`: fingerprint of what the search's prices are of."""
    session = opened.enter_context(open_session(target.url, target.precision))
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


def model_file(form: ModelFormat, precision: str) -> str:
    """Name of the exported file that a target with this model format and precision takes.

    Raises:
        ConfigurationError: there is no such form (int8 on the torch engine).
    """
    name = _FILES.get((form, precision))
    if name is None and form.startswith("native"):
        raise ConfigurationError(
            f"a board takes no {precision} model", remedy='set target.precision = "int8", or use cpu:litert'
        )
    if name is None:
        raise ConfigurationError(
            f"this target takes no {precision} model",
            remedy='set target.precision = "float32", or use cpu:litert',
        )
    return name


def check_exported(project: Project) -> tuple[dict[str, Any], dict[str, Any]]:
    """The records of search and export, when they belong together and to today's project.

    Raises:
        ConfigurationError: they do not.
    """
    found, exported = project.found(), _exported(project)
    if found["architecture"] != exported["architecture"]:
        raise ConfigurationError(
            f"the search found {found['text']!r}, but {exported['text']!r} was exported",
            remedy="run `boardfit export`",
        )
    return found, exported


def _exported(project: Project) -> dict[str, Any]:
    """The export's record, when it and its files are those of today's project.

    Raises:
        ConfigurationError: they are not.
    """
    stored = project.latest("export")
    if stored is None:
        raise ConfigurationError("no export has finished", remedy="run `boardfit export`")
    if stored.get("depends") != export_inputs(project, tuple(stored["architecture"])):
        raise ConfigurationError(
            "the exported files were made under other settings than those that now stand in the project file",
            remedy="run `boardfit export`",
        )
    path = changed_file(project, stored)
    if path is not None:
        raise ConfigurationError(
            f"{path} is not the file that was verified", remedy="run `boardfit export`, which makes it again"
        )
    return stored


def _read(project: Project, name: str) -> Graph:
    return read_tflite((project.model_folder / name).read_bytes())


def _check_outputs(
    project: Project, session: Session, model: bytes, name: str
) -> tuple[dict[str, Any], NDArray[Any]]:
    """Run the test split on the target, and compare with the reference and with the labels; and the inputs."""
    integer = name == INT8_TFLITE or session.device is not None
    graph = _read(project, INT8_TFLITE if integer else FLOAT_TFLITE)
    data = project.data
    x, y = data.x["test"], data.y["test"]
    feed: NDArray[Any]
    if integer:
        source, result = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
        assert source.quantization is not None  # an int8 graph has them everywhere (Graph's validation)
        assert result.quantization is not None
        feed = inputs = quantize_array(to_nhwc(x), source.quantization)
        answers = session.run(model, inputs).reshape(len(x), -1)
        reference = run_int8(graph, inputs).reshape(len(x), -1)
        differing: int | None = int(np.count_nonzero(answers != reference))
        difference = float(np.abs(answers.astype(np.int32) - reference.astype(np.int32)).max())
        scores = dequantize_array(answers, result.quantization)
        expected = dequantize_array(reference, result.quantization)
    else:
        inputs_nhwc = to_nhwc(x)
        feed = inputs_nhwc if session.model_format == "tflite" else _channels_first(inputs_nhwc, name, x)
        scores = session.run(model, feed).reshape(len(x), -1).astype(np.float32)
        expected = run_float(graph, inputs_nhwc).reshape(len(x), -1)
        differing = None
        difference = float(np.abs(scores - expected).max())
    agreement = float(np.mean(scores.argmax(1) == expected.argmax(1)))
    accuracy, wanted = (float(np.mean(values.argmax(1) == y)) for values in (scores, expected))
    if name == INT8_ONNX:
        # Its reference is the float graph: quantised answers may differ, as long as they are as often right.
        if accuracy < wanted - Limits().accuracy_loss:
            raise VerificationError(
                f"on the target {100 * accuracy:.1f} % of {len(x)} answers are right, by the float reference "
                f"{100 * wanted:.1f} %; the limit is {100 * Limits().accuracy_loss:.0f} % less",
                remedy="run `boardfit export --force` and look at its table; do not use this model",
            )
    elif session.device is not None and differing:
        raise VerificationError(
            f"on the board {differing} of {answers.size} output values are not those of TFLite Micro, "
            f"by up to {difference:.0f} steps; all must be equal",
            remedy="run `boardfit flash`, which writes the firmware anew; if it stays, report it as a bug",
        )
    elif agreement < LEAST_AGREEMENT:
        raise VerificationError(
            f"on the target {100 * agreement:.1f} % of {len(x)} answers are the reference's, "
            f"the limit is {100 * LEAST_AGREEMENT:.0f} %",
            remedy="run `boardfit export --force` and look at its table; do not use this model",
        )
    return {
        "samples": len(x),
        "accuracy": accuracy,
        "agreement": agreement,
        "differing": differing,
        "max_difference": difference,
    }, feed


def _channels_first(nhwc: NDArray[np.float32], name: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """ONNX files take torch's own layout; .pt2 files are made from the graph and take N x C x 1 x L for series."""
    return np.ascontiguousarray(nhwc.transpose(0, 3, 1, 2)) if name == FLOAT_PT2 and nhwc.ndim == 4 else x


def _measure(session: Session, model: bytes, wait: bool) -> Measurement:
    """The whole network; on a CPU measured again, up to `MEASURE_TRIES` times, while the machine is in a slow phase.

    Raises:
        DeviceError: the target could not measure the network.
    """
    tries: list[Measurement] = []
    while len(tries) < MEASURE_TRIES and not (tries and not tries[-1].unstable):
        (result,) = session.measure([Job("network", model)], wait=wait)
        if result.measurement is None:
            raise DeviceError(f"the target could not measure the network: {result.failure}")
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
