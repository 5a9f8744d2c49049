"""Boards without a board: `virtual:NAME` runs the real firmware in an emulator (docs/virtual-board.md).

Importing this makes `serial.serial_for_url("virtual://NAME")` work, so that every tool that speaks pyserial goes one
way.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from toolchain.errors import ConfigurationError

if TYPE_CHECKING:
    from targets.mcu.virtual.protocol_virtual import VirtualSerial

with contextlib.suppress(ImportError):
    import serial

    if __name__ not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.append(__name__)


def open_virtual(url: str) -> VirtualSerial:
    """The serial line of a virtual board, with its firmware built, flashed and running.

    Args:
        url: `virtual:NAME` or `virtual://NAME`, or only the name, with the options of a board's URL
            (`?runtime=native&compiler=gcc`, see `targets.mcu.session.parse_url`).

    Raises:
        ConfigurationError: no such board or option, no compiler, or a package is not installed.
        DeviceError: the emulator cannot run the part.
    """
    try:
        from targets.mcu.virtual.protocol_virtual import VirtualSerial, machine_of
    except ImportError as error:
        raise ConfigurationError(
            f"a virtual board needs the package {error.name}", remedy="pip install 'boardfit[virtual]'"
        ) from error
    return VirtualSerial(url, machine=machine_of(url), timeout=0.02)
