"""Which back end is taken, through what; and that no board is flashed that was not meant."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from targets.lock import exclusive_port
from targets.mcu.board import Board, load_board
from targets.mcu.find import Attached
from targets.mcu.flash import remedies
from targets.mcu.flash.base import Availability, Flasher, check_image
from targets.mcu.flash.by_tool import ToolFlasher
from targets.mcu.flash.choose import FLASHERS, choose_flasher, flash_board
from targets.mcu.flash.virtual import VIRTUAL
from tests.targets.mcu.flash.boards import BOARD, FLASH, make_image
from toolchain.errors import ConfigurationError, DeviceError

H563 = load_board("nucleo-h563zi")
L4R5 = Attached(
    "ST-LINK/V2-1", "066CFF30", "0483:374b", "STM32 STLink", ("/dev/ttyACM0",), "/media/NODE_L4R5ZI",
    "nucleo-l4r5zi", ("nucleo-l4r5zi",), "its drive is called NODE_L4R5ZI",
)  # fmt: skip
F446 = replace(
    L4R5, id="066CFF31", ports=("/dev/ttyACM1",), drive="/media/NODE_F446RE", guess="nucleo-f446re",
    possible=("nucleo-f446re",), why="its drive is called NODE_F446RE",
)  # fmt: skip
UNKNOWN = replace(
    L4R5, id="066CFF32", ports=("/dev/ttyACM2",), drive="", guess="", possible=("nucleo-l4r5zi",)
)
ADAPTER = Attached("USB serial", "A50285BI", "0403:6001", "FT232R USB UART", ("/dev/ttyUSB0",))
BUILT_IN = Attached("serial port", ports=("/dev/ttyS0",))


@dataclass(frozen=True)
class Absent(ToolFlasher):
    """A tool that is not installed."""

    def available(self) -> Availability:
        return Availability(False, f"{self.title} is not installed", self.install)


@dataclass(frozen=True)
class Present(ToolFlasher):
    """A tool that is installed, whatever stands on this machine."""

    def available(self) -> Availability:
        return Availability(True, "1.0")


def installed(*names: str) -> list[Flasher]:
    """All back ends; of the tools only these are installed."""
    found: list[Flasher] = []
    for flasher in FLASHERS:
        if isinstance(flasher, ToolFlasher):
            fields = {name: getattr(flasher, name) for name in ToolFlasher.__dataclass_fields__}
            found.append((Present if flasher.name in names else Absent)(**fields))
        else:
            found.append(flasher)
    return found


ALL = ("openocd", "stm32cube", "st-flash", "pyocd")


def chosen(
    attached: list[Attached],
    *tools: str,
    board: Board = BOARD,
    preference: str | None = None,
    wanted: str = "",
) -> tuple[str, str | None]:
    choice = choose_flasher(
        board, preference, attached=attached, wanted=wanted, flashers=installed(*(tools or ALL))
    )
    return choice.flasher.name, choice.probe


def test_names_are_the_options_of_the_command() -> None:
    assert [flasher.name for flasher in FLASHERS] == [*ALL, "drive", "uart", "virtual"]
    assert all(flasher.available().detail for flasher in FLASHERS)


@pytest.mark.parametrize(
    ("tools", "flasher", "probe"),
    [
        (ALL, "openocd", "066CFF30"),
        (("st-flash", "pyocd"), "st-flash", "066CFF30"),
        (("pyocd", "stm32cube"), "stm32cube", "066CFF30"),
        (("none",), "drive", "/media/NODE_L4R5ZI"),
    ],
)
def test_the_first_that_is_installed(tools: tuple[str, ...], flasher: str, probe: str) -> None:
    assert chosen([L4R5, ADAPTER, BUILT_IN], *tools) == (flasher, probe)


def test_a_part_decides_too() -> None:
    """st-flash does not know the STM32H5; a board that only has an ST-LINK has no other way."""
    v3 = Attached("STLINK-V3", "0042", "0483:374e", possible=(H563.name,))
    assert chosen([v3], "st-flash", "pyocd", board=H563) == ("pyocd", "0042")
    with pytest.raises(ConfigurationError) as caught:
        chosen([v3], "st-flash", board=H563)
    for part in (
        "openocd: OpenOCD is not installed",
        "st-flash: st-flash does not know the part of nucleo-h563zi",
    ):
        assert part in caught.value.message
    assert caught.value.remedy == remedies.OTHER_BACK_END


def test_the_bootloader_is_never_chosen_for_a_board_with_an_stlink() -> None:
    with pytest.raises(ConfigurationError):
        chosen([replace(L4R5, drive="")], "none")
    assert chosen([L4R5], preference="uart") == ("uart", "/dev/ttyACM0")


def test_nothing_attached() -> None:
    for attached in ([], [BUILT_IN], [ADAPTER], [F446]):
        with pytest.raises(DeviceError) as caught:
            chosen(attached)
        assert caught.value.exit_code == 5
        assert caught.value.remedy == remedies.NO_PROBE


def test_two_that_match_are_an_error_not_a_choice() -> None:
    for attached in ([L4R5, UNKNOWN], [L4R5, replace(L4R5, id="99")]):
        for preference in (None, *ALL, "drive", "uart"):
            with pytest.raises(DeviceError, match="2 devices match nucleo-l4r5zi") as caught:
                chosen(attached, preference=preference)
            assert caught.value.remedy == remedies.AMBIGUOUS
            for one in attached:
                assert one.id in caught.value.message
    assert chosen([L4R5, UNKNOWN], wanted="CFF32") == ("openocd", "066CFF32")
    assert chosen([L4R5, UNKNOWN], wanted="/dev/ttyACM0") == ("openocd", "066CFF30")
    with pytest.raises(DeviceError, match="2 devices match 'CFF3'"):
        chosen([L4R5, UNKNOWN], wanted="CFF3")


def test_two_boards_are_told_apart() -> None:
    assert chosen([F446, L4R5]) == ("openocd", "066CFF30")
    assert chosen([F446, L4R5], board=load_board("nucleo-f446re")) == ("openocd", "066CFF31")


@pytest.mark.parametrize("wanted", ["066CFF31", "/dev/ttyACM1", "/media/NODE_F446RE"])
@pytest.mark.parametrize("preference", [None, "openocd", "drive", "uart"])
def test_another_board_is_refused(wanted: str, preference: str | None) -> None:
    with pytest.raises(DeviceError, match="is not nucleo-l4r5zi: its drive is called NODE_F446RE") as caught:
        chosen([F446, L4R5], wanted=wanted, preference=preference)
    assert caught.value.remedy == remedies.OTHER_CHIP


@pytest.mark.parametrize("name", ALL)
def test_a_tool_that_was_asked_for_may_know_other_probes(name: str) -> None:
    """CMSIS-DAP and J-Link are not looked for here; where the tool finds none, it says so."""
    assert chosen([ADAPTER], preference=name) == (name, None)
    assert chosen([], preference=name, wanted="ABC123") == (name, "ABC123")
    assert chosen([L4R5], preference=name) == (name, "066CFF30")


def test_a_tool_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(ConfigurationError, match="OpenOCD is not installed") as caught:
        chosen([L4R5], "st-flash", preference="openocd")
    assert caught.value.remedy == remedies.INSTALL_OPENOCD
    with pytest.raises(ConfigurationError, match="st-flash does not know"):
        chosen([], preference="st-flash", board=H563)
    with pytest.raises(ConfigurationError, match="no back end 'jlink'") as caught:
        chosen([L4R5], preference="jlink")
    assert "openocd, stm32cube, st-flash, pyocd, drive, uart, virtual" in caught.value.remedy


def test_the_drive_that_was_asked_for_must_be_mounted(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="nothing that drive could use") as caught:
        chosen([UNKNOWN], preference="drive")
    assert caught.value.remedy == remedies.NO_DRIVE
    folder = str(tmp_path / "by hand")
    assert chosen([], preference="drive", wanted=folder) == ("drive", folder)


def test_ports_of_the_bootloader() -> None:
    assert chosen([ADAPTER], preference="uart") == ("uart", "/dev/ttyUSB0")
    assert chosen([ADAPTER, L4R5, BUILT_IN], preference="uart") == ("uart", "/dev/ttyACM0")
    assert chosen([ADAPTER, L4R5], preference="uart", wanted="/dev/ttyUSB0") == ("uart", "/dev/ttyUSB0")
    assert chosen([], preference="uart", wanted="/dev/pts/3") == ("uart", "/dev/pts/3")
    assert chosen([ADAPTER], wanted="/dev/ttyUSB0") == ("uart", "/dev/ttyUSB0")  # an adapter has no other way
    with pytest.raises(DeviceError, match="2 devices match"):
        chosen([ADAPTER, replace(ADAPTER, id="B", ports=("/dev/ttyUSB1",))], preference="uart")
    double = replace(L4R5, ports=("/dev/ttyACM0", "/dev/ttyACM1"))
    with pytest.raises(DeviceError, match="several ports: /dev/ttyACM0 and /dev/ttyACM1") as caught:
        chosen([double], preference="uart")
    assert caught.value.remedy == remedies.AMBIGUOUS
    assert chosen([double], preference="uart", wanted="/dev/ttyACM1") == ("uart", "/dev/ttyACM1")


def test_an_stlink_without_a_number() -> None:
    """Old clones have none; there is nothing to name, and no other one."""
    assert chosen([replace(L4R5, id="")]) == ("openocd", None)


def test_a_virtual_board() -> None:
    choice = choose_flasher(BOARD, "virtual", attached=[])
    assert (choice.flasher, choice.probe) == (VIRTUAL, None)


def test_flash_board() -> None:
    report = flash_board(BOARD, make_image(), preference="virtual", attached=[])
    assert report.back_end == "virtual"
    with pytest.raises(ConfigurationError, match="2097153 bytes"):
        flash_board(BOARD, make_image(BOARD.flash.bytes + 1), preference="virtual", attached=[])


def test_a_board_that_somebody_measures_on_is_not_flashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for port in ("/dev/ttyACM0", "/dev/ttyACM1"):
        double = replace(L4R5, ports=("/dev/ttyACM0", "/dev/ttyACM1"), drive=str(tmp_path))
        with exclusive_port(port), pytest.raises(DeviceError, match="is measuring on this machine"):
            flash_board(BOARD, make_image(), preference="drive", attached=[double])
    with pytest.raises(DeviceError, match="no ST-LINK drive"):  # nobody does: it goes on, and finds no drive
        flash_board(BOARD, make_image(), preference="drive", attached=[double])


@pytest.mark.parametrize("flasher", FLASHERS, ids=lambda flasher: flasher.name)
def test_every_back_end_refuses_what_is_no_firmware(flasher: Flasher) -> None:
    for image in (b"", bytes(2000), b"\xff" * 2000, b":020000040800F2\n" * 9):
        with pytest.raises(ConfigurationError):
            flasher.flash(BOARD, image, address=FLASH, probe="x")


def test_vector_tables() -> None:
    good = make_image()
    check_image(good, FLASH)
    for change in (
        (0x0800_0000, FLASH + 0x101), (0x2001_0000, FLASH + 0x100), (0x2001_0000, FLASH + 0x8001),
        (0x2001_0000, 0x101), (0x4000_0000, FLASH + 0x101),
    ):  # fmt: skip
        bad = b"".join(word.to_bytes(4, "little") for word in change) + good[8:]
        with pytest.raises(ConfigurationError, match="no firmware for 0x08000000"):
            check_image(bad, FLASH)


def test_every_remedy_stands_in_the_document() -> None:
    """Word for word, so that it can be searched for."""
    page = (Path(__file__).parents[4] / "docs/flashing.md").read_text(encoding="utf-8")
    plain = " ".join(page.split())
    sentences = {name: text for name, text in vars(remedies).items() if name.isupper()}
    assert len(sentences) > 15
    missing = {name: text for name, text in sentences.items() if text not in plain}
    assert missing == {}
    for flasher in FLASHERS:
        assert f"`{flasher.name}`" in page


def test_no_remedy_is_unused() -> None:
    root = Path(__file__).parents[4]
    files = [*(root / "targets/mcu").rglob("*.py"), *(root / "toolchain/cli").glob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in files if path.name != "remedies.py")
    for name in vars(remedies):
        assert not name.isupper() or re.search(rf"remedies\.{name}\b", text), name
