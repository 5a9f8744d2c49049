"""Flashing with STM32CubeProgrammer's command line: ST's own tool, for every STM32 part."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from targets.mcu.flash import remedies
from targets.mcu.flash.by_tool import IMAGE, Request, ToolFlasher
from targets.mcu.flash.tool import Symptom
from toolchain.errors import DeviceError, FlashingError

_SYMPTOMS: Final = (
    Symptom(
        "DEV_USB_COMM_ERR|used by another|DEV_ALREADY", DeviceError, "the ST-LINK is busy", remedies.BUSY
    ),
    Symptom(
        "no debug probe detected|no st-?link|serial number .*(not found|wrong)",
        DeviceError,
        "no ST-LINK was found",
        remedies.NO_PROBE,
    ),
    Symptom("permission denied|access denied", DeviceError, "no permission", remedies.NO_PERMISSION),
    Symptom(
        "no stm32 target found|unable to connect|cannot connect|DEV_TARGET|unable to get core id",
        DeviceError,
        "the ST-LINK does not reach the chip",
        remedies.NO_TARGET,
    ),
    Symptom(
        "data mismatch|verification failed",
        FlashingError,
        "what was read back is not what was written",
        remedies.AGAIN,
    ),
    Symptom("protect|RDP", FlashingError, "the flash is protected", remedies.PROTECTED),
    Symptom(
        "failed to (erase|download)|(erase|erasing|write|download|programming) .*(failed|error)",
        FlashingError,
        "erasing or writing failed",
        remedies.AGAIN,
    ),
)


def _write(request: Request) -> list[str]:
    probe = [f"sn={request.probe}"] if request.probe else []
    check = ["-v"] if request.verify else []
    return ["-c", "port=SWD", *probe, "-w", IMAGE, f"{request.address:#010x}", *check, "-rst"]


STM32CUBE: Final = ToolFlasher(
    name="stm32cube",
    title="STM32CubeProgrammer",
    program="STM32_Programmer_CLI",
    places=(  # its installers leave PATH alone
        Path.home() / "STMicroelectronics/STM32Cube/STM32CubeProgrammer/bin",
        Path("/opt/st/stm32cubeprogrammer/bin"),
        Path("/Applications/STMicroelectronics/STM32Cube/STM32CubeProgrammer")
        / "STM32CubeProgrammer.app/Contents/MacOs/bin",
        Path("C:/Program Files/STMicroelectronics/STM32Cube/STM32CubeProgrammer/bin"),
    ),
    version=("--version", r"(?i)v(?:ersion:?\s*)?(\d+\.\d+\S*)"),
    install=remedies.INSTALL_STM32CUBE,
    knows=lambda board: board.programmer.cube_programmer,
    write=_write,
    symptoms=_SYMPTOMS,
    began="erasing|download in progress",
    written="file download complete",
    verified="download verified successfully",
)
