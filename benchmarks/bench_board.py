"""How well the table of a board predicts whole networks: cycles, flash and RAM, on a virtual board by default.

    python benchmarks/bench_board.py [--target virtual:nucleo-l4r5zi] [--networks 50] [--space NAME|all] [--json FILE]

Measures every operator of a space alone, and random whole networks of it; prices the networks from the table (sum of
the operators' own cycles plus the runtime's measured constant; bytes arc by arc), and compares with what the board
counted.
Nothing is fitted. On a virtual board no hardware is used: cycles are those of its timing model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from profilers.lut import Lut, Network
from toolchain.spaces import Space, load_space
from toolchain.workflow.config import parse_config
from toolchain.workflow.costs import open_costs
from toolchain.workflow.profile import calibration_networks, profile
from toolchain.workflow.project import Project

SPACES: dict[str, dict[str, Any]] = {
    "image2d": {"input_shape": [1, 16, 16], "classes": 10},
    "connas1d": {"input_channels": 8, "length": 256, "classes": 4, "channels": [8, 16, 32, 64]},
    "mobilenet": {"input_shape": [1, 32, 32], "classes": 10, "widths": [8, 16, 24], "depth": 3,
                  "expansions": [2, 4], "kernels": [3, 5], "squeeze_excite": [False, True]},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="virtual:nucleo-l4r5zi")
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--space", choices=[*SPACES, "all"], default="all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = list(SPACES) if arguments.space == "all" else [arguments.space]
    figures = {name: measure(name, arguments.target, arguments.networks) for name in chosen}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(name: str, target: str, networks: int) -> dict[str, float]:
    """Profile a space into a fresh table; print and return errors and rates."""
    config = {
        "project": {"name": "bench"},
        "data": {"kind": "digits"},  # not read: the space has its shape
        "space": {"name": name, "parameters": SPACES[name]},
        "target": {"url": target},
        "profile": {"networks": networks},
    }
    with tempfile.TemporaryDirectory() as folder:
        project = _SpaceOnly(Path(folder), parse_config(config, "bench"))
        start = time.monotonic()
        (outcome,) = profile(project).targets
        seconds = time.monotonic() - start
        for signature, reason in outcome.failures:
            print(f"  failed: {signature}: {reason}")
        costs = open_costs(project, ["cycles"])
        metric = costs.targets[0].metric
        with Lut.open(project.lut_path, read_only=True) as lut:
            rows = {n.name: m for n, m in lut.networks(outcome.stack, metric) if isinstance(n, Network)}
    architectures = [a for a in calibration_networks(project, networks) if project.space.encode(a) in rows]
    prices = costs.table.price(architectures)
    measured = [rows[project.space.encode(a)] for a in architectures]
    predicted = {metric: prices[:, column] for column, metric in enumerate(costs.table.metrics)}
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
    if outcome.note:
        print(f"  {outcome.note}")
    return figures


class _SpaceOnly(Project):
    """A project whose space needs no data set."""

    @property
    def space(self) -> Space:  # type: ignore[override]
        if "_space" not in self.__dict__:
            self.__dict__["_space"] = load_space(self.config.space.name, **self.config.space.parameters)
        return self.__dict__["_space"]  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()
