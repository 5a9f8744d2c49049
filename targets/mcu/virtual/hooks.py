"""Counting of blocks and the fast peripherals of a virtual board: counter.c through ctypes, or the same in Python.

Both work on one struct (`State`). The C file is compiled at first use, with the system's C compiler or the one of the
`ziglang` wheel; without a compiler the Python form does the work at a tenth of the speed.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from toolchain.compiled import shared_library

SWITCH: Final = "BOARDFIT_NATIVE"
"""Environment variable: "0" keeps to Python."""

_SOURCE: Final = Path(__file__).with_name("counter.c")

RESOLVE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint32, ctypes.c_uint32)

_u32, _u64, _pointer = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p


class Reason(IntEnum):
    """Why the machine stopped; the enum of counter.c."""

    RUNNING = 0
    IDLE = 1
    OUTPUT = 2
    FUEL = 3
    RESET = 4
    BROKEN = 5
    TICK = 6


class Block(ctypes.Structure):
    """`struct block`: a straight run of instructions, and how often it ran."""

    count: int
    taken: int
    address: int
    size: int
    instructions: int
    cycles: int
    taken_cycles: int
    conditional: int
    loaded: int
    addresses: int
    _fields_ = (
        ("count", _u64), ("taken", _u64), ("address", _u32), ("size", _u32), ("instructions", _u32), ("cycles", _u32),
        ("taken_cycles", _u32), ("conditional", _u32), ("loaded", _u32), ("addresses", _u32),
    )  # fmt: skip


class Slot(ctypes.Structure):
    """`struct slot` of the hash table."""

    _fields_ = (("address", _u32), ("block", _u32))


class State(ctypes.Structure):
    """`struct state`; what the fields mean stands there."""

    _fields_ = (
        ("slots", ctypes.POINTER(Slot)), ("blocks", ctypes.POINTER(Block)), ("resolve", RESOLVE), ("stop", _pointer),
        ("mask", _u32), ("previous", _u32), ("previous_end", _u32), ("reason", _u32),
        ("instructions", _u64), ("cycles", _u64), ("fuel", _u64),
        ("time", _u64), ("cycles_read", _u64), ("factor", ctypes.c_double), ("line_cycles", ctypes.c_double),
        ("lines", ctypes.POINTER(_u32)), ("line_total", _u64), ("line_last", _u32), ("idle_step", _u32), ("idle", _u64),
        ("rx", ctypes.POINTER(ctypes.c_uint8)), ("tx", ctypes.POINTER(ctypes.c_uint8)),
        ("rx_head", _u32), ("rx_tail", _u32), ("rx_mask", _u32), ("tx_count", _u32), ("tx_wanted", _u32),
        ("tx_size", _u32), ("polls", _u32), ("status_at", _u32), ("read_at", _u32), ("write_at", _u32),
        ("waits", _u64), ("uart", _u32 * 64),
        ("demcr", _u32), ("dwt_control", _u32), ("dwt_frozen", _u32),
        ("systick_control", _u32), ("systick_reload", _u32),
        ("dwt_zero", _u64), ("systick_zero", _u64), ("systick_flagged", _u64), ("systick_served", _u64),
        ("alarm", _u64),
    )  # fmt: skip


class Hooks:
    """What a machine calls: the same names in C (`native`) and in Python."""

    native: bool
    block: Any
    uart_read: Any
    uart_write: Any
    dwt_read: Any
    dwt_write: Any
    scs_read: Any
    scs_write: Any
    now: Callable[[], int]
    systick_due: Callable[[], bool]
    systick_serve: Callable[[], None]


class NativeHooks(Hooks):
    """counter.c. The attributes are addresses of C functions, to be given to the engine with the state's address."""

    native = True

    def __init__(self, core: ctypes.CDLL, state: State) -> None:
        names = ("block", "uart_read", "uart_write", "dwt_read", "dwt_write", "scs_read", "scs_write")
        for name in names:
            setattr(self, name, ctypes.cast(getattr(core, f"bf_{name}"), _pointer).value)
        core.bf_now.restype = _u64
        here = ctypes.byref(state)
        self.now = lambda: int(core.bf_now(here))
        self.systick_due = lambda: bool(core.bf_systick_due(here))
        self.systick_serve = lambda: core.bf_systick_serve(here)


class PythonHooks(Hooks):
    """counter.c in Python, function for function. `stop` stops the engine."""

    native = False

    def __init__(self, state: Any, stop: Callable[[], None]) -> None:
        self._s = state
        self._stop = stop
        self._blocks: dict[tuple[int, int], tuple[int, Any]] = {}

    def now(self) -> int:
        s = self._s
        lines = 0
        if s.lines:
            lines = (s.lines[0] - s.line_last) & 0xFFFFFFFF
            s.line_last = s.lines[0]
            s.line_total += lines
        s.time += int(s.factor * (s.cycles - s.cycles_read) + s.line_cycles * lines + 0.5)
        s.cycles_read = s.cycles
        return int(s.time) + int(s.idle)

    def block(self, engine: object, address: int, size: int, user: object) -> None:
        s = self._s
        if not s.reason:
            if s.fuel <= size // 2:
                s.reason = Reason.FUEL
            elif s.cycles + s.idle >= s.alarm:
                s.reason = Reason.TICK
        if s.reason:
            self._stop()
            return
        before: Any = s.blocks[s.previous - 1] if s.previous else None
        joined = before and address == s.previous_end
        if before and not joined:
            before.taken += 1
            s.cycles += before.taken_cycles
        key = (address, size)
        if key not in self._blocks:
            index = s.resolve(address, size)
            if index < 0:
                s.previous = 0
                s.reason = Reason.BROKEN
                self._stop()
                return
            self._blocks[key] = (index, s.blocks[index])
        index, here = self._blocks[key]
        s.previous, s.previous_end = index + 1, address + size
        here.count += 1
        s.instructions += here.instructions
        s.cycles += here.cycles
        if joined and before.loaded and here.addresses and not before.loaded & here.addresses:
            s.cycles -= 1
        s.fuel -= size // 2

    def uart_read(self, engine: object, offset: int, size: int, user: object) -> int:
        s = self._s
        if offset == s.status_at:
            if s.rx_head != s.rx_tail:
                s.polls = 0
                return 0x6000E0
            s.polls += 1
            if s.polls >= 3:
                s.idle += s.idle_step
                if s.waits:
                    s.waits -= 1
                    if not s.waits and not s.reason:
                        s.reason = Reason.IDLE
            return 0x6000C0
        s.polls = 0
        if offset == s.read_at:
            if s.rx_head == s.rx_tail:
                return 0
            byte = int(s.rx[s.rx_tail])
            s.rx_tail = (s.rx_tail + 1) & s.rx_mask
            return byte
        return int(s.uart[(offset >> 2) & 63])

    def uart_write(self, engine: object, offset: int, size: int, value: int, user: object) -> None:
        s = self._s
        s.polls = 0
        if offset != s.write_at:
            s.uart[(offset >> 2) & 63] = value & 0xFFFFFFFF
            return
        if s.tx_count < s.tx_size:
            s.tx[s.tx_count] = value & 0xFF
            s.tx_count += 1
        if s.tx_count >= s.tx_wanted and not s.reason:
            s.reason = Reason.OUTPUT

    def _dwt_count(self) -> int:
        s = self._s
        running = s.demcr >> 24 & 1 and s.dwt_control & 1
        return int(self.now() - s.dwt_zero) & 0xFFFFFFFF if running else int(s.dwt_frozen)

    def _dwt_set(self, demcr: int, control: int, count: int) -> None:
        s = self._s
        s.demcr, s.dwt_control, s.dwt_frozen = demcr, control, count
        s.dwt_zero = (self.now() - count) & 0xFFFFFFFFFFFFFFFF

    def dwt_read(self, engine: object, offset: int, size: int, user: object) -> int:
        return self._dwt_count() if offset == 4 else int(self._s.dwt_control) if offset == 0 else 0

    def dwt_write(self, engine: object, offset: int, size: int, value: int, user: object) -> None:
        if offset == 0:
            self._dwt_set(self._s.demcr, value, self._dwt_count())
        elif offset == 4:
            self._dwt_set(self._s.demcr, self._s.dwt_control, value)

    def _elapsed(self) -> int:
        s = self._s
        if not s.systick_control & 1:
            return 0
        passed: int = self.now() - s.systick_zero
        return passed if s.systick_control & 4 else passed // 8

    def _wraps(self) -> int:
        return self._elapsed() // (int(self._s.systick_reload) + 1)

    def _restart(self) -> None:
        s = self._s
        s.systick_zero, s.systick_flagged, s.systick_served = self.now(), 0, 0

    def systick_due(self) -> bool:
        s = self._s
        s.alarm = 0xFFFFFFFFFFFFFFFF
        if s.systick_control & 3 != 3:
            return False
        if self._wraps() > s.systick_served:
            s.alarm = 0
            return True
        period = (s.systick_reload + 1) * (1 if s.systick_control & 4 else 8)
        s.alarm = s.cycles + s.idle + period - (self.now() - s.systick_zero) % period
        return False

    def systick_serve(self) -> None:
        self._s.systick_served = self._wraps()
        self.systick_due()

    def scs_read(self, engine: object, offset: int, size: int, user: object) -> int:
        s = self._s
        if offset == 0x10:
            wraps = self._wraps()
            flag = wraps != s.systick_flagged
            s.systick_flagged = wraps
            return int(s.systick_control) | int(flag) << 16
        if offset == 0x14:
            return int(s.systick_reload)
        if offset == 0x18:
            return int(s.systick_reload) - self._elapsed() % (int(s.systick_reload) + 1)
        if offset == 0xD04:
            return int(self._wraps() > s.systick_served and s.systick_control & 2 != 0) << 26
        return int(s.demcr) if offset == 0xDFC else 0

    def scs_write(self, engine: object, offset: int, size: int, value: int, user: object) -> None:
        s = self._s
        if offset == 0x10:
            if value & 1 and not s.systick_control & 1:
                self._restart()
            s.systick_control = value & 7
            self.systick_due()
        elif offset == 0x14:
            s.systick_reload = value & 0xFFFFFF
            self.systick_due()
        elif offset == 0x18:
            self._restart()
            self.systick_due()
        elif offset == 0xD04 and value >> 25 & 1:
            self.systick_serve()
        elif offset == 0xDFC:
            self._dwt_set(value, s.dwt_control, self._dwt_count())
        elif offset == 0xD0C and value >> 16 == 0x05FA and value & 4:
            s.reason = Reason.RESET


@functools.cache
def library() -> ctypes.CDLL | None:
    """counter.c compiled, or None where it is switched off or cannot be compiled."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        path = shared_library("virtual", [_SOURCE])
        core = None if path is None else ctypes.CDLL(str(path))
    except OSError:
        return None
    if core is not None and core.bf_state_bytes() != ctypes.sizeof(State) * 1000 + ctypes.sizeof(Block):
        return None
    return core
