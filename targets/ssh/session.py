"""A Linux board as a target: `ssh://pi@raspberrypi.local?runtime=litert&threads=4`.

What runs there is the agent (targets/ssh/agent.py), so measuring means the same as on this machine. A connection that
drops is made again and the jobs that have no result yet are asked again; what has been yielded is final.
"""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import numpy as np

from targets import host
from targets.session import HERE, Array, Device, Job, ModelFormat, Progress, Result, Target
from targets.ssh.bundle import agent_file, agent_name
from targets.ssh.connect import Address, Connection, connect, lost, parse_address
from targets.ssh.frames import MAGIC, Frame, FrameError, encode, read
from targets.timing import Settings
from toolchain import errors
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError
from toolchain.measurement import Evidence, Measurement, Stack

# Folder on the device, relative to the user's home: the agent, and its own environment when one was asked for.
FOLDER: Final = ".cache/boardfit"
RUNTIMES: Final[Mapping[str, str]] = {"litert": "cpu:litert", "onnxruntime": "cpu:onnxruntime"}
SILENCE_S: Final = 30.0  # the agent says every 2 s that it lives
RECONNECT_S: Final = (0.5, 1, 2, 4, 8, 15, 30, 60)  # waits; a Pi reboots in about 40 s
_BANNER_S, _BANNER_BYTES = 0.5, 400  # how long and how much is read of what is no answer
_FRUITLESS: Final = 3  # connections in a row that end without a single result


def find() -> list[Target]:
    """One line that says how to name a board: what is in the network is not searched."""
    try:
        import paramiko

        text, here = f"Linux board over SSH (paramiko {paramiko.__version__})", True
    except ImportError:
        text, here = "Linux board over SSH, paramiko is not installed", False
    notes = "options: " + ", ".join((*RUNTIMES, "threads")) if here else "pip install 'boardfit[ssh]'"
    return [Target("ssh://USER@HOST", "ssh", text, here, notes)]


def model_format(url: str) -> ModelFormat:
    """The kind of model file that the board's engine takes; connects to nothing."""
    return host.model_format(_parse(url)[1])


def device_of(url: str) -> str:
    """See `targets.session.device_of`: the host, whatever its port and options; a loopback address is this machine."""
    host_name = urlsplit(url).hostname or ""
    try:
        here = ipaddress.ip_address(host_name).is_loopback
    except ValueError:
        here = host_name == "localhost"
    return HERE if here else f"ssh {host_name}"


def open_session(
    url: str, *, anchor: bytes | None = None, baseline: bytes | None = None, cache: Path | None = None
) -> SshSession:
    """Connect to a board, copy the agent if it is not there yet, open an engine on it.

    Raises:
        ConfigurationError: the URL is wrong.
        DeviceError: the board cannot be reached, is not the one that is known, or has no engine.
    """
    address, engine, label = _parse(url)
    session = SshSession(address, engine, label, anchor=anchor or b"", baseline=baseline or b"")
    try:
        session.open()
    except BaseException:
        session.close()
        raise
    return session


def look(url: str) -> Mapping[str, Any]:
    """What the agent finds on a board (`targets.ssh.agent.report`); needs no engine there.

    Raises:
        DeviceError: the board cannot be reached, or has no Python that runs the agent.
    """
    address, engine, label = _parse(url)
    session = SshSession(address, engine, label)
    try:
        session.greet()
        return session.report
    finally:
        session.close()


def _parse(url: str) -> tuple[Address, str, str]:
    """(address, URL of the engine on the board, name of the target in stacks)."""
    address, options = parse_address(url, ("runtime", "threads", "kernels"))
    runtime = options.pop("runtime", "litert")
    if runtime not in RUNTIMES:
        raise ConfigurationError(
            f"a board has no runtime {runtime!r}", remedy=f"use runtime={' or '.join(RUNTIMES)}"
        )
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return address, RUNTIMES[runtime] + (f"?{query}" if query else ""), f"ssh:{runtime}"


class _Lost(Exception):
    """The agent or its connection ended; `crashed` when the agent's process died by a signal."""

    def __init__(self, why: str, *, crashed: bool = False) -> None:
        super().__init__(why)
        self.crashed = crashed


class SshSession:
    """See `targets.session.Session`. A context manager.

    Args:
        address: the board.
        engine: URL of the engine on it, e.g. `cpu:litert?threads=4`.
        label: the target's name in stacks.
        anchor, baseline: reference models of the measuring protocol; empty for none.
    """

    def __init__(
        self, address: Address, engine: str, label: str, *, anchor: bytes = b"", baseline: bytes = b""
    ) -> None:
        self.address = address
        self._engine = engine
        self._label = label
        self._models = (anchor, baseline)
        self._connection: Connection | None = None
        self._channel: Any = None
        self._sent_model = ""
        self.report: Mapping[str, Any] = {}
        self.stack = Stack(())
        self.model_format: ModelFormat = host.model_format(engine)
        self.evidence = Evidence.HOST_WALL
        self.device: Device | None = None

    def open(self) -> None:
        """Connect and open the engine; `open_session` has done it.

        Raises:
            DeviceError: as `open_session`; or the board's stack is another one than when it was first opened.
        """
        self.greet()
        try:
            sizes = [len(model) for model in self._models]
            answer = self._ask(
                Frame({"ask": "open", "url": self._engine, "sizes": sizes}, b"".join(self._models))
            )
        except _Lost as error:
            raise self._agent_ended(error) from error
        stack = Stack.of({**answer.head["stack"], "target": self._label})
        if self.stack.fields and stack != self.stack:
            changed = sorted(k for k, _ in set(stack.fields) ^ set(self.stack.fields))
            raise DeviceError(
                f"{self.address.label} is not the same any more: {', '.join(changed)} changed",
                remedy="run the command again: what was measured is kept, under the old stack",
            )
        self.stack = stack

    def greet(self) -> None:
        """Connect and start the agent, which reports what it finds; no engine is needed for that.

        Raises:
            DeviceError: the board cannot be reached, or has no Python that runs the agent.
        """
        self._hang_up()
        self._connection = connect(self.address)
        self._start()
        try:
            self.report = self._ask(Frame({"ask": "hello"})).head["report"]
        except _Lost as error:
            raise self._agent_ended(error) from error

    def _agent_ended(self, why: _Lost) -> DeviceError:
        return DeviceError(
            f"the agent on {self.address.label} ended: {why}",
            remedy=f"`boardfit doctor --target ssh://{self.address.label}` tells more; with --install it gives the "
            "board an engine",
        )

    def run(self, model: bytes, inputs: Array) -> Array:
        """See `Session.run`. A model travels once, and once more after a connection was lost."""
        array = np.ascontiguousarray(inputs)
        digest = hashlib.sha256(model).hexdigest()
        for tries_left in reversed(range(_FRUITLESS + 1)):
            try:
                return self._run(digest, model, array)
            except _Lost as error:
                if not tries_left:
                    raise lost(self.address, error) from error
                self._reopen()
        raise AssertionError("the last try returns or raises")  # pragma: no cover

    def _run(self, digest: str, model: bytes, array: Array) -> Array:
        for sent in (b"" if self._sent_model == digest else model, model):
            head = {
                "ask": "run", "model": digest, "sizes": [len(sent), array.nbytes],
                "dtype": array.dtype.str, "shape": list(array.shape),
            }  # fmt: skip
            answer = self._ask(Frame(head, sent + array.tobytes()))
            if answer.head.get("need") != "model":
                break
        self._sent_model = digest
        shape = [int(d) for d in answer.head["shape"]]
        return np.frombuffer(answer.body, np.dtype(str(answer.head["dtype"]))).reshape(shape)

    def measure(
        self,
        jobs: Iterable[Job],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
        wait: bool = False,
    ) -> Iterator[Result]:
        """See `Session.measure`. All jobs travel in one message.

        When the agent's process dies (an engine that crashes on a model takes it along), the jobs go one by one from
        there on, and the one that kills it alone becomes a result with that reason.
        """
        listed = list(jobs)
        if len({job.key for job in listed}) != len(listed):
            raise ConfigurationError("two jobs have the same key", remedy="give each job its own key")
        return self._measure(listed, settings, progress, wait)

    def _measure(
        self, jobs: list[Job], settings: Settings | None, progress: Progress | None, wait: bool
    ) -> Iterator[Result]:
        left = {job.key: job for job in jobs}
        alone = False  # one job per message: some model kills the agent
        fruitless = 0
        while left:
            part = list(left.values())[: 1 if alone else None]
            try:
                for result in self._measured(part, settings, wait):
                    if left.pop(result.key, None) is None:
                        raise DeviceError(
                            f"{self.address.label} answered a job that is not open: {result.key!r}"
                        )
                    fruitless = 0
                    if progress is not None:
                        progress(len(jobs) - len(left), len(jobs))
                    yield result
            except _Lost as error:
                if alone and error.crashed and part[0].key in left:
                    del left[part[0].key]
                    if progress is not None:
                        progress(len(jobs) - len(left), len(jobs))
                    yield Result(part[0].key, None, f"the engine crashed on it: {error}")
                    fruitless = 0
                alone = alone or error.crashed
                fruitless += 1
                if fruitless > _FRUITLESS:
                    raise lost(self.address, error) from error
                self._reopen()

    def _measured(self, jobs: Sequence[Job], settings: Settings | None, wait: bool) -> Iterator[Result]:
        head = {
            "ask": "measure",
            "jobs": [[job.key, len(job.model)] for job in jobs],
            "settings": asdict(settings) if settings else None,
            "wait": wait,
        }
        self._send(Frame(head, b"".join(bytes(job.model) for job in jobs)))
        finished = False
        try:
            while True:
                answer = self._receive()
                if "done" in answer.head:
                    finished = True
                    return
                yield _result(answer.head)
        except BoardfitError:
            finished = True
            raise
        finally:
            if not finished:  # the caller stops in the middle: the agent ends with its connection
                self._hang_up()

    def deploy(self, model: bytes, place: str | Path, *, files: Mapping[str, bytes] | None = None) -> str:
        """See `Session.deploy`; a relative place is relative to the user's home on the board."""
        others = dict(files or {})
        head = {
            "ask": "deploy", "place": str(place), "model": len(model),
            "files": [[name, len(data)] for name, data in others.items()],
        }  # fmt: skip
        return f"{self.address.label}:{self._once(Frame(head, b''.join((model, *others.values()))))}"

    def undo(self, place: str | Path) -> str:
        """Put back what stood in `place` before the last deployment.

        Raises:
            ConfigurationError: nothing stood there.
        """
        return f"{self.address.label}:{self._once(Frame({'ask': 'undo', 'place': str(place)}))}"

    def _once(self, frame: Frame) -> str:
        """Ask something that is not repeated: after a lost connection nobody knows whether it was done."""
        try:
            return str(self._ask(frame).head["place"])
        except _Lost as error:
            raise lost(self.address, error) from error

    def close(self) -> None:
        """See `Session.close`."""
        if self._channel is not None:
            with suppress(_Lost):
                self._send(Frame({"ask": "stop"}))
        self._hang_up()

    def __enter__(self) -> Self:
        if self._connection is None:
            self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        """Copy the agent unless this very version is there, and start it."""
        assert self._connection is not None
        home, python = place_agent(self._connection)
        self._channel = self._connection.start(python, f"{home}/{FOLDER}/{agent_name()}")
        self._channel.settimeout(SILENCE_S)
        self._sent_model = ""

    def _reopen(self) -> None:
        """Connect again; a board that reboots is waited for.

        Raises:
            DeviceError: it did not come back within the waits.
        """
        for pause in RECONNECT_S[:-1]:
            time.sleep(pause)
            with suppress(DeviceError):
                self.open()
                return
        time.sleep(RECONNECT_S[-1])
        self.open()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._channel = None

    def _ask(self, frame: Frame) -> Frame:
        self._send(frame)
        return self._receive()

    def _send(self, frame: Frame) -> None:
        if self._channel is None:
            raise _Lost("it was closed")
        try:
            self._channel.sendall(encode(frame))
        except (OSError, EOFError) as error:
            raise self._ended(str(error)) from error

    def _receive(self) -> Frame:
        """The next answer; errors of the agent are raised as what they are here."""
        while True:
            try:
                frame = read(self._channel.recv)
            except TimeoutError as error:
                raise _Lost(f"no sign of life for {SILENCE_S:.0f} s") from error
            except (OSError, EOFError) as error:
                raise self._ended(str(error)) from error
            except FrameError as error:
                if error.seen and not error.seen.startswith(MAGIC):
                    raise self._printed(error.seen) from error
                raise self._ended(_printable(error.seen) or str(error)) from error
            if frame.head.get("alive"):
                continue
            if "error" in frame.head:
                raise self._raised(frame.head)
            return frame

    def _printed(self, seen: bytes) -> DeviceError:
        """Something else than the agent writes into the channel: the login shell's start-up files, mostly."""
        with suppress(OSError, EOFError):
            self._channel.settimeout(_BANNER_S)
            while len(seen) < _BANNER_BYTES and (part := self._channel.recv(_BANNER_BYTES)):
                seen += part
        text = _printable(seen.partition(MAGIC)[0])[:_BANNER_BYTES]
        self._hang_up()
        return DeviceError(
            f"something on {self.address.label} prints before the agent answers: {text!r}",
            remedy="let ~/.bashrc, ~/.zshenv and the like print nothing in shells that are not interactive",
        )

    def _ended(self, why: str) -> _Lost:
        """Why the agent ended, with what it said last."""
        said, status = "", None
        with suppress(Exception):  # the channel may be gone in any state
            deadline = time.monotonic() + 2
            while not self._channel.exit_status_ready() and time.monotonic() < deadline:
                time.sleep(0.02)
            if self._channel.exit_status_ready():
                status = self._channel.recv_exit_status()
            if self._channel.recv_stderr_ready():
                lines = self._channel.recv_stderr(65536).decode(errors="replace").strip().splitlines()
                said = lines[-1] if lines else ""
        text = said or why or "it said nothing"
        if status is not None and (status < 0 or status > 128):
            # paramiko gives -1 for a process that a signal ended; a shell in between gives 128 + the signal.
            return _Lost(text if said else "its process was killed", crashed=True)
        return _Lost(text)

    def _raised(self, head: Mapping[str, Any]) -> BoardfitError:
        kind = getattr(errors, str(head["error"]), BoardfitError)
        if not (isinstance(kind, type) and issubclass(kind, BoardfitError)):
            kind = BoardfitError
        error = kind(f"{self.address.label}: {head['message']}", remedy=str(head.get("remedy", "")))
        assert isinstance(error, BoardfitError)
        return error


def place_agent(connection: Connection) -> tuple[str, str]:
    """Copy the agent into the user's cache folder on the board unless it is there; (home folder, Python to use).

    Raises:
        DeviceError: it cannot be written, e.g. the disk is full.
    """
    import paramiko

    sftp = connection.sftp()
    try:
        home = str(sftp.normalize("."))
        folder = f"{home}/{FOLDER}"
        python = connection.address.python
        if not python:
            own = f"{folder}/runtime/bin/python"
            python = own if _size(sftp, own) is not None else "python3"
        path, data = f"{folder}/{agent_name()}", agent_file()
        if _size(sftp, path) != len(data):
            _write(sftp, folder, path, data)
        return home, python
    except paramiko.SSHException as error:
        raise lost(connection.address, error) from error
    except (OSError, EOFError) as error:
        raise DeviceError(
            f"cannot copy the agent ({len(agent_file()) // 1000} kB) to {connection.address.label}:{FOLDER}: "
            f"{str(error) or type(error).__name__}",
            remedy="free disk space in the home folder there, and check that you may write to it",
        ) from error
    finally:
        with suppress(Exception):
            sftp.close()


def _write(sftp: Any, folder: str, path: str, data: bytes) -> None:
    """Write a file so that it is whole or absent under its name."""
    parts = folder.split("/")
    for end in range(2, len(parts) + 1):
        with suppress(OSError):  # exists; when it does not, the write below says so
            sftp.mkdir("/".join(parts[:end]))
    fresh = f"{path}.{time.time_ns():x}"
    try:
        with sftp.open(fresh, "wb") as file:
            file.write(data)
        if sftp.stat(fresh).st_size != len(data):
            raise OSError("the file is shorter than what was sent: the disk is full")
        sftp.posix_rename(fresh, path)
    except BaseException:
        with suppress(OSError, EOFError):
            sftp.remove(fresh)
        raise


def _size(sftp: Any, path: str) -> int | None:
    try:
        return int(sftp.stat(path).st_size)
    except FileNotFoundError:
        return None


def _result(head: Mapping[str, Any]) -> Result:
    if "failure" in head:
        return Result(str(head["key"]), None, str(head["failure"]))
    return Result(
        str(head["key"]),
        Measurement(
            metric=str(head["metric"]),
            value=float(head["value"]),
            evidence=Evidence(head["evidence"]),
            samples=tuple(float(value) for value in head["samples"]),
            unstable=bool(head["unstable"]),
            details={str(k): str(v) for k, v in head["details"].items()},
            taken_at=str(head["taken_at"]),
        ),
    )


def _printable(data: bytes) -> str:
    text = data.decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()
