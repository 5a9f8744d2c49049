"""A GPU that is a clock: kernels, flushes and time stamps are additions to it. And an engine whose models are times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from targets.runners import TensorSpec
from targets.session import Array, ModelFormat
from toolchain.errors import ModelFileError


class FakeGpu:
    """See `targets.cuda.events.Gpu`. Notes what is queued, in `log`."""

    flush_us = 40.0

    def __init__(self) -> None:
        self.now_us = 0.0
        self.factor = 1.0  # above 1: the clock is low
        self.log: list[str] = []
        self.queued = 0
        self.fails = ""
        self.peak = 0

    @contextmanager
    def queue(self) -> Iterator[None]:
        self.queued += 1
        yield

    def flush(self) -> None:
        self.log.append("flush")
        self.now_us += self.flush_us

    def mark(self) -> float:
        self.log.append("mark")
        return self.now_us

    def wait(self) -> None:
        self.log.append("wait")
        if self.fails:
            raise RuntimeError(self.fails)

    def elapsed_us(self, start: float, end: float) -> float:
        assert self.log[-1] == "wait"  # events may only be read when the queue is empty
        return end - start

    def kernel(self, name: str, us: float) -> Callable[[], object]:
        def call() -> None:
            self.log.append(name)
            self.now_us += us * self.factor

        return call

    def memory_begin(self) -> int:
        self.peak = 1000
        return 1000

    def memory_peak(self) -> int:
        return self.peak


class FakeRunner:
    """Models are a time in microseconds as text; each takes ten times as many bytes. Files with letters are refused."""

    model_format: ModelFormat = "pt2"

    def __init__(self, gpu: FakeGpu, batch: int = 1) -> None:
        self.gpu = gpu
        self.batch = batch
        self.stack = {"runtime": "fake", "runtime_version": "1", "kernels": "fake", "threads": "1"}
        self.seen: list[tuple[int, ...]] = []
        self.closed = False

    def load(self, model: bytes) -> FakeModel:
        if not model.strip().isdigit():
            raise ModelFileError("fake refuses the model: not a number")
        self.gpu.peak += 10 * int(model)
        return FakeModel(self, int(model))

    def close(self) -> None:
        self.closed = True


class FakeModel:
    def __init__(self, runner: FakeRunner, us: int) -> None:
        self.runner = runner
        self.inputs = (TensorSpec("x", (runner.batch, 2), np.dtype(np.float32)),)
        self.invoke = runner.gpu.kernel(str(us), us)

    def run(self, *inputs: Array) -> Array:
        (x,) = inputs
        assert len(x) % self.runner.batch == 0
        self.runner.seen.append(x.shape)
        return x + np.float32(1)
