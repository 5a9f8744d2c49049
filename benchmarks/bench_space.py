"""Seconds from nothing to the operator table of the ConNAS space (1.94 billion architectures; aim: under 20 s).

One torch thread.

Run: python benchmarks/bench_space.py
"""

from __future__ import annotations

import time

import torch

from toolchain.spaces import ConNAS1d, Image2d, Space


def measure(space: Space) -> None:
    """Print counts and times for one space."""
    begin = time.perf_counter()
    count = space.count()
    counted = time.perf_counter()
    chain = space.chain("int8")
    done = time.perf_counter()
    arcs = sum(len(layer) for layer in chain.arcs)
    print(
        f"{space.name:10} {count:>16,} architectures  {arcs:>5} arcs  {len(chain.operators):>4} distinct operators  "
        f"count {counted - begin:5.2f} s  chain {done - counted:5.2f} s  total {done - begin:5.2f} s"
    )


def main() -> None:
    """Measure the two built-in spaces."""
    torch.set_num_threads(1)
    for space in (ConNAS1d(), Image2d(), Image2d((1, 32, 32)), Image2d((3, 96, 96))):
        measure(space)


if __name__ == "__main__":
    main()
