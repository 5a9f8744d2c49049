"""What stopped a firmware, in words: where it was, what it did, and what the part has there."""

from __future__ import annotations

from typing import Final

from unicorn import unicorn_const

from targets.mcu.virtual.part import Part
from toolchain.errors import DeviceError

_ACCESS: Final = {
    unicorn_const.UC_MEM_READ_UNMAPPED: ("read", "unmapped"),
    unicorn_const.UC_MEM_WRITE_UNMAPPED: ("write", "unmapped"),
    unicorn_const.UC_MEM_FETCH_UNMAPPED: ("fetch", "unmapped"),
    unicorn_const.UC_MEM_READ_PROT: ("read", "protected"),
    unicorn_const.UC_MEM_WRITE_PROT: ("write", "protected"),
    unicorn_const.UC_MEM_FETCH_PROT: ("fetch", "protected"),
}
_NEAR: Final = 1 << 16
_FAR: Final = 1 << 26


def explain(
    error: Exception, access: tuple[int, int, int] | None, at: str, part: Part, slot: int
) -> DeviceError:
    """The error for a run that the engine ended.

    Args:
        error: the engine's.
        access: kind (the engine's constant), address and bytes of the access that failed; None where none did.
        at: the program counter, with its function.
        part: whose memory it is.
        slot: first address of flash that the firmware may program.
    """
    if access is None:
        return DeviceError(f"the firmware stopped at {at}: {error}", remedy="on the board this is a fault")
    kind, address, size = access
    verb, why = _ACCESS.get(kind, ("access", "unmapped"))
    return DeviceError(
        f"the firmware stopped at {at}: {verb} of {size} bytes at 0x{address:08x}; "
        f"{_meaning(part, slot, address, why)}",
        remedy="on the board this is a fault",
    )


def _meaning(part: Part, slot: int, address: int, why: str) -> str:
    ram_end, flash_end = part.ram_address + part.ram_bytes, part.flash_address + part.flash_bytes
    if why == "protected" and part.flash_address <= address < flash_end:
        if address < slot:
            return "the firmware's own flash is read-only"
        return "flash cannot be written without unlocking its controller"
    if part.ram_address - _NEAR <= address < part.ram_address:
        return f"RAM of the part starts at 0x{part.ram_address:08x}: the stack overflowed, or a bad pointer"
    if ram_end <= address < ram_end + _FAR:
        return f"RAM of the part ends at 0x{ram_end - 1:08x} ({part.ram_bytes:,} bytes)"
    if flash_end <= address < part.ram_address:
        return f"flash of the part ends at 0x{flash_end - 1:08x} ({part.flash_bytes:,} bytes)"
    if address < _NEAR:
        return "a null pointer"
    return "nothing is there on this part"
