"""Graph -> .tflite, through the schema package alone: no converter, no torch, about a millisecond per operator.

The file has one operator per node, int8 inputs and outputs in an int8 graph, and no QUANTIZE, DEQUANTIZE or TRANSPOSE.
Only a float hard-sigmoid costs an operator more: TFLite has none, so RELU6 is fused with a bias raised by 3, and a
MUL by 1/6 follows.

Two properties others rely on: the same graph gives the same bytes, and the size of a file depends on the structure and
the names alone, not on weights or scales (costs are found without trained weights).

Sources: TensorFlow Lite schema version 3 (schema.fbs), and the operator versions of tensorflow/lite/tools/versioning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import flatbuffers
import numpy as np
import tflite

from toolchain.errors import GraphError, UnsupportedError
from toolchain.graph.graph import Array, Graph, Node, Quantization
from toolchain.graph.operator import WEIGHTED, Kind, Operator, Shape

_SCHEMA_VERSION: Final = 3
# Kernels read constants in place: SIMD loads want 16 bytes, and so does XNNPACK.
_ALIGNMENT: Final = 16

_TYPES: Final = {
    "float32": tflite.TensorType.FLOAT32,
    "int8": tflite.TensorType.INT8,
    "int32": tflite.TensorType.INT32,
}
_PADDINGS: Final = {"same": tflite.Padding.SAME, "valid": tflite.Padding.VALID}
_ACTIVATIONS: Final = {
    "none": tflite.ActivationFunctionType.NONE,
    "relu": tflite.ActivationFunctionType.RELU,
    "relu6": tflite.ActivationFunctionType.RELU6,
    "hard_sigmoid": tflite.ActivationFunctionType.RELU6,  # the first half; see `_hard_sigmoid_tail`
}
# Kind -> (operator code, version of the float kernel, version of the int8 kernel).
_CODES: Final[dict[Kind, tuple[int, int, int]]] = {
    "conv2d": (tflite.BuiltinOperator.CONV_2D, 1, 3),
    "depthwise_conv2d": (tflite.BuiltinOperator.DEPTHWISE_CONV_2D, 1, 3),
    "fully_connected": (tflite.BuiltinOperator.FULLY_CONNECTED, 1, 4),
    "add": (tflite.BuiltinOperator.ADD, 1, 2),
    "mul": (tflite.BuiltinOperator.MUL, 1, 2),
    "average_pool": (tflite.BuiltinOperator.AVERAGE_POOL_2D, 1, 2),
    "max_pool": (tflite.BuiltinOperator.MAX_POOL_2D, 1, 2),
    "pad": (tflite.BuiltinOperator.PAD, 1, 2),
    "reshape": (tflite.BuiltinOperator.RESHAPE, 1, 1),
    "softmax": (tflite.BuiltinOperator.SOFTMAX, 1, 2),
    "hard_swish": (tflite.BuiltinOperator.HARD_SWISH, 1, 1),
    "concatenation": (tflite.BuiltinOperator.CONCATENATION, 1, 2),
}
_PER_CHANNEL_FULLY_CONNECTED: Final = 12  # version that brought one scale per output of int8 FULLY_CONNECTED


def write_tflite(graph: Graph) -> bytes:
    """The bytes of a .tflite file that computes `graph`.

    Args:
        graph: a float32 or an int8 graph. Tensor names, scales and zero points are written as they are.

    Returns:
        The file. Constants are aligned to 16 bytes relative to its start.

    Raises:
        GraphError: a constant that needs a scale has none, or a tensor has a type that is not written
            (only float32, int8 and int32 are).
    """
    content = _Content()
    for name in graph.inputs:
        content.graph_tensor(graph, name)
    for node in graph.nodes:
        _add_node(content, graph, node)
    return _serialise(
        content,
        inputs=[content.graph_tensor(graph, name) for name in graph.inputs],
        outputs=[content.graph_tensor(graph, name) for name in graph.outputs],
    )


@dataclass(frozen=True, slots=True)
class _Options:
    """Builtin options: name of the schema's table, and fields that differ from the schema's default or not."""

    table: str
    fields: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class _TensorRecord:
    name: str
    shape: Shape
    type: int
    buffer: int
    quantization: Quantization | None


@dataclass(frozen=True, slots=True)
class _OperatorRecord:
    code: int  # index among the operator codes
    inputs: list[int]
    output: int
    options: _Options | None


@dataclass
class _Content:
    """What the file will hold, as plain lists; tensors and buffers are numbered in order of first use."""

    tensors: list[_TensorRecord] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=lambda: [b""])  # buffer 0 is TFLite's "no data"
    codes: dict[tuple[int, int], int] = field(default_factory=dict)
    operators: list[_OperatorRecord] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def graph_tensor(self, graph: Graph, name: str) -> int:
        """Number of a tensor of the graph; the tensor is added on its first use."""
        if name not in self._numbers:
            tensor = graph.tensors[name]
            if tensor.dtype not in _TYPES:
                raise GraphError(f"tensor {name!r}: type {tensor.dtype} is not written to TFLite")
            data = graph.constants.get(name)
            self._numbers[name] = self.tensor(name, tensor.shape, tensor.dtype, data, tensor.quantization)
        return self._numbers[name]

    def tensor(
        self,
        name: str,
        shape: Shape,
        dtype: str,
        data: Array | None = None,
        quantization: Quantization | None = None,
    ) -> int:
        """Add a tensor, a constant where `data` is given; returns its number."""
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append(np.ascontiguousarray(data).tobytes())
        self.tensors.append(_TensorRecord(name, shape, _TYPES[dtype], buffer, quantization))
        return len(self.tensors) - 1

    def operator(
        self, code: int, version: int, inputs: list[int], output: int, options: _Options | None
    ) -> None:
        """Add an operator, and its code where it is new."""
        index = self.codes.setdefault((code, version), len(self.codes))
        self.operators.append(_OperatorRecord(index, inputs, output, options))


def _add_node(content: _Content, graph: Graph, node: Node) -> None:
    op = node.operator
    code, float_version, int8_version = _CODES[op.kind]
    version = int8_version if op.dtype == "int8" else float_version
    inputs = [content.graph_tensor(graph, name) for name in node.inputs[: len(op.inputs)]]
    if op.kind in WEIGHTED:
        weights, bias = node.inputs[-2:]
        if op.dtype == "int8":
            scales = _weight_scales(graph, node)
            if op.kind == "fully_connected" and scales > 1:
                version = _PER_CHANNEL_FULLY_CONNECTED
        inputs.append(content.graph_tensor(graph, weights))
        if op.activation == "hard_sigmoid":
            _add_hard_sigmoid(content, graph, node, inputs)
            return
        inputs.append(content.graph_tensor(graph, bias))
    elif op.kind == "pad":
        pads = np.array(op.pads, np.int32)
        inputs.append(content.tensor(f"{node.output}_pads", pads.shape, "int32", pads))
    elif op.kind == "reshape":
        # The kernels take the shape from the tensor, older ones from the option; LiteRT's delegates want both.
        shape = np.array(op.output, np.int32)
        inputs.append(content.tensor(f"{node.output}_shape", shape.shape, "int32", shape))
    content.operator(code, version, inputs, content.graph_tensor(graph, node.output), _options(op))


def _weight_scales(graph: Graph, node: Node) -> int:
    """Number of weight scales of an int8 operator. Raises GraphError where one is missing."""
    weights, bias = (graph.tensors[name] for name in node.inputs[-2:])
    for tensor in (weights, bias):
        if tensor.quantization is None:
            raise GraphError(
                f"{node.operator.kind} {node.source}: int8 weights and bias need scales, "
                f"{tensor.name!r} has none"
            )
    assert weights.quantization is not None
    return len(weights.quantization.scale)


def _add_hard_sigmoid(content: _Content, graph: Graph, node: Node, inputs: list[int]) -> None:
    """relu6(x + 3) / 6 behind a weighted float operator: the 3 goes into the bias, RELU6 is fused, MUL by 1/6."""
    op, output = node.operator, graph.tensors[node.output]
    bias = graph.constants[node.inputs[-1]] + np.float32(3)
    inputs.append(content.tensor(f"{node.output}_bias", bias.shape, "float32", bias))
    gate = content.tensor(f"{node.output}_relu6", output.shape, "float32")
    content.operator(*_CODES[op.kind][:2], inputs, gate, _options(op))
    sixth = np.full((1,) * len(output.shape), 1 / 6, np.float32)
    factor = content.tensor(f"{node.output}_sixth", sixth.shape, "float32", sixth)
    options = _Options("MulOptions", (("FusedActivationFunction", _ACTIVATIONS["none"]),))
    result = content.graph_tensor(graph, node.output)
    content.operator(*_CODES["mul"][:2], [gate, factor], result, options)


def _options(op: Operator) -> _Options | None:
    """The builtin options of an operator."""
    if op.padding == "explicit":
        raise UnsupportedError(
            f"{op.signature}: a .tflite file has no operator with a border of its own",
            remedy="it is a patch of an image, which only programs of boards have",
        )
    activation = ("FusedActivationFunction", _ACTIVATIONS[op.activation])
    window = (
        ("Padding", _PADDINGS[op.padding]),
        ("StrideH", op.stride[0]),
        ("StrideW", op.stride[1]),
        activation,
    )
    dilation = (("DilationHFactor", 1), ("DilationWFactor", 1))
    if op.kind == "conv2d":
        return _Options("Conv2DOptions", (*window, *dilation))
    if op.kind == "depthwise_conv2d":
        multiplier = op.output[3] // op.inputs[0][3]
        return _Options("DepthwiseConv2DOptions", (*window, *dilation, ("DepthMultiplier", multiplier)))
    if op.kind in ("average_pool", "max_pool"):
        kernel = (("FilterHeight", op.kernel[0]), ("FilterWidth", op.kernel[1]))
        return _Options("Pool2DOptions", (*window, *kernel))
    if op.kind == "fully_connected":
        return _Options("FullyConnectedOptions", (activation,))
    if op.kind == "add":
        return _Options("AddOptions", (activation,))
    if op.kind == "mul":
        return _Options("MulOptions", (activation,))
    if op.kind == "pad":
        return _Options("PadOptions")
    if op.kind == "reshape":
        return _Options("ReshapeOptions", (("NewShape", np.array(op.output, np.int32)),))
    if op.kind == "softmax":
        return _Options("SoftmaxOptions", (("Beta", 1.0),))
    if op.kind == "concatenation":
        return _Options("ConcatenationOptions", (("Axis", op.axis), activation))
    return None  # hard_swish: the schema's table for it is empty and the converters leave it out


def _serialise(content: _Content, inputs: list[int], outputs: list[int]) -> bytes:
    """The flatbuffer. It is built from its end: children come before the tables that point to them."""
    constants = sum(len(data) + _ALIGNMENT for data in content.buffers)
    builder = flatbuffers.Builder(constants + 512 * (len(content.tensors) + len(content.operators)) + 1024)

    tensors = [_tensor(builder, record) for record in content.tensors]
    operators = [_operator(builder, record) for record in content.operators]
    tensor_vector = _table_vector(builder, tflite.SubGraphStartTensorsVector, tensors)
    operator_vector = _table_vector(builder, tflite.SubGraphStartOperatorsVector, operators)
    input_vector, output_vector = _int_vector(builder, inputs), _int_vector(builder, outputs)
    name = builder.CreateString("main")
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensor_vector)
    tflite.SubGraphAddInputs(builder, input_vector)
    tflite.SubGraphAddOutputs(builder, output_vector)
    tflite.SubGraphAddOperators(builder, operator_vector)
    tflite.SubGraphAddName(builder, name)
    subgraph = tflite.SubGraphEnd(builder)

    codes = [_operator_code(builder, *key) for key in content.codes]
    buffers = [_buffer(builder, data) for data in content.buffers]
    code_vector = _table_vector(builder, tflite.ModelStartOperatorCodesVector, codes)
    subgraph_vector = _table_vector(builder, tflite.ModelStartSubgraphsVector, [subgraph])
    buffer_vector = _table_vector(builder, tflite.ModelStartBuffersVector, buffers)
    description = builder.CreateString("boardfit")
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, _SCHEMA_VERSION)
    tflite.ModelAddOperatorCodes(builder, code_vector)
    tflite.ModelAddSubgraphs(builder, subgraph_vector)
    tflite.ModelAddDescription(builder, description)
    tflite.ModelAddBuffers(builder, buffer_vector)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(builder: Any, record: _TensorRecord) -> int:
    quantization = None
    if record.quantization is not None:
        scale = builder.CreateNumpyVector(np.array(record.quantization.scale, np.float32))
        zero_point = builder.CreateNumpyVector(np.array(record.quantization.zero_point, np.int64))
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddScale(builder, scale)
        tflite.QuantizationParametersAddZeroPoint(builder, zero_point)
        tflite.QuantizationParametersAddQuantizedDimension(builder, record.quantization.axis)
        quantization = tflite.QuantizationParametersEnd(builder)
    name = builder.CreateString(record.name)
    shape = _int_vector(builder, record.shape)
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, record.type)
    tflite.TensorAddBuffer(builder, record.buffer)
    tflite.TensorAddName(builder, name)
    if quantization is not None:
        tflite.TensorAddQuantization(builder, quantization)
    return int(tflite.TensorEnd(builder))


def _operator(builder: Any, record: _OperatorRecord) -> int:
    options = None if record.options is None else _option_table(builder, record.options)
    inputs, outputs = _int_vector(builder, record.inputs), _int_vector(builder, [record.output])
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, record.code)
    tflite.OperatorAddInputs(builder, inputs)
    tflite.OperatorAddOutputs(builder, outputs)
    if record.options is not None:
        tflite.OperatorAddBuiltinOptionsType(builder, getattr(tflite.BuiltinOptions, record.options.table))
        tflite.OperatorAddBuiltinOptions(builder, options)
    return int(tflite.OperatorEnd(builder))


def _option_table(builder: Any, options: _Options) -> int:
    fields = [
        (name, _int_vector(builder, value) if isinstance(value, np.ndarray) else value)
        for name, value in options.fields
    ]
    getattr(tflite, f"{options.table}Start")(builder)
    for name, value in fields:
        getattr(tflite, f"{options.table}Add{name}")(builder, value)
    return int(getattr(tflite, f"{options.table}End")(builder))


def _operator_code(builder: Any, code: int, version: int) -> int:
    # Readers older than 2020 know only the deprecated one-byte field; it saturates at 127.
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(code, 127))
    tflite.OperatorCodeAddBuiltinCode(builder, code)
    tflite.OperatorCodeAddVersion(builder, version)
    return int(tflite.OperatorCodeEnd(builder))


def _buffer(builder: Any, data: bytes) -> int:
    vector = None
    if data:
        # CreateByteVector cannot align; this is its body behind an aligned start.
        builder.StartVector(1, len(data), _ALIGNMENT)
        builder.head -= len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        vector = builder.EndVector()
    tflite.BufferStart(builder)
    if vector is not None:
        tflite.BufferAddData(builder, vector)
    return int(tflite.BufferEnd(builder))


def _int_vector(builder: Any, values: Any) -> int:
    return int(builder.CreateNumpyVector(np.array(values, np.int32)))


def _table_vector(builder: Any, start: Callable[[Any, int], int], offsets: list[int]) -> int:
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
