"""Counts and predicted file sizes, against real graphs, real files and real spaces."""

from __future__ import annotations

import numpy as np
import pytest

from profilers.cost import CostTable
from profilers.counts import flash_model, flash_of_operators, graph_costs
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.memory import plan_greedy, plan_optimal

pytest.importorskip("torch")
from tests import nets
from tests.graph.test_memory import residual_net
from toolchain.graph.lower import lower
from toolchain.quantize import quantize
from toolchain.spaces import ConNAS1d, Image2d, Space

SLACK = 64  # bytes: what few operators are off by, through padding and fields left at their defaults


def integer_graph(graph: Graph) -> Graph:
    shape = (3, *graph.tensors[graph.inputs[0]].shape[1:])
    return quantize(graph, np.random.default_rng(0).normal(size=shape).astype(np.float32))


def close(predicted: float, real: int) -> bool:
    return abs(predicted - real) <= max(0.01 * real, SLACK)


def test_costs_of_a_graph() -> None:
    b = GraphBuilder("int8")
    scale = Quantization.per_tensor(0.1)
    x = b.input((1, 4, 4, 2), scale)
    weights = np.ones((3, 1, 1, 2), np.int8)
    y = b.conv2d(
        x, weights, np.zeros(3, np.int32), quantization=scale,
        weight_quantization=scale, bias_quantization=scale,
    )  # fmt: skip
    graph = b.build(y)
    costs = graph_costs(graph)
    assert costs == {
        "params": 9, "macs": 96, "constant_bytes": 18,
        "flash_bytes": len(write_tflite(graph)), "ram_bytes": 32 + 48,
    }  # fmt: skip
    assert graph_costs(graph, method="optimal", alignment=1)["ram_bytes"] == 80
    assert all(type(value) is int for value in costs.values())


@pytest.mark.parametrize("name", ["resnet8", "mbnet", "mbv3", "dscnn", "ts1d"])
def test_flash_of_whole_networks(name: str) -> None:
    net = nets.NETS[name]
    graph = lower(net.build().eval(), net.input_shape)
    for one in (graph, integer_graph(graph)):
        assert close(flash_of_operators(one.operators), len(write_tflite(one)))


@pytest.mark.parametrize("seed", range(20))
def test_flash_of_random_graphs(seed: int) -> None:
    graph = residual_net(seed, 1 + seed % 10)
    assert close(flash_of_operators(graph.operators), len(write_tflite(graph)))


@pytest.mark.parametrize(
    "space",
    [ConNAS1d(3, 64, 4, (8, 32, 64), 4), Image2d(widths=(4, 12), blocks=2)],
    ids=["ConNAS1d", "Image2d"],
)
def test_a_space_is_priced_as_its_networks_are(space: Space) -> None:
    chain = space.chain("int8")
    table = CostTable.build(
        chain, {}, flash=flash_model(chain.operators), candidates=[len(c.candidates) for c in space.choices]
    )
    assert table.candidates == tuple(len(c.candidates) for c in space.choices)
    assert table.paths() == space.count()
    rng = np.random.default_rng(0)
    for _ in range(5):
        architecture = space.sample(rng)
        graph = integer_graph(lower(space.module(architecture).eval(), space.input_shape))
        exact = graph_costs(graph)
        predicted = {name: m.value for name, m in table.predict(architecture).items()}
        assert predicted["params"] == exact["params"]
        assert predicted["macs"] == exact["macs"]
        # Space kinds that this network lacks stand in the base: up to 60 bytes each.
        assert (
            -SLACK
            <= predicted["flash_bytes"] - exact["flash_bytes"]
            <= 0.01 * exact["flash_bytes"] + 4 * SLACK
        )
        assert predicted["ram_bytes"] == plan_optimal(graph).arena_bytes
        assert predicted["ram_bytes"] <= plan_greedy(graph).arena_bytes
