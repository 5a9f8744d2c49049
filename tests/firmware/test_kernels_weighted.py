"""conv2d, depthwise_conv2d and fully_connected in C: bit-identical to the integer reference, inside their buffers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any, Final, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from profilers.single import operator_inputs, operator_model
from tests.firmware.weighted import Host, Layer, layer_of
from tests.firmware.weighted_core import Core
from tests.random_graphs import int8_operators, random_inputs
from toolchain.errors import GraphError
from toolchain.export.native import weights
from toolchain.export.native.layout import Isa
from toolchain.export.native.weights import weighted_footprint
from toolchain.graph import Operator
from toolchain.graph import fixed_point as fp
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import WEIGHTED

ISAS: Final[tuple[Isa, ...]] = get_args(Isa)
COMPILERS: Final = ("gcc", "zig")
# One operator for each form of a kernel, and the form that the DSP layout gives it. `{}` is the number of channels.
FORMS: Final = {
    "conv2d 2x2x1->2x2x{} k1x1 s1x1 same none int8": weights.DSP_COLUMNS,
    "conv2d 1x1x3->1x1x{} k1x1 s1x1 same none int8": weights.DSP_PIXEL,
    "fully_connected 5->{} none int8": weights.DSP_PIXEL,
    "depthwise_conv2d 3x4x1->3x4x{} k3x3 s1x1 same none int8": weights.DSP_3X3,
    "depthwise_conv2d 5x1x1->5x1x{} k3x3 s1x1 same none int8": weights.DSP_3X3,
    "depthwise_conv2d 8x1x1->4x1x{} k3x3 s2x2 same none int8": weights.DSP_3X3,
    "depthwise_conv2d 1x9x1->1x5x{} k1x5 s1x2 same none int8": weights.DSP_PLANES,
    "depthwise_conv2d 4x2x1->4x2x{} k5x1 s1x1 same none int8": weights.DSP_PLANES,
    "depthwise_conv2d 1x5x1->1x5x{} k1x3 s1x1 same none int8": weights.DSP_LINE,
    "depthwise_conv2d 7x1x1->7x1x{} k5x1 s1x1 same none int8": weights.DSP_LINE,
    "depthwise_conv2d 5x1x1->3x1x{} k3x1 s2x2 same none int8": weights.DSP_LINE,
}
# Shapes that random operators are too small for: several chunks, bands and groups, with and without a rest.
SHAPES: Final = (
    "conv2d 32x9x16->32x9x6 k3x3 s1x1 same relu int8",
    "conv2d 33x33x3->17x17x5 k3x3 s2x2 same relu6 int8",
    "conv2d 49x10x1->25x5x8 k10x4 s2x2 same none int8",
    "conv2d 12x7x1->12x7x4 k3x3 s1x1 same relu int8",
    "conv2d 6x9x2->6x9x4 k3x2 s1x1 same relu int8",
    "conv2d 9x3x1->9x3x4 k2x4 s1x1 same relu int8",
    "conv2d 7x11x70->7x11x3 k1x1 s1x1 valid relu int8",
    "conv2d 9x9x132->7x7x2 k3x3 s1x1 valid none int8",
    "conv2d 1x70x12->1x34x9 k1x4 s1x2 valid relu int8",
    "conv2d 30x1x5->30x1x4 k7x1 s1x1 same none int8",
    "conv2d 3x3x30->1x1x17 k3x3 s1x1 valid none int8",
    "depthwise_conv2d 40x33x6->40x33x6 k3x3 s1x1 same relu6 int8",
    "depthwise_conv2d 25x5x9->25x5x18 k3x3 s1x1 same relu int8",
    "depthwise_conv2d 41x33x6->21x17x6 k3x3 s2x2 same none int8",
    "depthwise_conv2d 42x13x8->21x7x8 k3x3 s2x2 same relu int8",
    "depthwise_conv2d 7x6x4->3x2x8 k3x3 s2x2 valid relu int8",
    "depthwise_conv2d 2x9x4->2x9x4 k3x3 s1x1 same relu6 int8",
    "depthwise_conv2d 12x9x5->10x7x5 k3x3 s1x1 valid relu int8",
    "depthwise_conv2d 1x9x5->1x9x5 k3x3 s1x1 same relu int8",
    "depthwise_conv2d 20x24x5->20x24x5 k5x5 s1x1 same relu int8",
    "depthwise_conv2d 11x7x4->7x5x4 k5x3 s1x1 valid none int8",
    "depthwise_conv2d 1x90x7->1x30x14 k1x9 s1x3 same none int8",
    "depthwise_conv2d 1x131x7->1x131x7 k1x3 s1x1 same none int8",
    "depthwise_conv2d 1x64x8->1x32x8 k1x3 s1x2 same relu int8",
    "depthwise_conv2d 67x1x4->67x1x8 k3x1 s1x1 same relu6 int8",
    "depthwise_conv2d 67x1x6->33x1x6 k3x1 s2x2 valid relu int8",
    "depthwise_conv2d 60x1x4->60x1x4 k13x1 s1x1 same none int8",
    "depthwise_conv2d 1x31x5->1x31x5 k1x9 s1x1 same relu int8",
    "depthwise_conv2d 1x40x4->1x37x8 k1x4 s1x1 valid none int8",
    "depthwise_conv2d 23x1x8->23x1x8 k15x1 s1x1 same relu int8",
    "depthwise_conv2d 40x2x8->40x2x8 k17x1 s1x1 same relu int8",
    "depthwise_conv2d 1x9x4->1x9x4 k1x7 s1x1 same relu6 int8",
    "depthwise_conv2d 16x16x3->13x13x3 k4x4 s1x1 valid none int8",
    "fully_connected 641->35 relu int8",
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    built = Host(tmp_path_factory.mktemp("kernels"))
    yield built
    built.close()


@pytest.fixture(scope="module")
def mutant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    built = Host(tmp_path_factory.mktemp("mutant"), "-DBF_MUTATE=1")
    yield built
    built.close()


def core_for(compiler: str, folder: Any, *options: str, **facts: str) -> Core:
    if compiler == "gcc" and shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is a Debian package; zig compiles the same kernels")
    return Core(folder, compiler, *options, **facts)


@pytest.fixture(scope="module", params=COMPILERS)
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Core:
    return core_for(request.param, tmp_path_factory.mktemp("core"))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", WEIGHTED)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_operators(host: Host, kind: Any, isa: Isa, data: st.DataObject) -> None:
    graph = data.draw(int8_operators(kind, extreme=data.draw(st.booleans())))
    layer = layer_of(graph)
    laid, footprint = layer.laid_out(isa), weighted_footprint(layer.op, isa)
    assert (len(laid.weights), len(laid.channels)) == (footprint.weight_bytes, footprint.channel_bytes)
    for x in random_inputs(graph, 2, data.draw(st.integers(0, 999)))[0]:
        got = host.run(layer, isa, x, data.draw(st.booleans()))
        np.testing.assert_array_equal(got, run_int8(graph, x[None]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("signature", SHAPES)
def test_shapes(host: Host, isa: Isa, signature: str) -> None:
    graph = operator_model(Operator.parse(signature))
    (x,) = operator_inputs(graph)
    for channels_first in (True, False):
        got = host.run(layer_of(graph), isa, x, channels_first)
        np.testing.assert_array_equal(got, run_int8(graph, x))


@pytest.mark.parametrize("signature", SHAPES)
def test_shapes_on_the_core(core: Core, signature: str) -> None:
    graph = operator_model(Operator.parse(signature))
    (x,) = operator_inputs(graph)
    np.testing.assert_array_equal(core.run(layer_of(graph), "dsp", x), run_int8(graph, x))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_operators_on_the_core(core: Core, data: st.DataObject) -> None:
    graph = data.draw(int8_operators(data.draw(st.sampled_from(WEIGHTED)), extreme=data.draw(st.booleans())))
    (x,) = random_inputs(graph, 1, data.draw(st.integers(0, 999)))
    np.testing.assert_array_equal(core.run(layer_of(graph), "dsp", x[0]), run_int8(graph, x))


def test_plain_kernels_on_a_core_without_dsp(tmp_path: Any) -> None:
    core = core_for("auto", tmp_path, board="nucleo-g071rb")
    for signature in SHAPES[::3]:
        graph = operator_model(Operator.parse(signature))
        (x,) = operator_inputs(graph)
        np.testing.assert_array_equal(core.run(layer_of(graph), "plain", x), run_int8(graph, x))


def test_ties_on_a_core_without_dsp(tmp_path: Any) -> None:
    """Its long products are made of short ones."""
    core = core_for("auto", tmp_path, board="nucleo-g071rb")
    for form in [*FORMS][::2]:
        for zero in (-128, 20):
            assert (
                wrong_ties(lambda layer, x: core.run(layer, "plain", x), tie_layer(form, zero, step=11)) == 0
            )
    broken = core_for("auto", tmp_path, "-DBF_MUTATE=1", board="nucleo-g071rb")
    layer = tie_layer("fully_connected 5->{} none int8", -5, step=11)
    assert wrong_ties(lambda layer, x: broken.run(layer, "plain", x), layer) > 10


def test_kernels_without_assembly_on_the_core(tmp_path: Any) -> None:
    """The C forms that stand beside the assembly, with the real instructions."""
    core = core_for("auto", tmp_path, "-DBF_NO_ASSEMBLY")
    for signature in SHAPES[::2]:
        graph = operator_model(Operator.parse(signature))
        (x,) = operator_inputs(graph)
        np.testing.assert_array_equal(core.run(layer_of(graph), "dsp", x), run_int8(graph, x))


# Requantisation. Random inputs seldom meet a tie; here weights are zero and each channel's bias is a sum next to one.


def tie_sums(multiplier: int, right_shift: int, zero: int) -> NDArray[np.int64]:
    """Sums within 3 of where the rounded result changes, for all results that are not clamped."""
    results = np.arange(-130 - zero, 130 - zero)
    exact = [(2 * int(n) + 1) * 2 ** (right_shift + 30) // multiplier for n in results]
    sums = np.unique(np.add.outer(exact, np.arange(-3, 4)))
    return sums[np.abs(sums) < 2**31]


def tie_layer(
    form: str, zero: int, step: int = 5, shifts: tuple[int, ...] = (*range(1, 18), 0, -1, -4)
) -> Layer:
    """A layer of zero weights whose channels are ties of many multipliers; `shifts` are to the right."""
    rng = np.random.default_rng(zero + 200)
    rows = [
        (s, m, -e)
        for e in shifts
        for m in (2**30, 2**31 - 1, int(rng.integers(2**30, 2**31)))
        for s in tie_sums(m, e, zero)[::step]
    ]
    sums, multipliers, shift = np.array(rows, np.int64).T
    op = Operator.parse(form.format(len(rows)))
    shape = op.weight_shape
    assert shape is not None
    return Layer(op, np.zeros(shape, np.int8), sums.astype(np.int32), 3, zero, multipliers, shift, -128, 127)


def tie_outputs(layer: Layer) -> NDArray[np.int64]:
    scaled = fp.multiply_by_quantized_multiplier(layer.bias.astype(np.int64), layer.multipliers, layer.shifts)
    return np.clip(fp.wrap32(scaled + layer.out_zero), -128, 127)


def wrong_ties(run: Callable[[Layer, NDArray[np.int8]], Any], layer: Layer) -> int:
    x = np.random.default_rng(5).integers(-128, 128, layer.op.inputs[0]).astype(np.int8)
    return int((run(layer, x) != tie_outputs(layer)).sum())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zero", [-128, -5, 127])
def test_ties(host: Host, isa: Isa, form: str, zero: int) -> None:
    layer = tie_layer(form, zero)
    assert layer.laid_out(isa).kernel == (FORMS[form] if isa == "dsp" else weights.PLAIN)
    assert wrong_ties(lambda layer, x: host.run(layer, isa, x), layer) == 0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMS)
def test_ties_tell_a_missing_rounding_term(mutant: Host, isa: Isa, form: str) -> None:
    assert wrong_ties(lambda layer, x: mutant.run(layer, isa, x), tie_layer(form, -5)) > 100


def test_ties_tell_a_prescaled_product_that_is_rounded(tmp_path: Any) -> None:
    """SMMLAR for SMMLA: few sums show it, so that all right shifts of prescaled channels stand side by side."""
    host, core = Host(tmp_path, "-DBF_MUTATE=2"), core_for("auto", tmp_path, "-DBF_MUTATE=2")
    shifts = {
        weights.DSP_3X3: range(1, 11),
        weights.DSP_LINE: range(1, 11),
        weights.DSP_COLUMNS: range(1, 15),
    }
    for form, kernel in [(form, kernel) for form, kernel in FORMS.items() if kernel in shifts]:
        layer = tie_layer(form, -128, 4, shifts=tuple(range(1, 16)))
        table = np.frombuffer(layer.laid_out("dsp").channels, "<i4").reshape(-1, 4)
        scaled = (table[:, 2] != 0) & (table[:, 3] >= 0)
        assert set(-layer.shifts[scaled]) == set(shifts[kernel]), "what weights of zero allow"
        for run in (host.run, core.run):
            assert wrong_ties(lambda layer, x, run=run: run(layer, "dsp", x), layer) > 10
    host.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zero", [-128, 20])
def test_ties_on_the_core(core: Core, form: str, zero: int) -> None:
    assert wrong_ties(lambda layer, x: core.run(layer, "dsp", x), tie_layer(form, zero, step=11)) == 0


def test_ties_on_the_core_tell_a_missing_rounding_term(tmp_path: Any) -> None:
    broken = core_for("auto", tmp_path, "-DBF_MUTATE=1")
    for form in FORMS:
        assert wrong_ties(lambda layer, x: broken.run(layer, "dsp", x), tie_layer(form, -5, step=11)) > 10


def test_sums_outside_the_bounds_take_the_long_way() -> None:
    """A channel at the limit keeps the short form, one beyond does not; sizes stay."""
    op = Operator.parse("fully_connected 4->3 none int8")
    bias = np.array([2**30 - 1, 2**30, -(2**30)], np.int32)
    ones = np.ones(3, np.int64)
    laid = weights.layout_weighted(
        op, np.zeros((3, 4), np.int8), bias, 0, 0, ones << 30, -8 * ones, -128, 127, "dsp"
    )
    rounding = np.frombuffer(laid.channels, "<i4").reshape(3, 4)[:, 2]
    assert rounding.tolist() == [128, 0, 0]
    assert len(laid.weights) == weighted_footprint(op, "dsp").weight_bytes


def test_refusals() -> None:
    with pytest.raises(GraphError, match="no weights"):
        weighted_footprint(Operator.parse("add 2x2x2,2x2x2->2x2x2 none int8"), "dsp")
    with pytest.raises(GraphError, match="70000"):
        weighted_footprint(Operator.parse("fully_connected 70000->1 none int8"), "plain")
