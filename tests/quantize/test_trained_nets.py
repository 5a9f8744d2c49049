"""The five trained nets, quantised after training: bit-exact on TFLite Micro, fewest operators, accuracy kept."""

from functools import cache

import numpy as np
import pytest

from targets.runners import TflmRunner
from tests.nets import NETS, nhwc, trained
from tests.quantize.graphs import accuracy, everything, integer_input, normal
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder
from toolchain.graph.float_reference import run_float
from toolchain.graph.graph import Array
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.lower import lower
from toolchain.quantize.ptq import quantize


@cache
def float_graph(name: str) -> Graph:
    return lower(trained(name)[0], NETS[name].input_shape)


def differing(graph: Graph, x: Array) -> int:
    """Number of output values in which TFLite Micro and the integer reference differ."""
    integers = integer_input(graph, x)
    results = TflmRunner().load(write_tflite(graph)).run(integers)
    return int((results != run_int8(graph, integers).reshape(results.shape)).sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETS))
def test_bit_exact_small_and_accurate(name: str) -> None:
    _, x_test, y, calibration = trained(name)
    x, graph = nhwc(x_test), float_graph(name)
    expected = float((run_float(graph, x).reshape(len(x), -1).argmax(1) == y).mean())
    for method in ("minmax", "percentile", "mse"):
        int8 = quantize(graph, nhwc(calibration), method)
        assert len(int8.nodes) == NETS[name].operators
        assert accuracy(int8, x, y) >= expected - 0.015, method
        assert differing(int8, x if method == "minmax" else x[:50]) == 0, method


def test_every_kind_is_bit_exact() -> None:
    x = normal(0, 40, 9, 8, 3)
    for scale in (1, 1e-3, 1e3):
        assert differing(quantize(everything(), scale * x), 2 * scale * x) == 0


@pytest.mark.parametrize("rank", [2, 4])
def test_rescaled_joins_are_bit_exact_and_close(rank: int) -> None:
    """A softmax or hard-sigmoid joined to a tensor of another range."""
    b = GraphBuilder()
    x = b.input((1, 6) if rank == 2 else (1, 3, 3, 6))
    if rank == 2:
        joined = b.concatenation([b.unary("softmax", x), x], axis=1)
    else:
        gate = b.depthwise_conv2d(x, normal(1, 1, 1, 1, 6), normal(2, 6), activation="hard_sigmoid")
        joined = b.concatenation([b.pool("max_pool", gate, (1, 1)), x])
    graph = b.build(joined)
    data = 2 * normal(3, *(30, *graph.tensors[x].shape[1:]))
    int8 = quantize(graph, data)
    assert differing(int8, data) == 0
    q = int8.tensors[int8.outputs[0]].quantization
    assert q is not None
    real = (run_int8(int8, integer_input(int8, data)).astype(np.float64) - q.zero_point[0]) * q.scale[0]
    assert np.abs(real - run_float(graph, data)).max() <= 1.6 * q.scale[0]


def test_dead_parts_are_bit_exact() -> None:
    """Zero weights, a channel with nothing but a bias, a sum that cancels, an input that never moves."""
    weights = np.zeros((3, 1, 1, 2), np.float32)
    weights[1] = 1e-12
    b = GraphBuilder()
    x = b.input((1, 2, 2, 2))
    y = b.conv2d(x, weights, np.array([0, 3, -2], np.float32))
    minus = b.depthwise_conv2d(y, -np.ones((1, 1, 1, 3), np.float32), np.full(3, 1e-9, np.float32))
    graph = b.build(b.concatenation([b.binary("add", y, minus), y]))
    for data in (np.zeros((3, 2, 2, 2), np.float32), normal(0, 3, 2, 2, 2)):
        int8 = quantize(graph, data)
        assert differing(int8, data) == 0
        q = int8.tensors[int8.outputs[0]].quantization
        assert q is not None
        real = (run_int8(int8, integer_input(int8, data)).astype(np.float64) - q.zero_point[0]) * q.scale[0]
        assert np.abs(real - run_float(graph, data)).max() <= 2 * q.scale[0]
