"""Which back end flashes a board: by what is attached, what is installed, and what the part needs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from targets.lock import exclusive_port
from targets.mcu.board import Board
from targets.mcu.find import Attached, find_attached, match, match_board, single
from targets.mcu.flash import remedies
from targets.mcu.flash.base import Flasher, FlashProgress, FlashReport
from targets.mcu.flash.bootloader import BOOTLOADER
from targets.mcu.flash.by_tool import ToolFlasher
from targets.mcu.flash.drive import DRIVE
from targets.mcu.flash.openocd import OPENOCD
from targets.mcu.flash.pyocd import PYOCD
from targets.mcu.flash.stlink import STLINK
from targets.mcu.flash.stm32cube import STM32CUBE
from targets.mcu.flash.virtual import VIRTUAL
from toolchain.errors import ConfigurationError, DeviceError

# In order of preference where several would do: what verifies by itself and starts quickest first, and the drive last,
# because it cannot verify. The bootloader erases the whole chip and needs a hand on BOOT0, so it is never chosen for a
# board that has an ST-LINK.
FLASHERS: Final[tuple[Flasher, ...]] = (OPENOCD, STM32CUBE, STLINK, PYOCD, DRIVE, BOOTLOADER, VIRTUAL)


@dataclass(frozen=True, slots=True)
class Choice:
    """How to flash, and through what.

    Attributes:
        flasher: the back end.
        probe: what its `flash` takes as `probe`; None where nothing is attached that could be named.
        ports: the device's serial ports; who holds one is using the board.
    """

    flasher: Flasher
    probe: str | None
    ports: tuple[str, ...] = ()


def choose_flasher(
    board: Board,
    preference: str | None = None,
    *,
    attached: Sequence[Attached],
    wanted: str = "",
    flashers: Sequence[Flasher] = FLASHERS,
) -> Choice:
    """Pick a back end by what is attached and installed. What is attached is never picked where several match.

    Args:
        board: what is to be flashed.
        preference: a back end's name; None takes the first that fits.
        attached: from `find_attached`.
        wanted: a port, a drive's folder or a part of an id; empty: the one device that may be this board.
        flashers: for tests.

    Raises:
        DeviceError: nothing is attached, several devices match, or another board is.
        ConfigurationError: an unknown back end, or none that is installed can flash this board.
    """
    known = {flasher.name: flasher for flasher in flashers}
    if preference is not None and preference not in known:
        raise ConfigurationError(f"no back end {preference!r}", remedy=f"use one of {', '.join(known)}")
    if preference == VIRTUAL.name:
        return Choice(VIRTUAL, None)
    if preference is not None:
        return _preferred(board, known[preference], attached, wanted)
    device = _device(board, attached, wanted)
    reasons = []
    for flasher in flashers:
        probe = _way(flasher, device, asked=False)
        if probe is None:
            continue
        reason = _reason(flasher, board)
        if not reason:
            return Choice(flasher, probe or None, device.ports)
        reasons.append(f"{flasher.name}: {reason}")
    listed = "; ".join(reasons) or "it has neither an ST-LINK nor a serial port"
    raise ConfigurationError(
        f"no back end can flash {board.name} through {device.label}: {listed}", remedy=remedies.OTHER_BACK_END
    )


def _preferred(board: Board, flasher: Flasher, attached: Sequence[Attached], wanted: str) -> Choice:
    reason = flasher.fits(board)
    if reason:
        raise ConfigurationError(reason, remedy=remedies.OTHER_BACK_END)
    available = flasher.available()
    if not available.ready:
        raise ConfigurationError(available.detail, remedy=available.remedy)
    if isinstance(flasher, ToolFlasher) and not any(one.stlink for one in attached):
        # The tool may know probes that are not looked for here (CMSIS-DAP, J-Link); where it does not, it says so.
        return Choice(flasher, wanted or None)
    device = (
        _line(board, attached)
        if flasher.name == BOOTLOADER.name and not wanted
        else _device(board, attached, wanted)
    )
    if flasher.name == BOOTLOADER.name and len(device.ports) > 1 and wanted not in device.ports:
        listed = " and ".join(device.ports)
        raise DeviceError(f"{device.label} has several ports: {listed}", remedy=remedies.AMBIGUOUS)
    probe = (
        wanted
        if wanted in device.ports and flasher.name == BOOTLOADER.name
        else _way(flasher, device, asked=True)
    )
    if probe is None:
        remedy = {BOOTLOADER.name: remedies.NO_BOOTLOADER, DRIVE.name: remedies.NO_DRIVE}.get(flasher.name)
        raise DeviceError(
            f"{device.label} has nothing that {flasher.name} could use", remedy=remedy or remedies.NO_PROBE
        )
    return Choice(flasher, probe or None, device.ports)


def _device(board: Board, attached: Sequence[Attached], wanted: str) -> Attached:
    """The device that is meant; never one that is known to be another board."""
    if not wanted:
        return match_board(attached, board.name)
    listed = any(wanted in (*one.ports, one.drive) for one in attached)
    if not listed and ("/" in wanted or "\\" in wanted):
        # A pseudo terminal, a network port, or a folder that is not listed: taken at its word.
        return Attached("serial port", ports=(wanted,), drive=wanted)
    device = match(attached, wanted)
    if device.guess and device.guess != board.name:
        raise DeviceError(f"{device.label} is not {board.name}: {device.why}", remedy=remedies.OTHER_CHIP)
    return device


def _line(board: Board, attached: Sequence[Attached]) -> Attached:
    """The bootloader's serial line: the board's own, else the one adapter that there is."""
    own = [one for one in attached if one.ports and board.name in one.possible]
    return single(own or [one for one in attached if one.kind == "USB serial"], attached, board.name)


def _way(flasher: Flasher, device: Attached, *, asked: bool) -> str | None:
    """What of the device this back end would use, empty when that has no name; None when there is no way."""
    if isinstance(flasher, ToolFlasher):
        return device.id if device.stlink else None
    if flasher.name == DRIVE.name:
        return device.drive or None
    if flasher.name == BOOTLOADER.name and (asked or not device.stlink):
        return device.ports[0] if device.ports else None
    return None


def _reason(flasher: Flasher, board: Board) -> str:
    available = flasher.available()
    return flasher.fits(board) or ("" if available.ready else available.detail)


def flash_board(
    board: Board,
    image: bytes,
    *,
    preference: str | None = None,
    wanted: str = "",
    attached: Sequence[Attached] | None = None,
    verify: bool = True,
    progress: FlashProgress | None = None,
    timeout_s: float = 120.0,
) -> FlashReport:
    """Choose a back end and write firmware to the start of a board's flash, unless somebody is measuring on it.

    Args:
        board: what is flashed.
        image: raw bytes.
        preference, wanted: see `choose_flasher`.
        attached: by default what is attached now.
        verify, progress, timeout_s: see `Flasher.flash`.

    Raises:
        DeviceError, FlashingError, ConfigurationError: see `choose_flasher` and `Flasher.flash`.
    """
    if len(image) > board.flash.bytes:
        raise ConfigurationError(
            f"the firmware has {len(image)} bytes, {board.name} has {board.flash.bytes} bytes of flash",
            remedy="give the .bin file that was built for this board",
        )
    there = find_attached() if attached is None else attached
    choice = choose_flasher(board, preference, attached=there, wanted=wanted)
    with contextlib.ExitStack() as held:
        for port in choice.ports:
            held.enter_context(exclusive_port(port))
        return choice.flasher.flash(
            board, image, address=board.flash.address, probe=choice.probe, verify=verify, progress=progress,
            timeout_s=timeout_s,
        )  # fmt: skip
