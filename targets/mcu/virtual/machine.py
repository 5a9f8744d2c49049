"""A virtual board: one STM32 part in an emulator (Unicorn), in this process, with memory of exactly the part's size.

The machine has no threads. It runs while the host waits for output, and stops where the firmware waits for input that
is not there: so nothing depends on the speed of the host, and two runs with the same input are equal in every cycle.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import capstone
import numpy as np
import unicorn as _unicorn
from unicorn import arm_const
from unicorn.unicorn_py3.unicorn import uclib

from targets.mcu.virtual.blocks import Blocks
from targets.mcu.virtual.cycles import block_cost, instructions_cost
from targets.mcu.virtual.faults import explain
from targets.mcu.virtual.flash import LAYOUTS, FlashController
from targets.mcu.virtual.hooks import NativeHooks, PythonHooks, Reason, State, library
from targets.mcu.virtual.image import Image
from targets.mcu.virtual.memory import Memory
from targets.mcu.virtual.part import Part
from targets.mcu.virtual.peripherals import BASE, END, Peripherals
from targets.mcu.virtual.serial_line import CAPACITY, SerialLine
from toolchain.errors import DeviceError

unicorn: Any = _unicorn  # its types are incomplete

_CORES: Final = {
    "cortex-m0": arm_const.UC_CPU_ARM_CORTEX_M0,
    "cortex-m0plus": arm_const.UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": arm_const.UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": arm_const.UC_CPU_ARM_CORTEX_M4,
    "cortex-m7": arm_const.UC_CPU_ARM_CORTEX_M7,
    "cortex-m33": arm_const.UC_CPU_ARM_CORTEX_M33,
}
_UART_BYTES: Final = 0x400
_SLICE: Final = 100_000_000  # halfwords between two looks at the clock on the wall
_IDLE_US: Final = 50  # that pass with each poll of an empty receive register
_MASKED_CYCLES: Final = 200  # until the next look whether interrupts are on again
_FOREVER: Final = 0xFFFFFFFFFFFFFFFF
_SAVED: Final = (
    arm_const.UC_ARM_REG_R0, arm_const.UC_ARM_REG_R1, arm_const.UC_ARM_REG_R2, arm_const.UC_ARM_REG_R3,
    arm_const.UC_ARM_REG_R12, arm_const.UC_ARM_REG_LR, arm_const.UC_ARM_REG_XPSR,
)  # fmt: skip


class EmulationTimeout(DeviceError):
    """The firmware ran for longer than it was given, without asking for input."""


class VirtualMachine:
    """One part with a firmware in its flash.

    Args:
        part: what the part is; `targets.mcu.virtual.part.part_of(board)`.
        elf: the firmware.
        native: count in C (True), in Python (False), or as this machine can (None).
        budget_instructions: most that the firmware may run while the host waits once for its output.
        wall_limit_s: the same on the clock on the wall, a guard against a budget that is too generous.

    Raises:
        ModelFileError: not an ELF file, or it does not fit the part.
        DeviceError: the emulator has no such core.
    """

    def __init__(
        self,
        part: Part,
        elf: bytes | Path,
        *,
        native: bool | None = None,
        budget_instructions: int = 20_000_000_000,
        wall_limit_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.part = part
        self.image = Image.read(elf)
        self._budget = budget_instructions
        self._wall_limit_s = wall_limit_s
        self._clock = clock
        self._failure: DeviceError | None = None
        self._invalid: tuple[int, int, int] | None = None
        self._exception = 0
        self._callbacks: list[object] = []
        if part.core not in _CORES:
            raise DeviceError(f"the emulator has no {part.core}", remedy=f"cores: {', '.join(_CORES)}")
        self._engine: Any = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self._engine.ctl_set_cpu_model(_CORES[part.core])
        self._memory = Memory(part, self.image, self._engine)
        self._make_state()
        core = library() if native is not False else None
        if native and core is None:
            raise DeviceError("no C compiler for the block counter", remedy="pip install ziglang")
        self.native = core is not None
        self._hooks: Any = (
            NativeHooks(core, self._state)
            if core is not None
            else PythonHooks(self._state, self._engine.emu_stop)
        )
        self._make_peripherals()
        self._hook()
        self.reset()

    # ---- what the host sees ------------------------------------------------------------------------------------

    @property
    def instructions(self) -> int:
        """Executed since the machine was made."""
        return int(self._state.instructions)

    @property
    def core_cycles(self) -> int:
        """Core cycles of the model before k and a, since the machine was made."""
        return int(self._state.cycles)

    @property
    def constant_lines(self) -> int:
        """Lines of constants that the firmware says it read from flash."""
        self._hooks.now()
        return int(self._state.line_total)

    @property
    def cycles(self) -> int:
        """What the board's counter counts, with the time that passed in waiting; 64 bits."""
        return int(self._hooks.now())

    def blocks(self) -> list[tuple[int, int, int]]:
        """(address, instructions, times entered) of every block that ran."""
        return self._blocks.counts()

    def write(self, data: bytes) -> None:
        """Put bytes on the serial line. The firmware sees them when the machine runs next."""
        for at in range(0, len(data), CAPACITY // 2):
            piece = data[at : at + CAPACITY // 2]
            if self._line.unread + len(piece) >= CAPACITY:
                self._run(waits=1, wanted=CAPACITY)
                if self._line.unread + len(piece) >= CAPACITY:
                    raise EmulationTimeout(
                        f"the firmware leaves {self._line.unread} bytes of its serial line unread",
                        remedy="it waits in its own code, or sends without end",
                    )
            self._line.put(piece)

    def read(self, count: int, timeout: float = 0.0) -> bytes:
        """Up to `count` bytes that the firmware sends.

        Args:
            count: bytes wanted.
            timeout: seconds of the board's own waiting for input after which to give up. Its work takes none of it.

        Raises:
            DeviceError: the firmware stopped: an access outside of the part's memory, a write to flash, a fault.
            EmulationTimeout: it ran on and on.
        """
        if self._line.sent < count:
            self._run(waits=max(1, int(timeout * 1e6 / _IDLE_US)), wanted=min(count, CAPACITY))
        return self._line.take(count)

    def waiting(self) -> int:
        """Bytes that the firmware has sent by the time it waits for input."""
        self._run(waits=1, wanted=CAPACITY)
        return self._line.sent

    def discard_output(self) -> None:
        """Run until the firmware waits, and forget what it sent."""
        while self.waiting() == CAPACITY:
            self._state.tx_count = 0
        self._state.tx_count = 0

    def memory(self, address: int, size: int) -> bytes:
        """Bytes of flash or RAM."""
        return bytes(self._engine.mem_read(address, size))

    def poke(self, address: int, data: bytes) -> None:
        """Write flash or RAM from outside, as a debug probe does.

        Raises:
            DeviceError: outside of the part's memory.
        """
        there = self._memory.view(address, len(data))
        if there is None:
            raise DeviceError(
                f"{len(data)} bytes at 0x{address:08x} are not in the memory of {self.part.name}"
            )
        there[:] = np.frombuffer(data, np.uint8)
        if self.part.flash_address <= address < self.part.flash_address + self.part.flash_bytes:
            self.controller.accept()

    def reset(self) -> None:
        """Press the reset button: peripherals start anew, RAM and flash keep what they hold, counts go on."""
        self._failure = None
        self._exception = 0
        self._restart()

    # ---- construction ------------------------------------------------------------------------------------------

    def _make_state(self) -> None:
        part = self.part
        state = self._state = State()
        cost = instructions_cost if part.model is None else block_cost
        self._blocks = Blocks(state, self._memory, cost)
        self._line = SerialLine(state)
        state.stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value
        state.status_at, state.read_at, state.write_at = (
            (0, 4, 4) if part.uart_classic else (0x1C, 0x24, 0x28)
        )
        state.factor, state.line_cycles = (part.model.k, part.model.a) if part.model else (1.0, 0.0)
        state.idle_step = part.clock_hz * _IDLE_US // 1_000_000
        state.alarm = _FOREVER
        lines = self.image.symbols.get("bf_constant_lines", 0) - part.ram_address
        if 0 <= lines <= part.ram_bytes - 4:
            state.lines = ctypes.cast(self._memory.ram.ctypes.data + lines, ctypes.POINTER(ctypes.c_uint32))
            state.lines[0] = 0

    def _make_peripherals(self) -> None:
        part, memory = self.part, self._memory
        self.controller = FlashController(
            LAYOUTS[part.family],
            memory.flash,
            part.pages,
            memory.kept,
            memory.let_slot_be_written,
            self._fail,
        )
        self._peripherals = Peripherals(part.family, self.controller, part.flash_options, self._hooks.now)
        hooks = self._hooks
        uart = part.uart_address
        self._map_registers(BASE, uart)
        self._map_io(uart, _UART_BYTES, hooks.uart_read, hooks.uart_write)
        self._map_registers(uart + _UART_BYTES, END)
        self._map_io(0xE0001000, 0x1000, hooks.dwt_read, hooks.dwt_write)
        self._map_io(0xE000E000, 0x1000, hooks.scs_read, hooks.scs_write)

    def _map_registers(self, start: int, end: int) -> None:
        peripherals = self._peripherals
        self._engine.mmio_map(
            start,
            end - start,
            lambda engine, offset, size, user: peripherals.read(start + offset),
            None,
            lambda engine, offset, size, value, user: peripherals.write(start + offset, value),
            None,
        )

    def _map_io(self, start: int, size: int, read: Any, write: Any) -> None:
        if self.native:
            here = ctypes.addressof(self._state)
            status = uclib.uc_mmio_map(self._engine._uch, start, size, read, here, write, here)
            if status != unicorn.UC_ERR_OK:
                raise unicorn.UcError(status)
        else:
            self._engine.mmio_map(start, size, read, None, write, None)

    def _hook(self) -> None:
        engine = self._engine
        if self.native:
            self._handle = ctypes.c_size_t(0)
            status = uclib.uc_hook_add(
                engine._uch,
                ctypes.byref(self._handle),
                unicorn.UC_HOOK_BLOCK,
                self._hooks.block,
                ctypes.addressof(self._state),
                ctypes.c_uint64(1),
                ctypes.c_uint64(0),
            )
            if status != unicorn.UC_ERR_OK:
                raise unicorn.UcError(status)
        else:
            engine.hook_add(unicorn.UC_HOOK_BLOCK, self._hooks.block)
        # Only accesses that fail are hooked: hooks on the others make the engine skip instructions.
        engine.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_invalid)
        engine.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)

    # ---- running -----------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        state = self._state
        self._peripherals.reset()
        vector = self._memory.flash[:8].view(np.uint32)
        for register in range(arm_const.UC_ARM_REG_R0, arm_const.UC_ARM_REG_R12 + 1):
            self._engine.reg_write(register, 0)
        self._engine.reg_write(arm_const.UC_ARM_REG_SP, int(vector[0]))
        self._engine.reg_write(arm_const.UC_ARM_REG_LR, 0xFFFFFFFF)
        self._engine.reg_write(arm_const.UC_ARM_REG_PRIMASK, 0)
        self._pc = int(vector[1])
        state.previous = 0
        state.polls = 0
        state.demcr = state.dwt_control = state.dwt_frozen = 0
        state.systick_control = state.systick_reload = 0
        state.alarm = _FOREVER
        ctypes.memset(ctypes.addressof(state.uart), 0, ctypes.sizeof(state.uart))
        if state.lines:  # it is about to be cleared, which must not look like a step
            self._hooks.now()
            state.lines[0] = state.line_last = 0

    def _run(self, waits: int, wanted: int) -> None:
        """Until `wanted` bytes are there, or the firmware polled an empty line `waits` times."""
        state = self._state
        if state.tx_count >= wanted:
            return
        if self._failure is not None:
            raise self._failure
        state.waits, state.tx_wanted = waits, wanted
        left = self._budget
        end = self._clock() + self._wall_limit_s
        while True:
            state.fuel = fuel = min(left, _SLICE)
            reason = self._go()
            left -= fuel if reason == Reason.FUEL else fuel - int(state.fuel)
            if reason in (Reason.IDLE, Reason.OUTPUT):
                return
            if reason == Reason.RESET:
                self._restart()
            elif reason == Reason.TICK:
                self._interrupt()
                if state.tx_count >= wanted:
                    return
            elif reason == Reason.RUNNING:  # WFI: nothing but input will wake the core, and none has come
                state.idle += state.idle_step * waits
                return
            if left <= 0 or self._clock() > end:
                spent = f"{self._budget:,} instructions" if left <= 0 else f"{self._wall_limit_s:g} s"
                raise EmulationTimeout(
                    f"the firmware ran for {spent} without an answer; it is at {self.image.where(self._pc & ~1)}",
                    remedy="an endless loop, or a model for which the limit is too low",
                )

    def _go(self, start: int | None = None, until: int = 0xFFFFFFFE) -> Reason:
        """Run until somebody stops the engine; failures become the machine's error."""
        state = self._state
        state.reason = Reason.RUNNING
        self._invalid = None
        error: Exception | None = None
        try:
            self._engine.emu_start((self._pc if start is None else start) | 1, until)
        except unicorn.UcError as found:
            error = found
        self._pc = int(self._engine.reg_read(arm_const.UC_ARM_REG_PC)) | 1
        reason = Reason(state.reason)
        if self._failure is None and error is not None:
            self._failure = explain(
                error, self._invalid, self.image.where(self._pc & ~1), self.part, self._memory.slot
            )
        elif self._failure is None and self._exception:
            self._failure = DeviceError(
                f"the firmware raised exception {self._exception} at {self.image.where(self._pc & ~1)}",
                remedy="an undefined instruction or a breakpoint; the virtual board has no fault handler",
            )
        elif self._failure is None and reason == Reason.BROKEN:
            self._failure = DeviceError(
                f"the firmware runs what is no code at {self.image.where(self._pc & ~1)}: {self._blocks.trouble}"
            )
        if self._failure is not None and reason != Reason.OUTPUT:  # what was sent before comes first
            raise self._failure
        return reason

    def _interrupt(self) -> None:
        """Run the handler of SysTick (exception 15), between two blocks of the program.

        It takes none of the counter's time, so that a count does not depend on whether a wrap fell into it.
        """
        state = self._state
        if not self._hooks.systick_due():
            return
        if self._engine.reg_read(arm_const.UC_ARM_REG_PRIMASK) & 1:
            state.alarm = state.cycles + state.idle + _MASKED_CYCLES
            return
        self._hooks.systick_serve()
        saved = [self._engine.reg_read(register) for register in _SAVED]
        back = self._pc
        self._hooks.now()
        begun, before = state.time, (state.previous, state.previous_end)
        state.previous = 0
        # The handler returns to the vector table, where no code is: the engine would run through an address in the
        # middle of code that it has translated already.
        end = self.part.flash_address
        self._engine.reg_write(arm_const.UC_ARM_REG_LR, end | 1)
        state.alarm, state.fuel = _FOREVER, _SLICE
        start: int | None = int(self._memory.flash[60:64].view(np.uint32)[0])
        while True:
            reason = self._go(start, until=end)
            start = None
            if reason == Reason.RESET:
                self._restart()
                return
            if self._pc & ~1 == end:
                break
            if reason == Reason.FUEL:
                raise EmulationTimeout(
                    f"SysTick's handler does not return; it is at {self.image.where(self._pc & ~1)}"
                )
        for register, value in zip(_SAVED, saved, strict=True):
            self._engine.reg_write(register, value)
        self._pc = back
        self._hooks.now()
        state.time, (state.previous, state.previous_end) = begun, before
        self._hooks.systick_due()

    # ---- what goes wrong ---------------------------------------------------------------------------------------

    def _fail(self, error: DeviceError) -> None:
        if self._failure is None:
            self._failure = error
        self._engine.emu_stop()

    def _on_invalid(
        self, engine: object, access: int, address: int, size: int, value: int, user: object
    ) -> bool:
        self._invalid = (access, address, size)
        return False

    def _on_exception(self, engine: object, number: int, user: object) -> None:
        self._exception = number
        self._engine.emu_stop()


def versions() -> dict[str, str]:
    """What a virtual board's numbers depend on beside the firmware."""
    return {"emulator": f"unicorn {unicorn.__version__}", "decoder": f"capstone {capstone.__version__}"}
