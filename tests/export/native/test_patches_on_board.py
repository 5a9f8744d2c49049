"""A network whose first maps are larger than a part's RAM: patch by patch it runs there, as predicted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("unicorn", reason="the emulator is not installed")
pytest.importorskip("elftools", reason="pyelftools is not installed")

from profilers.single import CONSTANT_NETWORKS, constant_models, operator_model
from targets.mcu.board import load_board
from targets.mcu.build import DoesNotFitError, Firmware, board_sources, build_program
from targets.mcu.session import open_session
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from targets.session import Job
from tests.export.native.test_too_large import MAIN
from tests.random_graphs import random_inputs
from tests.targets.mcu.virtual.firmware import any_compiler
from toolchain.export.native.c_project import write_c_project
from toolchain.export.native.footprint import arena_bytes, program_bytes
from toolchain.export.native.plan import Plan, choose_plan
from toolchain.export.native.writer import write_program
from toolchain.graph import Graph, GraphBuilder
from toolchain.graph.integer_reference import run_int8
from toolchain.quantize import quantize

NAME = "nucleo-f446re"  # 128 kB of RAM


def network() -> Graph:
    """147 kB of activations behind its first layer, 14 kB in its last ones. Quantised as networks are: what a kernel
    takes depends a little on zero points."""
    rng, b = np.random.default_rng(1), GraphBuilder()

    def layer(kind: str, x: str, channels: int, kernel: int, stride: int) -> str:
        size = b.shape(x)[3]
        shape = (channels, kernel, kernel, size) if kind == "conv2d" else (1, kernel, kernel, size)
        weights = rng.normal(0, (kernel * kernel * (size if kind == "conv2d" else 1)) ** -0.5, shape)
        return getattr(b, kind)(
            x, weights.astype(np.float32), rng.normal(0, 0.1, channels).astype(np.float32),
            stride=(stride, stride), padding="same", activation="relu",
        )  # fmt: skip

    image = b.input((1, 96, 96, 3))
    x = layer("depthwise_conv2d", layer("conv2d", image, 16, 3, 1), 16, 3, 1)
    x = layer("depthwise_conv2d", layer("conv2d", x, 24, 3, 2), 24, 5, 2)
    x = layer("conv2d", x, 24, 1, 1)
    x = b.binary("add", x, layer("conv2d", x, 24, 3, 1))
    graph = b.build(b.reshape(b.pool("average_pool", x, (24, 24)), (1, 24)))
    return quantize(graph, rng.normal(size=(2, 96, 96, 3)).astype(np.float32))


@pytest.fixture(scope="module")
def compiler() -> None:
    any_compiler()


def test_it_runs_where_it_would_not_fit(compiler: None) -> None:
    graph = network()
    (x,) = random_inputs(graph, 1, 4)
    with open_session(f"virtual:{NAME}") as session:
        device = session.device
        assert device is not None
        [whole] = session.measure([Job("whole", write_program(graph))])
        assert f"at least {arena_bytes(graph)} bytes of RAM" in whole.failure
        plan = choose_plan(graph, flash_bytes=device.slot_bytes, ram_bytes=device.arena_bytes)
        assert plan.patches is not None
        program, arena = write_program(graph, plan=plan), arena_bytes(graph, plan=plan)
        assert len(program) == program_bytes(graph, plan=plan)
        assert arena <= device.arena_bytes < arena_bytes(graph)
        assert (session.run(program, x) == run_int8(graph, x)).all()

        rows = {"model": program}
        rows |= {name: write_program(one) for name, one in constant_models().items()}
        for op in plan.operators(graph):
            one = Plan(frozenset({0} if op.algorithm == "winograd" else ()))
            rows[op.signature] = write_program(operator_model(replace(op, algorithm="direct")), plan=one)
        values = {}
        for result in session.measure([Job(name, data) for name, data in rows.items()]):
            assert result.measurement is not None, result.failure
            values[result.key] = result.measurement.value
            if result.key == "model":
                assert result.measurement.details["arena_bytes"] == str(arena)
    once, twice = (values[name] for name in CONSTANT_NETWORKS)
    constant = 2 * once - twice
    predicted = constant + sum(values[op.signature] - constant for op in plan.operators(graph))
    assert predicted == pytest.approx(values["model"], rel=0.02)


@pytest.mark.parametrize("name", ["gcc", "zig"])
def test_its_c_project_does_too(compiler: None, tmp_path: Path, name: str) -> None:
    if name == "zig":
        pytest.importorskip("ziglang")
    elif shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    graph, board = network(), load_board(NAME)
    plan = choose_plan(graph, ram_bytes=80_000)
    assert plan.patches is not None
    folders = {"whole": Plan(), "patches": plan}

    def linked(kind: str) -> Firmware:
        folder = tmp_path / kind
        write_c_project(graph, folder, plan=folders[kind])
        (folder / "main.c").write_text(MAIN)
        sources = [*sorted(folder.rglob("*.c")), *board_sources(board)]
        return build_program(board, sources, includes=[folder], compiler=name, cache=folder / "cache")

    with pytest.raises(DoesNotFitError):
        linked("whole")
    machine = VirtualMachine(part_of(board), linked("patches").elf, wall_limit_s=60)
    said = b""
    while len(said) < 24:
        said += machine.read(24, timeout=1.0)
    assert said == b"y" * 24
