"""Looks for what is missing or broken before it costs somebody an hour."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from profilers.lut import Lut
from targets.session import list_targets
from toolchain.errors import BoardfitError
from toolchain.workflow.config import PROJECT_FILE
from toolchain.workflow.project import open_project

Status = Literal["ok", "warning", "error"]

# import name -> (distribution, extra that brings it, what is lost without it)
_PACKAGES = {
    "torch": ("torch", "train", "search and training"),
    "safetensors": ("safetensors", "train", "checkpoints"),
    "ai_edge_litert": ("ai-edge-litert", "tflite", "running TFLite models on this CPU"),
    "onnx": ("onnx", "onnx", "ONNX export"),
    "onnxruntime": ("onnxruntime", "onnx", "running ONNX models"),
    "onnxscript": ("onnxscript", "onnx", "ONNX export"),
    "tflite_micro": ("tflite-micro", "tflm", "the bit-exact check of int8 models"),
    "pyarrow": ("pyarrow", "parquet", "tables in Parquet"),
    "PIL": ("pillow", "images", "image folders"),
    "sklearn": ("scikit-learn", "demo", "the digits data set"),
}
_NEEDED_DISK_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def examine(folder: Path) -> list[Check]:
    """Check this machine, and the project in `folder` if there is one. Changes nothing."""
    return [*_python(), *_packages(), *_machine(folder), *_targets(), *_project(folder)]


def _python() -> Iterator[Check]:
    yield Check("Python", "ok", ".".join(str(part) for part in sys.version_info[:3]))


def _packages() -> Iterator[Check]:
    for module, (distribution, extra, use) in _PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            yield Check(distribution, "warning", f"missing: {use}", f"pip install 'boardfit[{extra}]'")
            continue
        version = metadata.version(distribution)
        if module == "torch" and "+cpu" not in version and _has_distribution("nvidia-cublas"):
            yield Check(distribution, "ok", f"{version} (a CUDA build; boardfit needs only the CPU)")
        else:
            yield Check(distribution, "ok", version)


def _has_distribution(prefix: str) -> bool:
    return any((d.metadata["Name"] or "").startswith(prefix) for d in metadata.distributions())


def _machine(folder: Path) -> Iterator[Check]:
    existing = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    status: Status = "ok" if free >= _NEEDED_DISK_BYTES else "warning"
    yield Check("free disk", status, f"{free / 1e9:.1f} GB", "" if status == "ok" else "free some disk space")
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.exists():
        value = governor.read_text().strip()
        if value in ("performance", "schedutil"):
            yield Check("CPU governor", "ok", value)
        else:
            yield Check(
                "CPU governor",
                "warning",
                f"{value}: clock changes blur latencies",
                "cpupower frequency-set -g performance",
            )
    if hasattr(os, "getloadavg"):
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        busy = load > 0.5 * cores
        yield Check(
            "load", "warning" if busy else "ok", f"{load:.1f} on {cores} cores",
            "measure when the machine is quiet" if busy else "",
        )  # fmt: skip


def _targets() -> Iterator[Check]:
    for target in list_targets():
        yield Check(target.url, "ok" if target.available else "warning", target.description, target.notes)


def _project(folder: Path) -> Iterator[Check]:
    if not (folder / PROJECT_FILE).exists() and not folder.is_file():
        yield Check("project", "warning", f"no {PROJECT_FILE} in {folder}", "boardfit init NAME")
        return
    try:
        project = open_project(folder)
        yield Check("project file", "ok", project.config.project.name)
        data = project.data
        counts = ", ".join(f"{name} {len(y)}" for name, y in data.y.items())
        yield Check("data", "ok", f"{data.input_shape}, {len(data.classes)} classes, {counts}")
        yield Check("space", "ok", f"{project.space.name}: {project.space.count():,} architectures")
        if project.lut_path.exists():
            with Lut.open(project.lut_path) as lut:
                lut.check()
                yield Check("table", "ok", f"{project.lut_path.name}: {len(lut)} rows")
        else:
            yield Check("table", "warning", f"{project.lut_path.name} does not exist yet", "boardfit profile")
    except BoardfitError as error:
        yield Check("project", "error", error.message, error.remedy)
