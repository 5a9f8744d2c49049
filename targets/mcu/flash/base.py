"""What a way of flashing looks like, whatever cable and tool it goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from targets.mcu.board import Board
from toolchain.errors import ConfigurationError

# (bytes that are written or verified, all bytes, what is being done)
FlashProgress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a back end can be used on this machine.

    Attributes:
        ready: it can.
        detail: its version when it can, the reason when it cannot.
        remedy: what to do when it cannot.
    """

    ready: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class FlashReport:
    """A board that has been flashed.

    Attributes:
        back_end: the flasher's name.
        bytes: length of the image.
        seconds: wall time of it all.
        verified: the flash was read back, here or by the tool, and is equal to the image. False where that was not
            asked for or is not possible; `log` says why.
        log: what the tool said, line by line.
    """

    back_end: str
    bytes: int
    seconds: float
    verified: bool
    log: tuple[str, ...]


class Flasher(Protocol):
    """A way to write an image into a board's flash."""

    @property
    def name(self) -> str:
        """As `--with` takes it, e.g. `openocd`."""
        ...

    def available(self) -> Availability:
        """Whether its tool or package is installed; touches no board."""
        ...

    def fits(self, board: Board) -> str:
        """Why it cannot flash this board; empty when it can."""
        ...

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
        """Erase, write, verify, and start the new firmware.

        Args:
            board: what must be attached; another chip is refused where the way allows to see it.
            image: raw bytes as they stand in flash.
            address: of the first byte, e.g. 0x08000000.
            probe: the ST-LINK's serial number; for the bootloader the serial port, for the drive its folder.
                None takes what is there, and is refused where that is not a single one.
            verify: read the flash back and compare.
            progress: called while it goes on.
            timeout_s: limit for everything together; what hangs is ended by then.

        Raises:
            DeviceError: nothing attached, busy, no permission, another chip, or silence before anything was written.
            FlashingError: writing or verifying failed, or it fell silent after the flash was touched.
            ConfigurationError: the tool is not installed, or the image cannot be flashed this way.
        """
        ...


def check_image(image: bytes, address: int) -> None:
    """Refuse what cannot be a firmware image: nothing, or a vector table whose entries do not point anywhere sane.

    Args:
        image: raw bytes. The first two words are the initial stack pointer and the reset vector (ARMv7-M
            architecture reference manual, B1.5.3): RAM, and an odd address inside the image.
        address: of its first byte.

    Raises:
        ConfigurationError: see above.
    """
    if len(image) < 8:
        raise ConfigurationError(
            f"the firmware image has {len(image)} bytes, and a vector table alone has more",
            remedy="give a raw .bin file, as `arm-none-eabi-objcopy -O binary` writes it",
        )
    stack, reset = (int.from_bytes(image[i : i + 4], "little") for i in (0, 4))
    inside = address <= reset & ~1 < address + len(image)
    if not inside or not reset & 1 or not 0x1000_0000 <= stack < 0x4000_0000:
        raise ConfigurationError(
            f"this is no firmware for {address:#010x}: its stack would start at {stack:#010x}, "
            f"its code at {reset:#010x}",
            remedy="give a raw .bin file that was linked for this address, not an .elf or .hex file",
        )
