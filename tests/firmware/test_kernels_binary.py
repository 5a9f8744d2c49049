"""add and mul on an emulated core: every pair of values, so that each tie of both roundings is met."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.firmware.weighted_core import Core
from toolchain.export.native.pieces import Where, pieces_of
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.integer_reference import run_int8

VALUES = np.arange(-128, 128).astype(np.int8)
PAIRS = (np.repeat(VALUES, 256).reshape(1, 256, 256), np.tile(VALUES, 256).reshape(1, 256, 256))
# Ratio of the operands' scales, scale and zero point of the output. Shifts of the smaller operand of 0 (equal scales),
# 1 to 4 (assembly) and more (C); outputs of -128, where the assembly needs no sign, and others.
SCALE = 0.0625
ADDS = [
    (1.0, 0.125, 4),
    (0.5, 0.125, 4),
    (0.5, 0.0731, 4),
    (0.37, 0.02, -128),
    (0.09, 0.05, -128),
    (0.04, 0.9, 127),
]


@pytest.fixture(scope="module", params=["gcc", "zig"])
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Core:
    if request.param == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is a Debian package; zig compiles the same kernels")
    return Core(tmp_path_factory.mktemp("binary"), request.param)


def binary(kind: Any, ratio: float, out: float, zero: int) -> Graph:
    b = GraphBuilder("int8")
    x = b.input((1, 256, 256), Quantization.per_tensor(SCALE, 3))
    y = b.input((1, 256, 256), Quantization.per_tensor(SCALE * ratio, -7))
    return b.build(b.binary(kind, x, y, quantization=Quantization.per_tensor(out, zero)))


def run(core: Core, graph: Graph, values: tuple[NDArray[np.int8], ...] = PAIRS) -> NDArray[np.int8]:
    (node,) = graph.nodes
    (piece,) = pieces_of(graph, 0, node)
    head = piece.descriptor(Where(0, 0, 0, 0), 0)
    inputs = dict(zip(node.inputs, values, strict=True))
    buffers = (head, *(inputs[name].tobytes() for name in piece.inputs), values[0].size)
    output = core.call(f"bf_{node.operator.kind}", buffers)[-1]
    return np.frombuffer(output, np.int8).reshape(values[0].shape)


@pytest.mark.parametrize(("ratio", "out", "zero"), ADDS)
def test_all_pairs_of_an_add(core: Core, ratio: float, out: float, zero: int) -> None:
    graph = binary("add", ratio, out, zero)
    np.testing.assert_array_equal(run(core, graph), run_int8(graph, *PAIRS))


def test_all_pairs_of_a_mul(core: Core) -> None:
    for out, zero in ((0.004, -128), (8 * SCALE * SCALE * 0.5, 9)):
        graph = binary("mul", 0.5, out, zero)
        np.testing.assert_array_equal(run(core, graph), run_int8(graph, *PAIRS))


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_lengths(core: Core, count: int) -> None:
    """Quads by assembly, the rest by C, and no byte more."""
    values = tuple(x[:, :count, :1] for x in PAIRS)
    b = GraphBuilder("int8")
    x = b.input((1, count, 1), Quantization.per_tensor(0.05, 3))
    y = b.input((1, count, 1), Quantization.per_tensor(0.02, -7))
    graph = b.build(b.binary("add", x, y, activation="relu", quantization=Quantization.per_tensor(0.06, -20)))
    np.testing.assert_array_equal(run(core, graph, values), run_int8(graph, *values))


def test_pairs_tell_a_missing_rounding_term(tmp_path: Path) -> None:
    broken = Core(tmp_path, "auto", "-DBF_MUTATE=1")
    for kind, ratio in (("add", 1.0), ("add", 0.5), ("add", 0.03125), ("mul", 0.5)):
        graph = binary(kind, ratio, 2 * SCALE if kind == "add" else 8 * SCALE * SCALE * ratio, 4)  # ties
        assert (run(broken, graph) != run_int8(graph, *PAIRS)).any(), (kind, ratio)
