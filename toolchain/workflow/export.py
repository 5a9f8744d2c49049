"""The export stage: train the winner, quantise it, write its files, verify that they all mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from profilers.footprint import ISA
from profilers.profile import program
from toolchain.errors import ConfigurationError, LutError
from toolchain.export.native.c_project import write_c_project
from toolchain.export.native.plan import DIRECT
from toolchain.export.onnx_writer import quantize_onnx, write_onnx
from toolchain.export.tflite_writer import write_tflite
from toolchain.export.torch_writer import write_pt2
from toolchain.export.verify import Comparison, ModelFiles, Verification, verify
from toolchain.files import write_atomic, write_json
from toolchain.graph import Graph, Tensor
from toolchain.graph.lower import lower
from toolchain.graph.tflite_reader import read_tflite
from toolchain.quantize import quantize
from toolchain.quantize.qat import train_quantized
from toolchain.spaces import Architecture
from toolchain.supernet.checkpoint import save_checkpoint
from toolchain.supernet.train import train_network
from toolchain.workflow.exported import (
    FLOAT_ONNX,
    FLOAT_PT2,
    FLOAT_TFLITE,
    INT8_ONNX,
    INT8_TFLITE,
    MODEL_JSON,
    STAGE,
    WEIGHTS,
    changed_file,
    export_inputs,
    programs,
    sha256_of,
    wanted_files,
)
from toolchain.workflow.project import Progress, Project, fingerprint, silent


@dataclass(frozen=True)
class ExportOutcome:
    """What the stage made.

    Attributes:
        architecture, text: the network.
        folder: where the files lie.
        files: name -> bytes.
        verification: every comparison that was made, and what was skipped.
        accuracy: "float" and "int8" accuracy on the test split, 0 to 1.
        epochs_trained, best_epoch: of the float training.
        validation_accuracy: of the float network after its best epoch, 0 to 1.
        quantization: "ptq" or "qat".
        reused: nothing had changed, so the earlier files stand.
        why: why they were made (again), or that nothing changed.
    """

    architecture: Architecture
    text: str
    folder: Path
    files: Mapping[str, int]
    verification: Verification
    accuracy: Mapping[str, float]
    epochs_trained: int
    best_epoch: int
    validation_accuracy: float
    quantization: str
    reused: bool = False
    why: str = ""


def export(
    project: Project, *, progress: Progress = silent, force: bool = False, strict: bool = False
) -> ExportOutcome:
    """Train, quantise, write and verify the network of the latest search, resuming an unfinished training.

    Args:
        force: train and write again from the start although nothing changed; also where a run was asked to and did not
            come so far.
        strict: refuse a network whose price rests on predicted operators.

    Returns:
        The outcome. Where `verification.ok` is False, the files lie in the folder to be looked at, but there is no
        record of them, and `deploy` refuses.

    Raises:
        ConfigurationError: there is no search result, or one under other settings; or the training diverged.
        LutError: `strict`, and the network was found with predicted operators.
    """
    found = project.found()
    if strict:
        _refuse_predicted(found)
    architecture = tuple(int(i) for i in found["architecture"])
    inputs = export_inputs(project, architecture)
    why = project.why(STAGE, inputs, force=force)
    force = force or project.is_set_aside(STAGE)
    stored = None if force else project.record(STAGE, inputs)
    if stored is not None:
        changed = changed_file(project, stored)
        if changed is None:
            return _from_record(project, stored)
        why = f"{changed.name} is not the file that was verified"
    if force:
        _checkpoint(project, architecture).unlink(missing_ok=True)
    project.drop_record(STAGE)  # from here on the files are no longer those of an earlier record
    module, epochs, best, validation = _train(project, architecture, progress)
    graph = lower(module, project.space.input_shape)
    int8 = _quantize(project, graph, progress)
    files = _write(project, module, graph, int8, progress)
    progress("verify", 0, 1, "comparing files, engines and references")
    verification = verify(
        module, graph, int8, project.data.nhwc("test"), project.data.y["test"],
        files=ModelFiles(
            float_tflite=files[FLOAT_TFLITE], int8_tflite=files[INT8_TFLITE],
            float_onnx=files.get(FLOAT_ONNX), int8_onnx=files.get(INT8_ONNX),
        ),
        input_shape=project.space.input_shape,
    )  # fmt: skip
    progress("verify", 1, 1, "all compared")
    accuracy = dict(verification.accuracy)
    sizes = {name: len(data) for name, data in files.items()}
    outcome = ExportOutcome(
        architecture, project.space.encode(architecture), project.model_folder, sizes, verification,
        accuracy, epochs, best, validation, project.config.training.quantization, why=why,
    )  # fmt: skip
    _describe(project, outcome, int8)
    if verification.ok:
        written = (*outcome.files, WEIGHTS, MODEL_JSON)
        digests = {name: sha256_of(project.model_folder / name) for name in written}
        project.write_record(STAGE, inputs, {**_as_record(outcome), "sha256": digests})
    return outcome


def _refuse_predicted(found: Mapping[str, Any]) -> None:
    for prices in found["targets"]:
        if prices["predicted"]:
            raise LutError(
                f"the network was found with {prices['predicted']} of {prices['operators']} operators predicted on "
                f"{prices['name']}, {prices['predicted_in_network']} of them its own; predictions are refused",
                remedy="run `boardfit profile` without --share, then `boardfit search`",
            )


@dataclass(frozen=True)
class CProject:
    """A C project of the int8 network.

    Attributes:
        folder: where it lies.
        isa: which kernels it takes: `dsp` or `plain`.
        files: names, relative to the folder.
    """

    folder: Path
    isa: str
    files: tuple[str, ...]


def export_c(project: Project, folder: Path) -> CProject:
    """Write the exported int8 network as a C project of its own, with kernels for the target's core.

    It has the board's plan. Targets that are no boards, or boards with different programs, get direct kernels for cores
    with DSP instructions, whose C forms run anywhere.

    Raises:
        ConfigurationError: nothing was exported, or `folder` is a file.
    """
    path = project.model_folder / INT8_TFLITE
    if not path.is_file():
        raise ConfigurationError("no export has finished", remedy="run `boardfit export`")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file", remedy="name a folder")
    found = {(ISA[one.form], one.plan) for one in programs(project).values()}
    isa, plan = found.pop() if len(found) == 1 else ("dsp", DIRECT)
    graph = read_tflite(path.read_bytes())
    files = write_c_project(graph, folder, isa, name=project.config.project.name, plan=plan)
    return CProject(folder, isa, files)


def _checkpoint(project: Project, architecture: Architecture) -> Path:
    """Where a training lies, unfinished or finished: what is made of the weights later does not train again."""
    config, training = project.config, project.config.training
    depends = fingerprint(
        architecture, training.epochs, training.batch_size, training.learning_rate, config.project.seed,
        config.project.threads, project.space_fingerprint, project.data.fingerprint,
    )  # fmt: skip
    return project.checkpoint(f"train-{depends}.safetensors")


def _train(
    project: Project, architecture: Architecture, progress: Progress
) -> tuple[nn.Module, int, int, float]:
    """The trained module in eval mode, epochs, best epoch, its validation accuracy; goes on from a checkpoint of the
    same training.
    """
    settings, data, seed = project.config.training, project.data, project.config.project.seed
    torch.set_num_threads(project.config.project.threads)
    torch.manual_seed(seed)
    module = project.space.module(architecture)
    report = train_network(
        module,
        data.x["train"],
        data.y["train"],
        x_val=data.x["val"],
        y_val=data.y["val"],
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=seed,
        progress=lambda done, total, note: progress("train", done, total, note),
        checkpoint=_checkpoint(project, architecture),
        resume=True,
    )
    best = report.best_epoch
    return module.eval(), settings.epochs, best, report.val_accuracy[best]


def _quantize(project: Project, graph: Graph, progress: Progress) -> Graph:
    settings, data = project.config.training, project.data
    calibration = _calibration_samples(project)
    if settings.quantization == "ptq":
        progress("quantise", 0, 1, settings.ranges)
        int8 = quantize(graph, calibration, settings.ranges)
        progress("quantise", 1, 1, settings.ranges)
        return int8
    return train_quantized(
        graph,
        data.nhwc("train"),
        data.y["train"],
        epochs=settings.qat_epochs,
        batch_size=settings.batch_size,
        seed=project.config.project.seed,
        method=settings.ranges,
        progress=lambda done, total: progress("quantise", done, total, "quantisation-aware training"),
    )


def _calibration_samples(project: Project) -> NDArray[np.float32]:
    """Training samples that set the ranges of activations: spread evenly over the split."""
    samples = project.data.nhwc("train")
    count = min(project.config.training.calibration_samples, len(samples))
    chosen: NDArray[np.float32] = samples[np.linspace(0, len(samples) - 1, count).astype(int)]
    return chosen


def _write(
    project: Project, module: nn.Module, graph: Graph, int8: Graph, progress: Progress
) -> dict[str, bytes]:
    """All model files; ONNX only where its packages are installed (the verification then says so)."""
    progress("write", 0, 2, "TFLite")
    files = {FLOAT_TFLITE: write_tflite(graph), INT8_TFLITE: write_tflite(int8)}
    progress("write", 1, 2, "ONNX")
    wanted = wanted_files(project)
    if FLOAT_ONNX in wanted:
        files[FLOAT_ONNX] = write_onnx(module, project.space.input_shape)
        count = min(project.config.training.calibration_samples, len(project.data.x["train"]))
        files[INT8_ONNX] = quantize_onnx(files[FLOAT_ONNX], project.data.x["train"][:count])
    if FLOAT_PT2 in wanted:
        files[FLOAT_PT2] = write_pt2(graph)
    for one in programs(project).values():
        # Of the file that is verified, so that nothing but the file's own numbers is in the program.
        files[one.name] = program(one.form, read_tflite(files[INT8_TFLITE]), one.plan)
    for name, data in files.items():
        write_atomic(project.model_folder / name, data)
    save_checkpoint(project.model_folder / WEIGHTS, module.state_dict(), {"space": project.space.name})
    progress("write", 2, 2, "")
    return files


def _describe(project: Project, outcome: ExportOutcome, int8: Graph) -> None:
    """model.json: what a program on the device must know to use the files."""
    source, result = int8.tensors[int8.inputs[0]], int8.tensors[int8.outputs[0]]

    def tensor(entry: Tensor) -> dict[str, Any]:
        q = entry.quantization
        return {
            "shape": entry.shape,
            "scale": None if q is None else q.scale[0],
            "zero_point": None if q is None else q.zero_point[0],
        }

    write_json(
        project.model_folder / MODEL_JSON,
        {
            "project": project.config.project.name,
            "architecture": outcome.text,
            "classes": list(project.data.classes),
            "normalization": asdict(project.data.normalization),
            "int8_input": tensor(source),
            "int8_output": tensor(result),
            "layout": "NHWC in .tflite files, NCHW in .onnx files",
            "test_accuracy": dict(outcome.accuracy),
        },
    )


def _as_record(outcome: ExportOutcome) -> dict[str, Any]:
    return {
        "architecture": list(outcome.architecture),
        "text": outcome.text,
        "files": dict(outcome.files),
        "verification": [asdict(row) for row in outcome.verification.rows],
        "accuracy": dict(outcome.accuracy),
        "epochs_trained": outcome.epochs_trained,
        "best_epoch": outcome.best_epoch,
        "validation_accuracy": outcome.validation_accuracy,
        "quantization": outcome.quantization,
    }


def _from_record(project: Project, stored: Mapping[str, Any]) -> ExportOutcome:
    return ExportOutcome(
        architecture=tuple(int(i) for i in stored["architecture"]),
        text=stored["text"],
        folder=project.model_folder,
        files=stored["files"],
        verification=Verification(tuple(Comparison(**row) for row in stored["verification"])),
        accuracy=stored["accuracy"],
        epochs_trained=stored["epochs_trained"],
        best_epoch=stored["best_epoch"],
        validation_accuracy=stored["validation_accuracy"],
        quantization=stored["quantization"],
        reused=True,
        why="nothing changed",
    )
