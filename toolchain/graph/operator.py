"""The operator: the unit of profiling, and the key of a LUT.

An operator says everything that its cost depends on and nothing else: no weights, no scales, no names.
Shapes are NHWC with a leading batch dimension of 1; a 1-D network is a 2-D one with H = 1.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from toolchain.errors import GraphError

Shape = tuple[int, ...]
Kind = Literal[
    "conv2d",
    "depthwise_conv2d",
    "fully_connected",
    "add",
    "mul",
    "average_pool",
    "max_pool",
    "pad",
    "reshape",
    "softmax",
    "hard_swish",
    "concatenation",
]
# "hard_sigmoid" is relu6(x + 3) / 6 and stands only behind conv2d, depthwise_conv2d and fully_connected of a
# float graph. Quantisation folds it into the weights (reference: scale 1/256, saturation is the clamp); the
# float writer emits RELU6 and MUL by 1/6.
Activation = Literal["none", "relu", "relu6", "hard_sigmoid"]
Padding = Literal["same", "valid", "explicit"]
DType = Literal["float32", "int8"]
# How a runtime computes a convolution: by its definition, or as Winograd's F(2x2, 3x3). The result is the same bit for
# bit; cycles, flash and scratch memory are not. A graph says nothing of it: a plan does (export/native/plan.py).
Algorithm = Literal["direct", "winograd"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
ACTIVATIONS: Final[tuple[Activation, ...]] = get_args(Activation)
ALGORITHMS: Final[tuple[Algorithm, ...]] = get_args(Algorithm)
WINDOWED: Final = ("conv2d", "depthwise_conv2d", "average_pool", "max_pool")
WEIGHTED: Final = ("conv2d", "depthwise_conv2d", "fully_connected")
_WINOGRAD: Final = ("conv2d", (3, 3), (1, 1), "int8")
FUSING: Final = ("conv2d", "depthwise_conv2d", "fully_connected", "add", "mul", "average_pool", "max_pool")


@dataclass(frozen=True, slots=True)
class Operator:
    """One operation with its shapes and attributes. Hashable; equal operators cost the same on one stack.

    Attributes:
        kind: one of `KINDS`.
        inputs: shapes of the data inputs (weights and biases are not listed; a constant operand of add or
            mul is).
        output: shape of the output.
        kernel: (height, width) of the window; windowed kinds only.
        stride: (vertical, horizontal); windowed kinds only.
        padding: TensorFlow's meaning of "same" and "valid"; "explicit" is a patch of an image, with the border that
            `pads` says and no format but programs knows. Windowed kinds only.
        pads: (before, after) per dimension of kind "pad"; of height and width where padding is "explicit".
        axis: dimension joined by "concatenation", counted from 0; else -1.
        activation: fused activation.
        dtype: "float32" or "int8".
        algorithm: how it is computed, as a measured operator has it; "direct" in every graph.

    Raises:
        GraphError: the shapes contradict the attributes.
    """

    kind: Kind
    inputs: tuple[Shape, ...]
    output: Shape
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: Padding = "valid"
    pads: tuple[tuple[int, int], ...] = ()
    axis: int = -1
    activation: Activation = "none"
    dtype: DType = "float32"
    algorithm: Algorithm = "direct"

    def __post_init__(self) -> None:
        expected = infer_output(self)
        if expected != self.output:
            raise GraphError(
                f"{self.kind}: output shape {self.output} does not follow from inputs {self.inputs} "
                f"(expected {expected})"
            )

    @property
    def signature(self) -> str:
        """One readable canonical line, e.g. `conv2d 1x32x16->1x16x32 k1x3 s1x2 same relu int8`.

        The batch dimension (always 1) and the algorithm "direct" are not printed; another stands last.
        `Operator.parse` reads it back.
        """
        words = [self.kind, f"{','.join(_dims(s) for s in self.inputs)}->{_dims(self.output)}"]
        if self.kind in WINDOWED:
            words += [
                f"k{self.kernel[0]}x{self.kernel[1]}",
                f"s{self.stride[0]}x{self.stride[1]}",
                _pads(self.pads) if self.padding == "explicit" else self.padding,
            ]
        if self.kind == "pad":
            words.append(_pads(self.pads))
        if self.kind == "concatenation":
            words.append(f"axis{self.axis}")
        if self.kind in FUSING:
            words.append(self.activation)
        words.append(self.dtype)
        if self.algorithm != "direct":
            words.append(self.algorithm)
        return " ".join(words)

    @classmethod
    def parse(cls, signature: str) -> Operator:
        """The operator that a signature names; the inverse of `signature`.

        Raises:
            GraphError: the text is not a canonical signature.
        """
        try:
            operator = _parse(signature)
        except (ValueError, IndexError, KeyError) as error:
            raise GraphError(f"not an operator signature: {signature!r}") from error
        if operator.signature != signature:
            raise GraphError(f"not a canonical signature: {signature!r} (canonical: {operator.signature!r})")
        return operator

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of the weighted kinds; 0 for the others."""
        if self.kind == "conv2d":
            return math.prod(self.output) * math.prod(self.kernel) * self.inputs[0][-1]
        if self.kind == "depthwise_conv2d":
            return math.prod(self.output) * math.prod(self.kernel)
        if self.kind == "fully_connected":
            return math.prod(self.inputs[0]) * self.output[-1]
        return 0

    @property
    def weight_shape(self) -> Shape | None:
        """Shape of the weights in TFLite's layout (OHWI, 1HWC, OI), or None for a kind without weights."""
        height, width = self.kernel
        if self.kind == "conv2d":
            return (self.output[-1], height, width, self.inputs[0][-1])
        if self.kind == "depthwise_conv2d":
            return (1, height, width, self.output[-1])
        if self.kind == "fully_connected":
            return (self.output[-1], math.prod(self.inputs[0]))
        return None

    @property
    def params(self) -> int:
        """Number of weights and biases (every weighted operator has a bias)."""
        shape = self.weight_shape
        return 0 if shape is None else math.prod(shape) + self.output[-1]

    @property
    def activation_bytes(self) -> tuple[int, ...]:
        """Bytes of each data input, then of the output, at this dtype."""
        size = 1 if self.dtype == "int8" else 4
        return tuple(math.prod(s) * size for s in (*self.inputs, self.output))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) of TensorFlow's SAME padding along one dimension.

    Source: TensorFlow, tf.nn documentation, "Notes on padding".
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def window_pads(op: Operator) -> tuple[tuple[int, int], ...]:
    """(before, after) of the border of a windowed operator's image, along height and width."""
    if op.padding == "explicit":
        return op.pads
    if op.padding == "valid":
        return (0, 0), (0, 0)
    return tuple(same_padding(op.inputs[0][axis + 1], op.kernel[axis], op.stride[axis]) for axis in (0, 1))


def window_output(
    shape: Shape,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding,
    pads: tuple[tuple[int, int], ...] = (),
) -> tuple[int, int]:
    """(height, width) of a windowed operator's output for an NHWC input shape."""
    if padding == "same":
        return -(-shape[1] // stride[0]), -(-shape[2] // stride[1])
    around = [sum(pair) for pair in pads] if padding == "explicit" else [0, 0]
    height, width = ((shape[i + 1] + around[i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    return height, width


def infer_output(op: Operator) -> Shape:
    """The output shape that follows from inputs and attributes.

    For kinds whose output is free within limits (conv2d: channels; reshape: any shape of the same size) the
    declared output is checked and returned.

    Raises:
        GraphError: impossible shapes or attributes.
    """

    def fail(why: str) -> GraphError:
        return GraphError(f"{op.kind} {op.inputs} -> {op.output}: {why}")

    if op.kind not in KINDS:
        raise GraphError(f"unknown operator kind {op.kind!r}")
    if op.activation not in ACTIVATIONS or (op.activation != "none" and op.kind not in FUSING):
        raise fail(f"activation {op.activation!r} cannot be fused here")
    if op.activation == "hard_sigmoid" and (op.kind not in WEIGHTED or op.dtype != "float32"):
        raise fail("hard_sigmoid stands only behind weighted operators of a float graph")
    if op.algorithm != "direct" and (op.kind, op.kernel, op.stride, op.dtype) != _WINOGRAD:
        raise fail(f"algorithm {op.algorithm!r} is for int8 conv2d 3x3 with stride 1")
    for shape in (*op.inputs, op.output):
        if not shape or shape[0] != 1 or any(d < 1 for d in shape):
            raise fail("dimensions must be positive, with a batch of 1")
    first = op.inputs[0] if op.inputs else ()
    count = len(op.inputs)
    if op.kind in ("add", "mul"):
        if count != 2:
            raise fail("needs two inputs")
        a, b = op.inputs
        if len(a) != len(b):
            raise fail("operands need the same rank")
        if any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
            raise fail("operands do not broadcast")
        return tuple(max(x, y) for x, y in zip(a, b, strict=True))
    if op.kind == "concatenation":
        if count < 1 or not 0 < op.axis < len(first):
            raise fail(f"axis {op.axis} is out of range")
        rest = {(s[: op.axis], s[op.axis + 1 :]) for s in op.inputs}
        if len(rest) != 1:
            raise fail("inputs differ outside the joined axis")
        return (*first[: op.axis], sum(s[op.axis] for s in op.inputs), *first[op.axis + 1 :])
    if count != 1:
        raise fail("needs one input")
    if op.kind in WINDOWED:
        if len(first) != 4:
            raise fail("needs an NHWC input")
        if min(*op.kernel, *op.stride) < 1:
            raise fail("kernel and stride must be positive")
        if op.padding == "explicit" and (len(op.pads) != 2 or any(p < 0 for pair in op.pads for p in pair)):
            raise fail(f"pads {op.pads} are not (before, after) of height and width")
        height, width = window_output(first, op.kernel, op.stride, op.padding, op.pads)
        if height < 1 or width < 1:
            raise fail(f"kernel {op.kernel} is larger than the input")
        channels = first[3] if op.kind in ("average_pool", "max_pool") else op.output[-1]
        if op.kind == "depthwise_conv2d" and channels % first[3]:
            raise fail("output channels must be a multiple of the input channels")
        return (1, height, width, channels)
    if op.kind == "fully_connected":
        return (1, op.output[-1])
    if op.kind == "pad":
        if len(op.pads) != len(first) or any(p < 0 for pair in op.pads for p in pair):
            raise fail(f"pads {op.pads} do not fit the input")
        return tuple(d + before + after for d, (before, after) in zip(first, op.pads, strict=True))
    if op.kind == "reshape":
        if math.prod(first) != math.prod(op.output):
            raise fail("number of elements changes")
        return op.output
    return first  # softmax, hard_swish


def _dims(shape: Shape) -> str:
    return "x".join(str(d) for d in shape[1:]) or "-"


def _pads(pads: tuple[tuple[int, int], ...]) -> str:
    return "p" + ",".join(f"{before}:{after}" for before, after in pads)


def _parse_pads(text: str) -> tuple[tuple[int, int], ...]:
    pairs = [pair.split(":") for pair in text.removeprefix("p").split(",")]
    return tuple((int(before), int(after)) for before, after in pairs)


def _shape(text: str) -> Shape:
    return (1,) if text == "-" else (1, *(int(d) for d in text.split("x")))


def _pair(text: str) -> tuple[int, int]:
    first, second = text.split("x")
    return int(first), int(second)


def _parse(signature: str) -> Operator:
    words = signature.split(" ")
    algorithm = cast(Algorithm, words.pop() if words[-1] in ALGORITHMS[1:] else "direct")
    kind, shapes, dtype = words[0], words[1], words[-1]
    if kind not in KINDS or dtype not in get_args(DType):
        raise ValueError(signature)
    inputs, output = shapes.split("->")
    rest = words[2:-1]
    kernel = stride = (1, 1)
    padding: Padding = "valid"
    pads: tuple[tuple[int, int], ...] = ()
    axis, activation = -1, "none"
    if kind in WINDOWED:
        kernel, stride = _pair(rest[0].removeprefix("k")), _pair(rest[1].removeprefix("s"))
        padding = cast(Padding, "explicit" if rest[2].startswith("p") else rest[2])
        pads = _parse_pads(rest[2]) if padding == "explicit" else ()
        rest = rest[3:]
    if kind == "pad":
        pads = _parse_pads(rest.pop(0))
    if kind == "concatenation":
        axis = int(re.sub("^axis", "", rest.pop(0)))
    if kind in FUSING:
        activation = rest.pop(0)
    if rest or padding not in get_args(Padding):
        raise ValueError(signature)
    return Operator(
        kind=kind,
        inputs=tuple(_shape(s) for s in inputs.split(",")),
        output=_shape(output),
        kernel=kernel,
        stride=stride,
        padding=padding,
        pads=pads,
        axis=axis,
        activation=cast(Activation, activation),
        dtype=cast(DType, dtype),
        algorithm=algorithm,
    )
