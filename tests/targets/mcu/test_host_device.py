"""The whole firmware but for the part itself: native runtime and kernels behind the protocol, in a process under
sanitizers; and on a virtual board. Programs are packed, written once and run by their place."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from profilers.single import operator_model
from targets.mcu import wire
from targets.mcu.link import BoardLink, Refused, RunResult
from targets.mcu.port import open_port
from targets.mcu.wire import Status
from tests.random_graphs import int8_graphs
from tests.targets.mcu.host_device import FIRMWARE, Device, firmware
from toolchain.export.native.footprint import arena_bytes
from toolchain.export.native.reader import read_program
from toolchain.export.native.writer import program_nodes, write_program
from toolchain.graph import Graph, Operator
from toolchain.graph.integer_reference import run_int8_all

ARENA = 1 << 20


@pytest.fixture(scope="module")
def host() -> Iterator[BoardLink]:
    sources = [*sorted((FIRMWARE / "runtime").glob("*.c")), *sorted((FIRMWARE / "kernels").glob("*.c"))]
    with (
        Device(program=firmware(*sources), slot=1 << 22, arena=ARENA) as device,
        device.link(reply_s=5) as link,
    ):
        yield link


@pytest.fixture(scope="module")
def virtual() -> Iterator[BoardLink]:
    for package in ("unicorn", "capstone", "elftools"):
        pytest.importorskip(package)
    with BoardLink(open_port("virtual:nucleo-l4r5zi")) as link:
        yield link


def packed(programs: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """A slot's image, and where each program lies."""
    image, offsets = b"", []
    for program in programs:
        offsets.append(len(image))
        image += program + b"\xff" * (-len(program) % 16)
    return image, offsets


def reference(graph: Graph, inputs: Sequence[bytes]) -> list[bytes]:
    arrays = [
        np.frombuffer(data, np.int8).reshape(graph.tensors[name].shape)
        for name, data in zip(graph.inputs, inputs, strict=True)
    ]
    values = run_int8_all(graph, *arrays)
    return [values[name].tobytes() for name in graph.outputs]


def check(link: BoardLink, graphs: Sequence[Graph], seed: int) -> None:
    programs = [write_program(graph) for graph in graphs]
    image, offsets = packed(programs)
    link.write_slot(0, image)
    assert link.write_slot(0, image) == 0
    for graph, program, offset in zip(graphs, programs, offsets, strict=True):
        info = link.open_model(offset, len(program))
        assert info.arena_bytes == arena_bytes(graph)
        assert info.operators == len(program_nodes(graph))
        assert info.input_bytes == tuple(int(np.prod(graph.tensors[name].shape)) for name in graph.inputs)
        link.fill_input(seed)
        result = link.run(1, 3, operators=True)
        noise = [part.tobytes() for part in wire.noise(seed, info.input_bytes)]
        wanted = reference(graph, noise)
        assert link.outputs() == wanted
        assert result.output_crc == zlib.crc32(b"".join(wanted))
        assert len(result.ticks) == 3
        assert len(link.operator_ticks()) == info.operators
        assert sum(link.operator_ticks()) < result.ticks[-1]
        link.open_model(offset, len(program), keep_inputs=True)
        rest = np.random.default_rng(seed)
        inputs = [rest.integers(-128, 128, size).astype(np.int8).tobytes() for size in info.input_bytes]
        for index, data in enumerate(inputs):
            link.set_input(data, index)
        link.run(2, 2)
        assert link.outputs() == reference(graph, inputs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    graphs=st.lists(int8_graphs(max_blocks=3), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_networks_in_one_slot(host: BoardLink, graphs: list[Graph], seed: int) -> None:
    check(host, graphs, seed)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(graphs=st.lists(int8_graphs(max_blocks=3), min_size=1, max_size=3), seed=st.integers(0, 9))
def test_random_networks_on_a_virtual_board(virtual: BoardLink, graphs: list[Graph], seed: int) -> None:
    check(virtual, graphs, seed)


def test_depthwise_in_place_on_a_virtual_board(virtual: BoardLink) -> None:
    """Each form over several bands, which overwrite rows that the next one reads."""
    signatures = (
        "depthwise_conv2d 27x45x6->27x45x6 k3x3 s1x1 same relu int8",
        "depthwise_conv2d 30x48x5->15x24x5 k3x3 s2x2 same none int8",
        "depthwise_conv2d 25x33x5->25x33x5 k5x5 s1x1 same none int8",
        "depthwise_conv2d 40x60x4->38x58x4 k3x3 s1x1 valid relu6 int8",
        "depthwise_conv2d 1x90x6->1x90x6 k1x3 s1x1 same none int8",
    )
    graphs = [operator_model(Operator.parse(signature)) for signature in signatures]
    for graph in graphs:
        (operator,) = read_program(write_program(graph)).operators
        assert operator.input == operator.output
    check(virtual, graphs, 3)


def test_a_count_does_not_depend_on_what_ran_before(virtual: BoardLink) -> None:
    """The model counts fractions of cycles and the counter whole ones: a run starts anew from a whole one."""
    op = Operator.parse("max_pool 4x4x4->2x2x4 k2x2 s2x2 valid none int8")
    graphs = [
        _any_graph(),
        operator_model(op),
        operator_model(Operator.parse("fully_connected 7->5 none int8")),
    ]
    programs = [write_program(graph) for graph in graphs]
    image, offsets = packed(programs)
    virtual.write_slot(0, image)
    seen: list[dict[int, tuple[RunResult, tuple[int, ...]]]] = []
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 2, 0, 0)):
        virtual.reset()
        seen.append({})
        for number in order:
            virtual.open_model(offsets[number], len(programs[number]))
            virtual.fill_input(1)
            result = virtual.run(0, 5, operators=True)
            assert len(set(result.ticks)) == 1
            seen[-1][number] = result, virtual.operator_ticks()
    assert seen[0] == seen[1] == seen[2]


def test_damaged_programs_are_refused(host: BoardLink) -> None:
    program = write_program(_any_graph())
    for at in range(0, len(program), max(1, len(program) // 40)):
        damaged = bytearray(program)
        damaged[at] ^= 0x10
        host.write_slot(0, bytes(damaged))
        with pytest.raises(Refused) as error:
            host.open_model(0, len(program))
        assert error.value.status in (Status.BAD_MODEL, Status.WRONG_VERSION, Status.UNSUPPORTED)
    host.write_slot(0, program)
    with pytest.raises(Refused):
        host.open_model(0, len(program) - 16)
    assert host.open_model(0, len(program)).operators >= 1


def _any_graph() -> Graph:
    found: list[Graph] = []

    @settings(max_examples=1, derandomize=True, database=None, deadline=None)
    @given(int8_graphs(max_blocks=2, extreme=False))
    def draw(graph: Graph) -> None:
        found.append(graph)

    draw()
    return found[0]
