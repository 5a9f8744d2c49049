"""What lies between 0x40000000 and 0x60000000 beside the serial line: registers that keep what is written.

Firmware configures clocks, pins and regulators and waits for a few ready bits; those are derived from the bits that
switch the thing on, so everything is ready at once. The flash controller is modelled (flash.py), and TIM2 counts (the
tick source of the board that QEMU models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from targets.mcu.virtual.flash import FlashController

BASE: Final = 0x40000000
END: Final = 0x60000000

FLASH_BASES: Final = {
    "f4": 0x40023C00,
    "l4": 0x40022000,
    "g4": 0x40022000,
    "g0": 0x40022000,
    "h5": 0x40022000,
}
_BLOCK: Final = 0x400
_TIM2: Final = 0x40000000
_TIM2_COUNT: Final = _TIM2 + 0x24

_Reader = Callable[[Mapping[int, int], int], int]


def _ready(mask: int, shift: int = 1) -> _Reader:
    """Bits of `mask` that are on show up `shift` higher."""
    return lambda registers, address: (registers.get(address, 0) & mask) << shift


def _clock_control(registers: Mapping[int, int], address: int) -> int:
    value = registers.get(address, 0)
    return (value & 0x15010001) << 1 | (value & 1 << 8) << 2


# address -> bits that a read adds: RM0090 6.3 and 5.4, RM0432 6.4, RM0444 5.4, RM0481 11.8 and 10.10
_READY: Final[Mapping[str, Mapping[int, _Reader]]] = {
    "f4": {
        0x40023800: _ready(0x15010001),
        0x40023808: _ready(3, 2),
        0x40007004: lambda registers, _: 1 << 14 | registers.get(0x40007000, 0) & 3 << 16,
    },
    "l4": {0x40021000: _clock_control, 0x40021008: _ready(3, 2)},
    "g4": {0x40021000: _clock_control, 0x40021008: _ready(3, 2)},
    "g0": {0x40021000: _clock_control, 0x40021008: _ready(7, 3)},
    "h5": {
        0x44020C00: _ready(0x15011101),
        0x44020C1C: _ready(7, 3),
        0x44020814: lambda registers, _: 1 << 3 | 1 << 13 | (registers.get(0x44020810, 0) & 3 << 4) << 10,
    },
}

_RESET: Final[Mapping[str, Mapping[int, int]]] = {
    "f4": {0x40023800: 0x81},
    "l4": {0x40021000: 0x61},
    "g4": {0x40021000: 0x100},
    "g0": {0x40021000: 0x100},
    "h5": {0x44020C00: 0x29},
}


class Peripherals:
    """The registers of one part.

    Args:
        family: "f4", "l4", "g4", "g0" or "h5".
        flash: the part's flash controller.
        options: what the option register of the flash controller reads.
        ticks: what TIM2 counts.
    """

    def __init__(self, family: str, flash: FlashController, options: int, ticks: Callable[[], int]) -> None:
        self._ready = _READY[family]
        self._initial = {**_RESET[family], FLASH_BASES[family] + 0x20: options} if options else _RESET[family]
        self._flash_base = FLASH_BASES[family]
        self._flash = flash
        self._ticks = ticks
        self._timer_zero = 0
        self._registers = dict(self._initial)

    def reset(self) -> None:
        """As after a reset of the part."""
        self._registers = dict(self._initial)
        self._timer_zero = self._ticks()
        self._flash.reset()

    def read(self, address: int) -> int:
        """What a 32-bit read gives."""
        if self._flash_base <= address < self._flash_base + _BLOCK:
            return self._flash.read(address - self._flash_base) | self._registers.get(address, 0)
        if address == _TIM2_COUNT:
            running = self._registers.get(_TIM2, 0) & 1
            return (self._ticks() - self._timer_zero) & 0xFFFFFFFF if running else 0
        value = self._registers.get(address, 0)
        ready = self._ready.get(address)
        return value | ready(self._registers, address) if ready else value

    def write(self, address: int, value: int) -> None:
        """What a 32-bit write does."""
        if self._flash_base <= address < self._flash_base + _BLOCK:
            self._flash.write(address - self._flash_base, value)
        elif address == _TIM2_COUNT:
            self._timer_zero = self._ticks() - value
        else:
            if address == _TIM2 and value & 1 and not self._registers.get(_TIM2, 0) & 1:
                self._timer_zero = self._ticks()
            self._registers[address] = value
