"""The basic blocks that a firmware ran through and what each costs: counted by hooks, decoded here when first met."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final

from targets.mcu.virtual.cycles import BlockCost
from targets.mcu.virtual.hooks import RESOLVE, Block, Slot, State
from targets.mcu.virtual.memory import Memory

_MOST: Final = 1 << 16
_SLOTS: Final = 1 << 18  # of the hash table, a power of two


class Blocks:
    """The table that the hooks count in.

    Args:
        state: what the hooks work on; it points into the table here.
        memory: where code is.
        cost: of a block's bytes; raises ValueError where they are no code.

    Attributes:
        trouble: why the last block could not be taken in.
    """

    def __init__(self, state: State, memory: Memory, cost: Callable[[bytes], BlockCost]) -> None:
        self._memory, self._cost = memory, cost
        self._blocks, self._slots = (Block * _MOST)(), (Slot * _SLOTS)()
        self._known = 0
        self._resolver = RESOLVE(self._resolve)
        self.trouble = ""
        state.blocks = ctypes.cast(self._blocks, ctypes.POINTER(Block))
        state.slots = ctypes.cast(self._slots, ctypes.POINTER(Slot))
        state.mask = _SLOTS - 1
        state.resolve = self._resolver

    def counts(self) -> list[tuple[int, int, int]]:
        """(address, instructions, times entered) of every block that ran."""
        known = (self._blocks[i] for i in range(self._known))
        return [(int(b.address), int(b.instructions), int(b.count)) for b in known]

    def _resolve(self, address: int, size: int) -> int:
        """A block that was not seen before: its place in the table, or -1."""
        code = self._memory.view(address, size)
        if code is None:
            self.trouble = "outside of flash and RAM"
            return -1
        if self._known == _MOST:
            self.trouble = f"more than {_MOST} basic blocks"
            return -1
        try:
            cost = self._cost(code.tobytes())
        except ValueError as error:
            self.trouble = str(error)
            return -1
        block = self._blocks[self._known]
        block.address, block.size = address, size
        block.instructions, block.cycles = cost.instructions, cost.cycles
        block.taken_cycles, block.conditional = cost.taken_cycles, cost.conditional
        block.loaded, block.addresses = cost.loaded, cost.addresses
        self._known += 1
        return self._known - 1
