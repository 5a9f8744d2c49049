"""How well accuracy estimators rank, against the samples they used (BINAS, Figure 7 left), and Table 2's ablation.

    python benchmarks/bench_estimators.py [--epochs 40] [--test 80] [--folder F] [--fair]

A supernet of a small inverted-residual space is trained on scikit-learn's digits by single paths. "Measured" is the
accuracy of a sub-network with inherited weights and re-calibrated batch norm on all validation images; the same images
serve every estimator. One sample unit is one pass over them (one "epoch" in the paper): a learned predictor gets one
measured network for it, contributions get some fifty random sub-networks of 16 images each.

With --folder the supernet and the rows are kept there, and an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toolchain.search.estimators import (
    Encoding,
    Estimator,
    conditioned_contributions,
    fit_estimator,
    fit_ridge,
    paper_conditions,
    rank_quality,
    stage_contributions,
)
from toolchain.search.estimators.paths import PathSamples, sample_paths
from toolchain.search.evaluators import evaluate_inherited, recalibration_batches, train_supernet
from toolchain.spaces import Architecture, Mobilenet
from toolchain.supernet import Supernet
from toolchain.supernet.fairness import paths_per_step, train_fair

Floats = npt.NDArray[np.float64]
PASSES = (2, 5, 10, 20, 40, 80)
TRAINING = 1000
GROUP, COMPANIONS = 16, 48


def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(1797, 1, 8, 8) images from 0 to 1 and their labels, shuffled."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order] / 16).astype(np.float32)[:, None], data.target[order].astype(np.int64)


def mobilenet() -> Mobilenet:
    """Two stages of 1 to 3 blocks, the paper's 12 configurations: 3.5 million networks."""
    return Mobilenet(input_shape=(1, 8, 8), widths=(8, 16), depth=3, strides=(1, 2), stem_channels=8)


def main() -> int:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="of single-path training; batches of 16")
    parser.add_argument("--test", type=int, default=80, help="networks to rank")
    parser.add_argument("--folder", type=Path, help="keep supernet and rows here, and go on from them")
    parser.add_argument(
        "--fair", action="store_true", help="train with strict fairness, at equal forward passes"
    )
    args = parser.parse_args()
    try:
        x, y = digits()
    except ImportError:
        print("skipped: scikit-learn is not installed (extra `demo`)")
        return 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        run(args.folder or Path(scratch), x, y, args.epochs, args.test, args.fair)
    return 0


def run(
    folder: Path,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    epochs: int,
    test: int,
    fair: bool,
) -> None:
    """All of it; files go to `folder`."""
    begin = time.process_time()

    def clock(what: str) -> None:
        print(f"  [{time.process_time() - begin:6.1f} s CPU] {what}", flush=True)

    space = mobilenet()
    train, val = slice(0, TRAINING), slice(TRAINING, None)
    supernet = trained(space, x[train], y[train], epochs, fair, folder)
    clock(f"supernet trained, {'strict fairness' if fair else 'single paths'}, {epochs} epochs")

    recalibration = recalibration_batches(x[train], torch.device("cpu"), 1, 256)

    def measured(networks: list[Architecture]) -> Floats:
        found = [evaluate_inherited(supernet, a, x[val], y[val], recalibration)[1] for a in networks]
        return np.array(found)

    rng = np.random.default_rng(1)
    tested = [space.sample_by_depth(rng) for _ in range(test)]
    fitted = [space.sample_by_depth(rng) for _ in range(PASSES[-1])]
    truth, known = measured(tested), measured(fitted)
    clock(f"{test} + {len(fitted)} networks measured: accuracy {truth.mean():.3f}, deviation {truth.std():.3f}, "
          f"{truth.min():.3f} to {truth.max():.3f}")  # fmt: skip

    budget = PASSES[-1] * (len(x) - TRAINING)
    pool = paths(supernet, x, y, [space.sample_by_depth], budget, folder / "pool.npz")
    clock(f"{len(pool.total)} random sub-networks on {GROUP} images each: base accuracy "
          f"{pool.right.sum() / pool.total.sum():.3f}")  # fmt: skip
    conditions = paper_conditions(space)
    schedule = paths(supernet, x, y, conditions, budget, folder / "schedule.npz")
    clock(f"the same by the paper's schedule, {len(conditions)} conditions in turn")

    report(space, tested, truth, fitted, known, pool, schedule, len(x) - TRAINING)
    clock("done")


def trained(
    space: Mobilenet,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    epochs: int,
    fair: bool,
    folder: Path,
) -> Supernet:
    """The supernet; by strict fairness with as many forward passes as by single paths."""
    torch.manual_seed(0)
    supernet = Supernet(space)
    if fair:
        file = folder / "fair.safetensors"
        turns = max(1, epochs // paths_per_step(space))
        train_fair(
            supernet, x, y, epochs=turns, batch_size=16, learning_rate=0.05, checkpoint=file, resume=True
        )
    else:
        file = folder / "single.safetensors"
        train_supernet(
            supernet, x, y, sample=space.sample_by_depth, epochs=epochs, batch_size=16, learning_rate=0.05,
            checkpoint=file, resume=True,
        )  # fmt: skip
    return supernet


def paths(
    supernet: Supernet,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    samplers: list[object] | tuple[object, ...],
    samples: int,
    file: Path,
) -> PathSamples:
    """Rows of random sub-networks on the validation images, normalised with companions from the training images."""
    return sample_paths(
        supernet, x[TRAINING:], y[TRAINING:], samplers=samplers, samples=samples, group=GROUP,  # type: ignore[arg-type]
        companions=x[:TRAINING], companion_count=COMPANIONS, checkpoint=file, resume=True,
    )  # fmt: skip


def report(
    space: Mobilenet,
    tested: list[Architecture],
    truth: Floats,
    fitted: list[Architecture],
    known: Floats,
    pool: PathSamples,
    schedule: PathSamples,
    images: int,
) -> None:
    """Figure 7 (left) and Table 2 as text."""
    encoding = Encoding(tuple(len(choice.candidates) for choice in space.choices), space.stages)
    stages = space.stages

    def regressed(rows: PathSamples) -> Estimator:
        return fit_ridge(rows.architectures, rows.right / rows.total, encoding)

    def learned(kind: str) -> Callable[[int], Estimator]:
        return lambda n: fit_estimator(kind, fitted[:n], known[:n], encoding)  # type: ignore[arg-type]

    def upto(rows: PathSamples, n: int) -> PathSamples:
        return rows.first(n * images)

    estimators: dict[str, Callable[[int], Estimator]] = {
        "contributions, pooled": lambda n: stage_contributions(upto(pool, n), stages).estimator(),
        "as printed, pooled": lambda n: stage_contributions(upto(pool, n), stages, "printed").estimator(),
        "as printed, paper's schedule":
            lambda n: conditioned_contributions(upto(schedule, n), stages).estimator(),
        "paper's schedule, depth once":
            lambda n: conditioned_contributions(upto(schedule, n), stages, "block").estimator(),
        "linear fit to the pool": lambda n: regressed(upto(pool, n)),
        "learned linear": learned("linear"),
        "learned bilinear": learned("bilinear"),
        "learned quadratic": learned("quadratic"),
        "learned MLP": learned("mlp"),
    }  # fmt: skip
    print(f"\nFigure 7 (left). Passes over {images} images; {len(tested)} networks ranked.")
    quality = {
        label: [
            rank_quality(make(n).predict(tested), truth) if n >= 3 or "learned" not in label else None
            for n in PASSES
        ]
        for label, make in estimators.items()
    }
    for name, attribute, scale in (
        ("Kendall tau-b", "kendall", 1),
        ("Spearman", "spearman", 1),
        ("MSE x 1e4", "mse", 1e4),
    ):
        print(f"{name:29}" + "".join(f"{n:>8}" for n in PASSES))
        for label, row in quality.items():
            cells = [f"{scale * getattr(q, attribute):8.3f}" if q else f"{'-':>8}" for q in row]
            print(f"{label:29}" + "".join(cells))
    print(f"\nTable 2 at {PASSES[-1]} passes (paper: 0.29 0.42 | 0.66 0.85 | 0.84 0.97)")
    print(f"{'':29}{'Kendall':>8}{'Spearman':>10}")
    for title, baseline in (("pooled", "block"), ("as printed", "printed")):
        found = stage_contributions(pool, stages, baseline)  # type: ignore[arg-type]
        for label, estimator in (
            ("depth terms zero", found.estimator(depth=False)),
            ("block terms zero", found.estimator(blocks=False)),
            ("all terms", found.estimator()),
        ):
            ranked = rank_quality(estimator.predict(tested), truth)
            print(f"{label + ', ' + title:29}{ranked.kendall:8.3f}{ranked.spearman:10.3f}")
    found = stage_contributions(pool, stages)
    errors = np.concatenate([*found.depth_errors, *found.block_errors])
    print(f"\nstandard errors at {PASSES[-1]} passes: base {found.base_error:.4f}, depth "
          f"{np.concatenate(found.depth_errors).mean():.4f}, all {errors.mean():.4f}; deltas' deviation: depth "
          f"{np.concatenate(found.depth).std():.4f}, blocks {np.concatenate(found.blocks).std():.4f}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
