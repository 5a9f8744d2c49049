"""Flashing with st-flash of the open stlink tools: any ST-LINK, and the parts in its chip table. It always verifies."""

from __future__ import annotations

from typing import Final

from targets.mcu.flash import remedies
from targets.mcu.flash.by_tool import IMAGE, Request, ToolFlasher
from targets.mcu.flash.tool import Symptom
from toolchain.errors import DeviceError, FlashingError

_FAMILIES: Final = (
    "f4",
    "l4",
    "g4",
    "g0",
)  # of those with a board file; its chip table of 1.7 has no STM32H5
_SYMPTOMS: Final = (
    Symptom(
        "libusb error: -3|ERROR_ACCESS",
        DeviceError,
        "no permission to use the ST-LINK",
        remedies.NO_PERMISSION,
    ),
    Symptom("claim_interface|ERROR_BUSY", DeviceError, "the ST-LINK is busy", remedies.BUSY),
    Symptom("couldn't find .*st-link|find an stlink", DeviceError, "no ST-LINK was found", remedies.NO_PROBE),
    Symptom(
        "unknown chip id|unknown coreid", DeviceError, "it does not know this part", remedies.OTHER_BACK_END
    ),
    Symptom(
        "failed to connect|can not connect|failed to enter swd|failed to halt|find chip id|read core_id",
        DeviceError,
        "the ST-LINK does not reach the chip",
        remedies.NO_TARGET,
    ),
    Symptom(
        "verification .*failed", FlashingError, "what was read back is not what was written", remedies.AGAIN
    ),
    Symptom("unlock.* failed|failed to unlock", FlashingError, "the flash is protected", remedies.PROTECTED),
    Symptom(
        "failed to erase|flash loader|too low for flash|write error",
        FlashingError,
        "erasing or writing failed",
        remedies.AGAIN,
    ),
)


def _write(request: Request) -> list[str]:
    probe = ["--serial", request.probe] if request.probe else []
    return ["--reset", *probe, "write", IMAGE, f"{request.address:#010x}"]


STLINK: Final = ToolFlasher(
    name="st-flash",
    title="st-flash",
    program="st-flash",
    version=("--version", r"v(\d+\.\d+\S*)"),
    install=remedies.INSTALL_STLINK,
    knows=lambda board: board.family in _FAMILIES,
    write=_write,
    symptoms=_SYMPTOMS,
    began="erased|flash page",
    verified="flash written and verified",
    always_verifies=True,
)
