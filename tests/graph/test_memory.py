"""Memory plans: TensorFlow Lite Micro's against its interpreter, the optimal one against exhaustive search."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_graphs import float_graphs, int8_graphs
from toolchain.errors import GraphError
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, GraphBuilder, Quantization
from toolchain.graph.liveness import align, live_peak_bytes, live_steps
from toolchain.graph.memory import (
    Lifetime,
    MemoryPlan,
    greedy,
    lifetimes,
    optimal,
    plan,
    plan_greedy,
    plan_native,
    plan_optimal,
    scratch_name,
)

SCALE = Quantization.per_tensor(0.05)


def tflm_head(model: bytes) -> int:
    """Bytes of the arena's head that TensorFlow Lite Micro's interpreter reports (it prints to file descriptor 2)."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(model, arena_size=8 << 20)
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(1), os.dup(2)]
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            interpreter.print_allocations()
        finally:
            for descriptor, saved in enumerate(kept, start=1):
                os.dup2(saved, descriptor)
                os.close(saved)
        file.seek(0)
        text = file.read().decode()
    found = re.search(r"Arena allocation head (\d+) bytes", text)
    assert found is not None, text
    return int(found.group(1))


def exists(tensors: Sequence[Lifetime], capacity: int) -> bool:
    """Whether some assignment of whole offsets fits: every one is tried."""

    def place(index: int, placed: list[tuple[int, Lifetime]]) -> bool:
        if index == len(tensors):
            return True
        t = tensors[index]
        for offset in range(capacity - t.size + 1):
            clash = any(
                offset < at + o.size_at(step) and at < offset + t.size_at(step)
                for at, o in placed
                for step in range(max(t.first, o.first), min(t.last, o.last) + 1)
            )
            if not clash and place(index + 1, [*placed, (offset, t)]):
                return True
        return False

    return place(0, [])


def residual_net(seed: int, blocks: int) -> Graph:
    """Int8 blocks in a row: residuals, concatenations, pools, branches of two and three, reshapes; two outputs."""
    rng = np.random.default_rng(seed)
    b = GraphBuilder("int8")

    def conv(x: str, channels: int, stride: int = 1) -> str:
        weights = rng.integers(-127, 128, (channels, 3, 3, b.shape(x)[3])).astype(np.int8)
        return b.conv2d(
            x, weights, np.zeros(channels, np.int32), stride=(stride, stride), padding="same",
            quantization=SCALE, weight_quantization=Quantization((0.0078125,) * channels, (0,) * channels),
            bias_quantization=Quantization((0.00048828125,) * channels, (0,) * channels),
        )  # fmt: skip

    x = b.input((1, int(rng.integers(4, 20)), int(rng.integers(4, 20)), int(rng.integers(1, 5))), SCALE)
    source = early = x
    for _ in range(blocks):
        channels = int(rng.integers(1, 12))
        kind = rng.integers(6)
        if kind == 0:
            x = b.binary("add", x, conv(conv(x, channels), b.shape(x)[3]), quantization=SCALE)
        elif kind == 1:
            branches = [conv(x, int(rng.integers(1, 12))) for _ in range(int(rng.integers(2, 4)))]
            x = b.concatenation([x, *branches] if rng.random() < 0.5 else branches, quantization=SCALE)
        elif kind == 2:
            x = conv(x, channels, int(rng.integers(1, 3)))
        elif kind == 3:
            gate = b.pool("average_pool", x, b.shape(x)[1:3], quantization=SCALE)
            x = b.binary("mul", x, conv(gate, b.shape(x)[3]), quantization=SCALE)
        elif kind == 4:
            x = b.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)), quantization=SCALE)
        else:
            x = b.unary("hard_swish", x, quantization=SCALE)
        early = x if rng.random() < 0.2 else early
    flat = b.reshape(x, (1, int(np.prod(b.shape(x)))), quantization=SCALE)
    return b.build(flat, early) if early not in (source, x) else b.build(flat)


@pytest.mark.parametrize("seed", range(60))
def test_greedy_arena_is_the_interpreters(seed: int) -> None:
    graph = residual_net(seed, 1 + seed % 14)
    found = plan_greedy(graph)
    found.check()
    assert found.arena_bytes == tflm_head(write_tflite(graph))


@settings(max_examples=60, deadline=None)
@given(int8_graphs(max_blocks=6, extreme=False))
def test_greedy_arena_is_the_interpreters_for_every_operator(graph: Graph) -> None:
    assert plan_greedy(graph).arena_bytes == tflm_head(write_tflite(graph))


@settings(max_examples=60, deadline=None)
@given(float_graphs())
def test_float_graphs_too(graph: Graph) -> None:
    assert plan_greedy(graph).arena_bytes == tflm_head(write_tflite(graph))


@pytest.mark.parametrize("name", ["resnet8", "mbnet", "mbv3", "dscnn", "ts1d"])
def test_arenas_of_whole_networks(name: str) -> None:
    pytest.importorskip("torch")
    from tests import nets
    from toolchain.graph.lower import lower
    from toolchain.quantize import quantize

    net = nets.NETS[name]
    graph = lower(net.build().eval(), net.input_shape)
    shape = (4, *graph.tensors[graph.inputs[0]].shape[1:])
    integer = quantize(graph, np.random.default_rng(0).normal(size=shape).astype(np.float32))
    found = plan_greedy(integer)
    assert found.arena_bytes == tflm_head(write_tflite(integer))
    best = plan_optimal(integer)
    best.check()
    assert best.proved
    assert best.arena_bytes <= found.arena_bytes


@st.composite
def tensor_sets(draw: st.DrawFn, most: int = 7) -> list[Lifetime]:
    spans = st.tuples(st.integers(1, 4), st.integers(0, 5), st.integers(0, 5))
    drawn = draw(st.lists(spans, min_size=1, max_size=most))
    return [Lifetime(f"t{i}", size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(drawn)]


@settings(max_examples=300, deadline=None)
@given(tensor_sets())
def test_optimal_is_optimal(tensors: list[Lifetime]) -> None:
    best = optimal(tensors)
    best.check()
    assert best.proved
    assert best.lower_bound == best.arena_bytes
    peak = max(sum(t.size for t in tensors if t.first <= step <= t.last) for step in range(6))
    assert best.arena_bytes >= peak
    assert best.arena_bytes == peak or not exists(tensors, best.arena_bytes - 1)


@st.composite
def shrinking_sets(draw: st.DrawFn, most: int = 6) -> list[Lifetime]:
    """Places whose later tensors are smaller."""
    found = []
    for tensor in draw(tensor_sets(most)):
        steps = range(tensor.first + 1, tensor.last + 1)
        at = sorted(draw(st.lists(st.sampled_from(steps), unique=True, max_size=2))) if steps else []
        sizes = sorted(
            draw(st.lists(st.integers(1, tensor.size), min_size=len(at), max_size=len(at))), reverse=True
        )
        found.append(tensor._replace(shrinks=tuple(zip(at, sizes, strict=True))))
    return found


@settings(max_examples=150, deadline=None)
@given(shrinking_sets())
def test_optimal_is_optimal_where_places_shrink(tensors: list[Lifetime]) -> None:
    best = optimal(tensors)
    best.check()
    assert best.proved
    assert best.arena_bytes == 1 or not exists(tensors, best.arena_bytes - 1)


@settings(max_examples=100, deadline=None)
@given(tensor_sets(12), st.sampled_from([1, 4, 16]))
def test_plans_keep_order(tensors: list[Lifetime], alignment: int) -> None:
    first, best = greedy(tensors, alignment), optimal(tensors, alignment)
    first.check()
    best.check()
    assert best.lower_bound <= best.arena_bytes <= first.arena_bytes
    assert first.lower_bound <= best.lower_bound


# No plan reaches the live peak here: found among 142,000 random tight sets, about one in 7,500 of them.
ABOVE_THE_PEAK = [
    (
        [(1, 0, 0), (3, 0, 2), (2, 3, 3), (1, 1, 4), (1, 4, 4), (1, 3, 5), (2, 5, 5), (1, 4, 6), (3, 6, 6)],
        4,
        5,
    ),
    (
        [(2, 0, 0), (2, 0, 1), (1, 1, 2), (1, 2, 2), (1, 1, 3), (1, 2, 3), (2, 4, 4), (2, 3, 5), (2, 5, 5)],
        4,
        5,
    ),
    (
        [(2, 0, 0), (3, 0, 1), (1, 1, 2), (2, 2, 4), (1, 3, 4), (1, 1, 5), (1, 2, 5), (3, 5, 6), (2, 6, 6)],
        5,
        6,
    ),
]


@pytest.mark.parametrize(("spans", "peak", "arena"), ABOVE_THE_PEAK)
def test_the_peak_is_not_always_reached(spans: list[tuple[int, int, int]], peak: int, arena: int) -> None:
    tensors = [Lifetime(f"t{i}", *span) for i, span in enumerate(spans)]
    assert not exists(tensors, peak)
    best = optimal(tensors)
    assert (best.arena_bytes, best.lower_bound, best.proved) == (arena, arena, True)
    assert greedy(tensors, 1).lower_bound == peak


def test_a_search_that_runs_out_says_so() -> None:
    tensors = [Lifetime(f"t{i}", *span) for i, span in enumerate(ABOVE_THE_PEAK[0][0])]
    best = optimal(tensors, node_limit=3)
    best.check()
    assert not best.proved
    assert best.lower_bound == 4 < best.arena_bytes


def test_lifetimes_of_a_residual() -> None:
    b = GraphBuilder()
    x = b.input((1, 4, 4, 2))
    y = b.unary("hard_swish", x)
    z = b.binary("add", x, y)
    unused = b.input((1, 3))
    graph = b.build(z)
    lives = [(x, 128, 0, 2), (unused, 12, 0, 0), (y, 128, 1, 2), (z, 128, 2, 2)]
    assert lifetimes(graph) == [Lifetime(*life) for life in lives]
    assert live_peak_bytes(graph) == 384
    assert plan(graph, "optimal").arena_bytes == plan(graph).arena_bytes == 384


def test_outputs_live_to_the_end() -> None:
    b = GraphBuilder()
    x = b.input((1, 1, 1, 25))
    y = b.unary("hard_swish", x)
    z = b.unary("hard_swish", y)
    assert live_peak_bytes(b.build(y, z)) == 200
    assert lifetimes(b.build(y, z))[1].last == 2
    assert live_peak_bytes(b.build(z), alignment=16) == 224


def test_check_finds_overlap_and_overflow() -> None:
    tensors = (Lifetime("a", 10, 0, 1), Lifetime("b", 10, 1, 2), Lifetime("c", 10, 2, 3))
    good = MemoryPlan({"a": 0, "b": 16, "c": 0}, 32, 32, True, "greedy", 16, tensors)
    good.check()
    with pytest.raises(GraphError, match="overlap"):
        replace(good, offsets={"a": 0, "b": 0, "c": 16}).check()
    with pytest.raises(GraphError, match="outside an arena"):
        replace(good, offsets={"a": 0, "b": 32, "c": 0}).check()
    with pytest.raises(GraphError, match="alignment"):
        replace(good, offsets={"a": 0, "b": 17, "c": 0}).check()


@settings(max_examples=150, deadline=None)
@given(int8_graphs(max_blocks=6, extreme=False), st.integers(0, 2**32 - 1), st.booleans())
def test_native_plans_keep_everything_apart(graph: Graph, seed: int, keep_inputs: bool) -> None:
    rng = np.random.default_rng(seed)
    scratch = {i: int(rng.integers(0, 200)) for i in range(len(graph.nodes)) if rng.random() < 0.5}
    found = plan_native(graph, scratch, keep_inputs=keep_inputs)
    found.check()
    # Every tensor under its own name and life; a reshape's output is the only one that may lie on another: its input.
    root = {name: name for name in graph.activations}
    for node in graph.nodes:
        if node.operator.kind == "reshape":
            root[node.output] = root[node.inputs[0]]
            assert found.offsets[node.output] == found.offsets[node.inputs[0]]
    lives = [
        life._replace(last=len(graph.nodes)) if keep_inputs and life.name in graph.inputs else life
        for life in lifetimes(graph)
    ]
    lives += [Lifetime(scratch_name(i), size, i + 1, i + 1) for i, size in scratch.items() if size]
    for i, a in enumerate(lives):
        at = found.offsets[a.name]
        assert at % 8 == 0
        assert at + a.size <= found.arena_bytes
        for b in lives[:i]:
            bt = found.offsets[b.name]
            together = a.first <= b.last and b.first <= a.last
            if together and root.get(a.name, a.name) != root.get(b.name, b.name):
                assert at >= bt + b.size or bt >= at + a.size, (a, b)


def least_in_place(graph: Graph, in_place: list[int], keep_inputs: bool) -> int:
    """The smallest arena with every choice of what is overwritten, each by exhaustive search, in steps of 8 bytes."""
    lives = lifetimes(graph)
    lives = [
        t._replace(last=len(graph.nodes)) if keep_inputs and t.name in graph.inputs else t for t in lives
    ]
    options: list[list[tuple[str, str] | None]] = []
    for index in in_place:
        node = graph.nodes[index]
        options.append([None, *((name, node.output) for name in node.inputs if name not in graph.constants)])
    best = 1 << 30
    for taken in product(*options):
        pairs = [pair for pair in taken if pair]
        places = {t.name: [t] for t in lives}
        legal = True
        for before, after in pairs:
            index = next(i for i, node in enumerate(graph.nodes) if node.output == after)
            old, new = (next(t for t in lives if t.name == name) for name in (before, after))
            shape = graph.tensors[before].shape
            legal &= (
                graph.nodes[index].operator.kind not in ("add", "mul") or shape == graph.tensors[after].shape
            )
            legal &= old.last == index + 1 and before not in graph.outputs and old.size >= new.size
            legal &= not (keep_inputs and before in graph.inputs)
            if not legal:
                break
            key = next(key for key, row in places.items() if row[-1].name == before)
            places[key] += places.pop(after)
        if not legal:
            continue
        joined = [
            Lifetime(
                row[0].name, -(-row[0].size // 8), row[0].first, row[-1].last,
                tuple((t.first + 1, -(-t.size // 8)) for t in row[1:]),
            )
            for row in places.values()
        ]  # fmt: skip
        capacity = max(
            sum(t.size_at(step) for t in joined if t.first <= step <= t.last)
            for step in range(len(graph.nodes) + 1)
        )
        while capacity * 8 < best and not exists(joined, capacity):
            capacity += 1
        best = min(best, capacity * 8)
    return best


@st.composite
def small_nets(draw: st.DrawFn) -> Graph:
    """Up to six nodes of every kind that may overwrite an input, of one that may not, and of one that shrinks."""
    b = GraphBuilder("int8")
    made = [b.input((1, 1, draw(st.integers(1, 4)), 8), SCALE)]
    for _ in range(draw(st.integers(1, 6))):
        x = draw(st.sampled_from(made[-3:]))
        kind = draw(st.sampled_from(["swish", "add", "pool", "join"]))
        like = [name for name in made if b.shape(name) == b.shape(x)]
        if kind == "add":
            made.append(b.binary("add", x, draw(st.sampled_from(like)), quantization=SCALE))
        elif kind == "join" and b.shape(x)[2] < 8:
            made.append(b.concatenation([x, x], 2, quantization=SCALE))
        elif kind == "pool":
            made.append(b.pool("max_pool", x, (1, draw(st.integers(1, b.shape(x)[2]))), quantization=SCALE))
        else:
            made.append(b.unary("hard_swish", x, quantization=SCALE))
    return b.build(*draw(st.lists(st.sampled_from(made), unique=True, max_size=1)), made[-1])


@settings(max_examples=100, deadline=None)
@given(small_nets(), st.booleans())
def test_no_choice_of_what_is_overwritten_is_better(graph: Graph, keep_inputs: bool) -> None:
    in_place = [i for i, node in enumerate(graph.nodes) if node.operator.kind != "concatenation"]
    found = plan_native(graph, in_place=in_place, keep_inputs=keep_inputs)
    found.check()
    assert found.arena_bytes == least_in_place(graph, in_place, keep_inputs)
    assert found.proved


@settings(max_examples=100, deadline=None)
@given(int8_graphs(max_blocks=6, extreme=False), st.integers(0, 2**32 - 1))
def test_what_lives_at_each_step_is_the_bound(graph: Graph, seed: int) -> None:
    """What a search counts arc by arc, and what the plan of the whole network cannot fall below."""
    rng = np.random.default_rng(seed)
    in_place = [i for i in range(len(graph.nodes)) if rng.random() < 0.7]
    found = plan_native(graph, in_place=in_place)
    found.check()
    steps = [
        sum(align(size, 8) for size in (*live.others, 0 if live.dying and i in in_place else live.output))
        for i, live in enumerate(live_steps(graph))
    ]
    start = sum(align(t.size, 8) for t in lifetimes(graph) if t.first == 0)
    assert found.lower_bound >= max(start, *steps)
    assert (
        found.arena_bytes == max(start, *steps) or found.lower_bound > max(start, *steps) or not found.proved
    )


def test_a_reshape_shares_its_place_while_either_is_needed() -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 4, 4, 2), SCALE)
    y = b.reshape(x, (1, 32), quantization=SCALE)
    z = b.reshape(y, (1, 2, 2, 8), quantization=SCALE)
    early = b.unary("hard_swish", y, quantization=SCALE)
    late = b.binary("add", z, z, quantization=SCALE)
    found = plan_native(b.build(early, late), {3: 24})
    assert found.offsets[x] == found.offsets[y] == found.offsets[z]
    # The last step: its input, both outputs, and the scratch memory.
    assert found.arena_bytes == 120
    graph = b.build(early)
    taken = replace(graph, tensors={**graph.tensors, scratch_name(0): graph.tensors[x]})
    with pytest.raises(GraphError, match="keeps for itself"):
        plan_native(taken, {0: 8})


def test_a_reshape_of_a_constant_has_a_place() -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 8), SCALE)
    constant = b.constant(np.zeros((1, 2, 4), np.int8), SCALE)
    y = b.binary("add", x, b.reshape(constant, (1, 8), quantization=SCALE), quantization=SCALE)
    assert plan_native(b.build(y)).arena_bytes == 24
