"""How well the table of a board predicts whole networks: cycles, flash and RAM, on a virtual board by default.

    python benchmarks/bench_board.py [--target virtual:nucleo-l4r5zi] [--networks 50] [--space NAME|all] [--json FILE]

Measures every operator of a space alone, by each of its algorithms, and random whole networks of it under the fastest
plans that the part has room for; foretells the networks from the table (sum of the operators' own cycles plus the
runtime's measured constant; bytes), and compares with what the board counted.
Nothing is fitted. On a virtual board no hardware is used: cycles are those of its timing model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.profiled import profiled, run
from profilers.lut import Lut
from toolchain.export.native.plan import DIRECT
from toolchain.workflow.costs import open_costs
from toolchain.workflow.models import structural_graph
from toolchain.workflow.profile import calibration_networks

SPACES: dict[str, dict[str, Any]] = {
    "image2d": {"input_shape": [1, 16, 16], "classes": 10},
    "connas1d": {"input_channels": 8, "length": 256, "classes": 4, "channels": [8, 16, 32, 64]},
    "mobilenet": {"input_shape": [1, 32, 32], "classes": 10, "widths": [8, 16, 24], "depth": 3,
                  "expansions": [2, 4], "kernels": [3, 5], "squeeze_excite": [False, True]},
}  # fmt: skip


def measure(name: str, target: str, networks: int) -> dict[str, float]:
    """Profile a space into a fresh table; print and return errors and rates."""
    start = time.monotonic()
    with profiled(name, SPACES[name], target, networks) as (project, outcome):
        seconds = time.monotonic() - start
        for signature, reason in outcome.failures:
            print(f"  failed: {signature}: {reason}")
        costs = open_costs(project, ["cycles"])
        board = costs.targets[0]
        metric = board.metric
        with Lut.open(project.lut_path, read_only=True) as lut:
            rows = {n.name: m for n, m in lut.networks(outcome.stack, metric)}
        architectures = [
            a for a in calibration_networks(project, networks) if project.space.encode(a) in rows
        ]
        foretold = [costs.predict(a) for a in architectures]
        prices = costs.table.price(architectures)[:, costs.table.metrics.index(metric)]
        graphs = [structural_graph(project, a, "int8") for a in architectures]
        direct = np.array([board.of_graph(graph, DIRECT)[metric] for graph in graphs])
        planned = sum(board.plan(graph) != DIRECT for graph in graphs)
    measured = [rows[project.space.encode(a)] for a in architectures]
    predicted = {name: np.array([one[name] for one in foretold]) for name in foretold[0]}
    values = np.array([m.value for m in measured])
    errors = 100 * (predicted[metric] / values - 1)
    wrong = {
        metric: sum(p != float(m.details[metric]) for p, m in zip(predicted[metric], measured, strict=True))
        for metric in ("flash_bytes", "ram_bytes")
    }
    report = outcome.operators
    figures = {
        "operators": report.measured,
        "failed": len(report.failed),
        "operators_per_second": report.measured / report.seconds,
        "seconds": seconds,
        "networks": len(measured),
        "least": float(values.min()),
        "most": float(values.max()),
        "constant": 0.0 if outcome.calibration is None else outcome.calibration.intercept,
        "mean_error_percent": float(np.abs(errors).mean()),
        "worst_error_percent": float(np.abs(errors).max()),
        "bias_percent": float(errors.mean()),
        "flash_wrong": wrong["flash_bytes"],
        "ram_wrong": wrong["ram_bytes"],
        "with_winograd": planned,
        "saved_percent": float(100 * (1 - predicted[metric] / direct).mean()),
        "table_over_plan_percent": float(100 * (prices / predicted[metric] - 1).max()),
    }
    evidence = measured[0].evidence.value
    print(f"{name} on {outcome.stack.label} [{evidence}]: {report.measured} operators, "
          f"{figures['operators_per_second']:.0f} a second, {len(report.failed)} failed; {len(measured)} networks of "
          f"{values.min():,.0f} to {values.max():,.0f} {metric}; {seconds:.0f} s in all")  # fmt: skip
    print(f"  {metric} predicted: mean error {figures['mean_error_percent']:.3f} %, worst "
          f"{figures['worst_error_percent']:.3f} %, bias {figures['bias_percent']:+.3f} % "
          f"(runtime's constant {figures['constant']:,.0f})")  # fmt: skip
    print(f"  predicted = counted by the device: flash {len(measured) - wrong['flash_bytes']} of {len(measured)}, "
          f"RAM {len(measured) - wrong['ram_bytes']} of {len(measured)} networks")  # fmt: skip
    print(f"  plans: {planned} of {len(measured)} networks have layers by Winograd's algorithm; {metric} less by "
          f"{figures['saved_percent']:.1f} % in the mean than direct (predicted); the table's policies are at most "
          f"{figures['table_over_plan_percent']:.2f} % over the exact plan")  # fmt: skip
    if outcome.note:
        print(f"  {outcome.note}")
    return figures


if __name__ == "__main__":
    run(__doc__, SPACES, "virtual:nucleo-l4r5zi", 50, measure)
