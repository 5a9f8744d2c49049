"""The graph: operators in order, with tensors and constants.

The single source for costs, memory plan, ONNX, TFLite, C and verification. Numpy only.
Layouts are TFLite's: activations NHWC; weights OHWI (conv2d), 1HWC (depthwise_conv2d), OI (fully_connected).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import GraphError
from toolchain.graph.operator import (
    WEIGHTED,
    Activation,
    DType,
    Kind,
    Operator,
    Padding,
    Shape,
    window_output,
)

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Quantization:
    """Affine quantisation, real = scale * (integer - zero_point), as TFLite's specification has it.

    Attributes:
        scale: float32 values (stored as Python floats that are exactly representable in float32); one, or one
            per slice along `axis`.
        zero_point: integers, as many as scales. Weights and biases have 0.
        axis: dimension of per-channel scales; 0 where there is one scale.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int = 0

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise GraphError(f"{len(self.scale)} scales but {len(self.zero_point)} zero points")
        for scale in self.scale:
            if not (np.isfinite(scale) and scale > 0):
                raise GraphError(f"quantisation scale {scale} must be positive and finite")
            if float(np.float32(scale)) != scale:
                raise GraphError(f"quantisation scale {scale!r} is not a float32 value")

    @classmethod
    def per_tensor(cls, scale: float, zero_point: int = 0) -> Quantization:
        """One scale for the whole tensor; the scale is rounded to float32."""
        return cls((float(np.float32(scale)),), (int(zero_point),))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph: an activation, or a constant (then `Graph.constants` holds its data).

    Attributes:
        shape: NHWC with batch 1 for activations; the layouts above for weights.
        dtype: "float32", "int8" or "int32" (biases of int8 graphs).
        quantization: present for int8 and int32 tensors of an int8 graph.
    """

    name: str
    shape: Shape
    dtype: str
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """An operator at work on named tensors.

    Attributes:
        operator: what it does; its shapes equal those of the tensors.
        inputs: tensor names: data inputs in the operator's order, then weights and bias of weighted kinds.
        output: name of the tensor it makes.
        source: where it came from, for messages: a module path, or an index in a file.
    """

    operator: Operator
    inputs: tuple[str, ...]
    output: str
    source: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: nodes in execution order. Validated on creation; treat arrays as read-only.

    Attributes:
        nodes: in an order in which every input is made before it is used.
        tensors: name -> tensor, activations and constants.
        constants: name -> data of constant tensors.
        inputs: names of the network's inputs.
        outputs: names of the network's outputs.

    Raises:
        GraphError: an unknown tensor, a wrong order, a shape or dtype that does not fit.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def operators(self) -> tuple[Operator, ...]:
        return tuple(node.operator for node in self.nodes)

    @property
    def dtype(self) -> DType:
        """ "int8" when the network's input is int8, else "float32"."""
        return "int8" if self.tensors[self.inputs[0]].dtype == "int8" else "float32"

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the tensors that hold data of one inference: inputs and node outputs, in order."""
        return (*self.inputs, *(node.output for node in self.nodes))

    @property
    def constant_bytes(self) -> int:
        """Bytes of all constants (weights, biases, constant operands)."""
        return sum(int(data.nbytes) for data in self.constants.values())

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.operators)

    @property
    def params(self) -> int:
        return sum(op.params for op in self.operators)


def _validate(graph: Graph) -> None:
    made = {*graph.inputs, *graph.constants}
    for name in (*graph.inputs, *graph.outputs, *graph.constants):
        if name not in graph.tensors:
            raise GraphError(f"tensor {name!r} is not declared")
    for name, data in graph.constants.items():
        tensor = graph.tensors[name]
        if data.shape != tensor.shape or str(data.dtype) != tensor.dtype:
            raise GraphError(
                f"constant {name!r} is {data.dtype} {data.shape}, declared {tensor.dtype} {tensor.shape}"
            )
    for index, node in enumerate(graph.nodes):
        op, where = node.operator, f"node {index} ({node.operator.kind} {node.source})".replace(" )", ")")
        weighted = op.kind in WEIGHTED
        if len(node.inputs) != len(op.inputs) + (2 if weighted else 0):
            raise GraphError(f"{where}: has {len(node.inputs)} inputs")
        for name in node.inputs:
            if name not in made:
                raise GraphError(f"{where}: input {name!r} is not made before it is used")
        if node.output in made or node.output not in graph.tensors:
            raise GraphError(f"{where}: output {node.output!r} is made twice or not declared")
        shapes = (*op.inputs, *((op.weight_shape, (op.output[-1],)) if weighted else ()), op.output)
        for name, shape in zip((*node.inputs, node.output), shapes, strict=True):
            if graph.tensors[name].shape != shape:
                raise GraphError(f"{where}: tensor {name!r} is {graph.tensors[name].shape}, needs {shape}")
        for name in (*node.inputs[: len(op.inputs)], node.output):
            tensor = graph.tensors[name]
            if tensor.dtype != op.dtype:
                raise GraphError(f"{where}: tensor {name!r} is {tensor.dtype}, needs {op.dtype}")
            if op.dtype == "int8" and tensor.quantization is None:
                raise GraphError(f"{where}: int8 tensor {name!r} has no scale")
        made.add(node.output)
    for name in graph.outputs:
        if name not in made:
            raise GraphError(f"output {name!r} is never made")


def quantize_array(values: Array, quantization: Quantization) -> NDArray[np.int8]:
    """Real values -> int8 with one scale: round half to even, then saturate (as numpy and LiteRT's callers do)."""
    scale, zero_point = np.float32(quantization.scale[0]), quantization.zero_point[0]
    scaled = np.round(np.asarray(values, np.float32) / scale) + zero_point
    integers: NDArray[np.int8] = np.clip(scaled, -128, 127).astype(np.int8)
    return integers


def dequantize_array(values: Array, quantization: Quantization) -> NDArray[np.float32]:
    """int8 with one scale -> real values in float32."""
    scale, zero_point = np.float32(quantization.scale[0]), quantization.zero_point[0]
    return ((np.asarray(values, np.int32) - zero_point) * scale).astype(np.float32)


@dataclass
class GraphBuilder:
    """Makes a graph node by node, computing shapes. Methods return the name of the new tensor.

    Float or int8, by `dtype`. In an int8 graph every method needs the output's `quantization`, and weights come
    with theirs. Names are structural (`t0`, `w3`, `b3`, in order), so that the bytes of a written file depend
    on the structure alone.
    """

    dtype: DType = "float32"
    _nodes: list[Node] = field(default_factory=list)
    _tensors: dict[str, Tensor] = field(default_factory=dict)
    _constants: dict[str, Array] = field(default_factory=dict)
    _inputs: list[str] = field(default_factory=list)

    def shape(self, name: str) -> Shape:
        """Shape of a tensor that was added."""
        return self._tensors[name].shape

    def quantization(self, name: str) -> Quantization | None:
        """Quantisation of a tensor that was added."""
        return self._tensors[name].quantization

    def input(self, shape: Shape, quantization: Quantization | None = None) -> str:
        """Declare a network input of an NHWC (or 2-D) shape with batch 1."""
        name = self._add(Tensor(f"t{len(self._tensors)}", shape, self.dtype, quantization))
        self._inputs.append(name)
        return name

    def constant(self, data: Array, quantization: Quantization | None = None, prefix: str = "c") -> str:
        """Declare a constant; its dtype is the array's."""
        name = f"{prefix}{len(self._tensors)}"
        data = np.ascontiguousarray(data)
        self._add(Tensor(name, data.shape, str(data.dtype), quantization))
        self._constants[name] = data
        return name

    def conv2d(
        self,
        x: str,
        weights: Array,
        bias: Array,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: Padding = "valid",
        activation: Activation = "none",
        quantization: Quantization | None = None,
        weight_quantization: Quantization | None = None,
        bias_quantization: Quantization | None = None,
        source: str = "",
    ) -> str:
        """2-D convolution; weights OHWI, bias O."""
        kernel = (weights.shape[1], weights.shape[2])
        return self._weighted(
            "conv2d", x, weights, bias, weights.shape[0], kernel, stride, padding, activation,
            quantization, weight_quantization, bias_quantization, source,
        )  # fmt: skip

    def depthwise_conv2d(
        self,
        x: str,
        weights: Array,
        bias: Array,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: Padding = "valid",
        activation: Activation = "none",
        quantization: Quantization | None = None,
        weight_quantization: Quantization | None = None,
        bias_quantization: Quantization | None = None,
        source: str = "",
    ) -> str:
        """Depthwise 2-D convolution; weights 1HWC (C a multiple of the input's channels), bias C."""
        kernel = (weights.shape[1], weights.shape[2])
        return self._weighted(
            "depthwise_conv2d", x, weights, bias, weights.shape[3], kernel, stride, padding, activation,
            quantization, weight_quantization, bias_quantization, source,
        )  # fmt: skip

    def fully_connected(
        self,
        x: str,
        weights: Array,
        bias: Array,
        *,
        activation: Activation = "none",
        quantization: Quantization | None = None,
        weight_quantization: Quantization | None = None,
        bias_quantization: Quantization | None = None,
        source: str = "",
    ) -> str:
        """Fully connected layer over the flattened (NHWC order) input; weights OI, bias O."""
        return self._weighted(
            "fully_connected", x, weights, bias, weights.shape[0], (1, 1), (1, 1), "valid", activation,
            quantization, weight_quantization, bias_quantization, source,
        )  # fmt: skip

    def binary(
        self,
        kind: Kind,
        a: str,
        b: str,
        *,
        activation: Activation = "none",
        quantization: Quantization | None = None,
        source: str = "",
    ) -> str:
        """`add` or `mul` with broadcasting over dimensions of size 1; operands of the same rank."""
        shapes = (self.shape(a), self.shape(b))
        if len(shapes[0]) != len(shapes[1]):
            raise GraphError(f"{kind}: operands {shapes[0]} and {shapes[1]} need the same rank")
        output = tuple(max(x, y) for x, y in zip(*shapes, strict=True))
        op = Operator(kind, shapes, output, activation=activation, dtype=self.dtype)
        return self._append(op, (a, b), quantization, source)

    def pool(
        self,
        kind: Kind,
        x: str,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] | None = None,
        padding: Padding = "valid",
        activation: Activation = "none",
        quantization: Quantization | None = None,
        source: str = "",
    ) -> str:
        """`average_pool` or `max_pool`; the stride defaults to the kernel. SAME does not count the padding."""
        shape, stride = self.shape(x), stride or kernel
        output = (1, *window_output(shape, kernel, stride, padding), shape[3])
        op = Operator(
            kind, (shape,), output, kernel=kernel, stride=stride, padding=padding,
            activation=activation, dtype=self.dtype,
        )  # fmt: skip
        return self._append(op, (x,), quantization, source)

    def pad(
        self,
        x: str,
        pads: tuple[tuple[int, int], ...],
        *,
        quantization: Quantization | None = None,
        source: str = "",
    ) -> str:
        """Zero padding (the zero point in an int8 graph), (before, after) per dimension."""
        shape = self.shape(x)
        output = tuple(d + before + after for d, (before, after) in zip(shape, pads, strict=True))
        op = Operator("pad", (shape,), output, pads=pads, dtype=self.dtype)
        return self._append(op, (x,), quantization, source)

    def reshape(
        self, x: str, output: Shape, *, quantization: Quantization | None = None, source: str = ""
    ) -> str:
        """Same elements in the same (NHWC) order, another shape."""
        op = Operator("reshape", (self.shape(x),), output, dtype=self.dtype)
        return self._append(op, (x,), quantization, source)

    def unary(self, kind: Kind, x: str, *, quantization: Quantization | None = None, source: str = "") -> str:
        """`softmax` (over the last dimension) or `hard_swish`."""
        op = Operator(kind, (self.shape(x),), self.shape(x), dtype=self.dtype)
        return self._append(op, (x,), quantization, source)

    def concatenation(
        self,
        names: Iterable[str],
        axis: int = 3,
        *,
        quantization: Quantization | None = None,
        source: str = "",
    ) -> str:
        """Join along one dimension; in an int8 graph all inputs and the output share one scale."""
        names = tuple(names)
        shapes = tuple(self.shape(n) for n in names)
        output = list(shapes[0])
        output[axis] = sum(s[axis] for s in shapes)
        op = Operator("concatenation", shapes, tuple(output), axis=axis, dtype=self.dtype)
        return self._append(op, names, quantization, source)

    def append(
        self, op: Operator, inputs: tuple[str, ...], *, output: Quantization | None, source: str
    ) -> str:
        """Any operator on tensors that were added; weighted kinds list weights and bias last."""
        return self._append(op, inputs, output, source)

    def fuse(self, name: str, activation: Activation) -> None:
        """Set the fused activation of the node that makes tensor `name`."""
        for index in range(len(self._nodes) - 1, -1, -1):
            node = self._nodes[index]
            if node.output == name:
                operator = replace(node.operator, activation=activation)
                self._nodes[index] = replace(node, operator=operator)
                return
        raise GraphError(f"no node makes {name!r}")

    def producer(self, name: str) -> Node | None:
        """The node that makes tensor `name`; None for inputs and constants."""
        return next((n for n in reversed(self._nodes) if n.output == name), None)

    def build(self, *outputs: str) -> Graph:
        """The finished graph."""
        return Graph(
            tuple(self._nodes), dict(self._tensors), dict(self._constants), tuple(self._inputs), outputs
        )

    def _add(self, tensor: Tensor) -> str:
        self._tensors[tensor.name] = tensor
        return tensor.name

    def _append(
        self, op: Operator, inputs: tuple[str, ...], quantization: Quantization | None, source: str
    ) -> str:
        name = self._add(Tensor(f"t{len(self._tensors)}", op.output, op.dtype, quantization))
        self._nodes.append(Node(op, inputs, name, source))
        return name

    def _weighted(
        self,
        kind: Kind,
        x: str,
        weights: Array,
        bias: Array,
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: Padding,
        activation: Activation,
        quantization: Quantization | None,
        weight_quantization: Quantization | None,
        bias_quantization: Quantization | None,
        source: str,
    ) -> str:
        shape = self.shape(x)
        if kind == "fully_connected":
            output: Shape = (1, channels)
        else:
            output = (1, *window_output(shape, kernel, stride, padding), channels)
        op = Operator(
            kind, (shape,), output, kernel=kernel, stride=stride, padding=padding,
            activation=activation, dtype=self.dtype,
        )  # fmt: skip
        w = self.constant(weights, weight_quantization, "w")
        b = self.constant(bias, bias_quantization, "b")
        return self._append(op, (x, w, b), quantization, source)
