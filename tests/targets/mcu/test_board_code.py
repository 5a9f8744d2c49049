"""The boards' C files, function by function, on the virtual parts with their registers and flash rules."""

from __future__ import annotations

import dataclasses
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from targets.mcu.board import list_boards, load_board
from targets.mcu.build import Firmware, board_sources, build_program
from targets.mcu.compilers import find_compiler
from toolchain.errors import ConfigurationError, DeviceError

pytest.importorskip("unicorn", reason="the emulator is not installed")
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of

PROGRAMS = Path(__file__).parent / "programs"
RANGE, TIMEOUT, VERIFY = 0x80000001, 0x80000002, 0x80000003
FEW = ["nucleo-l4r5zi", "nucleo-g071rb"]  # the others run in the slow tests
MANY = [name for name in list_boards() if name not in FEW]


class Device:
    """The probe program on a virtual part."""

    def __init__(self, name: str, compiler: str, cache: Path, **changes: object) -> None:
        self.board = load_board(name)
        self.firmware = probe(name, compiler, cache)
        self.machine = VirtualMachine(
            dataclasses.replace(part_of(self.board), **changes),  # type: ignore[arg-type]
            self.firmware.elf.read_bytes(),
            wall_limit_s=30,
        )

    def ask(self, letter: str, *numbers: int, answers: int = 1, data: bytes = b"") -> tuple[int, ...]:
        self.machine.write(letter.encode() + struct.pack(f"<{len(numbers)}I", *numbers) + data)
        return struct.unpack(f"<{answers}I", self.machine.read(4 * answers, timeout=1.0))

    def erase(self, offset: int, count: int) -> int:
        return self.ask("e", offset, count)[0]

    def write(self, offset: int, data: bytes) -> int:
        return self.ask("w", offset, len(data), data=data + bytes(-len(data) % 4))[0]

    def slot(self, offset: int, count: int) -> bytes:
        return self.machine.memory(self.firmware.slot_address + offset, count)


def probe(name: str, compiler: str, cache: Path) -> Firmware:
    try:
        find_compiler(compiler)
    except ConfigurationError as error:
        pytest.skip(str(error))
    board = load_board(name)
    return build_program(board, [*board_sources(board), PROGRAMS / "probe.c"], compiler=compiler, cache=cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("builds")
    yield folder
    shutil.rmtree(folder)


def every_board(*compilers: str) -> pytest.MarkDecorator:
    cases = [(name, "zig") for name in FEW]
    slow = [(name, c) for name in MANY for c in ("gcc", "zig")] + [(name, "gcc") for name in FEW]
    return pytest.mark.parametrize(
        ("name", "compiler"), [*cases, *(pytest.param(*case, marks=pytest.mark.slow) for case in slow)]
    )


@every_board()
def test_a_board_starts_and_knows_itself(name: str, compiler: str, cache: Path) -> None:
    device = Device(name, compiler, cache)
    firmware, board = device.firmware, device.board
    clock, slot, slot_bytes, page, unit, arena, arena_bytes, counting = device.ask("f", answers=8)
    assert (clock, page, unit) == (board.clock.hz, board.flash.page_bytes, board.flash.write_bytes)
    assert (slot, slot_bytes) == (firmware.slot_address, firmware.slot_bytes)
    assert slot % page == 0
    assert slot + slot_bytes == board.flash.address + board.flash.bytes
    assert arena % 16 == 0
    assert arena_bytes == firmware.arena_bytes
    assert arena + arena_bytes == board.ram.address + board.ram.bytes
    assert counting == 1


@every_board()
def test_the_slot_is_erased_and_written_by_the_parts_rules(name: str, compiler: str, cache: Path) -> None:
    device = Device(name, compiler, cache)
    page, unit = device.board.flash.page_bytes, device.board.flash.write_bytes
    end = device.firmware.slot_bytes
    data = bytes(range(256)) * 4
    assert device.erase(0, 2 * page) == 0
    assert device.write(0, data) == 0
    assert device.slot(0, 1024) == data
    assert device.write(1024, data[: 3 * unit]) == 0
    assert device.slot(1024, 3 * unit + 1) == data[: 3 * unit] + b"\xff"
    # what is written once cannot be overwritten, and stays; the controller's own error bits come back
    status = device.write(0, b"\xaa" * unit)
    assert status not in (0, RANGE, TIMEOUT, VERIFY)
    assert device.slot(0, 1024) == data
    # the last page, and that its neighbour is untouched
    assert device.write(page, b"\x5a" * unit) == 0
    assert device.erase(0, page) == 0
    assert device.slot(0, page) == b"\xff" * page
    assert device.slot(page, unit) == b"\x5a" * unit
    assert device.write(end - unit, b"\x12" * unit) == 0
    assert device.erase(end - page, page) == 0
    assert device.slot(end - unit, unit) == b"\xff" * unit


@every_board()
def test_the_slot_has_limits(name: str, compiler: str, cache: Path) -> None:
    device = Device(name, compiler, cache)
    page, unit, end = (
        device.board.flash.page_bytes,
        device.board.flash.write_bytes,
        device.firmware.slot_bytes,
    )
    firmware = device.machine.memory(device.board.flash.address, device.firmware.flash_bytes)
    for offset, count in ((1, page), (0, page - 1), (end, page), (0, end + page), (2**32 - page, 2 * page)):
        assert device.erase(offset, count) == RANGE
    assert device.ask("w", 2, unit, data=bytes(unit))[0] == RANGE
    assert device.ask("w", end, unit, data=bytes(unit))[0] == RANGE
    assert device.ask("w", 2**32 - unit, unit, data=bytes(unit))[0] == RANGE
    assert device.erase(end, 0) == 0
    assert (
        device.machine.memory(device.board.flash.address, len(firmware)) == firmware == device.firmware.image
    )


@every_board()
def test_time_is_counted(name: str, compiler: str, cache: Path) -> None:
    device = Device(name, compiler, cache)
    loops = 1_000_000
    per_loop = 4 if compiler == "gcc" else 3
    few, many = device.ask("t", 1000)[0], device.ask("t", loops)[0]
    if device.machine.part.model is None:  # instructions
        assert many - few == per_loop * (loops - 1000)
    else:  # cycles: the same, and what a taken branch and flash cost, by the model
        assert 1.2 * per_loop < (many - few) / (loops - 1000) < 2 * per_loop + 1
    before = device.ask("m")[0]
    device.ask("t", loops)
    passed = 1000 * many / device.board.ticks.hz
    assert abs(device.ask("m")[0] - before - passed) < 5


def test_systick_wraps_are_counted(cache: Path) -> None:
    device = Device("nucleo-g071rb", "zig", cache)
    loops = 12_000_000  # 36 M instructions: more than two wraps of 24 bits
    ticks = device.ask("t", loops)[0]
    assert 3 * loops <= ticks <= 3 * loops + 200


@every_board()
def test_stack_depth_grows_with_the_calls(name: str, compiler: str, cache: Path) -> None:
    device = Device(name, compiler, cache)
    shallow, deep = device.ask("s", 3)[0], device.ask("s", 40)[0]
    assert 64 < shallow < 400
    assert 37 * 36 <= deep - shallow <= 37 * 80
    assert device.ask("s", 3)[0] == shallow  # painted anew


def test_a_stack_that_overflows_leaves_the_ram(cache: Path) -> None:
    device = Device("nucleo-l4r5zi", "zig", cache)
    with pytest.raises(DeviceError, match="the stack overflowed"):
        device.ask("s", 1000)


def test_reset_starts_anew(cache: Path) -> None:
    device = Device("nucleo-l4r5zi", "zig", cache)
    assert device.erase(0, 8192) == device.write(0, b"kept    ") == 0
    device.ask("t", 10_000_000)
    assert device.ask("m")[0] > 100
    device.machine.write(b"r")
    assert device.ask("m")[0] < 20
    assert device.slot(0, 8) == b"kept    "


@pytest.mark.parametrize("bank_option", [0, 1 << 22])
def test_an_l4_is_erased_in_both_bank_modes(bank_option: int, cache: Path) -> None:
    page = 4096 if bank_option else 8192
    device = Device(
        "nucleo-l4r5zi", "zig", cache, flash_options=bank_option, pages=(page,) * (2 * 1024 * 1024 // page)
    )
    middle = 0x0810_0000 - device.firmware.slot_address  # the second bank starts here
    for offset in (0, middle - 8192, middle, middle + 8192):
        assert device.write(offset, b"8 bytes ") == 0
    assert device.erase(middle - 8192, 16384) == 0
    assert device.slot(middle - 8192, 16384) == b"\xff" * 16384
    assert device.slot(0, 8) == device.slot(middle + 8192, 8) == b"8 bytes "
