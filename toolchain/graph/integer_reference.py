"""Runs an int8 graph with integer arithmetic: every value equals that of TFLite Micro's reference kernels.

This is what an int8 model means in boardfit: exported files, the firmware's kernels and simulated quantisation are
held against it, and it is held against the `tflite-micro` wheel (tests/graph/test_integer_reference.py). Names in
brackets are the functions of TFLite Micro that a rule comes from.

TFLite Micro refuses some graphs and dies of others; here both are a `GraphError` that names the limit:
- every requantisation: the ratio of scales below 2^30 (beyond, C does not define the shift); zero points are int8;
- add: twice the larger input scale below 2^20 times the output scale (TFLite Micro aborts);
- fully_connected with one weight scale: the bias scale equals input scale * weight scale, to 0.02 of the output scale;
- pools: the same zero point before and after, scales within 1e-6; concatenation: exactly the same, 10 inputs at most;
- hard_swish: the input scale below 128 times the output scale, and below 1.2e7;
- softmax: output scale 1/256 and zero point -128, input scale above 2^-26, and a sum of exp(x - max) below 512 in each
  row (TFLite Micro aborts; only rows of 512 values or more can get there);
- relu6: 6 / output scale is an int32; pad: 5 dimensions at most; add, mul, concatenation: 6.
Sums and left shifts that leave an int32 wrap, as they do in the compiled kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from toolchain.errors import GraphError
from toolchain.graph import fixed_point as fp
from toolchain.graph.graph import Array, Graph, Node, Quantization
from toolchain.graph.operator import WEIGHTED, Activation, Kind, Operator, window_pads

Int8Array = NDArray[np.int8]

MAX_CONCATENATION_INPUTS: Final = 10  # kMaxInputNum of TFLite Micro's concatenation.cc
MAX_PAD_RANK: Final = 5  # PadKernelMaxDimensionCount
MAX_RANK: Final = 6  # RuntimeShape::kMaxSmallSize: what a shape holds without a heap
# TFLite Micro aborts when a softmax's sum of exp(x - max) reaches this; only rows longer than that can get there.
MAX_SOFTMAX_SUM: Final = 512

_ADD_LEFT_SHIFT: Final = 20
# Products of int8 pairs (255 * 128 at most) whose sum a float32 still holds exactly.
_EXACT_FLOAT32_PRODUCTS: Final = (1 << 24) // (255 * 128)
_BLOCK: Final = 1 << 20  # numbers in one block of unrolled windows: bounds the memory for a large batch


def run_int8(graph: Graph, *inputs: Array) -> Int8Array:
    """The first output of an int8 graph.

    Args:
        graph: an int8 graph.
        inputs: one int8 array per input of the graph, all with the same batch size N: N x H x W x C, or N x F where
            the graph's input is 2-D.

    Returns:
        The output, N x the rest of the output tensor's shape.

    Raises:
        GraphError: a float graph, inputs of another shape or type, a missing scale, or scales that TFLite Micro
            does not accept.
    """
    return run_int8_all(graph, *inputs)[graph.outputs[0]]


def run_int8_all(graph: Graph, *inputs: Array) -> dict[str, Int8Array]:
    """Every activation of an int8 graph: tensor name -> N x the rest of its shape, the inputs included.

    Arguments and errors are those of `run_int8`. A constant that is an output of the graph is listed as well.
    """
    values = _check_inputs(graph, inputs)
    for index, node in enumerate(graph.nodes):
        try:
            values[node.output] = _run(graph, node, values)
        except GraphError as error:
            where = f"node {index} ({node.operator.kind} {node.source})".replace(" )", ")")
            raise GraphError(f"{where}: {error.message}", remedy=error.remedy) from error
    values.update({name: graph.constants[name] for name in graph.outputs if name in graph.constants})
    return values


def activation_range(activation: Activation, quantization: Quantization) -> tuple[int, int]:
    """(least, greatest) int8 value that a fused activation lets through. [CalculateActivationRangeQuantized]

    Raises:
        GraphError: a scale so small that 6.0 is not an int32 any more, or an activation that int8 does not have.
    """
    scale, zero_point = np.float32(quantization.scale[0]), quantization.zero_point[0]
    if activation == "none":
        return -128, 127
    if activation == "hard_sigmoid":
        raise GraphError(
            "hard_sigmoid has no int8 form", remedy="quantise the float graph, which folds it away"
        )
    least = max(-128, zero_point)
    if activation == "relu":
        return least, 127
    six = math.floor(float(np.float32(6) / scale) + 0.5) if scale > np.float32(6 / 2**31) else 2**31
    if six >= 2**31:
        raise GraphError(f"relu6 needs a larger scale: 6 / {scale:g} is not an int32")
    return least, min(127, zero_point + six)


def _check_inputs(graph: Graph, inputs: tuple[Array, ...]) -> dict[str, Int8Array]:
    if graph.dtype != "int8":
        raise GraphError(
            "run_int8 needs an int8 graph", remedy="quantise it, or use float_reference.run_float"
        )
    if len(inputs) != len(graph.inputs):
        raise GraphError(f"the graph has {len(graph.inputs)} inputs, {len(inputs)} were given")
    for name, x in zip(graph.inputs, inputs, strict=True):
        shape = graph.tensors[name].shape
        if x.dtype != np.int8 or x.ndim != len(shape) or x.shape[1:] != shape[1:] or len(x) != len(inputs[0]):
            wanted = " x ".join(["N", *(str(d) for d in shape[1:])])
            raise GraphError(
                f"input {name!r} is {x.dtype} {x.shape}, the graph needs int8 {wanted}",
                remedy="give NHWC with a batch; quantize_array turns real values to int8",
            )
    return {name: np.asarray(x) for name, x in zip(graph.inputs, inputs, strict=True)}


def _run(graph: Graph, node: Node, values: dict[str, Int8Array]) -> Int8Array:
    op = node.operator
    names = node.inputs[: len(op.inputs)]
    data = [values[n] if n in values else graph.constants[n] for n in names]
    inputs, output = [activation_scale(graph, n) for n in names], activation_scale(graph, node.output)
    if op.kind in WEIGHTED:
        return _weighted(graph, node, data[0], inputs[0], output)
    return _KERNELS[op.kind](op, data, inputs, output)


def activation_scale(graph: Graph, name: str) -> Quantization:
    """Scale of an activation: one, with a zero point that is an int8."""
    quantization = graph.tensors[name].quantization
    if quantization is None or len(quantization.scale) != 1:
        raise GraphError(f"tensor {name!r} needs one scale")
    if not -128 <= quantization.zero_point[0] <= 127:
        raise GraphError(f"zero point {quantization.zero_point[0]} of tensor {name!r} is not an int8")
    return quantization


def _requantize(
    accumulator: fp.Integers,
    multipliers: list[tuple[int, int]],
    output: Quantization,
    activation: Activation,
) -> Int8Array:
    """int32 sums -> int8: one (multiplier, shift) for all, or one per channel (last dimension)."""
    multiplier, shift = np.array(multipliers, np.int64).T
    scaled = fp.multiply_by_quantized_multiplier(accumulator, multiplier, shift)
    return _clamp(scaled, output, activation)


def _clamp(scaled: fp.Integers, output: Quantization, activation: Activation) -> Int8Array:
    """Add the zero point (an int32 sum, which can wrap) and apply the fused activation."""
    least, greatest = activation_range(activation, output)
    return np.clip(fp.wrap32(scaled + output.zero_point[0]), least, greatest).astype(np.int8)


# Weighted operators.


def _weighted(
    graph: Graph, node: Node, x: Int8Array, source: Quantization, output: Quantization
) -> Int8Array:
    op = node.operator
    weights, bias = (graph.constants[name] for name in node.inputs[-2:])
    multipliers = weighted_multipliers(graph, node)
    centred = x.astype(np.float32) - np.float32(source.zero_point[0])
    accumulator = _ACCUMULATE[op.kind](op, centred, weights)
    # TFLite's accumulators are int32; sums beyond wrap, which only weights nobody trained can cause.
    accumulator = fp.wrap32(accumulator.astype(np.int64) + bias)
    return _requantize(accumulator, multipliers, output, op.activation)


def weighted_multipliers(graph: Graph, node: Node) -> list[tuple[int, int]]:
    """(multiplier, shift) of the ratio input scale * weight scale / output scale, one per weight scale.

    Raises:
        GraphError: scales that are missing, or that TFLite Micro does not accept.
    """
    op = node.operator
    source, output = activation_scale(graph, node.inputs[0]), activation_scale(graph, node.output)
    weights = graph.tensors[node.inputs[-2]].quantization
    if weights is None or any(weights.zero_point):
        raise GraphError("weights need scales with zero points of 0")
    if len(weights.scale) not in (1, op.output[-1]):
        raise GraphError(f"{len(weights.scale)} weight scales for {op.output[-1]} channels")
    if op.kind == "fully_connected" and len(weights.scale) == 1:
        # The bias must be on that scale as well. [GetQuantizedConvolutionMultipler]
        # TFLite Micro's source of August 2026 also rounds input scale * weight scale to float32 here, which moves
        # sums next to a tie; the wheel of October 2026, which we are held to, does not.
        bias = graph.tensors[node.inputs[-1]].quantization
        bias_scale = 0.0 if bias is None else bias.scale[0]
        product = source.scale[0] * weights.scale[0]
        difference = abs(product - bias_scale) / output.scale[0]
        if difference > 0.02:
            raise GraphError(
                f"the bias scale {bias_scale:g} is not input scale * weight scale = {product:g}: "
                f"they differ by {difference:g} of the output scale, limit 0.02"
            )
    return [fp.quantize_multiplier(source.scale[0] * scale / output.scale[0]) for scale in weights.scale]


def _exact(products: int) -> type[np.float32] | type[np.float64]:
    """A float type that sums this many products of int8 numbers exactly: BLAS has no integer product."""
    return np.float32 if products <= _EXACT_FLOAT32_PRODUCTS else np.float64


def _padded(op: Operator, x: Array, fill: float) -> Array:
    """The input with its border."""
    if op.padding == "valid":
        return x
    return np.pad(x, ((0, 0), *window_pads(op), (0, 0)), constant_values=fill)


def _taps(op: Operator, x: Array, fill: float) -> Iterator[tuple[int, int, Array]]:
    """(row, column, view N x OH x OW x C of the inputs that this tap of the kernel meets)."""
    x = _padded(op, x, fill)
    (kh, kw), (sh, sw), (_, height, width, _) = op.kernel, op.stride, op.output
    for row in range(kh):
        for column in range(kw):
            yield row, column, x[:, row : row + sh * height : sh, column : column + sw * width : sw]


def _conv2d(op: Operator, x: Array, weights: Array) -> Array:
    depth = math.prod(weights.shape[1:])
    dtype, (sh, sw) = _exact(depth), op.stride
    windows = sliding_window_view(_padded(op, x.astype(dtype, copy=False), 0), op.kernel, (1, 2))
    # N x OH x OW x KH x KW x C: channels last copies whole runs, ten times faster.
    windows = windows[:, ::sh, ::sw].transpose(0, 1, 2, 4, 5, 3)
    columns = weights.reshape(-1, depth).T.astype(dtype)
    total = np.empty((x.shape[0], *op.output[1:]), dtype)
    step = max(1, _BLOCK // (op.output[1] * op.output[2] * depth))
    for start in range(0, x.shape[0], step):
        rows = windows[start : start + step].reshape(-1, depth)
        total[start : start + step] = (rows @ columns).reshape(-1, *op.output[1:])
    return total


def _depthwise_conv2d(op: Operator, x: Array, weights: Array) -> Array:
    dtype = _exact(math.prod(op.kernel))
    multiplier = op.output[3] // x.shape[3]
    total = np.zeros((x.shape[0], *op.output[1:]), dtype)
    for row, column, view in _taps(op, x.astype(dtype, copy=False), 0):
        # Output channel c * multiplier + m belongs to input channel c.
        repeated = view.repeat(multiplier, axis=3) if multiplier > 1 else view
        total += repeated * weights[0, row, column].astype(dtype)
    return total


def _fully_connected(op: Operator, x: Array, weights: Array) -> Array:
    dtype = _exact(weights.shape[1])
    result: Array = x.reshape(x.shape[0], -1).astype(dtype, copy=False) @ weights.T.astype(dtype)
    return result


_ACCUMULATE: Final[dict[Kind, Callable[[Operator, Array, Array], Array]]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
}


# The other operators: (operator, input values, scales of the inputs, scale of the output) -> output values.


def _centred(x: Int8Array, quantization: Quantization) -> fp.Integers:
    return x.astype(np.int64) - quantization.zero_point[0]


def _check_rank(op: Operator, greatest: int) -> None:
    if len(op.output) > greatest:
        raise GraphError(f"{len(op.output)} dimensions, TFLite Micro takes at most {greatest}")


Multiplier = tuple[int, int]


def add_multipliers(
    op: Operator, inputs: list[Quantization], output: Quantization
) -> tuple[Multiplier, Multiplier, Multiplier]:
    """(multiplier, shift) of both inputs of an add, shifted left by 20 bits before, and of their sum.

    Both go to half the larger scale, which is therefore (2^30, 0) there. [CalculateOpDataAdd]

    Raises:
        GraphError: scales or a rank that TFLite Micro does not accept; so too the functions for other kinds below.
    """
    _check_rank(op, MAX_RANK)
    first, second = (q.scale[0] for q in inputs)
    twice = 2 * max(first, second)
    rescale = fp.quantize_multiplier(twice / ((1 << _ADD_LEFT_SHIFT) * output.scale[0]))
    if rescale[1] > 0:
        raise GraphError(
            f"add: twice the larger input scale ({twice:g}) must be below 2^20 times the output scale "
            f"({output.scale[0]:g})"
        )
    return fp.quantize_multiplier(first / twice), fp.quantize_multiplier(second / twice), rescale


def mul_multiplier(op: Operator, inputs: list[Quantization], output: Quantization) -> Multiplier:
    """(multiplier, shift) of a mul's product."""
    _check_rank(op, MAX_RANK)
    return fp.quantize_multiplier(inputs[0].scale[0] * inputs[1].scale[0] / output.scale[0])


def _add(op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization) -> Int8Array:
    """Both inputs go to one scale, shifted left by 20 bits. [AddFunc]"""
    *each, rescale = add_multipliers(op, inputs, output)
    first, second = (
        fp.multiply_by_quantized_multiplier(_centred(x, q) << _ADD_LEFT_SHIFT, *multiplier)
        for x, q, multiplier in zip(data, inputs, each, strict=True)
    )
    return _requantize(first + second, [rescale], output, op.activation)


def _mul(op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization) -> Int8Array:
    product = _centred(data[0], inputs[0]) * _centred(data[1], inputs[1])
    return _requantize(product, [mul_multiplier(op, inputs, output)], output, op.activation)


def check_pool_scales(op: Operator, source: Quantization, output: Quantization) -> None:
    """A pool does not rescale. Raises GraphError where it would have to."""
    # The tolerance is absolute in TFLite Micro as well.
    difference = np.float32(source.scale[0]) - np.float32(output.scale[0])
    if abs(float(difference)) > 1e-6 or source.zero_point != output.zero_point:
        raise GraphError(f"{op.kind} needs the same scale and zero point before and after")


def _average_pool(
    op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization
) -> Int8Array:
    """Integer mean of the raw values inside the image, halves away from zero."""
    check_pool_scales(op, inputs[0], output)
    x = data[0].astype(np.int32)
    total = np.zeros((len(x), *op.output[1:]), np.int32)
    for _, _, view in _taps(op, x, 0):
        total += view
    count = np.zeros((1, *op.output[1:3], 1), np.int32)
    for _, _, view in _taps(op, np.ones((1, *x.shape[1:3], 1), np.int32), 0):
        count += view
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    clamped: Int8Array = np.clip(mean, *activation_range(op.activation, output)).astype(np.int8)
    return clamped


def _max_pool(
    op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization
) -> Int8Array:
    check_pool_scales(op, inputs[0], output)
    result = np.full((len(data[0]), *op.output[1:]), -128, np.int8)
    for _, _, view in _taps(op, data[0], -128):
        np.maximum(result, view, out=result)
    return np.clip(result, *activation_range(op.activation, output))


def check_pad(op: Operator) -> None:
    """Raises GraphError where a pad has more dimensions than TFLite Micro takes."""
    _check_rank(op, MAX_PAD_RANK)


def _pad(op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization) -> Int8Array:
    """Filled with the zero point of the output; scales are not compared, as in TFLite Micro."""
    check_pad(op)
    padded: Int8Array = np.pad(data[0], op.pads, constant_values=output.zero_point[0])
    return padded


def _reshape(
    op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization
) -> Int8Array:
    return data[0].reshape(len(data[0]), *op.output[1:])


def check_concatenation(op: Operator, inputs: list[Quantization], output: Quantization) -> None:
    """A concatenation does not rescale. Raises GraphError where it would have to, and on too many inputs."""
    _check_rank(op, MAX_RANK)
    if len(inputs) > MAX_CONCATENATION_INPUTS:
        raise GraphError(f"{len(inputs)} inputs, TFLite Micro takes at most {MAX_CONCATENATION_INPUTS}")
    if any((q.scale, q.zero_point) != (output.scale, output.zero_point) for q in inputs):
        raise GraphError("concatenation needs one scale and zero point for all inputs and the output")


def _concatenation(
    op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization
) -> Int8Array:
    check_concatenation(op, inputs, output)
    batch = max(len(x) for x in data)  # constants have a batch of 1
    return np.concatenate([np.broadcast_to(x, (batch, *x.shape[1:])) for x in data], axis=op.axis)


def hard_swish_table(source: Quantization, output: Quantization) -> Int8Array:
    """x * relu6(x + 3) / 6 of all 256 inputs from -128, in 16-bit fixed point.

    [HardSwishPrepare, reference/hard_swish.h]
    """
    # TFLite Micro's source of August 2026 rounds these ratios to float32; the wheel of October 2026 does not.
    ratio = source.scale[0] / 128 / output.scale[0]
    relu_ratio = source.scale[0] / 128 * (1 << 15) / 3  # 3.0 becomes 2^15
    output_multiplier, output_shift = fp.quantize_multiplier(ratio)
    if output_shift > 0:
        raise GraphError(
            f"hard_swish: the input scale ({source.scale[0]:g}) must be below 128 times the output scale "
            f"({output.scale[0]:g})"
        )
    if relu_ratio >= 2.0**fp.MAX_SHIFT:
        raise GraphError(f"hard_swish: the input scale {source.scale[0]:g} must be below 1.2e7")
    relu_multiplier, relu_shift = fp.quantize_multiplier(relu_ratio)

    fine = _centred(np.arange(-128, 128).astype(np.int8), source) << 7
    value = fp.doubling_high_multiply(fine, _to_16_bits(output_multiplier), bits=16)
    gate = fine  # from here on Q0.15 of x / 3, then of (x / 3 + 1) / 2, in [0, 1]
    if relu_shift > 0:
        gate = fp.saturating_shift_left(gate, relu_shift - 1)
    gate = fp.doubling_high_multiply(gate, _to_16_bits(relu_multiplier), bits=16)
    if relu_shift > 0:
        gate = fp.saturating_shift_left(gate, 1)
    elif relu_shift < 0:
        gate = fp.rounding_shift_right(gate, -relu_shift, bits=16)
    gate = (gate + (1 << 15)) >> 1
    product = gate * value
    gated = np.sign(product) * (np.abs(product) >> 15)  # SaturatingDoublingHighMul: towards zero
    shifted = fp.rounding_shift_right(gated, -output_shift, bits=16)
    table: Int8Array = np.clip(shifted + output.zero_point[0], -128, 127).astype(np.int8)
    return table


def _hard_swish(
    op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization
) -> Int8Array:
    result: Int8Array = hard_swish_table(inputs[0], output)[data[0].astype(np.int64) + 128]
    return result


def _to_16_bits(multiplier: int) -> int:
    """Q0.31 -> Q0.15, rounded. [DownScaleInt32ToInt16Multiplier]"""
    return fp.INT16[1] if multiplier >= fp.INT32[1] - (1 << 15) else (multiplier + (1 << 15)) >> 16


def softmax_table(source: Quantization, output: Quantization) -> tuple[fp.Integers, int]:
    """exp of the 256 distances that a value can have to the largest of its row, in Q0.31; and the largest that counts.

    [PreprocessSoftmaxScaling, CalculateInputRadius, reference/softmax.h]
    """
    if output.zero_point[0] != -128 or output.scale[0] != 1 / 256:
        raise GraphError("softmax needs an output scale of 1/256 and a zero point of -128")
    real = min(source.scale[0] * (1 << 26), 2.0**31 - 1)
    if real <= 1:
        raise GraphError(f"softmax: the input scale {source.scale[0]:g} must be above 2^-26")
    # A shift of 31 would overflow, but then only a distance of 0 is inside the radius.
    multiplier, shift = fp.quantize_multiplier(real, max_shift=31)
    radius = math.floor(31 * (1 << 26) / (1 << shift))

    distance = np.arange(256)
    inside = distance <= radius
    differences = np.where(inside, -distance, 0) << shift
    exponentials = fp.exp_of_negative(fp.doubling_high_multiply(differences, multiplier))
    return np.where(inside, exponentials, 0), min(radius, 255)


def _softmax(
    op: Operator, data: list[Int8Array], inputs: list[Quantization], output: Quantization
) -> Int8Array:
    """Softmax over the last dimension."""
    exponentials, radius = softmax_table(inputs[0], output)
    summands = fp.rounding_shift_right(exponentials, 12)

    x = data[0].astype(np.int64)
    distances = x.max(axis=-1, keepdims=True) - x
    total = summands[distances].sum(axis=-1, keepdims=True)  # Q12.19, at least 1.0
    if total.max() >= MAX_SOFTMAX_SUM << 19:
        raise GraphError(
            f"softmax: {op.output[-1]} values so equal that their sum of exponentials reaches {MAX_SOFTMAX_SUM}; "
            "TFLite Micro aborts on it",
            remedy=f"end the network without softmax, or with fewer than {MAX_SOFTMAX_SUM} classes",
        )
    headroom = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)  # leading zeros of an int32
    reciprocal = fp.reciprocal_of_one_plus((total << headroom) - (1 << 31))
    exponent = 12 - headroom + 31 - 8
    scaled = fp.doubling_high_multiply(exponentials[distances], reciprocal)
    result = np.clip(fp.rounding_shift_right(scaled, exponent) - 128, -128, 127)
    return np.where(distances <= radius, result, -128).astype(np.int8)


_KERNELS: Final[
    dict[Kind, Callable[[Operator, list[Int8Array], list[Quantization], Quantization], Int8Array]]
] = {
    "add": _add,
    "mul": _mul,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "pad": _pad,
    "reshape": _reshape,
    "softmax": _softmax,
    "hard_swish": _hard_swish,
    "concatenation": _concatenation,
}
