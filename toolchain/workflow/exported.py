"""What an export leaves in a project, and what it depends on. Later stages need neither torch nor its writers."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from targets.session import ModelFormat, model_format
from toolchain.errors import ConfigurationError
from toolchain.export.native.plan import Plan
from toolchain.search.protocols import Architecture
from toolchain.workflow.project import Project, fingerprint

STAGE = "export"
FLOAT_TFLITE, INT8_TFLITE = "model_float.tflite", "model_int8.tflite"
FLOAT_ONNX, INT8_ONNX = "model_float.onnx", "model_int8.onnx"
FLOAT_PT2 = "model_float.pt2"  # only for the torch engine
# Only for boards: programs are laid out for the core's kernels.
PROGRAMS: Final[Mapping[ModelFormat, str]] = {
    "native-dsp": "model_int8.bfp",
    "native-plain": "model_int8_plain.bfp",
}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
WEIGHTS, MODEL_JSON = "weights.safetensors", "model.json"


_FILES: Final[Mapping[tuple[ModelFormat, str], str]] = {
    ("tflite", "int8"): INT8_TFLITE,
    ("tflite", "float32"): FLOAT_TFLITE,
    ("onnx", "int8"): INT8_ONNX,
    ("onnx", "float32"): FLOAT_ONNX,
    ("pt2", "float32"): FLOAT_PT2,
    **{(form, "int8"): name for form, name in PROGRAMS.items()},
}


def export_inputs(project: Project, architecture: Architecture) -> dict[str, str]:
    """Everything that the files depend on; see `Project.why`."""
    config = project.config
    return {
        "network": fingerprint(architecture),
        "training settings": fingerprint(config.training.model_dump()),
        "space": project.space_fingerprint,
        "seed": str(config.project.seed),
        "threads": str(config.project.threads),
        "data": project.data.fingerprint,
        "files that targets take": fingerprint(
            wanted_files(project), {name: one.plan.as_dict() for name, one in programs(project).items()}
        ),
    }


def wanted_files(project: Project) -> tuple[str, ...]:
    """Names of the model files to write here: ONNX where its packages are installed, .pt2 for the torch engine, a
    program for a board.
    """
    names = [FLOAT_TFLITE, INT8_TFLITE]
    if all(importlib.util.find_spec(name) for name in ONNX_PACKAGES):
        names += [FLOAT_ONNX, INT8_ONNX]
    forms = _formats(project)
    if "pt2" in forms:
        names.append(FLOAT_PT2)
    names += [one.name for one in programs(project).values()]
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Program:
    """What a board is sent.

    Attributes:
        name: of its file.
        form: of the board's kernels.
        plan: the algorithms that the search chose within the board's flash and RAM.
    """

    name: str
    form: ModelFormat
    plan: Plan


def programs(project: Project) -> dict[str, Program]:
    """Target's name -> its program, for those that take one. Boards with one plan share a file.

    Raises:
        ConfigurationError: there is no search result, or one under other settings.
    """
    forms = {target.name: model_format(target.url) for target in project.config.target}
    if not any(form in PROGRAMS for form in forms.values()):
        return {}
    plans = {one["name"]: Plan.from_dict(one["plan"]) for one in project.found()["targets"]}
    names: dict[tuple[ModelFormat, Plan], str] = {}
    found = {}
    for target, form in forms.items():
        if form in PROGRAMS:
            usual = Path(PROGRAMS[form])
            own = usual.name if usual.name not in names.values() else f"{usual.stem}_{target}{usual.suffix}"
            name = names.setdefault((form, plans[target]), own)
            found[target] = Program(name, form, plans[target])
    return found


def _formats(project: Project) -> tuple[ModelFormat, ...]:
    """What the project's targets take."""
    return tuple(model_format(target.url) for target in project.config.target)


def changed_file(project: Project, stored: Mapping[str, Any]) -> Path | None:
    """The first file of a record that is gone or is not what was verified; None when all stand."""
    for name, digest in stored["sha256"].items():
        path: Path = project.model_folder / name
        if not path.is_file() or sha256_of(path) != digest:
            return path
    return None


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    stored = project.latest(STAGE)
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
