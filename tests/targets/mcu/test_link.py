"""What a board does when it is asked, through the firmware's own C as a process."""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Iterator

import pytest

from targets.mcu import wire
from targets.mcu.dialogue import Dialogue
from targets.mcu.link import BoardLink, BoardRestarted, Refused
from targets.mcu.port import open_port
from targets.mcu.wire import Command, Frame, FrameReader, Status
from tests.targets.mcu.host_device import (
    CHANGES,
    FAILS,
    STACK,
    TWO_INPUTS,
    Device,
    Faults,
    model,
    outputs,
)
from toolchain.errors import BoardfitError, DeviceError, FlashingError, ModelFileError

PAGE = 4096


@pytest.fixture
def link() -> Iterator[BoardLink]:
    with Device() as device, device.link() as opened:
        yield opened


def put(link: BoardLink, *models: bytes) -> list[tuple[int, int]]:
    """Write models behind each other; their offsets and bytes."""
    places, packed = [], b""
    for data in models:
        packed += b"\xff" * (-len(packed) % 16)
        places.append((len(packed), len(data)))
        packed += data
    link.write_slot(0, packed)
    return places


# --- session -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["pty", "socket"])
def test_hello(over: str) -> None:
    with Device(over, slot=8 * PAGE, arena=1000) as device, device.link() as link:
        board = link.hello()
        assert board == link.board
        assert (board.board, board.tick_source, board.engine, board.engine_version) == (
            "host", "sequence", "copy", "test",
        )  # fmt: skip
        assert (board.slot_bytes, board.page_bytes, board.write_bytes) == (8 * PAGE, PAGE, 8)
        assert board.arena_bytes == 992  # whole lines of 16
        assert board.clock_hz == 100_000_000
        assert board.ticks_ok
        assert board.fault is None


def test_hello_is_said_on_first_use(link: BoardLink) -> None:
    assert link.slot_crc(0, 8) == zlib.crc32(b"\xff" * 8)


def test_a_fault_is_told_once() -> None:
    with Device(fault=0x08001234) as device, device.link() as link:
        fault = link.hello().fault
        assert fault is not None
        assert fault.program_counter == 0x08001234
        assert "0x08001234" in str(fault)
        assert link.hello().fault is None


def test_reset_keeps_the_flash_and_nothing_else(link: BoardLink) -> None:
    data = model()
    put(link, data)
    link.open_model(0, len(data))
    assert link.reset().board == "host"
    with pytest.raises(DeviceError, match="no model is open"):
        link.run()
    assert link.write_slot(0, data) == 0


def test_a_board_that_restarts_says_so_and_can_be_used_again(link: BoardLink) -> None:
    data = model()
    put(link, data)
    # Another program resets the board behind the link's back: here, the same dialogue without telling the link.
    with pytest.raises(DeviceError, match="restarted before SLOT_CRC: a reset"):
        _reset_behind(link)
    assert link.slot_crc(0, len(data)) == zlib.crc32(data)


def _reset_behind(link: BoardLink) -> None:
    line: Dialogue = link._line
    line.ask(Command.RESET)
    link.slot_crc(0, 8)


def test_another_program_takes_the_board() -> None:
    with Device() as device, open_port(device.url) as port:
        first, second = BoardLink(port), BoardLink(port)
        first.hello()
        second.hello()
        with pytest.raises(DeviceError, match="another program began a session"):
            first.slot_crc(0, 8)
        assert second.slot_crc(0, 8) == zlib.crc32(b"\xff" * 8)


# --- slot ----------------------------------------------------------------------------------------------------------


def test_only_pages_that_differ_are_written(link: BoardLink) -> None:
    data = bytes(range(1, 256)) * 50
    seen: list[tuple[int, int]] = []
    assert link.write_slot(0, data, lambda done, total: seen.append((done, total))) == -(-len(data) // 8) * 8
    assert seen == [(PAGE, len(data)), (2 * PAGE, len(data)), (3 * PAGE, len(data)), (len(data), len(data))]
    assert link.slot_crc(0, len(data)) == zlib.crc32(data)
    assert link.write_slot(0, data) == 0
    changed = data[:5000] + b"\x77" + data[5001:]
    assert link.write_slot(0, changed) == PAGE
    assert link.slot_crc(0, len(data)) == zlib.crc32(changed)
    assert link.write_slot(PAGE, b"\xff" * 100) == 104
    assert link.slot_crc(PAGE, PAGE) == zlib.crc32(b"\xff" * PAGE)
    assert link.write_slot(8 * PAGE, b"") == 0


def test_an_erased_page_is_not_erased_again(link: BoardLink, monkeypatch: pytest.MonkeyPatch) -> None:
    line, asked = link._line, []
    ask = line.ask
    monkeypatch.setattr(
        line, "ask", lambda command, *rest, **more: (asked.append(command), ask(command, *rest, **more))[1]
    )
    link.write_slot(0, b"\x01" * 700 + b"\xff" * 1500 + b"\x02" * 10)
    assert asked.count(Command.SLOT_ERASE) == 0
    assert asked.count(Command.SLOT_WRITE) == 3  # what is erased anyway is not written
    link.write_slot(0, b"\x03" * 100)
    assert asked.count(Command.SLOT_ERASE) == 1


def test_an_input_that_somebody_else_changed(link: BoardLink) -> None:
    put(link, model())
    link.open_model(0, 32)
    link.set_input(bytes(8))
    link._line.ask(Command.INPUT, wire.words(0, 3) + b"x")
    with pytest.raises(DeviceError, match="ran on other inputs"):
        link.run(0, 1)


def test_erase(link: BoardLink) -> None:
    link.write_slot(0, bytes(3 * PAGE))
    link.erase(PAGE, PAGE)
    assert link.slot_crc(0, 3 * PAGE) == zlib.crc32(bytes(PAGE) + b"\xff" * PAGE + bytes(PAGE))


@pytest.mark.parametrize(("offset", "count"), [(100, 8), (0, 1 << 19), (1 << 18, 8), (-PAGE, 8)])
def test_places_outside_of_the_slot(link: BoardLink, offset: int, count: int) -> None:
    with pytest.raises(FlashingError):
        link.write_slot(offset, bytes(count))


def test_the_device_itself_keeps_to_its_slot(link: BoardLink) -> None:
    line: Dialogue = link._line
    size = link.board.slot_bytes
    for command, payload in [
        (Command.SLOT_ERASE, wire.words(0, 100)),
        (Command.SLOT_ERASE, wire.words(8, PAGE)),
        (Command.SLOT_ERASE, wire.words(size, PAGE)),
        (Command.SLOT_ERASE, wire.words(0xFFFFF000, 2 * PAGE)),
        (Command.SLOT_WRITE, wire.words(4) + bytes(8)),
        (Command.SLOT_WRITE, wire.words(0) + bytes(7)),
        (Command.SLOT_WRITE, wire.words(size - 8) + bytes(16)),
        (Command.SLOT_CRC, wire.words(0, size + 1)),
        (Command.SLOT_CRC, wire.words(size + 1, 0)),
        (Command.SLOT_CRC, wire.words(8, 0xFFFFFFFC)),
        (Command.SLOT_ERASE, wire.words(PAGE, 0xFFFFF000)),
        (Command.OPEN, wire.words(0, size + 1, 0)),
        (Command.OPEN, wire.words(8, 16, 0)),
        (Command.OPEN, wire.words(0xFFFFFFF0, 32, 0)),
    ]:
        with pytest.raises(FlashingError, match="does not fit the model slot"):
            line.ask(command, payload)


def test_flash_that_refuses() -> None:
    with Device(flash_fails=PAGE + 40) as device, device.link() as link:
        link.write_slot(0, bytes(PAGE))
        with pytest.raises(FlashingError, match="status register 0x10") as error:
            link.write_slot(0, bytes(2 * PAGE))
        assert error.value.exit_code == 6


def test_flash_that_lies() -> None:
    with (
        Device(flash_lies=24) as device,
        device.link() as link,
        pytest.raises(FlashingError, match="otherwise than written"),
    ):
        link.write_slot(0, bytes(100))


# --- models --------------------------------------------------------------------------------------------------------


def test_many_models_in_one_slot_run_by_their_place(link: BoardLink) -> None:
    models = [model(10 + i, 20 + 3 * i, operators=1 + i) for i in range(9)]
    for (offset, count), i in zip(put(link, *models), range(9), strict=True):
        info = link.open_model(offset, count)
        assert (info.input_bytes, info.output_bytes) == ((10 + i,), (20 + 3 * i,))
        assert (info.operators, info.arena_bytes) == (1 + i, 30 + 4 * i)
        link.fill_input(i)
        result = link.run(2, 5)
        wanted = outputs([part.tobytes() for part in wire.noise(i, info.input_bytes)], 20 + 3 * i)
        assert link.output() == wanted
        assert result.output_crc == zlib.crc32(wanted)


def test_ticks(link: BoardLink) -> None:
    put(link, model(operators=4))
    link.open_model(0, 32)
    link.fill_input(0)
    result = link.run(3, 100, operators=True)
    assert len(result.ticks) == 100
    assert 0 < result.min_ticks <= result.median_ticks <= result.max_ticks < 20_000
    assert result.min_ticks < result.max_ticks
    assert result.constant_lines == 7
    ticks = link.operator_ticks()
    assert len(ticks) == 4
    assert 0 < sum(ticks) < result.ticks[-1]
    assert link.run(0, 1, timed=False).ticks == ()


def test_the_stack_of_a_deep_runtime(link: BoardLink) -> None:
    (flat, count), (deep, _) = put(link, model(), model(flags=STACK))
    used = []
    for offset in (flat, deep):
        link.open_model(offset, count)
        link.fill_input(0)
        used.append(link.run().stack_bytes)
    assert used[1] - used[0] > 10 * 1000
    assert used[1] < 1 << 18


def test_an_input_is_spent_by_a_run_unless_it_is_kept(link: BoardLink) -> None:
    data = bytes(range(200)) * 5
    put(link, model(len(data), 100))
    wanted = outputs([data], 100)
    link.open_model(0, 32)
    with pytest.raises(DeviceError, match="input 0 of the model is not set"):
        link.run()
    link.set_input(data)
    assert link.run(0, 1).output_crc == zlib.crc32(wanted)
    with pytest.raises(DeviceError, match="spent"):
        link.run(0, 1)
    link.set_input(data)
    with pytest.raises(DeviceError, match="set the inputs before each run"):
        link.run(0, 2)
    link.open_model(0, 32, keep_inputs=True)
    link.set_input(data)
    assert link.run(3, 7).output_crc == zlib.crc32(wanted)
    assert link.run(1, 7).output_crc == zlib.crc32(wanted)
    assert link.output() == wanted


def test_the_device_itself_knows_that_an_input_is_spent(link: BoardLink) -> None:
    put(link, model())
    link.open_model(0, 32)
    link.set_input(bytes(8))
    link._line.ask(Command.RUN, wire.words(0, 1, 0))
    with pytest.raises(DeviceError, match="inputs are not set"):
        link._line.ask(Command.RUN, wire.words(0, 1, 0))


def test_two_inputs(link: BoardLink) -> None:
    put(link, model(700, 900, flags=TWO_INPUTS))
    first, second = bytes(i % 251 for i in range(700)), bytes(i * i % 256 for i in range(700))
    for keep in (False, True):
        link.open_model(0, 32, keep_inputs=keep)
        link.set_input(first, 0)
        with pytest.raises(DeviceError, match="input 1 of the model is not set"):
            link.run(0, 1)
        link.set_input(second, 1)
        link.run(0, 1)
        assert link.outputs() == [outputs([first, second], 900)]
    link.fill_input(9)
    link.run(0, 1)
    noise = [part.tobytes() for part in wire.noise(9, [700, 700])]
    assert link.outputs() == [outputs(noise, 900)]
    link.set_input(first, 0)  # ends the filling of the other one too
    with pytest.raises(DeviceError, match="input 1"):
        link.run(0, 1)


@pytest.mark.parametrize(("index", "count"), [(0, 7), (0, 9), (1, 8), (-1, 8)])
def test_inputs_that_the_model_does_not_have(link: BoardLink, index: int, count: int) -> None:
    put(link, model())
    link.open_model(0, 32)
    with pytest.raises(DeviceError, match="model's inputs have"):
        link.set_input(bytes(count), index)


def test_models_that_the_board_refuses(link: BoardLink) -> None:
    arena = link.board.arena_bytes
    put(link, model(arena_bytes=arena + 1), b"JUNK" * 8, model(flags=FAILS), model(8, 8, arena_bytes=arena))
    with pytest.raises(
        Refused, match=f"takes at least {arena + 1} bytes of RAM, the arena has {arena}"
    ) as error:
        link.open_model(0, 32)
    assert (error.value.status, error.value.value, error.value.limit) == (Status.NO_MEMORY, arena + 1, arena)
    assert isinstance(error.value, ModelFileError)
    with pytest.raises(Refused, match="damaged") as error:
        link.open_model(32, 32)
    assert error.value.status is Status.BAD_MODEL
    link.open_model(64, 32)
    link.fill_input(1)
    with pytest.raises(Refused, match="failed"):
        link.run()
    link.open_model(96, 32)  # it takes the whole arena
    with pytest.raises(Refused, match="RAM"):
        link.open_model(96, 32, keep_inputs=True)


def test_writing_closes_the_model(link: BoardLink) -> None:
    put(link, model())
    link.open_model(0, 32)
    link.write_slot(PAGE, b"x")
    with pytest.raises(DeviceError, match="no model is open"):
        link.fill_input(1)
    line: Dialogue = link._line
    for command, payload in [
        (Command.FILL, wire.words(1)),
        (Command.RUN, wire.words(0, 1, 0)),
        (Command.OUTPUT, wire.words(0, 0, 1)),
    ]:
        with pytest.raises(DeviceError, match="no model is open"):
            line.ask(command, payload)


def test_outputs_before_a_run(link: BoardLink) -> None:
    put(link, model())
    link.open_model(0, 32)
    link.fill_input(1)
    with pytest.raises(DeviceError, match="nothing has run yet"):
        link.output()
    with pytest.raises(DeviceError, match="nothing has run yet"):
        link.operator_ticks()
    link.run()
    link.fill_input(2)
    with pytest.raises(DeviceError, match="nothing has run yet"):
        link.output()


def test_a_counter_that_stands_still_is_never_a_time() -> None:
    with Device(stuck=1) as device, device.link() as link:
        assert not link.board.ticks_ok
        put(link, model())
        link.open_model(0, 32)
        link.fill_input(1)
        for operators in (False, True):
            with pytest.raises(DeviceError, match="cycle counter of host stands still"):
                link.run(operators=operators)
        result = link.run(timed=False)
        assert result.ticks == ()
        assert link.output() == outputs([wire.noise(1, [8])[0].tobytes()], 8)


@pytest.fixture
def slowly() -> Iterator[BoardLink]:
    """A link to whose clock every run takes longer than a fast counter of 32 bits can count."""
    with Device(slow=5) as device, BoardLink(open_port(device.url), reply_s=1e4, clock=_fast_clock) as opened:
        put(opened, model())
        yield opened


def _fast_clock() -> float:
    return time.monotonic() * 1e4


def test_a_long_run_that_does_not_wrap(slowly: BoardLink) -> None:
    slowly.open_model(0, 32, keep_inputs=True)
    slowly.set_input(bytes(8))
    assert len(slowly.run(1, 2).ticks) == 2
    assert slowly.output() == outputs([bytes(8)], 8)


def test_a_run_in_which_the_counter_wraps_has_no_time(
    slowly: BoardLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly.open_model(0, 32)
    slowly.fill_input(1)
    monkeypatch.setattr(slowly, "operator_ticks", lambda: (2**31, 2**31 - 1))
    assert len(slowly.run().ticks) == 1
    monkeypatch.setattr(slowly, "operator_ticks", lambda: (2**31, 2**31))
    with pytest.raises(DeviceError, match=f"more than {2**32} cycles"):
        slowly.run()
    slowly.set_input(bytes(8))
    with pytest.raises(DeviceError, match="may wrap"):
        slowly.run(0, 1)
    slowly.set_input(bytes(8))
    assert slowly.run(0, 1, timed=False).ticks == ()


def test_outputs_that_change_are_seen(link: BoardLink) -> None:
    put(link, model(flags=CHANGES))
    link.open_model(0, 32)
    link.fill_input(1)
    with pytest.raises(DeviceError, match="outputs differ"):
        link.run(1, 2)


@pytest.mark.parametrize(
    "ask", [(0, 0, 0), (0, 65, 0), (65, 1, 0), (0xFFFFFFFF, 1, 0), (0xFFFFFFFF, 2, 1), (1, 0xFFFFFFFF, 3)]
)
def test_the_device_bounds_its_runs(link: BoardLink, ask: tuple[int, int, int]) -> None:
    put(link, model())
    link.open_model(0, 32)
    link.fill_input(1)
    line: Dialogue = link._line
    with pytest.raises(Refused, match="64 is the most"):
        line.ask(Command.RUN, wire.words(*ask))


def test_more_operators_than_are_kept(link: BoardLink) -> None:
    put(link, model(operators=256), model(operators=257))
    link.open_model(0, 32)
    link.fill_input(1)
    link.run(operators=True)
    assert len(link.operator_ticks()) == 256
    link.open_model(32, 32)
    link.fill_input(1)
    link.run()
    with pytest.raises(Refused, match="257 where 256"):
        link.run(operators=True)


# --- requests on the line ------------------------------------------------------------------------------------------


def talk(url: str, *frames: Frame, raw: bytes = b"") -> list[Frame]:
    """Send frames as they are, and what comes back within a moment of silence."""
    reader, found, quiet = FrameReader(), [], 0
    with open_port(url) as port:
        port.write(raw + b"".join(map(wire.encode, frames)))
        while quiet < 10:
            data = port.read()
            quiet = 0 if data else quiet + 1
            found += reader.feed(data)
    return found


def test_a_repeated_request_is_done_once() -> None:
    """Flash refuses to be written twice, so a second SLOT_WRITE under its own number is an error."""
    with Device() as device:
        write = wire.words(0) + bytes(8)
        frames = [Frame(1, 7, 10), Frame(3, 7, 11, write), Frame(3, 7, 11, write), Frame(3, 7, 12, write)]
        replies = talk(device.url, *frames)
        assert [(reply.request, reply.status) for reply in replies] == [
            (10, 0), (11, 0), (11, 0), (12, Status.FLASH),
        ]  # fmt: skip
        assert replies[1] == replies[2]


def test_requests_that_come_late_or_from_elsewhere() -> None:
    with Device() as device:
        erase, crc = wire.words(0, PAGE), wire.words(0, 8)
        replies = talk(
            device.url,
            Frame(4, 7, 1, crc),  # before any HELLO
            Frame(1, 7, 0xFFFF),
            Frame(3, 7, 0, wire.words(0) + bytes(8)),  # numbers wrap
            Frame(2, 7, 0xFFFE, erase),  # late: it must not erase what was just written
            Frame(2, 8, 1, erase),  # of another session
            Frame(4, 7, 1, crc),
            Frame(0x81, 7, 2),  # an echo
            Frame(1, 7, 3, version=9),
            Frame(99, 7, 4),
            Frame(4, 7, 5, b"123"),
            Frame(4, 7, 6, bytes(12)),
        )
        assert [(reply.session, reply.request, reply.status) for reply in replies] == [
            (7, 1, Status.BAD_SESSION), (7, 0xFFFF, 0), (7, 0, 0), (8, 1, Status.BAD_SESSION), (7, 1, 0),
            (7, 3, Status.BAD_VERSION), (7, 4, Status.BAD_COMMAND), (7, 5, Status.BAD_LENGTH),
            (7, 6, Status.BAD_LENGTH),
        ]  # fmt: skip
        assert wire.fields("slot_crc_reply", replies[4].payload) == {"crc32": zlib.crc32(bytes(8))}
        assert wire.fields("refusal", replies[0].payload) == {"value": 7, "limit": wire.NO_SESSION}
        assert wire.fields("refusal", replies[3].payload) == {"value": 8, "limit": 7}
        assert wire.fields("refusal", replies[5].payload) == {"value": 9, "limit": 1}


@pytest.mark.parametrize(
    "before",
    [
        b"\0",
        b"\0\0\0",
        b"\x05",
        b"\0\x05abc",
        b"\0" + b"\x07" * 5000,
        b"\0\xff" + b"a" * 600 + b"\0",
        b"name",
    ],
)
def test_a_frame_is_found_after_anything(before: bytes) -> None:
    with Device() as device:
        replies = talk(device.url, Frame(1, 7, 1), raw=before)
        assert [reply.command for reply in replies] == [0x81]


def test_the_device_is_silent_until_it_is_asked() -> None:
    with Device() as device:
        assert talk(device.url, raw=b"") == []
    with Device() as device, open_port(device.url) as port:
        port.write(b"\0\x05abcdef\0\0" + wire.encode(Frame(1, 7, 1))[:-9])
        for _ in range(10):
            assert port.read() == b""


# --- silence and nonsense ------------------------------------------------------------------------------------------


def test_nobody_answers() -> None:
    with (
        Device(mute=0) as device,
        device.link(reply_s=0.02) as link,
        pytest.raises(DeviceError, match=r"does not answer HELLO: 3 tries in .* not a byte came") as error,
    ):
        link.hello()
    assert "boardfit flash" in error.value.remedy


def test_only_noise_answers() -> None:
    with (
        Device(back=Faults(1, flip=1)) as device,
        device.link(reply_s=0.02) as link,
        pytest.raises(DeviceError, match=r"\d+ bytes came and no answer") as error,
    ):
        link.hello()
    assert "rate of the line" in error.value.remedy


@pytest.mark.parametrize("dies", [{"die_write": 150}, {"die_read": 150}, {"mute": 150}])
def test_a_board_that_dies(dies: dict[str, int]) -> None:
    with Device(**dies) as device, device.link(reply_s=0.02, attempts=3) as link, pytest.raises(DeviceError):
        link.write_slot(0, bytes(PAGE))


def test_slow_replies_are_waited_for() -> None:
    with Device(slow=3) as device, device.link(reply_s=0.02) as link:
        put(link, model())
        link.open_model(0, 32)
        link.fill_input(3)
        assert len(link.run(1, 3).ticks) == 3
        assert link.output() == outputs([wire.noise(3, [8])[0].tobytes()], 8)


def test_a_restart_within_a_request_is_told_with_its_fault() -> None:
    """The class that callers catch to go on with the next model."""
    with Device() as device, device.link() as link:
        link.hello()
        link._line.ask(Command.RESET)
        with pytest.raises(BoardRestarted):
            link.erase(0, PAGE)


@pytest.mark.slow
def test_any_request_is_survived_and_answered() -> None:
    """Whole frames of any content: edges of every word, data of any length. The process runs under sanitizers."""
    chance = random.Random(5)
    small = [0, 0, 1, 2, 8, 16, 32]
    large = [7, 31, 63, 64, 65, PAGE, 1 << 16, 1 << 18, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF]
    counts = {
        Command.HELLO: 0, Command.SLOT_ERASE: 2, Command.SLOT_WRITE: 1, Command.SLOT_CRC: 2, Command.OPEN: 3,
        Command.INPUT: 2, Command.FILL: 1, Command.RUN: 3, Command.OPERATOR_TICKS: 2, Command.OUTPUT: 3,
    }  # fmt: skip
    ends: set[tuple[Command, bool]] = set()
    silent: list[str] = []
    with Device() as device, device.link() as link:
        for turn in range(1500):
            if turn % 15 == 0:
                link.write_slot(0, model(40, 90, operators=5))
                link.open_model(0, 32, keep_inputs=turn % 2 == 0)
                link.fill_input(turn)
                link.run(operators=True)
            command = chance.choice(list(counts))
            words = [chance.choice(small if chance.random() < 0.7 else large) for _ in range(counts[command])]
            payload = wire.words(*words)
            if command in (Command.SLOT_WRITE, Command.INPUT) or chance.random() < 0.1:
                payload += chance.randbytes(chance.choice([0, 1, 8, 40, 504, 512, 513]))
            if chance.random() < 0.05:
                payload = payload[: chance.randrange(20)]
            try:
                link._line.ask(command, payload)
                ends.add((command, True))
            except BoardfitError as error:
                ends.add((command, False))
                silent += [error.message] * ("does not answer" in error.message)
        assert silent == []
        assert ends == {(command, good) for command in counts for good in (True, False)}
        assert link.hello().board == "host"
