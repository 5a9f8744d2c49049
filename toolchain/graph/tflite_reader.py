"""A .tflite file -> Graph: files of `write_tflite`, and those of other converters as far as the operator list goes.

Nothing in the file is believed: offsets, indices, lengths and shapes are checked before they are used, so that a
damaged file is a `ModelFileError`. A sound file that does what the operator list cannot express is an
`UnsupportedError` that names the operator and its place.

Source of field numbers and codes: TensorFlow Lite schema version 3 (schema.fbs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import numpy as np
import tflite

from toolchain.errors import GraphError, ModelFileError, UnsupportedError
from toolchain.graph.flatbuffer import Table
from toolchain.graph.graph import Array, Graph, Node, Quantization, Tensor
from toolchain.graph.operator import Activation, DType, Kind, Operator, Padding, Shape

_SCHEMA_VERSION: Final = 3
_MAX_RANK: Final = 8
_MAX_INPUTS: Final = 256  # of one operator; only a damaged concatenation has more

_CODE_NAMES: Final = {
    value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)
}
_TYPE_NAMES: Final = {
    value: name for name, value in vars(tflite.TensorType).items() if isinstance(value, int)
}
_OPTION_CODES: Final = {
    name: value for name, value in vars(tflite.BuiltinOptions).items() if isinstance(value, int)
}
# The types that constants and activations of our graphs and their helpers (shapes, paddings) have.
_DTYPES: Final[dict[int, str]] = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.INT8: "int8",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.INT64: "int64",
}
_ACTIVATIONS: Final[dict[int, Activation]] = {
    tflite.ActivationFunctionType.NONE: "none",
    tflite.ActivationFunctionType.RELU: "relu",
    tflite.ActivationFunctionType.RELU6: "relu6",
}
_PADDINGS: Final[dict[int, Padding]] = {tflite.Padding.SAME: "same", tflite.Padding.VALID: "valid"}


def read_tflite(data: bytes) -> Graph:
    """The graph in a .tflite file.

    What files have and graphs have not: a missing bias becomes zeros, a constant operand of lower rank gets leading
    dimensions of 1, a float MEAN over height and width becomes an average_pool, and int8 weights of a float operator
    become the float weights they stand for (TFLite's kernels for those also round activations, so results differ a
    little). The hard-sigmoid that `write_tflite` spends two float operators on stays those two.

    Args:
        data: the file's content.

    Returns:
        The graph; `Node.source` holds each operator's number and code name. Constants are views of `data`.

    Raises:
        ModelFileError: not a .tflite file, or one that is damaged or contradicts itself.
        UnsupportedError: an operator, option or type outside the operator list; the message names operator and code.
    """
    try:
        return _Reader(data).graph()
    except GraphError as error:
        raise ModelFileError(f"the model file contradicts itself: {error.message}") from error


@dataclass(frozen=True, slots=True)
class _FileTensor:
    """A tensor as the file has it."""

    name: str
    shape: Shape
    type: int
    data: Table | None  # the buffer, where it is not empty
    table: Table


@dataclass(frozen=True, slots=True)
class _FileOperator:
    """An operator as the file has it. `where` starts every message about it."""

    where: str
    code: int
    inputs: tuple[int, ...]  # tensor numbers; -1 where an optional one is left out
    output: int
    options: Table | None
    options_type: int

    def unsupported(self, what: str) -> NoReturn:
        raise UnsupportedError(
            f"{self.where}: {what}",
            remedy="change the model, or convert it differently",
        )

    def damaged(self, what: str) -> NoReturn:
        raise ModelFileError(f"{self.where}: {what}")

    def option(self, table: str, field: int, kind: str = "b", default: Any = 0) -> Any:
        """A field of the builtin options, which must be of that table; the default where they are left out."""
        if self.options is None:
            return default
        if self.options_type != _OPTION_CODES[table]:
            self.damaged(f"has options of type {self.options_type}, not {table}")
        return self.options.scalar(field, kind, default)

    def activation(self, table: str, field: int) -> Activation:
        code = self.option(table, field)
        if code not in _ACTIVATIONS:
            self.unsupported(f"fused activation {code}; only RELU and RELU6 are known")
        return _ACTIVATIONS[code]

    def padding(self, table: str) -> Padding:
        code = self.option(table, 0)
        if code not in _PADDINGS:
            self.damaged(f"padding {code} does not exist")
        return _PADDINGS[code]

    def need_inputs(self, least: int, greatest: int) -> None:
        if not least <= len(self.inputs) <= greatest:
            self.damaged(f"has {len(self.inputs)} inputs")


class _Reader:
    """Reads one file: first its lists, then operator by operator into a graph."""

    def __init__(self, data: bytes) -> None:
        model = Table.root(data, b"TFL3")
        version = model.scalar(0, "I", 0)
        if version != _SCHEMA_VERSION:
            raise ModelFileError(f"schema version {version}, only {_SCHEMA_VERSION} is known")
        subgraphs = model.tables(2)
        if not subgraphs:
            raise ModelFileError("the model file has no graph")
        if len(subgraphs) > 1:
            raise UnsupportedError(
                f"the model has {len(subgraphs)} subgraphs (control flow), only 1 is known"
            )
        self.size = len(data)
        self.codes = [_operator_code(code) for code in model.tables(1)]
        self.buffers = model.tables(4)
        self.file_tensors = [self._file_tensor(i, table) for i, table in enumerate(subgraphs[0].tables(0))]
        self.inputs = self._numbers(subgraphs[0], 1, "the list of inputs")
        self.outputs = self._numbers(subgraphs[0], 2, "the list of outputs")
        self.operators = [self._file_operator(i, table) for i, table in enumerate(subgraphs[0].tables(3))]

        self.names: dict[int, str] = {}  # of activations, by tensor number
        self.shared: dict[tuple[int, str], str] = {}  # of weights, by tensor number and operator type
        self.allocated = 0
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, Array] = {}
        self.nodes: list[Node] = []

    def graph(self) -> Graph:
        if not self.inputs or not self.outputs:
            raise ModelFileError("the model has no input or no output")
        inputs = tuple(self.activation(number, "an input of the model") for number in self.inputs)
        for operator in self.operators:
            _READERS[operator.code](self, operator)
        outputs = tuple(self.activation(number, "an output of the model") for number in self.outputs)
        return Graph(tuple(self.nodes), self.tensors, self.constants, inputs, outputs)

    # The file's lists

    def _file_tensor(self, index: int, table: Table) -> _FileTensor:
        shape = table.array(0, np.int32)
        if len(shape) > _MAX_RANK:
            raise UnsupportedError(
                f"tensor {index} has {len(shape)} dimensions, at most {_MAX_RANK} are known"
            )
        buffer = table.scalar(2, "I", 0)
        if buffer >= max(len(self.buffers), 1):
            raise ModelFileError(f"tensor {index} uses buffer {buffer} of {len(self.buffers)}")
        data = self.buffers[buffer] if buffer else None
        if data is not None and data.scalar(1, "Q", 0) > 1:
            raise UnsupportedError(f"tensor {index} keeps its data outside the flatbuffer (a file over 2 GB)")
        if data is not None and not len(data.array(0, np.uint8)):
            data = None
        return _FileTensor(
            table.string(3), tuple(int(d) for d in shape), table.scalar(1, "b", 0), data, table
        )

    def _numbers(self, table: Table, field: int, where: str) -> tuple[int, ...]:
        numbers = table.array(field, np.int32)
        if len(numbers) > _MAX_INPUTS:
            raise ModelFileError(f"{where} names {len(numbers)} tensors")
        for number in numbers:
            if not -1 <= number < len(self.file_tensors):
                raise ModelFileError(f"{where} names tensor {number} of {len(self.file_tensors)}")
        return tuple(int(n) for n in numbers)

    def _file_operator(self, index: int, table: Table) -> _FileOperator:
        opcode = table.scalar(0, "I", 0)
        if opcode >= len(self.codes):
            raise ModelFileError(f"operator {index} has code number {opcode} of {len(self.codes)}")
        code, name = self.codes[opcode]
        where = f"operator {index} ({name})"
        outputs = self._numbers(table, 2, where)
        if code not in _READERS:
            raise UnsupportedError(
                f"{where}: this operation is not in the operator list",
                remedy="change the model, or convert it so that the operation is fused or folded away",
            )
        if len(outputs) != 1:
            raise ModelFileError(f"{where}: has {len(outputs)} outputs")
        inputs = self._numbers(table, 1, where)
        options_type = table.scalar(3, "B", 0)
        return _FileOperator(where, code, inputs, outputs[0], table.table(4), options_type)

    # Tensors of the graph

    def activation(self, number: int, where: str) -> str:
        """Name of a float32 or int8 tensor with a batch of 1, which may be a constant."""
        if number < 0:
            raise ModelFileError(f"{where} is left out")
        if number in self.names:
            return self.names[number]
        tensor = self.file_tensors[number]
        if tensor.type not in (tflite.TensorType.FLOAT32, tflite.TensorType.INT8):
            raise UnsupportedError(
                f"{where}: tensor {tensor.name!r} has type {_type_name(tensor.type)}, "
                "only FLOAT32 and INT8 are known"
            )
        if tensor.table.scalar(5, "B", 0):
            raise UnsupportedError(f"{where}: tensor {tensor.name!r} is a variable")
        if not tensor.shape or tensor.shape[0] != 1:
            raise UnsupportedError(
                f"{where}: tensor {tensor.name!r} has shape {tensor.shape}, the first dimension must be a batch of 1"
            )
        name = tensor.name or f"tensor{number}"
        data = None if tensor.data is None else self._data(number)
        self.names[number] = self.add(
            name, tensor.shape, _DTYPES[tensor.type], self._quantization(number, 1), data
        )
        return self.names[number]

    def operand(self, operator: _FileOperator, number: int, rank: int) -> str:
        """Name of an input of add or mul: an activation, or a constant brought to that rank."""
        tensor = self.file_tensors[number]
        if number < 0 or tensor.data is None or len(tensor.shape) >= rank:
            return self.activation(number, operator.where)
        if tensor.type not in (tflite.TensorType.FLOAT32, tflite.TensorType.INT8):
            operator.unsupported(f"constant operand of type {_type_name(tensor.type)}")
        data, shape = self._data(number), (1,) * (rank - len(tensor.shape)) + tensor.shape
        name = tensor.name or f"tensor{number}"
        return self.add(name, shape, str(data.dtype), self._quantization(number, 1), data.reshape(shape))

    def constant(self, operator: _FileOperator, number: int, what: str) -> Array:
        """Data of a constant that an operator needs."""
        if number < 0 or self.file_tensors[number].data is None:
            operator.unsupported(f"its {what} must be a constant in the file")
        if self.file_tensors[number].table.table(6) is not None:
            operator.unsupported(f"its {what} is a sparse tensor")
        return self._data(number)

    def add(
        self, name: str, shape: Shape, dtype: str, quantization: Quantization | None, data: Array | None
    ) -> str:
        """Add a tensor to the graph, a constant where it has data; returns its name, made unique."""
        unique, count = name, 1
        while unique in self.tensors:
            unique, count = f"{name}:{count}", count + 1
        self.tensors[unique] = Tensor(unique, shape, dtype, quantization)
        if data is not None:
            self.constants[unique] = data
        return unique

    def node(
        self,
        operator: _FileOperator,
        kind: Kind,
        inputs: tuple[str, ...],
        extra: tuple[str, ...] = (),
        **attributes: Any,
    ) -> None:
        """Add a node; `extra` are the weights and bias of weighted kinds."""
        output = self.activation(operator.output, operator.where)
        dtype = self.tensors[inputs[0]].dtype
        try:
            made = Operator(
                kind,
                tuple(self.tensors[name].shape for name in inputs),
                self.tensors[output].shape,
                dtype=cast(DType, dtype),
                **attributes,
            )
        except GraphError as error:
            operator.damaged(error.message)
        self.nodes.append(Node(made, (*inputs, *extra), output, operator.where))

    def weights(self, operator: _FileOperator, x: str, axis: int) -> str:
        """Name of an operator's weights, scales along `axis`; int8 ones of a float operator become floats."""
        number = operator.inputs[1]
        data = self.constant(operator, number, "weights")
        key = (number, self.tensors[x].dtype)
        if key in self.shared:
            return self.shared[key]
        if data.ndim <= axis:
            operator.damaged(f"weights of shape {data.shape}")
        quantization = self._quantization(number, data.shape[axis])
        if data.dtype == np.int8:
            if quantization is None:
                operator.damaged("int8 weights without a scale")
            if any(quantization.zero_point):
                operator.unsupported("weights with a zero point other than 0")
            if self.tensors[x].dtype == "float32":
                data, quantization = self._dequantized(operator, data, quantization), None
        if str(data.dtype) != self.tensors[x].dtype:
            operator.unsupported(
                f"weights of type {data.dtype} with an input of type {self.tensors[x].dtype}"
            )
        name = self.file_tensors[number].name or f"tensor{number}"
        self.shared[key] = self.add(name, data.shape, str(data.dtype), quantization, data)
        return self.shared[key]

    def bias(self, operator: _FileOperator, x: str, weights: str, channels: int) -> str:
        """Name of an operator's bias; zeros on the right scale where the file has none."""
        source, scales = self.tensors[x].quantization, self.tensors[weights].quantization
        quantization = None
        if source is not None and scales is not None:
            product = np.float32(source.scale[0]) * np.array(scales.scale, np.float32)
            quantization = Quantization(tuple(product.tolist()), (0,) * len(product))
        dtype = "int32" if self.tensors[x].dtype == "int8" else "float32"
        number = operator.inputs[2] if len(operator.inputs) == 3 else -1
        if number < 0:
            name = f"{self.tensors[weights].name}_zero_bias"
            return self.add(name, (channels,), dtype, quantization, np.zeros(channels, dtype))
        data = self.constant(operator, number, "bias")
        if str(data.dtype) != dtype:
            operator.unsupported(f"bias of type {data.dtype}, only {dtype} is known here")
        if data.size != channels:
            operator.damaged(f"bias of shape {data.shape} for {channels} channels")
        name = self.file_tensors[number].name or f"tensor{number}"
        quantization = self._quantization(number, channels) or quantization
        return self.add(name, (channels,), dtype, quantization, data.reshape(channels))

    def _dequantized(self, operator: _FileOperator, data: Array, quantization: Quantization) -> Array:
        # The only constants that are not views: a damaged file could list one buffer a thousand times.
        self.allocated += 4 * data.size
        if self.allocated > 16 * self.size:  # sound files need 4
            operator.damaged("the same weights are listed too often")
        scale = np.array(quantization.scale, np.float32)
        if len(scale) > 1:
            scale = scale.reshape([-1 if d == quantization.axis else 1 for d in range(data.ndim)])
        return data.astype(np.float32) * scale

    def _data(self, number: int) -> Array:
        """Data of a constant tensor, as a view of the file in its shape."""
        tensor = self.file_tensors[number]
        assert tensor.data is not None
        if tensor.type not in _DTYPES:
            raise UnsupportedError(f"constant {tensor.name!r} has type {_type_name(tensor.type)}")
        data = tensor.data.array(0, np.uint8)
        dtype = np.dtype(_DTYPES[tensor.type])
        needed = math.prod(tensor.shape) * dtype.itemsize
        if any(d < 1 for d in tensor.shape) or len(data) != needed:
            raise ModelFileError(
                f"constant {tensor.name!r} of shape {tensor.shape} needs {needed} bytes, the file has {len(data)}"
            )
        return data.view(dtype.newbyteorder("<")).reshape(tensor.shape)

    def _quantization(self, number: int, channels: int) -> Quantization | None:
        """Scales of a tensor with one scale, or one per channel; None for floats and where there are none."""
        tensor = self.file_tensors[number]
        table = tensor.table.table(4)
        if table is None or tensor.type == tflite.TensorType.FLOAT32:
            return None
        scale, zero_point = table.array(2, np.float32), table.array(3, np.int64)
        if not len(scale):
            return None
        if len(scale) not in (1, channels) or len(zero_point) not in (0, 1, len(scale)):
            raise ModelFileError(
                f"tensor {tensor.name!r} has {len(scale)} scales and {len(zero_point)} zero points for "
                f"{channels} channels"
            )
        axis = table.scalar(6, "i", 0) if len(scale) > 1 else 0
        if len(scale) > 1 and not (0 <= axis < len(tensor.shape) and tensor.shape[axis] == len(scale)):
            raise ModelFileError(f"tensor {tensor.name!r} has {len(scale)} scales along dimension {axis}")
        points = zero_point.tolist() or [0]
        return Quantization(
            tuple(scale.tolist()), tuple(points * (len(scale) if len(points) == 1 else 1)), axis
        )


def _operator_code(table: Table) -> tuple[int, str]:
    """(code, name) of an entry of the operator codes: the newer field, or the one-byte field of old files."""
    code = max(table.scalar(0, "b", 0), table.scalar(3, "i", 0))
    if code == tflite.BuiltinOperator.CUSTOM:
        return code, f"CUSTOM {table.string(1)!r}"
    return code, str(_CODE_NAMES.get(code, f"unknown code {code}"))


def _type_name(code: int) -> str:
    return str(_TYPE_NAMES.get(code, f"unknown type {code}"))


# One function per operator code. Field numbers are those of the option tables in schema.fbs.


def _window(operator: _FileOperator, table: str) -> dict[str, Any]:
    """Stride and padding, which lead the options of convolutions and pools alike."""
    stride = (operator.option(table, 2, "i"), operator.option(table, 1, "i"))
    return {"stride": stride, "padding": operator.padding(table)}


def _check_dilation(operator: _FileOperator, table: str, first_field: int) -> None:
    dilation = tuple(operator.option(table, first_field + i, "i", 1) for i in (1, 0))
    if dilation != (1, 1):
        operator.unsupported(f"dilation {dilation[0]}x{dilation[1]}")


def _conv2d(reader: _Reader, operator: _FileOperator) -> None:
    operator.need_inputs(2, 3)
    _check_dilation(operator, "Conv2DOptions", 4)
    x = reader.activation(operator.inputs[0], operator.where)
    weights = reader.weights(operator, x, axis=0)
    shape, source = reader.tensors[weights].shape, reader.tensors[x].shape
    if len(shape) == len(source) == 4 and shape[3] != source[3] and source[3] % shape[3] == 0:
        operator.unsupported(f"grouped convolution ({source[3] // shape[3]} groups)")
    _weighted(reader, operator, "conv2d", x, weights, "Conv2DOptions", 3)


def _depthwise_conv2d(reader: _Reader, operator: _FileOperator) -> None:
    operator.need_inputs(2, 3)
    _check_dilation(operator, "DepthwiseConv2DOptions", 5)
    x = reader.activation(operator.inputs[0], operator.where)
    weights = reader.weights(operator, x, axis=3)
    multiplier = operator.option("DepthwiseConv2DOptions", 3, "i")
    channels, source = reader.tensors[weights].shape[3], reader.tensors[x].shape[-1]
    if multiplier and multiplier * source != channels:
        operator.damaged(f"{channels} channels from {source} with a multiplier of {multiplier}")
    _weighted(reader, operator, "depthwise_conv2d", x, weights, "DepthwiseConv2DOptions", 4)


def _weighted(
    reader: _Reader, operator: _FileOperator, kind: Kind, x: str, weights: str, table: str, activation: int
) -> None:
    """A convolution, whose kernel is as large as its weights."""
    shape = reader.tensors[weights].shape
    if len(shape) != 4:
        operator.damaged(f"weights of shape {shape}")
    channels = shape[0] if kind == "conv2d" else shape[3]
    bias = reader.bias(operator, x, weights, channels)
    reader.node(
        operator, kind, (x,), (weights, bias), kernel=shape[1:3],
        activation=operator.activation(table, activation), **_window(operator, table),
    )  # fmt: skip


def _fully_connected(reader: _Reader, operator: _FileOperator) -> None:
    operator.need_inputs(2, 3)
    table = "FullyConnectedOptions"
    x = reader.activation(operator.inputs[0], operator.where)
    output = reader.file_tensors[operator.output].shape if operator.output >= 0 else ()
    if operator.option(table, 1) != 0:
        operator.unsupported("shuffled weights")
    if operator.option(table, 2) and len(reader.tensors[x].shape) > 2:
        operator.unsupported("keep_num_dims (it works on the last dimension only)")
    if len(output) != 2 or output[0] != 1:
        operator.unsupported(f"output of shape {output}; only 1 x features is known")
    weights = reader.weights(operator, x, axis=0)
    bias = reader.bias(operator, x, weights, reader.tensors[weights].shape[0])
    activation = operator.activation(table, 0)
    reader.node(operator, "fully_connected", (x,), (weights, bias), activation=activation)


def _binary(kind: Kind, table: str) -> Callable[[_Reader, _FileOperator], None]:
    def read(reader: _Reader, operator: _FileOperator) -> None:
        operator.need_inputs(2, 2)
        rank = max(len(reader.file_tensors[number].shape) for number in operator.inputs)
        a, b = (reader.operand(operator, number, rank) for number in operator.inputs)
        ranks = [len(reader.tensors[name].shape) for name in (a, b)]
        if ranks[0] != ranks[1]:
            operator.unsupported(f"operands of {ranks[0]} and {ranks[1]} dimensions")
        reader.node(operator, kind, (a, b), activation=operator.activation(table, 0))

    return read


def _pool(kind: Kind) -> Callable[[_Reader, _FileOperator], None]:
    def read(reader: _Reader, operator: _FileOperator) -> None:
        operator.need_inputs(1, 1)
        table = "Pool2DOptions"
        x = reader.activation(operator.inputs[0], operator.where)
        kernel = (operator.option(table, 4, "i"), operator.option(table, 3, "i"))
        activation = operator.activation(table, 5)
        reader.node(operator, kind, (x,), kernel=kernel, activation=activation, **_window(operator, table))

    return read


def _mean(reader: _Reader, operator: _FileOperator) -> None:
    """A float mean over height and width. Its int8 kernel has an arithmetic of its own, which graphs do not have."""
    operator.need_inputs(2, 2)
    x = reader.activation(operator.inputs[0], operator.where)
    shape = reader.tensors[x].shape
    axes = reader.constant(operator, operator.inputs[1], "axes")
    if reader.tensors[x].dtype != "float32":
        operator.unsupported("an int8 mean; pool with AVERAGE_POOL_2D instead")
    if len(shape) != 4 or sorted(int(a) % 4 for a in axes.ravel()[:9]) != [1, 2]:
        operator.unsupported("only a mean over height and width is known")
    if not operator.option("ReducerOptions", 0):
        operator.unsupported("a mean without keep_dims")
    reader.node(operator, "average_pool", (x,), kernel=shape[1:3], stride=shape[1:3])


def _pad(reader: _Reader, operator: _FileOperator) -> None:
    operator.need_inputs(2, 2)
    x = reader.activation(operator.inputs[0], operator.where)
    pads = reader.constant(operator, operator.inputs[1], "paddings")
    if pads.shape != (len(reader.tensors[x].shape), 2) or pads.dtype.kind != "i":
        operator.damaged(f"paddings of shape {pads.shape} for an input of shape {reader.tensors[x].shape}")
    reader.node(operator, "pad", (x,), pads=tuple((int(before), int(after)) for before, after in pads))


def _reshape(reader: _Reader, operator: _FileOperator) -> None:
    """The new shape is that of the output tensor: shape operands repeat it, often with -1 for the batch."""
    operator.need_inputs(1, 2)
    x = reader.activation(operator.inputs[0], operator.where)
    if len(operator.inputs) == 2:
        reader.constant(operator, operator.inputs[1], "shape")
    reader.node(operator, "reshape", (x,))


def _softmax(reader: _Reader, operator: _FileOperator) -> None:
    operator.need_inputs(1, 1)
    beta = operator.option("SoftmaxOptions", 0, "f", 0.0)
    if beta != 1.0:
        operator.unsupported(f"beta {beta:g}, only 1 is known")
    reader.node(operator, "softmax", (reader.activation(operator.inputs[0], operator.where),))


def _hard_swish(reader: _Reader, operator: _FileOperator) -> None:
    operator.need_inputs(1, 1)
    reader.node(operator, "hard_swish", (reader.activation(operator.inputs[0], operator.where),))


def _concatenation(reader: _Reader, operator: _FileOperator) -> None:
    operator.need_inputs(1, _MAX_INPUTS)
    names = tuple(reader.activation(number, operator.where) for number in operator.inputs)
    axis, rank = operator.option("ConcatenationOptions", 0, "i"), len(reader.tensors[names[0]].shape)
    if operator.activation("ConcatenationOptions", 1) != "none":
        operator.unsupported("a fused activation")
    reader.node(operator, "concatenation", names, axis=axis + rank if axis < 0 else axis)


_READERS: Final[dict[int, Callable[[_Reader, _FileOperator], None]]] = {
    tflite.BuiltinOperator.CONV_2D: _conv2d,
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D: _depthwise_conv2d,
    tflite.BuiltinOperator.FULLY_CONNECTED: _fully_connected,
    tflite.BuiltinOperator.ADD: _binary("add", "AddOptions"),
    tflite.BuiltinOperator.MUL: _binary("mul", "MulOptions"),
    tflite.BuiltinOperator.AVERAGE_POOL_2D: _pool("average_pool"),
    tflite.BuiltinOperator.MAX_POOL_2D: _pool("max_pool"),
    tflite.BuiltinOperator.MEAN: _mean,
    tflite.BuiltinOperator.PAD: _pad,
    tflite.BuiltinOperator.RESHAPE: _reshape,
    tflite.BuiltinOperator.SOFTMAX: _softmax,
    tflite.BuiltinOperator.HARD_SWISH: _hard_swish,
    tflite.BuiltinOperator.CONCATENATION: _concatenation,
}
