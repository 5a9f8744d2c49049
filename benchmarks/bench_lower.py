"""How long lowering takes: an inverted-residual block (aim: under 20 ms) and whole networks, 20 warm runs each."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.nets import NETS, InvertedResidual
from toolchain.graph.lower import lower


def measure(name: str, module: nn.Module, shape: tuple[int, ...]) -> None:
    """Print the median and the least of 20 runs, wall clock and processor time of this process."""
    lower(module, shape)
    wall, cpu = [], []
    for _ in range(20):
        start = time.perf_counter(), time.process_time()
        lower(module, shape)
        wall.append(1e3 * (time.perf_counter() - start[0]))
        cpu.append(1e3 * (time.process_time() - start[1]))
    print(
        f"{name:24} median {statistics.median(wall):6.2f} ms, least {min(wall):6.2f} ms, "
        f"processor {statistics.median(cpu):6.2f} ms"
    )


def main() -> None:
    torch.set_num_threads(1)
    measure(
        "inverted residual block", InvertedResidual(16, 16, 1, 4, 3, nn.ReLU6, squeeze=False), (16, 32, 32)
    )
    for name, net in NETS.items():
        measure(name, net.build(), net.input_shape)


if __name__ == "__main__":
    main()
