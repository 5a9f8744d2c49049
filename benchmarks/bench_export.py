"""Seconds from a torch module to model files, with torch's own ONNX exporter as the peer in the same run.

    python benchmarks/bench_export.py [--repeat 5] [--json FILE]

Five small trained nets (residual, inverted residual, squeeze-excite, depthwise separable, 1-D): lowering, int8
quantisation with 64 calibration samples, writing both TFLite files, torch.onnx.export; and one-operator files, as
profiling writes them by the hundreds. Host wall time, the fastest of the repeats.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the nets are those of the tests

from profilers.single import operator_model
from tests.nets import NETS, nhwc
from toolchain.export.onnx_writer import write_onnx
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph.lower import lower
from toolchain.quantize import quantize


def best_ms(repeat: int, work: Callable[[], object]) -> float:
    """Milliseconds of the fastest run."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = ("lower", "quantise", "write float", "write int8", "torch.onnx.export")
    print(
        f"{'milliseconds':<12}"
        + "".join(f"{c:>19}" for c in columns)
        + f"{'int8 bytes':>12}{'operators':>11}"
    )
    figures: dict[str, dict[str, float]] = {}
    distinct = {}
    for name, net in NETS.items():
        module = net.build().eval()
        graph = lower(module, net.input_shape)
        samples = nhwc(torch.randn(64, *net.input_shape).numpy())
        int8 = quantize(graph, samples)
        distinct.update(dict.fromkeys(int8.operators))
        found = {
            "lower": best_ms(arguments.repeat, partial(lower, module, net.input_shape)),
            "quantise": best_ms(arguments.repeat, partial(quantize, graph, samples)),
            "write float": best_ms(arguments.repeat, partial(write_tflite, graph)),
            "write int8": best_ms(arguments.repeat, partial(write_tflite, int8)),
            "torch.onnx.export": best_ms(1, partial(write_onnx, module, net.input_shape)),
        }
        size = len(write_tflite(int8))
        print(
            f"{name:<12}"
            + "".join(f"{found[c]:>19.1f}" for c in columns)
            + f"{size:>12,}{len(int8.nodes):>11}"
        )
        figures[name] = {**found, "int8_bytes": size, "operators": len(int8.nodes)}
    operators = list(distinct)
    begin = time.perf_counter()
    for op in operators:
        write_tflite(operator_model(op))
    each = (time.perf_counter() - begin) / len(operators) * 1e3
    print(f"one-operator int8 files: {each:.2f} ms each ({len(operators)} distinct operators)")
    figures["one_operator"] = {"ms": each, "operators": len(operators)}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
