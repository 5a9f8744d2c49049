"""Convolutions by Winograd's F(2x2, 3x3): bit-identical to the definition, inside their buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from profilers.single import operator_inputs, operator_model
from tests.firmware.test_kernels_weighted import COMPILERS, core_for, tie_layer, wrong_ties
from tests.firmware.weighted import Host, Layer, layer_of
from tests.firmware.weighted_core import Core
from toolchain.errors import GraphError
from toolchain.export.native import weights
from toolchain.export.native.weights import algorithms, weighted_footprint
from toolchain.graph import Operator
from toolchain.graph import fixed_point as fp
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import same_padding

QUIET: Final = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
FORM: Final = "conv2d 2x2x4->2x2x{} k3x3 s1x1 same none int8"
# Steps of 16 channels, of one turn, of several, with and without steps to skip; lone tiles, columns, rows, channels.
SHAPES: Final = (
    "conv2d 8x8x16->8x8x16 k3x3 s1x1 same relu int8",
    "conv2d 16x16x32->16x16x4 k3x3 s1x1 same none int8",
    "conv2d 8x8x64->8x8x6 k3x3 s1x1 same none int8",
    "conv2d 5x7x12->5x7x5 k3x3 s1x1 same relu6 int8",
    "conv2d 9x6x20->7x4x3 k3x3 s1x1 valid relu int8",
    "conv2d 8x3x140->6x1x9 k3x3 s1x1 valid none int8",
    "conv2d 1x17x32->1x17x6 k3x3 s1x1 same none int8",
    "conv2d 2x1x16->2x1x3 k3x3 s1x1 same relu int8",
    "conv2d 1x1x4->1x1x2 k3x3 s1x1 same none int8",
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    built = Host(tmp_path_factory.mktemp("winograd"))
    yield built
    built.close()


@pytest.fixture(scope="module", params=COMPILERS)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Core:
    return core_for(request.param, tmp_path_factory.mktemp("winograd_core"))


@pytest.mark.parametrize("signature", SHAPES)
def test_shapes(host: Host, signature: str) -> None:
    graph = operator_model(Operator.parse(signature))
    (x,) = operator_inputs(graph)
    for channels_first in (True, False):
        got = host.run(layer_of(graph, "winograd"), "dsp", x, channels_first)
        np.testing.assert_array_equal(got, run_int8(graph, x))


@pytest.mark.parametrize("signature", SHAPES)
def test_shapes_on_the_core(core: Core, signature: str) -> None:
    graph = operator_model(Operator.parse(signature))
    (x,) = operator_inputs(graph)
    np.testing.assert_array_equal(core.run(layer_of(graph, "winograd"), "dsp", x), run_int8(graph, x))


@st.composite
def layers(draw: st.DrawFn) -> tuple[Layer, NDArray[np.int8]]:
    """A layer of any shape, with weights and inputs at their ends or anywhere, and an input."""
    padding, channels = draw(st.sampled_from(["same", "valid"])), 4 * draw(st.integers(1, 20))
    low = 1 if padding == "same" else 3
    size, out_c = [draw(st.integers(low, 9)) for _ in range(2)], draw(st.integers(2, 5))
    out = size if padding == "same" else [n - 2 for n in size]
    op = Operator.parse(
        f"conv2d {size[0]}x{size[1]}x{channels}->{out[0]}x{out[1]}x{out_c} k3x3 s1x1 {padding} none int8"
    )
    rng = np.random.default_rng(draw(st.integers(0, 999)))

    def values(shape: tuple[int, ...], kind: str) -> NDArray[np.int8]:
        if kind == "ends":
            return rng.choice([-128, 127], shape).astype(np.int8)
        return (
            np.full(shape, -128 if kind == "least" else 127)
            if kind != "any"
            else rng.integers(-128, 128, shape)
        )

    kinds = st.sampled_from(["ends", "least", "greatest", "any"])
    assert op.weight_shape is not None
    layer = Layer(
        op=op,
        weights=values(op.weight_shape, draw(kinds)).astype(np.int8),
        bias=rng.integers(-(2**31), 2**31, out_c).astype(np.int32) >> draw(st.sampled_from([0, 2, 3, 8, 20])),
        in_zero=draw(st.sampled_from([-128, -3, 127])),
        out_zero=draw(st.sampled_from([-128, 0, 127])),
        multipliers=rng.integers(2**30, 2**31, out_c),
        shifts=-rng.integers(draw(st.sampled_from([-2, 1])), 20, out_c),
        least=-128,
        greatest=127,
        algorithm="winograd",
    )
    return layer, values(op.inputs[0], draw(kinds)).astype(np.int8)


def definition(layer: Layer, x: NDArray[np.int8]) -> NDArray[np.int64]:
    """The convolution as it is defined: sums wrap as int32, as on every core."""
    pads = [(0, 0)] * 2
    if layer.op.padding == "same":
        pads = [same_padding(size, 3, 1) for size in x.shape[1:3]]
    wide = np.pad(x.astype(np.int64) - layer.in_zero, [(0, 0), *pads, (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(1, 2))
    sums = fp.wrap32(np.einsum("nhwcij,oijc->nhwo", windows, layer.weights.astype(np.int64)) + layer.bias)
    scaled = fp.multiply_by_quantized_multiplier(sums, layer.multipliers, layer.shifts)
    return np.clip(fp.wrap32(scaled + layer.out_zero), -128, 127)


@settings(max_examples=200, **QUIET)
@given(case=layers(), channels_first=st.booleans())
def test_any_layer(host: Host, case: tuple[Layer, NDArray[np.int8]], channels_first: bool) -> None:
    layer, x = case
    np.testing.assert_array_equal(host.run(layer, "dsp", x, channels_first), definition(layer, x))
    laid, found = layer.laid_out("dsp"), weighted_footprint(layer.op, "dsp", "winograd")
    assert (len(laid.weights), len(laid.channels)) == (found.weight_bytes, found.channel_bytes)


@settings(max_examples=60, **QUIET)
@given(case=layers())
def test_any_layer_on_the_core(core: Core, case: tuple[Layer, NDArray[np.int8]]) -> None:
    layer, x = case
    np.testing.assert_array_equal(core.run(layer, "dsp", x), definition(layer, x))


@pytest.mark.parametrize("zero", [-128, -5, 127])
def test_ties(host: Host, zero: int) -> None:
    layer = replace(tie_layer(FORM, zero), algorithm="winograd")
    assert layer.laid_out("dsp").kernel == weights.DSP_WINOGRAD
    assert wrong_ties(lambda layer, x: host.run(layer, "dsp", x), layer) == 0


@pytest.mark.parametrize("zero", [-128, -5, 127])
def test_ties_on_the_core(core: Core, zero: int) -> None:
    layer = replace(tie_layer(FORM, zero, step=29), algorithm="winograd")
    assert wrong_ties(lambda layer, x: core.run(layer, "dsp", x), layer) == 0


@pytest.mark.parametrize("mutation", [1, 2])
def test_ties_tell_a_wrong_rounding(tmp_path, mutation: int) -> None:
    """A dropped sign term, and a high product that is not rounded, in the assembly."""
    zero = -5 if mutation == 1 else -128
    broken = core_for("auto", tmp_path, f"-DBF_MUTATE={mutation}")
    layer = replace(tie_layer(FORM, zero, step=29), algorithm="winograd")
    assert wrong_ties(lambda layer, x: broken.run(layer, "dsp", x), layer) > 10


def test_ties_tell_a_missing_sign_term_in_c(tmp_path) -> None:
    broken = Host(tmp_path, "-DBF_MUTATE=1")
    layer = replace(tie_layer(FORM, -5), algorithm="winograd")
    assert wrong_ties(lambda layer, x: broken.run(layer, "dsp", x), layer) > 100
    broken.close()


def test_where_it_is_offered() -> None:
    def of(signature: str) -> tuple[str, ...]:
        return algorithms(Operator.parse(signature), "dsp")

    assert of(SHAPES[0]) == ("direct", "winograd")
    assert algorithms(Operator.parse(SHAPES[0]), "plain") == ("direct",)
    assert of("conv2d 8x8x16->4x4x16 k3x3 s2x2 same relu int8") == ("direct",)
    assert of("conv2d 8x8x6->8x8x16 k3x3 s1x1 same relu int8") == ("direct",)
    assert of("depthwise_conv2d 8x8x16->8x8x16 k3x3 s1x1 same relu int8") == ("direct",)
    assert of("conv2d 3x3x3640->1x1x2 k3x3 s1x1 valid none int8") == ("direct", "winograd")
    assert of("conv2d 3x3x3644->1x1x2 k3x3 s1x1 valid none int8") == ("direct",)
    with pytest.raises(GraphError, match="no algorithm 'winograd'"):
        weighted_footprint(Operator.parse("fully_connected 4->4 none int8"), "dsp", "winograd")
