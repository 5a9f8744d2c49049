"""A firmware's ELF file as an emulator needs it."""

from __future__ import annotations

import bisect
import io
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from toolchain.errors import ModelFileError


@dataclass(frozen=True)
class Image:
    """An ELF file as a machine needs it: segments by their load address, symbols."""

    segments: tuple[tuple[int, bytes], ...]
    symbols: dict[str, int]
    functions: tuple[tuple[int, str], ...]

    @classmethod
    def read(cls, elf: bytes | Path) -> Image:
        """Raises ModelFileError where the bytes are not an ELF file."""
        data = elf if isinstance(elf, bytes) else elf.read_bytes()
        try:
            file = ELFFile(io.BytesIO(data))
            segments = tuple(
                (int(segment["p_paddr"]), bytes(segment.data()))
                for segment in file.iter_segments()
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]
            )
            symbols: dict[str, int] = {}
            functions: list[tuple[int, str]] = []
            for section in file.iter_sections():
                if not isinstance(section, SymbolTableSection):
                    continue
                for symbol in section.iter_symbols():
                    if symbol.name and not symbol.name.startswith("$"):
                        symbols[symbol.name] = int(symbol["st_value"])
                        if symbol["st_info"]["type"] == "STT_FUNC":
                            functions.append((int(symbol["st_value"]) & ~1, symbol.name))
        except (ELFError, ValueError, KeyError) as error:
            raise ModelFileError(
                f"not a firmware for an emulator: {error}", remedy="give an ELF file"
            ) from error
        return cls(segments, symbols, tuple(sorted(functions)))

    def where(self, address: int) -> str:
        """`function+0x12` for an address of code, or only the address."""
        at = bisect.bisect_right(self.functions, (address, "\U0010ffff")) - 1
        if at < 0 or address - self.functions[at][0] > 1 << 16:
            return f"0x{address:08x}"
        start, name = self.functions[at]
        return f"0x{address:08x} ({name}+0x{address - start:x})"
