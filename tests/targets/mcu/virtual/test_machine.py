"""The emulated part with small firmwares of our own: memory limits, faults, counters, determinism."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("unicorn")

from targets.mcu.virtual import hooks
from targets.mcu.virtual.machine import EmulationTimeout, VirtualMachine
from tests.targets.mcu.virtual.firmware import M4, any_compiler, compile_firmware, compilers
from toolchain.errors import DeviceError, ModelFileError

ECHO = "int main(void) { for (;;) put((uint32_t)wait() + 1); }"

# A loop with a known number of instructions: subs and bne per round; the answer is what the counter passed.
LOOP = """
__attribute__((noinline)) static uint32_t now(void) { return REG(0xE0001004); }
__attribute__((noinline)) static void spin(uint32_t n) {
    __asm volatile(".balign 4\\n 1: subs %0, #1\\n bne 1b" : "+r"(n) : : "cc");
}
int main(void) {
    cycles_on();
    for (;;) {
        uint32_t n = (uint32_t)wait() * 100, start = now();
        spin(n);
        put_word(now() - start);
    }
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("firmware")


@pytest.fixture(params=[True, False], ids=["C", "Python"])
def native(request: pytest.FixtureRequest) -> bool:
    if request.param and hooks.library() is None:
        pytest.skip("no C compiler for the block counter")
    return bool(request.param)


def machine(folder: Path, source: str, **options: object) -> VirtualMachine:
    return VirtualMachine(M4, compile_firmware(folder, source), **options)  # type: ignore[arg-type]


def word(data: bytes) -> int:
    assert len(data) == 4
    return int.from_bytes(data, "little")


@pytest.mark.parametrize("compiler", compilers())
def test_echo(folder: Path, compiler: str, native: bool) -> None:
    board = VirtualMachine(M4, compile_firmware(folder, ECHO, compiler), native=native)
    assert board.read(1, timeout=0.001) == b""
    board.write(b"HAL")
    assert board.read(3) == b"IBM"
    board.write(b"abc")
    assert (board.read(1), board.read(1), board.read(5)) == (b"b", b"c", b"d")
    long = bytes(range(256)) * 20
    board.write(long)
    assert board.read(len(long)) == bytes((x + 1) & 255 for x in long)


def test_more_input_than_the_line_holds(folder: Path) -> None:
    board = machine(
        folder,
        "int main(void) { uint32_t s = 0; for (;;) { s += (uint32_t)wait(); if (!(s & 0xfffff)) put(s >> 20); } }",
    )
    board.write(b"\x01" * (3 << 20))
    assert board.read(3) == b"\x01\x02\x03"


def test_a_firmware_that_reads_nothing_is_not_sent_without_end(folder: Path) -> None:
    board = machine(folder, "int main(void) { for (;;) ; }", budget_instructions=1_000_000)
    with pytest.raises(EmulationTimeout, match="1,000,000 instructions"):
        board.write(bytes(3 << 20))


def test_instruction_counts_are_exact(folder: Path, native: bool) -> None:
    board = machine(folder, LOOP, native=native)
    counts, cycles = [], []
    board.write(b"\x01")
    board.read(4)
    board.read(1)  # until it waits
    for rounds in (1, 2, 3, 100):
        before = board.instructions
        board.write(bytes([rounds]))
        cycles.append(word(board.read(4)))
        board.read(1)
        counts.append(board.instructions - before)
    # 200 instructions and 400 cycles (subs 1, taken bne 1 + P) for each hundred rounds of the loop.
    assert [b - a for a, b in pairwise(counts)] == [200, 200, 19400]
    assert [b - a for a, b in pairwise(cycles)] == [400, 400, 38800]


def test_c_and_python_count_the_same_blocks(folder: Path) -> None:
    if hooks.library() is None:
        pytest.skip("no C compiler for the block counter")
    seen = []
    for native in (True, False):
        board = machine(folder, LOOP, native=native)
        board.write(b"\x07\x03")
        seen.append((board.read(8), board.blocks(), board.instructions, board.core_cycles, board.cycles))
    assert seen[0] == seen[1]


def test_two_runs_are_equal_in_every_cycle(folder: Path) -> None:
    elf = compile_firmware(folder, LOOP)
    runs = []
    for _ in range(2):
        board = VirtualMachine(M4, elf)
        board.write(b"\x05\x50")
        runs.append((board.read(8, timeout=1.0), board.cycles, board.instructions))
    assert runs[0] == runs[1]


def test_counts_do_not_depend_on_where_the_machine_was_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elf = compile_firmware(folder, LOOP)
    seen = set()
    for slice_ in (1 << 20, 1001, 52):
        monkeypatch.setattr("targets.mcu.virtual.machine._SLICE", slice_)
        board = VirtualMachine(M4, elf)
        board.write(b"\x10")
        seen.add((board.read(4), board.instructions, board.core_cycles))
    assert len(seen) == 1


def test_the_cycle_model_scales_and_adds_lines(folder: Path, native: bool) -> None:
    source = """
    volatile uint32_t bf_constant_lines;
    __attribute__((noinline)) static uint32_t now(void) { return REG(0xE0001004); }
    int main(void) {
        bf_constant_lines = 0xfffffff0u;
        cycles_on();
        for (;;) { uint32_t n = (uint32_t)wait(), start = now(); bf_constant_lines += n; put_word(now() - start); }
    }
    """
    elf = compile_firmware(folder, source)
    assert M4.model is not None
    costs = []
    for k, a in ((1.0, 0.0), (1.0, 4.0), (2.0, 4.0)):
        board = VirtualMachine(replace(M4, model=replace(M4.model, k=k, a=a)), elf, native=native)
        answers = []
        for lines in (0, 200):
            board.write(bytes([lines]))
            answers.append(word(board.read(4)))
        costs.append(answers)
    core = costs[0][0]
    assert costs[0] == [core, core]
    assert costs[1] == [core, core + 800]  # the counter of lines wraps within the second interval
    assert costs[2] == [2 * core, 2 * core + 800]


def test_loads_follow_each_other_over_a_page_of_the_engine(folder: Path, native: bool) -> None:
    """The engine ends a block where its page of 1 KiB ends: what code takes must not depend on where it lies."""
    loads = "ldr r1, [r0]\\n" * 8
    source = f"""
    #define AT(name, offset) __attribute__((naked, noinline, aligned(1024))) static void name(uint32_t *from) \\
        {{ (void)from; __asm volatile("b.w 1f\\n .space " #offset "\\n 1: {loads} bx lr"); }}
    AT(inside, 500) AT(across, 1012)
    __attribute__((noinline)) static uint32_t now(void) {{ return REG(0xE0001004); }}
    int main(void) {{
        cycles_on();
        for (;;) {{
            uint32_t start; static uint32_t word;
            wait(); start = now(); inside(&word); put_word(now() - start);
            wait(); start = now(); across(&word); put_word(now() - start);
        }}
    }}
    """
    board = VirtualMachine(
        replace(M4, model=replace(M4.model, k=1.0, a=0.0)), compile_firmware(folder, source), native=native
    )
    board.write(b"..")
    assert word(board.read(4)) == word(board.read(4))


def test_a_counter_that_was_not_switched_on_stands_still(folder: Path, native: bool) -> None:
    source = """
    int main(void) {
        put_word(REG(0xE0001004));
        REG(0xE0001000) = 1;            /* without TRCENA */
        put_word(REG(0xE0001004));
        REG(0xE000EDFC) = 1u << 24;
        uint32_t a = REG(0xE0001004);
        for (volatile int i = 0; i < 9; i++) ;
        put(REG(0xE0001004) != a);
        REG(0xE0001004) = 0;
        put(REG(0xE0001004) < 100);
        REG(0xE0001000) = 0;            /* stops, and keeps its value */
        a = REG(0xE0001004);
        for (volatile int i = 0; i < 9; i++) ;
        put(REG(0xE0001004) == a);
        for (;;) wait();
    }
    """
    assert machine(folder, source, native=native).read(11) == bytes(8) + b"\x01\x01\x01"


def test_where_cycles_are_not_validated_the_counter_counts_instructions(folder: Path) -> None:
    board = VirtualMachine(replace(M4, model=None), compile_firmware(folder, LOOP))
    answers = []
    for rounds in (1, 2):
        board.write(bytes([rounds]))
        answers.append(word(board.read(4)))
    assert answers[1] - answers[0] == 200


@pytest.mark.parametrize("by_interrupt", [True, False], ids=["interrupt", "polled"])
def test_systick_counts_down_and_its_wraps_reach_the_firmware(
    folder: Path, native: bool, by_interrupt: bool
) -> None:
    source = f"""
    static volatile uint32_t wraps;
    void tick(void) {{ wraps++; }}
    int main(void) {{
        wraps = 0; REG(0xE000E014) = 999;
        REG(0xE000E018) = 0;
        REG(0xE000E010) = {7 if by_interrupt else 5};
        for (;;) {{
            uint32_t n = (uint32_t)wait() * 1000 / 4;
            __asm volatile("1: subs %0, #1\\n bne 1b" : "+r"(n) : : "cc");
            if (!{int(by_interrupt)} && REG(0xE000E010) >> 16) wraps++;
            put(wraps); put(REG(0xE000E018) < 1000);
        }}
    }}
    """
    board = machine(folder, source, native=native)
    board.write(b"\x01\x01\x01")
    counts = [board.read(2) for _ in range(3)]
    assert all(answer[1] == 1 for answer in counts)
    assert [answer[0] for answer in counts] == [1, 2, 3]


def test_a_count_does_not_depend_on_interrupts(folder: Path, native: bool) -> None:
    """They come between two blocks, most often behind a branch that is taken."""
    source = """
    static volatile uint32_t wraps;
    void tick(void) { wraps++; }
    __attribute__((noinline)) static uint32_t now(void) { return REG(0xE0001004); }
    int main(void) {
        wraps = 0; cycles_on();
        REG(0xE000E014) = 999;
        for (;;) {
            uint32_t n = 5000, start;
            REG(0xE000E010) = wait() == 1 ? 7 : 5;
            start = now();
            __asm volatile("1: subs %0, #1\\n bne 1b" : "+r"(n) : : "cc");
            put_word(now() - start); put_word(wraps);
        }
    }
    """
    board = machine(folder, source, native=native)
    board.write(b"\x00\x01")
    (without, none), (amid, wraps) = ((word(board.read(4)), word(board.read(4))) for _ in range(2))
    assert none == 0
    assert wraps > 5
    assert amid == without


def test_an_interrupt_waits_while_they_are_off(folder: Path) -> None:
    source = """
    static volatile uint32_t wraps;
    void tick(void) { wraps++; }
    int main(void) {
        wraps = 0; REG(0xE000E014) = 999;
        REG(0xE000E010) = 7;
        __asm volatile("cpsid i");
        for (volatile int i = 0; i < 500; i++) ;
        put(wraps); put(REG(0xE000ED04) >> 26 & 1);
        __asm volatile("cpsie i");
        for (volatile int i = 0; i < 50; i++) ;
        put(wraps); put(REG(0xE000ED04) >> 26 & 1);
        for (;;) wait();
    }
    """
    answer = machine(folder, source).read(4)
    assert answer[:2] == b"\x00\x01"
    assert answer[2] >= 1
    assert answer[3] == 0


def test_an_interrupt_changes_nothing_that_it_interrupts(folder: Path) -> None:
    """The handler destroys registers and flags that a caller saves; a sum over a long loop shows it."""
    source = """
    static volatile uint32_t wraps;
    void tick(void) {
        wraps++;
        __asm volatile("movs r0, #0\\n movs r1, #0\\n movs r2, #0\\n movs r3, #0\\n mov r12, r0\\n cmp r0, r0"
                       ::: "r0", "r1", "r2", "r3", "r12", "cc");
    }
    int main(void) {
        wraps = 0; REG(0xE000E014) = 99;
        REG(0xE000E010) = 7;
        uint32_t sum = 0;
        for (uint32_t i = 0; i < 5000; i++) sum = sum * 33 + (i ^ sum >> 3);
        put_word(sum); put(wraps > 20);
        for (;;) wait();
    }
    """
    expected = 0
    for i in range(5000):
        expected = (expected * 33 + (i ^ expected >> 3)) & 0xFFFFFFFF
    answer = machine(folder, source).read(5)
    assert (word(answer[:4]), answer[4]) == (expected, 1)


def test_a_handler_that_does_not_return_ends_in_a_typed_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targets.mcu.virtual.machine._SLICE", 1_000_000)
    source = """
    void tick(void) { for (;;) ; }
    int main(void) { REG(0xE000E014) = 99; REG(0xE000E010) = 7; for (;;) wait(); }
    """
    with pytest.raises(EmulationTimeout, match=r"handler does not return; it is at .*tick\+0x"):
        machine(folder, source).read(1, timeout=1.0)


def test_a_handler_may_send_and_reset(folder: Path) -> None:
    source = """
    void tick(void) { put('t'); if (REG(0x20000900) != 1) { REG(0x20000900) = 1; REG(0xE000ED0C) = 0x05FA0004; } }
    int main(void) { put('m'); REG(0xE000E014) = 9999; REG(0xE000E010) = 7; for (;;) ; }
    """
    assert machine(folder, source).read(6) == b"mtmttt"


def test_a_float_unit(folder: Path) -> None:
    source = """
    int main(void) {
        REG(0xE000ED88) |= 0xFu << 20;
        volatile float a = 2.0f;
        for (;;) { wait(); a = a * 1.5f; put((uint32_t)a); }
    }
    """
    board = machine(folder, source)
    board.write(b"...")
    assert board.read(3) == bytes([3, 4, 6])


def test_reset_keeps_memory_and_starts_anew(folder: Path) -> None:
    source = """
    int main(void) {
        volatile uint32_t *kept = (uint32_t *)0x20000800;
        put(*kept == 0x12345678); put(REG(0xE0001000) & 1);
        *kept = 0x12345678;
        cycles_on();
        if (wait() == 'r') REG(0xE000ED0C) = 0x05FA0004;
        for (;;) wait();
    }
    """
    board = machine(folder, source)
    assert board.read(2) == b"\x00\x00"
    board.write(b"r")
    assert board.read(2) == b"\x01\x00"
    board.write(b"x")
    assert board.read(2) == b""
    board.reset()
    assert board.read(2) == b"\x01\x00"


FAULTS = {
    "one byte behind the RAM": (
        "volatile uint8_t *p = (uint8_t *)0x200013ff; p[0] = 1; put(1); p[1] = 2;",
        r"write of 1 bytes at 0x20001400; RAM of the part ends at 0x200013ff \(5,120 bytes\)",
    ),
    "a word behind the RAM": (
        "put(1); put(REG(0x20001400));", r"read of 4 bytes at 0x20001400; RAM of the part ends",
    ),
    "a stack that runs over": (
        "put(1); __asm volatile(\"ldr r0, =0x20000000\\n mov sp, r0\\n push {r0}\");",
        r"write of 4 bytes at 0x1ffffffc; .*the stack overflowed",
    ),
    "behind the flash": ("put(1); put(REG(0x08020000));", r"flash of the part ends at 0x0801ffff"),
    "flash without unlocking": ("put(1); REG(0x08010000) = 1;", "without unlocking its controller"),
    "the firmware's own flash": ("put(1); REG(0x08000000) = 1;", "own flash is read-only"),
    "a null pointer": ("put(1); put(REG(0));", "a null pointer"),
    "a jump to nowhere": ("put(1); ((void (*)(void))0x30000001)();", r"stopped at 0x30000000: fetch"),
    "an undefined instruction": ("put(1); __asm volatile(\"udf #1\");", r"main\+0x"),
    "a breakpoint": ("put(1); __asm volatile(\"bkpt 1\");", r"exception 7 at .*main\+0x"),
    "a peripheral that is not there": ("put(1); put(REG(0xA0000000));", "nothing is there"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_an_error_with_address_and_function(folder: Path, what: str, native: bool) -> None:
    body, expected = FAULTS[what]
    board = machine(folder, f"int main(void) {{ {body} put(2); for (;;) wait(); }}", native=native)
    assert board.read(1) == b"\x01"
    with pytest.raises(DeviceError, match=expected):
        board.read(1)
    with pytest.raises(DeviceError, match=expected):  # it stays so
        board.read(1)
    board.reset()
    assert board.read(1) == b"\x01"


def test_an_endless_loop_ends_in_a_typed_error(folder: Path, native: bool) -> None:
    budget = 10_000_000 if native else 200_000
    board = machine(
        folder, "int main(void) { put(1); for (;;) ; }", native=native, budget_instructions=budget
    )
    assert board.read(1) == b"\x01"
    with pytest.raises(EmulationTimeout, match=rf"{budget:,} instructions .*main\+0x"):
        board.read(1)
    assert board.instructions <= budget + 100


def test_the_clock_on_the_wall_is_a_guard(folder: Path) -> None:
    ticks = iter(range(0, 10_000, 100))
    board = machine(
        folder, "int main(void) { for (;;) ; }", wall_limit_s=150.0, clock=lambda: float(next(ticks))
    )
    with pytest.raises(EmulationTimeout, match="150 s"):
        board.read(1)


def test_a_sleeping_core_is_waiting(folder: Path) -> None:
    board = machine(folder, 'int main(void) { put(1); for (;;) __asm volatile("wfi"); }')
    assert board.read(2, timeout=0.01) == b"\x01"
    assert board.read(2, timeout=0.01) == b""


def test_waiting_takes_the_boards_time(folder: Path) -> None:
    """A firmware that measures how long nothing came sees the host's time-out pass."""
    source = """
    int main(void) {
        cycles_on();
        wait();
        uint32_t start = REG(0xE0001004), c;
        while ((int)(c = (uint32_t)get()) < 0 && REG(0xE0001004) - start < 5000000) ; /* 50 ms */
        put((int)c < 0);
        for (;;) wait();
    }
    """
    board = machine(folder, source)
    board.write(b"a")
    assert board.read(1, timeout=0.04) == b""
    assert board.read(1, timeout=0.04) == b"\x01"


def test_memory_and_its_limits(folder: Path) -> None:
    board = machine(folder, ECHO)
    board.poke(0x08010000, b"slot")
    board.poke(0x20001000, b"data")
    assert (board.memory(0x08010000, 4), board.memory(0x20001000, 4)) == (b"slot", b"data")
    with pytest.raises(DeviceError, match="not in the memory"):
        board.poke(0x200013FE, b"four")


def test_a_firmware_of_another_part(folder: Path) -> None:
    elf = compile_firmware(folder, ECHO)
    with pytest.raises(ModelFileError, match="build it for this board"):
        VirtualMachine(replace(M4, flash_address=0x08100000), elf)
    with pytest.raises(ModelFileError, match="not a firmware"):
        VirtualMachine(M4, b"\x7fELF" + bytes(10))
    with pytest.raises(DeviceError, match="no cortex-m85"):
        VirtualMachine(replace(M4, core="cortex-m85"), elf)


def test_without_a_compiler_python_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elf = compile_firmware(folder, ECHO, any_compiler())
    monkeypatch.setattr("targets.mcu.virtual.machine.library", lambda: None)
    board = VirtualMachine(M4, elf)
    assert not board.native
    with pytest.raises(DeviceError, match="no C compiler"):
        VirtualMachine(M4, elf, native=True)
