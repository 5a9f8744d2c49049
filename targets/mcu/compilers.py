"""The C compiler for boards: arm-none-eabi-gcc where it is installed, else the `ziglang` wheel."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from targets.mcu.board import Board, Core
from toolchain.errors import ConfigurationError
from toolchain.process import run_captured

Kind = Literal["gcc", "zig"]

_REMEDY: Final = (
    "install one: `pip install 'boardfit[virtual]'` brings ziglang, "
    "Debian has gcc-arm-none-eabi (`make debian`)"
)
_TIMEOUT_S: Final = 300  # zig's first link builds its own runtime library: some seconds, once

# Spelling of the cores. zig ignores -mfpu and -mfloat-abi; without a +vfp... feature it silently makes soft-float code.
_ZIG_CORES: Final[Mapping[Core, tuple[str, str]]] = {
    "cortex-m0plus": ("cortex_m0plus", ""),
    "cortex-m3": ("cortex_m3", ""),
    "cortex-m4": ("cortex_m4", "+vfp4d16sp"),
    "cortex-m33": ("cortex_m33+dsp", "+fp_armv8d16sp"),  # zig leaves the DSP extension out by default
}
_GCC_FPUS: Final[Mapping[Core, str]] = {"cortex-m4": "fpv4-sp-d16", "cortex-m33": "fpv5-sp-d16"}


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler driver.

    Attributes:
        kind: `gcc` or `zig`.
        command: how it is called, without options.
        version: name and version, one line; part of every stack and fingerprint.
    """

    kind: Kind
    command: tuple[str, ...]
    version: str

    def flags(self, board: Board) -> tuple[str, ...]:
        """Options that select the board's core, and a freestanding build without surprises."""
        if self.kind == "zig":
            core, fpu = _ZIG_CORES[board.core]
            hard = board.fpu != "none"
            return (
                "-target", f"thumb-freestanding-eabi{'hf' if hard else ''}", f"-mcpu={core}{fpu if hard else ''}",
                # unrolled, the firmware is 41 kB instead of 26 kB; the kernels unroll where it pays
                "-ffreestanding", "-fno-unroll-loops", "-fno-sanitize=all", "-fno-stack-protector",
                "-fomit-frame-pointer",
                "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fdebug-compilation-dir=/",
            )  # fmt: skip
        if board.fpu != "none":
            return (f"-mcpu={board.core}", "-mthumb", "-mfloat-abi=hard", f"-mfpu={_GCC_FPUS[board.core]}",
                    "-ffreestanding")  # fmt: skip
        return (f"-mcpu={board.core}", "-mthumb", "-mfloat-abi=soft", "-ffreestanding")

    def link_flags(self) -> tuple[str, ...]:
        """Options of the link: no libc, no start files, but the arithmetic that a small core lacks. A freestanding zig
        links its compiler_rt by itself, and -nostdlib would take that away; without -g it drops the symbols at -Os."""
        return ("-g",) if self.kind == "zig" else ("-nostdlib", "-lgcc")


def find_compiler(prefer: str = "auto") -> Compiler:
    """The compiler to build firmware with.

    Args:
        prefer: `gcc`, `zig`, or `auto`: gcc where it is on the PATH, else zig.

    Raises:
        ConfigurationError: the one that was asked for, or any, is not installed; the remedy names the packages.
    """
    if prefer not in ("auto", "gcc", "zig"):
        raise ConfigurationError(f"no compiler {prefer!r}", remedy="use auto, gcc or zig")
    gcc = shutil.which("arm-none-eabi-gcc") if prefer in ("auto", "gcc") else None
    if gcc:
        return _gcc(gcc)
    if prefer in ("auto", "zig") and importlib.util.find_spec("ziglang") is not None:
        return _zig()
    what = {"auto": "no C compiler for ARM boards", "gcc": "arm-none-eabi-gcc is not on the PATH"}
    raise ConfigurationError(what.get(prefer, "the package ziglang is not installed"), remedy=_REMEDY)


def run_tool(command: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run a compiler, its output captured.

    Raises:
        ConfigurationError: it cannot be started, or does not end.
    """
    try:
        return run_captured(command, timeout_s=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"the compiler {command[0]} cannot be run: {error}", remedy=_REMEDY
        ) from error


@functools.cache
def _gcc(path: str) -> Compiler:
    done = run_tool((path, "-dumpfullversion"))
    if done.returncode or not done.stdout.strip():
        raise ConfigurationError(
            f"arm-none-eabi-gcc does not answer: {done.stderr.strip()[:200]}", remedy=_REMEDY
        )
    return Compiler("gcc", (path,), f"arm-none-eabi-gcc {done.stdout.strip()}")


@functools.cache
def _zig() -> Compiler:
    command = (sys.executable, "-m", "ziglang")
    done = run_tool((*command, "version"))
    if done.returncode or not done.stdout.strip():
        raise ConfigurationError(
            f"python -m ziglang does not answer: {done.stderr.strip()[:200]}", remedy=_REMEDY
        )
    return Compiler("zig", (*command, "cc"), f"zig cc {done.stdout.strip()}")
