"""Descriptors of the operators without weights: shapes, strides and fixed-point numbers as firmware/kernels reads them.

A `Piece` is one operator of a program before anything has a place. A node becomes one piece; a reshape becomes none,
because its output shares the place of its input, and a concatenation one copy per input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from toolchain.errors import UnsupportedError
from toolchain.export.native import layout
from toolchain.export.native.patches import Part
from toolchain.graph import integer_reference as reference
from toolchain.graph.graph import Graph, Node, Quantization
from toolchain.graph.operator import Operator, Shape, window_pads

_KIND: Final = {
    "conv2d": layout.CONV2D,
    "depthwise_conv2d": layout.DEPTHWISE,
    "fully_connected": layout.FULLY_CONNECTED,
    "average_pool": layout.AVERAGE_POOL,
    "max_pool": layout.MAX_POOL,
}
_LARGEST_WORD: Final = 0xFFFF

# add and mul: firmware/kernels/kernels.h
GENERAL: Final = 0
SHORT: Final = 1
_LARGEST_SHORT_SHIFT: Final = 22  # zero point << shift stays an int32 with room for the product

Extent = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Where:
    """What a descriptor needs to know about places: of its operands, and of its own constants."""

    input: int
    output: int
    scratch: int
    constants: int
    second: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """One operator of a program.

    Attributes:
        node: index of the graph's node.
        inputs: names of the tensors it reads (the weights of weighted kinds are among the constants).
        kind, kernel: bf_operator's.
        constants: tables or weights and channels, each padded to 16 bytes.
        constant_lines: as in bf_operator, without operands that are constants of the graph.
        body: everything behind bf_operator.
        into: byte of the output tensor at which it writes.
        walks: how often each input is read from its begin to its end.
        part: what of the node it does, where that is not all.
    """

    node: int
    inputs: tuple[str, ...]
    kind: int
    body: Callable[[Where], bytes]
    kernel: int = 0
    constants: bytes = b""
    constant_lines: int = 0
    into: int = 0
    walks: tuple[int, ...] = (1,)
    part: Part | None = None

    def descriptor(self, where: Where, constant_lines: int) -> bytes:
        """The operator's bytes, padded to 16."""
        body = self.body(where)
        size = layout.padded(layout.OPERATOR.size + len(body))
        head = layout.OPERATOR.pack(
            self.kind, self.kernel, size, where.input, where.output, where.scratch, constant_lines
        )
        return (head + body).ljust(size, b"\0")


def window_body(
    op: Operator,
    zeros: tuple[int, int],
    clamp: tuple[int, int],
    *,
    steps: int = 0,
    chunk: int = 0,
    weights: int = 0,
    channels: int = 0,
) -> bytes:
    """Fields of bf_window behind its head. A fully connected layer is a 1 x 1 image of all its inputs.

    Raises:
        UnsupportedError: a dimension above 65535.
    """
    if op.kind == "fully_connected":
        source: Shape = (1, 1, math.prod(op.inputs[0]))
        output: Shape = (1, 1, op.output[-1])
    else:
        source, output = op.inputs[0][1:], op.output[1:]
    pads = [before for before, _ in window_pads(op)] if op.kind != "fully_connected" else [0, 0]
    numbers = (*source, *output, *op.kernel, *op.stride, *pads)
    if max(numbers) > _LARGEST_WORD:
        raise UnsupportedError(
            f"{op.kind}: a dimension of {max(numbers)}, the native runtime takes at most {_LARGEST_WORD}",
            remedy="export to .tflite and use the runtime tflm",
        )
    return layout.WINDOW_BODY.pack(*numbers, *zeros, *clamp, steps, chunk, weights, channels)


def extents(a: Shape, b: Shape) -> list[Extent]:
    """(size, stride of a, stride of b) per dimension, outermost first, of two operands that broadcast.

    Dimensions that both walk alike are merged, so an element-wise operator of equal shapes is one long run. The
    innermost strides are 0 or 1.
    """
    strides = [[0] * len(a), [0] * len(b)]
    for shape, found in zip((a, b), strides, strict=True):
        step = 1
        for axis in reversed(range(len(shape))):
            found[axis] = step if shape[axis] > 1 else 0
            step *= shape[axis]
    merged: list[Extent] = []
    for x, y, stride_a, stride_b in zip(a, b, *strides, strict=True):
        size = max(x, y)
        if size == 1:
            continue
        if merged and merged[-1][1] == stride_a * size and merged[-1][2] == stride_b * size:
            size *= merged.pop()[0]
        merged.append((size, stride_a, stride_b))
    return merged or [(1, 1, 1)]


def paddings(op: Operator) -> list[tuple[int, int, int]]:
    """(size, before, after) per dimension of a pad, outermost first; what is not padded joins the one above it."""
    found: list[tuple[int, int, int]] = []
    for size, (before, after) in zip(op.inputs[0], op.pads, strict=True):
        if found and not before and not after:
            found[-1] = (found[-1][0] * size, found[-1][1] * size, found[-1][2] * size)
        else:
            found.append((size, before, after))
    return found[1:] if len(found) > 1 and found[0] == (1, 0, 0) else found


def pieces_of(graph: Graph, index: int, node: Node, part: Part | None = None) -> list[Piece]:
    """The operators that a node without weights becomes, or a part of it.

    Raises:
        GraphError: scales that TFLite Micro does not accept.
        UnsupportedError: a dimension that does not fit into its field.
    """
    op, names = node.operator if part is None else part.operator, node.inputs
    inputs = [reference.activation_scale(graph, name) for name in names]
    output = reference.activation_scale(graph, node.output)
    clamp = reference.activation_range(op.activation, output)
    zeros = (inputs[0].zero_point[0], output.zero_point[0])
    if op.kind in ("add", "mul"):
        return [_binary(op, index, names, inputs, output)]
    if op.kind in ("average_pool", "max_pool"):
        reference.check_pool_scales(op, inputs[0], output)
        body = window_body(op, zeros, clamp)
        return [Piece(index, names, _KIND[op.kind], lambda where: body)]
    if op.kind == "pad":
        reference.check_pad(op)
        axes = paddings(op)
        body = layout.PAD_BODY.pack(zeros[1], len(axes), 0)
        body += b"".join(layout.PADDING.pack(*axis) for axis in axes)
        return [Piece(index, names, layout.PAD, lambda where: body)]
    if op.kind == "reshape":
        return [_copy(index, names[0], op.inputs[0], 1, 0)] if names[0] in graph.constants else []
    if op.kind == "concatenation":
        reference.check_concatenation(op, inputs, output)
        pieces, into = [], 0
        rows, stride = math.prod(op.output[: op.axis]), math.prod(op.output[op.axis :])
        for name, shape in zip(names, op.inputs, strict=True):
            pieces.append(_copy(index, name, shape, rows, into, stride))
            into += math.prod(shape) // rows
        return pieces
    if op.kind == "softmax":
        return [_softmax(op, index, names, inputs[0], output)]
    return [_hard_swish(op, index, names, inputs[0], output)]


def _binary(
    op: Operator, index: int, names: Sequence[str], inputs: list[Quantization], output: Quantization
) -> Piece:
    axes = extents(*op.inputs)
    if op.kind == "add":
        first, second, out = reference.add_multipliers(op, inputs, output)
    else:
        out = reference.mul_multiplier(op, inputs, output)
        first = second = (0, 0)
    zeros = [q.zero_point[0] for q in inputs]
    if op.kind == "add" and inputs[1].scale[0] > inputs[0].scale[0]:
        # The larger scale first: its half is exact, which the short form uses. A sum does not mind.
        first, second, zeros, names = second, first, zeros[::-1], names[::-1]
        axes = [(size, stride_b, stride_a) for size, stride_a, stride_b in axes]
    right, zero = -out[1], output.zero_point[0]
    short = 1 <= right <= _LARGEST_SHORT_SHIFT and (op.kind == "mul" or second[0] > 0)
    rounding = (1 << (right - 1)) + (zero << right) if short else 0
    clamp = reference.activation_range(op.activation, output)
    tail = b"".join(layout.EXTENT.pack(*axis) for axis in axes)

    def body(where: Where) -> bytes:
        fields = (where.second, *zeros, zero, *clamp, len(axes), 0, *first, *second, *out, rounding)
        return layout.BINARY_BODY.pack(*fields) + tail

    # How often each operand is walked from its begin to its end: once for each index of the dimensions that it lacks.
    walks = tuple(math.prod(axis[0] for axis in axes if axis[operand] == 0) for operand in (1, 2))
    kind = layout.ADD if op.kind == "add" else layout.MUL
    return Piece(index, tuple(names), kind, body, SHORT if short else GENERAL, walks=walks)


def _copy(index: int, name: str, shape: Shape, rows: int, into: int, stride: int = 0) -> Piece:
    row = math.prod(shape) // rows
    if stride == row:
        rows, row, stride = 1, rows * row, rows * row
    body = layout.COPY_BODY.pack(rows, row, stride)
    return Piece(index, (name,), layout.COPY, lambda where: body, into=into)


def _softmax(
    op: Operator, index: int, names: tuple[str, ...], source: Quantization, output: Quantization
) -> Piece:
    exponentials, radius = reference.softmax_table(source, output)
    depth = op.output[-1]
    rows = math.prod(op.output) // depth
    if max(rows, depth) > _LARGEST_WORD:
        raise UnsupportedError(
            f"softmax over {rows} rows of {depth}: the native runtime takes at most {_LARGEST_WORD} of each"
        )
    # Two look-ups a value, anywhere in 1 kB: none is there yet.
    lines = 2 * rows * depth
    return Piece(
        index,
        names,
        layout.SOFTMAX,
        lambda where: layout.SOFTMAX_BODY.pack(rows, depth, radius, where.constants),
        constants=exponentials.astype("<i4").tobytes(),
        constant_lines=lines,
    )


def _hard_swish(
    op: Operator, index: int, names: tuple[str, ...], source: Quantization, output: Quantization
) -> Piece:
    table: np.ndarray[tuple[int, ...], np.dtype[np.int8]] = reference.hard_swish_table(source, output)
    count = math.prod(op.output)
    return Piece(
        index,
        names,
        layout.TABLE,
        lambda where: layout.TABLE_BODY.pack(count, where.constants),
        constants=table.tobytes(),
        constant_lines=min(count, 16 + count // 2),
    )
