"""How well sums of operators predict whole networks on this CPU: raw, and calibrated.

    python benchmarks/bench_prediction.py [--target cpu:litert] [--networks 24] [--space image2d|connas1d] [--json FILE]

Measures every operator of the space and some random whole networks, interleaved with an anchor. The figures are for
networks that the calibration has not seen (cross-validation). Host wall time; the share of measurements that the
protocol marked unstable says in what phase the machine was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from profilers.calibrate import mean_absolute_percentage_error, share_within, spearman
from profilers.lut import Lut, Network
from profilers.steady import steady_table
from toolchain.graph import Operator
from toolchain.workflow.config import parse_config
from toolchain.workflow.profile import profile
from toolchain.workflow.project import Project

SPACES = {
    "image2d": {"input_shape": [1, 32, 32], "classes": 10},
    "connas1d": {"input_channels": 8, "length": 256, "classes": 4, "channels": [8, 16, 32, 64]},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="cpu:litert")
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--space", choices=[*SPACES, "all"], default="all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = list(SPACES) if arguments.space == "all" else [arguments.space]
    figures = {name: measure(name, arguments.target, arguments.networks) for name in chosen}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(name: str, target: str, networks: int) -> dict[str, float]:
    """Profile a space into a fresh table, print and return the errors."""
    config = {
        "project": {"name": "bench"},
        "data": {"kind": "digits"},  # not read: the space has its shape
        "space": {"name": name, "parameters": SPACES[name]},
        "target": {"url": target},
        "profile": {"networks": networks},
    }
    with tempfile.TemporaryDirectory() as folder:
        project = _SpaceOnly(Path(folder), parse_config(config, "bench"))
        (outcome,) = profile(project).targets
        with Lut.open(project.lut_path, read_only=True) as lut:
            table = steady_table(lut, outcome.stack, "latency_us")
    pairs = [
        (sum(table.values[op] for op in subject.operators), value)
        for subject, value in table.values.items()
        if isinstance(subject, Network)
    ]
    raw, measured = (np.array(column) for column in zip(*pairs, strict=True))
    calibration = outcome.calibration
    assert calibration is not None
    operators = sum(isinstance(subject, Operator) for subject in table.values)
    networks_report = outcome.networks
    unstable = outcome.operators.unstable + (networks_report.unstable if networks_report else 0)
    figures = {
        "operators": operators,
        "networks": len(pairs),
        "seconds": outcome.operators.seconds + (networks_report.seconds if networks_report else 0.0),
        "unstable_share": unstable / (operators + len(pairs)),
        "raw_mape": mean_absolute_percentage_error(raw, measured),
        "raw_within_10": share_within(raw, measured, 0.1),
        "raw_spearman": spearman(raw, measured),
        "calibrated_mape": calibration.mape,
        "calibrated_within_10": calibration.share_within_10,
        "calibrated_spearman": calibration.spearman,
    }
    print(f"{name} on {outcome.stack.label} [{calibration.evidence.value}]: {operators} operators, {len(pairs)} "
          f"networks ({measured.min():.1f} to {measured.max():.1f} us) in {figures['seconds']:.0f} s, "
          f"{100 * figures['unstable_share']:.0f} % unstable")  # fmt: skip
    for kind in ("raw", "calibrated"):
        print(f"  {kind:<11} mean error {figures[kind + '_mape']:5.1f} %, within 10 %: "
              f"{100 * figures[kind + '_within_10']:3.0f} %, Spearman {figures[kind + '_spearman']:.3f}")  # fmt: skip
    return figures


class _SpaceOnly(Project):
    """A project whose space needs no data set."""

    @property
    def space(self):  # type: ignore[no-untyped-def,override]
        from toolchain.spaces import load_space

        return load_space(self.config.space.name, **self.config.space.parameters)


if __name__ == "__main__":
    main()
