"""Arena of whole networks on a Cortex-M4: without kernels that work in place, with them, and patch by patch.

For each network and several RAM limits `choose_plan` picks a plan with the cycles of its operators, each measured alone
on the board (a patch's too); then the plan's program runs. Printed are the bytes, which were predicted and which the
device counts, the cycles, and how far the sum of operators is from them. Every output is compared with the integer
reference. Cycles are estimated: core cycles at zero wait states in an emulator (docs/virtual-board.md), no hardware.

MLPerf Tiny's networks need BOARDFIT_DATA, a folder with them; the others are of boardfit's MobileNet space, with random
weights, which change neither cycles nor bytes.
Usage: python benchmarks/bench_ram.py [gcc|zig]
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bench_kernels import virtual_board
from profilers.single import CONSTANT_NETWORKS, constant_models, operator_inputs, operator_model
from targets.mcu.link import BoardLink
from toolchain.export.native.footprint import arena_bytes, program_bytes
from toolchain.export.native.plan import DIRECT, Plan, choose_plan
from toolchain.export.native.weights import algorithms
from toolchain.export.native.writer import write_program
from toolchain.graph import Graph, Operator
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.lower import lower
from toolchain.graph.memory import plan_native
from toolchain.graph.operator import WEIGHTED, Algorithm
from toolchain.graph.tflite_reader import read_tflite
from toolchain.quantize import quantize
from toolchain.spaces.mobilenet import Mobilenet

SHARES = (0.8, 0.7, 0.6, 0.5, 0.4)  # of the arena without patches: the limits


class Board:
    """A virtual board with a table of operators that fills when it is asked."""

    def __init__(self, compiler: str) -> None:
        self.link: BoardLink = virtual_board(compiler)
        self.rows: dict[Operator, int] = {}
        one, two = (
            self.run(graph, DIRECT)[0] for graph in map(constant_models().__getitem__, CONSTANT_NETWORKS)
        )
        self.constant = 2 * one - two

    def run(self, graph: Graph, plan: Plan) -> tuple[int, int]:
        """Cycles and the arena that the device says, of a run that was compared with the reference."""
        program = write_program(graph, plan=plan)
        self.link.write_slot(0, program)
        info = self.link.open_model(0, len(program))
        inputs = [np.asarray(x, np.int8) for x in operator_inputs(graph)]
        for index, x in enumerate(inputs):
            self.link.set_input(x.tobytes(), index)
        cycles = self.link.run(0, 1).min_ticks
        if b"".join(self.link.outputs()) != run_int8(graph, *inputs).tobytes():
            raise SystemExit("an output differs from the reference")
        return cycles, info.arena_bytes

    def row(self, op: Operator) -> int:
        """Cycles of an operator alone, its algorithm included, without the runtime's constant."""
        if op not in self.rows:
            plan = Plan(frozenset({0} if op.algorithm == "winograd" else ()))
            self.rows[op] = self.run(operator_model(replace(op, algorithm="direct")), plan)[0] - self.constant
        return self.rows[op]


def networks() -> Iterator[tuple[str, Graph]]:
    folder = os.environ.get("BOARDFIT_DATA")
    for name, title in (("ic01_resnet8_int8", "ResNet8"), ("kws01_dscnn_int8", "DS-CNN")):
        if folder:
            [path] = Path(folder).rglob(f"{name}.tflite")
            yield title, read_tflite(path.read_bytes())
    for size, gates in ((64, True), (96, True), (96, False)):
        space = Mobilenet(
            input_shape=(3, size, size),
            widths=(16, 24, 40, 64),
            strides=(2, 2, 2, 1),
            depth=2,
            stem_channels=8,
        )
        name = "e6k3se" if gates else "e6k3"
        architecture = tuple([c.name for c in choice.candidates].index(name) for choice in space.choices)
        torch.manual_seed(0)
        graph = lower(space.module(architecture).eval(), space.input_shape)
        shape = (4, *graph.tensors[graph.inputs[0]].shape[1:])
        title = f"MobileNet {size}x{size}{'' if gates else ', no gates'}"
        yield title, quantize(graph, np.random.default_rng(0).normal(size=shape).astype(np.float32))


def apart(graph: Graph) -> int:
    """The arena if no kernel worked in place."""
    from toolchain.export.native.footprint import scratch_bytes

    return plan_native(graph, {i: scratch_bytes(n.operator) for i, n in enumerate(graph.nodes)}).arena_bytes


def every_algorithm(graph: Graph) -> list[Plan]:
    """Plans that together have every operator of a graph under each of its algorithms."""
    winograd = frozenset(i for i, node in enumerate(graph.nodes) if "winograd" in ways(node.operator))
    return [DIRECT, Plan(winograd)]


def ways(op: Operator) -> tuple[Algorithm, ...]:
    return algorithms(op, "dsp") if op.kind in WEIGHTED else ("direct",)


def main(compiler: str) -> None:
    """Print a row per network and limit."""
    board = Board(compiler)
    print(f"core cycles at 0 wait states, estimated, {compiler}; errors are of the sum of operators")
    print(
        f"{'network, limit':36} {'plan':42} {'arena B':>8} {'program B':>9} {'cycles':>12} {'more':>7} {'error':>7}"
    )
    for name, graph in networks():
        print(f"{name}, nothing in place{'':70}"[:79], f"{apart(graph):>8}")
        for way in every_algorithm(graph):
            for op in way.operators(graph):
                board.row(op)
        least = None
        seen: set[str] = set()
        for limit in (None, *(int(share * arena_bytes(graph)) for share in SHARES)):

            def rows(op: Operator, algorithm: Algorithm) -> float:
                return board.rows.get(replace(op, algorithm=algorithm), math.inf)

            plan = choose_plan(graph, ram_bytes=limit, cycles=rows)
            # Thousands of patches are thought of: those of the best plan are measured, until nothing better is thought.
            while missing := set(plan.operators(graph)) - board.rows.keys():
                for op in missing:
                    board.row(op)
                plan = choose_plan(graph, ram_bytes=limit, cycles=rows)
            arena, program = arena_bytes(graph, plan=plan), program_bytes(graph, plan=plan)
            title = f"{name}, {'no limit' if limit is None else limit}"
            if limit is not None and arena > limit:
                print(f"{title:36} does not fit")
                continue
            words = f"winograd {len(plan.winograd)}" if plan.winograd else "direct"
            if plan.patches:
                words += f", {plan.patches.nodes} nodes in patches of {plan.patches.rows} rows"
            if words in seen:
                continue
            seen.add(words)
            cycles, counted = board.run(graph, plan)
            predicted = sum(map(board.row, plan.operators(graph))) + board.constant
            if counted != arena or program != len(write_program(graph, plan=plan)):
                raise SystemExit(f"{title}: the device counts {counted} bytes, the plan {arena}")
            least = least or cycles
            more, error = 100 * (cycles / least - 1), 100 * (predicted / cycles - 1)
            print(f"{title:36} {words:42} {arena:>8} {program:>9} {cycles:>12,} {more:>6.1f}% {error:>6.2f}%")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["gcc"]))
