"""A GPU as a target: `cuda:torch?batch=8`, `cuda:onnxruntime?device=1`.

Everything but the samples and the GPU's own state is `targets.host.HostSession`: groups, anchor, gate, lock. The way a
sample is taken is targets/cuda/events.py (torch), or this machine's clock around whole runs (ONNX Runtime, which waits
for its results and offers no events).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import numpy as np

from targets.cuda import events, smi
from targets.cuda.torch_gpu import TorchGpu, require_cuda
from targets.host import HostSession
from targets.runners import Loaded, OnnxRunner, Runner, TorchRunner, version
from targets.session import (
    HERE,
    Array,
    Job,
    ModelFormat,
    Progress,
    Result,
    Target,
    unknown_option,
    unknown_url,
)
from targets.timing import PROTOCOL, Sampler, Settings
from toolchain.errors import DeviceError
from toolchain.files import cache_folder
from toolchain.measurement import Evidence, Measurement

MEMORY: Final = "gpu_memory_bytes"
_FORMATS: Final[Mapping[str, ModelFormat]] = {"cuda:torch": "pt2", "cuda:onnxruntime": "onnx"}
_OPTIONS: Final = {"batch": "1..", "device": "0.."}


@dataclass(frozen=True, slots=True)
class Options:
    """What stands behind the question mark: samples of one inference, and the GPU's number."""

    batch: int = 1
    device: int = 0


def find() -> list[Target]:
    """The two engines; imports none of them, so whether a GPU is there shows when one is opened."""
    listed = []
    for url, module, plain, name in (
        ("cuda:torch", "torch", "torch", "torch"),
        ("cuda:onnxruntime", "onnxruntime", "onnxruntime-gpu", "ONNX Runtime"),
    ):
        here = importlib.util.find_spec(module) is not None and Path("/dev/nvidiactl").exists()
        text = f"{name} {version(plain)} on an NVIDIA GPU".replace("  ", " ")
        listed.append(
            Target(url, url.replace(":", "-"), text, here, "" if here else "no NVIDIA GPU here (docs/gpu.md)")
        )
    return listed


def model_format(url: str) -> ModelFormat:
    """The kind of model file that an engine takes; imports none of them.

    Raises:
        ConfigurationError: no such engine or option.
    """
    return _FORMATS[_parse(url)[0]]


def device_of(url: str) -> str:
    """See `targets.session.device_of`: this machine launches the work."""
    return HERE


def open_session(
    url: str, *, anchor: bytes | None = None, baseline: bytes | None = None, cache: Path | None = None
) -> CudaSession:
    """A session with an engine on a GPU; see `targets.session.open_target`, which calls this.

    Raises:
        ConfigurationError: no such engine or option.
        DeviceError: the engine is not installed or has no CUDA, or there is no GPU.
    """
    name, options = _parse(url)
    runner, sampler, watch = (_torch if name == "cuda:torch" else _onnxruntime)(options)
    return CudaSession(
        url=name, runner=runner, sampler=sampler, watch=watch, batch=options.batch, anchor=anchor,
        baseline=baseline, cache=cache or cache_folder(),
    )  # fmt: skip


def _parse(url: str) -> tuple[str, Options]:
    name, _, query = url.partition("?")
    if name not in _FORMATS:
        raise unknown_url(url)
    options = Options()
    for key, value in parse_qsl(query, keep_blank_values=True):
        number = int(value) if value.isdecimal() and len(value) < 7 else -1
        if key not in _OPTIONS or number < (1 if key == "batch" else 0):
            raise unknown_option(name, f"{key}={value}", _OPTIONS)
        options = replace(options, **{key: number})
    return name, options


def _torch(options: Options) -> tuple[GpuRunner, Sampler | None, smi.Watch]:
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise DeviceError(f"torch is not installed: {error}", remedy="see docs/gpu.md") from error
    require_cuda(torch, options.device)
    gpu = TorchGpu(torch, options.device)
    watch = smi.Watch(gpu.smi_id)
    facts = {
        "gpu": gpu.name, **gpu.versions(), **_facts(watch.state()), "gpu_memory": str(gpu.memory_bytes),
        "l2": f"flushed ({gpu.l2_bytes} bytes)", "protocol": events.PROTOCOL,
    }  # fmt: skip
    runner = TorchRunner(device=f"cuda:{options.device}", batch=options.batch)
    return GpuRunner(runner, facts, options.batch, gpu), events.event_sampler(gpu), watch


def _onnxruntime(options: Options) -> tuple[GpuRunner, Sampler | None, smi.Watch]:
    runner = OnnxRunner(gpu=options.device, batch=options.batch)
    watch = smi.Watch(visible(options.device))
    state = watch.state()
    facts = {
        "gpu": state.get("name", "unknown"), **_facts(state), "cuda": runner.cuda_version or "unknown",
        "l2": "as the run before left it", "protocol": PROTOCOL,
    }  # fmt: skip
    return GpuRunner(runner, facts, options.batch, None), None, watch


def _facts(state: smi.State) -> dict[str, str]:
    """Of nvidia-smi's answer, what numbers depend on from run to run."""
    names = {
        "driver": "driver_version", "power_limit_w": "power.limit", "persistence": "persistence_mode",
        "clock_max_mhz": "clocks.max.sm",
    }  # fmt: skip
    return {label: state.get(name, "unknown") for label, name in names.items()}


def visible(index: int, environment: Mapping[str, str] | None = None) -> str:
    """nvidia-smi's name of the GPU that CUDA counts as `index`: CUDA_VISIBLE_DEVICES hides and reorders them."""
    variables = os.environ if environment is None else environment
    listed = [part.strip() for part in variables.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return listed[index] if index < len(listed) and listed[index] else str(index)


class Memory(Protocol):
    """A GPU that counts the memory in use."""

    def memory_begin(self) -> int: ...

    def memory_peak(self) -> int: ...


class GpuRunner:
    """A runner whose stack names the GPU, and that notes what each model takes of the GPU's memory.

    Args:
        runner: the engine.
        facts: of the GPU, for the stack.
        batch: samples of one inference.
        gpu: counts memory; None where the engine does not tell.
    """

    def __init__(self, runner: Runner, facts: Mapping[str, str], batch: int, gpu: Memory | None) -> None:
        self._runner = runner
        self._gpu = gpu
        self._peaks: dict[bytes, int] = {}
        self.model_format: ModelFormat = runner.model_format
        self.stack: Mapping[str, str] = {**runner.stack, **facts, "batch": str(batch)}

    def load(self, model: bytes) -> Loaded:
        """See `Runner.load`. Loading includes a first inference, so the peak of both is the model's."""
        before = self._gpu.memory_begin() if self._gpu else 0
        loaded = self._runner.load(model)
        if self._gpu:
            self._peaks[_digest(model)] = max(0, self._gpu.memory_peak() - before)
        return loaded

    def peak_bytes(self, model: bytes) -> int | None:
        """The most memory that loading this model and one inference took; None where nobody counts."""
        return self._peaks.get(_digest(model))

    def close(self) -> None:
        self._runner.close()


def _digest(model: bytes) -> bytes:
    return hashlib.sha256(model).digest()


class CudaSession(HostSession):
    """See `targets.session.Session`. Times are of one inference of the whole batch.

    Args:
        url: the target's, without options.
        runner: the engine on the GPU.
        sampler: takes samples with the GPU's own clock; None: this machine's clock around whole runs.
        watch: the GPU's state.
        batch: samples of one inference.
        anchor, baseline, cache: as `targets.host.HostSession`.
    """

    def __init__(
        self,
        *,
        url: str,
        runner: GpuRunner,
        sampler: Sampler | None,
        watch: smi.Watch,
        batch: int,
        anchor: bytes | None,
        baseline: bytes | None,
        cache: Path,
    ) -> None:
        super().__init__(
            url=url, runner=runner, timed=True, threads=1, anchor=anchor, baseline=baseline, cache=cache,
            sampler=sampler,
        )  # fmt: skip
        self._gpu_runner = runner
        self._watch = watch
        self._batch = batch

    def run(self, model: bytes, inputs: Array) -> Array:
        """See `Session.run`. Any number of samples: the last batch is filled up with zeros, which are cut off again."""
        array = np.asarray(inputs)
        missing = -len(array) % self._batch if array.ndim else 0
        if missing:
            array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
        return super().run(model, array)[: len(array) - missing]

    def measure(
        self,
        jobs: Iterable[Job],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        wait: bool = False,
    ) -> Iterator[Result]:
        """See `Session.measure`. Details hold the GPU's clock, power state and temperature just after the window; what
        held the GPU back makes a result unstable. Where the engine tells the model's memory it is a measurement of
        its own, `gpu_memory_bytes`.
        """
        listed = list(jobs)
        results = super().measure(listed, settings=settings, progress=progress, wait=wait)
        return self._watched({job.key: job.model for job in listed}, results)

    def _watched(self, models: Mapping[str, bytes], results: Iterator[Result]) -> Iterator[Result]:
        before = self._watch.state()
        for result in results:
            now = self._watch.state()
            peak = self._gpu_runner.peak_bytes(models[result.key])
            yield with_gpu(result, before, now, self._batch, peak)
            before = now


def with_gpu(result: Result, before: smi.State, now: smi.State, batch: int, peak: int | None) -> Result:
    """A result with the GPU's state, and with the model's memory as a further measurement where it is known."""
    found = result.measurement
    if found is None:
        return result
    reasons = tuple(dict.fromkeys((*smi.held_back(before), *smi.held_back(now))))
    more = {"batch": str(batch), **smi.details(now)}
    if reasons:
        more["throttling"] = ", ".join(reasons)
    changed = replace(found, details={**found.details, **more}, unstable=found.unstable or bool(reasons))
    if peak is None:
        return replace(result, measurement=changed)
    memory = Measurement(
        metric=MEMORY,
        value=float(peak),
        evidence=Evidence.COUNTED,
        details={
            "batch": str(batch),
            "meaning": "most bytes that torch's allocator gave out for loading the model and one inference: "
            "weights, inputs, activations, workspaces; without the CUDA context and the allocator's reserve",
        },
        taken_at=found.taken_at,
    )
    return replace(result, measurement=changed, others=(memory,))
