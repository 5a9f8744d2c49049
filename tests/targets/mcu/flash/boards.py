"""A board to flash, and an image for it."""

from __future__ import annotations

import random
from typing import Final

from targets.mcu.board import Board, load_board

FLASH: Final = 0x0800_0000
BOARD: Final[Board] = load_board("nucleo-l4r5zi")


def make_image(size: int = 1800, seed: int = 1) -> bytes:
    """Random bytes behind a vector table: stack in RAM, reset vector in the image, thumb bit set."""
    vectors = (0x2001_0000).to_bytes(4, "little") + (FLASH + 0x101).to_bytes(4, "little")
    return vectors + random.Random(seed).randbytes(size - len(vectors))
