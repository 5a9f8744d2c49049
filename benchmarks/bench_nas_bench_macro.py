"""How well additive predictors rank NAS-Bench-Macro: 6,561 networks, each trained from scratch three times.

    BOARDFIT_DATA=folder python benchmarks/bench_nas_bench_macro.py [--splits 5]

Needs nas_bench_macro/macro_cifar10.csv.gz. First a regression of main effects on the whole table (the goal's setting:
Kendall 0.865), then held out: predictors fitted to some networks, ranking all the others. An identity that is not a
stage's first layer is a true no-op, so 6,561 codes are 3,969 networks; in the held-out figures each of them is there
once, so that no network is in both parts. The noise ceiling (one training against another) stands beside.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolchain.search.estimators import Encoding, fit_estimator, fit_ridge, kendall_tau, rank_quality

FILE = "nas_bench_macro/macro_cifar10.csv.gz"
STAGES = (slice(0, 2), slice(2, 5), slice(5, 8))
SIZES = (3,) * 8
GOAL = 0.865


def read(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(6561, 8) candidate indices and (6561, 3) accuracies in percent."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    table = np.array([[int(digit) for digit in row["arch"]] for row in rows])
    return table, np.array([[float(row[f"acc{i}"]) for i in (1, 2, 3)] for row in rows])


def canonical(network: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """The code of the same network whose identities stand last in each stage (the stage's first layer stays)."""
    parts: list[int] = []
    for stage in STAGES:
        first, *later = network[stage].tolist()
        kept = [layer for layer in later if layer]
        parts += [first, *kept, *(0 for _ in range(len(later) - len(kept)))]
    return tuple(parts)


def main() -> int:
    """Print the figures beside the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    splits = parser.parse_args().splits
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder or not (Path(folder) / FILE).exists():
        print(f"skipped: $BOARDFIT_DATA/{FILE} is not there")
        return 0
    table, runs = read(Path(folder) / FILE)
    accuracy, encoding = runs.mean(1), Encoding(SIZES)

    whole = rank_quality(fit_ridge(table, accuracy, encoding).predict(table), accuracy)
    print(f"main effects, all {len(table):,} codes: Kendall {whole.kendall:.4f} (goal {GOAL}), Spearman "
          f"{whole.spearman:.4f}, RMSE {whole.mse**0.5:.3f} %")  # fmt: skip
    print(f"one training against another: Kendall {kendall_tau(runs[:, 0], runs[:, 1]):.4f}")

    codes = [canonical(network) for network in table]
    distinct = np.array(sorted({code: i for i, code in enumerate(codes)}.values()))
    table, accuracy = np.array([codes[i] for i in distinct]), accuracy[distinct]
    print(
        f"held out, of {len(table):,} distinct networks, means over {splits} splits (Kendall, Spearman, RMSE %):"
    )
    print(f"{'fitted':>8} " + " ".join(f"{kind:>24}" for kind in ("linear", "quadratic", "mlp")))
    for fitted in (50, 200, 800):
        cells = []
        for kind in ("linear", "quadratic", "mlp"):
            found = []
            for seed in range(splits):
                order = np.random.default_rng(seed).permutation(len(table))
                train, test = order[:fitted], order[fitted:]
                model = fit_estimator(kind, table[train], accuracy[train], encoding, seed=seed)  # type: ignore[arg-type]
                found.append(rank_quality(model.predict(table[test]), accuracy[test]))
            means = [float(np.mean([getattr(r, name) for r in found])) for name in ("kendall", "spearman")]
            rmse = float(np.sqrt(np.mean([r.mse for r in found])))
            cells.append(f"{means[0]:8.4f} {means[1]:8.4f} {rmse:6.3f}")
        print(f"{fitted:8} " + " ".join(cells))
    return 0 if round(whole.kendall, 3) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
