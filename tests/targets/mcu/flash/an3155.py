"""The bootloader in an STM32's ROM, as a device on a pseudo terminal: AN3155 (protocol v3.x), with faults on demand.

What it knows: GET, GET VERSION, GET ID, READ, WRITE, ERASE or EXTENDED ERASE, GO. Flash behaves like flash: writing
clears bits only, so what is not erased first does not read back as written.
"""

from __future__ import annotations

import os
import pty
import select
import threading
import tty
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Literal

ACK: Final = b"\x79"
NACK: Final = b"\x1f"
COMMANDS: Final = {0x00: "get", 0x01: "version", 0x02: "id", 0x11: "read", 0x21: "go", 0x31: "write"}

# nack: refuses. silent: says nothing more, for ever. close: the port vanishes. cut: half of a reply, then silence.
# noise: a byte that is neither ACK nor NACK. flip: one bit of the data is wrong.
Fault = Literal["nack", "silent", "close", "cut", "noise", "flip"]


class _Ended(Exception):
    """The device is switched off, or dead by a fault."""


class Bootloader:
    """A chip in its bootloader. A context manager; `port` is what a host opens.

    Attributes:
        flash: what stands in flash from `base` on.
        started_at: the address of GO, or None.
        events: what happened, in order, e.g. `init`, `erase`, `write`.
    """

    def __init__(
        self,
        *,
        device_id: int = 0x470,
        flash_bytes: int = 32 * 1024,
        base: int = 0x0800_0000,
        extended_erase: bool = True,
        faults: Mapping[tuple[str, int], Fault] | None = None,
    ) -> None:
        """Args:
        faults: (event, how often it happened before) -> what goes wrong then. Events are the commands' names,
            `init`, and `write data`, `erase data`, `read data`, `go address` for the last step of each.
        """
        self.device_id, self.base = device_id, base
        self.flash = bytearray(
            flash_bytes
        )  # an old program, all zeros: nothing can be written before it is erased
        self.started_at: int | None = None
        self.events: list[str] = []
        self._erase_command = 0x44 if extended_erase else 0x43
        self._faults = dict(faults or {})
        self._measured = False  # the baud rate
        self._host, self._line = pty.openpty()
        tty.setraw(self._host)
        tty.setraw(self._line)
        self.port = os.ttyname(self._line)
        self._off, self._switch = os.pipe()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Bootloader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._switch, b"off")
        self._thread.join()
        self._vanish()
        os.close(self._off)
        os.close(self._switch)

    def heal(self) -> None:
        """No more faults: as after a reset."""
        self._faults.clear()

    # --- the life of the device ------------------------------------------------------------------------------------

    def _live(self) -> None:
        while True:
            try:
                self._command()
            except _Ended:
                return

    def _command(self) -> None:
        code = self._take(1)[0]
        if code == 0x7F:
            # Only the first one is measured; later it is half of a command, whose other half is wrong.
            if self._measured:
                self._take(1)
                self._say(NACK)
            else:
                answer = self._happens("init", ACK)
                self._measured = answer == ACK
                self._say(answer)
            return
        if self._take(1)[0] != code ^ 0xFF or not self._measured:
            self._say(NACK)
            return
        name = "erase" if code == self._erase_command else COMMANDS.get(code, "")
        if not name:
            self._say(NACK)
            return
        answer = self._happens(name, ACK)
        self._say(answer)
        if answer == ACK:
            getattr(self, f"_{name}")()

    def _get(self) -> None:
        codes = bytes([*COMMANDS, self._erase_command])
        self._reply("get data", bytes([len(codes), 0x31]) + codes + ACK)

    def _version(self) -> None:
        self._reply("version data", b"\x31\x00\x00" + ACK)

    def _id(self) -> None:
        self._reply("id data", b"\x01" + self.device_id.to_bytes(2, "big") + ACK)

    def _read(self) -> None:
        start = self._address()
        if start is None:
            return
        count, check = self._take(2)
        if check != count ^ 0xFF or start + count + 1 > len(self.flash):
            self._say(NACK)
            return
        self._say(ACK)
        self._reply("read data", bytes(self.flash[start : start + count + 1]))

    def _write(self) -> None:
        start = self._address()
        if start is None:
            return
        count = self._take(1)[0]
        data, check = self._take(count + 1), self._take(1)[0]
        for byte in data:
            check ^= byte
        if check != count or start + len(data) > len(self.flash) or start % 4 or len(data) % 4:
            self._say(NACK)
            return
        answer = self._happens("write data", ACK)
        if answer == ACK:
            for at, byte in enumerate(data, start):
                self.flash[at] &= byte
        self._say(answer)

    def _erase(self) -> None:
        width = 2 if self._erase_command == 0x44 else 1
        count = int.from_bytes(self._take(width), "big")
        everything = count >= (0xFFF0 if width == 2 else 0xFF)
        rest = self._take(1 if everything else width * (count + 1) + 1)
        del rest
        answer = self._happens("erase data", ACK if everything else NACK)  # pages differ from part to part
        if answer == ACK:
            self.flash[:] = b"\xff" * len(self.flash)
        self._say(answer)

    def _go(self) -> None:
        self._address(event="go address")

    # --- bytes -----------------------------------------------------------------------------------------------------

    def _address(self, event: str = "") -> int | None:
        """Offset into flash, or None after a refusal. With an event it is the address to go to."""
        *address, check = self._take(5)
        for byte in address:
            check ^= byte
        offset = int.from_bytes(bytes(address), "big") - self.base
        answer = ACK if not check and 0 <= offset < len(self.flash) else NACK
        if event:
            answer = self._happens(event, answer)
            if answer == ACK:  # noted before the host knows that it is done
                self.started_at = self.base + offset
        self._say(answer)
        return offset if answer == ACK else None

    def _happens(self, event: str, answer: bytes) -> bytes:
        """Note an event, and change the answer where a fault is due."""
        fault = self._faults.get((event, self.events.count(event)))
        self.events.append(event)
        if fault == "close":
            self._vanish()
            raise _Ended
        if fault == "silent":
            raise _Ended
        if fault == "cut":
            self._say(answer[: len(answer) // 2])
            raise _Ended
        if fault == "flip":
            return bytes([answer[0] ^ 0x10]) + answer[1:]
        return {"nack": NACK, "noise": b"\x55"}.get(fault or "", answer)

    def _reply(self, event: str, data: bytes) -> None:
        self._say(self._happens(event, data))

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            ready, _, _ = select.select([self._host, self._off], [], [])
            if self._off in ready:
                raise _Ended
            try:
                data += os.read(self._host, count - len(data))
            except OSError as error:
                raise _Ended from error
        return data

    def _say(self, data: bytes) -> None:
        os.write(self._host, data)

    def _vanish(self) -> None:
        for handle in (self._host, self._line):
            if handle >= 0:
                os.close(handle)
        self._host = self._line = -1
