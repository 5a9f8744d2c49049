"""One-operator networks: how an operator is measured alone.

Weights are random and inputs are random, because a cost depends on shapes. Zeros would not do: some kernels skip
them, and denormal floats are slow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import GraphError
from toolchain.graph import Graph, GraphBuilder, Operator
from toolchain.quantize.ptq import Range, choose_quantization, quantize_with_ranges

Array = NDArray[Any]
CONSTANT_NETWORKS = ("the runtime's constant: one operator", "the runtime's constant: two operators")


def operator_model(op: Operator, *, seed: int = 0, one_input: bool = False) -> Graph:
    """A network of this one operator, float or int8 as `op.dtype` says; the same arguments give the same graph.

    Weights have the scale 1/sqrt(fan in), so that outputs are of the order of 1. An int8 graph gets scales from
    typical ranges through the rules of `toolchain.quantize`: shared where kernels do not rescale (pooling, padding,
    reshaping, concatenation), 1/256 and -128 behind a softmax.

    Args:
        op: any operator.
        seed: of the weights.
        one_input: make all data inputs but the first one constants, for formats and tools that know one input.

    Returns:
        A graph with one node whose operator equals `op` but for its algorithm, which is a plan's matter, and one input
        per data input of it.
    """
    rng = np.random.default_rng(seed)
    float_op = replace(op, dtype="float32", algorithm="direct")
    builder = GraphBuilder("float32")
    names = [
        builder.input(shape) if i == 0 or not one_input else builder.constant(_normal(rng, shape))
        for i, shape in enumerate(op.inputs)
    ]
    shape = op.weight_shape
    if shape is not None:
        fan_in = shape[1] * shape[2] if op.kind == "depthwise_conv2d" else int(np.prod(shape[1:]))
        names.append(builder.constant(_normal(rng, shape) / np.float32(np.sqrt(fan_in)), prefix="w"))
        names.append(builder.constant(_normal(rng, op.output[-1:]), prefix="b"))
    output = builder.append(float_op, tuple(names), output=None, source="")
    graph = builder.build(output)
    if op.dtype == "float32":
        return graph
    ranges = {name: _input_range(op, index) for index, name in enumerate(graph.inputs)}
    ranges[output] = _output_range(op)
    return quantize_with_ranges(graph, choose_quantization(graph, ranges))


def constant_models() -> dict[str, Graph]:
    """One small operator, and the same one twice: name -> int8 network.

    Twice the first less the second is what a run costs beside its operators: the runtime's constant.
    """
    op = Operator.parse("fully_connected 4->4 none int8")
    return {name: _repeated(op, times) for name, times in zip(CONSTANT_NETWORKS, (1, 2), strict=True)}


def _repeated(op: Operator, times: int) -> Graph:
    """A row of operators of one kind, each with weights of its own."""
    rng = np.random.default_rng(0)
    builder = GraphBuilder("float32")
    name = builder.input(op.inputs[0])
    ranges = {name: _input_range(op)}
    assert op.weight_shape is not None
    for _ in range(times):
        weights = builder.constant(_normal(rng, op.weight_shape) / np.float32(2), prefix="w")
        bias = builder.constant(_normal(rng, op.weight_shape[:1]), prefix="b")
        name = builder.append(replace(op, dtype="float32"), (name, weights, bias), output=None, source="")
        ranges[name] = _output_range(op)
    graph = builder.build(name)
    return quantize_with_ranges(graph, choose_quantization(graph, ranges))


def operator_inputs(graph: Graph, seed: int = 0) -> tuple[Array, ...]:
    """Random data for each input of a graph, NHWC with a batch of 1, in the input's dtype.

    float32: normal with deviation 1. int8: uniform over all values.

    Raises:
        GraphError: an input is of another dtype.
    """
    rng = np.random.default_rng(seed)
    data: list[Array] = []
    for name in graph.inputs:
        tensor = graph.tensors[name]
        if tensor.dtype == "int8":
            data.append(rng.integers(-128, 128, tensor.shape, dtype=np.int8))
        elif tensor.dtype == "float32":
            data.append(_normal(rng, tensor.shape))
        else:
            raise GraphError(f"input {name!r} is {tensor.dtype}; float32 and int8 are known")
    return tuple(data)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)


def _input_range(op: Operator, index: int = 0) -> Range:
    # Wide enough that both bends of hard-swish and the slope of softmax are in use.
    if op.kind in ("hard_swish", "softmax"):
        return (-4.0, 4.0)
    # A sum of equal scales is cheaper in some kernels, and networks hardly have one.
    return (-1.6, 1.6) if op.kind == "add" and index else (-2.0, 2.0)


def _output_range(op: Operator) -> Range:
    if op.kind == "hard_swish":
        return (-0.375, 4.0)  # its minimum, at -1.5
    if op.activation == "relu6":
        return (0.0, 6.0)
    return (0.0 if op.activation == "relu" else -4.0, 4.0)
