"""Flashing by copying a file onto the drive that the ST-LINK of a Nucleo board shows.

Nothing can be read back that way, so the report never says verified; what the ST-LINK tells is a file FAIL.TXT that
appears when it did not succeed. It cannot reach the chip at all when its drive has hardly any room.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from targets.mcu.board import Board
from targets.mcu.flash import remedies
from targets.mcu.flash.base import Availability, FlashProgress, FlashReport, check_image
from toolchain.errors import ConfigurationError, DeviceError, FlashingError

_START: Final = 0x0800_0000  # where the ST-LINK puts a .bin file
_FILE: Final = "FIRMWARE.BIN"
_FAILURE: Final = "FAIL.TXT"


@dataclass(frozen=True, slots=True)
class Drive:
    """Drag and drop.

    Attributes:
        settle_s: how long to look for FAIL.TXT after copying; the ST-LINK takes its drive away while it writes.
        sleep: for tests.
    """

    name: str = field(default="drive", init=False)
    settle_s: float = 8.0
    poll_s: float = 0.2
    sleep: Callable[[float], object] = time.sleep

    def available(self) -> Availability:
        """It needs nothing."""
        return Availability(True, "needs no program")

    def fits(self, board: Board) -> str:
        """Boards whose ST-LINK shows a drive."""
        return "" if board.programmer.drive else f"{board.name} shows no drive"

    def flash(
        self,
        board: Board,
        image: bytes,
        *,
        address: int,
        probe: str | None,
        verify: bool = True,
        progress: FlashProgress | None = None,
        timeout_s: float = 120.0,
    ) -> FlashReport:
        """See `Flasher.flash`. `probe` is the folder where the drive is mounted, and cannot be None."""
        check_image(image, address)
        if address != _START:
            raise ConfigurationError(
                f"the drive writes at {_START:#010x}, not at {address:#010x}", remedy=remedies.OTHER_BACK_END
            )
        if not probe or not (Path(probe) / "DETAILS.TXT").exists():
            raise DeviceError(f"no ST-LINK drive at {probe or 'any folder'}", remedy=remedies.NO_DRIVE)
        folder = Path(probe)
        begin = time.monotonic()
        room = shutil.disk_usage(folder).free
        if room < len(image):
            raise DeviceError(
                f"the drive {folder} has room for {room} bytes, the firmware has {len(image)}: "
                "its ST-LINK does not reach the chip",
                remedy=remedies.NO_TARGET,
            )
        if progress is not None:
            progress(0, len(image), "copy")
        _within(timeout_s, lambda: _copy(image, folder / _FILE), folder)
        if progress is not None:
            progress(len(image), len(image), "copy")
        log = self._outcome(folder, begin + timeout_s)
        return FlashReport(self.name, len(image), time.monotonic() - begin, False, log)

    def _outcome(self, folder: Path, deadline: float) -> tuple[str, ...]:
        """Look for FAIL.TXT until the drive has come back."""
        until = min(time.monotonic() + self.settle_s, deadline)
        gone = False
        while time.monotonic() < until:
            here = (folder / "DETAILS.TXT").exists()
            gone |= not here
            if here and (gone or (folder / _FAILURE).exists()):
                break
            self.sleep(self.poll_s)
        failure = folder / _FAILURE
        try:
            if failure.exists():
                line = " ".join(failure.read_text(errors="replace").split())
                raise FlashingError(
                    f"the ST-LINK of {folder} says {line!r} in {_FAILURE}", remedy=remedies.NO_TARGET
                )
        except OSError as error:
            return (f"{failure} cannot be read: {error.strerror}",)
        if not folder.exists() or (gone and not (folder / "DETAILS.TXT").exists()):
            return ("the drive has not come back, so it could not be checked for FAIL.TXT",)
        return ("copied; the ST-LINK reports no failure (what it has written cannot be read back)",)


def _copy(image: bytes, path: Path) -> None:
    """In one go and through to the device. Not by a temporary name: the ST-LINK takes blocks, not files."""
    with path.open("wb", buffering=0) as sink:
        left = memoryview(image)
        while left:
            left = left[sink.write(left) :]
        os.fsync(sink.fileno())


def _within(timeout_s: float, todo: Callable[[], None], folder: Path) -> None:
    """Do it in a thread that can be left behind: a write to a drive that hangs cannot be interrupted."""
    problems: list[OSError] = []

    def work() -> None:
        try:
            todo()
        except OSError as error:
            problems.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise FlashingError(
            f"copying to {folder} did not end within {timeout_s:g} s", remedy=remedies.TOO_SLOW
        )
    if problems:
        raise FlashingError(f"copying to {folder} failed: {problems[0].strerror}", remedy=remedies.AGAIN)


DRIVE: Final = Drive()
