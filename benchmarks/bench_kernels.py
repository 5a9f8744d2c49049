"""Cycles per MAC of the weighted kernels on a Cortex-M4, for the layers of ResNet8, DS-CNN and the autoencoder.

Estimated: an emulator runs the compiled kernels and counts by the core's instruction table at zero wait states
(targets/mcu/virtual/cycles.py); no hardware is used. Every output is compared with the integer reference.
The column tflm is the same layer in a user's TensorFlow Lite Micro (docs/tflm-runtime.md), where one is named.
Usage: python benchmarks/bench_kernels.py [gcc|zig ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from profilers.single import operator_inputs, operator_model
from targets.mcu.tflm import find_library
from tests.firmware.tflm_board import TflmBoard, differing
from tests.firmware.weighted import layer_of
from tests.firmware.weighted_core import Core
from toolchain.export.native.layout import Isa
from toolchain.export.native.weights import weighted_footprint
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Operator
from toolchain.graph.integer_reference import run_int8

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
        "depthwise_conv2d 1x128x32->1x128x32 k1x9 s1x1 same relu int8",
        "fully_connected 640->128 relu int8",
        "fully_connected 128->128 relu int8",
    ),
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
        columns = [*cores, *(["tflm"] if peer else [])]
        print(
            f"{'layer':72} {'MAC':>9} {'scratch B':>9}",
            *(f"{n + ' cyc':>10} {'cyc/MAC':>8}" for n in columns),
        )
        for network, signatures in LAYERS.items():
            print(network)
            for signature in signatures:
                op = Operator.parse(signature)
                graph = operator_model(op)
                layer = layer_of(graph)
                (x,) = operator_inputs(graph)
                expected = run_int8(graph, x)
                words = []
                for core in cores.values():
                    got = core.run(layer, isa, x, count=True)
                    if (got != expected).any():
                        raise SystemExit(f"{signature}: differs from the reference")
                    words.append(f"{core.cycles:>10} {core.cycles / op.macs:>8.3f}")
                if peer:
                    model = write_tflite(graph)
                    (ticks,) = peer.time(model)[2]
                    words.append(f"{ticks:>10} {ticks / op.macs:>8.3f}")
                    count, largest = differing(peer, model, expected, x)
                    words += [f"{count} outputs differ by up to {largest}"] if count else []
                print(f"{signature:72} {op.macs:>9} {weighted_footprint(op, isa).scratch_bytes:>9}", *words)


if __name__ == "__main__":
    main(sys.argv[1:] or ["gcc", "zig"])
