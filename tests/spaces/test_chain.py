"""A space's chain is what its modules lower to, block by block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.spaces.own import Dense, Stages, Uneven
from toolchain.errors import UnsupportedError
from toolchain.graph.chain import Arc
from toolchain.graph.liveness import live_peak_bytes
from toolchain.graph.lower import lower
from toolchain.graph.operator import Operator
from toolchain.spaces import Architecture, Candidate, ConNAS1d, Image2d, Space
from toolchain.spaces.space import graph_shape, torch_shape

SPACES = [
    ConNAS1d(channels=(8, 16)),
    ConNAS1d(length=37, channels=(4,), edges=3),
    Image2d(),
    Dense(),
    Stages(),
    Uneven(),
]


def arcs_of(space: Space, architecture: Architecture, dtype: str = "float32") -> list[Arc]:
    """The arcs that an architecture takes through its space's chain."""
    chain = space.chain("int8" if dtype == "int8" else "float32")
    wanted = dict(zip(chain.choices, architecture, strict=True))
    state, path = 0, []
    for position, arcs in enumerate(chain.arcs):
        arc = next(a for a in arcs if a.start == state and a.candidate == wanted.get(position, 0))
        path.append(arc)
        state = arc.end
    return path


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_arcs_add_up_to_the_whole_network(space: Space) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        architecture = space.sample(rng)
        graph = lower(space.module(architecture).eval(), space.input_shape)
        arcs = arcs_of(space, architecture)
        assert tuple(itertools.chain(*(arc.operators for arc in arcs))) == graph.operators
        assert max(arc.ram_bytes for arc in arcs) == live_peak_bytes(graph)
        assert sum(arc.constant_bytes for arc in arcs) == sum(c.nbytes for c in graph.constants.values())
        rows = space.describe(architecture)
        assert [row.name for row in rows] == ["stem", *(c.name for c in space.choices), "head"]
        assert sum(row.macs for row in rows) == sum(op.macs for op in graph.operators)
        assert sum(row.params for row in rows) == sum(op.params for op in graph.operators)
        assert rows[-1].output == (space.classes,)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_int8_chain_is_the_float_chain_in_bytes(space: Space) -> None:
    architecture = space.sample(np.random.default_rng(3))
    for real, small in zip(arcs_of(space, architecture), arcs_of(space, architecture, "int8"), strict=True):
        assert small.ram_bytes * 4 == real.ram_bytes
        biases = sum(op.output[-1] for op in small.operators if op.weight_shape is not None)
        assert small.constant_bytes == (real.constant_bytes - 4 * biases) // 4 + 4 * biases
        for op in small.operators:
            assert op.dtype == "int8"
            assert op.activation != "hard_sigmoid"
            assert Operator.parse(op.signature) == op


def test_hard_sigmoids_fold_away_at_int8() -> None:
    space = Stages()
    assert any(op.activation == "hard_sigmoid" for op in space.chain().operators)
    assert len(space.chain("int8").operators) == len(space.chain().operators)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_chain_is_well_formed(space: Space) -> None:
    chain = space.chain()
    assert space.chain() is chain
    assert len(chain.states) == len(chain.arcs) + 1
    assert chain.choices == tuple(range(1, len(space.choices) + 1))
    assert chain.states[0] == (graph_shape(space.input_shape),)
    assert chain.states[-1] == ((1, space.classes),)
    for position, arcs in enumerate(chain.arcs):
        assert {a.start for a in arcs} == set(range(len(chain.states[position])))
        assert {a.end for a in arcs} == set(range(len(chain.states[position + 1])))
        for arc in arcs:
            if arc.operators:
                assert arc.operators[-1].output == chain.states[position + 1][arc.end]
                assert arc.operators[0].inputs[0] == chain.states[position][arc.start]
            else:
                assert arc.constant_bytes == 0
                assert arc.ram_bytes == 4 * np.prod(chain.states[position][arc.start])


def test_strided_blocks_of_the_built_in_spaces_need_no_pad_operator() -> None:
    for space in (ConNAS1d(channels=(8,)), Image2d(), Image2d((3, 33, 50), blocks=1)):
        assert not [op for op in space.chain().operators if op.kind == "pad"]


def test_memory_keeps_equal_shapes_apart() -> None:
    chain = Stages().chain()
    assert any(len(set(states)) < len(states) for states in chain.states)


def test_chain_leaves_the_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    Image2d(widths=(4,), blocks=1).chain()
    assert torch.equal(torch.random.get_rng_state(), before)


class _Unsupported(Dense):
    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        module = super().block(position, candidate, in_shape)
        assert module is not None
        return nn.Sequential(module, nn.Softplus()) if candidate.name == "d6" else module


def test_an_unsupported_operation_is_named_with_its_place() -> None:
    with pytest.raises(UnsupportedError, match=r"_Unsupported, a, candidate d6, input \(12,\).*[Ss]oftplus"):
        _Unsupported().chain()


@pytest.mark.parametrize("shape", [(5,), (3, 7), (3, 5, 7)])
def test_shapes_translate_both_ways(shape: tuple[int, ...]) -> None:
    assert torch_shape(graph_shape(shape), len(shape)) == shape


@pytest.mark.slow
def test_the_operator_table_of_the_connas_space_is_whole() -> None:
    """How long it takes is printed by benchmarks/bench_space.py: no test asserts a time."""
    chain = ConNAS1d().chain("int8")
    assert sum(len(arcs) for arcs in chain.arcs) == 1 + 14 + 3 * 7 * 14 + 4 * 7 * 15 + 7
    assert len(chain.operators) == 610
