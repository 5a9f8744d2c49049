"""`boardfit boards` and `boardfit flash` as a user sees them; the boards are made up."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from targets.mcu import find
from targets.mcu.find import Attached
from targets.mcu.flash import choose, remedies
from tests.cli.conftest import PROGRAM, Command
from tests.cli.test_cli import failed
from tests.targets.mcu.flash.boards import make_image

L4R5 = Attached(
    "ST-LINK/V2-1", "066CFF303435554157113225", "0483:374b", "STM32 STLink", ("/dev/ttyACM0",),
    "/media/NODE_L4R5ZI", "nucleo-l4r5zi", ("nucleo-l4r5zi",), "its drive is called NODE_L4R5ZI",
)  # fmt: skip
TWIN = Attached("ST-LINK/V2-1", "066EFF4854", "0483:374b", "", ("/dev/ttyACM1",), possible=("nucleo-l4r5zi",))
BUILT_IN = Attached("serial port", ports=("/dev/ttyS0",))


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[Attached]:
    """What is attached; a test adds to it."""
    there: list[Attached] = []
    for module in (find, choose):
        monkeypatch.setattr(module, "find_attached", lambda *_: [*there])
    return there


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "fw.bin"
    path.write_bytes(make_image())
    return path


def test_boards_lists_engines_virtual_boards_and_what_is_attached(
    boardfit: Command, attached: list[Attached]
) -> None:
    attached += [L4R5, TWIN, BUILT_IN]
    shown = boardfit("boards")
    assert shown.code == 0
    assert shown.err == ""
    for part in (
        "cpu:litert", "virtual:nucleo-l4r5zi", "no hardware", "serial:/dev/ttyACM0?board=nucleo-l4r5zi",
        "serial:/dev/ttyACM1?board=NAME", "066CFF303435554157113225", "/media/NODE_L4R5ZI", "/dev/ttyS0",
        "its drive is called NODE_L4R5ZI",
    ):  # fmt: skip
        assert part in shown.out
    found = boardfit("boards", "--json").document
    assert [one["id"] for one in found["attached"]] == [L4R5.id, TWIN.id, ""]
    assert found["attached"][0]["guess"] == "nucleo-l4r5zi"
    available = {target["url"]: target["available"] for target in found["targets"]}
    assert available["serial:/dev/ttyACM0?board=nucleo-l4r5zi"] is True
    assert available["serial:/dev/ttyACM1?board=NAME"] is False


def test_boards_with_nothing_attached(boardfit: Command, attached: list[Attached]) -> None:
    assert "Attached" not in boardfit("boards").out
    assert boardfit("boards", "--json").document["attached"] == []


def test_flash_without_a_board(boardfit: Command, attached: list[Attached], image: Path) -> None:
    failed(
        boardfit("flash", "--board", "nucleo-l4r5zi", "--firmware", image), 5,
        "nothing attached matches nucleo-l4r5zi; there is nothing", remedies.NO_PROBE,
    )  # fmt: skip
    attached += [L4R5, TWIN]
    failed(
        boardfit("flash", "--board", "nucleo-l4r5zi", "--firmware", image), 5,
        "2 devices match nucleo-l4r5zi", L4R5.id, TWIN.id, remedies.AMBIGUOUS,
    )  # fmt: skip
    failed(
        boardfit("flash", "--board", "nucleo-f446re", "--firmware", image, "--probe", "066CFF"), 5,
        "is not nucleo-f446re", remedies.OTHER_CHIP,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((), 2, ["either --board or --target", remedies.NAME_A_BOARD]),
        (("--board", "nucleo-l4r5zi", "--target", "virtual:nucleo-l4r5zi"), 2, ["either"]),
        (("--target", "cpu:litert"), 2, ["'cpu:litert' cannot be flashed"]),
        (("--board", "nucleo-l4r5"), 3, ["nucleo-l4r5zi"]),
        (("--target", "serial:/dev/ttyACM0"), 3, ["board"]),
        (("--board", "nucleo-l4r5zi", "--with", "jlink"), 3, ["no back end 'jlink'", "use one of openocd"]),
        (("--board", "nucleo-l4r5zi", "--firmware", "none.bin"), 3, ["cannot read none.bin"]),
        (("--board", "nucleo-l4r5zi", "--timeout", "0"), 2, ["--timeout"]),
    ],
)
def test_flash_refuses(
    boardfit: Command,
    attached: list[Attached],
    image: Path,
    arguments: tuple[str, ...],
    code: int,
    parts: list[str],
) -> None:
    file = () if "--firmware" in arguments else ("--firmware", image)
    outcome = boardfit("flash", *arguments, *file)
    failed(outcome, code, *parts)
    assert outcome.out == ""


def test_flash_refuses_what_is_no_firmware(
    boardfit: Command, attached: list[Attached], tmp_path: Path
) -> None:
    (tmp_path / "fw.elf").write_bytes(b"\x7fELF" * 1000)
    outcome = boardfit("flash", "--target", "virtual:nucleo-l4r5zi", "--firmware", tmp_path / "fw.elf")
    failed(outcome, 3, "no firmware", "remedy: give a raw .bin file")


def test_flash_a_virtual_board(boardfit: Command, attached: list[Attached], image: Path) -> None:
    outcome = boardfit("flash", "--target", "virtual:nucleo-l4r5zi", "--firmware", image)
    assert outcome.code == 0
    assert "nucleo-l4r5zi: 1,800 bytes by virtual" in outcome.out
    assert "no hardware" in outcome.out


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are POSIX")
def test_flash_through_the_bootloader(boardfit: Command, attached: list[Attached], image: Path) -> None:
    from tests.targets.mcu.flash import an3155

    with an3155.Bootloader() as chip:
        target = f"serial:{chip.port}?board=nucleo-l4r5zi"
        outcome = boardfit("flash", "--target", target, "--with", "uart", "--firmware", image, "--json")
        assert outcome.code == 0, outcome.err
        assert chip.flash[:1800] == image.read_bytes()
        assert chip.started_at == chip.base
    document = outcome.document
    assert (document["kind"], document["board"]) == ("flash", "nucleo-l4r5zi")
    assert (document["back_end"], document["bytes"], document["verified"]) == ("uart", 1800, True)
    assert "flash: 1800/1800 bytes: verify" in outcome.err


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are POSIX")
def test_flash_that_fails_ends_with_its_code(
    boardfit: Command, attached: list[Attached], image: Path
) -> None:
    from tests.targets.mcu.flash import an3155

    with an3155.Bootloader(faults={("read data", 1): "flip"}) as chip:
        outcome = boardfit(
            "flash", "--board", "nucleo-l4r5zi", "--probe", chip.port, "--with", "uart", "--firmware", image
        )
    failed(outcome, 6, "at 0x08000100 stands", f"remedy: {remedies.AGAIN}")
    with an3155.Bootloader(device_id=0x421) as chip:
        outcome = boardfit(
            "flash", "--board", "nucleo-l4r5zi", "--probe", chip.port, "--with", "uart", "--firmware", image
        )
    failed(outcome, 5, "0x421", f"remedy: {remedies.OTHER_CHIP}")


@pytest.mark.slow
def test_flash_builds_the_firmware(boardfit: Command, attached: list[Attached]) -> None:
    outcome = boardfit("flash", "--target", "virtual:nucleo-g071rb", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["bytes"] > 4000


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo terminals")
def test_ctrl_c_while_flashing_says_what_is_left(image: Path) -> None:
    """The bootloader erases, and is then silent for longer than anybody would wait."""
    from tests.targets.mcu.flash import an3155

    with an3155.Bootloader(faults={("erase data", 0): "silent"}) as chip:
        arguments = ["flash", "--board", "nucleo-l4r5zi", "--with", "uart", "--probe", chip.port]
        command = [sys.executable, "-c", PROGRAM, *arguments, "--firmware", str(image)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while "erase data" not in chip.events and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    again = "interrupted; the board may be half written, write it again: boardfit flash --board nucleo-l4r5zi"
    assert err.splitlines()[-1].startswith(again)
    assert "Traceback" not in err
