"""average_pool and max_pool on an emulated core: every tie of a mean, and windows that are cut at the border."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from profilers.single import operator_inputs, operator_model
from tests.firmware.test_kernels_weighted import COMPILERS, core_for
from tests.firmware.weighted_core import Core
from toolchain.export.native.pieces import Where, pieces_of
from toolchain.graph import Graph, GraphBuilder, Operator, Quantization
from toolchain.graph.integer_reference import run_int8

# By fours in one pass and in several, by words, by bytes; rows that are wider than the windows that fit.
SHAPES = (
    "5x7x8->2x3x8 k2x2 s2x2 valid none int8",
    "5x7x8->3x4x8 k2x2 s2x2 same relu int8",
    "9x9x4->9x9x4 k3x3 s1x1 same none int8",
    "9x8x12->5x4x12 k3x3 s2x2 same relu6 int8",
    "6x6x4->2x2x4 k2x2 s3x3 valid none int8",
    "8x8x4->7x7x4 k2x2 s1x1 valid none int8",
    "4x4x4->4x4x4 k1x1 s1x1 same none int8",
    "1x31x8->1x15x8 k1x2 s1x2 valid none int8",
    "1x31x4->1x8x4 k1x4 s1x4 same none int8",
    "31x1x4->7x1x4 k5x1 s4x4 valid none int8",
    "5x3x8->1x1x8 k5x3 s5x3 valid none int8",
    "4x5x4->1x1x4 k4x5 s1x1 valid none int8",
    "5x6x3->2x3x3 k2x2 s2x2 valid none int8",
    "7x5x6->4x3x6 k3x3 s2x2 same none int8",
)
WINDOWS = ((1, 1), (1, 2), (2, 2), (1, 3), (3, 3), (5, 7), (15, 17), (16, 16), (17, 16))


@pytest.fixture(scope="module", params=COMPILERS)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Core:
    return core_for(request.param, Path(tmp_path_factory.mktemp("pool")))


def run(core: Core, graph: Graph, x: NDArray[Any]) -> NDArray[np.int8]:
    (node,) = graph.nodes
    (piece,) = pieces_of(graph, 0, node)
    shape = graph.tensors[graph.outputs[0]].shape
    buffers = (piece.descriptor(Where(0, 0, 0, 0), 0), x.tobytes(), int(np.prod(shape)))
    return np.frombuffer(core.call(f"bf_{node.operator.kind}", buffers)[-1], np.int8).reshape(shape)


@pytest.mark.parametrize("kind", ["average_pool", "max_pool"])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(core: Core, kind: str, shape: str) -> None:
    graph = operator_model(Operator.parse(f"{kind} {shape}"))
    (x,) = operator_inputs(graph)
    np.testing.assert_array_equal(run(core, graph, x), run_int8(graph, x))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("window", WINDOWS)
def test_means_around_every_tie(core: Core, window: tuple[int, int], channels: int) -> None:
    """Sums next to each half, exact ones, both ends; of up to four values every sum."""
    (height, width), size = window, window[0] * window[1]
    near = np.arange(-128, 128)[:, None] * size + [0, size // 2 - 1, size // 2, size // 2 + 1]
    sums = np.resize(np.clip(near, -128 * size, 127 * size), (256, 4))[:, :channels]
    values = sums // size + (np.arange(size)[:, None, None] < sums % size)  # pixels, windows, channels
    x = values.reshape(height, width, 256, channels).transpose(0, 2, 1, 3).reshape(1, height, -1, channels)
    b = GraphBuilder("int8")
    scale = Quantization.per_tensor(0.05, 3)
    placed = b.input(x.shape, scale)
    graph = b.build(b.pool("average_pool", placed, window, quantization=scale))
    data = x.astype(np.int8)
    np.testing.assert_array_equal(run(core, graph, data), run_int8(graph, data))
