"""The STM32F405's board code in QEMU: another emulator's serial line, timer, and its faults, which ours has not."""

from __future__ import annotations

import dataclasses
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from targets.mcu.board import Board, load_board
from targets.mcu.build import board_sources, build_program
from targets.mcu.compilers import find_compiler
from toolchain.errors import ConfigurationError

PROBE = Path(__file__).parent / "programs" / "probe.c"

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-arm") is None, reason="qemu-system-arm is not installed (make debian)"
)


class Qemu:
    def __init__(self, board: Board, cache: Path) -> None:
        try:
            find_compiler()
        except ConfigurationError as error:
            pytest.skip(str(error))
        self.firmware = build_program(board, [*board_sources(board), PROBE], cache=cache)
        self.process = subprocess.Popen(
            ["qemu-system-arm", "-M", "netduinoplus2", "-display", "none", "-serial", "stdio", "-monitor", "none",
             "-icount", "shift=0", "-kernel", str(self.firmware.elf)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        )  # fmt: skip
        self.wait()

    def wait(self) -> None:
        """Until it answers: what comes before its serial line is on is lost."""
        assert self.process.stdout is not None
        for _ in range(100):
            self.send(b"m")
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                break
        time.sleep(0.2)  # answers to more than one question may be under way
        while select.select([self.process.stdout], [], [], 0)[0]:
            self.process.stdout.read(4)

    def ask(self, letter: str, *numbers: int, answers: int = 1) -> tuple[int, ...]:
        self.send(letter.encode() + struct.pack(f"<{len(numbers)}I", *numbers))
        assert self.process.stdout is not None
        data = b""
        while len(data) < 4 * answers:
            piece = self.process.stdout.read(4 * answers - len(data))
            assert piece, f"QEMU ended with {self.process.poll()}"
            data += piece
        return struct.unpack(f"<{answers}I", data)

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Qemu]:
    device = Qemu(load_board("qemu-netduinoplus2"), tmp_path)
    yield device
    device.close()


def test_it_starts_and_counts_instructions(qemu: Qemu) -> None:
    clock, slot, slot_bytes, *_, counting = qemu.ask("f", answers=8)
    assert (clock, slot, slot_bytes) == (168_000_000, 0x0802_0000, 896 * 1024)
    assert counting == 1
    few, many = qemu.ask("t", 1000)[0], qemu.ask("t", 101_000)[0]
    per_loop, rest = divmod(many - few, 100_000)
    assert per_loop in (3, 4)  # instructions of the loop, by compiler
    assert rest <= 10
    assert qemu.ask("t", 1000)[0] == few


def test_a_counter_that_stands_still_is_noticed(tmp_path: Path) -> None:
    board = load_board("qemu-netduinoplus2")
    ticks = dataclasses.replace(board.ticks, kind="dwt", hz=board.clock.hz)
    qemu = Qemu(dataclasses.replace(board, ticks=ticks), tmp_path)
    try:
        assert qemu.ask("f", answers=8)[7] == 0
        assert qemu.ask("t", 1000) == (0,)
        before = qemu.ask("m")[0]
        qemu.ask("t", 3_000_000)  # some 10 virtual milliseconds: SysTick keeps the time
        assert 5 <= qemu.ask("m")[0] - before < 500
    finally:
        qemu.close()


def test_flash_without_a_controller_is_an_error_and_not_a_success(qemu: Qemu) -> None:
    assert qemu.ask("w", 0, 4, 0x12345678) == (0x80000003,)  # nothing reported, and yet it reads otherwise


def test_a_fault_is_recorded_over_the_reset(qemu: Qemu) -> None:
    assert qemu.ask("q", answers=4)[0] == 0
    qemu.send(b"x" + struct.pack("<I", 0x3000_0000))
    qemu.wait()
    found, counter, status, address = qemu.ask("q", answers=4)
    assert found == 1
    assert qemu.firmware.address < counter < qemu.firmware.address + qemu.firmware.flash_bytes
    assert status & 0xFF00, "a bus fault"
    assert address in (0, 0x3000_0000)
    assert qemu.ask("q", answers=4)[0] == 0  # told once
    assert qemu.ask("f", answers=8)[0] == 168_000_000


def test_a_stack_that_overflows_is_a_fault(qemu: Qemu) -> None:
    qemu.send(b"s" + struct.pack("<I", 1000))
    qemu.wait()
    assert qemu.ask("q", answers=4)[0] == 1
