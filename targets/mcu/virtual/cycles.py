"""The cycle model `m4-flash/2`: what a block of Cortex-M4 code costs, and how a board's flash stretches it.

    cycles = k * (core cycles) + a * (16-byte lines of constants read from flash)

Core cycles come from the instruction table of the Cortex-M4 technical reference manual (Arm 100166, 3.3.1, and
3.3.3 for floating point), applied to the basic blocks that an emulator enters. k and a stand in the board's file,
with the band that checks against real boards allow. What the table cannot know of one block by itself is left to k:
unaligned accesses, instruction fetch, write buffers. docs/virtual-board.md says what that is worth.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import capstone
from capstone import arm, arm_const

MODEL: Final = "m4-flash/2"

REFILL: Final = 2
"""P, cycles to refill the pipeline after a taken branch: 1 to 3 in the manual; not identifiable apart from k."""

_DIVIDE: Final = 6  # 2 to 12, by the operands
_SYSTEM: Final = 2


@dataclass(frozen=True, slots=True)
class BlockCost:
    """What a straight run of instructions costs.

    Attributes:
        instructions: how many.
        cycles: with the branch at the end not taken, where it is conditional.
        taken_cycles: more, where a conditional branch at the end is taken.
        conditional: the block ends in a conditional branch.
        loaded: registers that a load at the end writes, a bit each; 0 where there is no load.
        addresses: registers that a load at the begin takes its address from; 0 where there is no load.
    """

    instructions: int
    cycles: int
    taken_cycles: int
    conditional: bool
    loaded: int = 0
    addresses: int = 0

    def joins(self, after: BlockCost) -> bool:
        """Whether the first load saves a cycle when the core comes from block `after` without a branch."""
        return bool(after.loaded and self.addresses and not after.loaded & self.addresses)


def _ids(*names: str) -> frozenset[int]:
    return frozenset(getattr(arm_const, f"ARM_INS_{name.upper()}") for name in names)


_LOAD: Final = _ids("ldr", "ldrb", "ldrh", "ldrsb", "ldrsh", "ldrt", "ldrbt", "ldrht", "ldrex", "vldr")
_STORE: Final = _ids("str", "strb", "strh", "strt", "strbt", "strht")
_PAIR: Final = _ids("ldrd", "strd")
_MULTIPLE: Final = _ids("ldm", "ldmdb", "stm", "stmdb", "vldmia", "vldmdb", "vstmia", "vstmdb")
_STACK: Final = _ids("push", "pop", "vpush", "vpop")
_DIVISION: Final = _ids("sdiv", "udiv")
_FP_DIVISION: Final = _ids("vdiv", "vsqrt")
_FP_ACCUMULATE: Final = _ids("vmla", "vmls", "vfma", "vfms", "vfnma", "vfnms", "vnmla", "vnmls")
_FP_ARITHMETIC: Final = _FP_ACCUMULATE | _FP_DIVISION | _ids("vadd", "vsub", "vmul", "vnmul", "vcvt", "vcvtr")
_TABLE_BRANCH: Final = _ids("tbb", "tbh")
_BRANCH: Final = _ids("b", "bl", "bx", "blx", "cbz", "cbnz")
_COMPARE_BRANCH: Final = _ids("cbz", "cbnz")
_SPECIAL: Final = _ids("mrs", "msr", "dsb", "isb", "dmb")
_ALWAYS: Final = frozenset({arm_const.ARM_CC_AL, arm_const.ARM_CC_INVALID})
_PC: Final = arm_const.ARM_REG_PC
_CORE_REGISTERS: Final = tuple(
    getattr(arm_const, f"ARM_REG_{name}") for name in (*(f"R{n}" for n in range(13)), "SP", "LR", "PC")
)


@functools.cache
def _decoder() -> Any:
    decoder = capstone.Cs(capstone.CS_ARCH_ARM, capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS)
    decoder.detail = True
    return decoder


@functools.lru_cache(maxsize=1 << 16)
def block_cost(code: bytes) -> BlockCost:
    """Core cycles of a basic block's bytes on a Cortex-M4 with zero-wait memory; the same bytes cost the same anywhere.

    Raises:
        ValueError: the bytes are not all Thumb instructions; the message holds the offset and the rest in hex.
    """
    listed = list(_decoder().disasm(code, 0))
    decoded = sum(found.size for found in listed)
    if decoded != len(code):
        raise ValueError(f"no instruction at +{decoded}: {code[decoded : decoded + 4].hex()}")
    total = 0
    loaded: set[int] = set()  # registers that the instruction before loaded; empty where it was no load
    pending: set[int] = set()  # registers that the floating-point instruction before wrote
    for found in listed:
        reads, writes = (set(group) for group in found.regs_access())
        total += _cycles(found, loaded)
        if pending & reads:
            total += 1
        loaded = {found.operands[0].reg} if found.id in _LOAD else set()
        pending = writes if found.id in _FP_ARITHMETIC else set()
    last = listed[-1] if listed else None
    taken = 0
    conditional = False
    if last is not None and _jumps(last):
        conditional = last.id in _COMPARE_BRANCH or last.cc not in _ALWAYS
        if conditional:
            # Not taken it is one cycle whatever it loads; taken, all of it and the refill.
            taken = _cycles(last, set()) - 1 + REFILL
            total += 1 - _cycles(last, set())
        else:
            total += REFILL
    first = _address_registers(listed[0]) if listed and listed[0].id in _LOAD else set()
    return BlockCost(
        len(listed),
        total,
        taken,
        conditional,
        _bits(loaded) | 1 << 31 if loaded and not taken else 0,
        _bits(first) | 1 << 30 if listed and listed[0].id in _LOAD else 0,
    )


def instructions_cost(code: bytes) -> BlockCost:
    """A block where only instructions are counted: cores whose timing nobody has checked yet."""
    count = block_cost(code).instructions
    return BlockCost(count, count, 0, False)


def _cycles(found: Any, loaded: set[int]) -> int:
    """Cycles of one instruction without the refill of a taken branch. `loaded`: what the one before it loaded."""
    kind = found.id
    if kind in _LOAD:
        # Loads follow each other in the pipeline unless the address waits for the load before.
        return 2 if not loaded or _address_registers(found) & loaded else 1
    if kind in _STORE:
        return 1
    if kind == arm_const.ARM_INS_VSTR:
        return 2
    if kind in _PAIR:
        return 3
    if kind in _STACK:
        return 1 + sum(map(_words, found.operands))
    if kind in _MULTIPLE:
        return 1 + sum(map(_words, found.operands[1:]))  # the first is the base register
    if kind in _DIVISION:
        return _DIVIDE
    if kind in _FP_DIVISION:
        return 14
    if kind in _FP_ACCUMULATE:
        return 3
    if kind in _TABLE_BRANCH or kind in _SPECIAL:
        return _SYSTEM
    return 1


def _words(operand: Any) -> int:
    return 2 if arm_const.ARM_REG_D0 <= operand.reg <= arm_const.ARM_REG_D31 else 1


def _address_registers(found: Any) -> set[int]:
    memory = [operand.mem for operand in found.operands if operand.type == arm.ARM_OP_MEM]
    return {register for one in memory for register in (one.base, one.index) if register}


def _bits(registers: set[int]) -> int:
    return sum(1 << _CORE_REGISTERS.index(one) for one in registers if one in _CORE_REGISTERS)


def _jumps(found: Any) -> bool:
    if found.id in _BRANCH or found.id in _TABLE_BRANCH:
        return True
    if found.id in _STORE or found.id in _STACK - _ids("pop") or not found.operands:
        return False
    if found.id in _ids("pop") | _ids("ldm", "ldmdb"):
        return any(operand.type == arm.ARM_OP_REG and operand.reg == _PC for operand in found.operands)
    first = found.operands[0]
    return bool(
        first.type == arm.ARM_OP_REG and first.reg == _PC and found.id not in _ids("cmp", "tst", "cmn")
    )
