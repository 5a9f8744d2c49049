"""The planner's estimate of cycles beside what the emulator counts of the kernels."""

from __future__ import annotations

from typing import Final

import pytest

from profilers.single import operator_inputs, operator_model
from tests.firmware.test_kernels_weighted import core_for
from tests.firmware.weighted import layer_of
from tests.firmware.weighted_core import Core
from toolchain.export.native.plan import estimated_cycles
from toolchain.export.native.weights import algorithms
from toolchain.graph import Operator

CONVOLUTIONS: Final = (
    "conv2d 16x16x8->16x16x16 k3x3 s1x1 same relu int8",
    "conv2d 12x12x16->12x12x16 k3x3 s1x1 same relu int8",
    "conv2d 7x7x32->7x7x32 k3x3 s1x1 same none int8",
    "conv2d 4x4x64->4x4x16 k3x3 s1x1 same none int8",
    "conv2d 16x16x16->8x8x16 k3x3 s2x2 same relu int8",
    "conv2d 1x64x16->1x64x16 k1x3 s1x1 same relu int8",
    "conv2d 1x128x8->1x64x16 k1x3 s1x2 same relu int8",
    "conv2d 1x17x32->1x17x8 k3x3 s1x1 same none int8",
    "conv2d 8x8x64->8x8x32 k1x1 s1x1 same relu int8",
)
OTHERS: Final = (
    "conv2d 16x16x3->16x16x8 k3x3 s1x1 same relu int8",
    "conv2d 20x10x1->10x5x16 k10x4 s2x2 same relu int8",
    "fully_connected 128->32 relu int8",
    "fully_connected 64->10 none int8",
    "depthwise_conv2d 16x16x16->16x16x16 k3x3 s1x1 same relu int8",
    "depthwise_conv2d 16x16x16->8x8x16 k3x3 s2x2 same relu6 int8",
    "depthwise_conv2d 8x8x16->8x8x16 k5x5 s1x1 same none int8",
    "depthwise_conv2d 1x64x16->1x64x16 k1x3 s1x1 same relu int8",
    "depthwise_conv2d 1x64x16->1x32x16 k1x3 s1x2 same relu int8",
    "depthwise_conv2d 1x64x16->1x64x16 k1x9 s1x1 same relu int8",
)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    return core_for("auto", tmp_path_factory.mktemp("estimated"))


@pytest.mark.parametrize(
    ("signature", "tolerance"), [(s, 0.05) for s in CONVOLUTIONS] + [(s, 0.12) for s in OTHERS]
)
def test_near_the_count(core: Core, signature: str, tolerance: float) -> None:
    op = Operator.parse(signature)
    graph = operator_model(op)
    (x,) = operator_inputs(graph)
    for algorithm in algorithms(op, "dsp"):
        core.run(layer_of(graph, algorithm), "dsp", x, count=True)
        assert estimated_cycles(op, algorithm) == pytest.approx(core.cycles, rel=tolerance), algorithm
