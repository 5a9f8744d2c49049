"""The firmware as a process (firmware/boards/host.c), and a line to it that can be as bad as a test wants."""

from __future__ import annotations

import atexit
import functools
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import tty
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from targets.mcu.link import BoardLink
from targets.mcu.port import open_port

HERE: Final = Path(__file__).resolve().parent
FIRMWARE: Final = HERE.parents[2] / "firmware"
CHANGES, FAILS, TWO_INPUTS, STACK = 1, 2, 4, 8  # flags of copy_engine.c


def model(
    input_bytes: int = 8,
    output_bytes: int = 8,
    operators: int = 3,
    arena_bytes: int | None = None,
    flags: int = 0,
) -> bytes:
    """A model for copy_engine.c."""
    tensors = input_bytes * (2 if flags & TWO_INPUTS else 1) + output_bytes
    arena = tensors if arena_bytes is None else arena_bytes
    return struct.pack("<4s5I", b"TEST", input_bytes, output_bytes, operators, arena, flags).ljust(32, b"\0")


def outputs(inputs: Sequence[bytes], output_bytes: int) -> bytes:
    """What copy_engine.c makes of its inputs."""
    return bytes((i + sum(data[i % len(data)] for data in inputs)) % 256 for i in range(output_bytes))


@functools.cache
def firmware(*sources: Path) -> Path:
    """Build the process, with sanitizers; with `sources` in place of copy_engine.c."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    folder = Path(tempfile.mkdtemp(prefix="boardfit-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = folder / "device"
    subprocess.run(
        [compiler, "-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined",
         "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{FIRMWARE / 'kernels'}", "-o", str(program),
         *map(str, sorted((FIRMWARE / "protocol").glob("*.c"))), str(FIRMWARE / "boards" / "host.c"),
         *map(str, sources or (HERE / "copy_engine.c",))],
        check=True,
    )  # fmt: skip
    return program


@dataclass
class Faults:
    """What a line does to the bytes that pass, by a seed: probabilities per byte.

    Attributes:
        seed: of the plan.
        drop, double, flip: the byte is lost, comes twice, has one bit changed.
        late: the line stands still for up to `late_s` before this byte.
        noise: a random byte comes before this one.
        after: bytes that pass unharmed first.
    """

    seed: int = 0
    drop: float = 0
    double: float = 0
    flip: float = 0
    late: float = 0
    late_s: float = 0.1
    noise: float = 0
    after: int = 0
    passed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def spoil(self, data: bytes) -> list[tuple[float, bytes]]:
        """Pieces to send, each after a pause."""
        pieces: list[tuple[float, bytes]] = [(0.0, b"")]
        chance = self._random.random
        for byte in data:
            self.passed += 1
            out = bytes([byte])
            if self.passed > self.after:
                if chance() < self.late:
                    pieces.append((self._random.uniform(0, self.late_s), b""))
                if chance() < self.noise:
                    out = self._random.randbytes(1) + out
                if chance() < self.flip:
                    out = bytes([byte ^ 1 << self._random.randrange(8)])
                if chance() < self.double:
                    out += out
                if chance() < self.drop:
                    out = b""
            pause, sent = pieces[-1]
            pieces[-1] = (pause, sent + out)
        return pieces


class Device:
    """A process of the firmware with a line to it. A context manager.

    Args:
        options: of host.c, as `name=value` with _ for -.
        over: `pty`, or `socket` (TCP).
        there, back: what the line does to bytes on the way to the device, and from it.
        program: `firmware(...)`.

    Attributes:
        url: where the line can be opened; it starts with the first bytes that come.
    """

    def __init__(
        self,
        over: str = "pty",
        there: Faults | None = None,
        back: Faults | None = None,
        program: Path | None = None,
        **options: int,
    ) -> None:
        arguments = [item for key, value in options.items() for item in (key.replace("_", "-"), str(value))]
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [program or firmware(), *arguments], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE
        )
        theirs.close()
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == b"ready\n"
        self._device = ours
        self._done = threading.Event()
        self._there, self._back = there or Faults(), back or Faults()
        if over == "pty":
            self._host, self._slave = os.openpty()
            tty.setraw(self._slave)
            self.url = os.ttyname(self._slave)
            self._listener = None
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def link(self, reply_s: float = 0.5, attempts: int = 6, baud: int = 115200) -> BoardLink:
        """A link over the line; close it before the device. `baud` only says how long bytes take."""
        return BoardLink(open_port(self.url, baud=baud), reply_s=reply_s, attempts=attempts)

    def _pump(self) -> None:
        connection: socket.socket | None = None
        if self._listener is not None:
            while not select.select([self._listener], [], [], 0.05)[0]:
                if self._done.is_set():
                    return
            connection = self._listener.accept()[0]
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host = connection.fileno() if connection else self._host
        device = self._device.fileno()
        try:
            while not self._done.is_set():
                for ready in select.select([host, device], [], [], 0.05)[0]:
                    data = os.read(ready, 4096)
                    if not data:
                        return
                    to, faults = (device, self._there) if ready == host else (host, self._back)
                    for pause, piece in faults.spoil(data):
                        if pause and self._done.wait(pause):
                            return
                        if piece:
                            os.write(to, piece)
        except OSError:
            return  # one end has gone
        finally:
            if connection:
                connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(5)
        self._device.close()
        if self._listener is not None:
            self._listener.close()
        else:
            os.close(self._host)
            os.close(self._slave)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode().replace("ready\n", "")  # of a reset
        self.process.stderr.close()
        assert self.process.returncode in (0, 3), (
            said
        )  # 3: it died as it was told; a sanitizer's word is another
        if kind is None:
            assert said == ""
