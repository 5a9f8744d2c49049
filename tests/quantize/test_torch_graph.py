"""The torch executor means what the numpy reference means."""

import numpy as np
import pytest
import torch

from tests.quantize.graphs import everything, normal
from toolchain.errors import GraphError
from toolchain.graph import Graph, GraphBuilder
from toolchain.graph.float_reference import run_float_all
from toolchain.quantize.ptq import quantize
from toolchain.quantize.torch_graph import run_torch


def constants(graph: Graph) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(data) for name, data in graph.constants.items()}


def test_equals_the_numpy_reference_on_every_kind() -> None:
    graph = everything()
    x = normal(0, 4, 9, 8, 3)
    results = run_torch(graph, torch.from_numpy(x), constants(graph))
    expected = run_float_all(graph, x)
    assert results.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(results[name].numpy(), values, rtol=1e-5, atol=1e-5)


def test_softmax_of_four_dimensions_and_concatenation_with_a_constant() -> None:
    b = GraphBuilder()
    x = b.input((1, 2, 3, 4))
    y = b.concatenation([b.unary("softmax", x), b.constant(normal(3, 1, 1, 3, 4))], axis=1)
    graph = b.build(y)
    data = normal(0, 3, 2, 3, 4)
    result = run_torch(graph, torch.from_numpy(data), constants(graph))[graph.outputs[0]]
    np.testing.assert_allclose(result.numpy(), run_float_all(graph, data)[graph.outputs[0]], atol=1e-6)


def test_misuse() -> None:
    graph = everything()
    with pytest.raises(GraphError, match="needs"):
        run_torch(graph, torch.zeros(1, 3, 9, 8), constants(graph))
    with pytest.raises(GraphError, match="float graph"):
        run_torch(quantize(graph, normal(0, 2, 9, 8, 3)), torch.zeros(1, 9, 8, 3), {})
