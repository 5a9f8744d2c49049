"""A virtual board has nothing to flash: the emulator loads the image when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from targets.mcu.board import Board
from targets.mcu.flash.base import Availability, FlashProgress, FlashReport, check_image


@dataclass(frozen=True, slots=True)
class Virtual:
    """Checks the image, and leaves the rest to the emulator."""

    name: str = field(default="virtual", init=False)

    def available(self) -> Availability:
        """Always."""
        return Availability(True, "nothing is written")

    def fits(self, board: Board) -> str:
        """Every board."""
        return ""

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
        """See `Flasher.flash`. Never `verified`, because there is no flash to compare with."""
        check_image(image, address)
        if progress is not None:
            progress(len(image), len(image), "nothing to write")
        return FlashReport(self.name, len(image), 0.0, False, ("no hardware: the emulator loads the image",))


VIRTUAL: Final = Virtual()
