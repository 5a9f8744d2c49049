"""The agent: what runs on the device. It serves `targets.host.HostSession` over standard input and output.

So a board is measured by the very code that measures this machine, not by a copy of it. The agent is one file
(targets/ssh/bundle.py packs it), needs Python 3.11 and one engine, installs nothing, and ends with its connection.

Every question is a frame with a key "ask"; the answer is one frame, or for "measure" one per result and a last one with
"done". Between them come frames {"alive": true} every few seconds, so that a dead connection is noticed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from targets.deploy import undo_folder
from targets.host import HostSession, machine, open_session
from targets.session import Job, Result
from targets.ssh import health
from targets.ssh.frames import Frame, FrameError, encode, read
from targets.timing import Settings
from toolchain.errors import BoardfitError

ALIVE_S: Final = 2.0
# Distribution -> the module's name, of everything that can run a model here.
RUNTIMES: Final[Mapping[str, str]] = {
    "ai-edge-litert": "ai_edge_litert",
    "tflite-runtime": "tflite_runtime",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "numpy": "numpy",
}


def report() -> dict[str, Any]:
    """What the agent finds on its device; only text, numbers and None."""
    home = Path.home()
    memory = health.memory_bytes()
    try:
        free: int | None = shutil.disk_usage(home).free
    except OSError:
        free = None
    versions = {}
    for name in RUNTIMES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": machine(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "runtimes": versions,
        "temperature_c": health.temperature_c(),
        "throttling": list(health.throttling()),
        "clock_mhz": health.clock_mhz(),
        "ram_bytes": memory[0] if memory else None,
        "ram_available_bytes": memory[1] if memory else None,
        "disk_free_bytes": free,
        "pid": os.getpid(),
    }


def serve(stream_in: BinaryIO, stream_out: BinaryIO, leave: Callable[[int], object]) -> None:
    """Answer questions until the stream ends.

    Args:
        stream_in, stream_out: binary, unbuffered or flushed by this function.
        leave: ends the process when the connection is lost during a measurement, which nobody waits for any more.
    """
    _Server(stream_in, stream_out, leave).run()


class _Server:
    def __init__(self, stream_in: BinaryIO, stream_out: BinaryIO, leave: Callable[[int], object]) -> None:
        self._in = stream_in
        self._out = stream_out
        self._leave = leave
        self._writing = threading.Lock()
        self._questions: queue.Queue[Frame | None] = queue.Queue()
        self._measuring = False
        self._session: HostSession | None = None
        self._model: tuple[str, bytes] = ("", b"")

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            while (frame := self._questions.get()) is not None and frame.head.get("ask") != "stop":
                try:
                    with self._heartbeat():
                        for answer in self._answers(frame):
                            self._send(answer)
                except BoardfitError as error:
                    self._send(
                        Frame(
                            {"error": type(error).__name__, "message": error.message, "remedy": error.remedy}
                        )
                    )
        except OSError:
            pass  # nobody listens any more
        finally:
            self._close()

    def _listen(self) -> None:
        """Read ahead, to notice the end of the connection while something runs."""
        while True:
            try:
                self._questions.put(read(self._in.read))
            except (EOFError, FrameError, OSError, ValueError):
                if self._measuring:
                    self._leave(0)  # frees the measuring lock; whoever comes next need not wait for this one
                self._questions.put(None)
                return

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(ALIVE_S):
                try:
                    self._send(Frame({"alive": True}))
                except OSError:
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _send(self, frame: Frame) -> None:
        data = encode(frame)
        with self._writing:
            self._out.write(data)
            self._out.flush()

    def _answers(self, frame: Frame) -> Iterator[Frame]:
        ask = frame.head.get("ask")
        if ask == "hello":
            yield Frame({"report": report()})
        elif ask == "open":
            yield self._open(frame)
        elif ask == "run":
            yield self._run(frame)
        elif ask == "measure":
            yield from self._measure(frame)
        elif ask == "deploy":
            head = frame.head
            sizes = [(str(name), int(size)) for name, size in head["files"]]
            parts = cut(frame.body, [int(head["model"]), *(size for _, size in sizes)])
            files = {name: part for (name, _), part in zip(sizes, parts[1:], strict=True)}
            yield Frame({"place": self._opened().deploy(parts[0], _place(head), files=files)})
        elif ask == "undo":
            yield Frame({"place": str(undo_folder(_place(frame.head)))})
        else:
            raise BoardfitError(
                f"the agent knows no question {ask!r}", remedy="use the same boardfit on both sides"
            )

    def _open(self, frame: Frame) -> Frame:
        self._close()
        anchor, baseline = cut(frame.body, [int(size) for size in frame.head["sizes"]])
        session = open_session(str(frame.head["url"]), anchor=anchor or None, baseline=baseline or None)
        self._session = session
        return Frame({"stack": session.stack.as_dict(), "model_format": session.model_format})

    def _run(self, frame: Frame) -> Frame:
        head = frame.head
        model, inputs = cut(frame.body, [int(size) for size in head["sizes"]])
        digest = str(head["model"])
        if model:
            self._model = (hashlib.sha256(model).hexdigest(), model)
        if self._model[0] != digest:
            return Frame({"need": "model"})
        array = np.frombuffer(inputs, np.dtype(str(head["dtype"]))).reshape([int(d) for d in head["shape"]])
        output = np.ascontiguousarray(self._opened().run(self._model[1], array))
        return Frame({"dtype": output.dtype.str, "shape": list(output.shape)}, output.tobytes())

    def _measure(self, frame: Frame) -> Iterator[Frame]:
        head = frame.head
        entries = [(str(key), int(size)) for key, size in head["jobs"]]
        models = cut(frame.body, [size for _, size in entries])
        jobs = [Job(key, model) for (key, _), model in zip(entries, models, strict=True)]
        settings = Settings(**head["settings"]) if head.get("settings") else None
        self._measuring = True
        try:
            before = health.throttling()
            for result in self._opened().measure(jobs, settings=settings, wait=bool(head.get("wait"))):
                now = health.throttling()
                yield Frame(result_head(_with_health(result, tuple(dict.fromkeys((*before, *now))))))
                before = now
        finally:
            self._measuring = False
        yield Frame({"done": len(jobs)})

    def _opened(self) -> HostSession:
        if self._session is None:
            raise BoardfitError("no engine is open on the device", remedy="open one first")
        return self._session

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _place(head: Mapping[str, Any]) -> Path:
    """A folder on the device; relative ones stand in the user's home, wherever the agent was started."""
    return Path.home() / Path(str(head["place"])).expanduser()


def _with_health(result: Result, held_back: tuple[str, ...]) -> Result:
    """The result with the device's temperature; unstable when something held the processor back meanwhile."""
    found = result.measurement
    if found is None:
        return result
    details = dict(found.details)
    temperature = health.temperature_c()
    if temperature is not None:
        details["temperature_c"] = f"{temperature:.1f}"
    if held_back:
        details["throttling"] = ", ".join(held_back)
    changed = replace(found, details=details, unstable=found.unstable or bool(held_back))
    return replace(result, measurement=changed)


def result_head(result: Result) -> dict[str, Any]:
    """A result as JSON."""
    found = result.measurement
    if found is None:
        return {"key": result.key, "failure": result.failure}
    return {
        "key": result.key,
        "metric": found.metric,
        "value": found.value,
        "evidence": found.evidence.value,
        "samples": list(found.samples),
        "unstable": found.unstable,
        "details": dict(found.details),
        "taken_at": found.taken_at,
    }


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    """The parts of a body.

    Raises:
        BoardfitError: the sizes do not add up to it.
    """
    if min(sizes, default=0) < 0 or sum(sizes) != len(body):
        raise BoardfitError(f"a message of {len(body)} bytes should hold {sum(sizes)}")
    parts, start = [], 0
    for size in sizes:
        parts.append(body[start : start + size])
        start += size
    return parts


def main(leave: Callable[[int], object]) -> int:
    """Entry point on the device. Whatever engines print to standard output goes to standard error instead.

    Args:
        leave: ends the process at once, without cleaning up: `os._exit`.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers, leave)
    return 0
