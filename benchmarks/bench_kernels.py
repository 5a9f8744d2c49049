"""Cycles of the kernels on a Cortex-M4: per MAC for the layers of ResNet8, DS-CNN and others, and of whole networks.

Estimated: an emulator runs the compiled kernels and counts by the core's instruction table at zero wait states
(targets/mcu/virtual/cycles.py); no hardware is used. Every output is compared with the integer reference.
A 3x3 convolution with stride 1 has a second row, by Winograd's algorithm. Whole networks are MLPerf Tiny's, where
BOARDFIT_DATA names a folder with them: direct, with every convolution by Winograd that offers it, and as `choose_plan`
has it; with bytes of program and arena. `code B` is the code that a run enters. Operators without weights have cycles
per output; a Cortex-M0+ counts instructions. `goal` is the most cycles per MAC (of a network: cycles) that issue 7
allows, and whether every compiler's build keeps it; a line's goal is 1.1 times the figure of the square window above
it, which has equal K (window x input channels), output channels and pixels. The column tflm is the same layer or
network in a user's TensorFlow Lite Micro (docs/tflm-runtime.md), where one is named.
Usage: python benchmarks/bench_kernels.py [gcc|zig ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from profilers.single import operator_inputs, operator_model
from targets.mcu.board import load_board
from targets.mcu.build import build_firmware
from targets.mcu.link import BoardLink
from targets.mcu.port import SerialPort
from targets.mcu.tflm import find_library
from targets.mcu.virtual.machine import VirtualMachine
from targets.mcu.virtual.part import part_of
from targets.mcu.virtual.protocol_virtual import VirtualSerial
from tests.firmware.tflm_board import BOARD, TflmBoard, differing
from tests.firmware.weighted import layer_of
from tests.firmware.weighted_core import Core
from toolchain.export.native.footprint import arena_bytes
from toolchain.export.native.layout import Isa
from toolchain.export.native.pieces import Where, pieces_of
from toolchain.export.native.plan import DIRECT, Plan, choose_plan
from toolchain.export.native.weights import algorithms, weighted_footprint
from toolchain.export.native.writer import write_program
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Graph, Operator
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.operator import WEIGHTED
from toolchain.graph.tflite_reader import read_tflite

LAYERS = {
    "ResNet8": (
        "conv2d 32x32x3->32x32x16 k3x3 s1x1 same relu int8",
        "conv2d 32x32x16->32x32x16 k3x3 s1x1 same relu int8",
        "conv2d 32x32x16->32x32x16 k3x3 s1x1 same none int8",
        "conv2d 32x32x16->16x16x32 k3x3 s2x2 same relu int8",
        "conv2d 16x16x32->16x16x32 k3x3 s1x1 same none int8",
        "conv2d 32x32x16->16x16x32 k1x1 s2x2 same none int8",
        "conv2d 16x16x32->8x8x64 k3x3 s2x2 same relu int8",
        "conv2d 8x8x64->8x8x64 k3x3 s1x1 same none int8",
        "conv2d 16x16x32->8x8x64 k1x1 s2x2 same none int8",
        "fully_connected 64->10 none int8",
    ),
    "DS-CNN": (
        "conv2d 49x10x1->25x5x64 k10x4 s2x2 same relu int8",
        "depthwise_conv2d 25x5x64->25x5x64 k3x3 s1x1 same relu int8",
        "conv2d 25x5x64->25x5x64 k1x1 s1x1 same relu int8",
        "fully_connected 64->12 none int8",
    ),
    "others": (
        "depthwise_conv2d 48x48x8->48x48x8 k3x3 s1x1 same relu6 int8",
        "depthwise_conv2d 48x48x16->24x24x16 k3x3 s2x2 same relu6 int8",
        "depthwise_conv2d 12x12x64->12x12x64 k5x5 s1x1 same none int8",
        "conv2d 1x128x16->1x128x32 k1x3 s1x1 same relu int8",
        "depthwise_conv2d 1x256x32->1x256x32 k1x3 s1x1 same relu int8",
        "depthwise_conv2d 1x256x32->1x128x32 k1x3 s1x2 same relu int8",
        "depthwise_conv2d 1x128x32->1x128x32 k1x9 s1x1 same relu int8",
        "fully_connected 640->128 relu int8",
        "fully_connected 128->128 relu int8",
    ),
}

WIDE = (
    "conv2d 8x16x128->8x16x64 k1x1 s1x1 same relu int8",
    "conv2d 8x8x256->8x8x64 k1x1 s1x1 same none int8",
)
# A window of several rows -> windows along a line with equal K, output channels and pixels: the sizes of the 1-D space.
LINES = {
    "conv2d 8x16x4->8x16x32 k3x4 s1x1 same relu int8": (
        "conv2d 1x128x16->1x128x32 k1x3 s1x1 same relu int8",
    ),
    "conv2d 8x16x16->8x16x32 k3x3 s1x1 same relu int8": (
        "conv2d 1x128x48->1x128x32 k1x3 s1x1 same relu int8",
        "conv2d 1x128x16->1x128x32 k1x9 s1x1 same relu int8",
        "conv2d 128x1x48->128x1x32 k3x1 s1x1 same relu int8",
        "conv2d 1x256x48->1x128x32 k1x3 s1x2 same relu int8",
    ),
    "conv2d 8x16x20->8x16x32 k3x3 s1x1 same relu int8": (
        "conv2d 1x128x36->1x128x32 k1x5 s1x1 same relu int8",
    ),
    "conv2d 8x16x28->8x16x32 k3x3 s1x1 same relu int8": (
        "conv2d 1x128x36->1x128x32 k1x7 s1x1 same relu int8",
    ),
}
LINE_FACTOR = 1.1
NETWORK_GOALS = {
    ("ic01_resnet8_int8", "direct"): 16.7e6,
    ("ic01_resnet8_int8", "winograd"): 11.1e6,
    ("kws01_dscnn_int8", "direct"): 4.0e6,
}


def goal_of(op: Operator, algorithm: str) -> float | None:
    """Most cycles per MAC that issue 7 allows an operator; None where it names none."""
    channels = op.inputs[0][-1]
    if op.kind == "fully_connected":
        return 1.7 if op.output[-1] >= 64 else None
    if op.stride != (1, 1):
        return None
    if op.kind == "depthwise_conv2d":
        return 2.2 if op.kernel == (3, 3) else None
    if op.kernel == (1, 1):
        return 1.3 if channels >= 128 else 1.4 if channels == 64 else None
    if op.kernel != (3, 3) or channels < 16:
        return None
    return {16: 0.75, 32: 0.66, 64: 0.60}.get(channels) if algorithm == "winograd" else 1.3


def verdict(figures: list[float], goal: float | None) -> str:
    """The columns goal and met or missed."""
    return (
        f"{'':>6} {'':>6}"
        if goal is None
        else f"{goal:>6.3f} {'met' if max(figures) <= goal else 'missed':>6}"
    )


PLAIN_BOARD = "nucleo-g071rb"
PLAIN_LAYERS = (
    "conv2d 1x128x16->1x128x32 k1x3 s1x1 same relu int8",
    "conv2d 8x8x64->8x8x64 k1x1 s1x1 same relu int8",
    "depthwise_conv2d 1x256x32->1x256x32 k1x3 s1x1 same relu int8",
    "depthwise_conv2d 25x5x64->25x5x64 k3x3 s1x1 same relu int8",
    "depthwise_conv2d 16x16x8->16x16x8 k3x3 s1x1 same relu int8",
    "fully_connected 128->128 relu int8",
)
WITHOUT_WEIGHTS = {
    "add 32x32x16,32x32x16->32x32x16 relu int8": "bf_add",
    "mul 8x8x16,8x8x16->8x8x16 none int8": "bf_mul",
    "average_pool 25x5x64->1x1x64 k25x5 s25x5 valid none int8": "bf_average_pool",
    "average_pool 16x16x16->8x8x16 k2x2 s2x2 valid none int8": "bf_average_pool",
    "max_pool 16x16x16->8x8x16 k2x2 s2x2 valid none int8": "bf_max_pool",
}


def main(compilers: list[str], isa: Isa = "dsp") -> None:
    """Print a row per layer and compiler."""
    with tempfile.TemporaryDirectory() as folder:
        cores = {name: Core(Path(folder), name) for name in compilers}
        for name, core in cores.items():
            print(
                f"{name}: {core.name} -O2, code {sum(core.code_bytes.values())} B; "
                "core cycles at 0 wait states (estimated)"
            )
        library = find_library({})
        peer = TflmBoard(library, core=True) if library else None
        if peer:
            print(f"tflm: {peer.link.board.engine_version}, as its makefile compiles it")
        print(
            f"{'layer':72} {'MAC':>9} {'scratch B':>9} {'code B':>7}",
            *(f"{n + ' cyc':>10} {'cyc/MAC':>8}" for n in cores),
            f"{'goal':>6} {'':>6}",
            f"{'tflm cyc':>10} {'cyc/MAC':>8}" if peer else "",
        )
        for network, signatures in {**LAYERS, "1x1, many channels": WIDE}.items():
            print(network)
            for signature in signatures:
                layer_rows(signature, cores, isa, peer)
        for square, lines in LINES.items():
            print("equal K")
            most = LINE_FACTOR * max(layer_rows(square, cores, isa, peer))
            for signature in lines:
                layer_rows(signature, cores, isa, peer, most)
        others(cores)
        plain({name: Core(Path(folder), name, board=PLAIN_BOARD) for name in compilers})
        networks(compilers, isa, peer)


def layer_rows(
    signature: str, cores: dict[str, Core], isa: Isa, peer: TflmBoard | None, goal: float | None = None
) -> list[float]:
    """Print a row for each algorithm of a layer; cycles per MAC of the direct one, a compiler each."""
    op = Operator.parse(signature)
    graph = operator_model(op)
    (x,) = operator_inputs(graph)
    expected = run_int8(graph, x)
    direct: list[float] = []
    for algorithm in algorithms(op, isa):
        layer, words, figures, code = layer_of(graph, algorithm), [], [], 0
        for core in cores.values():
            got = core.run(layer, isa, x, count=True)
            if (got != expected).any():
                raise SystemExit(f"{signature} {algorithm}: differs from the reference")
            figures.append(core.cycles / op.macs)
            words.append(f"{core.cycles:>10} {figures[-1]:>8.3f}")
            code = code or core.ran_bytes()
        direct = direct or figures
        words.append(verdict(figures, goal if goal and algorithm == "direct" else goal_of(op, algorithm)))
        if peer and algorithm == "direct":
            model = write_tflite(graph)
            (ticks,) = peer.time(model)[2]
            words.append(f"{ticks:>10} {ticks / op.macs:>8.3f}")
            count, largest = differing(peer, model, expected, x)
            words += [f"{count} outputs differ by up to {largest}"] if count else []
        name = signature if algorithm == "direct" else f"{signature}, {algorithm}"
        scratch = weighted_footprint(op, isa, algorithm).scratch_bytes
        print(f"{name:72} {op.macs:>9} {scratch:>9} {code:>7}", *words)
    return direct


def plain(cores: dict[str, Core]) -> None:
    """Print a row per layer on a core without the DSP extension: instructions, as its timing is not validated."""
    print(
        f"{PLAIN_BOARD}, {'plain kernels: instructions':56} {'MAC':>9} {'':>9} {'':>7}",
        *(f"{n:>10} {'/ MAC':>8}" for n in cores),
    )
    for signature in PLAIN_LAYERS:
        op = Operator.parse(signature)
        graph = operator_model(op)
        (x,) = operator_inputs(graph)
        words = []
        for core in cores.values():
            got = core.run(layer_of(graph), "plain", x, count=True)
            if (got != run_int8(graph, x)).any():
                raise SystemExit(f"{signature}: differs from the reference")
            words.append(f"{core.instructions:>10} {core.instructions / op.macs:>8.3f}")
        print(f"{signature:72} {op.macs:>9} {'':>9} {'':>7}", *words)


def others(cores: dict[str, Core]) -> None:
    """Print a row per operator without weights: cycles per output."""
    print(
        f"{'without weights':72} {'outputs':>9} {'':>9} {'code B':>7}",
        *(f"{n + ' cyc':>10} {'cyc/out':>8}" for n in cores),
    )
    for signature, function in WITHOUT_WEIGHTS.items():
        op = Operator.parse(signature)
        graph = operator_model(op)
        values = operator_inputs(graph)
        expected, words, code = run_int8(graph, *values), [], 0
        (piece,) = pieces_of(graph, 0, graph.nodes[0])
        named = dict(zip(graph.nodes[0].inputs, values, strict=True))
        inputs = [named[name].tobytes() for name in piece.inputs]
        for core in cores.values():
            head = piece.descriptor(Where(0, 0, 0, 0), 0)
            got = core.call(function, (head, *inputs, expected.size), count=True)[-1]
            if got != expected.tobytes():
                raise SystemExit(f"{signature}: differs from the reference")
            words.append(f"{core.cycles:>10} {core.cycles / expected.size:>8.3f}")
            code = code or core.ran_bytes()
        print(f"{signature:72} {expected.size:>9} {'':>9} {code:>7}", *words)


def networks(compilers: list[str], isa: Isa, peer: TflmBoard | None) -> None:
    """Print a row per network, plan and compiler; the output of every run is compared with the reference."""
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder:
        print("BOARDFIT_DATA is not set: no whole networks")
        return
    print(f"{'whole network':24} {'plan':24} {'program B':>9} {'arena B':>9}", "cycles")
    for name in ("ic01_resnet8_int8", "kws01_dscnn_int8"):
        [path] = Path(folder).rglob(f"{name}.tflite")
        graph = read_tflite(path.read_bytes())
        shape = graph.tensors[graph.inputs[0]].shape
        x = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
        expected = run_int8(graph, x).tobytes()
        for title, plan in plans(graph, isa).items():
            program = write_program(graph, isa, plan=plan)
            cycles = []
            for compiler in compilers:
                link = virtual_board(compiler)
                link.write_slot(0, program)
                link.open_model(0, len(program))
                link.set_input(x.tobytes(), 0)
                cycles.append(link.run(0, 1).min_ticks)
                if b"".join(link.outputs()) != expected:
                    raise SystemExit(f"{name}, {title}: differs from the reference")
            words = " ".join(
                f"{compiler} {count:,}" for compiler, count in zip(compilers, cycles, strict=True)
            )
            most = NETWORK_GOALS.get((name, title))
            kept = "" if most is None else f"goal {most:,.0f} {'met' if max(cycles) <= most else 'missed'}"
            print(
                f"{name:24} {title:24} {len(program):>9} {arena_bytes(graph, isa, plan=plan):>9}", words, kept
            )
        if peer:
            print(
                f"{name:24} {'tflm':24} {path.stat().st_size:>9} {'':>9}",
                f"{peer.time(path.read_bytes())[1].min_ticks:,}",
            )


def plans(graph: Graph, isa: Isa) -> dict[str, Plan]:
    """Name -> plan, without equal ones."""
    every = frozenset(
        index
        for index, node in enumerate(graph.nodes)
        if node.operator.kind in WEIGHTED and len(algorithms(node.operator, isa)) > 1
    )
    found = {"direct": DIRECT, "winograd": Plan(every), "chosen without limits": choose_plan(graph, isa)}
    return {
        name: plan
        for name, plan in found.items()
        if plan not in list(found.values())[: list(found).index(name)]
    }


def virtual_board(compiler: str) -> BoardLink:
    """A board whose ticks are core cycles at zero wait states."""
    part = part_of(load_board(BOARD))
    assert part.model is not None
    part = replace(part, model=replace(part.model, k=1.0, a=0.0))
    machine = VirtualMachine(part, build_firmware(BOARD, compiler=compiler).elf)
    url = f"virtual:{BOARD}"
    return BoardLink(SerialPort(url, VirtualSerial(url, machine=machine, timeout=0.02)))


if __name__ == "__main__":
    main(sys.argv[1:] or ["gcc", "zig"])
