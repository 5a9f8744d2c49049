"""Flash controllers: the board's own drivers against them, and what silicon refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("unicorn")

from targets.mcu.board import list_boards, load_board
from targets.mcu.virtual.flash import KEYS, LAYOUTS, FlashController
from targets.mcu.virtual.part import part_of
from targets.mcu.virtual.peripherals import FLASH_BASES, Peripherals
from toolchain.errors import DeviceError

FAMILIES = sorted(LAYOUTS)
PAGE = 2048


class Rig:
    """A controller with sixteen pages, of which the first holds the firmware."""

    def __init__(self, family: str) -> None:
        self.layout = LAYOUTS[family]
        self.memory = np.full(16 * PAGE, 0xFF, np.uint8)
        self.open = False
        self.errors: list[DeviceError] = []
        self.controller = FlashController(
            self.layout, self.memory, (PAGE,) * 16, 100, self._writable, self.errors.append
        )

    def _writable(self, on: bool) -> None:
        self.open = on

    def unlock(self) -> None:
        for key in KEYS:
            self.controller.write(self.layout.key, key)

    def control(self, value: int) -> None:
        self.controller.write(self.layout.control, value)

    def program(self, at: int, data: bytes) -> int:
        """The status after a programming operation."""
        self.controller.write(self.layout.clear, 0xFFFFFFFF)
        self.control(self.layout.program)
        assert self.open
        self.memory[at : at + len(data)] = np.frombuffer(data, np.uint8)
        self.control(0)
        assert not self.open
        return self.controller.read(self.layout.status)

    def erase(self, number: int) -> int:
        self.controller.write(self.layout.clear, 0xFFFFFFFF)
        self.control(self.layout.erase | self.layout.start | number << self.layout.number[0])
        return self.controller.read(self.layout.status)


@pytest.fixture(params=FAMILIES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


def test_locked_after_a_reset_and_unlocked_by_two_keys(rig: Rig) -> None:
    rig.control(rig.layout.program)
    assert not rig.open
    assert rig.controller.read(rig.layout.control) == rig.layout.lock
    rig.unlock()
    rig.control(rig.layout.program)
    assert rig.open
    assert rig.controller.programming


@pytest.mark.parametrize("keys", [(KEYS[1], KEYS[0]), (KEYS[0], 0), (KEYS[0], KEYS[0], KEYS[1])])
def test_a_wrong_key_locks_until_the_next_reset(rig: Rig, keys: tuple[int, ...]) -> None:
    for key in keys:
        rig.controller.write(rig.layout.key, key)
    rig.unlock()
    assert rig.controller.read(rig.layout.control) & rig.layout.lock
    rig.controller.reset()
    rig.unlock()
    assert not rig.controller.read(rig.layout.control) & rig.layout.lock


def test_lock_ends_an_operation_and_asks_for_the_keys_again(rig: Rig) -> None:
    rig.unlock()
    rig.control(rig.layout.program)
    rig.control(rig.layout.lock)
    assert not rig.open
    rig.control(rig.layout.program)
    assert not rig.open
    rig.unlock()
    rig.control(rig.layout.program)
    assert rig.open


def test_erase_fills_one_page(rig: Rig) -> None:
    rig.unlock()
    rig.memory[:] = 0
    rig.controller.accept()
    assert rig.erase(3) == rig.layout.done
    expected = np.zeros(16 * PAGE, np.uint8)
    expected[3 * PAGE : 4 * PAGE] = 0xFF
    assert np.array_equal(rig.memory, expected)


def test_erase_in_the_second_bank(rig: Rig) -> None:
    if not rig.layout.bank:
        pytest.skip("one bank")
    rig.unlock()
    rig.memory[:] = 0
    rig.controller.accept()
    rig.control(rig.layout.erase | rig.layout.start | rig.layout.bank | 2 << rig.layout.number[0])
    assert np.flatnonzero(rig.memory).tolist() == list(range(10 * PAGE, 11 * PAGE))


def test_erasing_a_page_that_is_not_there(rig: Rig) -> None:
    rig.unlock()
    assert rig.erase(20 if rig.layout.number[1] > 16 else 15) & rig.layout.wrong == (
        rig.layout.wrong if rig.layout.number[1] > 16 else 0
    )
    assert (rig.memory == 0xFF).all()


def test_erasing_the_firmware_stops_the_machine(rig: Rig) -> None:
    rig.unlock()
    rig.erase(0)
    assert [str(error) for error in rig.errors] == [
        "the firmware erased flash page 0, which holds the firmware itself (its first 100 bytes)"
    ]
    rig.control(rig.layout.mass | rig.layout.start)
    assert "mass erase" in str(rig.errors[1])


def test_programming_turns_ones_to_zeros(rig: Rig) -> None:
    rig.unlock()
    data = bytes(range(64))
    assert rig.program(PAGE, data) == rig.layout.done
    assert rig.memory[PAGE : PAGE + 64].tobytes() == data
    assert rig.program(PAGE + 64, data) == rig.layout.done
    assert rig.memory[PAGE : PAGE + 128].tobytes() == data * 2


def test_a_zero_does_not_become_a_one(rig: Rig) -> None:
    rig.unlock()
    rig.program(PAGE, bytes([0x0F] * 64))
    assert rig.program(PAGE, bytes([0x0F] * 32 + [0x1F] * 16 + [0x0F] * 16)) & rig.layout.wrong
    assert rig.memory[PAGE : PAGE + 64].tobytes() == bytes([0x0F] * 64)


def test_what_was_written_may_become_zero(rig: Rig) -> None:
    rig.unlock()
    rig.program(PAGE, bytes([0x0F] * 64))
    assert rig.program(PAGE, bytes(64)) == rig.layout.done
    assert not rig.memory[PAGE : PAGE + 64].any()


def test_more_zeros_in_what_was_written_only_where_there_is_no_ecc(rig: Rig) -> None:
    rig.unlock()
    rig.program(PAGE, bytes([0x0F] * 64))
    status = rig.program(PAGE, bytes([0x07] * 64))
    kept = rig.memory[PAGE : PAGE + 64].tobytes()
    if rig.layout.unit == 1:
        assert (status, kept) == (rig.layout.done, bytes([0x07] * 64))
    else:
        assert status & rig.layout.wrong
        assert kept == bytes([0x0F] * 64)


def test_a_reset_in_the_middle_of_programming(rig: Rig) -> None:
    rig.unlock()
    rig.control(rig.layout.program)
    rig.memory[PAGE : PAGE + 16] = 0x12
    rig.controller.reset()
    assert not rig.open
    assert rig.controller.read(rig.layout.control) == rig.layout.lock
    assert (rig.memory[PAGE : PAGE + 16] == 0x12).all()


@pytest.mark.parametrize("name", list_boards())
def test_pages_of_every_board_fill_its_flash(name: str) -> None:
    board = load_board(name)
    part = part_of(board)
    assert sum(part.pages) == board.flash.bytes
    assert max(part.pages) in (board.flash.page_bytes, board.flash.page_bytes // 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_registers_keep_what_is_written_and_report_ready(family: str) -> None:
    rig = Rig(family)
    clock: dict[str, Any] = {"ticks": 100}
    there = Peripherals(family, rig.controller, 0x400000, lambda: clock["ticks"])
    assert there.read(0x48000000) == 0
    there.write(0x48000000, 0xABFFFFFF)
    assert there.read(0x48000000) == 0xABFFFFFF
    control = {"f4": 0x40023800, "h5": 0x44020C00}.get(family, 0x40021000)
    assert not there.read(control) >> 25 & 1
    there.write(control, there.read(control) | 1 << 24)
    assert there.read(control) >> 25 & 1
    base = FLASH_BASES[family]
    there.write(base, 5)
    assert there.read(base) == 5
    assert there.read(base + 0x20) == 0x400000
    there.write(0x40000000, 1)
    clock["ticks"] = 150
    assert there.read(0x40000024) == 50
    there.write(0x40000024, 7)
    assert there.read(0x40000024) == 7
    there.reset()
    assert (there.read(0x48000000), there.read(0x40000024), there.read(base)) == (0, 0, 0)
