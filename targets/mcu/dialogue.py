"""Questions and answers: one request at a time over a line that may lose, double, change and delay bytes.

A request that is not answered is sent again under the same number, and the device does it only once; the waits double
from try to try. Nothing is measured while the host speaks: a try waits for at least twice what the work should take.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final, TypeVar

from targets.mcu import replies, wire
from targets.mcu.port import Port
from targets.mcu.replies import BoardRestarted, Hello
from targets.mcu.wire import Command, Frame, FrameReader, Status
from toolchain.errors import DeviceError

ATTEMPTS: Final = 6
_HELLO_ATTEMPTS: Final = 3  # nobody there: say so within seconds
_LONGEST_REPLY: Final = 600  # bytes on the line

_Reply = TypeVar("_Reply")


class Dialogue:
    """The host's side of a session with one board.

    Args:
        port: the line.
        reply_s: how long the first try waits for a reply, beside the time of the bytes on the line and of the work.
        attempts: tries of a request.
        clock: for tests.

    Attributes:
        session: number of the session.
    """

    def __init__(
        self,
        port: Port,
        *,
        reply_s: float,
        attempts: int = ATTEMPTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._reply_s = reply_s
        self._attempts = attempts
        self._clock = clock
        self._reader = FrameReader()
        self._request_number = 0
        self._hello: Hello | None = None
        self.session = 0

    @property
    def board(self) -> Hello:
        """What the board said about itself; asked on first use."""
        return self._hello or self.hello()

    def hello(self) -> Hello:
        """Begin a session. Raises DeviceError where nothing answers, or in another version of the protocol."""
        self.session = secrets.randbelow(0x10000)
        self._request_number = secrets.randbelow(0x10000)
        payload = self.ask(Command.HELLO, attempts=min(_HELLO_ATTEMPTS, self._attempts))
        self._hello = self.parsed(Command.HELLO, replies.hello, payload)
        return self._hello

    @property
    def name(self) -> str:
        """The board's, or the port's while the board has not told."""
        return self._hello.board if self._hello else self._port.url

    def parsed(self, command: Command, parse: Callable[[bytes], _Reply], payload: bytes) -> _Reply:
        """What `parse` makes of a reply's payload; its ValueError becomes a DeviceError."""
        try:
            return parse(payload)
        except ValueError as error:
            raise self.nonsense(command, str(error)) from error

    def nonsense(self, command: Command, what: str) -> DeviceError:
        """The error of a reply that is undamaged and yet makes no sense."""
        return DeviceError(
            f"{self.name} answers {command.name} with {what}",
            remedy="write the firmware again: `boardfit flash`",
        )

    def ask(
        self, command: Command, payload: bytes = b"", *, work_s: float = 0.0, attempts: int | None = None
    ) -> bytes:
        """The payload of the reply to a request.

        Args:
            command: what to do.
            payload: its words and data.
            work_s: how long the board should need for it.
            attempts: instead of the dialogue's.

        Raises:
            DeviceError: no answer; `BoardRestarted` where the board has forgotten the session.
            Refused, FlashingError: the board's answer is no; `targets.mcu.replies.refusal`.
        """
        if command is not Command.HELLO:
            _ = self.board  # says HELLO where nobody has
        attempts = attempts or self._attempts
        self._request_number = (self._request_number + 1) & 0xFFFF
        request = wire.encode(Frame(command, self.session, self._request_number, payload))
        wait_s = self._reply_s + 2 * work_s + (len(request) + _LONGEST_REPLY) * self._port.byte_s
        start, seen = self._clock(), self._reader.bytes_seen
        for attempt in range(attempts):
            self._port.write(request)
            reply = self._listen(command, wait_s * 2**attempt)
            if reply is not None:
                return self._accepted(command, reply)
        seen = self._reader.bytes_seen - seen
        raise DeviceError(
            f"{self.name} does not answer {command.name}: {attempts} tries in {self._clock() - start:.1f} s, "
            + (f"{seen} bytes came and no answer among them" if seen else "not a byte came"),
            remedy=(
                "check the rate of the line and the cable, and that no other program talks to the board"
                if seen
                else "check cable and power, and that the firmware is on the board: `boardfit flash`"
            ),
        )

    def _listen(self, command: Command, wait_s: float) -> Frame | None:
        end = self._clock() + wait_s
        while True:
            for frame in self._reader.feed(self._port.read()):
                if (frame.command, frame.session, frame.request) == (
                    command | wire.REPLY,
                    self.session,
                    self._request_number,
                ):
                    return frame
            if self._clock() >= end:
                return None

    def _accepted(self, command: Command, reply: Frame) -> bytes:
        if reply.status == Status.OK and reply.version == wire.VERSION:
            return reply.payload
        if reply.version != wire.VERSION:
            raise replies.refusal(Status.BAD_VERSION, wire.VERSION, reply.version, command, self.name)
        why = self.parsed(command, lambda data: wire.fields("refusal", data), reply.payload)
        if reply.status == Status.BAD_SESSION and why["limit"] == wire.NO_SESSION:
            raise self._restarted(command)
        raise replies.refusal(reply.status, why["value"], why["limit"], command, self.name)

    def _restarted(self, command: Command) -> BoardRestarted:
        """The board has forgotten the session: say why it started anew, as far as it knows."""
        fault = self.hello().fault
        return BoardRestarted(
            f"{self.name} restarted before {command.name}: {fault or 'a reset, or the supply'}",
            remedy="leave out what it was asked last" if fault else "check supply and cable",
        )
