"""What an emulator needs to know of a board, and what its counts are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from targets.mcu.board import Board, CycleModel
from toolchain.measurement import Evidence

_DUAL_BANK: Final = 1 << 22  # FLASH_OPTR.DBANK, RM0432 3.7.8
_KIB: Final = 1024


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        pages: bytes of each flash page or sector, as the flash controller numbers them.
        flash_options: what the option register of the flash controller reads.
        uart_classic: SR and DR instead of ISR, RDR and TDR.
        model: of the cycles; None where nobody has checked the core's timing, then instructions are counted.
    """

    name: str
    core: str
    family: str
    flash_address: int
    flash_bytes: int
    pages: tuple[int, ...]
    flash_options: int
    ram_address: int
    ram_bytes: int
    uart_address: int
    uart_classic: bool
    clock_hz: int
    wait_states: int
    model: CycleModel | None


def part_of(board: Board) -> Part:
    """The part on a board, as it comes from the factory."""
    flash = board.flash
    page, options = flash.page_bytes, 0
    if board.family == "l4" and flash.dual_bank:
        # A page of the board's file is two of the controller's: one of each bank mode does for both (stm32l4.c).
        page, options = flash.page_bytes // 2, _DUAL_BANK
    pages: tuple[int, ...]
    if board.family == "f4":  # RM0090 table 5: the first 128 KiB are in small sectors
        pages = (16 * _KIB,) * 4 + (64 * _KIB,) + (128 * _KIB,) * (flash.bytes // (128 * _KIB) - 1)
    else:
        pages = (page,) * (flash.bytes // page)
    return Part(
        name=board.name,
        core=board.core,
        family=board.family,
        flash_address=flash.address,
        flash_bytes=flash.bytes,
        pages=pages,
        flash_options=options,
        ram_address=board.ram.address,
        ram_bytes=board.ram.bytes,
        uart_address=board.uart.address,
        uart_classic=board.uart.kind == "sr",
        clock_hz=board.clock.hz,
        wait_states=flash.wait_states,
        model=board.cycles if board.cycles.kind == "cycles_estimated" else None,
    )


def timing(board: Board) -> tuple[Evidence, dict[str, str]]:
    """What the ticks of a virtual board are: their evidence, and the fields for the stack that they belong to.

    With `Evidence.INSTRUCTIONS` ticks are instructions; they are no cycles, and there is no time.
    """
    model = board.cycles
    if model.kind != "cycles_estimated":
        return Evidence.INSTRUCTIONS, {
            "counted": "instructions",
            "timing": f"not modelled: {model.source}",
            "hardware": "none was used",
        }
    from targets.mcu.virtual.cycles import REFILL

    return Evidence.CYCLES_ESTIMATED, {
        "counted": "cycles",
        "cycle_model": model.model,
        "k": f"{model.k:g}",
        "a": f"{model.a:g}",
        "refill": str(REFILL),
        "clock_hz": str(board.clock.hz),
        "wait_states": str(board.flash.wait_states),
        "band": f"{model.band:g}",
        "calibration": model.source,
        "hardware": "none was used",
    }
