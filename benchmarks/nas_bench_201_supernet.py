"""ConNAS on a NAS-Bench-201 supernet that really trains; its winner is looked up in NATS-Bench where the table is.

    python -m benchmarks.nas_bench_201_supernet [--epochs 8] [--plots FOLDER]
    BOARDFIT_DATA=folder python -m benchmarks.nas_bench_201_supernet --recipe paper --device cuda --data cifar10.npz

The short form takes 8x8 digits and minutes on a CPU: it proves the code, and says nothing about NATS-Bench. The paper's
recipe (appendix D.1) is 150 epochs on half of CIFAR-10's 50,000 training images, the other half for alphas and choice,
with random crops and flips; hours on a GPU. cifar10.npz holds x (n, 32, 32, 3) uint8 and y (n,).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.nats_bench import DATASETS, available, read
from toolchain.report.plots import plot_search
from toolchain.search.connas import ConnasConfig, connas_search
from toolchain.search.connas_table import TableCost
from toolchain.search.trace import epochs_of, write_trace
from toolchain.spaces.nasbench201 import NasBench201, all_cells, cell_string
from toolchain.supernet.nasbench201 import NasBench201Supernet
from toolchain.supernet.train import shifted
from toolchain.units import Budget

# Means and deviations of CIFAR-10's channels, as NAS-Bench-201 uses them.
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CROP = 4

Images = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def crop_and_flip(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Zero padding of 4 with a random crop, and a mirror image for every second one."""
    batch = shifted(batch, CROP, generator)
    mirrored = (torch.rand(len(batch), generator=generator) < 0.5).to(batch.device)
    return torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)


def digits() -> Images:
    """scikit-learn's 1,797 scans of 8x8 pixels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = (bunch.images[:, None] / 8 - 1).astype(np.float32)
    return x, bunch.target.astype(np.int64)


def cifar10(path: Path) -> Images:
    """(n, 3, 32, 32), normalised by channel."""
    with np.load(path, allow_pickle=False) as file:
        x, y = file["x"].astype(np.float32) / 255, file["y"].astype(np.int64)
    x = (x - np.array(MEAN, dtype=np.float32)) / np.array(DEVIATION, dtype=np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y


def main() -> None:
    """Search, and print the winner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", choices=("short", "paper"), default="short")
    parser.add_argument("--data", type=Path, help="images for the paper's recipe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--plots", type=Path)
    arguments = parser.parse_args()
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    if arguments.recipe == "paper":
        if arguments.data is None:
            parser.error("the paper's recipe needs --data cifar10.npz")
        (x, y), config, augment = (
            cifar10(arguments.data),
            ConnasConfig.nats_bench(arguments.seed),
            crop_and_flip,
        )
    else:
        torch.set_num_threads(1)
        (x, y), config = digits(), ConnasConfig.quick(epochs=8, batch_size=64, seed=arguments.seed)
    if arguments.epochs:
        config = replace(config, epochs=arguments.epochs)
    space = NasBench201((x.shape[1], x.shape[2], x.shape[3]))
    cells = all_cells().reshape(*(5,) * 6, 6)
    params = space.params(cells.reshape(-1, 6)).reshape(cells.shape[:-1])
    flops = space.flops(cells.reshape(-1, 6)).reshape(cells.shape[:-1])
    cost = TableCost({"params": params, "flops": flops})
    budgets = [
        Budget("params", float(params[2, 3, 4, 4, 4, 0])),
        Budget("flops", float(flops[2, 3, 4, 4, 4, 0])),
    ]
    order = np.random.default_rng(arguments.seed).permutation(len(x))
    train, held = order[: len(x) // 2], order[len(x) // 2 :]
    torch.manual_seed(arguments.seed)
    begin = time.monotonic()
    result = connas_search(
        NasBench201Supernet(space).to(arguments.device), cost, budgets,
        x=x[train], y=y[train], x_val=x[held], y_val=y[held],
        config=config, augment=augment, checkpoint=arguments.checkpoint, resume=True,
        progress=lambda done, total, line: print(f"epoch {done} of {total}: {line}", flush=True),
    )  # fmt: skip
    first, last = result.history[0].values, result.history[-1].values
    print(
        f"training loss {first['loss/train']:.3f} -> {last['loss/train']:.3f} in {time.monotonic() - begin:.0f} s"
    )
    print(f"{cell_string(result.architecture)}: accuracy {result.score:.1%} with inherited weights, "
          f"params {result.predicted['params']:.0f} of {budgets[0].bound:.0f}, "
          f"FLOPs {result.predicted['flops']:.0f} of {budgets[1].bound:.0f}, repaired: {result.repaired}")  # fmt: skip
    folder = os.environ.get("BOARDFIT_DATA")
    if arguments.recipe == "paper" and folder and available(Path(folder)):
        nats = read(Path(folder))
        within = nats.within(nats.constraints()["params+flops"])
        for name, label in DATASETS.items():
            found, best = nats.test[name][result.architecture], nats.test[name][within].max()
            print(f"{label}: {found:.2f} % in NATS-Bench, best within the budgets {best:.2f}")
    if arguments.plots:
        plot_search(
            epochs_of(result.history), budgets, arguments.plots / "supernet", title="NAS-Bench-201 supernet"
        )
        write_trace(result.history, arguments.plots / "supernet.csv")


if __name__ == "__main__":
    main()
