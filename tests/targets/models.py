"""Tiny model files for the tests of targets."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.export.onnx_writer import graph_to_onnx
from toolchain.export.tflite_writer import write_tflite
from toolchain.export.torch_writer import write_pt2
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.float_reference import run_float

Array = NDArray[Any]


@cache
def conv_graph(channels: int = 4, size: int = 8) -> Graph:
    """A 3x3 convolution with ReLU, float."""
    rng = np.random.default_rng(channels)
    builder = GraphBuilder("float32")
    x = builder.input((1, size, size, channels))
    weights = rng.normal(size=(channels, 3, 3, channels)).astype(np.float32) / 6
    y = builder.conv2d(x, weights, np.ones(channels, np.float32), padding="same", activation="relu")
    return builder.build(y)


def tflite_conv(channels: int = 4, size: int = 8) -> bytes:
    return write_tflite(conv_graph(channels, size))


def onnx_conv(channels: int = 4) -> bytes:
    return graph_to_onnx(conv_graph(channels))


@cache
def pt2_conv() -> bytes:
    return write_pt2(conv_graph())


def tflite_add() -> bytes:
    """Two float inputs and their sum."""
    builder = GraphBuilder("float32")
    return write_tflite(
        builder.build(builder.binary("add", builder.input((1, 4, 4, 2)), builder.input((1, 4, 4, 2))))
    )


def tflite_int8_pool() -> bytes:
    """The maximum over 2x2 of int8 values: exact on every engine."""
    builder = GraphBuilder("int8")
    scale = Quantization.per_tensor(0.5, 3)
    x = builder.input((1, 4, 4, 2), scale)
    return write_tflite(builder.build(builder.pool("max_pool", x, (2, 2), quantization=scale)))


def convolution(x: Array, channels: int = 4) -> Array:
    """What `conv_graph` means: x is NHWC."""
    return run_float(conv_graph(channels), x)
