"""Board files: complete, consistent, and clear about what is wrong with a changed one."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from targets.mcu.board import list_boards, load_board, parse_board
from toolchain.errors import ConfigurationError

NAMES = list_boards()
PAGE = Path(__file__).parents[3] / "docs" / "boards.md"


def text_of(name: str) -> str:
    return (resources.files("targets") / "boards" / f"{name}.toml").read_text("utf-8")


def test_the_boards_that_are_promised_exist() -> None:
    cores = {name: load_board(name).core for name in NAMES}
    assert cores == {
        "nucleo-f446re": "cortex-m4",
        "nucleo-g071rb": "cortex-m0plus",
        "nucleo-g491re": "cortex-m4",
        "nucleo-h563zi": "cortex-m33",
        "nucleo-l4r5zi": "cortex-m4",
        "qemu-netduinoplus2": "cortex-m4",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_section_names_its_source(name: str) -> None:
    board = load_board(name)
    for section in (board, board.clock, board.flash, board.ram, board.uart, board.ticks, board.programmer):
        assert len(section.source) > 20


def test_virtual_names_find_the_same_board() -> None:
    assert load_board("virtual:nucleo-l4r5zi") is load_board("nucleo-l4r5zi")


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match=r"no board 'nucleo-l4r5z1'; did you mean 'nucleo-l4r5zi'\?"):
        load_board("nucleo-l4r5z1")


# Each line: what is replaced in a correct file, by what, and what the message must say.
WRONG = [
    ("hz = 120_000_000\nosc", "herz = 120_000_000\nosc", r"clock: unknown key 'herz'; did you mean 'hz'"),
    ("wait_states = 5\n", "", r"flash: 'wait_states' is missing"),
    ('core = "cortex-m4"', 'core = "cortex-m7"', r"core: 'cortex-m7' is not one of cortex-m0plus"),
    ("dsp = true", "dsp = 1", r"dsp: expected true or false, found 1"),
    ("fifo = true", 'fifo = "yes"', r"uart, fifo: expected true or false"),
    ("tx_pin = 7", "tx_pin = true", r"uart, tx_pin: expected an integer, found True"),
    ("dsp = true", "dsp = false", r"dsp = False on a cortex-m4"),
    ('usb_ids = ["0483:374b", "0483:3752"]', "usb_ids = [1155]", r"usb_ids: expected a list of texts"),
    ("address = 0x2000_0000", "address = 0x0810_0000", r"memories overlap: flash 0x8000000"),
    ("page_bytes = 8192", "page_bytes = 8000", r"page_bytes 8000 is not a power of two"),
    ("bytes = 2_097_152", "bytes = 2_100_000", r"not whole pages of 8192"),
    ("pll_n = 30", "pll_n = 31", r"the PLL gives 124000000 Hz, hz says 120000000"),
    ("stack_bytes = 4096", "stack_bytes = 100", r"a stack of 100"),
    ("baud = 115_200", "baud = 200_000_000", r"120000000 Hz cannot give 200000000 baud"),
    ("\"dwt\"\nhz = 120_000_000", "\"dwt\"\nhz = 16", r"ticks: dwt counts the core's clock"),
    ("band = 0.15", "band = 15", r"a band of 15.0; it is a fraction"),
    ("[ram]", "[[ram]]", r"ram: expected a table"),
    ("[ram]", "[ram", r"not a TOML file"),
    ('name = "nucleo-l4r5zi"', 'name = "other"', r"the file calls itself 'other'"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "wrong", "message"), WRONG)
def test_a_slip_in_a_file_is_named(found: str, wrong: str, message: str) -> None:
    text = text_of("nucleo-l4r5zi")
    assert found in text
    with pytest.raises(ConfigurationError, match=message):
        parse_board("nucleo-l4r5zi", text.replace(found, wrong, 1))


def test_a_cycle_counter_on_a_core_without_one_is_refused() -> None:
    text = text_of("nucleo-g071rb").replace('kind = "systick"', 'kind = "dwt"')
    with pytest.raises(ConfigurationError, match="no cycle counter"):
        parse_board("nucleo-g071rb", text)


def test_cycles_are_estimated_only_where_the_model_was_checked() -> None:
    kinds = {name: (load_board(name).cycles.kind, load_board(name).cycles.band) for name in NAMES}
    assert kinds == {
        "nucleo-f446re": ("cycles_estimated", 0.10),
        "nucleo-g071rb": ("instructions", 0.0),
        "nucleo-g491re": ("cycles_estimated", 0.20),
        "nucleo-h563zi": ("instructions", 0.0),
        "nucleo-l4r5zi": ("cycles_estimated", 0.15),
        "qemu-netduinoplus2": ("instructions", 0.0),
    }


def test_macros_carry_the_facts() -> None:
    macros = load_board("nucleo-l4r5zi").macros()
    assert macros["BF_BOARD"] == '"nucleo-l4r5zi"'
    assert macros["BF_FAMILY_L4"] == "1"
    assert macros["BF_FLASH_ADDRESS"] == "0x08000000u"
    assert macros["BF_UART_LPUART"] == "1"
    assert macros["BF_TICK_DWT"] == "1"


def board_rows() -> dict[str, list[str]]:
    """The table of docs/boards.md: name -> cells."""
    rows = {}
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        match = re.fullmatch(r"`([a-z0-9-]+)`", cells[0])
        if match and match[1] in NAMES and match[1] not in rows:
            rows[match[1]] = cells[1:]
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_the_files_say(name: str) -> None:
    board = load_board(name)
    clock = f"{board.clock.hz / 1e6:g} MHz"
    memory = f"{board.flash.bytes // 1024} / {board.ram.bytes // 1024} KiB"
    cycles = (
        f"`{board.cycles.model}`, ±{board.cycles.band:.0%}"
        if board.cycles.kind == "cycles_estimated"
        else "instructions"
    )
    port = f"P{board.uart.gpio}{board.uart.tx_pin}/P{board.uart.gpio}{board.uart.rx_pin}"
    assert board_rows()[name] == [
        board.part, board.core.removeprefix("cortex-").upper().replace("PLUS", "+"), clock,
        str(board.flash.wait_states), memory, f"{board.uart.name} {port}", board.ticks.kind, cycles,
    ]  # fmt: skip


def test_the_page_explains_every_key() -> None:
    page = PAGE.read_text("utf-8")
    for section in ("clock", "flash", "ram", "uart", "ticks", "programmer", "cycles"):
        assert f"`[{section}]`" in page
