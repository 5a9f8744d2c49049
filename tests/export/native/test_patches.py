"""Patch-based execution: every value as without patches, sizes as predicted, and only where it can be done."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.firmware.native import NativeHost, check_graph
from tests.random_graphs import random_inputs
from toolchain.errors import GraphError
from toolchain.export.native.footprint import arena_bytes, program_bytes
from toolchain.export.native.layout import ISAS, Isa
from toolchain.export.native.patches import Patches, patch_choices
from toolchain.export.native.plan import DIRECT, Plan, choose_plan, estimated_cycles
from toolchain.export.native.reader import read_program
from toolchain.export.native.writer import program_nodes, write_program
from toolchain.graph import Graph, GraphBuilder, Operator, Quantization
from toolchain.graph.operator import Algorithm

SCALE = Quantization.per_tensor(0.05, 3)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeHost]:
    built = NativeHost(tmp_path_factory.mktemp("patches"))
    yield built
    built.close()


class Net:
    """Builds small int8 image networks."""

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self.rng, self.b = np.random.default_rng(seed), GraphBuilder("int8")
        self.x = self.b.input((1, *shape), SCALE)

    def weighted(self, kind: str, x: str, channels: int, kernel, stride, padding) -> str:
        size = self.b.shape(x)[3]
        shape = (channels, *kernel, size) if kind == "conv2d" else (1, *kernel, size)
        outputs = channels if kind == "conv2d" else size
        scale = float(np.float32(0.5 / np.prod(shape[1:] if kind == "conv2d" else kernel) ** 0.5 / 75))
        build = self.b.conv2d if kind == "conv2d" else self.b.depthwise_conv2d
        return build(
            x,
            self.rng.integers(-127, 128, shape).astype(np.int8),
            self.rng.integers(-999, 999, outputs).astype(np.int32),
            stride=stride,
            padding=padding,
            activation="relu6" if self.rng.random() < 0.5 else "none",
            quantization=SCALE,
            weight_quantization=Quantization((scale,), (0,)),
            bias_quantization=Quantization((float(np.float32(SCALE.scale[0]) * np.float32(scale)),), (0,)),
        )  # fmt: skip


@st.composite
def image_nets(draw: st.DrawFn) -> Graph:
    """Layers of every kind that can be computed in patches, residuals too, and a head that cannot."""
    net = Net(
        draw(st.integers(0, 999)),
        (draw(st.integers(6, 20)), 8 * draw(st.integers(1, 2)), draw(st.integers(1, 4))),
    )
    x = net.x
    for _ in range(draw(st.integers(1, 6))):
        _, height, width, channels = net.b.shape(x)
        kind = draw(st.sampled_from(["conv2d", "depthwise_conv2d", "pool", "swish", "residual", "conv2d"]))
        padding = draw(st.sampled_from(["same", "same", "valid"]))
        most = (5, 5) if padding == "same" else (min(5, height), min(5, width))
        kernel = (draw(st.integers(1, most[0])), draw(st.integers(1, most[1])))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        if kind == "swish":
            x = net.b.unary("hard_swish", x, quantization=SCALE)
        elif kind == "pool":
            pool = draw(st.sampled_from(["average_pool", "max_pool"]))
            x = net.b.pool(pool, x, kernel, stride=stride, padding=padding, quantization=SCALE)
        elif kind == "residual":
            y = net.weighted("conv2d", x, channels, kernel, (1, 1), "same")
            x = net.b.binary("add", x, y, quantization=SCALE)
        else:
            x = net.weighted(kind, x, 8 * draw(st.integers(1, 2)), kernel, stride, padding)
    flat = net.b.pool("average_pool", x, net.b.shape(x)[1:3], quantization=SCALE)
    return net.b.build(net.b.reshape(flat, (1, net.b.shape(flat)[3]), quantization=SCALE))


@pytest.mark.parametrize("isa", ISAS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(graph=image_nets(), data=st.data())
def test_every_value_is_the_same(host: NativeHost, isa: Isa, graph: Graph, data: st.DataObject) -> None:
    ways = patch_choices(graph)
    if not ways:
        return
    plan = Plan(patches=data.draw(st.sampled_from(ways)))
    inputs = random_inputs(graph, 1, 1)
    program = check_graph(host, graph, isa, inputs, plan)
    assert len(program) == program_bytes(graph, isa, plan=plan)
    info = read_program(program)
    assert info.arena_bytes == arena_bytes(graph, isa, plan=plan)
    assert len(info.operators) == len(program_nodes(graph, isa, plan))


def large_maps(seed: int = 0) -> Graph:
    """A network whose first maps are its largest, as those of image networks are: a residual, then stride 2 twice."""
    net = Net(seed, (32, 32, 3))
    x = net.weighted("conv2d", net.x, 16, (3, 3), (1, 1), "same")
    y = net.weighted("depthwise_conv2d", x, 16, (3, 3), (1, 1), "same")
    x = net.b.binary("add", x, net.weighted("conv2d", y, 16, (1, 1), (1, 1), "same"), quantization=SCALE)
    x = net.weighted("conv2d", x, 16, (3, 3), (2, 2), "same")
    x = net.weighted("conv2d", x, 24, (3, 3), (2, 2), "same")
    x = net.b.pool("average_pool", x, (8, 8), quantization=SCALE)
    return net.b.build(net.b.reshape(x, (1, 24), quantization=SCALE))


def cost(op: Operator, algorithm: Algorithm) -> float:
    return estimated_cycles(op, algorithm)


@pytest.mark.parametrize("isa", ISAS)
def test_the_least_cycles_that_fit_are_found(host: NativeHost, isa: Isa) -> None:
    """Against every number of nodes and rows, each with its own best algorithms."""
    graph = large_maps()
    direct = arena_bytes(graph, isa)
    every = [DIRECT, *(Plan(patches=patches) for patches in patch_choices(graph))]
    assert len(every) > 20
    limits = (direct, direct - 1, direct * 3 // 4, direct // 2, direct * 2 // 5)
    for limit in limits:
        found = choose_plan(graph, isa, ram_bytes=limit, cycles=cost)
        fitting = [
            sum(cost(op, "direct") for op in way.operators(graph))
            for way in every
            if arena_bytes(graph, isa, plan=way) <= limit
        ]
        if not fitting:
            assert found == DIRECT
            continue
        assert arena_bytes(graph, isa, plan=found) <= limit
        assert sum(cost(op, op.algorithm) for op in found.operators(graph)) <= min(fitting)
        assert (found.patches is None) == (limit == direct)
        check_graph(host, graph, isa, random_inputs(graph, 1, 2), found)
    assert found.patches is not None or not fitting


def test_patches_fit_the_flash_too() -> None:
    graph = large_maps()
    limit = arena_bytes(graph) // 2
    found = choose_plan(graph, ram_bytes=limit)
    size = program_bytes(graph, plan=found)
    assert found.patches is not None
    assert choose_plan(graph, ram_bytes=limit, flash_bytes=size) == found
    smaller = choose_plan(graph, ram_bytes=limit, flash_bytes=size - 1)
    assert smaller != found
    if smaller != DIRECT:
        assert program_bytes(graph, plan=smaller) < size
        assert arena_bytes(graph, plan=smaller) <= limit
    assert choose_plan(graph, ram_bytes=limit, flash_bytes=program_bytes(graph)) == DIRECT


def test_operators_without_a_row_cost_their_share() -> None:
    """A table has the whole network's operators alone."""
    graph = large_maps()
    known = set(graph.operators)

    def rows(op: Operator, algorithm: Algorithm) -> float:
        return cost(op, algorithm) if op in known and algorithm == "direct" else math.inf

    found = choose_plan(graph, ram_bytes=arena_bytes(graph) // 2, cycles=rows)
    assert found.patches is not None
    assert not found.winograd
    assert arena_bytes(graph, plan=found) <= arena_bytes(graph) // 2


def test_a_patch_is_priced_as_what_it_computes() -> None:
    graph = large_maps()
    plan = Plan(patches=Patches(5, 4))
    ops = plan.operators(graph)
    assert len(ops) == 4 * 5 + 3
    assert (
        ops[4].signature
        == "conv2d 9x32x16->4x16x16 k3x3 s2x2 p0:0,0:1 " + graph.operators[4].activation + " int8"
    )
    assert ops[-3:] == graph.operators[-3:]
    assert Plan.from_dict(plan.as_dict()) == plan
    assert Plan.from_dict({"winograd": []}) == DIRECT


def test_what_cannot_be_done_is_refused() -> None:
    net = Net(0, (8, 8, 4))
    x = net.weighted("conv2d", net.x, 8, (3, 3), (1, 1), "same")
    y = net.b.unary("hard_swish", x, quantization=SCALE)
    gate = net.b.pool("average_pool", y, (8, 8), quantization=SCALE)
    z = net.b.binary("mul", y, gate, quantization=SCALE)
    graph = net.b.build(net.b.reshape(z, (1, 512), quantization=SCALE), x)
    for nodes, why in (
        (0, "graph has 5"),
        (2, "needed after"),
        (3, "needed after"),
        (4, "unlike shapes"),
        (9, "graph has"),
    ):
        with pytest.raises(GraphError, match=why):
            write_program(graph, plan=Plan(patches=Patches(nodes, 2)))
    assert {way.nodes for way in patch_choices(graph)} == {1}
    thin = Net(0, (9, 5, 1))
    graph = thin.b.build(thin.weighted("depthwise_conv2d", thin.x, 1, (3, 3), (1, 1), "same"))
    with pytest.raises(GraphError, match="multiple of 8"):
        write_program(graph, plan=Plan(patches=Patches(1, 3)))
    assert patch_choices(graph) == (Patches(1, 8),) or patch_choices(graph) == ()


def test_weights_are_stored_once() -> None:
    graph = large_maps()
    whole, patched = program_bytes(graph), program_bytes(graph, plan=Plan(patches=Patches(5, 2)))
    descriptors = 8 * 5 - 5  # of the same 64 bytes each, the add's too
    assert patched - whole <= 96 * descriptors
