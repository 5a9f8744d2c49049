"""The choice of algorithms: exact within flash and RAM, priced as written, refused where a node has it not."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.firmware.native import NativeHost, check_graph
from tests.firmware.test_native import quantized_net
from tests.random_graphs import random_inputs
from toolchain.errors import GraphError
from toolchain.export.native.footprint import arena_bytes, operator_bytes, program_bytes
from toolchain.export.native.plan import DIRECT, Plan, choose_plan, estimated_cycles
from toolchain.export.native.reader import read_program
from toolchain.export.native.weights import DSP_WINOGRAD, algorithms
from toolchain.export.native.writer import write_program
from toolchain.graph import Graph, GraphBuilder, Operator, Quantization
from toolchain.graph.operator import WEIGHTED, Algorithm
from toolchain.graph.tflite_reader import read_tflite

SCALE = Quantization.per_tensor(0.05, 3)


def chain(channels: list[int], size: int = 6) -> Graph:
    """3x3 convolutions one after the other, with these channels."""
    rng, b = np.random.default_rng(1), GraphBuilder("int8")
    x = b.input((1, size, size, channels[0]), SCALE)
    for before, after in pairwise(channels):
        x = b.conv2d(
            x,
            rng.integers(-127, 128, (after, 3, 3, before)).astype(np.int8),
            rng.integers(-999, 999, after).astype(np.int32),
            padding="same",
            weight_quantization=Quantization((0.0078125,) * after, (0,) * after),
            bias_quantization=Quantization((SCALE.scale[0] * 0.0078125,) * after, (0,) * after),
            quantization=SCALE,
        )
    return b.build(x)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeHost]:
    built = NativeHost(tmp_path_factory.mktemp("plan"))
    yield built
    built.close()


def all_winograd(graph: Graph) -> Plan:
    nodes = enumerate(graph.nodes)
    return Plan(
        frozenset(
            i
            for i, node in nodes
            if node.operator.kind in WEIGHTED and "winograd" in algorithms(node.operator, "dsp")
        )
    )


def test_default_is_direct() -> None:
    graph = chain([8, 8, 6, 4])
    assert write_program(graph) == write_program(graph, plan=DIRECT)
    assert all(op.kernel != DSP_WINOGRAD for op in read_program(write_program(graph)).operators)


def test_every_subset_is_priced_and_computed_exactly(host: NativeHost) -> None:
    graph = chain([8, 8, 12, 4])
    for count in range(4):
        for nodes in combinations(range(3), count):
            plan = Plan(frozenset(nodes))
            program = check_graph(host, graph, "dsp", random_inputs(graph, 2, count), plan)
            info = read_program(program)
            assert len(program) == program_bytes(graph, plan=plan)
            assert info.arena_bytes == arena_bytes(graph, plan=plan)
            assert [i for i, op in enumerate(info.operators) if op.kernel == DSP_WINOGRAD] == list(nodes)


@pytest.mark.parametrize("name", ["resnet8", "mbnet"])
def test_networks(host: NativeHost, name: str) -> None:
    graph = quantized_net(name)
    plan = all_winograd(graph)
    assert (name == "resnet8") == bool(plan.winograd)
    check_graph(host, graph, "dsp", random_inputs(graph, 2, 3), plan)


def best_saving(graph: Graph, cost, flash: int | None, ram: int | None) -> float:
    """By trying every subset; -inf where none fits."""
    best, nodes = -math.inf, sorted(all_winograd(graph).winograd)
    for count in range(len(nodes) + 1):
        for chosen in combinations(nodes, count):
            plan = Plan(frozenset(chosen))
            fits = flash is None or program_bytes(graph, plan=plan) <= flash
            fits = fits and (ram is None or arena_bytes(graph, plan=plan) <= ram)
            if fits:
                best = max(best, saving(graph, cost, plan))
    return best


def saving(graph: Graph, cost, plan: Plan) -> float:
    ops = [graph.nodes[i].operator for i in plan.winograd]
    return sum(cost(op, "direct") - cost(op, "winograd") for op in ops)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.lists(st.sampled_from([4, 8, 16, 20, 32]), min_size=2, max_size=6),
    seed=st.integers(0, 99),
    flash=st.one_of(st.none(), st.integers(0, 60_000)),
    ram=st.one_of(st.none(), st.integers(-4_000, 4_000)),
)
def test_no_subset_is_better(channels: list[int], seed: int, flash: int | None, ram: int | None) -> None:
    graph, rng = chain(channels), np.random.default_rng(seed)
    table = {
        (op, a): float(rng.integers(1, 1000))
        for op in sorted(set(graph.operators), key=str)
        for a in ("d", "w")
    }

    def cost(op: Operator, algorithm: Algorithm) -> float:
        return table.get((op, algorithm[0]), math.inf)  # those of patches have no row

    if flash is not None:
        flash += program_bytes(graph)
    if ram is not None:
        ram += arena_bytes(graph)
    plan, best = (
        choose_plan(graph, flash_bytes=flash, ram_bytes=ram, cycles=cost),
        best_saving(graph, cost, flash, ram),
    )
    if best > -math.inf:
        assert flash is None or program_bytes(graph, plan=plan) <= flash
        assert ram is None or arena_bytes(graph, plan=plan) <= ram
        assert saving(graph, cost, plan) == best


def test_budgets_decide() -> None:
    graph = chain([16, 16, 32])
    whole = choose_plan(graph)
    assert whole == all_winograd(graph)
    direct, extra = (
        program_bytes(graph),
        [operator_bytes(op, "dsp", "winograd") - operator_bytes(op) for op in graph.operators],
    )
    assert extra[1] > extra[0]
    assert choose_plan(graph, flash_bytes=direct + sum(extra)) == whole
    assert choose_plan(graph, flash_bytes=direct + sum(extra) - 1) == Plan(frozenset({1}))
    assert choose_plan(graph, flash_bytes=direct + extra[0]) == Plan(frozenset({0}))
    assert choose_plan(graph, flash_bytes=direct + extra[0] - 1) == DIRECT
    assert choose_plan(graph, flash_bytes=0) == DIRECT
    assert choose_plan(graph, ram_bytes=arena_bytes(graph, plan=whole)) == whole
    assert arena_bytes(graph, plan=whole) < arena_bytes(graph)  # at these sizes it needs less scratch memory
    assert choose_plan(graph, ram_bytes=0) == DIRECT
    assert choose_plan(graph, "plain") == DIRECT


def test_lone_rows_stay_direct() -> None:
    """Half of every tile would be thrown away."""
    op = Operator.parse("conv2d 1x17x32->1x17x32 k3x3 s1x1 same none int8")
    assert estimated_cycles(op, "winograd") > estimated_cycles(op, "direct")


@pytest.mark.parametrize("index", [-1, 1, 9])
def test_plans_for_what_has_no_choice_are_refused(index: int) -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 8, 8, 4), SCALE)
    graph = b.build(
        b.pool("max_pool", b.unary("hard_swish", x, quantization=SCALE), (2, 2), quantization=SCALE)
    )
    with pytest.raises(GraphError, match=f"winograd for node {index}"):
        write_program(graph, plan=Plan(frozenset({index})))
    with pytest.raises(GraphError, match="DSP"):
        write_program(chain([4, 4]), "plain", plan=Plan(frozenset({0})))


@pytest.mark.data
@pytest.mark.parametrize("name", ["ic01_resnet8_int8", "kws01_dscnn_int8"])
def test_mlperf_networks(host: NativeHost, name: str) -> None:
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        pytest.skip("BOARDFIT_DATA is not set")
    [path] = Path(folder).rglob(f"{name}.tflite")
    graph = read_tflite(path.read_bytes())
    plan = choose_plan(graph)
    assert len(plan.winograd) == (4 if "resnet8" in name else 0)
    check_graph(host, graph, "dsp", random_inputs(graph, 1, 5), plan)
