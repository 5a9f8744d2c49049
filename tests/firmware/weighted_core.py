"""Kernels compiled for a Cortex-M core, each call of one in an emulator: outputs and core cycles."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import unicorn
from elftools.elf.elffile import ELFFile
from numpy.typing import NDArray
from unicorn import arm_const

from targets.mcu.board import load_board
from targets.mcu.compilers import find_compiler, run_tool
from targets.mcu.virtual.cycles import block_cost
from tests.firmware.weighted import KERNELS, SOURCES, Int8Array, Layer, program
from toolchain.export.native import layout, weights

CODE: Final = 0x08000000
DATA: Final = 0x20000000
STACK: Final = 0x30000000
SIZE: Final = 1 << 20
RETURN: Final = CODE + SIZE - 16
SCRIPT: Final = """
ENTRY(bf_conv2d)
SECTIONS {
  . = 0x08000000;
  .text : { KEEP(*(.text*)) *(.rodata*) *(.data*) }
  /DISCARD/ : { *(.ARM.*) *(.note*) }
}
"""
FUNCTIONS: Final = {
    "conv2d": "bf_conv2d",
    "depthwise_conv2d": "bf_depthwise_conv2d",
    "fully_connected": "bf_fully_connected",
}


class Core:
    """The kernels on an emulated core.

    Attributes:
        instructions, cycles: of the last run; cycles at zero wait states, Cortex-M4's table.
        blocks: address and bytes of each block -> how often it ran, cycles.
        code_bytes: function name -> bytes of code.
    """

    def __init__(
        self, folder: Path, compiler: str, *options: str, board: str = "nucleo-l4r5zi", level: str = "-O2"
    ) -> None:
        tool, facts = find_compiler(compiler), load_board(board)
        self.name = tool.version
        script, binary = folder / "kernels.ld", folder / f"{compiler}.elf"
        script.write_text(SCRIPT)
        cc = (*tool.command, "cc") if tool.kind == "zig" and tool.command[-1] != "cc" else tool.command
        warnings = ("-std=c11", level, "-g", "-Wall", "-Wextra", "-Werror", "-ffunction-sections")
        others = (
            KERNELS / name for name in ("binary.c", "copy.c", "pad.c", "pool.c", "softmax.c", "table.c")
        )
        sources = map(str, (*SOURCES, *others, KERNELS.parent / "boards" / "memory.c"))
        link = (f"-Wl,-T,{script}", *tool.link_flags(), "-o", str(binary))
        done = run_tool((*cc, *tool.flags(facts), *warnings, *options, *sources, *link))
        assert done.returncode == 0, done.stderr
        elf = ELFFile(io.BytesIO(binary.read_bytes()))
        self.symbols: dict[str, int] = {}
        self.code_bytes: dict[str, int] = {}
        for symbol in elf.get_section_by_name(".symtab").iter_symbols():
            self.symbols[symbol.name] = symbol["st_value"]
            if symbol["st_info"]["type"] == "STT_FUNC":
                self.code_bytes[symbol.name] = symbol["st_size"]
        self.machine = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_THUMB | unicorn.UC_MODE_MCLASS)
        self.machine.ctl_set_cpu_model(arm_const.UC_CPU_ARM_CORTEX_M4)
        self.machine.mem_map(CODE, SIZE, unicorn.UC_PROT_READ | unicorn.UC_PROT_EXEC)
        self.machine.mem_map(DATA, SIZE)
        self.machine.mem_map(STACK, 1 << 14)
        for part in elf.iter_segments():
            if (
                part["p_type"] == "PT_LOAD" and CODE <= part["p_vaddr"] < RETURN
            ):  # lld loads the headers as well
                self.machine.mem_write(part["p_vaddr"], part.data())
        self.instructions = self.cycles = 0
        self.blocks: dict[tuple[int, int], tuple[int, int]] = {}

    def run(self, layer: Layer, isa: layout.Isa, x: NDArray[Any], *, count: bool = False) -> Int8Array:
        """Output of the operator; with `count` also instructions and cycles."""
        head, constants = program(layer, isa, channels_first=True)
        scratch = weights.weighted_footprint(layer.op, isa, layer.algorithm).scratch_bytes
        buffers = (head, constants, x.tobytes(), math.prod(layer.op.output), scratch)
        output = self.call(FUNCTIONS[layer.op.kind], buffers, count=count)[3]
        return np.frombuffer(output, np.int8).reshape(layer.op.output)

    def call(self, function: str, buffers: Sequence[bytes | int], *, count: bool = False) -> list[bytes]:
        """Call a kernel with pointers to buffers, each with a guard behind it; what they hold afterwards.

        Args:
            buffers: contents, or the bytes of one that comes without.
            count: also count instructions and cycles.
        """
        contents = [b"\xa5" * data if isinstance(data, int) else data for data in buffers]
        places, at = [], DATA
        for data in contents:
            places.append(at)
            at += -(-len(data) // 16) * 16 + 32  # and a guard
        assert at <= DATA + SIZE
        self.machine.mem_write(DATA, b"\xa5" * (at - DATA))
        for place, data in zip(places, contents, strict=True):
            self.machine.mem_write(place, data)
        registers = (arm_const.UC_ARM_REG_R0, arm_const.UC_ARM_REG_R1, arm_const.UC_ARM_REG_R2)
        for register, place in zip((*registers, arm_const.UC_ARM_REG_R3), places, strict=False):
            self.machine.reg_write(register, place)
        top = STACK + (1 << 14) - 16
        self.machine.mem_write(top, b"".join(place.to_bytes(4, "little") for place in places[4:]))
        self.machine.reg_write(arm_const.UC_ARM_REG_SP, top)
        self.machine.reg_write(arm_const.UC_ARM_REG_LR, RETURN | 1)
        blocks: dict[tuple[int, int], int] = {}
        taken: dict[int, int] = {}
        joined: dict[tuple[tuple[int, int], tuple[int, int]], int] = {}
        previous = [0, 0]

        def entered(_: object, address: int, size: int, __: object) -> None:
            key = (address, size)
            blocks[key] = blocks.get(key, 0) + 1
            if address != previous[0]:
                taken[previous[1]] = taken.get(previous[1], 0) + 1
            else:
                pair = (previous[1], previous[0] - previous[1]), key
                joined[pair] = joined.get(pair, 0) + 1
            previous[0], previous[1] = address + size, address

        hook = self.machine.hook_add(unicorn.UC_HOOK_BLOCK, entered) if count else None
        try:
            self.machine.emu_start(self.symbols[function] | 1, RETURN, timeout=60_000_000)
        finally:
            if hook is not None:
                self.machine.hook_del(hook)
        assert self.machine.reg_read(arm_const.UC_ARM_REG_PC) == RETURN
        self.instructions = self.cycles = 0
        self.blocks.clear()
        costs = {key: block_cost(bytes(self.machine.mem_read(*key))) for key in blocks if key[0] != RETURN}
        self.cycles -= sum(n for (a, b), n in joined.items() if b in costs and costs[b].joins(costs[a]))
        for (address, size), cost in costs.items():
            times = blocks[address, size]
            cycles = times * cost.cycles + taken.get(address, 0) * cost.taken_cycles
            self.blocks[(address, size)] = (times, cycles)
            self.instructions += times * cost.instructions
            self.cycles += cycles
        after = [
            bytes(self.machine.mem_read(place, len(data) + 16))
            for place, data in zip(places, contents, strict=True)
        ]
        for data in after:
            assert data[-16:] == b"\xa5" * 16, f"{function}: wrote behind a buffer of {len(data) - 16} bytes"
        return [data[:-16] for data in after]

    def ran_bytes(self) -> int:
        """Bytes of the code that the last counted run entered, in blocks that follow each other."""
        entered: set[int] = set()
        for address, size in self.blocks:
            entered.update(range(address, address + size))
        return len(entered)
