"""Flash and RAM of a virtual board: exactly as large as the part's, so that what does not fit there fails here, too."""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np
import unicorn as _unicorn

from targets.mcu.virtual.flash import Bytes
from targets.mcu.virtual.image import Image
from targets.mcu.virtual.part import Part
from toolchain.errors import ModelFileError

unicorn: Any = _unicorn  # its types are incomplete

PAGE: Final = 1024  # the engine's granularity
_AFTER_POWER_ON: Final = (
    0x5AFEC0DE  # a RAM holds anything then; a pattern finds firmware that relies on zeros
)


class Memory:
    """Both memories, in the host's memory and mapped into an engine.

    Attributes:
        flash, ram: their bytes.
        slot: address of the model slot, the part of the flash that may be written.
        kept: bytes at the start of the flash that hold the firmware.

    Raises:
        ModelFileError: the firmware does not fit the part.
    """

    def __init__(self, part: Part, image: Image, engine: Any) -> None:
        self._part, self._engine = part, engine
        self.flash, self.ram = _buffer(part.flash_bytes), _buffer(part.ram_bytes)
        self.flash[:] = 0xFF
        self.ram.view(np.uint32)[:] = _AFTER_POWER_ON
        end = self._load(image)
        self.kept = end - part.flash_address
        self.slot = min(image.symbols.get("bf_slot_start", -(-end // PAGE) * PAGE), self._flash_end)
        start, host = part.flash_address, self.flash.ctypes.data
        read_run = unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC
        engine.mem_map_ptr(start, self.slot - start, read_run, host)
        if self.slot < self._flash_end:
            rest = self._flash_end - self.slot
            engine.mem_map_ptr(self.slot, rest, unicorn.UC_PROT_READ, host + self.slot - start)
        engine.mem_map_ptr(part.ram_address, part.ram_bytes, unicorn.UC_PROT_ALL, self.ram.ctypes.data)

    @property
    def _flash_end(self) -> int:
        return self._part.flash_address + self._part.flash_bytes

    def _load(self, image: Image) -> int:
        """Write the firmware; the address behind it."""
        part = self._part
        end = part.flash_address
        for address, data in image.segments:
            offset = address - part.flash_address
            if offset < 0 or offset + len(data) > part.flash_bytes:
                raise ModelFileError(
                    f"the firmware puts {len(data)} bytes at 0x{address:08x}; flash of {part.name} is "
                    f"0x{part.flash_address:08x} to 0x{self._flash_end - 1:08x}",
                    remedy="build it for this board",
                )
            self.flash[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
            end = max(end, address + len(data))
        return end

    def view(self, address: int, size: int) -> Bytes | None:
        """These bytes, to be read or written; None where they are not all in one memory."""
        part = self._part
        for memory, base in ((self.flash, part.flash_address), (self.ram, part.ram_address)):
            if base <= address and address + size <= base + len(memory):
                return memory[address - base : address - base + size]
        return None

    def let_slot_be_written(self, on: bool) -> None:
        """As the flash controller unlocks and locks it."""
        if self.slot < self._flash_end:
            allowed = unicorn.UC_PROT_READ | (unicorn.UC_PROT_WRITE if on else 0)
            self._engine.mem_protect(self.slot, self._flash_end - self.slot, allowed)


def _buffer(size: int) -> Bytes:
    """Memory that starts at a page of the host, as the engine likes it."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)
