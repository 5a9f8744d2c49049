"""Programs: their bytes, sizes in advance, and what a reader finds in them."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_graphs import float_graphs, int8_graphs, int8_operators
from toolchain.errors import GraphError, ModelFileError, UnsupportedError
from toolchain.export.native import layout
from toolchain.export.native.footprint import (
    BASE_BYTES,
    arena_bytes,
    base_bytes,
    memory_plan,
    operator_bytes,
    program_bytes,
)
from toolchain.export.native.layout import ISAS, Isa
from toolchain.export.native.pieces import extents, paddings
from toolchain.export.native.reader import read_program
from toolchain.export.native.writer import program_nodes, with_checksum, write_program
from toolchain.graph import Graph, GraphBuilder, Operator, Quantization
from toolchain.graph.operator import KINDS

SCALE = Quantization.per_tensor(0.05, 3)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=80, deadline=None)
@given(graph=int8_graphs(max_blocks=5))
def test_sizes_are_known_in_advance(isa: Isa, graph: Graph) -> None:
    program = write_program(graph, isa)
    assert write_program(graph, isa) == program
    assert len(program) == program_bytes(graph, isa)
    assert len(program) % 16 == 0
    info = read_program(program)
    assert (info.isa, info.bytes) == (isa, len(program))
    assert info.arena_bytes == arena_bytes(graph, isa)
    constants = sum(
        layout.padded(graph.constants[name].size)
        for node in graph.nodes
        for name in node.inputs[: len(node.operator.inputs)]
        if name in graph.constants
    )
    assert base_bytes(len(info.inputs), len(info.outputs)) + constants + sum(
        operator_bytes(op, isa) for op in graph.operators
    ) == len(program)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_an_operator_adds_its_bytes(isa: Isa, kind, data) -> None:
    graph = data.draw(int8_operators(kind))
    operands = [
        graph.constants[name]
        for name in graph.nodes[0].inputs[: len(graph.operators[0].inputs)]
        if name in graph.constants
    ]
    sizes = base_bytes(len(graph.inputs), 1) + sum(layout.padded(data.size) for data in operands)
    assert len(write_program(graph, isa)) == sizes + operator_bytes(graph.operators[0], isa)


@settings(max_examples=40, deadline=None)
@given(graph=int8_graphs(max_blocks=4))
def test_reader_finds_what_was_written(graph: Graph) -> None:
    info, plan = read_program(write_program(graph)), memory_plan(graph)
    nodes = program_nodes(graph)
    assert len(info.operators) == len(nodes)
    assert list(nodes) == sorted(nodes)
    for names, places in ((graph.inputs, info.inputs), (graph.outputs, info.outputs)):
        assert [(plan.offsets[n], math.prod(graph.tensors[n].shape)) for n in names] == [
            (place.offset, place.bytes) for place in places
        ]
    names = {"hard_swish": "table", "concatenation": "copy"}
    for operator, index in zip(info.operators, nodes, strict=True):
        op = graph.nodes[index].operator
        assert operator.kind == names.get(op.kind, op.kind)
        if operator.shape and op.kind != "fully_connected":
            assert operator.shape == (op.inputs[0][1:], op.output[1:])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_a_model_file_error(data) -> None:
    """Any bytes: the reader gives an answer or a ModelFileError, also where the checksum is right."""
    program = bytearray(write_program(data.draw(int8_graphs(max_blocks=2))))
    for _ in range(data.draw(st.integers(1, 4))):
        program[data.draw(st.integers(0, min(len(program), 300) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(program)))
    damaged = bytes(program[:cut])
    for text in (damaged, with_checksum(damaged) if cut >= layout.HEADER.size else damaged):
        with contextlib.suppress(ModelFileError):  # anything else fails
            assert read_program(text).bytes <= len(text)


def test_each_damage_has_its_message() -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 4, 4, 3), SCALE)
    program = write_program(b.build(b.pool("max_pool", x, (2, 2), quantization=SCALE)))
    for damaged, message in (
        (b"", "0 bytes"),
        (b"TFL3" + program[4:], "TFL3"),
        (program[:4] + b"\7\0" + program[6:], "format 7"),
        (program[:6] + b"\7" + program[7:], "kernel set 7"),
        (program[:-1], "bytes, the file has"),
        (program[:-1] + b"\1", "checksum"),
        (with_checksum(program[:24] + b"\xff\xff" + program[26:]), "descriptors|operator"),
        (with_checksum(program[:48] + b"\x63" + program[49:]), "kind 99"),
        (with_checksum(program[:16] + bytes(4) + program[20:]), "behind the arena of 0"),
    ):
        with pytest.raises(ModelFileError, match=message):
            read_program(damaged)


def test_base_is_a_network_of_nothing() -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 4, 4, 3), SCALE)
    program = write_program(b.build(b.reshape(x, (1, 48), quantization=SCALE)))
    assert len(program) == BASE_BYTES == 48
    assert read_program(program).operators == ()
    assert read_program(program).arena_bytes == 48


# --- shapes --------------------------------------------------------------------------------------------------------


def test_extents_merge_what_is_walked_alike() -> None:
    assert extents((1, 5, 6, 7), (1, 5, 6, 7)) == [(210, 1, 1)]
    assert extents((1, 5, 6, 7), (1, 1, 1, 7)) == [(30, 7, 0), (7, 1, 1)]
    assert extents((1, 1, 1, 7), (1, 5, 6, 7)) == [(30, 0, 7), (7, 1, 1)]
    assert extents((1, 5, 6, 7), (1, 5, 6, 1)) == [(30, 7, 1), (7, 1, 0)]
    assert extents((1, 5, 1, 7), (1, 1, 6, 7)) == [(5, 7, 0), (6, 0, 7), (7, 1, 1)]
    assert extents((1, 1), (1, 1)) == [(1, 1, 1)]


@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    lacks=st.lists(st.sampled_from("ab "), min_size=5, max_size=5),
)
def test_extents_walk_like_numpy(shape: list[int], lacks: list[str]) -> None:
    a, b = (
        (1, *(1 if lack == side else size for size, lack in zip(shape, lacks, strict=False))) for side in "ab"
    )
    axes = extents(a, b)
    assert axes[-1][1] in (0, 1)
    assert axes[-1][2] in (0, 1)
    sizes = [size for size, _, _ in axes]
    for operand, own in ((1, a), (2, b)):
        index = np.zeros(sizes, int)
        for axis, extent in enumerate(axes):
            steps = np.arange(extent[0]) * extent[operand]
            index += steps.reshape([-1 if i == axis else 1 for i in range(len(axes))])
        wanted = np.broadcast_to(np.arange(math.prod(own)).reshape(own), np.broadcast_shapes(a, b))
        assert (index.ravel() == wanted.ravel()).all()


def test_paddings_merge_what_is_not_padded() -> None:
    op = Operator("pad", ((1, 4, 5, 3),), (1, 5, 7, 3), pads=((0, 0), (1, 0), (1, 1), (0, 0)), dtype="int8")
    assert paddings(op) == [(4, 1, 0), (15, 3, 3)]
    nothing = Operator("pad", ((1, 4),), (1, 4), pads=((0, 0), (0, 0)), dtype="int8")
    assert paddings(nothing) == [(4, 0, 0)]


# --- what is refused -----------------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(graph=float_graphs(max_blocks=1))
def test_float_graphs_are_refused(graph: Graph) -> None:
    with pytest.raises(UnsupportedError, match="float"):
        write_program(graph)


def test_what_the_runtime_cannot_hold_is_refused() -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 1, 70000, 1), SCALE)
    with pytest.raises(UnsupportedError, match=r"node 0 \(max_pool\).*70000.*65535"):
        write_program(b.build(b.pool("max_pool", x, (1, 2), quantization=SCALE)))
    b = GraphBuilder("int8")
    x = b.input((1, 4), SCALE)
    constant = b.constant(np.zeros((1, 4), np.int8), SCALE)
    y = b.unary("hard_swish", x, quantization=SCALE)
    with pytest.raises(UnsupportedError, match="constant"):
        write_program(b.build(y, constant))


def test_scales_that_tflm_refuses_are_refused() -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 4, 4, 2), SCALE)
    other = Quantization.per_tensor(0.07, 3)
    for graph in (
        b.build(b.pool("average_pool", x, (2, 2), quantization=other)),
        b.build(b.concatenation((x, x), quantization=other)),
        b.build(b.unary("softmax", x, quantization=other)),
        b.build(b.binary("add", x, x, quantization=Quantization.per_tensor(1e-9))),
        b.build(b.unary("hard_swish", x, quantization=Quantization.per_tensor(1e-6))),
    ):
        with pytest.raises(GraphError, match="node"):
            write_program(graph)


def test_a_window_may_be_as_wide_as_the_input() -> None:
    b = GraphBuilder("int8")
    x = b.input((1, 1, 65535, 1), SCALE)
    info = read_program(write_program(b.build(b.pool("average_pool", x, (1, 65535), quantization=SCALE))))
    assert info.operators[0].shape == ((1, 65535, 1), (1, 1, 1))
