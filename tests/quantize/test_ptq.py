"""Post-training quantisation: hand-worked scales, ties, prescribed scales, dead channels, bad data, methods."""

import numpy as np
import pytest

from toolchain.errors import DataError, GraphError, UnsupportedError
from toolchain.graph import Graph, GraphBuilder, Quantization, dequantize_array, quantize_array
from toolchain.graph.float_reference import run_float, run_float_all
from toolchain.quantize.ptq import (
    UNIT_INTERVAL,
    activation_ranges,
    choose_quantization,
    quantize,
    quantize_weights,
    quantize_with_ranges,
    separate_fixed_scales,
)


def f32(value: float) -> float:
    return float(np.float32(value))


def pointwise(weights: list[list[float]], bias: list[float], activation: str = "none") -> Graph:
    """A 1x1 convolution of a 1x1 image."""
    matrix = np.array(weights, np.float32)
    b = GraphBuilder()
    x = b.input((1, 1, 1, matrix.shape[1]))
    y = b.conv2d(x, matrix[:, None, None, :], np.array(bias, np.float32), activation=activation)
    return b.build(y)


def quantization(graph: Graph, name: str) -> Quantization:
    found = graph.tensors[name].quantization
    assert found is not None
    return found


def test_hand_worked_convolution() -> None:
    graph = pointwise([[1.0, -0.5], [0.25, 0.125]], [1.0, -1.0])
    data = np.array([[-1.0, 2.0], [3.0, 4.0]], np.float32).reshape(2, 1, 1, 2)
    # Outputs: (-1, -1), (2, 0.25): input range -1..4, output range -1..2.
    result = quantize(graph, data)
    node = result.nodes[0]
    x, weights, bias = node.inputs
    assert quantization(result, x) == Quantization.per_tensor(5 / 255, -77)  # -128 + 51
    assert quantization(result, node.output) == Quantization.per_tensor(3 / 255, -43)  # -128 + 85
    assert quantization(result, weights).scale == (f32(1 / 127), f32(0.25 / 127))
    assert quantization(result, weights).axis == 0
    # -0.5 / (1/127) = -63.5 and 0.125 / (0.25/127) = 63.5, up to float32: either neighbour is right.
    integers = result.constants[weights].reshape(2, 2)
    assert integers[:, 0].tolist() == [127, 127]
    assert integers[0, 1] in (-63, -64)
    assert integers[1, 1] in (63, 64)
    scale = np.float32(5 / 255) * np.float32(1 / 127)
    assert quantization(result, bias).scale[0] == float(scale)
    assert result.constants[bias].dtype == np.int32
    assert result.constants[bias].tolist() == [6477, -25908]  # 255 * 127 / 5, and 4 times as much
    assert result.dtype == "int8"
    assert result.tensors.keys() == graph.tensors.keys()


def test_weights_use_the_symmetric_range_only() -> None:
    graph = pointwise([[-1.0, 0.5]], [0.0])
    weights = quantize(graph, np.ones((1, 1, 1, 2), np.float32)).constants[graph.nodes[0].inputs[1]]
    assert weights.reshape(-1).tolist() == [-127, 64]  # 63.5 rounds to even


def test_fully_connected_has_one_scale_and_depthwise_one_per_channel() -> None:
    b = GraphBuilder()
    x = b.input((1, 2, 2, 2))
    y = b.depthwise_conv2d(x, np.array([1, 4], np.float32).reshape(1, 1, 1, 2), np.zeros(2, np.float32))
    y = b.fully_connected(y, np.arange(16, dtype=np.float32).reshape(2, 8), np.zeros(2, np.float32))
    graph = b.build(y)
    result = quantize(graph, np.ones((3, 2, 2, 2), np.float32))
    depthwise, dense = (quantization(result, node.inputs[1]) for node in result.nodes)
    assert (depthwise.scale, depthwise.axis) == ((f32(1 / 127), f32(4 / 127)), 3)
    assert dense.scale == (f32(15 / 127),)


def test_range_always_holds_zero() -> None:
    graph = pointwise([[1.0]], [0.0])
    result = quantize(graph, np.array([2.0, 3.0], np.float32).reshape(2, 1, 1, 1))
    assert quantization(result, "t0") == Quantization.per_tensor(3 / 255, -128)
    result = quantize(graph, np.array([-2.0, -3.0], np.float32).reshape(2, 1, 1, 1))
    assert quantization(result, "t0") == Quantization.per_tensor(3 / 255, 127)


def test_all_zero_network_and_data_are_safe() -> None:
    graph = pointwise([[0.0, 0.0]], [0.0])
    result = quantize(graph, np.zeros((2, 1, 1, 2), np.float32))
    assert quantization(result, "t0").scale == (f32(1 / 255),)
    assert not result.constants[graph.nodes[0].inputs[1]].any()


def test_dead_channel_keeps_its_bias() -> None:
    """With scale = largest weight / 127 alone, this bias would need 42 bits and be clipped to nearly nothing."""
    graph = pointwise([[1e-12], [1.0]], [0.5, 0.5])
    (weights, wq), (bias, bq) = quantize_weights(
        graph.nodes[0].operator, *(graph.constants[n] for n in graph.nodes[0].inputs[1:]), 0.01
    )
    assert weights.reshape(-1).tolist() == [0, 127]
    assert bias * np.array(bq.scale) == pytest.approx([0.5, 0.5], rel=1e-4)
    assert wq.scale[1] == f32(1 / 127)


def test_ties_share_the_union_of_ranges() -> None:
    b = GraphBuilder()
    x = b.input((1, 4, 4, 1))
    one = np.ones((1, 1, 1, 1), np.float32)
    small = b.conv2d(x, one, np.zeros(1, np.float32))
    large = b.conv2d(x, -10 * one, np.zeros(1, np.float32))
    pooled = b.pool("max_pool", b.pad(small, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), stride=(1, 1))
    joined = b.concatenation([pooled, large])
    averaged = b.pool("average_pool", joined, (4, 4))
    flat = b.reshape(averaged, (1, 2))
    graph = b.build(flat)
    result = quantize(graph, np.linspace(0, 1, 16, dtype=np.float32).reshape(1, 4, 4, 1))
    expected = Quantization.per_tensor(11 / 255, round(-128 + 10 / (11 / 255)))
    assert {quantization(result, n) for n in graph.activations[1:]} == {expected}
    assert quantization(result, x) == Quantization.per_tensor(1 / 255, -128)


def test_hard_sigmoid_is_folded() -> None:
    graph = pointwise([[6.0]], [3.0], "hard_sigmoid")
    result = quantize(graph, np.array([-1.0, 1.0], np.float32).reshape(2, 1, 1, 1))
    node = result.nodes[0]
    assert node.operator.activation == "none"
    assert quantization(result, node.output) == UNIT_INTERVAL
    assert quantization(result, node.inputs[1]).scale == (f32(1 / 127),)
    assert result.constants[node.inputs[2]].tolist() == [round(255 * 127 / 2)]  # (3 + 3) / 6 = 1


def test_constant_operands_are_quantised() -> None:
    b = GraphBuilder()
    x = b.input((1, 2, 2, 3))
    factors = b.constant(np.array([-1, 0.5, 3], np.float32).reshape(1, 1, 1, 3))
    y = b.binary("mul", x, factors)
    y = b.binary("add", y, b.constant(np.full((1, 1, 1, 1), 3, np.float32)))
    graph = b.build(y)
    result = quantize(graph, np.ones((1, 2, 2, 3), np.float32))
    assert quantization(result, factors) == Quantization.per_tensor(4 / 255, -64)
    assert result.constants[factors].reshape(-1).tolist() == [-128, -32, 127]
    last = result.nodes[1].inputs[1]
    assert dequantize_array(result.constants[last], quantization(result, last)) == pytest.approx(3)


def test_weights_shared_by_two_operators_are_written_for_each() -> None:
    b = GraphBuilder()
    x = b.input((1, 1, 1, 2))
    y = b.conv2d(x, np.eye(2, dtype=np.float32).reshape(2, 1, 1, 2), np.full(2, 7, np.float32))
    conv = b.producer(y)
    assert conv is not None
    y = b.append(conv.operator, (y, *conv.inputs[1:]), output=None, source="")
    result = quantize(b.build(y), np.ones((1, 1, 1, 2), np.float32))
    first, second = (node.inputs[1:] for node in result.nodes)
    assert not set(first) & set(second)
    for node in result.nodes:
        bias = quantization(result, node.inputs[2])
        assert (
            bias.scale
            == (f32(np.float32(quantization(result, node.inputs[0]).scale[0]) * np.float32(1 / 127)),) * 2
        )
        assert result.constants[node.inputs[2]] * np.array(bias.scale) == pytest.approx([7, 7], rel=1e-3)


def crowded(rank: int) -> Graph:
    """A softmax or a hard-sigmoid and a tensor of another range, joined."""
    b = GraphBuilder()
    if rank == 2:
        x = b.input((1, 4))
        joined = b.concatenation([b.unary("softmax", x), x], axis=1)
    else:
        x = b.input((1, 2, 2, 3))
        eye = np.eye(3, dtype=np.float32).reshape(3, 1, 1, 3)
        gate = b.conv2d(x, eye, np.zeros(3, np.float32), activation="hard_sigmoid")
        joined = b.concatenation([b.binary("mul", x, gate), b.pool("max_pool", gate, (1, 1)), x])
    return b.build(joined)


@pytest.mark.parametrize(("rank", "kind"), [(2, "mul"), (4, "depthwise_conv2d")])
def test_prescribed_scale_beside_another_range_is_separated(rank: int, kind: str) -> None:
    graph = crowded(rank)
    separated = separate_fixed_scales(graph)
    added = [node for node in separated.nodes if node.output not in graph.tensors]
    assert [node.operator.kind for node in added] == [kind]
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    x = np.random.default_rng(0).normal(scale=3, size=(5, *shape)).astype(np.float32)
    assert np.array_equal(run_float(separated, x), run_float(graph, x))
    result = quantize(graph, x)
    fixed = added[0].inputs[0]
    assert quantization(result, fixed) == UNIT_INTERVAL
    assert quantization(result, added[0].output) == quantization(result, graph.outputs[0])
    assert [n.operator.kind for n in result.nodes] == [n.operator.kind for n in separated.nodes]


def test_prescribed_scale_alone_is_left_alone() -> None:
    b = GraphBuilder()
    x = b.input((1, 1, 1, 4))
    graph = b.build(b.unary("softmax", b.reshape(x, (1, 4))))
    assert separate_fixed_scales(graph) is graph
    b = GraphBuilder()
    x = b.input((1, 4))
    graph = b.build(b.reshape(b.unary("softmax", x), (1, 1, 1, 4)))
    assert separate_fixed_scales(graph) is graph
    result = quantize(graph, np.ones((1, 4), np.float32))
    assert quantization(result, graph.outputs[0]) == UNIT_INTERVAL


def test_vanishing_output_scale_is_raised() -> None:
    """x + (-x) up to 1e-9: an ADD kernel cannot take a scale 1e9 times smaller than its inputs'."""
    b = GraphBuilder()
    x = b.input((1, 1, 1, 1))
    minus = b.conv2d(x, -np.ones((1, 1, 1, 1), np.float32), np.full(1, 1e-9, np.float32))
    result = quantize(b.build(b.binary("add", x, minus)), np.zeros((1, 1, 1, 1), np.float32) + 2)
    scales = [quantization(result, n).scale[0] for n in result.activations]
    assert scales[2] >= max(scales[:2]) * 2.0**-7


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 1, 1, 2)), "empty"),
        (np.zeros((3, 1, 2, 2)), r"\(3, 1, 2, 2\)"),
        (np.array(1.0), r"are \(\)"),
        (np.array([[1.0, 2.0], [np.nan, 0.0]]).reshape(2, 1, 1, 2), "sample 1"),
        (np.full((1, 1, 1, 2), np.inf), "sample 0"),
        (np.full((1, 1, 1, 2), "x"), "not numbers"),
        (np.full((1, 1, 1, 2), 3e38), "overflows"),
    ],
)
def test_bad_calibration_data(data: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        quantize(pointwise([[2.0, 2.0]], [0.0]), data)


def test_misuse() -> None:
    graph = pointwise([[1.0]], [0.0])
    data = np.ones((1, 1, 1, 1), np.float32)
    int8 = quantize(graph, data)
    with pytest.raises(UnsupportedError, match="int8 already"):
        quantize(int8, data)
    with pytest.raises(UnsupportedError, match="int8 already"):
        quantize_with_ranges(int8, {})
    with pytest.raises(UnsupportedError, match="kl"):
        quantize(graph, data, "kl")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="percentile 10"):
        quantize(graph, np.linspace(0, 1, 5).reshape(5, 1, 1, 1), "percentile", percentile=10)
    with pytest.raises(GraphError, match="no range"):
        choose_quantization(graph, {})
    with pytest.raises(GraphError, match="no scale"):
        quantize_with_ranges(graph, {})
    tied = crowded(2)
    separated = separate_fixed_scales(tied)
    qparams = choose_quantization(separated, activation_ranges(separated, np.ones((1, 4), np.float32)))
    with pytest.raises(GraphError, match="share one scale"):
        quantize_with_ranges(separated, {**qparams, separated.outputs[0]: Quantization.per_tensor(3)})
    with pytest.raises(GraphError, match="needs scale 1/256"):
        quantize_with_ranges(separated, {**qparams, "t1": Quantization.per_tensor(3)})


def test_methods_on_data_with_an_outlier() -> None:
    graph = pointwise([[1.0]], [0.0])
    rng = np.random.default_rng(0)
    data = rng.uniform(-1, 1, size=(20_000, 1, 1, 1)).astype(np.float32)
    data[7] = 100
    low, high = activation_ranges(graph, data, "minmax")["t0"]
    assert (low, high) == (float(data.min()), 100.0)
    low, high = activation_ranges(graph, data, "percentile", percentile=99.9)["t0"]
    assert (low, high) == pytest.approx((-0.998, 0.998), abs=0.01)


def test_least_squares_clips_where_it_pays() -> None:
    """Clipping one outlier M of N values costs (M - 1)^2 / N, keeping it ((M + 1) / 255)^2 / 12: at M = 20 and
    N = 2,000,000 clipping is three times better, at N = 20,000 it is thirty times worse."""
    b = GraphBuilder()
    graph = b.build(b.reshape(b.input((1, 1000)), (1, 1, 1, 1000)))
    data = np.random.default_rng(0).uniform(-1, 1, size=(2000, 1000)).astype(np.float32)
    data[7, 7] = 20
    errors = {}
    for method in ("minmax", "percentile", "mse"):
        q = quantization(quantize(graph, data, method), "t0")
        errors[method] = np.square(dequantize_array(quantize_array(data, q), q) - data).mean()
    assert errors["mse"] < 0.5 * errors["minmax"]
    assert errors["mse"] <= errors["percentile"]
    assert activation_ranges(graph, data[:20], "mse")["t0"][1] == 20


def test_structure_and_names_do_not_depend_on_data() -> None:
    graph = crowded(4)
    shapes = []
    for scale in (0.0, 1e-6, 1e6):
        x = scale * np.random.default_rng(0).normal(size=(4, 2, 2, 3)).astype(np.float32)
        result = quantize(graph, x)
        shapes.append([(n.operator, n.inputs, n.output) for n in result.nodes])
    assert shapes[0] == shapes[1] == shapes[2]


def test_ranges_are_those_of_the_float_run() -> None:
    graph = pointwise([[1.0, -2.0], [3.0, 0.0]], [0.1, 0.2], "relu")
    x = np.random.default_rng(0).normal(size=(50, 1, 1, 2)).astype(np.float32)
    ranges = activation_ranges(graph, x)
    for name, values in run_float_all(graph, x).items():
        assert ranges[name] == (float(values.min()), float(values.max()))
