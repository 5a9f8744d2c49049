"""Small firmwares for the tests of the virtual board, compiled here, with either compiler."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from targets.mcu.board import CycleModel
from targets.mcu.virtual.part import Part

M4 = Part(
    name="small",
    core="cortex-m4",
    family="f4",
    flash_address=0x08000000,
    flash_bytes=128 * 1024,
    pages=(16 * 1024,) * 4 + (64 * 1024,),
    flash_options=0,
    ram_address=0x20000000,
    ram_bytes=5 * 1024,
    uart_address=0x40011000,
    uart_classic=True,
    clock_hz=100_000_000,
    wait_states=5,
    model=CycleModel("cycles_estimated", "m4-flash/2", k=1.0, a=4.0, band=0.15, source="made up"),
)

_FLAGS = ["-Os", "-ffreestanding", "-fno-common", "-nostdlib", "-Wall", "-Wextra", "-Wl,--build-id=none"]
_TOOLS = {
    "gcc": ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-static"],
    "zig": [
        sys.executable, "-m", "ziglang", "cc", "-g", "-target", "thumb-freestanding-eabihf",
        "-mcpu=cortex_m4+vfp4d16sp",
    ],
}  # fmt: skip

_LINKER = """
MEMORY { FLASH (rx) : ORIGIN = 0x08000000, LENGTH = 0x20000  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 0x1400 }
ENTRY(start)
SECTIONS {
  .vectors : { KEEP(*(.vectors)) } > FLASH
  .text : { *(.text*) *(.rodata*) . = ALIGN(4); } > FLASH
  .data : { *(.data*) } > RAM AT > FLASH
  .bss (NOLOAD) : { *(.bss*) . = ALIGN(8); } > RAM
  /DISCARD/ : { *(.ARM.exidx*) *(.ARM.extab*) *(.comment) }
}
"""

PRELUDE = """
#include <stdint.h>
#define REG(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define UART 0x40011000u
int main(void);
__attribute__((weak)) void tick(void);
void start(void);
void start(void) { main(); for (;;) ; }
__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))0x20001400, start, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, tick};
static inline int get(void) { return REG(UART) & 0x20 ? (int)(REG(UART + 4) & 0xff) : -1; }
static inline int wait(void) { int c; while ((c = get()) < 0) ; return c; }
static inline void put(uint32_t c) { while (!(REG(UART) & 0x80)) ; REG(UART + 4) = c & 0xff; }
static inline void put_word(uint32_t v) { for (int i = 0; i < 4; i++) put(v >> (8 * i)); }
static inline void cycles_on(void) { REG(0xE000EDFC) |= 1u << 24; REG(0xE0001000) |= 1; }
"""


def compilers() -> list[object]:
    """Both compilers as parameters of a test, skipped where not installed."""
    have_gcc = shutil.which("arm-none-eabi-gcc") is not None
    have_zig = importlib.util.find_spec("ziglang") is not None
    return [
        pytest.param(
            "gcc", marks=pytest.mark.skipif(not have_gcc, reason="arm-none-eabi-gcc is not installed")
        ),
        pytest.param("zig", marks=pytest.mark.skipif(not have_zig, reason="ziglang is not installed")),
    ]


def any_compiler() -> str:
    """The faster compiler that is here; skips the test where none is."""
    if shutil.which("arm-none-eabi-gcc"):
        return "gcc"
    pytest.importorskip("ziglang")
    return "zig"


def compile_firmware(folder: Path, source: str, compiler: str | None = None) -> bytes:
    """The ELF of PRELUDE and `source`, which holds main()."""
    compiler = compiler or any_compiler()
    (folder / "link.ld").write_text(_LINKER)
    (folder / "main.c").write_text(PRELUDE + source)
    out = folder / f"{compiler}.elf"
    done = subprocess.run(
        [*_TOOLS[compiler], *_FLAGS, "-T", str(folder / "link.ld"), str(folder / "main.c"), "-o", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out.read_bytes()
