"""Runs a float graph with numpy: what a graph means, and the source of calibration ranges.

All arithmetic is float32. Fast enough for hundreds of small images: windows are strided views, convolutions are
matrix products over them, and depthwise convolutions sum over the taps of their kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from toolchain.errors import GraphError
from toolchain.graph.graph import Array, Graph, Node
from toolchain.graph.operator import WEIGHTED, Activation, Kind, Operator, window_pads

FloatArray = NDArray[np.float32]

# Floats in one block of unrolled convolution windows (16 MB): bounds the memory for a large batch.
_BLOCK: Final = 1 << 22


def run_float(graph: Graph, x: Array) -> FloatArray:
    """The first output of a float graph.

    Args:
        graph: a float graph with one input.
        x: input with any batch size N: N x H x W x C, or N x F where the graph's input is 2-D.

    Returns:
        The output, N x the rest of the output tensor's shape, float32.

    Raises:
        GraphError: an int8 graph, several inputs, or an `x` of another shape.
    """
    return run_float_all(graph, x)[graph.outputs[0]]


def run_float_all(graph: Graph, x: Array) -> dict[str, FloatArray]:
    """Every activation of a float graph: tensor name -> N x the rest of its shape, the input included.

    Arguments and errors are those of `run_float`. A constant that is an output of the graph is listed as well.
    """
    values = _check(graph, x)
    for node in graph.nodes:
        values[node.output] = _run(graph, node, values)
    values.update({name: graph.constants[name] for name in graph.outputs if name in graph.constants})
    return values


def activate(y: FloatArray, activation: Activation) -> FloatArray:
    """A fused activation applied to `y`, which may be overwritten."""
    if activation == "relu":
        return np.maximum(y, 0, out=y)
    if activation == "relu6":
        return np.clip(y, 0, 6, out=y)
    if activation == "hard_sigmoid":
        y += 3
        np.clip(y, 0, 6, out=y)
        y *= np.float32(1 / 6)
    return y


def _check(graph: Graph, x: Array) -> dict[str, FloatArray]:
    if graph.dtype != "float32":
        raise GraphError("run_float needs a float graph", remedy="use integer_reference.run_int8")
    if len(graph.inputs) != 1:
        raise GraphError(f"run_float needs a graph with one input, this has {len(graph.inputs)}")
    name = graph.inputs[0]
    shape = graph.tensors[name].shape
    if x.ndim != len(shape) or x.shape[1:] != shape[1:]:
        wanted = " x ".join(["N", *(str(d) for d in shape[1:])])
        raise GraphError(f"input is {x.shape}, the graph needs {wanted}", remedy="give NHWC with a batch")
    return {name: np.ascontiguousarray(x, np.float32)}


def _run(graph: Graph, node: Node, values: dict[str, FloatArray]) -> FloatArray:
    op = node.operator
    data = [values[n] if n in values else graph.constants[n] for n in node.inputs[: len(op.inputs)]]
    if op.kind in WEIGHTED:
        weights, bias = (graph.constants[n] for n in node.inputs[-2:])
        return activate(_WEIGHTED[op.kind](op, data[0], weights) + bias, op.activation)
    return activate(_OTHERS[op.kind](op, data), op.activation)


def _windows(op: Operator, x: FloatArray, fill: float = 0.0) -> FloatArray:
    """View N x OH x OW x KH x KW x C of the windows of `x`, with `fill` in its border."""
    (kh, kw), (sh, sw) = op.kernel, op.stride
    pads = ((0, 0), *window_pads(op), (0, 0))
    if any(p for pair in pads for p in pair):
        x = np.pad(x, pads, constant_values=fill)
    (n, _, _, c), (bn, bh, bw, bc) = x.shape, x.strides
    _, oh, ow, _ = op.output
    return as_strided(x, (n, oh, ow, kh, kw, c), (bn, bh * sh, bw * sw, bh, bw, bc), writeable=False)


def _conv2d(op: Operator, x: FloatArray, weights: FloatArray) -> FloatArray:
    columns = np.ascontiguousarray(weights.reshape(weights.shape[0], -1).T)
    windows = _windows(op, x)
    y = np.empty((x.shape[0], *op.output[1:]), np.float32)
    step = max(1, _BLOCK // (op.output[1] * op.output[2] * columns.shape[0]))
    for start in range(0, x.shape[0], step):
        block = windows[start : start + step].reshape(-1, columns.shape[0])
        y[start : start + step] = (block @ columns).reshape(-1, *op.output[1:])
    return y


def _depthwise_conv2d(op: Operator, x: FloatArray, weights: FloatArray) -> FloatArray:
    # Output channel c * multiplier + m belongs to input channel c.
    multiplier = op.output[3] // op.inputs[0][3]
    windows = _windows(op, x.repeat(multiplier, axis=3) if multiplier > 1 else x)
    y = np.zeros((x.shape[0], *op.output[1:]), np.float32)
    for row in range(op.kernel[0]):
        for column in range(op.kernel[1]):
            y += windows[:, :, :, row, column] * weights[0, row, column]
    return y


def _fully_connected(op: Operator, x: FloatArray, weights: FloatArray) -> FloatArray:
    y: FloatArray = x.reshape(x.shape[0], -1) @ weights.T
    return y


def _average_pool(op: Operator, data: Sequence[FloatArray]) -> FloatArray:
    total: FloatArray = _windows(op, data[0]).sum(axis=(3, 4))
    if op.padding == "valid":
        return total / np.float32(op.kernel[0] * op.kernel[1])
    inside = np.ones((1, *data[0].shape[1:3], 1), np.float32)
    count: FloatArray = _windows(op, inside).sum(axis=(3, 4))  # the padding is not counted
    return total / count


def _max_pool(op: Operator, data: Sequence[FloatArray]) -> FloatArray:
    y: FloatArray = _windows(op, data[0], fill=-np.inf).max(axis=(3, 4))
    return y


def _softmax(op: Operator, data: Sequence[FloatArray]) -> FloatArray:
    exponentials = np.exp(data[0] - data[0].max(axis=-1, keepdims=True))
    y: FloatArray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return y


def _hard_swish(op: Operator, data: Sequence[FloatArray]) -> FloatArray:
    return data[0] * activate(data[0].copy(), "hard_sigmoid")


def _concatenation(op: Operator, data: Sequence[FloatArray]) -> FloatArray:
    batch = max(part.shape[0] for part in data)  # constants have a batch of 1
    return np.concatenate([np.broadcast_to(p, (batch, *p.shape[1:])) for p in data], axis=op.axis)


_WEIGHTED: Final[dict[Kind, Callable[[Operator, FloatArray, FloatArray], FloatArray]]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
}
_OTHERS: Final[dict[Kind, Callable[[Operator, Sequence[FloatArray]], FloatArray]]] = {
    "add": lambda op, data: data[0] + data[1],
    "mul": lambda op, data: data[0] * data[1],
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "pad": lambda op, data: np.pad(data[0], op.pads),
    "reshape": lambda op, data: data[0].reshape(data[0].shape[0], *op.output[1:]),
    "softmax": _softmax,
    "hard_swish": _hard_swish,
    "concatenation": _concatenation,
}
