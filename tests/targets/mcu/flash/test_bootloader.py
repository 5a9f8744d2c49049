"""AN3155 against a bootloader on a pseudo terminal that works, refuses, falls silent, lies, or dies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.mcu.flash import remedies
from targets.mcu.flash.bootloader import Bootloader
from tests.targets.mcu.flash.boards import BOARD, FLASH, make_image
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, FlashingError

if sys.platform == "win32":
    pytest.skip("pseudo terminals are POSIX", allow_module_level=True)

from tests.targets.mcu.flash import an3155

serial = pytest.importorskip("serial")
pytest.importorskip("stm32loader")

QUICK = Bootloader(reply_s=0.15, erase_s=0.3)


def released(port: str) -> bool:
    """Nobody holds the port: it can be opened for oneself alone."""
    with serial.Serial(port, exclusive=True):
        return True


@pytest.mark.parametrize("extended", [True, False], ids=["extended erase", "erase"])
@pytest.mark.parametrize("size", [264, 256 * 7, 1801])
def test_write_verify_go(extended: bool, size: int) -> None:
    image = make_image(size)
    steps: list[tuple[int, int, str]] = []
    with an3155.Bootloader(extended_erase=extended) as chip:
        report = QUICK.flash(
            BOARD, image, address=FLASH, probe=chip.port, progress=lambda *step: steps.append(step)
        )
        assert chip.flash[:size] == image
        assert set(chip.flash[size:]) == {0xFF}
        assert chip.started_at == FLASH
        assert released(chip.port)
        assert chip.events[-2:] == ["go", "go address"]
    assert (report.back_end, report.bytes, report.verified) == ("uart", size, True)
    assert report.log[0] == f"bootloader 3.1 on {chip.port}"
    assert steps[0] == (0, size, "erase")
    assert (size, size, "write") in steps
    assert steps[-1] == (size, size, "verify")
    assert [step[0] for step in steps if step[2] == "verify"] == sorted(
        step[0] for step in steps if step[2] == "verify"
    )


def test_an_address_behind_the_start_of_flash() -> None:
    image = (0x2000_1000).to_bytes(4, "little") + (FLASH + 0x2009).to_bytes(4, "little") + bytes(120)
    with an3155.Bootloader() as chip:
        QUICK.flash(BOARD, image, address=FLASH + 0x2000, probe=chip.port)
        assert chip.flash[0x2000 : 0x2000 + 128] == image
        assert chip.started_at == FLASH + 0x2000


def test_without_verifying_nothing_is_read() -> None:
    with an3155.Bootloader() as chip:
        report = QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port, verify=False)
        assert not report.verified
        assert "read" not in chip.events
        assert chip.started_at == FLASH


def test_a_bootloader_that_has_been_talked_to_before() -> None:
    """It has measured the baud rate already, and takes 0x7F for half a command."""
    with an3155.Bootloader() as chip:
        for seed in (1, 2):
            image = make_image(seed=seed)
            QUICK.flash(BOARD, image, address=FLASH, probe=chip.port)
            assert chip.flash[: len(image)] == image


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """stm32loader prints its remarks; they stand in the log instead."""
    with an3155.Bootloader() as chip:
        report = QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port)
    assert capsys.readouterr() == ("", "")
    assert "Extended erase" in report.log[1]


BEFORE = [
    (("init", 0), "silent", "no answer", remedies.NO_BOOTLOADER),
    (("init", 0), "close", "failed", remedies.NO_BOOTLOADER),
    (("get", 0), "nack", "failed to get: NACK", remedies.NO_BOOTLOADER),
    (("get", 0), "silent", "failed to get", remedies.NO_BOOTLOADER),
    (("get", 0), "noise", "0x55", remedies.NO_BOOTLOADER),
    (("get data", 0), "cut", "get", remedies.NO_BOOTLOADER),
    (("get data", 0), "silent", "fell silent (get)", remedies.NO_BOOTLOADER),
    (("id", 0), "nack", "get the chip's id", remedies.NO_BOOTLOADER),
    (("id data", 0), "silent", "fell silent", remedies.NO_BOOTLOADER),
    (("id data", 0), "cut", "get the chip's id", remedies.NO_BOOTLOADER),
]
AFTER = [
    (("erase", 0), "nack", "failed to erase: NACK", remedies.PROTECTED),
    (("erase", 0), "silent", "failed to erase", remedies.AGAIN),
    (("erase data", 0), "nack", "failed to erase: NACK", remedies.PROTECTED),
    (("write", 0), "nack", f"write at {FLASH:#010x}", remedies.AGAIN),
    (("write", 3), "silent", f"write at {FLASH + 3 * 256:#010x}", remedies.AGAIN),
    (("write data", 3), "nack", f"write at {FLASH + 3 * 256:#010x}: NACK", remedies.AGAIN),
    (("write data", 3), "noise", "Unknown response", remedies.AGAIN),
    (("write data", 3), "silent", "write at", remedies.AGAIN),
    (("write data", 3), "close", "the port", remedies.AGAIN),
    (("read", 2), "nack", f"read at {FLASH + 2 * 256:#010x}", remedies.AGAIN),
    (("read data", 2), "cut", "128 bytes came, not 256", remedies.AGAIN),
    (("read data", 2), "flip", f"at {FLASH + 2 * 256:#010x} stands", remedies.AGAIN),
    (("read data", 2), "close", "the port", remedies.AGAIN),
    (("go", 0), "nack", "written and verified, but does not start", remedies.PRESS_RESET),
    (("go address", 0), "nack", "written and verified, but does not start", remedies.PRESS_RESET),
    (("go", 0), "silent", "written and verified, but does not start", remedies.PRESS_RESET),
]


@pytest.mark.parametrize(
    ("kind", "at", "fault", "text", "remedy"),
    [(DeviceError, *row) for row in BEFORE] + [(FlashingError, *row) for row in AFTER],
    ids=[f"{at[0]} {at[1]} {fault}" for at, fault, _, _ in BEFORE + AFTER],
)
def test_every_fault_is_a_typed_error_with_a_remedy(
    kind: type[BoardfitError], at: tuple[str, int], fault: an3155.Fault, text: str, remedy: str
) -> None:
    """Before erasing, the board is as it was (exit 5); after that its firmware is incomplete (exit 6)."""
    with an3155.Bootloader(faults={at: fault}) as chip:
        with pytest.raises(BoardfitError) as caught:
            QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port)
        assert type(caught.value) is kind
        assert text in caught.value.message
        assert caught.value.remedy == remedy
        assert chip.port in caught.value.message or "stands" in text
        touched = "erase" in chip.events
        assert touched == (kind is FlashingError)
        if fault != "close":
            assert released(chip.port)


def test_noise_on_the_line_is_not_the_end_but_nothing_but_noise_is() -> None:
    with an3155.Bootloader(faults={("init", 0): "noise"}) as chip:
        assert QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port).verified
    noise: dict[tuple[str, int], an3155.Fault] = {("init", n): "noise" for n in range(9)}
    with an3155.Bootloader(faults=noise) as chip:
        with pytest.raises(DeviceError, match="answers with 55, no bootloader") as caught:
            QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port)
        assert caught.value.remedy == remedies.NO_BOOTLOADER
        assert released(chip.port)


def test_a_bootloader_that_is_late_with_erasing_is_waited_for_but_not_for_ever() -> None:
    with an3155.Bootloader(faults={("erase data", 0): "silent"}) as chip:
        with pytest.raises(FlashingError, match=r"took longer than 0\.3 s") as caught:
            Bootloader(reply_s=0.15).flash(BOARD, make_image(), address=FLASH, probe=chip.port, timeout_s=0.3)
        assert caught.value.remedy == remedies.TOO_SLOW
        assert released(chip.port)


def test_the_limit_holds_before_anything_is_written_too() -> None:
    with an3155.Bootloader(faults={("init", 0): "silent"}) as chip:
        with pytest.raises(DeviceError, match=r"took longer than 0\.1 s"):
            Bootloader(reply_s=5).flash(BOARD, make_image(), address=FLASH, probe=chip.port, timeout_s=0.1)
        assert released(chip.port)


def test_another_chip_is_not_touched() -> None:
    with an3155.Bootloader(device_id=0x421) as chip:
        with pytest.raises(DeviceError, match="0x421, but that of nucleo-l4r5zi is 0x470") as caught:
            QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port)
        assert caught.value.remedy == remedies.OTHER_CHIP
        assert "erase" not in chip.events
        assert released(chip.port)


def test_a_port_that_somebody_has_open() -> None:
    with an3155.Bootloader() as chip, serial.Serial(chip.port, exclusive=True):
        with pytest.raises(DeviceError, match="busy") as caught:
            QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port)
        assert caught.value.remedy == remedies.BUSY


def test_no_port(tmp_path: Path) -> None:
    for probe, text in (
        (str(tmp_path / "ttyACM7"), "there is no port"),
        (None, "no serial port"),
        ("", "no serial"),
    ):
        with pytest.raises(DeviceError, match=text):
            QUICK.flash(BOARD, make_image(), address=FLASH, probe=probe)
    (tmp_path / "file").write_text("not a terminal")
    with pytest.raises(DeviceError, match="cannot be opened"):
        QUICK.flash(BOARD, make_image(), address=FLASH, probe=str(tmp_path / "file"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "tty").touch(mode=0)
    with pytest.raises(DeviceError, match="no right to open it"):
        QUICK.flash(BOARD, make_image(), address=FLASH, probe=str(tmp_path / "tty"))


def test_what_is_no_firmware_is_refused_before_the_port_is_opened() -> None:
    for image in (b"", b"\x7fELF" + bytes(100), bytes(100), make_image()[:8]):
        with pytest.raises(ConfigurationError):
            QUICK.flash(BOARD, image, address=FLASH, probe="/dev/null/none")
    nameless = replace(BOARD, programmer=replace(BOARD.programmer, device_id=0))
    with pytest.raises(ConfigurationError, match="device id"):
        QUICK.flash(nameless, make_image(), address=FLASH, probe="/dev/null/none")


def test_a_board_that_died_half_way_can_be_flashed_again() -> None:
    image = make_image()
    with an3155.Bootloader(faults={("write data", 2): "nack"}) as chip:
        with pytest.raises(FlashingError):
            QUICK.flash(BOARD, image, address=FLASH, probe=chip.port)
        chip.heal()
        assert QUICK.flash(BOARD, image, address=FLASH, probe=chip.port).verified
        assert chip.flash[: len(image)] == image


EVENTS = (
    "init",
    "get",
    "get data",
    "id",
    "id data",
    "erase",
    "erase data",
    "write",
    "write data",
    "read",
    "read data",
)
FAULTS: tuple[an3155.Fault, ...] = ("nack", "silent", "close", "cut", "noise", "flip")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from((*EVENTS, "go", "go address")), st.integers(0, 4)), st.sampled_from(FAULTS),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_whatever_fails_the_end_is_right_or_typed(faults: dict[tuple[str, int], an3155.Fault]) -> None:
    """Never a hang, never another exception, never `verified` over a flash that differs; and the port is free."""
    image = make_image(1100)
    hasty = Bootloader(reply_s=0.04, erase_s=0.08)
    with an3155.Bootloader(faults=faults) as chip:
        try:
            report = hasty.flash(BOARD, image, address=FLASH, probe=chip.port, timeout_s=5)
        except DeviceError:
            assert "erase" not in chip.events
        except FlashingError:
            assert "erase" in chip.events
        else:
            assert report.verified
            assert chip.flash[: len(image)] == image
            assert chip.started_at == FLASH
        if "close" not in faults.values():
            assert released(chip.port)


def test_the_emulated_flash_is_flash() -> None:
    """A control: without erasing, nothing can be written over the old program, and verifying tells."""
    with an3155.Bootloader(faults={}) as chip:
        chip._erase = lambda: (chip._take(3), chip._say(an3155.ACK))  # type: ignore[method-assign]
        with pytest.raises(FlashingError, match="stands 0x00"):
            QUICK.flash(BOARD, make_image(), address=FLASH, probe=chip.port)


@pytest.mark.skipif(
    shutil.which("stm32flash") is None, reason="stm32flash is not installed (Debian: stm32flash)"
)
def test_somebody_elses_program_agrees_with_the_emulator(tmp_path: Path) -> None:
    """stm32flash writes, verifies and starts; so what the tests above talk to is a bootloader."""
    image = make_image(1024)
    (tmp_path / "fw.bin").write_bytes(image)
    with an3155.Bootloader(device_id=0x413, flash_bytes=1 << 20) as chip:
        command = ["stm32flash", "-m", "8n1", "-w", "fw.bin", "-e", "0", "-v", "-g", hex(FLASH), chip.port]
        chip.flash[:] = b"\xff" * len(chip.flash)  # it erases pages by its own table; here it need not
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        assert chip.flash[:1024] == image
        assert chip.started_at == FLASH
