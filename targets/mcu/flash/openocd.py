"""Flashing with OpenOCD: any ST-LINK, and every part that it has a target file for (0.12: not yet STM32H5)."""

from __future__ import annotations

from typing import Final

from targets.mcu.flash import remedies
from targets.mcu.flash.by_tool import IMAGE, Request, ToolFlasher
from targets.mcu.flash.tool import Symptom
from toolchain.errors import DeviceError, FlashingError

# OpenOCD's own `program` command prints the lines in asterisks (its src/flash/startup.tcl). "open failed" comes after
# the line that says why, where there is one; so the reasons stand first.
_SYMPTOMS: Final = (
    Symptom("LIBUSB_ERROR_ACCESS", DeviceError, "no permission to use the ST-LINK", remedies.NO_PERMISSION),
    Symptom("LIBUSB_ERROR_BUSY|claim_interface", DeviceError, "the ST-LINK is busy", remedies.BUSY),
    Symptom("^Error: open failed", DeviceError, "no ST-LINK was found", remedies.NO_PROBE),
    Symptom("can't find target/", DeviceError, "it does not know this part", remedies.OTHER_BACK_END),
    Symptom(
        "cannot identify target as|UNEXPECTED idcode|device id .* is not known|wrong device id",
        DeviceError,
        "another chip is attached",
        remedies.OTHER_CHIP,
    ),
    Symptom(
        "init mode failed|target voltage may be too low|unable to connect to the target|OpenOCD init failed",
        DeviceError,
        "the ST-LINK does not reach the chip",
        remedies.NO_TARGET,
    ),
    Symptom("verify failed", FlashingError, "what was read back is not what was written", remedies.AGAIN),
    Symptom(
        "write protected|protected sector|sector .* protected|RDP level [12]",
        FlashingError,
        "the flash is protected",
        remedies.PROTECTED,
    ),
    Symptom("programming failed", FlashingError, "erasing or writing failed", remedies.AGAIN),
)


def _write(request: Request) -> list[str]:
    arguments = []
    # Another debugger's OpenOCD may hold the usual TCP ports, and none is needed here.
    for port in ("gdb_port", "tcl_port", "telnet_port"):
        arguments += ["-c", f"{port} disabled"]
    arguments += ["-f", "interface/stlink.cfg"]
    if request.probe:
        arguments += ["-c", f"adapter serial {request.probe}"]
    check = "verify " if request.verify else ""
    return [
        *arguments,
        "-f",
        request.board.programmer.openocd_target,
        "-c",
        f"program {IMAGE} {check}reset exit {request.address:#010x}",
    ]


OPENOCD: Final = ToolFlasher(
    name="openocd",
    title="OpenOCD",
    program="openocd",
    version=("--version", r"Open On-Chip Debugger (\S+)"),
    install=remedies.INSTALL_OPENOCD,
    knows=lambda board: bool(board.programmer.openocd_target),
    write=_write,
    symptoms=_SYMPTOMS,
    began=r"\*\* programming started",
    written=r"\*\* programming finished \*\*",
    verified=r"\*\* verified ok \*\*",
)
