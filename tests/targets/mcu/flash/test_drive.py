"""The ST-LINK's drive as a folder: the copy, the FAIL.TXT that may follow, and a drive that goes away or hangs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from targets.mcu.flash import remedies
from targets.mcu.flash.drive import Drive
from targets.mcu.flash.virtual import VIRTUAL
from tests.targets.mcu.flash.boards import BOARD, FLASH, make_image
from toolchain.errors import ConfigurationError, DeviceError, FlashingError

IMAGE = make_image()
REFUSED = "The interface firmware FAILED to reset/halt the target MCU\n"


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    folder = tmp_path / "NODE_L4R5ZI"
    folder.mkdir()
    (folder / "DETAILS.TXT").write_text("Version: 0221\n")
    (folder / "MBED.HTM").write_text("<meta/>")
    return folder


class Stlink:
    """What the ST-LINK does while we wait: one step for each look."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def __call__(self, seconds: float) -> None:
        if self.steps:
            self.steps.pop(0)()


def flasher(*steps: Callable[[], object], settle_s: float = 5) -> Drive:
    return Drive(settle_s=settle_s, sleep=Stlink(*steps))


def remount(folder: Path, *, fail: str = "") -> tuple[Callable[[], object], Callable[[], object]]:
    """It takes its drive away, and comes back."""

    def back() -> None:
        folder.mkdir()
        (folder / "DETAILS.TXT").write_text("Version: 0221\n")
        if fail:
            (folder / "FAIL.TXT").write_text(fail)

    return lambda: shutil.rmtree(folder), back


def test_copied(drive: Path) -> None:
    kept: list[bytes] = []
    away, back = remount(drive)
    steps: list[tuple[int, int, str]] = []
    report = flasher(lambda: kept.append((drive / "FIRMWARE.BIN").read_bytes()), away, back).flash(
        BOARD, IMAGE, address=FLASH, probe=str(drive), progress=lambda *step: steps.append(step)
    )
    assert kept == [IMAGE]
    assert (report.back_end, report.bytes) == ("drive", len(IMAGE))
    assert not report.verified  # there is no way to read back
    assert "reports no failure" in report.log[0]
    assert steps == [(0, len(IMAGE), "copy"), (len(IMAGE), len(IMAGE), "copy")]


def test_the_copy_goes_through_to_the_device(drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would sit in this machine's memory when the drive is pulled out, and nobody would know."""
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    flasher(settle_s=0.05).flash(BOARD, IMAGE, address=FLASH, probe=str(drive))
    assert sizes == [len(IMAGE)]


@pytest.mark.parametrize("remounts", [True, False])
def test_fail_txt(drive: Path, remounts: bool) -> None:
    steps = remount(drive, fail=REFUSED) if remounts else (lambda: (drive / "FAIL.TXT").write_text(REFUSED),)
    with pytest.raises(FlashingError, match="FAILED to reset/halt the target MCU") as caught:
        flasher(*steps).flash(BOARD, IMAGE, address=FLASH, probe=str(drive))
    assert caught.value.exit_code == 6
    assert caught.value.remedy == remedies.NO_TARGET


def test_a_drive_that_stays_as_it_is(drive: Path) -> None:
    report = flasher(settle_s=0.05).flash(BOARD, IMAGE, address=FLASH, probe=str(drive))
    assert "reports no failure" in report.log[0]


def test_a_drive_that_does_not_come_back_is_not_called_a_success(drive: Path) -> None:
    report = flasher(lambda: shutil.rmtree(drive), settle_s=0.3).flash(
        BOARD, IMAGE, address=FLASH, probe=str(drive)
    )
    assert not report.verified
    assert report.log == ("the drive has not come back, so it could not be checked for FAIL.TXT",)


@pytest.mark.parametrize("probe", [None, "", "nowhere"])
def test_no_drive(tmp_path: Path, probe: str | None) -> None:
    with pytest.raises(DeviceError, match="no ST-LINK drive") as caught:
        flasher().flash(BOARD, IMAGE, address=FLASH, probe=str(tmp_path / probe) if probe else probe)
    assert caught.value.remedy == remedies.NO_DRIVE
    with pytest.raises(DeviceError, match="no ST-LINK drive"):  # a folder like any other is not written to
        flasher().flash(BOARD, IMAGE, address=FLASH, probe=str(tmp_path))
    assert [*tmp_path.iterdir()] == []


def test_a_drive_without_room_tells_that_its_chip_is_not_reached(
    drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 12 * 100})())
    with pytest.raises(DeviceError, match="room for 1200 bytes, the firmware has 1800") as caught:
        flasher().flash(BOARD, IMAGE, address=FLASH, probe=str(drive))
    assert caught.value.remedy == remedies.NO_TARGET
    assert not (drive / "FIRMWARE.BIN").exists()


def test_a_copy_that_fails(drive: Path) -> None:
    (drive / "FIRMWARE.BIN").mkdir()  # cannot be opened for writing
    with pytest.raises(FlashingError, match="copying to") as caught:
        flasher().flash(BOARD, IMAGE, address=FLASH, probe=str(drive))
    assert caught.value.remedy == remedies.AGAIN


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are POSIX")
def test_a_drive_that_hangs_is_left_behind(drive: Path) -> None:
    """Opening a pipe that nobody reads blocks as a dead drive does."""
    os.mkfifo(drive / "FIRMWARE.BIN")
    with pytest.raises(FlashingError, match=r"did not end within 0\.2 s") as caught:
        flasher().flash(BOARD, IMAGE, address=FLASH, probe=str(drive), timeout_s=0.2)
    assert caught.value.remedy == remedies.TOO_SLOW
    reader = os.open(drive / "FIRMWARE.BIN", os.O_RDONLY | os.O_NONBLOCK)  # lets the thread end
    os.close(reader)


def test_another_address_and_a_board_without_a_drive(drive: Path) -> None:
    with pytest.raises(ConfigurationError, match="writes at 0x08000000, not at 0x08000100") as caught:
        flasher().flash(BOARD, IMAGE, address=FLASH + 0x100, probe=str(drive))
    assert caught.value.remedy == remedies.OTHER_BACK_END
    bare = replace(BOARD, programmer=replace(BOARD.programmer, drive=""))
    assert flasher().fits(bare) == "nucleo-l4r5zi shows no drive"
    assert (flasher().fits(BOARD), flasher().available().ready) == ("", True)


def test_a_virtual_board_has_nothing_to_flash() -> None:
    report = VIRTUAL.flash(BOARD, IMAGE, address=FLASH, probe=None)
    assert (report.bytes, report.verified) == (len(IMAGE), False)
    assert "no hardware" in report.log[0]
    with pytest.raises(ConfigurationError):
        VIRTUAL.flash(BOARD, bytes(100), address=FLASH, probe=None)
