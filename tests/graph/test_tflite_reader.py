"""Reading .tflite files: what was written, what others write, and what nobody should have written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.interpreters import run_litert, run_tflm
from tests.random_graphs import float_graphs, int8_graphs, int8_operators, random_inputs
from toolchain.errors import ModelFileError, UnsupportedError
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.float_reference import run_float
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import KINDS, Kind
from toolchain.graph.tflite_reader import read_tflite

PROPERTIES = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), max_examples=60
)
OPERATORS = schema.BuiltinOperator


def scale(value: float, zero_point: int = 0) -> Quantization:
    return Quantization.per_tensor(value, zero_point)


def small_graph(dtype: str = "int8") -> Graph:
    """conv2d, add of a constant, average_pool, fully_connected, softmax."""
    rng = np.random.default_rng(0)
    q = {"int8": scale(0.1, 3), "float32": None}[dtype]
    builder = GraphBuilder(dtype)
    x = builder.input((1, 6, 6, 2), q)
    for method, shape in ((builder.conv2d, (4, 3, 3, 2)), (builder.fully_connected, (3, 4))):
        if method == builder.fully_connected:
            constant = rng.integers(-128, 128, (1, 1, 1, 4)).astype(dtype)
            x = builder.binary("add", x, builder.constant(constant, q), quantization=q)
            x = builder.pool("average_pool", x, (4, 4), quantization=q)
        weights = rng.integers(-127, 128, shape).astype(dtype)
        bias = rng.integers(-99, 99, shape[0]).astype("int32" if dtype == "int8" else "float32")
        x = method(
            x, weights, bias, activation="relu", quantization=q,
            weight_quantization=q and scale(0.02), bias_quantization=q and scale(np.float32(0.1) * np.float32(0.02)),
        )  # fmt: skip
    return builder.build(builder.unary("softmax", x, quantization=q and scale(1 / 256, -128)))


def edited(data: bytes, change: Callable[[Any], None]) -> bytes:
    """The file with a change made to its ModelT."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def assert_equal(a: Graph, b: Graph) -> None:
    assert a.operators == b.operators
    assert [(n.inputs, n.output) for n in a.nodes] == [(n.inputs, n.output) for n in b.nodes]
    assert (a.inputs, a.outputs, dict(a.tensors)) == (b.inputs, b.outputs, dict(b.tensors))
    assert a.constants.keys() == b.constants.keys()
    for name in a.constants:
        np.testing.assert_array_equal(a.constants[name], b.constants[name])


# Our own files


@PROPERTIES
@given(st.one_of(int8_graphs(), float_graphs()))
def test_a_written_graph_is_read_back(graph: Graph) -> None:
    data = write_tflite(graph)
    again = read_tflite(data)
    assert_equal(again, graph)
    assert write_tflite(again) == data


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_back(kind: Kind) -> None:
    @settings(PROPERTIES, max_examples=15)
    @given(int8_operators(kind))
    def check(graph: Graph) -> None:
        assert_equal(read_tflite(write_tflite(graph)), graph)

    check()


def test_sources_name_operators_of_the_file() -> None:
    sources = [node.source for node in read_tflite(write_tflite(small_graph())).nodes]
    assert sources[:2] == ["operator 0 (CONV_2D)", "operator 1 (ADD)"]


def test_a_float_hard_sigmoid_is_read_as_its_two_operators() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 4))
    weights = np.eye(4, dtype=np.float32) * 3
    graph = builder.build(
        builder.fully_connected(x, weights, np.zeros(4, np.float32), activation="hard_sigmoid")
    )
    again = read_tflite(write_tflite(graph))
    assert [(op.kind, op.activation) for op in again.operators] == [
        ("fully_connected", "relu6"),
        ("mul", "none"),
    ]
    inputs = np.random.default_rng(0).normal(0, 1, (5, 4)).astype(np.float32)
    np.testing.assert_allclose(run_float(again, inputs), run_float(graph, inputs), atol=1e-6)


# What other converters do


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("leave", ["two inputs", "minus one"])
def test_a_missing_bias_becomes_zeros(dtype: str, leave: str) -> None:
    graph = small_graph(dtype)
    for index in (0, 3):
        graph.constants[graph.nodes[index].inputs[2]][:] = 0

    def drop(model: Any) -> None:
        for index in (0, 3):
            inputs = list(model.subgraphs[0].operators[index].inputs)
            model.subgraphs[0].operators[index].inputs = inputs[:2] + ([-1] if leave == "minus one" else [])

    data = edited(write_tflite(graph), drop)
    read = read_tflite(data)
    inputs = random_inputs(graph, 3, 0)
    if dtype == "int8":
        bias = read.tensors[read.nodes[0].inputs[2]]
        assert (bias.dtype, bias.shape) == ("int32", (4,))
        assert bias.quantization == scale(np.float32(0.1) * np.float32(0.02))
        np.testing.assert_array_equal(run_int8(read, *inputs), run_int8(graph, *inputs))
        np.testing.assert_array_equal(run_int8(read, *inputs), run_tflm(write_tflite(read), *inputs))
    else:
        np.testing.assert_array_equal(run_float(read, *inputs), run_float(graph, *inputs))


@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (1, 1, 4)])
def test_constant_operands_of_lower_rank_are_brought_up(shape: tuple[int, ...]) -> None:
    graph = small_graph()

    def lower(model: Any) -> None:
        subgraph = model.subgraphs[0]
        tensor = subgraph.tensors[subgraph.operators[1].inputs[1]]
        tensor.shape = list(shape)
        if shape == ():
            model.buffers[tensor.buffer].data = model.buffers[tensor.buffer].data[:1]

    data = edited(write_tflite(graph), lower)
    read = read_tflite(data)
    assert read.operators[1].inputs[1] == ((1, 1, 1, 1) if shape == () else (1, 1, 1, 4))
    inputs = random_inputs(graph, 3, 0)
    np.testing.assert_array_equal(run_int8(read, *inputs), run_tflm(data, *inputs))


def test_a_float_mean_is_an_average_pool() -> None:
    graph = small_graph("float32")
    axes: list[int] = [1, 2]

    def mean(model: Any) -> None:
        subgraph, buffer = model.subgraphs[0], schema.BufferT()
        buffer.data = np.frombuffer(np.array(axes, np.int32).tobytes(), np.uint8)
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.name = [2], 2, len(model.buffers), b"axes"
        model.buffers.append(buffer)
        subgraph.tensors.append(tensor)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = OPERATORS.MEAN
        model.operatorCodes.append(code)
        operator = subgraph.operators[2]
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs = [operator.inputs[0], len(subgraph.tensors) - 1]
        operator.builtinOptions = schema.ReducerOptionsT()
        operator.builtinOptions.keepDims = True
        operator.builtinOptionsType = schema.BuiltinOptions.ReducerOptions

    data = edited(write_tflite(graph), mean)
    inputs = random_inputs(graph, 3, 0)
    read = read_tflite(data)
    assert read.operators == graph.operators
    np.testing.assert_allclose(run_float(read, *inputs), run_litert(data, *inputs), atol=1e-5)
    axes[:] = [-3, -2]
    assert read_tflite(edited(write_tflite(graph), mean)).operators == graph.operators
    axes[:] = [1, 3]
    with pytest.raises(UnsupportedError, match=r"operator 2 \(MEAN\): only a mean over height and width"):
        read_tflite(edited(write_tflite(graph), mean))
    with pytest.raises(UnsupportedError, match=r"operator 2 \(MEAN\): an int8 mean"):
        read_tflite(edited(write_tflite(small_graph()), mean))


def test_int8_weights_of_a_float_operator_become_floats() -> None:
    graph = small_graph("float32")

    def hybrid(model: Any) -> None:
        subgraph = model.subgraphs[0]
        tensor = subgraph.tensors[subgraph.operators[0].inputs[1]]
        data = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)
        model.buffers[tensor.buffer].data = np.frombuffer(data.astype(np.int8).tobytes(), np.uint8)
        tensor.type = schema.TensorType.INT8
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5], [0]

    read = read_tflite(edited(write_tflite(graph), hybrid))
    weights = graph.nodes[0].inputs[1]
    np.testing.assert_array_equal(read.constants[weights], graph.constants[weights] * np.float32(0.5))
    assert read.tensors[weights].quantization is None


def test_old_files_have_one_byte_codes_and_no_zero_points() -> None:
    graph = small_graph()

    def old(model: Any) -> None:
        for code in model.operatorCodes:
            code.builtinCode = 0
        for tensor in model.subgraphs[0].tensors:
            if tensor.quantization is not None and list(tensor.quantization.zeroPoint) == [0]:
                tensor.quantization.zeroPoint = None

    assert_equal(read_tflite(edited(write_tflite(graph), old)), graph)


def test_tensors_without_or_with_equal_names_get_their_own() -> None:
    graph = small_graph()

    def rename(name: bytes | None) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            for tensor in model.subgraphs[0].tensors:
                tensor.name = name

        return change

    for name in (None, b"x", b"\xff\xfe"):
        read = read_tflite(edited(write_tflite(graph), rename(name)))
        assert read.operators == graph.operators
        assert len(read.tensors) == len(graph.tensors)


def test_unused_codes_and_tensors_do_not_matter() -> None:
    def clutter(model: Any) -> None:
        code, tensor = schema.OperatorCodeT(), schema.TensorT()
        code.builtinCode = OPERATORS.QUANTIZE
        tensor.shape, tensor.type = [7, 7], schema.TensorType.STRING
        model.operatorCodes.append(code)
        model.subgraphs[0].tensors.append(tensor)

    assert_equal(read_tflite(edited(write_tflite(small_graph()), clutter)), small_graph())


# What the operator list has not


def set_code(index: int, code: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
        entry.customCode = b"TFLite_Detection_PostProcess"
        model.operatorCodes.append(entry)
        model.subgraphs[0].operators[index].opcodeIndex = len(model.operatorCodes) - 1

    return change


def set_option(index: int, name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model.subgraphs[0].operators[index].builtinOptions, name, value)


def set_tensor(operator: int, place: int, name: str, value: Any) -> Callable[[Any], None]:
    """A field of an operator's input tensor, or of its output where `place` is -1."""

    def change(model: Any) -> None:
        subgraph = model.subgraphs[0]
        numbers = subgraph.operators[operator].outputs if place < 0 else subgraph.operators[operator].inputs
        setattr(subgraph.tensors[numbers[max(place, 0)]], name, value)

    return change


def duplicate_subgraph(model: Any) -> None:
    model.subgraphs.append(model.subgraphs[0])


def sparse_weights(model: Any) -> None:
    set_tensor(0, 1, "sparsity", schema.SparsityParametersT())(model)


def weights_with_zero_point(model: Any) -> None:
    subgraph = model.subgraphs[0]
    subgraph.tensors[subgraph.operators[0].inputs[1]].quantization.zeroPoint = [3]


def half_bias(model: Any) -> None:
    subgraph = model.subgraphs[0]
    tensor = subgraph.tensors[subgraph.operators[0].inputs[2]]
    tensor.type = schema.TensorType.INT64
    model.buffers[tensor.buffer].data = np.zeros(32, np.uint8)


def data_elsewhere(model: Any) -> None:
    model.buffers[1].offset, model.buffers[1].size = 4096, 16


def variable_weights(model: Any) -> None:
    subgraph = model.subgraphs[0]
    subgraph.tensors[subgraph.operators[0].inputs[1]].buffer = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_code(0, OPERATORS.RELU), r"operator 0 \(RELU\)"),
        (set_code(1, OPERATORS.RELU6), r"operator 1 \(RELU6\)"),
        (set_code(2, OPERATORS.LOGISTIC), r"operator 2 \(LOGISTIC\)"),
        (set_code(4, OPERATORS.DEQUANTIZE), r"operator 4 \(DEQUANTIZE\)"),
        (set_code(0, OPERATORS.MIRROR_PAD), r"operator 0 \(MIRROR_PAD\)"),
        (set_code(0, OPERATORS.CUSTOM), r"operator 0 \(CUSTOM 'TFLite_Detection_PostProcess'\)"),
        (set_code(0, 9999), r"operator 0 \(unknown code 9999\)"),
        (set_option(0, "dilationWFactor", 2), r"operator 0 \(CONV_2D\): dilation 1x2"),
        (set_option(0, "dilationHFactor", 3), r"operator 0 \(CONV_2D\): dilation 3x1"),
        (set_option(0, "fusedActivationFunction", 4), r"operator 0 \(CONV_2D\): fused activation 4"),
        (set_option(3, "keepNumDims", True), r"operator 3 \(FULLY_CONNECTED\): keep_num_dims"),
        (set_option(3, "weightsFormat", 1), r"operator 3 \(FULLY_CONNECTED\): shuffled weights"),
        (set_tensor(3, -1, "shape", [1, 1, 1, 3]), r"operator 3 \(FULLY_CONNECTED\): output of shape"),
        (set_option(4, "beta", 2.0), r"operator 4 \(SOFTMAX\): beta 2"),
        (set_tensor(0, 1, "shape", [8, 3, 3, 1]), r"operator 0 \(CONV_2D\): grouped convolution \(2 groups\)"),
        (set_tensor(0, 0, "type", schema.TensorType.UINT8), "input of the model: tensor 't0' has type UINT8"),
        (set_tensor(0, 0, "type", schema.TensorType.INT16), "type INT16"),
        (set_tensor(0, 0, "shape", [2, 6, 6, 2]), "batch of 1"),
        (set_tensor(0, 0, "shape", []), "batch of 1"),
        (set_tensor(0, 0, "isVariable", True), "'t0' is a variable"),
        (set_tensor(2, -1, "type", schema.TensorType.INT16), r"operator 2 \(AVERAGE_POOL_2D\): tensor .* INT16"),
        (set_tensor(0, 1, "type", schema.TensorType.INT4), "type INT4"),
        (set_tensor(0, 1, "shape", [1] * 9), "9 dimensions"),
        (half_bias, r"operator 0 \(CONV_2D\): bias of type int64"),
        (sparse_weights, r"operator 0 \(CONV_2D\): its weights is a sparse tensor"),
        (weights_with_zero_point, r"operator 0 \(CONV_2D\): weights with a zero point"),
        (variable_weights, r"operator 0 \(CONV_2D\): its weights must be a constant"),
        (data_elsewhere, "outside the flatbuffer"),
        (duplicate_subgraph, "2 subgraphs"),
    ],
)  # fmt: skip
def test_what_is_not_in_the_operator_list_is_named(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        read_tflite(edited(write_tflite(small_graph()), change))


# Damage


def drop_subgraphs(model: Any) -> None:
    model.subgraphs = []


def drop_outputs(model: Any) -> None:
    model.subgraphs[0].outputs = []


def many_inputs(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = [0] * 1000


def two_outputs(model: Any) -> None:
    model.subgraphs[0].operators[0].outputs = [0, 0]


def no_scale(model: Any) -> None:
    model.subgraphs[0].tensors[0].quantization = None


def scales(values: list[float], points: list[int], place: int = 1) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        subgraph = model.subgraphs[0]
        quantization = subgraph.tensors[subgraph.operators[0].inputs[place]].quantization
        quantization.scale, quantization.zeroPoint = values, points

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_subgraphs, "no graph"),
        (drop_outputs, "no input or no output"),
        (many_inputs, "names 1000 tensors"),
        (two_outputs, r"operator 0 \(CONV_2D\): has 2 outputs"),
        (no_scale, "has no scale"),
        (scales([0.1, 0.1], [0, 0]), "2 scales"),
        (scales([float("nan")], [0]), "nan"),
        (scales([-1.0], [0]), "-1.0"),
        (scales([0.0], [0]), "0.0"),
        (scales([0.1] * 2, [0] * 2, place=0), "2 scales"),
        (lambda model: setattr(model, "version", 2), "schema version 2"),
        (lambda model: setattr(model.subgraphs[0], "inputs", [99]), "tensor 99 of"),
        (lambda model: setattr(model.subgraphs[0].operators[0], "inputs", [0, 1, -7]), "tensor -7 of"),
        (lambda model: setattr(model.subgraphs[0].operators[0], "inputs", [0]), "has 1 inputs"),
        (lambda model: setattr(model.subgraphs[0].operators[0], "opcodeIndex", 55), "code number 55"),
        (lambda model: setattr(model.subgraphs[0].tensors[0], "buffer", 77), "buffer 77 of"),
        (lambda model: model.subgraphs[0].operators.reverse(), "not made before it is used"),
        (lambda model: model.subgraphs[0].operators.append(model.subgraphs[0].operators[-1]), "made twice"),
        (set_tensor(0, 1, "shape", [4, 3, 3, 3]), "needs 108 bytes, the file has 72"),
        (set_tensor(0, 1, "shape", [2**30, 2**30, 2**30, 2**30]), "bytes, the file has 72"),
        (set_tensor(0, 1, "shape", [-4, -3, 3, 2]), "bytes, the file has 72"),
        (set_tensor(0, 1, "shape", [72]), "weights of shape"),
        (set_tensor(0, 2, "shape", [2]), "needs 8 bytes"),
        (set_tensor(0, 0, "shape", [1, 2**31 - 1, 2**31 - 1, 2]), "does not follow"),
        (set_tensor(0, -1, "shape", [1, 4, 4, 5]), "operands do not broadcast"),
        (set_tensor(4, -1, "shape", [1, 4]), r"operator 4 \(SOFTMAX\): .* does not follow"),
        (set_option(0, "strideH", 0), "must be positive"),
        (set_option(0, "padding", 7), "padding 7"),
        (set_option(2, "filterHeight", -3), "must be positive"),
    ],
)  # fmt: skip
def test_damage_is_named(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_tflite(edited(write_tflite(small_graph()), change))


def test_other_files_are_refused() -> None:
    for data in (b"", b"TFL3", b"\0\0\0\0TFL3", b"PK\3\4" * 100, b"\x1c\0\0\0TFL2" + bytes(100)):
        with pytest.raises(ModelFileError):
            read_tflite(data)


def test_weights_listed_a_thousand_times_are_not_unpacked_a_thousand_times() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 100))
    for _ in range(150):
        x = builder.fully_connected(x, np.zeros((100, 100), np.float32), np.zeros(100, np.float32))

    def share(model: Any) -> None:
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [1.0], [0]
        weights = [tensor for tensor in model.subgraphs[0].tensors if list(tensor.shape) == [100, 100]]
        for tensor in weights:
            model.buffers[tensor.buffer].data = None
            tensor.buffer, tensor.type, tensor.quantization = 1, schema.TensorType.INT8, quantization
        model.buffers[1].data = np.zeros(10000, np.uint8)

    with pytest.raises(ModelFileError, match="too often"):
        read_tflite(edited(write_tflite(builder.build(x)), share))


def read_or_refuse(data: bytes) -> None:
    """Any error but the two that a file can cause fails the test."""
    with contextlib.suppress(ModelFileError, UnsupportedError):
        read_tflite(data)


@settings(PROPERTIES, max_examples=300)
@given(st.binary(max_size=300))
def test_random_bytes_are_a_model_file_error(data: bytes) -> None:
    for candidate in (data, b"\x1c\0\0\0TFL3" + data, data[:4] + b"TFL3" + data[4:]):
        with pytest.raises(ModelFileError):
            read_tflite(candidate)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_every_truncation_is_survived(dtype: str) -> None:
    data = write_tflite(small_graph(dtype))
    for length in range(0, len(data) - 4, 3):  # up to 3 bytes at the end are padding
        with pytest.raises(ModelFileError):
            read_tflite(data[:length])


@settings(PROPERTIES, max_examples=300)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes_are_survived(changes: list[tuple[float, int]]) -> None:
    data = bytearray(write_tflite(small_graph()))
    for place, value in changes:
        data[int(place * len(data))] = value
    read_or_refuse(bytes(data))


@pytest.mark.parametrize("value", [0x00, 0x7F, 0x80, 0xFF])
def test_every_single_changed_byte_is_survived(value: int) -> None:
    data = write_tflite(small_graph())
    for place in range(0, len(data), 2):
        read_or_refuse(data[:place] + bytes([value]) + data[place + 1 :])


@pytest.mark.slow
@settings(PROPERTIES, max_examples=3000)
@given(st.one_of(int8_graphs(), float_graphs()), st.randoms(use_true_random=False))
def test_changed_words_of_random_files_are_survived(graph: Graph, random: Any) -> None:
    data = bytearray(write_tflite(graph))
    for _ in range(random.randint(1, 6)):
        place = random.randrange(0, len(data) - 4, 4)
        word = random.choice([0, 1, 4, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, len(data), random.getrandbits(32)])
        data[place : place + 4] = word.to_bytes(4, "little")
    read_or_refuse(bytes(data))


# The reference models of MLPerf Tiny


def mlperf(name: str) -> bytes:
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        pytest.skip("BOARDFIT_DATA is not set: the folder that holds mlperf_tiny_models")
    return (Path(folder) / "mlperf_tiny_models" / f"{name}.tflite").read_bytes()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "dtype", "nodes"),
    [
        ("ic01_resnet8_fp32", "float32", 16),
        ("ic01_resnet8_int8", "int8", 16),
        ("kws01_dscnn_fp32", "float32", 13),
        ("kws01_dscnn_int8", "int8", 13),
    ],
)
def test_mlperf_tiny_models_survive_reading_and_writing(name: str, dtype: str, nodes: int) -> None:
    data = mlperf(name)
    graph = read_tflite(data)
    assert (graph.dtype, len(graph.nodes)) == (dtype, nodes)
    written = write_tflite(graph)
    assert_equal(read_tflite(written), graph)
    inputs = random_inputs(graph, 4, 0)
    if dtype == "int8":
        np.testing.assert_array_equal(run_tflm(written, *inputs), run_tflm(data, *inputs))
        return
    np.testing.assert_allclose(run_litert(written, *inputs), run_float(graph, *inputs), atol=1e-5)
    # kws01_dscnn_fp32 is a hybrid: LiteRT rounds its activations to int8 as it goes.
    tolerance = 0.1 if name == "kws01_dscnn_fp32" else 1e-5
    np.testing.assert_allclose(run_float(graph, *inputs), run_litert(data, *inputs), atol=tolerance)


@pytest.mark.data
def test_damaged_mlperf_models_are_survived() -> None:
    data = mlperf("kws01_dscnn_int8")
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(data), 100):
        read_or_refuse(data[:length])
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, len(damaged), rng.integers(1, 30))
        damaged[places] = rng.integers(0, 256, len(places))
        read_or_refuse(damaged.tobytes())
