"""A float graph with every kind, activation and padding, and helpers to run int8 graphs."""

import numpy as np

from toolchain.graph import Graph, GraphBuilder, quantize_array
from toolchain.graph.graph import Array
from toolchain.graph.integer_reference import run_int8


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def everything() -> Graph:
    """1x9x8x3 -> softmax over 5, through every kind of operator."""
    b = GraphBuilder()
    x = b.input((1, 9, 8, 3))
    y = b.conv2d(x, normal(1, 4, 3, 3, 3), normal(2, 4), stride=(2, 1), padding="same", activation="relu6")
    wide = b.depthwise_conv2d(y, normal(3, 1, 3, 2, 8), normal(4, 8), padding="same", activation="relu")
    gate = b.pool("average_pool", wide, (5, 8))
    gate = b.conv2d(gate, normal(5, 8, 1, 1, 8), normal(6, 8), activation="hard_sigmoid")
    y = b.binary("mul", wide, gate)
    y = b.binary("add", y, b.constant(normal(7, 1, 1, 1, 8)), activation="relu")
    y = b.unary("hard_swish", b.conv2d(y, normal(8, 4, 1, 1, 8), normal(9, 4), stride=(1, 2)))
    y = b.pad(y, ((0, 0), (1, 0), (0, 2), (0, 0)))
    y = b.concatenation([b.pool("max_pool", y, (3, 2), stride=(1, 1), padding="same"), y])
    y = b.pool("average_pool", y, (3, 3), stride=(2, 2), padding="same", activation="relu")
    y = b.reshape(y, (1, 3 * 3 * 8))
    y = b.fully_connected(y, normal(10, 5, 72) / 8, normal(11, 5), activation="none")
    return b.build(b.unary("softmax", y))


def integer_input(graph: Graph, x: Array) -> Array:
    """Real values as the int8 input of an int8 graph."""
    quantization = graph.tensors[graph.inputs[0]].quantization
    assert quantization is not None
    return quantize_array(x, quantization)


def accuracy(graph: Graph, x: Array, y: Array) -> float:
    """Share of samples whose largest int8 output is the label's."""
    outputs = run_int8(graph, integer_input(graph, x)).reshape(len(x), -1)
    return float((outputs.argmax(1) == y).mean())
