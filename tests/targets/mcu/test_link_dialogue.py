"""Which replies are taken for which request, against a board that says whatever a test wants."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from targets.mcu import wire
from targets.mcu.dialogue import Dialogue
from targets.mcu.link import BoardLink
from targets.mcu.wire import Command, Frame, FrameReader, Status
from toolchain.errors import BoardfitError, DeviceError

HELLO = wire.words(100, 1, 1 << 16, 4096, 8, 1000, 512, 64, 256, 0, 0, 0, 0, 0, 0) + b"b\0t\0e\0v\0f\0"
NOISE = zlib.crc32(wire.noise(1, [8])[0].tobytes())
Answer = Callable[[Frame], list[Frame]]


class Board:
    """A port to a board that is a function. Its clock goes on by a second per read that finds nothing."""

    url, byte_s = "fake:", 0.0

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._reader = FrameReader()
        self._waiting = b""
        self.requests: list[tuple[float, bytes]] = []
        self.now = 0.0
        self.closed = 0

    def read(self) -> bytes:
        data, self._waiting = self._waiting, b""
        if not data:
            self.now += 1
        return data

    def write(self, data: bytes) -> None:
        self.requests.append((self.now, data))
        for frame in self._reader.feed(data):
            replies = [reply_to(frame, HELLO)] if frame.command == Command.HELLO else self._answer(frame)
            self._waiting += b"".join(map(wire.encode, replies))

    def close(self) -> None:
        self.closed += 1


def reply_to(request: Frame, payload: bytes = b"", status: int = 0) -> Frame:
    return replace(request, command=request.command | wire.REPLY, payload=payload, status=status)


def dialogue(answer: Answer) -> tuple[Dialogue, Board]:
    board = Board(answer)
    return Dialogue(board, reply_s=2, clock=lambda: board.now), board


def test_only_the_reply_to_this_request_counts() -> None:
    def answer(request: Frame) -> list[Frame]:
        right = reply_to(request, wire.words(7))
        return [
            replace(right, request=(right.request - 1) & 0xFFFF, payload=wire.words(1)),
            replace(right, session=right.session ^ 1, payload=wire.words(2)),
            replace(right, command=Command.FILL | wire.REPLY, payload=wire.words(3)),
            replace(request, payload=wire.words(4)),  # an echo
            right,
            replace(right, payload=wire.words(5)),
        ]

    line, board = dialogue(answer)
    for _ in range(3):
        assert line.ask(Command.SLOT_CRC) == wire.words(7)
    assert len(board.requests) == 4


def test_the_request_is_repeated_as_it_was_and_waits_double() -> None:
    line, board = dialogue(lambda request: [])
    with pytest.raises(DeviceError, match=r"b does not answer RUN: 6 tries in 158\.0 s"):
        line.ask(Command.RUN, wire.words(0, 1, 0), work_s=0.25)
    _, *times = (at for at, _ in board.requests)
    assert [after - before for before, after in pairwise(times)] == [3, 5, 10, 20, 40]
    assert len({data for _, data in board.requests[1:]}) == 1


def test_a_reply_to_a_later_try_is_as_good() -> None:
    tries: list[Frame] = []

    def answer(request: Frame) -> list[Frame]:
        tries.append(request)
        return [reply_to(request, b"done")] if len(tries) == 4 else []

    line, _ = dialogue(answer)
    assert line.ask(Command.SLOT_ERASE) == b"done"


def test_request_numbers_grow_and_wrap() -> None:
    line, board = dialogue(lambda request: [reply_to(request)])
    line.hello()
    line._request_number = 0xFFFE
    for _ in range(3):
        line.ask(Command.FILL)
    sent = [frame.request for _, data in board.requests for frame in FrameReader().feed(data)]
    assert sent[1:] == [0xFFFF, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "speaks version 2 of the protocol, this program version 1"),
        ({"version": 2, "status": 99}, "speaks version 2"),
        ({"status": Status.BAD_VERSION, "payload": wire.words(1, 3)}, "speaks version 3"),
        ({"status": 200, "payload": wire.words(1, 2)}, "status 200, which this program does not know"),
        ({"status": Status.FLASH}, "answers SLOT_CRC with 0 bytes where 2 words"),
        ({"status": Status.BAD_SESSION, "payload": wire.words(1, 2)}, "another program began a session"),
        (
            {"status": Status.BAD_SESSION, "payload": wire.words(1, wire.NO_SESSION)},
            "restarted before SLOT_CRC",
        ),
    ],
)
def test_answers_that_are_no_results(change: dict[str, object], message: str) -> None:
    line, _ = dialogue(lambda request: [replace(reply_to(request), **change)])  # type: ignore[arg-type]
    with pytest.raises(BoardfitError, match=message) as error:
        line.ask(Command.SLOT_CRC)
    assert error.value.remedy


@pytest.mark.parametrize(
    "payload", [b"", HELLO[:59], HELLO[:-1], HELLO + b"x\0", HELLO[:12] + bytes(4) + HELLO[16:]]
)
def test_a_hello_that_makes_no_sense(payload: bytes) -> None:
    board = Board(lambda request: [])
    line = Dialogue(board, reply_s=1, clock=lambda: board.now)
    board.write = lambda data: setattr(  # type: ignore[method-assign]
        board, "_waiting", b"".join(wire.encode(reply_to(f, payload)) for f in FrameReader().feed(data))
    )
    with pytest.raises(DeviceError, match="answers HELLO with"):
        line.hello()


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ({Command.OPEN: wire.words(1, 1, 1, 1, 8)}, "answers OPEN with 1 sizes"),
        ({Command.OPEN: wire.words(1, 1, 1, 1, 8, 8) + b"x"}, "bytes are no whole words"),
        ({Command.RUN: wire.words(0, 0, 0, 0)}, "0 times for 1 repetitions"),
        ({Command.RUN: wire.words(0, 0, 0, 0, 1, 2)}, "2 times for 1 repetitions"),
        ({Command.RUN: wire.words(1, 0, 0, 0, 5)}, "ran on other inputs"),
        ({Command.RUN: wire.words(NOISE, 0, 0, 0, 0)}, "stands still"),
        ({Command.OUTPUT: b"short"}, "answers OUTPUT with 5 bytes where 8"),
        ({Command.OUTPUT: b"12345678"}, "outputs are not those of the last run"),
        ({Command.OPERATOR_TICKS: wire.words(1, 2, 3)}, "answers OPERATOR_TICKS with 3 words"),
        ({Command.OPERATOR_TICKS: wire.words(1, 0)}, "stood still during operator 1"),
    ],
)
def test_replies_that_contradict(replies: dict[Command, bytes], message: str) -> None:
    """Undamaged frames whose content cannot be: an error each, never a number."""
    usual = {
        Command.OPEN: wire.words(16, 2, 1, 1, 8, 8),
        Command.FILL: b"",
        Command.RUN: wire.words(NOISE, zlib.crc32(bytes(8)), 100, 0, 5),
        Command.OUTPUT: bytes(8),
        Command.OPERATOR_TICKS: wire.words(2, 3),
    }
    given = {**usual, **replies}

    def work(table: dict[Command, bytes]) -> bytes:
        board = Board(lambda request: [reply_to(request, table[Command(request.command)])])
        link = BoardLink(board, reply_s=1, clock=lambda: board.now)
        with link:
            link.open_model(0, 16)
            link.fill_input(1)
            assert link.run(0, 1).ticks == (5,)
            assert link.operator_ticks() == (2, 3)
            return link.output()

    assert work(usual) == bytes(8)
    with pytest.raises(DeviceError, match=message):
        work(given)


def test_the_port_is_closed_with_the_link() -> None:
    board = Board(lambda request: [])
    with pytest.raises(RuntimeError), BoardLink(board):
        raise RuntimeError
    assert board.closed == 1
