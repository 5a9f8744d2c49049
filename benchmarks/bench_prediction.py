"""How well sums of operators predict whole networks on this CPU: raw, and calibrated.

    python benchmarks/bench_prediction.py [--target cpu:litert] [--networks 24] [--space image2d|connas1d] [--json FILE]

Measures every operator of the space and some random whole networks, interleaved with an anchor. The figures are for
networks that the calibration has not seen (cross-validation). Host wall time; the share of measurements that the
protocol marked unstable says in what phase the machine was.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.profiled import profiled, run
from profilers.calibrate import mean_absolute_percentage_error, share_within, spearman
from profilers.lut import Lut, Network
from profilers.steady import steady_table
from toolchain.graph import Operator

SPACES = {
    "image2d": {"input_shape": [1, 32, 32], "classes": 10},
    "connas1d": {"input_channels": 8, "length": 256, "classes": 4, "channels": [8, 16, 32, 64]},
}


def measure(name: str, target: str, networks: int) -> dict[str, float]:
    """Profile a space into a fresh table, print and return the errors."""
    with (
        profiled(name, SPACES[name], target, networks) as (project, outcome),
        Lut.open(project.lut_path, read_only=True) as lut,
    ):
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


if __name__ == "__main__":
    run(__doc__, SPACES, "cpu:litert", 24, measure)
