"""The cycle table, instruction by instruction: fixed encodings, so that no assembler is needed."""

import pytest

pytest.importorskip("capstone")

from targets.mcu.virtual.cycles import BlockCost, block_cost, instructions_cost

# Thumb encodings as an assembler gives them (ARMv7-M ARM, chapter A7)
ADDS = "0130"  # adds r0, #1
LDR0 = "0868"  # ldr r0, [r1]
LDR2 = "1a68"  # ldr r2, [r3]
LDR_DEPENDS = "0068"  # ldr r0, [r0]
BX_LR = "7047"


@pytest.mark.parametrize(
    ("name", "code", "cycles"),
    [
        ("adds", ADDS, 1),
        ("mul", "4843", 1),  # muls r0, r1, r0
        ("mla", "01fb0230", 1),  # mla r0, r1, r2, r3
        ("smlad", "21fb0230", 1),
        ("smull", "82fb0301", 1),  # smull r0, r1, r2, r3
        ("ldr", LDR0, 2),
        ("ldr.w", "d1f80000", 2),
        ("ldrsb.w", "91f90000", 2),
        ("ldr post-index", "51f8040b", 2),
        ("str", "0860", 1),
        ("strb.w", "01f80100", 1),
        ("ldrd", "d1e90001", 3),
        ("strd", "c1e90001", 3),
        ("ldm of three", "b0e80e00", 4),  # ldm.w r0!, {r1-r3}
        ("stm of two", "80e80600", 3),
        ("push of three", "30b5", 4),
        ("pop of two", "30bc", 3),
        ("sdiv", "91fbf2f0", 6),
        ("udiv", "b1fbf2f0", 6),
        ("it and addne", "18bf" + ADDS, 2),
        ("vadd.f32", "30ee810a", 1),
        ("vmul.f32", "20ee810a", 1),
        ("vfma.f32", "a0eea10a", 3),
        ("vmla.f32", "00eea10a", 3),
        ("vdiv.f32", "80eea10a", 14),
        ("vsqrt.f32", "b1eee00a", 14),
        ("vldr", "90ed000a", 2),
        ("vldm of four words", "90ec040a", 5),
        ("two loads", LDR0 + LDR2, 3),
        ("a load through a loaded address", LDR0 + LDR_DEPENDS, 4),
        ("a load after something else", LDR0 + ADDS + LDR2, 5),
        ("three loads", LDR0 + LDR2 + LDR0, 4),
        ("b", "fee7", 1 + 2),
        ("bl", "00f000f8", 1 + 2),
        ("bx lr", BX_LR, 1 + 2),
        ("pop {r4, pc}", "10bd", 1 + 2 + 2),
        ("pop.w {r4, r5, pc}", "bde83080", 1 + 3 + 2),
        ("ldr pc", "5df804fb", 2 + 2),
        ("tbb", "dfe800f0", 2 + 2),
    ],
)
def test_one_instruction(name: str, code: str, cycles: int) -> None:
    found = block_cost(bytes.fromhex(code))
    assert (found.cycles, found.taken_cycles, found.conditional) == (cycles, 0, False), name


def test_a_float_result_used_at_once_waits_a_cycle() -> None:
    add = bytes.fromhex("30ee810a")  # vadd.f32 s0, s1, s2
    uses = bytes.fromhex("60ee001a")  # vmul.f32 s3, s0, s0
    other = bytes.fromhex("62ee021a")  # vmul.f32 s3, s4, s4
    assert block_cost(add + uses).cycles == 3
    assert block_cost(add + other).cycles == 2


@pytest.mark.parametrize(
    ("name", "code", "not_taken", "more_if_taken"),
    [
        ("beq", "00d0", 1, 2),
        ("cbz", "00b1", 1, 2),
        ("bne.w", "40f00080", 1, 2),
        ("it ne; bxne lr", "18bf" + BX_LR, 2, 2),
        ("it ne; popne {r4, pc}", "18bf10bd", 2, 4),
    ],
)
def test_conditional_branch(name: str, code: str, not_taken: int, more_if_taken: int) -> None:
    found = block_cost(bytes.fromhex(code))
    assert (found.cycles, found.taken_cycles, found.conditional) == (not_taken, more_if_taken, True), name


def test_a_comparison_with_the_program_counter_is_no_jump() -> None:
    assert block_cost(bytes.fromhex("8742")) == BlockCost(1, 1, 0, False)  # cmp r7, r0


def test_a_load_follows_the_load_at_the_end_of_the_block_before() -> None:
    end, same, other = (block_cost(bytes.fromhex(code)) for code in (LDR0, LDR_DEPENDS, LDR2))
    assert other.joins(end)
    assert not same.joins(end)
    assert not end.joins(block_cost(bytes.fromhex(LDR0 + "00d0")))
    assert not block_cost(bytes.fromhex("8742")).joins(end)


def test_instructions_are_counted_where_the_timing_is_unknown() -> None:
    code = bytes.fromhex(LDR0 + LDR2 + "00d0")
    assert instructions_cost(code) == BlockCost(3, 3, 0, False)


@pytest.mark.parametrize("code", ["ffff", "0130f7", "00f0"])
def test_bytes_that_are_no_instruction(code: str) -> None:
    with pytest.raises(ValueError, match="no instruction at"):
        block_cost(bytes.fromhex(code))


def test_nothing_costs_nothing() -> None:
    assert block_cost(b"") == BlockCost(0, 0, 0, False)
