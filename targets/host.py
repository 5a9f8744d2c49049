"""This machine as a target: `cpu:litert`, `cpu:onnxruntime`, `cpu:torch`; outputs only: `host:tflm`, `host:native`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qsl

import numpy as np

from targets.deploy import deploy_folder, runner_files, undo_folder
from targets.lock import exclusive
from targets.runners import (
    LiteRtRunner,
    Loaded,
    NativeRunner,
    OnnxRunner,
    Runner,
    TflmRunner,
    TorchRunner,
    version,
)
from targets.session import (
    HERE,
    Array,
    Device,
    Job,
    ModelFormat,
    Progress,
    Result,
    Target,
    unknown_option,
    unknown_url,
)
from targets.timing import PROTOCOL, AnchorError, Failure, Sampler, Settings, Timing, measure
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, ModelFileError
from toolchain.files import cache_folder, write_json
from toolchain.measurement import Evidence, Measurement, Stack

# A best anchor older than this counts no more: the machine's clock limits or its neighbours may have changed for good.
_BEST_ANCHOR_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class _Engine:
    name: str
    module: str
    distribution: str
    extra: str
    kernels: tuple[str, ...]  # the first one is the default
    threads: bool  # the number of threads can be chosen
    make: Callable[[int, str], Runner]
    form: ModelFormat
    timed: bool = True
    fallback: tuple[str, str] | None = (
        None  # module and distribution that do where the first ones are not installed
    )

    def installed(self) -> str:
        """The distribution that is installed, or an empty text; imports nothing."""
        pairs = [(self.module, self.distribution), *([self.fallback] if self.fallback else [])]
        for module, distribution in pairs:
            if importlib.util.find_spec(module) is not None:
                return distribution
        return ""


_ENGINES: Final[Mapping[str, _Engine]] = {
    "cpu:litert": _Engine(
        "LiteRT", "ai_edge_litert", "ai-edge-litert", "tflite", ("xnnpack", "reference"), True,
        lambda threads, kernels: LiteRtRunner(threads=threads, kernels=kernels), "tflite",
        fallback=("tflite_runtime", "tflite-runtime"),
    ),
    "cpu:onnxruntime": _Engine(
        "ONNX Runtime", "onnxruntime", "onnxruntime", "onnx", (), True,
        lambda threads, _: OnnxRunner(threads=threads), "onnx",
    ),
    "cpu:torch": _Engine(
        "torch", "torch", "torch", "train", (), True, lambda threads, _: TorchRunner(threads=threads), "pt2",
    ),
    "host:tflm": _Engine(
        "TensorFlow Lite Micro", "tflite_micro", "tflite-micro", "tflm", (), False,
        lambda threads, kernels: TflmRunner(), "tflite", timed=False,
    ),
    "host:native": _Engine(
        "the firmware's native runtime", "targets.runners.native", "boardfit", "", (), False,
        lambda threads, kernels: NativeRunner(), "native-dsp", timed=False,
    ),
}  # fmt: skip


def find() -> list[Target]:
    """The engines, installed or not; imports none of them."""
    found = []
    for url, engine in _ENGINES.items():
        here = engine.installed()
        label = engine.name if here in ("", engine.distribution) else here
        text = f"{label} {version(here)}".rstrip() if here else f"{engine.name}, not installed"
        notes = "" if engine.timed else "outputs and arena only, no timing"
        if not here:
            notes = f"pip install {engine.distribution}" + (
                f", or boardfit[{engine.extra}]" if engine.extra else ""
            )
        where = f" on {cpu_model()}" if engine.timed else " on this machine"
        found.append(Target(url, url.partition(":")[2], text + (where if here else ""), bool(here), notes))
    return found


def model_format(url: str) -> ModelFormat:
    """The kind of model file that an engine takes; imports none of them.

    Raises:
        ConfigurationError: no such engine.
    """
    engine = _ENGINES.get(url.partition("?")[0])
    if engine is None:
        raise unknown_url(url)
    return engine.form


def device_of(url: str) -> str:
    """See `targets.session.device_of`."""
    return HERE


def open_session(
    url: str, *, anchor: bytes | None = None, baseline: bytes | None = None, cache: Path | None = None
) -> HostSession:
    """A session with an engine on this CPU; see `targets.session.open_target`, which calls this.

    Raises:
        ConfigurationError: no such engine or option.
        DeviceError: the engine is not installed.
    """
    name, _, query = url.partition("?")
    engine = _ENGINES.get(name)
    if engine is None:
        raise unknown_url(url)
    allowed: dict[str, str] = {}
    if engine.threads:
        allowed["threads"] = "1.."
    if engine.kernels:
        allowed["kernels"] = "|".join(engine.kernels)
    threads, kernels = 1, engine.kernels[0] if engine.kernels else ""
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key == "threads" and engine.threads and value.isdecimal() and int(value) >= 1:
            threads = int(value)
        elif key == "kernels" and value in engine.kernels:
            kernels = value
        else:
            raise unknown_option(name, f"{key}={value}", allowed)
    return HostSession(
        url=name,
        runner=engine.make(threads, kernels),
        timed=engine.timed,
        threads=threads,
        anchor=anchor,
        baseline=baseline,
        cache=cache or cache_folder(),
    )


class HostSession:
    """An engine in this process. A context manager; see `targets.session.Session` for what it does.

    Args:
        url: the target's, without options.
        runner: the engine.
        timed: its times mean something.
        threads: of one inference; so many cores are used.
        anchor: a model to compare the machine's speed with; None: the first job that loads.
        baseline: the smallest model, for `overhead_us`; None: an empty Python call.
        cache: folder of the lock and of the best anchors.
        sampler: takes the samples, where this machine's clock is not what times the engine.
        clock, sleep: for tests.
    """

    def __init__(
        self,
        *,
        url: str,
        runner: Runner,
        timed: bool,
        threads: int,
        anchor: bytes | None,
        baseline: bytes | None,
        cache: Path,
        sampler: Sampler | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._runner = runner
        self._timed = timed
        self._threads = threads
        self._anchor = anchor
        self._baseline = baseline
        self._cache = cache
        self._sampler = sampler
        self._clock = clock
        self._sleep = sleep
        self._loaded: tuple[bytes, Loaded] | None = None
        self.stack = Stack.of({"target": url, **machine(), "protocol": PROTOCOL, **runner.stack})
        self.model_format: ModelFormat = runner.model_format
        self.evidence = Evidence.HOST_WALL
        self.device: Device | None = None

    def run(self, model: bytes, inputs: Array) -> Array:
        """See `Session.run`. The last model stays loaded, so that batches of one model load it once."""
        if self._loaded is None or self._loaded[0] != model:
            self._loaded = (bytes(model), self._runner.load(model))
        return self._loaded[1].run(np.asarray(inputs))

    def measure(
        self,
        jobs: Iterable[Job],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        wait: bool = False,
    ) -> Iterator[Result]:
        """See `Session.measure`. The machine's measuring lock is held until the iterator ends or is closed.

        Values are raw p5 times of one inference. The overhead of a call is not subtracted but stored beside them
        (`overhead_us`): it is measured with its own error, and a cost model that sums operators has a constant per
        operator, fitted against whole networks, which takes it up.
        """
        if not self._timed:
            raise ConfigurationError(
                f"{self.stack.as_dict()['target']} gives outputs; its times would say nothing about a board",
                remedy="measure on cpu:litert, or on a board",
            )
        listed = list(jobs)
        if len({job.key for job in listed}) != len(listed):
            raise ConfigurationError("two jobs have the same key", remedy="give each job its own key")
        return self._measure(listed, settings or Settings(), progress, wait)

    def _measure(
        self, jobs: list[Job], settings: Settings, progress: Progress | None, wait: bool
    ) -> Iterator[Result]:
        if not jobs:
            return
        with exclusive(self._cache, wait=wait):
            final = 0
            anchor = self._first_that_loads(jobs) if self._anchor is None else self._anchor
            best: _BestAnchor | None = None
            if anchor is None:  # none of the models loads; say of each why
                results: Iterator[Timing | Failure] = (Failure(job.key, self._why_not(job)) for job in jobs)
            else:
                best = _BestAnchor(self._cache, self.stack, anchor)
                results = measure(
                    [(job.key, self._loader(job)) for job in jobs],
                    self._runner.load(anchor).invoke,
                    settings=settings,
                    baseline=None if self._baseline is None else self._runner.load(self._baseline).invoke,
                    best_anchor_us=best.value,
                    on_anchor=best.see,
                    cores=self._threads,
                    sampler=self._sampler,
                    clock=self._clock,
                    sleep=self._sleep,
                )
            try:
                for found in results:
                    final += 1
                    if progress is not None:
                        progress(final, len(jobs))
                    yield result_of(found)
            except AnchorError as error:
                raise DeviceError(
                    f"the anchor model stopped working: {error}", remedy="use another anchor model"
                ) from error
            finally:
                if best is not None:
                    best.keep()

    def deploy(self, model: bytes, place: str | Path, *, files: Mapping[str, bytes] | None = None) -> str:
        """See `Session.deploy`: the model, `run_model.py`, requirements.txt and README.txt in a folder."""
        self._runner.load(model)
        own = runner_files(
            bytes(model),
            runtime=self._runner.stack["runtime"],
            runtime_version=self._runner.stack["runtime_version"],
            threads=self._threads,
            kernels=self._runner.stack["kernels"],
        )
        clash = sorted(own.keys() & (files or {}).keys())
        if clash:
            raise ConfigurationError(f"deploy writes {', '.join(clash)} itself", remedy="choose other names")
        return str(deploy_folder({**own, **(files or {})}, Path(place)))

    def undo(self, place: str | Path) -> str:
        """See `Session.undo`."""
        return str(undo_folder(Path(place)))

    def close(self) -> None:
        """See `Session.close`."""
        self._loaded = None
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loader(self, job: Job) -> Callable[[], Callable[[], object]]:
        return lambda: self._runner.load(job.model).invoke

    def _first_that_loads(self, jobs: list[Job]) -> bytes | None:
        for job in jobs:
            try:
                self._runner.load(job.model)
            except ModelFileError:
                continue
            return job.model
        return None

    def _why_not(self, job: Job) -> str:
        try:
            self._runner.load(job.model)
        except ModelFileError as error:
            return str(error)
        return "the engine refused the model, and then did not"


def result_of(found: Timing | Failure) -> Result:
    """What the timing protocol found, as a session gives it."""
    if isinstance(found, Failure):
        return Result(found.key, None, found.reason)
    details = {
        "anchor_ratio": f"{found.ratio:.6g}",
        "anchor_us": f"{found.anchor_us:.6g}",
        "best_anchor_us": f"{found.best_anchor_us:.6g}",
        "overhead_us": f"{found.overhead_us:.6g}",
        "loops": str(found.loops),
        "windows": str(found.windows),
    }
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    return Result(
        found.key,
        Measurement(
            "latency_us", found.p_us, Evidence.HOST_WALL, found.samples_us, found.unstable, details, taken_at
        ),
    )


def machine() -> dict[str, str]:
    """What a CPU's numbers depend on beside the engine: CPU, cores, architecture, governor, kernel, Python, numpy."""
    return {
        "cpu": cpu_model(),
        "cores": str(os.cpu_count() or 0),
        "architecture": platform.machine(),
        "governor": _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name as the kernel gives it; what Python knows where there is no such file."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))
    }
    # x86 has "model name"; a Pi names the board in "Model"; other ARM cores give only numbers.
    for key in ("model name", "Model", "Hardware", "CPU part"):
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine() or "unknown"


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class _BestAnchor:
    """The least anchor time seen on a stack, kept in one small JSON file between runs.

    A damaged file, or one that cannot be written, costs only the memory of earlier runs.
    """

    def __init__(self, folder: Path, stack: Stack, anchor: bytes) -> None:
        self._path = folder / "anchors.json"
        self._key = f"{stack.fingerprint}-{hashlib.sha256(anchor).hexdigest()[:16]}"
        self._kept = self._read().get(self._key)
        self.value = self._kept

    def see(self, value_us: float) -> None:
        self.value = value_us if self.value is None else min(self.value, value_us)

    def keep(self) -> None:
        """Write the file when there is something better to remember."""
        if self.value is None or self.value == self._kept:
            return
        entries: dict[str, object] = {
            **self._entries(),
            self._key: {"us": self.value, "at": datetime.now(UTC).isoformat(timespec="seconds")},
        }
        try:
            write_json(self._path, entries)
        except BoardfitError:
            return  # a read-only or full cache must not cost the user the measurements
        self._kept = self.value

    def _entries(self) -> dict[str, object]:
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _read(self) -> dict[str, float]:
        best: dict[str, float] = {}
        for key, entry in self._entries().items():
            if not isinstance(entry, dict):
                continue
            try:
                age = datetime.now(UTC) - datetime.fromisoformat(entry["at"])
                value = float(entry["us"])
            except (KeyError, TypeError, ValueError):
                continue
            if value > 0 and age.days < _BEST_ANCHOR_DAYS:
                best[key] = value
        return best
