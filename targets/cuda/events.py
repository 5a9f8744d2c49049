"""How kernels are sampled on a GPU: between two events of its own clock, one call at a time, the L2 cache flushed.

A GPU works behind a queue, so a clock of the host would time the queue. Two events around a call are time stamps of
the GPU itself. Writing over the L2 cache before each call makes every sample start with the caches of the first one,
and it keeps the GPU busy while the host queues the call: short kernels are timed without the gaps of their launching,
while a network of many launches that the host cannot queue fast enough takes as long as the host takes.
The method is that of Triton's do_bench (triton/testing.py). Events resolve about 0.5 us (CUDA Runtime API reference,
cudaEventElapsedTime).

`Gpu` is what needs a device, and no more; targets/cuda/torch_gpu.py is the real one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Protocol

from targets.timing import Call, Sampler, Settings, Window
from toolchain.errors import DeviceError

PROTOCOL: Final = "p5-anchor-events/1"  # part of a stack: numbers of another protocol are other numbers
WARM_US: Final = (
    100_000.0  # of work before a window: an idle GPU takes tens of milliseconds to raise its clock
)
_WARM_CALLS, _WARM_QUEUED = 100_000, 32  # at most; calls that are queued before the host looks at the time
_SIZING: Final = 3  # calls that say how many samples a kernel's share of time allows


class Gpu(Protocol):
    """A GPU's queue and its clock."""

    def queue(self) -> AbstractContextManager[Any]:
        """Calls inside go to one queue (stream), in order."""
        ...

    def flush(self) -> None:
        """Queue a write over more bytes than the L2 cache holds."""
        ...

    def mark(self) -> Any:
        """Queue a time stamp."""
        ...

    def wait(self) -> None:
        """Wait until the queue is empty. Raises RuntimeError when something in it failed."""
        ...

    def elapsed_us(self, start: Any, end: Any) -> float:
        """Microseconds between two time stamps, after `wait`."""
        ...


def event_sampler(gpu: Gpu) -> Sampler:
    """Samples of a window (see `targets.timing.measure`) between events of a GPU.

    Each sample is one call. `inner_us` and `warm_up` of the settings, which are for loops on a CPU, have no meaning.

    Raises (the sampler):
        DeviceError: something that was queued failed; CUDA takes no more work in this process then.
    """

    def sample(kernels: Mapping[str, Call], settings: Settings, rng: random.Random) -> Window:
        broken: dict[str, str] = {}
        with gpu.queue():
            counts = {key: _count(gpu, kernels[key], key, settings, broken) for key in kernels}
            order = [key for key in kernels if key not in broken]
            _warm(gpu, [kernels[key] for key in order])
            samples: dict[str, list[float]] = {key: [] for key in order}
            for index in range(settings.samples):
                rng.shuffle(order)
                marks = []
                for key in order:
                    count = counts[key]  # a slow kernel is sampled in `count` of the rounds, evenly spread
                    if (
                        key in broken
                        or index * count // settings.samples == (index + 1) * count // settings.samples
                    ):
                        continue
                    pair = _queued(gpu, kernels[key], key, broken)
                    if pair is not None:
                        marks.append((key, *pair))
                _wait(gpu)
                for key, start, end in marks:
                    samples[key].append(gpu.elapsed_us(start, end))
        kept = {key: tuple(values) for key, values in samples.items() if key not in broken}
        return Window(kept, dict.fromkeys(kept, 1), broken)

    return sample


def _queued(gpu: Gpu, call: Call, key: str, broken: dict[str, str]) -> tuple[Any, Any] | None:
    """The marks around one call; None when the call itself raises (out of memory, say)."""
    gpu.flush()
    start = gpu.mark()
    try:
        call()
    except Exception as error:  # a kernel raises what its engine raises; the reason is kept
        broken[key] = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return None
    return start, gpu.mark()


def _count(gpu: Gpu, call: Call, key: str, settings: Settings, broken: dict[str, str]) -> int:
    """How many samples the kernel's share of time allows. Its first call, which may prepare much, does not count."""
    quickest = 0.0
    for turn in range(_SIZING + 1):
        pair = _queued(gpu, call, key, broken)
        if pair is None:
            return 0
        _wait(gpu)
        spent = gpu.elapsed_us(*pair)
        quickest = spent if turn <= 1 else min(quickest, spent)
    allowed = settings.samples if quickest <= 0 else int(settings.kernel_s * 1e6 / quickest)
    return min(settings.samples, max(settings.fewest, allowed))


def _warm(gpu: Gpu, calls: list[Call]) -> None:
    """Keep the GPU at work until its clock has risen; what fails here fails again where it is noted."""
    start = gpu.mark()
    for number, call in enumerate(itertools.islice(itertools.cycle(calls), _WARM_CALLS)):
        gpu.flush()
        with suppress(Exception):  # as said above
            call()
        if number % _WARM_QUEUED == 0:
            end = gpu.mark()
            _wait(gpu)
            if gpu.elapsed_us(start, end) >= WARM_US:
                return


def _wait(gpu: Gpu) -> None:
    try:
        gpu.wait()
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        raise DeviceError(
            f"the GPU failed: {lines[0] if lines else type(error).__name__}",
            remedy="run again: what was measured is kept. If it fails on the same model, leave that one out",
        ) from error
