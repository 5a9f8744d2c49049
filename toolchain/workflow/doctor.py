"""Looks for what is missing or broken before it costs somebody an hour."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from profilers.lut import Lut
from targets.mcu.compilers import find_compiler
from targets.session import ALIASES, list_targets, model_format
from toolchain.errors import BoardfitError
from toolchain.files import cache_folder
from toolchain.workflow.config import PROJECT_FILE, Config, TargetSection, load_config
from toolchain.workflow.data import Dataset, load_dataset

Status = Literal["ok", "warning", "error"]

# Import name -> (distribution, extra that brings it, what is lost without it).
PACKAGES: Final[Mapping[str, tuple[str, str, str]]] = {
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
    "matplotlib": ("matplotlib", "plots", "the diagrams of `boardfit report`"),
    "highspy": ("highspy", "solvers", "the second solver that checks exact selection"),
    "paramiko": ("paramiko", "ssh", "Linux boards over SSH"),
    "serial": ("pyserial", "boards", "talking to boards"),
    "elftools": ("pyelftools", "boards", "reading the firmware that is built"),
    "stm32loader": ("stm32loader", "boards", "writing firmware through the boot loader in ROM"),
    "unicorn": ("unicorn", "virtual", "virtual boards"),
    "capstone": ("capstone", "virtual", "cycles of virtual boards"),
    "ziglang": ("ziglang", "virtual", "a C compiler for firmware, where there is no arm-none-eabi-gcc"),
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
    return [
        *_python(), *_packages(), *_compilers(), *_machine(folder), *_ports(), *_targets(), *_project(folder),
    ]  # fmt: skip


def _python() -> Iterator[Check]:
    yield Check("Python", "ok", ".".join(str(part) for part in sys.version_info[:3]))


def _packages() -> Iterator[Check]:
    for module, (distribution, extra, use) in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            yield Check(distribution, "warning", f"missing: {use}", f"pip install 'boardfit[{extra}]'")
            continue
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:  # built from source, or another distribution brings the module
            version = "installed, version unknown"
        if module == "torch" and "+cpu" not in version and _has_distribution("nvidia-cublas"):
            yield Check(distribution, "ok", f"{version} (a CUDA build; boardfit needs only the CPU)")
        else:
            yield Check(distribution, "ok", version)


def _compilers() -> Iterator[Check]:
    """C compilers for firmware: one is enough, Debian's is the better documented."""
    found: list[str] = []
    remedy = ""
    for kind in ("gcc", "zig"):
        try:
            found.append(find_compiler(kind).version)
        except BoardfitError as error:
            remedy = error.remedy
    if found:
        yield Check("C compiler for boards", "ok", ", ".join(found))
    else:
        yield Check(
            "C compiler for boards", "warning", "missing: firmware for boards, virtual ones too", remedy
        )


def _has_distribution(prefix: str) -> bool:
    return any((d.metadata["Name"] or "").startswith(prefix) for d in metadata.distributions())


def _machine(folder: Path) -> Iterator[Check]:
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free
    status: Status = "ok" if free >= _NEEDED_DISK_BYTES else "warning"
    remedy = "" if status == "ok" else f"free {_NEEDED_DISK_BYTES / 1e9:.1f} GB beside {existing}"
    yield Check("free disk", status, f"{free / 1e9:.1f} GB", remedy)
    cache = cache_folder()
    if _existing(cache).is_dir() and os.access(_existing(cache), os.W_OK):
        yield Check("cache", "ok", str(cache))
    else:
        yield Check(
            "cache", "error", f"{cache} cannot be written, so nothing can be measured",
            "export XDG_CACHE_HOME=FOLDER that you can write",
        )  # fmt: skip
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
                "sudo cpupower frequency-set -g performance",
            )
    if hasattr(os, "getloadavg"):
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
        busy = load > 0.5 * cores
        yield Check(
            "load", "warning" if busy else "ok", f"{load:.1f} on {cores} cores",
            "measure when the machine is quiet" if busy else "",
        )  # fmt: skip


def _ports(folder: Path = Path("/dev")) -> Iterator[Check]:
    """Serial ports that are there, but not for this user."""
    for port in sorted(path for pattern in ("ttyACM*", "ttyUSB*") for path in folder.glob(pattern)):
        if os.access(port, os.R_OK | os.W_OK):
            yield Check(str(port), "ok", "may be opened")
        else:
            group = port.group() if hasattr(port, "group") else "dialout"
            yield Check(
                str(port), "error", f"may not be opened by you; it belongs to the group {group}",
                f"sudo usermod -aG {group} $USER, then log in again",
            )  # fmt: skip


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())


def _targets() -> Iterator[Check]:
    """What is here; of what is not, one check for all that the same command mends. A GPU is nothing that is missing."""
    missing: dict[str, list[str]] = {}
    for target in list_targets():
        if target.available:
            detail = ", ".join(filter(None, (target.description, target.notes)))
            yield Check(target.url, "ok", detail)
        elif target.url.startswith("cuda:") and "no NVIDIA GPU" in target.notes:
            yield Check(target.url, "ok", f"{target.notes}; nothing needs one")
        else:
            missing.setdefault(target.notes, []).append(target.url)
    for notes, urls in missing.items():
        what = urls[0] if len(urls) == 1 else f"{urls[0]} and {len(urls) - 1} more targets"
        yield Check(what, "warning", "cannot be used", notes)


def _project(folder: Path) -> Iterator[Check]:
    path = folder if folder.is_file() else folder / PROJECT_FILE
    if not path.exists():
        yield Check("project", "warning", f"no {PROJECT_FILE} in {folder}", "boardfit init NAME")
        return
    try:
        config = load_config(path)
    except BoardfitError as error:
        yield Check("project file", "error", error.message, error.remedy or f"edit {path}")
        return
    yield Check("project file", "ok", config.project.name)
    if not os.access(path.parent, os.W_OK):
        yield Check("project folder", "error", f"{path.parent} cannot be written", f"chmod u+w {path.parent}")
    for target in config.target:
        yield _target_of(target, path)
    yield from _data_and_space(config, path)
    yield _table(config, path)


def _target_of(target: TargetSection, path: Path) -> Check:
    url = target.url
    name = url.partition("?")[0]
    known = {target.url: target for target in list_targets()}
    found = known.get(ALIASES.get(name, name))
    if found is None:
        try:
            model_format(url)  # a board on a port or in the network, which is not in any list
        except BoardfitError as error:
            remedy = error.remedy or f"set target.url in {path} to one of {', '.join(known)}"
            return Check("target", "error", error.message, remedy)
        return Check("target", "ok", f"{url}; `boardfit doctor --target '{url}'` looks at it")
    if not found.available:
        return Check("target", "error", f"{url}: {found.description}", found.notes)
    return Check("target", "ok", url)


def _data_and_space(config: Config, path: Path) -> Iterator[Check]:
    data: Dataset | None = None
    try:
        data = load_dataset(config.data, path.parent, config.project.seed)
        counts = ", ".join(f"{name} {len(y)}" for name, y in data.y.items())
        shape = "x".join(str(size) for size in data.input_shape)
        yield Check("data", "ok", f"{shape}, {len(data.classes)} classes, {counts}")
    except BoardfitError as error:
        yield Check("data", "error", error.message, error.remedy or f"edit [data] in {path}")
    if data is None or importlib.util.find_spec("torch") is None:
        return  # the space is made for the data, of torch modules; what is missing stands above
    from toolchain.workflow.project import Project

    project = Project(path.parent, config)
    project.__dict__["data"] = data  # its cached property: large data is not read twice
    try:
        yield Check("space", "ok", f"{project.space.name}: {project.space.count():,} architectures")
    except BoardfitError as error:
        yield Check("space", "error", error.message, error.remedy or f"edit [space] in {path}")


def _table(config: Config, path: Path) -> Check:
    table = path.parent / config.profile.lut
    command = f"boardfit profile -C {shlex.quote(str(path.parent))}"
    if not table.exists():
        return Check("table", "warning", f"{table.name} does not exist yet", command)
    try:
        with Lut.open(table, read_only=True) as lut:
            lut.check()
            return Check("table", "ok", f"{table.name}: {len(lut)} rows")
    except BoardfitError as error:
        return Check("table", "error", error.message, error.remedy or f"rm {table} && {command}")
