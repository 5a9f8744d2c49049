"""Boards as data: one TOML file of facts per board in targets/boards, each fact with its source.

The same facts go three ways: as `BF_...` macros into the firmware, as memory map and timing model into the virtual
board, as hints to the tools that write flash. So no fact of a part is written twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from toolchain.errors import ConfigurationError

Core = Literal["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m33"]
Family = Literal["f4", "l4", "g4", "g0", "h5"]
UartKind = Literal["sr", "isr", "lpuart"]
TickKind = Literal["dwt", "systick", "tim2"]


@dataclass(frozen=True, slots=True)
class Clock:
    """The core's clock as the firmware sets it up: internal oscillator, PLL, core.

    `hz = oscillator_hz / pll_m * pll_n / pll_divider`, checked. `option` is the family's own: the F4's regulator bits
    (PWR_CR.VOS); boost: L4+ range 1 boost, G4 range 1 boost, F4 over-drive.
    """

    hz: int
    oscillator: str
    oscillator_hz: int
    pll_m: int
    pll_n: int
    pll_divider: int
    source: str
    pll_q: int = 0
    regulator: int = 0
    boost: bool = False


@dataclass(frozen=True, slots=True)
class Flash:
    """Flash memory. A page is what one erase takes: the largest where they differ, two of an L4+ in two banks."""

    address: int
    bytes: int
    page_bytes: int
    write_bytes: int
    wait_states: int
    source: str
    dual_bank: bool = False


@dataclass(frozen=True, slots=True)
class Ram:
    """The longest contiguous RAM, and how much of it is the stack."""

    address: int
    bytes: int
    stack_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class Uart:
    """The UART behind the ST-LINK's virtual COM port. `kind`: sr (status and data register), isr (their successors),
    lpuart (isr with a 256 times finer divider). `fifo`: it has an 8-byte FIFO. `vddio2`: its pins need PWR_CR2.IOSV."""

    name: str
    kind: UartKind
    address: int
    clock_hz: int
    baud: int
    enable_register: int
    enable_bit: int
    gpio: str
    gpio_address: int
    gpio_enable_register: int
    gpio_enable_bit: int
    tx_pin: int
    rx_pin: int
    alternate_function: int
    source: str
    fifo: bool = False
    vddio2: bool = False


@dataclass(frozen=True, slots=True)
class Ticks:
    """The counter behind `board_ticks`, and its rate."""

    kind: TickKind
    hz: int
    source: str


@dataclass(frozen=True, slots=True)
class Programmer:
    """Hints for the tools that write flash. Empty: this tool does not know the part.

    `rom_uart`: the boot loader in ROM (AN2606, AN3155) listens on the pins of the virtual COM port. `device_id`:
    DEV_ID, as DBGMCU_IDCODE and the boot loader's GET ID command tell it. `mbed_code`: first four digits of the code
    in MBED.HTM on the ST-LINK's drive.
    """

    probe: str
    usb_ids: tuple[str, ...]
    openocd_target: str
    pyocd_target: str
    cube_programmer: bool
    drive: str
    rom_uart: bool
    device_id: int
    mbed_code: str
    source: str


@dataclass(frozen=True, slots=True)
class CycleModel:
    """How a virtual board's cycles come to be: `cycles = k * (core's timing table) + a * (flash data lines)`.

    `kind` is the evidence: `cycles_estimated` where the model was checked against silicon (with the band, a
    fraction), `instructions` where it was not; then k, a and band are unused.
    """

    kind: Literal["cycles_estimated", "instructions"]
    model: str
    k: float
    a: float
    band: float
    source: str


@dataclass(frozen=True, slots=True)
class Board:
    """A board's facts; see the classes of the sections. `name` is the file's name and the target's:
    `virtual:nucleo-l4r5zi`."""

    name: str
    title: str
    part: str
    core: Core
    dsp: bool
    fpu: Literal["none", "single"]
    family: Family
    verified: str
    source: str
    clock: Clock
    flash: Flash
    ram: Ram
    uart: Uart
    ticks: Ticks
    programmer: Programmer
    cycles: CycleModel

    def macros(self) -> dict[str, str]:
        """The facts that the firmware is compiled with: macro -> value as C text."""
        clock, flash, ram, uart = self.clock, self.flash, self.ram, self.uart
        return {
            "BF_BOARD": f'"{self.name}"',
            f"BF_FAMILY_{self.family.upper()}": "1",
            "BF_CLOCK_HZ": f"{clock.hz}u",
            "BF_PLL_M": f"{clock.pll_m}u",
            "BF_PLL_N": f"{clock.pll_n}u",
            "BF_PLL_DIVIDER": f"{clock.pll_divider}u",
            "BF_PLL_Q": f"{clock.pll_q}u",
            "BF_PLL_VOS": f"{clock.regulator:#x}u",
            "BF_PLL_BOOST": str(int(clock.boost)),
            "BF_FLASH_ADDRESS": f"{flash.address:#010x}u",
            "BF_FLASH_BYTES": f"{flash.bytes}u",
            "BF_FLASH_PAGE_BYTES": f"{flash.page_bytes}u",
            "BF_FLASH_WRITE_BYTES": f"{flash.write_bytes}u",
            "BF_FLASH_WAIT_STATES": f"{flash.wait_states}u",
            "BF_FLASH_DUAL_BANK": str(int(flash.dual_bank)),
            "BF_RAM_ADDRESS": f"{ram.address:#010x}u",
            "BF_RAM_BYTES": f"{ram.bytes}u",
            f"BF_UART_{uart.kind.upper()}": "1",
            "BF_UART_ADDRESS": f"{uart.address:#010x}u",
            "BF_UART_CLOCK_HZ": f"{uart.clock_hz}u",
            "BF_UART_BAUD": f"{uart.baud}u",
            "BF_UART_ENABLE": f"{uart.enable_register:#010x}u",
            "BF_UART_ENABLE_BIT": f"{uart.enable_bit}u",
            "BF_UART_GPIO": f"{uart.gpio_address:#010x}u",
            "BF_UART_GPIO_ENABLE": f"{uart.gpio_enable_register:#010x}u",
            "BF_UART_GPIO_ENABLE_BIT": f"{uart.gpio_enable_bit}u",
            "BF_UART_TX_PIN": f"{uart.tx_pin}u",
            "BF_UART_RX_PIN": f"{uart.rx_pin}u",
            "BF_UART_AF": f"{uart.alternate_function}u",
            "BF_UART_FIFO": str(int(uart.fifo)),
            "BF_UART_VDDIO2": str(int(uart.vddio2)),
            f"BF_TICK_{self.ticks.kind.upper()}": "1",
            "BF_TICK_HZ": f"{self.ticks.hz}u",
        }


def list_boards() -> list[str]:
    """Names of the boards that there are facts of, sorted."""
    folder = resources.files("targets") / "boards"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_board(name: str) -> Board:
    """The board of this name; a `virtual:` before it does not matter.

    Raises:
        ConfigurationError: there is no such board (the message lists those that exist), or its file is wrong.
    """
    name = name.removeprefix("virtual:")
    known = list_boards()
    if name not in known:
        raise ConfigurationError(
            f"no board {name!r}{_suggestion(name, known)}",
            remedy=f"boards: {', '.join(known)}; docs/boards.md says how to add one",
        )
    return _read_board(name)


@functools.cache
def _read_board(name: str) -> Board:
    return parse_board(name, (resources.files("targets") / "boards" / f"{name}.toml").read_text("utf-8"))


def parse_board(name: str, text: str) -> Board:
    """A board from the text of its TOML file.

    Args:
        name: what the file calls itself must equal this.
        text: TOML; tables and keys as in `Board`.

    Raises:
        ConfigurationError: not TOML, a missing or unknown key, a value of the wrong type, or facts that contradict
            each other. The message names board, table and key.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"board {name}: not a TOML file: {error}") from error
    board = _fill(Board, table, f"board {name}")
    if board.name != name:
        raise ConfigurationError(f"board {name}: the file calls itself {board.name!r}")
    _check(board)
    return board


_T = TypeVar("_T")


def _fill(kind: type[_T], table: Mapping[str, Any], where: str) -> _T:
    """A frozen dataclass from a TOML table, checked key by key against its annotations."""
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ConfigurationError(
                f"{where}: unknown key {key!r}{_suggestion(key, list(fields))}",
                remedy=f"keys: {', '.join(fields)}",
            )
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key in table:
            values[key] = _value(hints[key], table[key], f"{where}, {key}")
        elif field.default is dataclasses.MISSING:
            raise ConfigurationError(f"{where}: {key!r} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where}: expected a table, found {value!r}")
        return _fill(hint, value, where)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            allowed = ", ".join(map(str, get_args(hint)))
            raise ConfigurationError(f"{where}: {value!r} is not one of {allowed}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{where}: expected a list of texts, found {value!r}")
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # exact: a bool is an int for isinstance
        raise ConfigurationError(f"{where}: expected {_TYPE_NAMES[hint]}, found {value!r}")
    return value


_TYPE_NAMES: Final[Mapping[Any, str]] = types.MappingProxyType(
    {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
)


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check(board: Board) -> None:
    """Facts that must agree with each other; a slip in a table is found here and not on a bench."""
    clock, flash, ram, uart = board.clock, board.flash, board.ram, board.uart

    def need(holds: bool, what: str) -> None:
        if not holds:
            raise ConfigurationError(f"board {board.name}: {what}")

    for section in (clock, flash, ram, uart, board.ticks, board.programmer, board.cycles):
        need(bool(section.source.strip()), f"{type(section).__name__.lower()} has no source")
    for memory, what in ((flash, "flash"), (ram, "ram")):
        need(memory.bytes > 0 and memory.address >= 0, f"{what}: address and bytes must be positive")
        need(memory.address + memory.bytes <= 1 << 32, f"{what} ends beyond 4 GiB")
    need(
        flash.address + flash.bytes <= ram.address or ram.address + ram.bytes <= flash.address,
        f"memories overlap: flash {flash.address:#x} + {flash.bytes}, ram {ram.address:#x} + {ram.bytes}",
    )
    need(_power_of_two(flash.page_bytes), f"flash: page_bytes {flash.page_bytes} is not a power of two")
    need(_power_of_two(flash.write_bytes), f"flash: write_bytes {flash.write_bytes} is not a power of two")
    need(
        flash.bytes % flash.page_bytes == 0 and flash.page_bytes % flash.write_bytes == 0,
        f"flash: {flash.bytes} bytes are not whole pages of {flash.page_bytes}",
    )
    need(
        ram.stack_bytes % 8 == 0 and 512 <= ram.stack_bytes < ram.bytes, f"ram: a stack of {ram.stack_bytes}"
    )
    pll = clock.oscillator_hz * clock.pll_n / (clock.pll_m * clock.pll_divider)
    need(pll == clock.hz, f"clock: the PLL gives {pll:.0f} Hz, hz says {clock.hz}")
    scale, least, most = (256, 0x300, 0xFFFFF) if uart.kind == "lpuart" else (1, 16, 0xFFFF)
    divider = (scale * uart.clock_hz + uart.baud // 2) // uart.baud
    need(
        least <= divider <= most and abs(scale * uart.clock_hz / divider / uart.baud - 1) < 0.02,
        f"uart: {uart.clock_hz} Hz cannot give {uart.baud} baud (the divider would be {divider})",
    )
    need(
        board.fpu == "none" or board.core in ("cortex-m4", "cortex-m33"),
        f"an FPU on a {board.core}",
    )
    need(board.dsp == (board.core in ("cortex-m4", "cortex-m33")), f"dsp = {board.dsp} on a {board.core}")
    need(
        board.ticks.kind != "dwt" or board.core != "cortex-m0plus",
        "ticks: a Cortex-M0+ has no cycle counter in its DWT; use systick",
    )
    need(
        board.ticks.kind == "tim2" or board.ticks.hz == clock.hz,
        f"ticks: {board.ticks.kind} counts the core's clock ({clock.hz} Hz), hz says {board.ticks.hz}",
    )
    if board.cycles.kind == "cycles_estimated":
        need(board.cycles.k > 0 and board.cycles.a >= 0, "cycles: k must be positive and a not negative")
        need(0 < board.cycles.band < 1, f"cycles: a band of {board.cycles.band}; it is a fraction")


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
