"""Lines that lose, double, flip, insert and delay bytes: every run ends in the right result or in a typed error.

The device is the firmware's own C, its flash refuses to be written twice, and its cycle counter makes short, known
steps: so a request that is done twice, or a number that is not the board's, shows.
"""

from __future__ import annotations

import random
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from targets.mcu import wire
from targets.mcu.link import BoardLink
from tests.targets.mcu.host_device import Device, Faults, model, outputs
from toolchain.errors import BoardfitError

PAGE = 4096
INPUT, OUTPUT = 700, 1100
WORST_TICKS = 3 * 5000  # of one run: five reads of the counter, each below 1100, and room


@contextmanager
def no_hang(seconds: int) -> Iterator[None]:
    """A run that would never end, ends the test."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def work(link: BoardLink, seed: int) -> None:
    """All that a measurement asks of a board; wrong results fail here."""
    chance = random.Random(seed)
    first = model(INPUT, OUTPUT, operators=3).ljust(PAGE + 300, chance.randbytes(1))
    image = first + b"\xff" * (-len(first) % 16) + model(20, 30, operators=2)
    link.write_slot(0, image)
    assert link.slot_crc(0, len(image)) == zlib.crc32(image)

    link.open_model(0, len(first))
    link.fill_input(seed)
    result = link.run(1, 4, operators=True)
    noise = [part.tobytes() for part in wire.noise(seed, [INPUT])]
    wanted = outputs(noise, OUTPUT)
    assert len(result.ticks) == 4
    assert all(1000 <= tick < WORST_TICKS for tick in result.ticks)
    ticks = link.operator_ticks()
    assert len(ticks) == 3
    assert all(1000 <= tick < 1100 for tick in ticks)
    assert result.arena_bytes == INPUT + OUTPUT
    assert result.output_crc == zlib.crc32(wanted)
    assert link.output() == wanted

    link.open_model(len(image) - 32, 32)
    data = chance.randbytes(20)
    link.set_input(data)
    assert link.run(0, 1, timed=False).output_crc == zlib.crc32(outputs([data], 30))
    assert link.outputs() == [outputs([data], 30)]


def trial(seed: int, device: Device, link: BoardLink) -> BoardfitError | None:
    """None when all was right, or the typed error that a run ended with."""
    with no_hang(120), device, link:
        try:
            work(link, seed)
        except BoardfitError as error:
            return error
    return None


def bad_line(seed: int, rate: float, over: str = "pty", reply_s: float = 0.03) -> str:
    """`right`, or the name of the error."""
    chance = random.Random(seed)
    kinds = ["drop", "double", "flip", "noise"]
    chosen = dict.fromkeys(chance.sample(kinds, chance.randint(1, 4)), rate)
    there = Faults(seed, late=rate / 20, **chosen)
    back = Faults(seed + 1_000_000, late=rate / 20, **chosen)
    device = Device(over, there, back)
    error = trial(seed, device, device.link(reply_s=reply_s, baud=921600))
    if error is not None and not error.remedy:
        return f"no remedy: {error}"
    return type(error).__name__ if error else "right"


@pytest.mark.parametrize("over", ["pty", "socket"])
def test_a_clean_line(over: str) -> None:
    assert bad_line(0, 0, over, reply_s=1) == "right"


@pytest.mark.parametrize("seed", range(16))
def test_a_bad_line_gives_right_results(seed: int) -> None:
    """A fault in every few frames: repeating is enough."""
    assert bad_line(seed, 2e-4, "socket" if seed % 8 == 7 else "pty", reply_s=0.1) == "right"


def test_a_very_bad_line_gives_right_results_or_typed_errors() -> None:
    ends = {bad_line(100 + seed, rate) for seed, rate in enumerate([1e-3, 3e-3, 2e-2])}
    assert ends <= {"right", "DeviceError", "FlashingError"}


def test_a_hopeless_line_gives_an_error() -> None:
    assert bad_line(200, 0.3) == "DeviceError"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_hundreds_of_bad_lines(block: int) -> None:
    ends = []
    for i in range(12):
        rate = (1e-4, 3e-4, 1e-3, 1e-3, 3e-3, 1e-2)[i % 6]
        ends.append(bad_line(1000 + 12 * block + i, rate, "socket" if i % 3 == 0 else "pty"))
    assert set(ends) <= {"right", "DeviceError", "FlashingError"}
    assert ends.count("right") >= 3


@pytest.mark.parametrize("where", range(0, 3000, 250))
def test_a_board_that_dies_half_way(where: int) -> None:
    """At any byte of a run, read or written. All replies have about 2000 bytes together, all requests 6000."""
    for option, enough in (("die_read", 5000), ("die_write", 1700)):
        device = Device(**{option: where})
        error = trial(1, device, device.link(reply_s=0.03, attempts=2, baud=921600))
        assert where > enough if error is None else error.exit_code in (5, 6)


def test_late_replies_are_not_taken_for_others() -> None:
    """The line stands still for longer than the host waits, so replies come after their request was repeated."""
    for seed in range(4):
        late = Faults(seed, late=2e-3, late_s=0.3)
        with no_hang(120), Device(back=late) as device, device.link(0.1, 6, 921600) as link:
            work(link, seed)


def test_a_line_that_lost_its_device() -> None:
    with no_hang(60), Device("socket") as device, device.link(0.03, 2) as link:
        link.hello()
        device.process.kill()
        with pytest.raises(BoardfitError, match="the line was cut"):
            work(link, 0)
        device.process.returncode = 0
