"""How well additive predictors rank measured OFA-MobileNetV3 sub-networks that they have not seen.

    BOARDFIT_DATA=folder python benchmarks/bench_ofa.py [--splits 5]

Needs ofa_mobilenetv3/ofa_mbv3_subnets.csv.gz (ImageNet top-1 of sub-networks of one super-network, from DyNAS-T).
Duplicates are merged; of the distinct networks 1,500 are fitted and the rest predicted. The networks were visited by
searches, so they lean to the good end: they are no uniform sample. Goals: Spearman 0.989, Kendall 0.915.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toolchain.search.estimators import Encoding, Ranking, fit_estimator, rank_quality
from toolchain.spaces import Stage

FILE = "ofa_mobilenetv3/ofa_mbv3_subnets.csv.gz"
KERNELS, EXPANSIONS = (3, 5, 7), (3, 4, 6)
NONE = len(KERNELS) * len(EXPANSIONS)
STAGES = tuple(Stage(4 * stage, 4, 2, NONE) for stage in range(5))
TRAINED = 1500
GOAL_SPEARMAN, GOAL_KENDALL = 0.989, 0.915


def read(path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(networks, 20) candidate indices and (networks,) top-1 in percent; blocks beyond a depth are NONE."""
    found: dict[tuple[int, ...], list[float]] = {}
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            kernels, expansions = ([int(v) for v in row[name].split()] for name in ("ks", "e"))
            depths = [int(v) for v in row["d"].split()]
            blocks = [
                KERNELS.index(k) * len(EXPANSIONS) + EXPANSIONS.index(e)
                for k, e in zip(kernels, expansions, strict=True)
            ]
            network = tuple(block if i % 4 < depths[i // 4] else NONE for i, block in enumerate(blocks))
            found.setdefault(network, []).append(float(row["top1"]))
    return np.array(list(found)), np.array([np.mean(v) for v in found.values()])


def encoding() -> Encoding:
    """20 choices; `none` at the third and fourth block of a stage only."""
    return Encoding(tuple(NONE + (i % 4 >= 2) for i in range(20)), STAGES)


def measure(kind: str, table: npt.NDArray[np.int64], top1: npt.NDArray[np.float64], seed: int) -> Ranking:
    """Fit `TRAINED` networks drawn by seed, rank the others."""
    order = np.random.default_rng(seed).permutation(len(table))
    fitted, held = order[:TRAINED], order[TRAINED:]
    estimator = fit_estimator(kind, table[fitted], top1[fitted], encoding(), seed=seed)  # type: ignore[arg-type]
    return rank_quality(estimator.predict(table[held]), top1[held])


def main() -> int:
    """Print one line for each predictor: means over splits, beside the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    splits = parser.parse_args().splits
    folder = os.environ.get("BOARDFIT_DATA")
    if not folder or not (Path(folder) / FILE).exists():
        print(f"skipped: $BOARDFIT_DATA/{FILE} is not there")
        return 0
    table, top1 = read(Path(folder) / FILE)
    print(f"{len(table)} distinct networks, top-1 {top1.min():.2f} to {top1.max():.2f} %; {TRAINED} fitted, "
          f"{len(table) - TRAINED} held out, {splits} splits")  # fmt: skip
    print(f"{'predictor':10} {'Spearman':>9} {'least':>7} {'Kendall':>9} {'least':>7} {'RMSE %':>7} {'s':>6}")
    reached = False
    for kind in ("linear", "bilinear", "quadratic", "mlp"):
        begin = time.perf_counter()
        found = [measure(kind, table, top1, seed) for seed in range(splits)]
        seconds = (time.perf_counter() - begin) / splits
        rho, tau = [r.spearman for r in found], [r.kendall for r in found]
        rmse = float(np.sqrt(np.mean([r.mse for r in found])))
        print(f"{kind:10} {np.mean(rho):9.4f} {min(rho):7.4f} {np.mean(tau):9.4f} {min(tau):7.4f} {rmse:7.3f} "
              f"{seconds:6.2f}")  # fmt: skip
        reached |= bool(np.mean(rho) >= GOAL_SPEARMAN and np.mean(tau) >= GOAL_KENDALL)
    print(
        f"{'goal':10} {GOAL_SPEARMAN:9.4f} {'':7} {GOAL_KENDALL:9.4f}   {'reached' if reached else 'MISSED'}"
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
