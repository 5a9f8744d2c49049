"""A target of one's own: `process:native`, the firmware's C runtime on this machine, in a process of its own.

It is what a PC or a gateway does that runs the C project of `boardfit export --c`. The process stands for any device at
the other end of a line: model files and inputs go there, outputs and times come back, and when it dies boardfit lives.

Two halves share this file. Above: what boardfit asks of a target, on this side of the line. Below: the device, started
as `python -m boardfit_process`, which keeps the time with boardfit's own protocol for noisy machines.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from targets.deploy import deploy_folder, undo_folder
from targets.host import machine, result_of
from targets.lock import exclusive
from targets.runners import NativeRunner
from targets.session import HERE, Array, Device, Job, ModelFormat, Progress, Result, Target, unknown_option
from targets.ssh.frames import Frame, encode, read
from targets.timing import PROTOCOL, Failure, Settings, Timing, measure
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, ModelFileError
from toolchain.files import cache_folder
from toolchain.measurement import Evidence, Stack

URL = "process:native"
RUN_MODEL = '''\
"""python run_model.py inputs.npy outputs.npy: the same runtime, without boardfit's search and tables."""

import pathlib
import sys

import numpy as np

from targets.runners import NativeRunner

model = NativeRunner().load(pathlib.Path(__file__).with_name("model.bfp").read_bytes())
np.save(sys.argv[2], model.run(np.load(sys.argv[1], allow_pickle=False)))
'''


# --- what boardfit asks of the module -------------------------------------------------------------------------------


def find() -> list[Target]:
    """What there is, for `boardfit boards` and `doctor`; opens nothing."""
    return [Target(URL, "process", "the firmware's runtime in a process of its own", True)]


def model_format(url: str) -> ModelFormat:
    """What kind of file the device takes: programs of the firmware. Opens nothing."""
    _check(url)
    return "native-dsp"


def device_of(url: str) -> str:
    """What it is measured on: this machine, so never while another target of this machine is measured."""
    return HERE


def open_session(
    url: str, *, anchor: bytes | None = None, baseline: bytes | None = None, cache: Path | None = None
) -> ProcessSession:
    """Start the device. `anchor` and `baseline` are small models that its times are compared with."""
    _check(url)
    return ProcessSession(anchor or b"", baseline or b"", cache or cache_folder())


def _check(url: str) -> None:
    name, _, options = url.partition("?")
    if name != URL:
        raise ConfigurationError(f"no target {url!r}", remedy=f"use {URL}")
    if options:
        raise unknown_option(name, options, {})


class ProcessSession:
    """An open device: `stack`, `model_format`, `evidence` and `device` say what its numbers are."""

    model_format: ModelFormat = "native-dsp"
    evidence = Evidence.HOST_WALL
    device: Device | None = None  # a microcontroller would say its clock and memories here

    def __init__(self, anchor: bytes, baseline: bytes, cache: Path) -> None:
        self._references = anchor, baseline
        self._cache = cache
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            # Everything that a number depends on. Rows of another stack are other rows.
            (answer,) = self._ask({"ask": "hello"})
        except BaseException:
            self.close()
            raise
        self.stack = Stack.of({"target": URL, **machine(), "protocol": PROTOCOL, **answer.head["stack"]})

    def run(self, model: bytes, inputs: Array) -> Array:
        """Outputs of a model, batch first."""
        array = np.ascontiguousarray(inputs)
        head = {"ask": "run", "dtype": array.dtype.str, "shape": array.shape}
        (answer,) = self._ask(head, model, array.tobytes())
        return np.frombuffer(answer.body, answer.head["dtype"]).reshape(answer.head["shape"])

    def measure(
        self,
        jobs: Iterable[Job],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        wait: bool = False,
    ) -> Iterator[Result]:
        """Time models, each as soon as it is final. A model that fails is a result with the reason, no exception."""
        listed = list(jobs)
        if len({job.key for job in listed}) != len(listed):
            raise ConfigurationError("two jobs have the same key", remedy="give each job its own key")
        return self._measure(listed, settings or Settings(), progress, wait)

    def _measure(
        self, jobs: list[Job], settings: Settings, progress: Progress | None, wait: bool
    ) -> Iterator[Result]:
        head = {"ask": "measure", "keys": [job.key for job in jobs], "settings": asdict(settings)}
        done = 0
        with exclusive(self._cache, wait=wait):  # two that measure on one machine would measure each other
            try:
                for answer in self._ask(head, *self._references, *(job.model for job in jobs)):
                    failed = "reason" in answer.head
                    found = Failure(**answer.head) if failed else Timing(**answer.head)
                    done += 1
                    if progress is not None:
                        progress(done, len(jobs))
                    yield result_of(found)
            except GeneratorExit:
                self.close()  # whoever asked stops listening; the device would go on
                raise

    def deploy(self, model: bytes, place: str | Path, *, files: Mapping[str, bytes] | None = None) -> str:
        """The model and what runs it, into a folder: all or nothing, the one before is kept beside it."""
        list(self._ask({"ask": "check"}, model))
        own = {"model.bfp": model, "run_model.py": RUN_MODEL.encode()}
        return str(deploy_folder({**own, **(files or {})}, Path(place)))

    def undo(self, place: str | Path) -> str:
        """What stood in the folder before."""
        return str(undo_folder(Path(place)))

    def close(self) -> None:
        """End the device; twice does no harm."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, head: Mapping[str, Any], *parts: bytes) -> Iterator[Frame]:
        """The answers to one question, up to the empty one that ends them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(encode(Frame({**head, "sizes": [*map(len, parts)]}, b"".join(parts))))
            self._process.stdin.flush()
            while (answer := read(self._process.stdout.read)).head:
                if "refused" in answer.head:
                    raise ModelFileError(str(answer.head["refused"]))
                yield answer
        except (OSError, EOFError, ValueError) as error:
            raise DeviceError(
                f"the process of {URL} ended with code {self._process.wait()}",
                remedy="run the command again: what was measured is kept",
            ) from error


# --- the device -----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer questions from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for boardfit, which then ends this process
    runner = NativeRunner()
    while True:
        try:
            frame = read(sys.stdin.buffer.read)
        except EOFError:
            return
        ends = np.cumsum(frame.head["sizes"])
        parts = [frame.body[end - size : end] for end, size in zip(ends, frame.head["sizes"], strict=True)]
        try:
            for answer in _answers(runner, frame.head, parts):
                _send(answer)
        except BoardfitError as error:
            _send(Frame({"refused": error.message}))
        else:
            _send(Frame({}))


def _answers(runner: NativeRunner, head: Mapping[str, Any], parts: list[bytes]) -> Iterator[Frame]:
    if head["ask"] == "hello":
        yield Frame({"stack": runner.stack})
    elif head["ask"] == "check":
        runner.load(parts[0])
    elif head["ask"] == "run":
        model, inputs = parts
        outputs = runner.load(model).run(np.frombuffer(inputs, head["dtype"]).reshape(head["shape"]))
        yield Frame({"dtype": outputs.dtype.str, "shape": outputs.shape}, outputs.tobytes())
    else:
        anchor, baseline, *models = parts
        timings = measure(
            [(key, partial(_load, runner, model)) for key, model in zip(head["keys"], models, strict=True)],
            _load(runner, anchor or models[0]),
            baseline=_load(runner, baseline) if baseline else None,
            settings=Settings(**head["settings"]),
        )
        for found in timings:
            yield Frame(asdict(found))


def _load(runner: NativeRunner, model: bytes) -> Callable[[], object]:
    """One inference, ready to be timed."""
    return runner.load(model).invoke


def _send(frame: Frame) -> None:
    sys.stdout.buffer.write(encode(frame))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
