"""Flash controllers of STM32 parts as an emulator needs them: keys, erase, programming rules, error bits.

The engine cannot watch single stores (docs/virtual-board.md), so the rules are held in two ways: outside of an unlocked
programming operation the memory is mapped read-only, and a store stops the machine where it happens; when the operation
ends, what changed is compared with a shadow copy, illegal changes are undone and reported in the status register.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from toolchain.errors import DeviceError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

KEYS: Final = (0x45670123, 0xCDEF89AB)


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its registers (offsets) and bits, and what one write programs.

    Attributes:
        unit: bytes that are programmed at once; they must be erased before (1: any bit may go from 1 to 0 later).
        clear: register whose ones clear status bits; the status register itself on most families.
        number: (shift, mask) of the page or sector number in the control register.
        bank: bit of the control register that adds half of the pages to the number.
    """

    key: int
    status: int
    control: int
    clear: int
    lock: int
    program: int
    erase: int
    mass: int
    start: int
    number: tuple[int, int]
    bank: int
    done: int
    wrong: int
    unit: int


LAYOUTS: Final = {
    # RM0090 3.9: PGSERR stands for a change from 0 to 1, which silicon leaves undone without a word
    "f4": Layout(0x04, 0x0C, 0x10, 0x0C, 1 << 31, 1, 2, 4, 1 << 16, (3, 0xF), 0, 1, 1 << 7, 1),
    # RM0432 3.7, RM0440 3.7; PROGERR
    "l4": Layout(
        0x08, 0x10, 0x14, 0x10, 1 << 31, 1, 2, 4 | 1 << 15, 1 << 16, (3, 0xFF), 1 << 11, 1, 1 << 3, 8
    ),
    "g4": Layout(0x08, 0x10, 0x14, 0x10, 1 << 31, 1, 2, 4, 1 << 16, (3, 0xFF), 0, 1, 1 << 3, 8),
    # RM0444 3.7; PROGERR
    "g0": Layout(0x08, 0x10, 0x14, 0x10, 1 << 31, 1, 2, 4, 1 << 16, (3, 0x3FF), 1 << 13, 1, 1 << 3, 8),
    # RM0481 7.11, the registers of the non-secure side; PGSERR
    "h5": Layout(0x04, 0x20, 0x28, 0x30, 1, 2, 4, 1 << 15, 1 << 5, (6, 0x7F), 1 << 31, 1 << 16, 1 << 18, 16),
}


class FlashController:
    """The controller of one part.

    Args:
        layout: of the family.
        memory: the flash, as the engine sees it.
        pages: bytes of each page or sector, from the first.
        kept: bytes at the start that hold the firmware.
        writable: switches the memory behind them between read-only and writable.
        stop: ends the run with an error.
    """

    def __init__(
        self,
        layout: Layout,
        memory: Bytes,
        pages: tuple[int, ...],
        kept: int,
        writable: Callable[[bool], None],
        stop: Callable[[DeviceError], None],
    ) -> None:
        self._layout = layout
        self._memory = memory
        self._shadow = memory.copy()
        self._pages = pages
        self._kept = kept
        self._writable = writable
        self._stop = stop
        self._registers: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """As after a reset of the part; a programming operation that was under way ends."""
        if self._registers.get(self._layout.control, 0) & self._layout.program:
            self._finish()
        self._registers = {self._layout.control: self._layout.lock}
        self._unlocking = 0

    def accept(self) -> None:
        """Take what the flash holds for programmed: a debug probe wrote it."""
        self._shadow[:] = self._memory

    @property
    def programming(self) -> bool:
        return bool(self._registers[self._layout.control] & self._layout.program)

    def read(self, offset: int) -> int:
        return self._registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        layout = self._layout
        if offset == layout.key:
            self._unlock(value)
        elif offset == layout.control:
            self._control(value)
        elif offset == layout.clear:
            self._registers[layout.status] = self._registers.get(layout.status, 0) & ~value
        elif offset != layout.status:
            self._registers[offset] = value

    def _unlock(self, value: int) -> None:
        # A wrong key, or one too many, locks the controller until the next reset.
        if self._unlocking < 0 or self._unlocking >= len(KEYS) or value != KEYS[self._unlocking]:
            self._unlocking = -1
            return
        self._unlocking += 1
        if self._unlocking == len(KEYS):
            self._registers[self._layout.control] &= ~self._layout.lock

    def _control(self, value: int) -> None:
        layout = self._layout
        before = self._registers[layout.control]
        if before & layout.lock:
            return
        if value & layout.lock:
            self._unlocking = 0
        if value & layout.program and not before & layout.program:
            self._writable(True)
        if before & layout.program and not value & layout.program:
            self._finish()
        if value & layout.start and value & layout.erase:
            shift, mask = layout.number
            number = (value >> shift) & mask
            if layout.bank and value & layout.bank:
                number += len(self._pages) // 2
            self._erase(number)
        elif value & layout.start and value & layout.mass:
            self._stop(
                DeviceError("the firmware asked for a mass erase, which would erase the firmware itself")
            )
        self._registers[layout.control] = value & ~layout.start

    def _set(self, bits: int) -> None:
        self._registers[self._layout.status] = self._registers.get(self._layout.status, 0) | bits

    def _erase(self, number: int) -> None:
        if number >= len(self._pages):
            self._set(self._layout.wrong)
            return
        start = sum(self._pages[:number])
        if start < self._kept:
            self._stop(
                DeviceError(
                    f"the firmware erased flash page {number}, which holds the firmware itself "
                    f"(its first {self._kept} bytes)"
                )
            )
            return
        self._memory[start : start + self._pages[number]] = 0xFF
        self._shadow[start : start + self._pages[number]] = 0xFF
        self._set(self._layout.done)

    def _finish(self) -> None:
        """Hold what was programmed against the rules of the part."""
        self._writable(False)
        wide = np.dtype(np.uint64)
        differing = np.flatnonzero(self._memory.view(wide) != self._shadow.view(wide))
        if not len(differing):
            return
        unit = max(self._layout.unit, wide.itemsize)
        units = np.unique(differing * wide.itemsize // unit)
        new, old = self._memory.reshape(-1, unit), self._shadow.reshape(-1, unit)
        # A unit may be written once after an erase; zeros may always be written (RM0432 3.3.7).
        allowed = (new[units] & ~old[units] == 0).all(axis=1)
        if self._layout.unit > 1:
            allowed &= (old[units] == 0xFF).all(axis=1) | (new[units] == 0).all(axis=1)
        bad = units[~allowed]
        new[bad] = old[bad]
        old[units] = new[units]
        self._set(self._layout.done | (self._layout.wrong if len(bad) else 0))
