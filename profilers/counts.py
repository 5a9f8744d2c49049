"""Costs that need no device: parameters, MACs, bytes of the model file, bytes of RAM. Exact for a graph.

For a search space, where no graph and no file exist yet, the size of the file is predicted from the operators alone.
What each kind of operator adds to a file beside its constants is read off files that our writer makes, on first use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from toolchain.export.tflite_writer import write_tflite
from toolchain.graph.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.memory import TFLM_ALIGNMENT, plan
from toolchain.graph.operator import WEIGHTED, WINDOWED, Activation, DType, Kind, Operator, Shape

_BUFFER_ALIGNMENT = 16  # of constants in our files
_SCALE_BYTES = 4 + 8  # a float32 scale and an int64 zero point
_FEW, _COPIES = range(1, 5), 16  # operators of one kind in the files that are compared: n, and n + copies


def graph_costs(
    graph: Graph,
    *,
    method: Literal["greedy", "optimal"] = "greedy",
    alignment: int = TFLM_ALIGNMENT,
) -> dict[str, int]:
    """The computed costs of one network; exact, so fit to check a search's pick.

    Args:
        graph: int8 for a microcontroller; a float graph gives the figures of its float file.
        method: whose memory plan: "greedy" is TensorFlow Lite Micro's, "optimal" is the smallest arena.
        alignment: of tensors in the arena; 16 in TensorFlow Lite Micro.

    Returns:
        `params` (weights and biases), `macs`, `constant_bytes`, `flash_bytes` (length of the .tflite file), and
        `ram_bytes` (arena of activations; TensorFlow Lite Micro's own structures come on top of it).
    """
    return {
        "params": graph.params,
        "macs": graph.macs,
        "constant_bytes": graph.constant_bytes,
        "flash_bytes": len(write_tflite(graph)),
        "ram_bytes": plan(graph, method, alignment).arena_bytes,
    }


@dataclass(frozen=True)
class FlashModel:
    """Bytes of a model file from its operators: base + sum of (constants + overhead).

    Attributes:
        base: bytes of everything that a file has once.
        overhead: bytes that an operator adds beside its weights and biases, by operator.
        origin: what it was read off, e.g. "tflite".
    """

    base: float
    overhead: Callable[[Operator], float]
    origin: str = ""


def flash_model(operators: Iterable[Operator]) -> FlashModel:
    """The model of the .tflite files that are made of some of these operators, e.g. of a chain's.

    The base counts what a file has once for each kind given; a network without one of them is predicted up to
    about 60 bytes too large, not too small. Weights of convolutions have one scale per channel,
    those of fully connected layers one, as `quantize` makes them. A constant operand of add or mul has an overhead
    of its own (about 130 bytes), which an operator does not show and this does not count.
    """
    used = {_key(op) for op in operators}
    base = max((_once(tuple(sorted(k for k in used if k[1] == dtype))) for _, dtype, _ in used), default=0.0)
    return FlashModel(base, flash_overhead, "tflite")


def flash_of_operators(operators: Sequence[Operator]) -> int:
    """Predicted bytes of the .tflite file of a network of these operators, weights and biases included.

    On nets of 4 to 55 operators the real file was within 1 % or 64 bytes (tests/profilers/test_counts.py holds it);
    seen: -0.3 % to +0.7 % on files over 4.5 kB, at most 64 bytes below that.
    """
    model = flash_model(operators)
    total = model.base + sum(model.overhead(op) + constant_bytes_of(op) for op in operators)
    return math.ceil(total / _BUFFER_ALIGNMENT) * _BUFFER_ALIGNMENT


def constant_bytes_of(op: Operator) -> int:
    """Bytes of an operator's weights and biases; biases of int8 operators are int32."""
    return sum(_constants(op))


def flash_overhead(op: Operator) -> float:
    """Bytes that an operator adds to a .tflite file beside its weights and biases: tables, scales and padding."""
    return _each(_key(op)) + _variable(op)


# Fields at their schema default are not stored, so the same kind comes with and without a word of options.
_Options = Literal["default", "stored", "hard_sigmoid"]
_Key = tuple[Kind, DType, _Options]


def _key(op: Operator) -> _Key:
    options: _Options = "default"
    if op.activation == "hard_sigmoid":
        options = "hard_sigmoid"  # two operators in a float file
    elif op.activation != "none" or (op.kind in WINDOWED and op.padding == "valid"):
        options = "stored"
    return op.kind, op.dtype, options


def _constants(op: Operator) -> tuple[int, ...]:
    """Bytes of the weights and of the biases; empty for a kind without."""
    shape = op.weight_shape
    if shape is None:
        return ()
    return math.prod(shape) * (1 if op.dtype == "int8" else 4), 4 * op.output[-1]


def _variable(op: Operator) -> int:
    """The part of the overhead that follows from shapes: padded buffers, scales per channel, lengths of vectors.

    A buffer takes its bytes, 4 for their number and 8 for its table, up to a multiple of 16: the file holds them in
    a row. The weights and biases themselves are not counted, the padding behind them is.
    """
    padding = sum(-(-(size + 12) // _BUFFER_ALIGNMENT) * _BUFFER_ALIGNMENT - size for size in _constants(op))
    scales = 2 * op.output[-1] if op.kind in ("conv2d", "depthwise_conv2d") and op.dtype == "int8" else 0
    return padding + _SCALE_BYTES * scales + 4 * (len(op.inputs) + len(op.output))


@cache
def _each(key: _Key) -> float:
    """Bytes that every operator of a kind adds, beside `_variable` and its constants: read off two sets of files."""
    op = _example(key)
    # Parts are padded to 4, 8 and 16 bytes: neighbouring numbers of copies average that out.
    added = [_file_size([op] * (n + _COPIES)) - _file_size([op] * n) for n in _FEW]
    return sum(added) / len(added) / _COPIES - _variable(op) - constant_bytes_of(op)


@cache
def _once(keys: tuple[_Key, ...]) -> float:
    """Bytes that a file of these kinds has once: header, operator codes, the layouts that tables of a kind share."""
    operators = [_example(key) for key in keys]
    each = sum(flash_overhead(op) + constant_bytes_of(op) for op in operators)
    return sum(_file_size(operators * n) - n * each for n in _FEW) / len(_FEW)


def _example(key: _Key) -> Operator:
    kind, dtype, options = key
    image: Shape = (1, 4, 4, 4)
    activations: dict[_Options, Activation] = {
        "default": "none",
        "stored": "relu",
        "hard_sigmoid": "hard_sigmoid",
    }
    activation = activations[options]
    if kind == "fully_connected":
        return Operator(kind, ((1, 4),), (1, 4), activation=activation, dtype=dtype)
    if kind in ("add", "mul"):
        return Operator(kind, (image, image), image, activation=activation, dtype=dtype)
    if kind == "pad":
        return Operator(kind, (image,), (1, 5, 4, 4), pads=((0, 0), (1, 0), (0, 0), (0, 0)), dtype=dtype)
    if kind == "concatenation":
        return Operator(kind, (image, image), (1, 4, 4, 8), axis=3, dtype=dtype)
    if kind == "softmax":
        return Operator(kind, ((1, 4),), (1, 4), dtype=dtype)
    if kind == "reshape":
        return Operator(kind, (image,), (1, 64), dtype=dtype)
    if kind in WINDOWED:
        return Operator(kind, (image,), image, padding="same", activation=activation, dtype=dtype)
    return Operator(kind, (image,), image, dtype=dtype)


def _file_size(operators: Sequence[Operator]) -> int:
    """Length of a file in which each operator reads inputs of its own shape; its weights are zero."""
    builder = GraphBuilder(operators[0].dtype)
    integer = builder.dtype == "int8"
    scale = Quantization.per_tensor(0.5) if integer else None
    shapes = dict.fromkeys(shape for op in operators for shape in op.inputs)
    inputs = {shape: builder.input(shape, scale) for shape in shapes}
    name = ""
    for op in operators:
        names = [inputs[shape] for shape in op.inputs]
        if op.kind in WEIGHTED:
            assert op.weight_shape is not None
            channels, axis = op.output[-1], 3 if op.kind == "depthwise_conv2d" else 0
            count = 1 if op.kind == "fully_connected" else channels
            weights = Quantization((0.5,) * count, (0,) * count, axis) if integer else None
            bias = Quantization((0.5,) * count, (0,) * count) if integer else None
            names.append(builder.constant(np.zeros(op.weight_shape, op.dtype), weights, "w"))
            names.append(builder.constant(np.zeros(channels, "int32" if integer else "float32"), bias, "b"))
        name = builder.append(op, tuple(names), output=scale, source="")
    return len(write_tflite(builder.build(name)))
