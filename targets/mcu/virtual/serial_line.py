"""The serial line of a virtual board: two buffers, which the hooks of the UART's registers empty and fill."""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np

from targets.mcu.virtual.hooks import State

CAPACITY: Final = 1 << 20  # bytes each way


class SerialLine:
    """Host's end of the line.

    Args:
        state: what the hooks work on; it points into the buffers here.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._rx, self._tx = np.zeros(CAPACITY, np.uint8), np.zeros(CAPACITY, np.uint8)
        as_bytes = ctypes.POINTER(ctypes.c_uint8)
        state.rx, state.tx = self._rx.ctypes.data_as(as_bytes), self._tx.ctypes.data_as(as_bytes)
        state.rx_mask, state.tx_size = CAPACITY - 1, CAPACITY

    @property
    def unread(self) -> int:
        """Bytes that the firmware has not read yet."""
        return (int(self._state.rx_head) - int(self._state.rx_tail)) & (CAPACITY - 1)

    @property
    def sent(self) -> int:
        """Bytes that the firmware has sent and the host has not taken."""
        return int(self._state.tx_count)

    def put(self, data: bytes) -> None:
        """Bytes for the firmware; fewer than there is room for (`CAPACITY` - `unread`)."""
        head = int(self._state.rx_head)
        first = min(len(data), CAPACITY - head)
        self._rx[head : head + first] = np.frombuffer(data[:first], np.uint8)
        self._rx[: len(data) - first] = np.frombuffer(data[first:], np.uint8)
        self._state.rx_head = (head + len(data)) & (CAPACITY - 1)

    def take(self, count: int) -> bytes:
        """Up to `count` bytes of what the firmware has sent."""
        have = min(self.sent, count)
        data = self._tx[:have].tobytes()
        rest = self.sent - have
        self._tx[:rest] = self._tx[have : have + rest].copy()
        self._state.tx_count = rest
        return data
