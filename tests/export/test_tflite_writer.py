"""Written .tflite files: what is in them, and what LiteRT and TFLite Micro make of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.interpreters import run_litert, run_tflm
from tests.random_graphs import float_graphs, float_operators, int8_graphs, int8_operators, random_inputs
from toolchain.errors import GraphError
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.float_reference import run_float
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import KINDS, Kind

PROPERTIES = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), max_examples=25
)
CODES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


def parse(data: bytes) -> Any:
    """The file as LiteRT's own schema reads it: a ModelT."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))


def operator_names(model: Any) -> list[str]:
    return [CODES[model.operatorCodes[op.opcodeIndex].builtinCode] for op in model.subgraphs[0].operators]


def scale(value: float, zero_point: int = 0) -> Quantization:
    return Quantization.per_tensor(value, zero_point)


def separable(seed: int, dtype: str = "int8", channels: int = 5) -> Graph:
    """A small fixed structure with random values."""
    rng = np.random.default_rng(seed)

    def values(*shape: int) -> NDArray[Any]:
        if dtype == "float32":
            return rng.normal(0, 1, shape).astype(np.float32)
        return rng.integers(-127, 128, shape).astype(np.int8)

    def scales(count: int, axis: int = 0) -> Quantization | None:
        drawn = tuple(float(np.float32(s)) for s in rng.uniform(0.001, 0.01, count))
        return Quantization(drawn, (0,) * count, axis) if dtype == "int8" else None

    def activation() -> Quantization | None:
        return scale(rng.uniform(0.01, 1), int(rng.integers(-128, 128))) if dtype == "int8" else None

    def bias(count: int) -> NDArray[Any]:
        return rng.integers(-1000, 1000, count).astype(np.int32 if dtype == "int8" else np.float32)

    builder = GraphBuilder(dtype)
    x = builder.input((1, 8, 9, 3), activation())
    x = builder.conv2d(
        x, values(channels, 3, 3, 3), bias(channels), stride=(2, 2), padding="same", activation="relu",
        quantization=activation(), weight_quantization=scales(channels), bias_quantization=scales(channels),
    )  # fmt: skip
    x = builder.depthwise_conv2d(
        x, values(1, 3, 3, channels), bias(channels), padding="same",
        quantization=activation(), weight_quantization=scales(channels, 3), bias_quantization=scales(channels),
    )  # fmt: skip
    x = builder.fully_connected(
        x, values(4, 20 * channels), bias(4),
        quantization=activation(), weight_quantization=scales(4), bias_quantization=scales(4),
    )  # fmt: skip
    return builder.build(x)


# What is in a file


@pytest.mark.parametrize("strategy", [int8_graphs(), float_graphs()])
def test_one_operator_per_node_and_nothing_else(strategy: st.SearchStrategy[Graph]) -> None:
    @PROPERTIES
    @given(strategy)
    def check(graph: Graph) -> None:
        model = parse(write_tflite(graph))
        subgraph = model.subgraphs[0]
        assert len(subgraph.operators) == len(graph.nodes)
        wanted = {"int8": schema.TensorType.INT8, "float32": schema.TensorType.FLOAT32}[graph.dtype]
        for index in (*subgraph.inputs, *subgraph.outputs, *(op.outputs[0] for op in subgraph.operators)):
            assert subgraph.tensors[index].type == wanted
        assert not {"QUANTIZE", "DEQUANTIZE", "TRANSPOSE"} & set(operator_names(model))

    check()


@pytest.mark.parametrize("strategy", [int8_graphs(), float_graphs()])
def test_constants_are_aligned_to_16_bytes(strategy: st.SearchStrategy[Graph]) -> None:
    @PROPERTIES
    @given(strategy)
    def check(graph: Graph) -> None:
        data = write_tflite(graph)
        model = schema.Model.GetRootAsModel(data, 0)
        for index in range(model.BuffersLength()):
            buffer = model.Buffers(index)
            if buffer.DataLength():
                vector = buffer._tab.Vector(buffer._tab.Offset(4))
                assert vector % 16 == 0

    check()


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_size_depends_on_structure_alone(dtype: str) -> None:
    files = [write_tflite(separable(seed, dtype)) for seed in range(20)]
    assert len({len(data) for data in files}) == 1
    assert len(set(files)) == 20
    assert len(write_tflite(separable(0, dtype, channels=6))) != len(files[0])


@PROPERTIES
@given(int8_graphs())
def test_extreme_values_do_not_change_the_size(graph: Graph) -> None:
    """Zeros are what a flatbuffer likes to leave out."""
    constants = {name: np.zeros_like(data) for name, data in graph.constants.items()}
    tensors = {
        name: tensor
        if tensor.quantization is None
        else replace(
            tensor,
            quantization=Quantization(
                (1.0,) * len(tensor.quantization.scale),
                (0,) * len(tensor.quantization.scale),
                tensor.quantization.axis,
            ),
        )
        for name, tensor in graph.tensors.items()
    }
    plain = replace(graph, constants=constants, tensors=tensors)
    assert len(write_tflite(plain)) == len(write_tflite(graph))


@PROPERTIES
@given(st.one_of(int8_graphs(), float_graphs()))
def test_the_same_graph_gives_the_same_bytes(graph: Graph) -> None:
    copy = replace(graph, constants={name: data.copy(order="F") for name, data in graph.constants.items()})
    assert write_tflite(copy) == write_tflite(graph)


# Versions as TensorFlow Lite's own converter writes them (tensorflow/lite/tools/versioning/op_version.cc).
VERSIONS: dict[Kind, tuple[str, int, int]] = {
    "conv2d": ("CONV_2D", 1, 3),
    "depthwise_conv2d": ("DEPTHWISE_CONV_2D", 1, 3),
    "fully_connected": ("FULLY_CONNECTED", 1, 4),
    "add": ("ADD", 1, 2),
    "mul": ("MUL", 1, 2),
    "average_pool": ("AVERAGE_POOL_2D", 1, 2),
    "max_pool": ("MAX_POOL_2D", 1, 2),
    "pad": ("PAD", 1, 2),
    "reshape": ("RESHAPE", 1, 1),
    "softmax": ("SOFTMAX", 1, 2),
    "hard_swish": ("HARD_SWISH", 1, 1),
    "concatenation": ("CONCATENATION", 1, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_versions(kind: Kind) -> None:
    name, float_version, int8_version = VERSIONS[kind]

    @settings(PROPERTIES, max_examples=5)
    @given(st.one_of(float_operators(kind), int8_operators(kind)))
    def check(graph: Graph) -> None:
        (code,) = parse(write_tflite(graph)).operatorCodes
        version = int8_version if graph.dtype == "int8" else float_version
        if kind == "fully_connected" and graph.dtype == "int8":
            weights = graph.tensors[graph.nodes[0].inputs[1]].quantization
            assert weights is not None
            version = 12 if len(weights.scale) > 1 else 4
        assert (CODES[code.builtinCode], code.version) == (name, version)
        assert code.deprecatedBuiltinCode == code.builtinCode

    check()


def test_options_say_what_the_operator_says() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 9, 9, 2))
    x = builder.depthwise_conv2d(
        x, np.zeros((1, 3, 2, 6), np.float32), np.zeros(6, np.float32),
        stride=(2, 1), padding="same", activation="relu6",
    )  # fmt: skip
    x = builder.pool("max_pool", x, (3, 2), stride=(1, 2))
    graph = builder.build(builder.reshape(x, (1, 72)))
    depthwise, pool, reshape = (op.builtinOptions for op in parse(write_tflite(graph)).subgraphs[0].operators)
    assert (depthwise.strideH, depthwise.strideW, depthwise.depthMultiplier) == (2, 1, 3)
    assert (depthwise.dilationHFactor, depthwise.dilationWFactor) == (1, 1)
    assert depthwise.padding == schema.Padding.SAME
    assert depthwise.fusedActivationFunction == schema.ActivationFunctionType.RELU6
    assert (pool.filterHeight, pool.filterWidth, pool.strideH, pool.strideW) == (3, 2, 1, 2)
    assert pool.padding == schema.Padding.VALID
    assert list(reshape.newShape) == [1, 72]


def test_a_tensor_used_twice_is_written_once() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 4))
    factor = builder.constant(np.ones((1, 4), np.float32))
    y = builder.binary("mul", builder.binary("mul", x, factor), factor)
    names = [t.name.decode() for t in parse(write_tflite(builder.build(y))).subgraphs[0].tensors]
    assert Counter(names) == Counter(["t0", "c1", "t2", "t3"])


def test_errors_name_the_tensor() -> None:
    graph = separable(0)
    weights = graph.nodes[1].inputs[1]
    tensors = {**graph.tensors, weights: replace(graph.tensors[weights], quantization=None)}
    with pytest.raises(GraphError, match=f"'{weights}' has none"):
        write_tflite(replace(graph, tensors=tensors))
    builder = GraphBuilder()
    x = builder.input((1, 4))
    y = builder.fully_connected(x, np.zeros((2, 4)), np.zeros(2, np.float32))  # float64 weights
    with pytest.raises(GraphError, match="float64"):
        write_tflite(builder.build(y))


# What the interpreters make of it


@pytest.mark.parametrize("kind", KINDS)
def test_float_operator_in_litert_and_tflm(kind: Kind) -> None:
    @PROPERTIES
    @given(float_operators(kind), st.integers(0, 2**32 - 1))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, 2, seed)
        model = write_tflite(graph)
        expected = run_float_of(graph, inputs)
        for got in (run_litert(model, *inputs), run_litert(model, *inputs, reference=True)):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(run_tflm(model, *inputs), expected, rtol=1e-5, atol=1e-5)

    check()


def run_float_of(graph: Graph, inputs: list[NDArray[Any]]) -> NDArray[Any]:
    """`run_float` takes one input; other inputs become constants, sample by sample."""
    if len(inputs) == 1:
        return run_float(graph, inputs[0])
    results = []
    for index in range(len(inputs[0])):
        fixed = {n: x[index : index + 1] for n, x in zip(graph.inputs[1:], inputs[1:], strict=True)}
        one = replace(graph, inputs=graph.inputs[:1], constants={**graph.constants, **fixed})
        results.append(run_float(one, inputs[0][index : index + 1]))
    return np.concatenate(results)


@PROPERTIES
@given(float_graphs(), st.integers(0, 2**32 - 1))
def test_float_graph_in_litert(graph: Graph, seed: int) -> None:
    inputs = random_inputs(graph, 2, seed)
    expected = run_float_of(graph, inputs)
    bound = 1e-5 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(run_litert(write_tflite(graph), *inputs), expected, atol=bound, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_int8_operator_in_litert(kind: Kind) -> None:
    """The reference kernels agree to 1 LSB. XNNPACK, which rounds once and in float, must take the file."""

    @PROPERTIES
    @given(int8_operators(kind), st.integers(0, 2**32 - 1))
    def check(graph: Graph, seed: int) -> None:
        inputs = random_inputs(graph, 2, seed)
        model, expected = write_tflite(graph), run_int8(graph, *inputs).astype(int)
        assert np.abs(run_litert(model, *inputs, reference=True) - expected).max() <= 1
        assert np.abs(run_litert(model, *inputs) - expected).max() <= 2

    check()


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_fully_connected_takes_an_image(dtype: str) -> None:
    """Without a RESHAPE: LiteRT with XNNPACK, its reference kernels and TFLite Micro flatten it alike."""
    graph = separable(1, dtype)
    inputs = random_inputs(graph, 3, 0)
    model = write_tflite(graph)
    assert "RESHAPE" not in operator_names(parse(model))
    expected = run_int8(graph, *inputs) if dtype == "int8" else run_float(graph, *inputs)
    tolerance = 1 if dtype == "int8" else 1e-4 * np.abs(expected).max()
    for got in (
        run_litert(model, *inputs),
        run_litert(model, *inputs, reference=True),
        run_tflm(model, *inputs),
    ):
        assert got.shape == (3, 4)
        assert np.abs(got.astype(float) - expected).max() <= tolerance


@pytest.mark.parametrize("kind", ["conv2d", "depthwise_conv2d", "fully_connected"])
def test_float_hard_sigmoid_is_two_operators(kind: str) -> None:
    rng = np.random.default_rng(0)
    builder = GraphBuilder()
    x = builder.input((1, 4, 4, 3))
    if kind == "conv2d":
        weights, method = rng.normal(0, 1, (5, 1, 1, 3)), builder.conv2d
    elif kind == "depthwise_conv2d":
        weights, method = rng.normal(0, 1, (1, 3, 3, 3)), builder.depthwise_conv2d
    else:
        weights, method = rng.normal(0, 1, (5, 48)), builder.fully_connected
    bias = rng.normal(0, 1, 5 if kind != "depthwise_conv2d" else 3).astype(np.float32)
    y = method(x, weights.astype(np.float32), bias, activation="hard_sigmoid")
    graph = builder.build(y)
    model = write_tflite(graph)
    parsed = parse(model)
    assert operator_names(parsed)[1:] == ["MUL"]
    assert parsed.subgraphs[0].tensors[parsed.subgraphs[0].outputs[0]].name == y.encode()
    inputs = random_inputs(graph, 4, 1)
    expected = run_float(graph, *inputs)
    assert expected.min() == 0
    assert expected.max() == 1
    for got in (
        run_litert(model, *inputs),
        run_litert(model, *inputs, reference=True),
        run_tflm(model, *inputs),
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)
