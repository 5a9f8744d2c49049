"""What a program holds: for messages, `bench` and tests. It reads descriptors, not weights."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from toolchain.errors import ModelFileError
from toolchain.export.native import layout
from toolchain.export.native.layout import Isa

_NAMES: Final[dict[int, Isa]] = {code: isa for isa, code in layout.ISA_CODES.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes in the arena, or (`constant`) in the program."""

    offset: int
    bytes: int = 0
    constant: bool = False


@dataclass(frozen=True, slots=True)
class ProgramOperator:
    """One operator of a program.

    Attributes:
        kind: its name in the operator list, or "copy" (one input of a concatenation) or "table" (hard_swish).
        kernel: the kernel's form, a number of firmware/kernels/kernels.h.
        input, output: where they lie; their sizes are not in the descriptor.
        shape: (height, width, channels) of input and output, for kinds with a window.
        constant_lines: 16-byte lines of constants that one run reads from flash.
    """

    kind: str
    kernel: int
    bytes: int
    input: Place
    output: Place
    constant_lines: int
    shape: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """A program's header and descriptors.

    Attributes:
        isa: the kernels that it is laid out for.
        bytes: of the whole program; what follows in the file is not its.
        arena_bytes: of RAM.
    """

    isa: Isa
    bytes: int
    arena_bytes: int
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]
    operators: tuple[ProgramOperator, ...]


def read_program(data: bytes) -> ProgramInfo:
    """The header and descriptors of a program.

    Raises:
        ModelFileError: not a program, of another version, damaged, or with descriptors that contradict themselves.
    """
    if len(data) < layout.HEADER.size or data[:4] != layout.MAGIC.to_bytes(4, "little"):
        raise ModelFileError(
            f"not a program of the native runtime: {len(data)} bytes, beginning with {bytes(data[:4])!r}",
            remedy="write one with toolchain.export.native.writer.write_program",
        )
    header = layout.HEADER.unpack_from(data)
    _, version, isa, _, size, crc, arena, operators_at, count, inputs, outputs, operands_at = header
    if version != layout.VERSION or isa not in _NAMES:
        raise ModelFileError(
            f"a program of format {version} for kernel set {isa}; this is format {layout.VERSION}",
            remedy="export the network again",
        )
    if not layout.HEADER.size <= size <= len(data):
        raise ModelFileError(f"the program says it has {size} bytes, the file has {len(data)}")
    found = zlib.crc32(data[layout.CRC_FROM : size])
    if found != crc:
        raise ModelFileError(f"the program is damaged: its checksum is {found:08x}, it says {crc:08x}")
    try:
        places = [
            Place(*layout.OPERAND.unpack_from(data[:size], operands_at + index * layout.OPERAND.size))
            for index in range(inputs + outputs)
        ]
        operators, at = [], operators_at
        for index in range(count):
            operators.append(_operator(data[:size], at, index))
            at += operators[-1].bytes
    except struct.error as error:
        raise ModelFileError(f"the program ends within its descriptors: {error}") from error
    for place in places:
        if place.offset + place.bytes > arena:
            raise ModelFileError(
                f"an operand ends at {place.offset + place.bytes}, behind the arena of {arena} bytes"
            )
    return ProgramInfo(
        _NAMES[isa], size, arena, tuple(places[:inputs]), tuple(places[inputs:]), tuple(operators)
    )


def _operator(data: bytes, at: int, index: int) -> ProgramOperator:
    kind, kernel, size, source, output, _, lines = layout.OPERATOR.unpack_from(data, at)
    if kind not in layout.KIND_NAMES or size < layout.OPERATOR.size or size % layout.ALIGNMENT:
        raise ModelFileError(f"operator {index} of the program is of kind {kind} and has {size} bytes")
    shape = None
    if kind in layout.WINDOWS:
        numbers = layout.WINDOW_BODY.unpack_from(data, at + layout.OPERATOR.size)
        shape = (numbers[0:3], numbers[3:6])
    constant = bool(source & layout.IN_PROGRAM)
    place = Place(source & ~layout.IN_PROGRAM, constant=constant)
    return ProgramOperator(layout.KIND_NAMES[kind], kernel, size, place, Place(output), lines, shape)
