"""The builder computes shapes; a graph that does not fit together is refused."""

from dataclasses import replace

import numpy as np
import pytest

from toolchain.errors import GraphError
from toolchain.graph import (
    Graph,
    GraphBuilder,
    Node,
    Operator,
    Quantization,
    Tensor,
    dequantize_array,
    quantize_array,
)  # fmt: skip

F32 = np.float32


def small() -> Graph:
    builder = GraphBuilder()
    x = builder.input((1, 8, 8, 3))
    y = builder.conv2d(x, np.ones((4, 3, 3, 3), F32), np.zeros(4, F32), padding="same", source="stem")
    builder.fuse(y, "relu")
    y = builder.depthwise_conv2d(y, np.ones((1, 3, 3, 8), F32), np.zeros(8, F32), stride=(2, 2))
    y = builder.pool("average_pool", y, (3, 3))
    return builder.build(builder.fully_connected(y, np.ones((5, 8), F32), np.zeros(5, F32)))


def test_builder_names_and_sums() -> None:
    graph = small()
    assert [op.kind for op in graph.operators] == [
        "conv2d", "depthwise_conv2d", "average_pool", "fully_connected",
    ]  # fmt: skip
    assert graph.activations == ("t0", "t3", "t6", "t7", "t10")
    assert graph.operators[0].activation == "relu"
    assert graph.dtype == "float32"
    assert graph.params == 4 * 27 + 4 + 9 * 8 + 8 + 5 * 8 + 5
    assert graph.constant_bytes == 4 * graph.params
    assert graph.macs == 64 * 4 * 27 + 9 * 8 * 9 + 40


def change(graph: Graph, **changes: object) -> Graph:
    return replace(graph, **changes)


def test_a_node_must_come_after_its_inputs() -> None:
    graph = small()
    with pytest.raises(GraphError, match="not made before it is used"):
        change(graph, nodes=graph.nodes[::-1])


def test_outputs_must_be_made() -> None:
    graph = small()
    with pytest.raises(GraphError, match="never made"):
        change(graph, nodes=graph.nodes[:-1])
    with pytest.raises(GraphError, match="not declared"):
        change(graph, outputs=("nowhere",))


def test_shapes_must_fit() -> None:
    graph = small()
    tensors = {**graph.tensors, "t3": Tensor("t3", (1, 8, 8, 5), "float32")}
    with pytest.raises(GraphError, match=r"node 0 \(conv2d stem\).*'t3' is \(1, 8, 8, 5\)"):
        change(graph, tensors=tensors)
    with pytest.raises(GraphError, match="constant 'w1'"):
        change(graph, constants={**graph.constants, "w1": np.ones((4, 3, 3, 2), F32)})


def test_number_of_inputs_and_double_outputs() -> None:
    graph = small()
    first = graph.nodes[0]
    with pytest.raises(GraphError, match="has 2 inputs"):
        change(graph, nodes=(replace(first, inputs=first.inputs[:2]), *graph.nodes[1:]))
    with pytest.raises(GraphError, match="made twice"):
        change(graph, nodes=(first, *graph.nodes))


def test_dtypes_and_scales() -> None:
    op = Operator("softmax", ((1, 4),), (1, 4), dtype="int8")
    tensors = {n: Tensor(n, (1, 4), "int8") for n in ("x", "y")}
    with pytest.raises(GraphError, match="has no scale"):
        Graph((Node(op, ("x",), "y"),), tensors, {}, ("x",), ("y",))
    with pytest.raises(GraphError, match="needs float32"):
        Graph((Node(replace(op, dtype="float32"), ("x",), "y"),), tensors, {}, ("x",), ("y",))


@pytest.mark.parametrize(
    ("scale", "zero_point", "message"),
    [
        ((), (), "0 scales"),
        ((0.5,), (0, 1), "2 zero points"),
        ((0.0,), (0,), "positive"),
        ((0.1,), (0,), "float32"),
    ],
)
def test_quantization_is_checked(scale: tuple, zero_point: tuple, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Quantization(scale, zero_point)


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    q = Quantization.per_tensor(0.5, 3)
    values = np.array([-1e9, -0.25, 0.25, 0.75, 0.0, 1e9], F32)
    assert quantize_array(values, q).tolist() == [-128, 3, 3, 5, 3, 127]
    assert dequantize_array(np.array([3, 5], np.int8), q).tolist() == [0.0, 1.0]


def test_builder_refuses() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 4, 4, 2))
    with pytest.raises(GraphError, match="same rank"):
        builder.binary("add", x, builder.constant(np.zeros((1, 2), F32)))
    with pytest.raises(GraphError, match="no node makes"):
        builder.fuse(x, "relu")
    assert builder.producer(x) is None
