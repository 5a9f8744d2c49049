"""Condition monitoring: time of the full data set, and the hand-crafted models as the paper counts and as deployed.

    python benchmarks/bench_motor.py [--size full] [--processes 2]

The accuracies are `examples/motor/table.py`'s.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "motor"))
import deploy
import searches
import simulator

from profilers.counts import graph_costs
from toolchain.spaces import ConNAS1d
from toolchain.spaces.connas1d import count_within, hand_crafted, paper_tables


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Figures of the motor example.")
    parser.add_argument("--size", choices=simulator.SIZES, default="full")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    arrays = simulator.dataset(options.size, 0, options.processes)
    windows = sum(len(arrays[f"y_{s}"]) for s in simulator.SPLITS)
    seconds = time.monotonic() - started
    # A shared machine's clock says little; what the work took of its cores says more.
    of_cores = sum(
        resource.getrusage(who).ru_utime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(
        f"{windows:,} windows in {seconds:.0f} s, {options.processes} processes; {of_cores:.0f} s of processor time"
    )
    shares = np.bincount(arrays["y_test"]) / len(arrays["y_test"])
    print("classes of the test split:", ", ".join(f"{100 * s:.1f} %" for s in shares))

    space = ConNAS1d()
    print(f"\n{'model':16} {'params':>10} {'bytes':>11} {'peak':>8} | int8: {'file':>10} {'arena':>8}")
    for name, architecture in hand_crafted(space).items():
        size = paper_tables(space, architecture)
        costs = graph_costs(deploy.untrained(space.encode(architecture)))
        print(f"{name:16} {size.params:>10,} {size.weight_bytes:>11,} {size.peak_bytes:>8,} |       "
              f"{costs['flash_bytes']:>10,} {costs['ram_bytes']:>8,}")  # fmt: skip
    print()
    for name, bounds in searches.CONSTRAINTS.items():
        print(f"{name}: {count_within(space, *bounds):,} of {space.count():,} networks keep it")


if __name__ == "__main__":
    main()
