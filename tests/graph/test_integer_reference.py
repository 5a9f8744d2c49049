"""The integer reference against TFLite Micro, bit for bit, and against the arithmetic written out by hand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.interpreters import run_tflm, run_tflm_outputs
from tests.random_graphs import int8_graphs, int8_operators, random_inputs
from toolchain.errors import GraphError
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph import fixed_point as fp
from toolchain.graph.integer_reference import activation_range, run_int8, run_int8_all
from toolchain.graph.operator import KINDS, Kind
from toolchain.graph.tflite_reader import read_tflite

Array = NDArray[np.int64]
INT32 = st.integers(-(2**31), 2**31 - 1)
MULTIPLIERS = st.one_of(st.just(1 << 30), st.just((1 << 31) - 1), st.integers(1 << 30, (1 << 31) - 1))
PROPERTIES = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
FEW, MANY = settings(PROPERTIES, max_examples=40), settings(PROPERTIES, max_examples=1500)


def scale(value: float, zero_point: int = 0) -> Quantization:
    return Quantization.per_tensor(value, zero_point)


def check_against_tflm(graph: Graph, *inputs: Array) -> None:
    np.testing.assert_array_equal(run_int8(graph, *inputs), run_tflm(write_tflite(graph), *inputs))


# Fixed point: the C code of gemmlowp, translated literally for single numbers.


def towards_zero(a: int, b: int) -> int:
    return abs(a) // b * (1 if a >= 0 else -1)


def literal_high_multiply(a: int, b: int, bits: int = 32) -> int:
    if a == b == -(1 << (bits - 1)):
        return (1 << (bits - 1)) - 1
    nudge = 1 << (bits - 2) if a * b >= 0 else 1 - (1 << (bits - 2))
    return towards_zero(a * b + nudge, 1 << (bits - 1))


def literal_shift_right(x: int, exponent: int) -> int:
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if (x & mask) > threshold else 0)


@settings(PROPERTIES, max_examples=500)
@given(INT32, INT32)
def test_high_multiply_is_the_c_code(a: int, b: int) -> None:
    assert fp.doubling_high_multiply(np.array(a), b) == literal_high_multiply(a, b)


@pytest.mark.parametrize("tie", [-3, -1, 1, 3, 12345, -54321])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_high_multiply_at_ties(tie: int, off: int) -> None:
    a = tie * (1 << 15) + off  # times 2^15 is an odd multiple of 2^30: exactly half
    assert fp.doubling_high_multiply(np.array(a), 1 << 15) == literal_high_multiply(a, 1 << 15)


def test_high_multiply_saturates_in_its_one_case() -> None:
    least = -(1 << 31)
    assert fp.doubling_high_multiply(np.array(least), least) == (1 << 31) - 1
    assert fp.doubling_high_multiply(np.array(-(1 << 15)), -(1 << 15), bits=16) == (1 << 15) - 1


@settings(PROPERTIES, max_examples=500)
@given(INT32, st.integers(0, 31), st.sampled_from([-1, 0, 1]))
def test_rounding_shift_is_the_c_code(x: int, exponent: int, off: int) -> None:
    half = (x >> exponent << exponent) + (1 << exponent >> 1) + off  # around a tie
    for value in (x, half):
        assert fp.rounding_shift_right(np.array(value), exponent) == literal_shift_right(value, exponent)


@settings(PROPERTIES, max_examples=500)
@given(st.floats(2.0**-40, 2.0**29.9))
def test_a_multiplier_stands_for_its_number(real: float) -> None:
    multiplier, shift = fp.quantize_multiplier(real)
    if real < 2.0**-33:
        assert (multiplier, shift) == (0, 0)
    elif multiplier:
        assert 1 << 30 <= multiplier < 1 << 31
        assert math.ldexp(multiplier, shift - 31) == pytest.approx(real, rel=2.0**-31)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.0, (0, 0)),
        (0.5, (1 << 30, 0)),
        (1.0, (1 << 30, 1)),
        (1.0 - 2.0**-33, (1 << 30, 1)),  # rounds up to a power of two
        (2.0**-32, (1 << 30, -31)),
        (2.0**-33, (0, 0)),
        (2.0**30 - 1, ((1 << 31) - 2, 30)),
    ],
)
def test_multipliers_at_their_edges(real: float, expected: tuple[int, int]) -> None:
    assert fp.quantize_multiplier(real) == expected


def test_a_multiplier_beyond_the_shift_is_refused() -> None:
    with pytest.raises(GraphError, match="not below 2\\^30"):
        fp.quantize_multiplier(2.0**30)


def test_exponential_and_reciprocal_are_close_to_the_real_ones() -> None:
    x = -np.arange(0, 1 << 31, 12345677, dtype=np.int64)
    real = np.exp(x / 2.0**26)
    assert np.abs(fp.exp_of_negative(x) / 2.0**31 - real).max() < 1e-6
    y = np.arange(0, 1 << 31, 12345677, dtype=np.int64)
    assert np.abs(fp.reciprocal_of_one_plus(y) / 2.0**31 - 1 / (1 + y / 2.0**31)).max() < 1e-8


def test_constants_of_the_exponential() -> None:
    """One too many in the last place does not show in an int8 result, but at a tie."""
    for power, factor in fp._EXP_OF_MINUS_POWERS:
        assert factor == round(math.exp(-(2.0**power)) * 2**31)
    assert round(math.exp(-1 / 8) * 2**31) == fp._EXP_OF_MINUS_EIGHTH
    assert round(2**31 / 3) == fp._THIRD


# Whole operators and graphs against TFLite Micro.


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_operator_equals_tflm(kind: Kind, extreme: bool) -> None:
    @FEW
    @given(int8_operators(kind, extreme), st.integers(0, 2**32 - 1))
    def check(graph: Graph, seed: int) -> None:
        check_against_tflm(graph, *random_inputs(graph, 2, seed))

    check()


@settings(PROPERTIES, max_examples=120)
@given(int8_graphs(), st.integers(0, 2**32 - 1))
def test_graph_equals_tflm_at_every_tensor(graph: Graph, seed: int) -> None:
    check_every_tensor(graph, seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_operator_equals_tflm_thousands_of_times(kind: Kind) -> None:
    @MANY
    @given(st.booleans().flatmap(lambda extreme: int8_operators(kind, extreme)), st.integers(0, 2**32 - 1))
    def check(graph: Graph, seed: int) -> None:
        check_against_tflm(graph, *random_inputs(graph, 2, seed))

    check()


@pytest.mark.slow
@settings(MANY, max_examples=3000)
@given(int8_graphs(max_blocks=8), st.integers(0, 2**32 - 1))
def test_graph_equals_tflm_thousands_of_times(graph: Graph, seed: int) -> None:
    check_every_tensor(graph, seed)


def check_every_tensor(graph: Graph, seed: int) -> None:
    """All intermediate tensors as outputs of the model: an error cannot hide behind a later clamp."""
    names = tuple(node.output for node in graph.nodes)
    inputs = random_inputs(graph, 2, seed)
    expected = run_tflm_outputs(write_tflite(replace(graph, outputs=names)), len(names), *inputs)
    values = run_int8_all(graph, *inputs)
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_array_equal(values[name], array, err_msg=name)


# Requantisation at its thresholds. A convolution whose input is at its zero point hands its biases to the
# requantisation, one multiplier per channel: any (sum, multiplier) pair can be put through TFLite Micro.


def biases_only(biases: Array, multipliers: NDArray[np.float32], zero_point: int) -> Graph:
    count = len(biases)
    builder = GraphBuilder("int8")
    x = builder.input((1, 1, 1, 1), scale(1.0))
    per_channel = Quantization(tuple(multipliers.tolist()), (0,) * count)
    y = builder.conv2d(
        x, np.ones((count, 1, 1, 1), np.int8), biases.astype(np.int32), quantization=scale(1.0, zero_point),
        weight_quantization=per_channel, bias_quantization=per_channel,
    )  # fmt: skip
    return builder.build(y)


def threshold_pairs(rng: np.random.Generator, shift: int) -> Iterator[tuple[int, float]]:
    """(sum, multiplier) pairs whose result is a tie or one beside it: of the shift, of the product, of both."""
    for target in (*range(-129, 129, 8), -1, 0, 1, 126, 127):
        multiplier = float(np.float32(rng.choice([0.5, rng.uniform(0.5, 1)])) * 2.0**shift)
        for half in (-0.5, 0.0, 0.5):
            total = round((target + half) / multiplier)
            for off in (-1, 0, 1):
                if abs(total + off) < 2**31:
                    yield total + off, multiplier


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
@pytest.mark.parametrize("shift", range(-30, 9, 2))
def test_requantisation_at_its_ties(shift: int, zero_point: int) -> None:
    pairs = list(threshold_pairs(np.random.default_rng(shift + 100), shift))
    graph = biases_only(
        np.array([total for total, _ in pairs]), np.array([m for _, m in pairs], np.float32), zero_point
    )
    output = run_int8(graph, np.zeros((1, 1, 1, 1), np.int8))
    np.testing.assert_array_equal(output, run_tflm(write_tflite(graph), np.zeros((1, 1, 1, 1), np.int8)))
    if -22 <= shift <= 4:  # smaller ones do not reach the whole range with an int32, larger ones leap over it
        assert len(np.unique(output)) > 20


@pytest.mark.parametrize("zero_point", [-128, 127])
def test_requantisation_wraps_as_an_int32(zero_point: int) -> None:
    """Left shifts that overflow, and the sum with the zero point that does."""
    rng = np.random.default_rng(3)
    totals = np.concatenate([rng.integers(-(2**31), 2**31, 2000), [2**31 - 1, -(2**31), 2**31 - 2]])
    exponents = np.concatenate([rng.uniform(-8, 29.9, 2000), [0, 0, 0]])
    check_against_tflm(
        biases_only(totals, np.exp2(exponents).astype(np.float32), zero_point),
        np.zeros((1, 1, 1, 1), np.int8),
    )


@pytest.mark.parametrize("total", [2**31 - 1, 2**31 - 100, 2**31 - 140, -(2**31), 140 - 2**31])
@pytest.mark.parametrize("zero_point", [-128, 127])
def test_the_sum_with_the_zero_point_wraps(total: int, zero_point: int) -> None:
    """Only a multiplier of 1 - 2^-30 lets a result come that close to the ends of an int32."""
    builder = GraphBuilder("int8")
    x = builder.input((1, 1, 1, 1), scale(1 + 2**-15))
    weight = scale(1 - 2**-15)
    y = builder.conv2d(
        x, np.ones((1, 1, 1, 1), np.int8), np.array([total], np.int32), quantization=scale(1.0, zero_point),
        weight_quantization=weight, bias_quantization=weight,
    )  # fmt: skip
    check_against_tflm(builder.build(y), np.zeros((1, 1, 1, 1), np.int8))


@pytest.mark.parametrize("seed", range(4))
def test_the_product_of_scales_is_not_rounded(seed: int) -> None:
    """Sums between the ties of the exact ratio and of one whose product of scales is rounded to float32."""
    rng = np.random.default_rng(seed)
    source, weight, output = (np.float32(rng.uniform(low, 2 * low)) for low in (0.1, 0.005, 9000))
    exact = float(source) * float(weight) / float(output)
    ties = np.array([(target + 0.5) / exact for target in range(-120, 121, 8)])
    biases = np.round(ties[:, None] + np.arange(-60, 61, 4)).ravel()
    biases = biases[np.abs(biases) < 2**31].astype(np.int32)
    for kind, shape in (
        ("fully_connected", (len(biases), 1)),
        ("conv2d", (len(biases), 1, 1, 1)),
        ("depthwise_conv2d", (1, 1, 1, len(biases))),
    ):
        for count in (1, len(biases)):
            axis = 3 if kind == "depthwise_conv2d" and count > 1 else 0
            builder = GraphBuilder("int8")
            x = builder.input((1, 1, 1, 1), scale(float(source)))
            y = getattr(builder, kind)(
                x, np.ones(shape, np.int8), biases, quantization=scale(float(output)),
                weight_quantization=Quantization((float(weight),) * count, (0,) * count, axis),
                bias_quantization=Quantization((float(source * weight),) * count, (0,) * count),
            )  # fmt: skip
            check_against_tflm(builder.build(y), np.zeros((1, 1, 1, 1), np.int8))


def test_sums_wrap_as_an_int32() -> None:
    builder = GraphBuilder("int8")
    x = builder.input((1, 300), scale(1.0, -128))
    weights = np.full((2, 300), 127, np.int8)
    weights[1] = -128
    q = {"quantization": scale(1e5), "weight_quantization": scale(1.0), "bias_quantization": scale(1.0)}
    y = builder.fully_connected(x, weights, np.array([2**31 - 5, -(2**31)], np.int32), **q)
    check_against_tflm(builder.build(y), np.full((1, 300), 127, np.int8))


# Everything an operator of two int8 numbers, or of one, can do.

ALL = np.arange(-128, 128).astype(np.int8)


@pytest.mark.parametrize("kind", ["add", "mul"])
@pytest.mark.parametrize("activation", ["none", "relu6"])
@pytest.mark.parametrize(
    ("scales", "zero_points"),
    [
        ((0.05, 0.05, 0.1), (0, 0, 0)),  # powers of two between them: many ties
        ((0.02, 0.5, 0.4), (-128, 127, 3)),
        ((1.0, 0.0001, 0.9), (5, -7, -128)),
    ],
)
def test_all_pairs_of_inputs(
    kind: Kind, activation: str, scales: tuple[float, ...], zero_points: tuple[int, ...]
) -> None:
    builder = GraphBuilder("int8")
    q = [scale(s, z) for s, z in zip(scales, zero_points, strict=True)]
    a, b = builder.input((1, 256, 1, 1), q[0]), builder.input((1, 1, 256, 1), q[1])
    graph = builder.build(builder.binary(kind, a, b, activation=activation, quantization=q[2]))
    check_against_tflm(graph, ALL.reshape(1, 256, 1, 1), ALL.reshape(1, 1, 256, 1))


@pytest.mark.parametrize("exponent", range(-24, 8, 2))
@pytest.mark.parametrize("ratio", [2.0**-6.99, 0.3, 1.0, 7.0, 2.0**20])
def test_hard_swish_of_every_input(exponent: int, ratio: float) -> None:
    builder = GraphBuilder("int8")
    source = 2.0**exponent * 1.1
    x = builder.input((1, 256), scale(source, exponent * 5))
    y = builder.unary("hard_swish", x, quantization=scale(source * ratio, -exponent * 5))
    check_against_tflm(builder.build(y), ALL[None])


def test_hard_swish_does_not_round_its_ratio_to_float32() -> None:
    """Pairs of scales whose 16-bit multiplier shows the difference."""
    rng = np.random.default_rng(0)
    shown = 0
    while shown < 60:
        source, output = (np.float32(2.0**e) for e in rng.uniform((-6, -7), (0, 0)))
        exact = (math.frexp(float(source) / float(output))[0] * 2**15) % 1
        rounded = (math.frexp(float(source / output))[0] * 2**15) % 1
        if (exact < 0.5) == (rounded < 0.5):
            continue
        shown += 1
        builder = GraphBuilder("int8")
        x = builder.input((1, 256), scale(float(source), int(rng.integers(-128, 128))))
        graph = builder.build(builder.unary("hard_swish", x, quantization=scale(float(output))))
        check_against_tflm(graph, ALL[None])


@pytest.mark.parametrize("kind", ["add", "mul"])
def test_ties_of_two_operands(kind: Kind) -> None:
    """Output scales that put one pair of operands next to a tie."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        first, second = (np.float32(2.0**e) for e in rng.uniform(-6, 0, 2))
        factor, target = int(rng.integers(2, 128)), int(rng.integers(0, 120))
        real = float(second) * (float(first) if kind == "mul" else 1.0)
        builder = GraphBuilder("int8")
        a = builder.input((1, 256, 1, 1), scale(float(first)))
        b = builder.input((1, 1, 7, 1), scale(float(second)))
        y = builder.binary(kind, a, b, quantization=scale(real * factor / (target + 0.5)))
        others = np.array([0, 1, -1, factor, -factor, factor - 1, -128], np.int8)
        check_against_tflm(builder.build(y), ALL.reshape(1, 256, 1, 1), others.reshape(1, 1, 7, 1))


def test_ties_of_the_relu6_bound() -> None:
    """6 / scale is rounded in float32 before it becomes a bound."""
    for steps in range(1, 250, 5):
        middle = np.float32(6 / (steps + 0.5))
        for value in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(9))):
            builder = GraphBuilder("int8")
            q = scale(float(value), -128)
            x = builder.input((1, 256, 1, 1), q)
            y = builder.pool("max_pool", x, (1, 1), activation="relu6", quantization=q)
            check_against_tflm(builder.build(y), ALL.reshape(1, 256, 1, 1))


@pytest.mark.parametrize("exponent", range(-25, 8))
def test_softmax_of_every_distance(exponent: int) -> None:
    """Scales from almost equal probabilities to all or nothing; every distance to the largest input."""
    builder = GraphBuilder("int8")
    x = builder.input((1, 256), scale(2.0**exponent * 1.3))
    graph = builder.build(builder.unary("softmax", x, quantization=scale(1 / 256, -128)))
    rng = np.random.default_rng(exponent + 50)
    check_against_tflm(graph, np.stack([ALL, rng.permutation(ALL), np.full(256, -128, np.int8)]))


def test_average_pool_of_all_pairs() -> None:
    builder = GraphBuilder("int8")
    x = builder.input((1, 256, 256, 2), scale(1.0))
    graph = builder.build(builder.pool("average_pool", x, (1, 1), quantization=scale(1.0)))
    pairs = np.stack(np.broadcast_arrays(ALL[:, None], ALL[None, :]), axis=-1)[None]
    check_against_tflm(graph, pairs)
    builder = GraphBuilder("int8")
    x = builder.input((1, 256, 512, 1), scale(1.0))
    graph = builder.build(builder.pool("average_pool", x, (1, 2), quantization=scale(1.0)))
    check_against_tflm(graph, pairs.reshape(1, 256, 512, 1))


# Limits: what TFLite Micro refuses, or dies of.


def one(kind: Kind, source: float, output: float, zero_point: int = 0, width: int = 4) -> Graph:
    builder = GraphBuilder("int8")
    x = builder.input((1, width), scale(source))
    return builder.build(builder.unary(kind, x, quantization=scale(output, zero_point)))


def pair(kind: Kind, a: float, b: float, output: float, activation: str = "none") -> Graph:
    builder = GraphBuilder("int8")
    inputs = builder.input((1, 4), scale(a)), builder.input((1, 4), scale(b))
    return builder.build(builder.binary(kind, *inputs, activation=activation, quantization=scale(output)))


def dense(weight: float, bias: float) -> Graph:
    builder = GraphBuilder("int8")
    x = builder.input((1, 1), scale(1.0))
    q = {"quantization": scale(1.0), "weight_quantization": scale(weight), "bias_quantization": scale(bias)}
    return builder.build(builder.fully_connected(x, np.ones((1, 1), np.int8), np.zeros(1, np.int32), **q))


def pool(source: Quantization, output: Quantization) -> Graph:
    builder = GraphBuilder("int8")
    x = builder.input((1, 2, 2, 1), source)
    return builder.build(builder.pool("max_pool", x, (2, 2), quantization=output))


def join(count: int, output: Quantization) -> Graph:
    builder = GraphBuilder("int8")
    inputs = [builder.input((1, 2), scale(1.0)) for _ in range(count)]
    return builder.build(builder.concatenation(inputs, 1, quantization=output))


def zeros(graph: Graph) -> list[NDArray[np.int8]]:
    return [np.zeros(graph.tensors[name].shape, np.int8) for name in graph.inputs]


REFUSED: dict[str, tuple[Callable[[], Graph], str]] = {
    "hard_swish scale": (lambda: one("hard_swish", 128.0, 1.0), "below 128 times"),
    "softmax scale out": (lambda: one("softmax", 0.1, 1 / 255, -128), "1/256"),
    "softmax zero point": (lambda: one("softmax", 0.1, 1 / 256, 0), "-128"),
    "bias scale": (lambda: dense(1.0, 1.021), "bias scale"),
    "relu6 scale": (lambda: pair("mul", 1e-5, 1e-5, 1e-9, "relu6"), "relu6"),
    "pool scale": (lambda: pool(scale(1.0), scale(1.001)), "same scale"),
    "pool zero point": (lambda: pool(scale(1.0), scale(1.0, 1)), "same scale"),
    "joined inputs": (lambda: join(11, scale(1.0)), "at most 10"),
    "joined scale": (lambda: join(2, scale(1.5)), "one scale"),
    "joined zero point": (lambda: join(2, scale(1.0, 1)), "one scale"),
}
ABORTED: dict[str, tuple[Callable[[], Graph], str]] = {
    "add scale": (lambda: pair("add", 2.0**18, 1.0, 0.5), "below 2\\^20"),
    "softmax scale in": (lambda: one("softmax", 2.0**-26, 1 / 256, -128), "above 2\\^-26"),
    "softmax sum": (lambda: one("softmax", 0.1, 1 / 256, -128, width=512), "reaches 512"),
}
ACCEPTED: dict[str, Callable[[], Graph]] = {
    "hard_swish scale": lambda: one("hard_swish", 127.9999, 1.0),
    "bias scale": lambda: dense(1.0, 1.019),
    "relu6 scale": lambda: pair("mul", 1e-5, 1e-5, 3e-9, "relu6"),
    "pool scale": lambda: pool(scale(1e-7), scale(9e-7)),
    "joined inputs": lambda: join(10, scale(1.0)),
    "add scale": lambda: pair("add", 2.0**18, 1.0, 0.500001),
    "softmax scale in": lambda: one("softmax", 2.0**-25.9, 1 / 256, -128),
    "softmax scale 32": lambda: one("softmax", 32.0, 1 / 256, -128),
    "softmax scale 31.999": lambda: one("softmax", 31.999, 1 / 256, -128),
    "softmax sum": lambda: one("softmax", 0.1, 1 / 256, -128, width=511),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_tflm_refuses_is_an_error(name: str) -> None:
    graph, message = REFUSED[name][0](), REFUSED[name][1]
    with pytest.raises(GraphError, match=message):
        run_int8(graph, *zeros(graph))
    with pytest.raises(RuntimeError):
        run_tflm(write_tflite(graph), *zeros(graph))


@pytest.mark.parametrize("name", ABORTED)
def test_what_kills_tflm_is_an_error(name: str, tmp_path: Path) -> None:
    graph, message = ABORTED[name][0](), ABORTED[name][1]
    with pytest.raises(GraphError, match=message):
        run_int8(graph, *zeros(graph))
    (tmp_path / "model.tflite").write_bytes(write_tflite(graph))
    program = """
        import sys, numpy as np
        from tflite_micro import runtime
        interpreter = runtime.Interpreter.from_file(sys.argv[1], arena_size=1 << 20)
        for index in range(int(sys.argv[2])):
            shape = tuple(interpreter.get_input_details(index)["shape"])
            interpreter.set_input(np.zeros(shape, np.int8), index)
        interpreter.invoke()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "model.tflite")]
    done = subprocess.run([*command, str(len(graph.inputs))], capture_output=True, check=False)
    assert done.returncode == -6  # SIGABRT


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_just_inside_the_limits_runs(name: str) -> None:
    graph = ACCEPTED[name]()
    check_against_tflm(graph, *zeros(graph))


def test_limits_without_a_counterpart() -> None:
    """Where C leaves it open what happens: shifts beyond an int32, zero points that are no int8."""
    for graph, message in (
        (pair("mul", 2.0**15, 2.0**15, 1.0), "scales differ too much"),
        (one("hard_swish", 2e7, 1e8), "below 1.2e7"),
        (one("hard_swish", 1.0, 1.0, 128), "zero point 128"),
    ):
        with pytest.raises(GraphError, match=f"node 0.*{message}"):
            run_int8(graph, *zeros(graph))
    with pytest.raises(GraphError, match="no int8 form"):
        activation_range("hard_sigmoid", scale(1.0))


# The interface.


def test_arguments_are_checked() -> None:
    graph = one("hard_swish", 1.0, 1.0)
    builder = GraphBuilder()
    real = builder.build(builder.unary("hard_swish", builder.input((1, 4))))
    with pytest.raises(GraphError, match="needs an int8 graph"):
        run_int8(real, np.zeros((1, 4)))
    with pytest.raises(GraphError, match="int8 N x 4"):
        run_int8(graph, np.zeros((1, 5), np.int8))
    with pytest.raises(GraphError, match="float64"):
        run_int8(graph, np.zeros((1, 4)))
    with pytest.raises(GraphError, match="has 1 inputs, 2 were given"):
        run_int8(graph, np.zeros((1, 4), np.int8), np.zeros((1, 4), np.int8))


def test_missing_and_wrong_weight_scales_are_named() -> None:
    graph = dense(1.0, 1.0)
    name = graph.nodes[0].inputs[1]
    for quantization in (None, Quantization((1.0,), (3,))):
        tensors = {**graph.tensors, name: replace(graph.tensors[name], quantization=quantization)}
        with pytest.raises(GraphError, match="weights need scales"):
            run_int8(replace(graph, tensors=tensors), np.zeros((1, 1), np.int8))
    tensors = {
        **graph.tensors,
        name: replace(graph.tensors[name], quantization=Quantization((1.0,) * 3, (0,) * 3)),
    }
    with pytest.raises(GraphError, match="3 weight scales for 1 channels"):
        run_int8(replace(graph, tensors=tensors), np.zeros((1, 1), np.int8))


@FEW
@given(int8_graphs(), st.integers(0, 2**32 - 1))
def test_a_batch_is_its_samples(graph: Graph, seed: int) -> None:
    inputs = random_inputs(graph, 3, seed)
    whole = run_int8(graph, *inputs)
    parts = [run_int8(graph, *(x[i : i + 1] for x in inputs)) for i in range(3)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_a_sum_that_no_float32_holds() -> None:
    """1801 products of 255 * 127 are odd and above 2^24; the bias brings the sum back into view."""
    builder = GraphBuilder("int8")
    x = builder.input((1, 2, 1, 1801), scale(1.0, -128))
    q = {"quantization": scale(1.1), "weight_quantization": scale(1.0), "bias_quantization": scale(1.0)}
    total = 1801 * 255 * 127
    weights, bias = np.full((5, 1, 1, 1801), 127, np.int8), np.arange(5, dtype=np.int32) * 3 - 7 - total
    graph = builder.build(builder.conv2d(x, weights, bias, **q))
    assert int(np.float32(total)) != total
    check_against_tflm(graph, np.full((1, 2, 1, 1801), 127, np.int8))


@pytest.mark.data
@pytest.mark.parametrize("name", ["ic01_resnet8_int8", "kws01_dscnn_int8"])
def test_mlperf_tiny_models_equal_tflm(name: str) -> None:
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        pytest.skip("BOARDFIT_DATA is not set: the folder that holds mlperf_tiny_models")
    data = (Path(folder) / "mlperf_tiny_models" / f"{name}.tflite").read_bytes()
    graph = read_tflite(data)
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [
            np.stack([np.full(shape, value, np.int8) for value in (-128, -1, 0, 1, 127)]),
            rng.choice([-128, 127], (5, *shape)).astype(np.int8),
            rng.integers(-128, 128, (20, *shape)).astype(np.int8),
        ]
    )
    np.testing.assert_array_equal(run_int8(graph, x), run_tflm(data, x))
    names = tuple(node.output for node in graph.nodes)
    everything = run_tflm_outputs(write_tflite(replace(graph, outputs=names)), len(names), x)
    values = run_int8_all(graph, x)
    for tensor, array in zip(names, everything, strict=True):
        np.testing.assert_array_equal(values[tensor], array, err_msg=tensor)
