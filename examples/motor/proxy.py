"""Networks compared by a short training of their own, on the validation split alone; the test split is not looked at.

    python proxy.py motor-full.npz --epochs 4 "conv64 conv64 conv64 conv64 conv64 conv64 conv64 conv64" Conv1D-Reg

For the question whether a search left something on the table: what it found beside wider networks that keep the same
constraint. Rates, batches and weight decay are the final trainings'; their schedule is squeezed into the epochs asked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from searches import SCHEDULES, Arrays, Schedule
from table import load, named, satisfied

from toolchain.spaces import Architecture, ConNAS1d
from toolchain.spaces.connas1d import paper_tables
from toolchain.supernet.train import train_network


def proxy(architecture: Architecture, schedule: Schedule, data: Arrays, epochs: int, seed: int) -> float:
    """The best epoch's share of right answers on the validation split, 0 to 1."""
    torch.manual_seed(seed)
    report = train_network(
        ConNAS1d().module(architecture), data["x_train"], data["y_train"], x_val=data["x_val"], y_val=data["y_val"],
        epochs=epochs, batch_size=schedule.batch_size, learning_rate=schedule.learning_rate,
        final_learning_rate=schedule.final_learning_rate, weight_decay=1e-4, seed=seed,
    )  # fmt: skip
    return max(report.val_accuracy)


def main() -> None:
    """Train and print, one line a network."""
    parser = argparse.ArgumentParser(description="Networks by a short training, on the validation split.")
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="+", help="as in the table, or a hand-crafted model's name")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    space, data = ConNAS1d(), load(options.data)
    for text in options.networks:
        architecture = named(space, text)
        right = proxy(architecture, SCHEDULES["reduced"], data, options.epochs, options.seed)
        size = paper_tables(space, architecture)
        print(f"{100 * right:.2f} % of validation  {text}  {size.weight_bytes:,} B, peak {size.peak_bytes:,} B, "
              f"keeps {' '.join(satisfied(space, architecture))}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
