"""One-operator networks of every kind: the right graph, and files that the runtimes take and agree on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from profilers.single import operator_inputs, operator_model
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Operator
from toolchain.graph.float_reference import run_float
from toolchain.graph.operator import KINDS

SIGNATURES = [
    "conv2d 8x8x3->4x4x16 k3x3 s2x2 same relu {}",
    "conv2d 8x8x3->6x6x5 k3x3 s1x1 valid none {}",
    "conv2d 1x32x16->1x16x32 k1x3 s1x2 same relu6 {}",
    "depthwise_conv2d 8x8x16->8x8x16 k3x3 s1x1 same relu6 {}",
    "depthwise_conv2d 8x8x4->4x4x8 k5x5 s2x2 same none {}",
    "fully_connected 64->10 none {}",
    "fully_connected 2x2x8->12 relu {}",
    "add 4x4x8,4x4x8->4x4x8 relu {}",
    "add 4x4x8,1x1x8->4x4x8 none {}",
    "mul 4x4x8,1x1x8->4x4x8 none {}",
    "mul 10,10->10 relu6 {}",
    "average_pool 8x8x8->1x1x8 k8x8 s8x8 valid none {}",
    "average_pool 8x8x8->4x4x8 k3x3 s2x2 same relu {}",
    "max_pool 8x8x8->4x4x8 k2x2 s2x2 valid none {}",
    "pad 4x4x8->6x5x8 p0:0,1:1,0:1,0:0 {}",
    "reshape 4x4x8->128 {}",
    "softmax 10->10 {}",
    "hard_swish 4x4x8->4x4x8 {}",
    "concatenation 4x4x8,4x4x3->4x4x11 axis3 {}",
    "concatenation 4x4x8->4x4x8 axis3 {}",
]
ALL = [Operator.parse(s.format(dtype)) for s in SIGNATURES for dtype in ("float32", "int8")]
HARD_SIGMOID = Operator.parse("conv2d 1x1x8->1x1x16 k1x1 s1x1 valid hard_sigmoid float32")
every = pytest.mark.parametrize("op", ALL, ids=lambda op: op.signature.replace(" ", "_"))


def test_every_kind_is_tried_in_both_types() -> None:
    assert {(op.kind, op.dtype) for op in ALL} == {(kind, d) for kind in KINDS for d in ("float32", "int8")}


@every
def test_the_graph_has_exactly_this_operator(op: Operator) -> None:
    graph = operator_model(op)
    assert graph.operators == (op,)
    assert tuple(graph.tensors[name].shape for name in graph.inputs) == op.inputs
    assert graph.dtype == op.dtype
    same, other = operator_model(op), operator_model(op, seed=1)
    assert write_tflite(same) == write_tflite(graph)
    if op.params:
        assert write_tflite(other) != write_tflite(graph)
    one = operator_model(op, one_input=True)
    assert len(one.inputs) == 1
    assert one.operators == (op,)


@every
def test_litert_runs_it(op: Operator) -> None:
    graph = operator_model(op)
    inputs = operator_inputs(graph)
    out = litert(write_tflite(graph), inputs)
    assert out.shape == op.output
    assert out.dtype == op.dtype
    assert (
        op.output[-1] * op.output[0] == 1 or np.unique(out).size > 1
    )  # scales that do not squash everything


@pytest.mark.parametrize(
    "op", [op for op in ALL if op.dtype == "int8"], ids=lambda op: op.signature.replace(" ", "_")
)
def test_tflite_micro_runs_it_and_agrees_with_litert(op: Operator) -> None:
    graph = operator_model(op)
    inputs = operator_inputs(graph)
    model = write_tflite(graph)
    out = tflite_micro(model, inputs)
    assert out.shape == op.output
    assert out.dtype == np.int8
    difference = np.abs(out.astype(int) - litert(model, inputs).astype(int)).max()
    assert difference <= 1  # LiteRT rounds elsewhere in places; what matters is that both know the model


def test_int8_follows_the_rules_of_scales() -> None:
    def scales(op: Operator) -> list[tuple[float, int]]:
        graph = operator_model(op)
        tensors = [graph.tensors[name].quantization for name in graph.activations]
        assert all(q is not None for q in tensors)
        return [(q.scale[0], q.zero_point[0]) for q in tensors if q is not None]

    for op in ALL:
        if op.dtype == "int8" and op.kind in ("average_pool", "max_pool", "pad", "reshape", "concatenation"):
            assert len(set(scales(op))) == 1
        if op.dtype == "int8" and op.kind == "softmax":
            assert scales(op)[-1] == (1 / 256, -128)


def test_a_hard_sigmoid_behind_a_float_convolution() -> None:
    graph = operator_model(HARD_SIGMOID)
    inputs = operator_inputs(graph)
    np.testing.assert_allclose(litert(write_tflite(graph), inputs), run_float(graph, inputs[0]), atol=1e-6)


def test_inputs_are_repeatable_and_differ_by_seed() -> None:
    graph = operator_model(replace(ALL[0], dtype="int8"))
    (first,), (again,), (other,) = operator_inputs(graph), operator_inputs(graph), operator_inputs(graph, 1)
    assert first.dtype == np.int8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def litert(model: bytes, inputs: tuple[NDArray[Any], ...]) -> NDArray[Any]:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=model)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        assert tuple(detail["shape"]) == value.shape
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    out: NDArray[Any] = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return out


def tflite_micro(model: bytes, inputs: tuple[NDArray[Any], ...]) -> NDArray[Any]:
    runtime = pytest.importorskip("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_bytes(model)
    for index, value in enumerate(inputs):
        interpreter.set_input(value, index)
    interpreter.invoke()
    out: NDArray[Any] = interpreter.get_output(0)
    return out


@pytest.mark.parametrize(
    "signature",
    [
        "conv2d 5x5x4->5x5x1 k3x3 s1x1 same none int8",
        "depthwise_conv2d 5x5x1->5x5x1 k3x3 s1x1 same none int8",
        "fully_connected 7->1 none int8",
    ],
)
def test_a_single_output_channel(signature: str) -> None:
    op = Operator.parse(signature)
    assert operator_model(op).operators == (op,)
