"""Weights of conv2d, depthwise_conv2d and fully_connected as the kernels of firmware/kernels read them.

Which form of a kernel an operator gets, and every size, follows from its shapes and the chosen algorithm alone, so that
a cost model can predict flash and RAM without weights. The layouts are described where they are read: the first lines
of each kernel's file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import GraphError
from toolchain.export.native.layout import CHANNEL, LINE, Isa
from toolchain.graph.operator import WEIGHTED, Algorithm, Operator

Int8Array = NDArray[np.int8]
Integers = NDArray[np.int64]

# enum bf_kernel of firmware/kernels/kernels.h
PLAIN: Final = 0
DSP_COLUMNS: Final = 1
DSP_PIXEL: Final = 2
DSP_PLANES: Final = 3
DSP_3X3: Final = 4
DSP_WINOGRAD: Final = 5
DSP_LINE: Final = 6

COLUMN_BYTES: Final = 4608  # of scratch that columns may take, where one group of pixels does not need more
PLANE_BYTES: Final = 4096  # the same for the planes of four channels
# Of the data cache that constant_lines assumes (8 lines of 16 bytes: STM32F4 ART accelerator): what is read again and
# is no larger comes from the cache.
CACHE_BYTES: Final = 128
# Beyond these a sum takes the 64-bit requantisation: firmware/kernels/requantize.h.
SUM_LIMIT: Final = 1 << 30
# BF_PRESCALED_SHIFT of firmware/kernels/dsp.h: it serves right shifts of 4 to 10 where weights take 8 bits.
PRESCALED_SHIFT: Final = 11
PRESCALED_SUM_SHIFT: Final = 15  # BF_PRESCALED_SUM_SHIFT, of conv2d
MOST_LINE_TAPS: Final = 15
WINOGRAD_CHANNELS: Final = 3640  # beyond, four times a sum without its bias might not be an int32
_LARGEST: Final = (1 << 16) - 1  # fields of struct bf_window are uint16


@dataclass(frozen=True)
class Footprint:
    """What a weighted operator takes on a device.

    Attributes:
        weight_bytes: weights in the kernel's layout, in flash.
        channel_bytes: bias and requantisation of each output channel, in flash.
        scratch_bytes: in RAM while the operator runs.
        constant_lines: 16-byte lines of weights and channels that one run reads from flash; a line that is read again
            counts again, unless what is read between fits the data cache (CACHE_BYTES).
        in_place: the output may begin where the input begins.
        kernel: enum bf_kernel, the form; operators that differ in the image's size alone share weights of one form.
    """

    weight_bytes: int
    channel_bytes: int
    scratch_bytes: int
    constant_lines: int
    in_place: bool = False
    kernel: int = PLAIN


@dataclass(frozen=True)
class WeightedLayout:
    """Constants and fields of struct bf_window that the kernel's form decides.

    Attributes:
        kernel: enum bf_kernel.
        weights: in the kernel's layout.
        channels: one struct bf_channel per output channel.
        steps, chunk: the form's own fields.
    """

    kernel: int
    weights: bytes
    channels: bytes
    steps: int
    chunk: int


@dataclass(frozen=True)
class _Form:
    """The form of a kernel that an operator gets, from its shapes."""

    kernel: int
    steps: int
    chunk: int
    weight_bytes: int
    scratch_bytes: int
    constant_lines: int
    in_place: bool = False


def algorithms(op: Operator, isa: Isa) -> tuple[Algorithm, ...]:
    """The algorithms that an operator's kernels offer, the default first."""
    winograd = (
        isa == "dsp"
        and op.kind == "conv2d"
        and (op.kernel, op.stride) == ((3, 3), (1, 1))
        and op.inputs[0][-1] % 4 == 0
        and op.inputs[0][-1] <= WINOGRAD_CHANNELS
    )
    return ("direct", "winograd") if winograd else ("direct",)


def weighted_footprint(op: Operator, isa: Isa, algorithm: Algorithm = "direct") -> Footprint:
    """Flash and RAM of a weighted operator; exact, and the same for all values of its weights.

    Raises:
        GraphError: not a weighted operator, an algorithm that it does not have, or a dimension beyond what a
            program can hold.
    """
    form = _form(op, isa, algorithm)
    return Footprint(
        weight_bytes=form.weight_bytes,
        channel_bytes=CHANNEL.size * op.output[-1],
        scratch_bytes=form.scratch_bytes,
        constant_lines=form.constant_lines,
        in_place=form.in_place,
        kernel=form.kernel,
    )


def layout_weighted(
    op: Operator,
    weights: Int8Array,
    bias: NDArray[np.int32],
    in_zero: int,
    out_zero: int,
    multipliers: Integers,
    shifts: Integers,
    least: int,
    greatest: int,
    isa: Isa,
    algorithm: Algorithm = "direct",
) -> WeightedLayout:
    """Weights, biases and multipliers of a weighted operator as its kernel reads them.

    Args:
        op: an int8 conv2d, depthwise_conv2d or fully_connected.
        weights: int8 in TFLite's layout (OHWI, 1HWC, OI), zero points 0.
        bias: int32 per output channel, on the scale input scale * weight scale.
        in_zero, out_zero: zero points.
        multipliers, shifts: of `fixed_point.quantize_multiplier`: one, or one per output channel.
        least, greatest: clamp of the fused activation, in output steps.
        isa: the kernels to lay out for.
        algorithm: one of `algorithms(op, isa)`.

    Raises:
        GraphError: as `weighted_footprint`.
    """
    del least, greatest  # every form clamps to any range
    form = _form(op, isa, algorithm)
    channels = op.output[-1]
    rows = _rows(op, np.asarray(weights))
    flat = rows.reshape(channels, -1).astype(np.int64)
    scale = np.broadcast_to(np.asarray(multipliers, np.int64), (channels,))
    shift = np.broadcast_to(np.asarray(shifts, np.int64), (channels,))
    limit = SUM_LIMIT // 2 if form.kernel == DSP_WINOGRAD else SUM_LIMIT  # four times a sum is an int32
    table = _channels(flat, np.asarray(bias, np.int64), in_zero, out_zero, scale, shift, limit)
    if form.kernel in (DSP_PLANES, DSP_3X3, DSP_LINE):  # int16 weights: there is room to scale them
        factor = _scaled(table, flat, None if form.kernel == DSP_PLANES else out_zero)
        arranged = _arrange_planes(op, form.kernel, (rows * factor[:, None, None]).astype(np.int16))
    elif form.kernel == DSP_WINOGRAD:
        arranged = _arrange_winograd(np.asarray(weights))
    else:
        arranged = _arrange(form.kernel, rows)
        if form.kernel == DSP_COLUMNS and out_zero == -128:
            _scale_sums(table, flat)
    return WeightedLayout(
        kernel=form.kernel,
        weights=arranged,
        channels=table.astype("<i4").tobytes(),
        steps=form.steps,
        chunk=form.chunk,
    )


def _channels(
    rows: Integers,
    bias: Integers,
    in_zero: int,
    out_zero: int,
    multipliers: Integers,
    shifts: Integers,
    limit: int,
) -> Integers:
    """struct bf_channel of each output channel: `rounding` is 0 where the short requantisation would be wrong, because
    a sum or the rounding may reach the limit.
    """
    # 256 wraps of an int64 away from any limit: sums of int8 products.
    folded = (bias - in_zero * rows.sum(axis=1)).astype(np.int32).astype(np.int64)
    right = -shifts
    rounding = np.where(right >= 1, (1 << np.maximum(right - 1, 0)) + (out_zero << np.maximum(right, 0)), 0)
    reach = 128 * np.abs(rows).sum(axis=1) + np.abs(folded)
    short = (right >= 1) & (reach < limit) & (np.abs(rounding) < limit)
    return np.stack([folded, multipliers, np.where(short, rounding, 0), shifts], axis=1)


def _scaled(table: Integers, rows: Integers, out_zero: int | None) -> Integers:
    """Factor of each channel's weights; `table` is changed to match: 2^k for a prescaled channel, 2 for others of the
    short requantisation. `out_zero`: None where the kernel knows no prescaled channels.

    bf_requantize_prescaled of firmware/kernels/dsp.h: one shift for all channels, shown by a shift of 0.
    """
    folded, _, rounding, shifts = table.T.copy()
    k, constant, fits = _prescaled(table, rows, PRESCALED_SHIFT)
    scaled = fits & (np.abs(rows).max(axis=1) << k < 1 << 15) & (out_zero == -128)
    factor = np.where(scaled, 1 << k, np.where(rounding != 0, 2, 1))
    table[:, 0] = folded * factor
    table[:, 2] = np.where(scaled, constant, rounding)
    table[:, 3] = np.where(scaled, 0, shifts)
    return factor


def _scale_sums(table: Integers, rows: Integers) -> None:
    """Show the kernel of conv2d the channels whose sums it may scale: both of a pair, by a shift above 0, which is the
    factor's. An odd last channel makes a pair with the one before it, which has a pair already.
    """
    k, constant, fits = _prescaled(table, rows, PRESCALED_SUM_SHIFT)
    even = len(fits) // 2 * 2
    if len(fits) > even:
        fits[even - 1 :] &= fits[even - 1 :].all()
    fits[:even] &= fits[:even].reshape(-1, 2)[:, ::-1].ravel()
    if len(fits) > even:
        fits[even] &= fits[even - 1]
    table[:, 2] = np.where(fits, constant, table[:, 2])
    table[:, 3] = np.where(fits, k, table[:, 3])


def _prescaled(table: Integers, rows: Integers, shift: int) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    """k of each channel, its constant, whether the bounds hold: bf_requantize_prescaled of firmware/kernels/dsp.h."""
    folded, multipliers, rounding, shifts = table.T
    k = np.clip(shift + 1 + shifts, 0, 15)
    reach = (128 * np.abs(rows).sum(axis=1) + np.abs(folded)) << k
    constant = np.where(k >= 2, (1 << np.maximum(k - 2, 0)) + (rounding << np.maximum(k - 1, 0)), 0)
    fits = (rounding != 0) & (k >= 2) & (k == shift + 1 + shifts) & (reach < 1 << 31)
    fits &= ((reach * multipliers) >> 32) + np.abs(constant) < (1 << 31) - 1
    return k, constant, fits


def _rows(op: Operator, weights: Int8Array) -> Int8Array:
    """Weights as output channel x kernel rows x taps of a row."""
    if op.kind == "depthwise_conv2d":
        return np.ascontiguousarray(weights[0].transpose(2, 0, 1))
    return weights.reshape(op.output[-1], _window(op)[0], -1)


def _window(op: Operator) -> tuple[int, int, int]:
    """(rows, columns, channels) of the window that a conv2d or fully_connected sees."""
    if op.kind == "fully_connected":
        return 1, 1, math.prod(op.inputs[0])
    return (*op.kernel, op.inputs[0][-1])


def _form(op: Operator, isa: Isa, algorithm: Algorithm) -> _Form:
    if op.kind not in WEIGHTED:
        raise GraphError(f"{op.kind} has no weights")
    channels = op.output[-1]
    largest = max(*_window(op), *op.kernel, *op.stride, *op.output[1:], *op.inputs[0][1:])
    if largest > _LARGEST:
        raise GraphError(
            f"{op.signature}: a dimension of {largest}, the native runtime takes at most {_LARGEST}",
            remedy="split the operator, or use the tflm runtime",
        )
    if algorithm not in algorithms(op, isa):
        raise GraphError(
            f"{op.signature}: no algorithm {algorithm!r} with {isa} kernels",
            remedy=f"take one of: {', '.join(algorithms(op, isa))}",
        )
    if algorithm == "winograd":
        return _winograd(op)
    if op.kind == "depthwise_conv2d":
        if isa == "plain":
            return _plain_depthwise(op)
        if _is_line(op):
            return _line(op)
        return _planes_3x3(op) if op.kernel == (3, 3) and op.stride in ((1, 1), (2, 2)) else _planes(op)
    pixels = math.prod(op.output[1:-1])
    if isa == "plain":
        return _plain(op, pixels, channels)
    return _columns(op, pixels, channels) if pixels >= 4 else _pixel(op, pixels, channels)


def _lines(size: int) -> int:
    return -(-size // LINE)


def _steps(op: Operator) -> int:
    """Pairs of taps in a column, which is padded to a multiple of 4 taps."""
    return 2 * -(-math.prod(_window(op)) // 4)


def _stage_bytes(op: Operator, steps: int) -> int:
    """Bytes of a window that is copied before it is expanded: where channels are not whole words."""
    return 2 * steps if _window(op)[2] % 4 else 0


def _columns(op: Operator, pixels: int, channels: int) -> _Form:
    steps = _steps(op)
    pairs, block, group_bytes = -(-channels // 2), 4 * steps, 16 * steps
    groups = max(1, min(-(-pixels // 4), COLUMN_BYTES // group_bytes))
    # Passes of whole chunks; what is left over fills a group of its own, which overlaps the one before.
    passes = -(-pixels // (4 * groups))
    reads = passes + (pixels % 4 > 0 and groups > 1) if block <= CACHE_BYTES else -(-pixels // 4)
    # A window of one pixel is read whole before the outputs of its pass are written.
    ready = op.kernel == op.stride == (1, 1) and op.kind == "conv2d" and channels <= op.inputs[0][-1]
    return _Form(
        kernel=DSP_COLUMNS,
        steps=steps,
        chunk=4 * groups,
        weight_bytes=pairs * block,
        scratch_bytes=groups * group_bytes + _stage_bytes(op, steps),
        constant_lines=pairs * (reads * _lines(block) + 2 * passes),
        in_place=ready and (pixels % 4 == 0 or groups > 1),
    )


def _pixel(op: Operator, pixels: int, channels: int) -> _Form:
    steps = _steps(op)
    weight_bytes = -(-channels // 4) * 8 * steps
    return _Form(
        kernel=DSP_PIXEL,
        steps=steps,
        chunk=1,
        weight_bytes=weight_bytes,
        scratch_bytes=4 * steps + _stage_bytes(op, steps),
        constant_lines=pixels * (_lines(weight_bytes) + channels),
    )


def _winograd(op: Operator) -> _Form:
    _, out_h, out_w, channels = op.output
    in_c, pairs = op.inputs[0][-1], -(-channels // 2)
    tiles = -(-out_h // 2) * -(-out_w // 2)
    block = 64 * in_c  # of a pair of channels: 16 points of int16
    return _Form(
        kernel=DSP_WINOGRAD,
        steps=in_c // 2,
        chunk=4,
        weight_bytes=pairs * block,
        scratch_bytes=128 * in_c + 512 + 16 * in_c,  # windows and sums of four tiles, a window
        constant_lines=-(-tiles // 4) * (pairs * _lines(block) + channels),
    )


def _multiplies_no_channels(op: Operator) -> bool:
    return op.output[-1] == op.inputs[0][-1]


def _planes(op: Operator) -> _Form:
    _, out_h, out_w, channels = op.output
    (height, width), (stride_h, stride_w) = op.kernel, op.stride
    planes, columns = min(4, op.inputs[0][-1]), -(-((out_w - 1) * stride_w + width) // 2)

    def scratch(rows: int) -> int:
        return 4 * planes * columns * ((rows - 1) * stride_h + height)

    rows = out_h
    while rows > 1 and scratch(rows) > PLANE_BYTES:
        rows = (rows - 1) // 4 * 4 if rows > 4 else rows - 1  # outputs are done four at a time
    # Weights for windows that start at an even column, and, where there are such, at an odd one.
    words = height * (-(-width // 2) + (width // 2 + 1) * (stride_w % 2))
    bands = -(-out_h // rows)
    reads = bands if 4 * words <= CACHE_BYTES else -(-out_h * out_w // 4)
    return _Form(
        kernel=DSP_PLANES,
        in_place=_multiplies_no_channels(op),
        steps=words,
        chunk=rows,
        weight_bytes=4 * channels * words,
        scratch_bytes=scratch(rows),
        constant_lines=channels * (reads * _lines(4 * words) + bands),
    )


def _is_line(op: Operator) -> bool:
    """An image of one row or one column under three taps along it, or with stride 1 up to fifteen."""
    _, height, width, _ = op.inputs[0]
    row = op.kernel[0] == 1 and height == op.output[1] == 1
    column = op.kernel[1] == 1 and width == op.output[2] == 1
    if not (row or column):
        return False
    taps, stride = max(op.kernel), op.stride[1] if op.kernel[0] == 1 else op.stride[0]
    return (stride == 1 and 3 <= taps <= MOST_LINE_TAPS) or (stride == 2 and taps == 3)


def _line(op: Operator) -> _Form:
    channels, length = op.output[-1], math.prod(op.output[1:3])
    stride, words = op.stride[1] if op.kernel[0] == 1 else op.stride[0], max(op.kernel) // 2 + 1
    pairs = (length - 1) * stride // 2 + words
    return _Form(
        kernel=DSP_LINE,
        in_place=_multiplies_no_channels(op),
        steps=0,
        chunk=1,
        weight_bytes=8 * words * channels,
        scratch_bytes=4 * min(4, op.inputs[0][-1]) * pairs,
        constant_lines=channels * (_lines(8 * words) + 1),
    )


def _planes_3x3(op: Operator) -> _Form:
    _, out_h, out_w, channels = op.output
    stride = op.stride[0]
    planes, columns = min(4, op.inputs[0][-1]), ((out_w - 1) * stride + 4) // 2

    def scratch(rows: int) -> int:
        return 4 * planes * columns * ((rows - 1) * stride + 3)

    most = out_h
    while most > 1 and scratch(most) > PLANE_BYTES:
        most -= 1
    bands, block = -(-out_h // most), 2 * stride
    # Bands of about one height, of whole blocks where that needs no more of them.
    rows = min(most, out_h, -(-out_h // bands // block) * block)
    bands = -(-out_h // rows)
    return _Form(
        kernel=DSP_3X3,
        in_place=_multiplies_no_channels(op),
        steps=0,
        chunk=rows,
        weight_bytes=24 * channels,
        scratch_bytes=scratch(rows),
        constant_lines=channels * bands * 3,  # 24 bytes of weights and a channel
    )


def _plain(op: Operator, pixels: int, channels: int) -> _Form:
    taps = math.prod(_window(op))
    pairs = -(-channels // 2)
    weight_bytes = channels * taps
    if op.kind == "fully_connected":
        return _Form(PLAIN, 1, 1, weight_bytes, 0, _lines(weight_bytes) + channels)
    ready = op.kernel == op.stride == (1, 1)  # the image itself is the columns
    chunk = min(pixels, 64 if ready else max(2, COLUMN_BYTES // taps // 2 * 2))
    passes = -(-pixels // chunk)
    reads = passes
    if 2 * taps > CACHE_BYTES:
        reads = sum(-(-min(chunk, pixels - first) // 2) for first in range(0, pixels, chunk))
    return _Form(
        kernel=PLAIN,
        steps=int(ready),
        chunk=chunk,
        weight_bytes=weight_bytes,
        scratch_bytes=0 if ready else chunk * taps,
        constant_lines=pairs * (reads * _lines(2 * taps) + 2 * passes),
    )


def _plain_depthwise(op: Operator) -> _Form:
    channels, taps = op.output[-1], math.prod(op.kernel)
    reads = 1 if taps <= CACHE_BYTES else math.prod(op.output[1:3])
    return _Form(PLAIN, 0, 0, channels * taps, 0, channels * (reads * _lines(taps) + 1))


def _arrange_planes(op: Operator, kernel: int, rows: NDArray[np.int16]) -> bytes:
    if kernel == DSP_3X3:
        return rows[:, :, [0, 1, 1, 2]].astype("<i2").tobytes()
    if kernel == DSP_LINE:
        taps, words = math.prod(op.kernel), max(op.kernel) // 2 + 1
        both = np.zeros(
            (2, len(rows), 2 * words), "<i2"
        )  # of outputs at the first column of a pair, and at the second
        for phase in (0, 1):
            both[phase, :, phase : phase + taps] = rows.reshape(len(rows), taps)
        return both.reshape(2, len(rows), words, 2).transpose(1, 2, 0, 3).tobytes()
    channels, height, width = rows.shape
    sets = []
    for phase in range(1 + op.stride[1] % 2):
        wide = np.zeros((channels, height, -(-(width + phase) // 2) * 2), "<i2")
        wide[:, :, phase : phase + width] = rows
        sets.append(wide.reshape(channels, height, -1, 2).transpose(0, 2, 1, 3).reshape(channels, -1))
    return np.concatenate(sets, axis=1).tobytes()


def _arrange_winograd(filters: Int8Array) -> bytes:
    """Filters, channels x 3 x 3 x input channels, transformed: firmware/kernels/winograd.c."""
    twice = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
    points = np.einsum("ia,jb,oabc->ojic", twice, twice, filters.astype(np.int64))[:, :, [1, 0, 2, 3]]
    wide = np.zeros((-(-len(filters) // 2) * 2, 16, filters.shape[3]), "<i2")
    wide[: len(filters)] = points.reshape(len(filters), 16, -1)
    # Input channels in the order of SXTB16: (0, 2), (1, 3).
    steps = wide.reshape(len(wide), 16, -1, 2, 2).transpose(0, 1, 2, 4, 3).reshape(len(wide), 16, -1, 2)
    return steps.reshape(-1, 2, *steps.shape[1:]).transpose(0, 2, 3, 1, 4).tobytes()


def _arrange(kernel: int, rows: Int8Array) -> bytes:
    if kernel == PLAIN:
        return rows.tobytes()
    channels, height, width = rows.shape
    # Columns to multiples of 4 taps, then taps in the order of SXTB16: (0, 2), (1, 3).
    wide = np.zeros((channels, -(-height * width // 4) * 4), np.int8)
    wide[:, : height * width] = rows.reshape(channels, -1)
    steps = wide.reshape(channels, -1, 2, 2).transpose(0, 1, 3, 2).reshape(channels, -1, 2)
    if kernel == DSP_COLUMNS:
        if channels % 2:  # the last one with the one before it, once more; a single one with itself
            steps = np.concatenate([steps[:-1], steps[-2:] if channels > 1 else steps.repeat(2, axis=0)])
        return steps.reshape(-1, 2, steps.shape[1], 2).transpose(0, 2, 3, 1).tobytes()
    filled = np.zeros((-(-channels // 4) * 4, *steps.shape[1:]), np.int8)
    filled[:channels] = steps
    return filled.reshape(-1, 2, 2, steps.shape[1], 2).transpose(0, 3, 1, 4, 2).tobytes()
