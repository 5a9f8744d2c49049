"""Flashing with pyOCD: ST-LINK and CMSIS-DAP probes. Most STM32 parts need a CMSIS pack that the user installs.

Two traps. Without `--no-wait` pyOCD waits for a probe for ever. And `load` does not read back what it has written, so
verifying is a second run that saves the flash into a file, which is compared with the image.
"""

from __future__ import annotations

from typing import Final

from targets.mcu.flash import remedies
from targets.mcu.flash.by_tool import IMAGE, READ_BACK, Request, ToolFlasher
from targets.mcu.flash.tool import Symptom
from toolchain.errors import DeviceError, FlashingError

_WAITS: Final = "Waiting for a debug probe"
_SYMPTOMS: Final = (
    Symptom(_WAITS, DeviceError, "no probe was found", remedies.NO_PROBE),
    Symptom(
        "access denied|insufficient permissions|langid", DeviceError, "no permission", remedies.NO_PERMISSION
    ),
    Symptom("resource busy|already open", DeviceError, "the probe is busy", remedies.BUSY),
    Symptom(
        "more than one debug probe|number of the debug probe",
        DeviceError,
        "several probes",
        remedies.AMBIGUOUS,
    ),
    Symptom("no connected debug probe", DeviceError, "no probe was found", remedies.NO_PROBE),
    Symptom("target type .* not recognized", DeviceError, "it does not know this part", remedies.PYOCD_PACK),
    Symptom("no target device available", DeviceError, "no probe was found", remedies.NO_PROBE),
    Symptom("flash (erase|program)", FlashingError, "erasing or writing failed", remedies.AGAIN),
    Symptom(
        "no ack|get idcode error|no cores|unexpected ack|swd/jtag communication|unable to power up|target not found",
        DeviceError,
        "the probe does not reach the chip",
        remedies.NO_TARGET,
    ),
)


def _options(request: Request) -> list[str]:
    probe = ["--uid", request.probe] if request.probe else []
    return ["--no-wait", "--target", request.board.programmer.pyocd_target, *probe]


def _write(request: Request) -> list[str]:
    place = ["--format", "bin", "--base-address", f"{request.address:#010x}"]
    reset = ["--no-reset"] if request.verify else []  # the new firmware starts once it is verified
    return ["load", *_options(request), *place, *reset, IMAGE]


def _read_back(request: Request) -> list[str]:
    save = f"savemem {request.address:#010x} {request.size} {READ_BACK}"
    return ["commander", *_options(request), "-c", save, "-c", "reset"]


PYOCD: Final = ToolFlasher(
    name="pyocd",
    title="pyOCD",
    program="pyocd",
    version=("--version", r"(\d+\.\d+\S*)"),
    install=remedies.INSTALL_PYOCD,
    knows=lambda board: bool(board.programmer.pyocd_target),
    write=_write,
    read_back=_read_back,
    symptoms=_SYMPTOMS,
    began=r"\bloading\b",
    waits=(_WAITS,),
)
