"""The bytes of a boardfit program, as firmware/runtime/program.h has them: a test compares the two.

Everything is little-endian. Names are those of the header's structs.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Literal, get_args

Isa = Literal["dsp", "plain"]
"""Which kernels a program is laid out for: with the DSP extension of ARMv7E-M and ARMv8-M, or C alone."""

ISAS: Final[tuple[Isa, ...]] = get_args(Isa)
ISA_CODES: Final[dict[Isa, int]] = {"plain": 0, "dsp": 1}

MAGIC: Final = 0x31504642
VERSION: Final = 1
ALIGNMENT: Final = 16  # of descriptors and blocks of constants, and of the program itself
LINE: Final = 16  # bytes that flash gives at once, in `constant_lines`
IN_PROGRAM: Final = 0x80000000
MAX_RANK: Final = 6

CONV2D: Final = 1
DEPTHWISE: Final = 2
FULLY_CONNECTED: Final = 3
ADD: Final = 4
MUL: Final = 5
AVERAGE_POOL: Final = 6
MAX_POOL: Final = 7
PAD: Final = 8
COPY: Final = 9
SOFTMAX: Final = 10
TABLE: Final = 11

KIND_NAMES: Final[dict[int, str]] = {
    CONV2D: "conv2d",
    DEPTHWISE: "depthwise_conv2d",
    FULLY_CONNECTED: "fully_connected",
    ADD: "add",
    MUL: "mul",
    AVERAGE_POOL: "average_pool",
    MAX_POOL: "max_pool",
    PAD: "pad",
    COPY: "copy",
    SOFTMAX: "softmax",
    TABLE: "table",
}
WINDOWS: Final = (CONV2D, DEPTHWISE, FULLY_CONNECTED, AVERAGE_POOL, MAX_POOL)

# magic, version, isa, reserved, bytes, crc32 | arena_bytes, operators, operator_count, inputs, outputs, operands
HEADER: Final = Struct("<IHBBII IIHBBI")
CRC_FROM: Final = 16  # the checksum covers everything behind itself
OPERAND: Final = Struct("<II")  # place, bytes
CHANNEL: Final = Struct("<iiii")  # bias, multiplier, rounding, shift

OPERATOR: Final = Struct("<BBHIIII")  # kind, kernel, bytes, input, output, scratch, constant_lines

# What follows the operator's head, per kind.
# in_h, in_w, in_c, out_h, out_w, out_c | kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left |
# in_zero, out_zero, least, greatest | steps, chunk, weights, channels
WINDOW_BODY: Final = Struct("<6H 6H 4b HHII")
# second, zero_a, zero_b, out_zero, least, greatest, rank, reserved | multiplier and shift of a, b, out | rounding
BINARY_BODY: Final = Struct("<I5bBH 6i i")
EXTENT: Final = Struct("<III")  # size, stride_a, stride_b
PAD_BODY: Final = Struct("<bBH")  # value, rank, reserved
PADDING: Final = Struct("<III")  # size, before, after
COPY_BODY: Final = Struct("<III")  # rows, row_bytes, out_stride
SOFTMAX_BODY: Final = Struct("<HHII")  # rows, depth, radius, table
TABLE_BODY: Final = Struct("<II")  # count, table


def padded(size: int, alignment: int = ALIGNMENT) -> int:
    """`size` rounded up to a multiple of `alignment`."""
    return -(-size // alignment) * alignment
