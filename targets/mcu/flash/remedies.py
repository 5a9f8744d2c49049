"""What to do when flashing fails: one sentence for each cause. docs/flashing.md explains each; a test compares."""

from __future__ import annotations

from typing import Final

NO_PROBE: Final = (
    "connect the board's ST-LINK USB port with a data cable; `boardfit boards` lists what is seen"
)
NO_PERMISSION: Final = "install the udev rule of docs/flashing.md, then plug the board in again"
NO_PORT_PERMISSION: Final = (
    "add yourself to the group that owns the port (Debian: dialout), then log in again"
)
BUSY: Final = "close the other program that uses it (debugger, IDE, serial monitor)"
AMBIGUOUS: Final = "say which one with --probe and a part of its id that the others do not have"
NO_TARGET: Final = "check the board's power and the ST-LINK jumpers, and hold reset while flashing starts"
OTHER_CHIP: Final = "name the board that is attached; `boardfit boards` shows a guess"
OTHER_BACK_END: Final = (
    "choose another back end with --with; docs/flashing.md says which one fits which board"
)
PYOCD_PACK: Final = "install the part's CMSIS pack with `pyocd pack install`, or use --with openocd"
PROTECTED: Final = "remove the flash protection with STM32CubeProgrammer; that erases the chip"
AGAIN: Final = "flash again; until that succeeds the board has no complete firmware"
TOO_SLOW: Final = "unplug the board, plug it in and flash again; a longer limit is --timeout SECONDS"
NO_BOOTLOADER: Final = (
    "start the bootloader (BOOT0 high, then reset) and use a port that leads to one of its USARTs"
)
PRESS_RESET: Final = "set BOOT0 low and press reset: the firmware is written"
NO_DRIVE: Final = "plug the board in so that its drive (NODE_... or NOD_...) is mounted"
NAME_A_BOARD: Final = "name the board with --board; `boardfit boards` lists them"
INSTALL_OPENOCD: Final = "install OpenOCD 0.12 or newer (Debian: apt install openocd)"
INSTALL_PYOCD: Final = "install pyOCD (pip install pyocd)"
INSTALL_STM32CUBE: Final = "install STM32CubeProgrammer from st.com, and put its bin folder on PATH"
INSTALL_STLINK: Final = "install the stlink tools (Debian: apt install stlink-tools)"
INSTALL_BOARDS: Final = "pip install 'boardfit[boards]'"
