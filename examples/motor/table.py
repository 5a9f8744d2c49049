"""The paper's Table 3 beside ours: hand-crafted models, ConNAS under c1 to c4, exact selection as a second opinion, and
the best of random networks as a control.

    python simulator.py motor-full.npz --size full
    python table.py motor-full.npz results                  # the reduced schedule, for a CPU
    python table.py motor-full.npz results --schedule full  # the paper's (appendix D.2); wants a GPU
    python table.py motor-full.npz results --items Conv1D-Reg,ConNAS+c4
    python table.py motor-full.npz results --items "conv32 conv32 conv32 conv32 conv32 conv32 conv32 conv32"

Every item is kept in the results folder as it is done, so a second call goes on. Constraints are the paper's, in its
own accounting (`paper_tables`: float32, batch norm not folded); the int8 figures are of the file that is deployed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from searches import CONSTRAINTS, SCHEDULES, Arrays, Schedule, drawn, keeps, search, select

from profilers.counts import graph_costs
from toolchain.errors import ConfigurationError
from toolchain.export.tflite_writer import write_tflite
from toolchain.files import write_atomic, write_json
from toolchain.graph import quantize_array
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.lower import lower
from toolchain.quantize import quantize
from toolchain.spaces import Architecture, ConNAS1d
from toolchain.spaces.connas1d import hand_crafted, paper_tables
from toolchain.supernet.train import evaluate, train_network

# Table 3, top-1 in per cent.
PAPER = {
    "ConNAS+c1": 97.09, "ConNAS+c2": 96.17, "ConNAS+c3": 94.96, "ConNAS+c4": 94.37,
    "Conv1D-Reg": 95.54, "Conv1D-DS": 93.07, "Conv1D-Reg-Max": 93.31, "Conv1D-DS-Max": 96.72,
    "Conv1D-Reg-Min": 90.15, "Conv1D-DS-Min": 93.93,
}  # fmt: skip
FOLDS = 5
METHODS = {"ConNAS": search, "exact": select, "random": drawn}


def load(path: Path, normalize: str = "standard") -> Arrays:
    """The arrays of `simulator.py`, normalised per channel by the training split: "standard" to mean 0 and deviation 1,
    or "minmax" to 0..1 as in the paper."""
    with np.load(path) as file:
        arrays = dict(file)
    train = arrays["x_train"]
    if normalize == "minmax":
        offset = train.min((0, 2), keepdims=True)
        span = train.max((0, 2), keepdims=True) - offset
    else:
        offset, span = (f((0, 2), keepdims=True, dtype=np.float64) for f in (train.mean, train.std))
    for split in ("train", "val", "test"):
        arrays[f"x_{split}"] = ((arrays[f"x_{split}"] - offset) / span).astype(np.float32)
    return arrays


def fold_masks(motors: NDArray[np.int64], fold: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(to train on, held out): every fifth motor is held out, with all its windows."""
    held = np.isin(motors, np.unique(motors)[fold::FOLDS])
    return ~held, held


def satisfied(space: ConNAS1d, architecture: Architecture) -> list[str]:
    """The constraints that an architecture keeps."""
    return [constraint for constraint in CONSTRAINTS if keeps(space, constraint, architecture)]


def train_fold(
    space: ConNAS1d,
    architecture: Architecture,
    fold: int,
    schedule: Schedule,
    data: Arrays,
    device: str,
    seed: int,
    every: int = 1,
) -> tuple[torch.nn.Module, NDArray[Any]]:
    """A network trained without the fold's motors, which choose the epoch; and the windows that it was trained on.

    Args:
        every: train on every so-manieth motor alone.
    """
    x, y, motors = (np.concatenate([data[f"{k}_train"], data[f"{k}_val"]]) for k in ("x", "y", "motor"))
    some = motors % every == 0
    x, y, motors = x[some], y[some], motors[some]
    kept, held = fold_masks(motors, fold)
    torch.manual_seed(seed + fold)
    module = space.module(architecture).to(device)
    train_network(
        module, x[kept], y[kept], x_val=x[held], y_val=y[held], epochs=schedule.epochs,
        batch_size=schedule.batch_size, learning_rate=schedule.learning_rate,
        final_learning_rate=schedule.final_learning_rate, weight_decay=1e-4, seed=seed + fold,
    )  # fmt: skip
    return module, x[kept]


def _write_int8(module: torch.nn.Module, x: NDArray[Any], data: Arrays, file: Path) -> dict[str, float]:
    graph = lower(module.eval(), x.shape[1:])
    chosen = x[np.linspace(0, len(x) - 1, 256).astype(int)]
    int8 = quantize(graph, to_nhwc(chosen), "minmax")
    write_atomic(file, write_tflite(int8))
    quantization = int8.tensors[int8.inputs[0]].quantization
    assert quantization is not None  # an int8 graph has one everywhere
    answers = run_int8(int8, quantize_array(to_nhwc(data["x_test"]), quantization)).reshape(
        len(data["y_test"]), -1
    )
    costs = graph_costs(int8)
    return {
        "accuracy": 100 * float(np.mean(answers.argmax(1) == data["y_test"])),
        "file_bytes": costs["flash_bytes"],
        "arena_bytes": costs["ram_bytes"],
    }


def to_nhwc(x: NDArray[Any]) -> NDArray[np.float32]:
    """N x C x L -> N x 1 x L x C, as graphs take time series."""
    return np.ascontiguousarray(x.transpose(0, 2, 1)[:, None])


def run(
    items: Sequence[str],
    schedule: Schedule,
    data: Arrays,
    folder: Path,
    device: str,
    seed: int,
    every: int = 1,
) -> None:
    """Do what is not done yet: each item's search, then fold by fold one training of each item.

    An item has a JSON file, which is written anew after each fold, and the first fold's int8 file.
    """
    space = ConNAS1d()
    for item in items:
        if not (folder / f"{item}.json").exists():
            started = time.monotonic()
            architecture = _found(item, space, schedule, data, folder, device, seed)
            row = {
                "text": space.encode(architecture),
                "satisfied": satisfied(space, architecture),
                "paper_tables": asdict(paper_tables(space, architecture)),
                "accuracies": [],
                "search_seconds": time.monotonic() - started,
                "seconds": 0.0,
            }
            write_json(folder / f"{item}.json", row)
    for fold in range(schedule.folds):
        for item in items:
            path = folder / f"{item}.json"
            row = json.loads(path.read_text())
            if len(row["accuracies"]) > fold:
                continue
            twin = _twin(folder, row["text"], fold)
            if twin is not None:
                done = json.loads(twin.read_text())
                row = {**row, **{k: done[k] for k in ("accuracies", "int8", "seconds")}}
                write_atomic(folder / f"{item}.tflite", twin.with_suffix(".tflite").read_bytes())
            else:
                started = time.monotonic()
                module, seen = train_fold(
                    space, space.decode(row["text"]), fold, schedule, data, device, seed, every
                )
                row["accuracies"].append(100 * evaluate(module, data["x_test"], data["y_test"])[1])
                if fold == 0:
                    row["int8"] = _write_int8(module.cpu(), seen, data, folder / f"{item}.tflite")
                row["seconds"] += time.monotonic() - started
            write_json(path, row)
            print(f"{item}, fold {fold + 1}: {row['accuracies'][fold]:.2f} %  {row['text']}", flush=True)


def _found(
    item: str, space: ConNAS1d, schedule: Schedule, data: Arrays, folder: Path, device: str, seed: int
) -> Architecture:
    method, _, constraint = item.partition("+")
    if not constraint:
        return named(space, item)
    found = METHODS[method](constraint, schedule, data, device, seed, folder)
    return space.decode(ConNAS1d(channels=schedule.channels).encode(found))


def _twin(folder: Path, text: str, fold: int) -> Path | None:
    """The file of the same network under another name, if that has this fold."""
    for path in sorted(folder.glob("*.json")):
        row: dict[str, Any] = json.loads(path.read_text())
        if row.get("text") == text and len(row["accuracies"]) > fold:
            return path
    return None


def named(space: ConNAS1d, name: str) -> Architecture:
    """One of the hand-crafted models by its name, or a network as the table writes it ("conv32 id ds16 ...")."""
    models = hand_crafted(space)
    if name in models:
        return models[name]
    try:
        return space.decode(name)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"no model {name!r}: {error}", remedy=f"known: {', '.join(models)}, ConNAS+c1, exact+c1 ..."
        ) from error


def show(folder: Path, items: Sequence[str]) -> None:
    """The tables, of what is there."""
    rows = {
        i: json.loads((folder / f"{i}.json").read_text()) for i in items if (folder / f"{i}.json").exists()
    }
    rows = {i: row for i, row in rows.items() if row["accuracies"]}
    print(f"\n{'model':16} {'paper %':>8} {'ours %':>14} {'c1 c2 c3 c4':12} {'params B':>10} {'peak B':>8} | "
          f"{'int8 %':>7} {'file B':>8} {'arena B':>8}")  # fmt: skip
    for item, row in rows.items():
        ours, size, int8 = row["accuracies"], row["paper_tables"], row["int8"]
        spread = f" +-{statistics.stdev(ours):.2f}" if len(ours) > 1 else ""
        marks = " ".join("x " if c in row["satisfied"] else "- " for c in CONSTRAINTS)
        paper = f"{PAPER[item]:.2f}" if item in PAPER else "-"
        print(f"{item:16} {paper:>8} {f'{statistics.mean(ours):.2f}{spread}':>14} {marks:12} "
              f"{size['weight_bytes']:>10,} {size['peak_bytes']:>8,} | {int8['accuracy']:>7.2f} "
              f"{int8['file_bytes']:>8,} {int8['arena_bytes']:>8,}")  # fmt: skip
    print("\nbest hand-crafted model that keeps the constraint, and the margin over it (points)")
    for constraint in CONSTRAINTS:
        rivals = {n: statistics.mean(r["accuracies"]) for n, r in rows.items()
                  if n.startswith("Conv1D") and constraint in r["satisfied"]}  # fmt: skip
        if not rivals:
            continue
        best = max(rivals, key=rivals.__getitem__)
        line = f"{constraint}: {best} {rivals[best]:.2f} %"
        for method in METHODS:
            if f"{method}+{constraint}" in rows:
                # Over the folds that both have: a fold counts more than many a method.
                pairs = zip(
                    rows[f"{method}+{constraint}"]["accuracies"], rows[best]["accuracies"], strict=False
                )
                over = [ours - theirs for ours, theirs in pairs]
                line += f"; {method} {statistics.mean(over):+.2f} ({len(over)} folds)"
        print(line)


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description="Table 3 of ConNAS on the simulated motors.")
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--schedule", choices=SCHEDULES, default="reduced")
    parser.add_argument("--normalize", choices=("standard", "minmax"), default="standard")
    parser.add_argument("--items", help="comma-separated; default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--every", type=int, default=1, help="final trainings see every so-manieth motor alone"
    )
    parser.add_argument("--folds", type=int, help="of five, how many are trained; default: the schedule's")
    parser.add_argument("--epochs", type=int, help="of final trainings; default: the schedule's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    asked = {
        name: getattr(options, name) for name in ("folds", "epochs") if getattr(options, name) is not None
    }
    schedule = replace(SCHEDULES[options.schedule], **asked)
    every = [*(f"{m}+{c}" for m in METHODS for c in CONSTRAINTS), *schedule.hand_crafted]
    items = options.items.split(",") if options.items else every
    options.folder.mkdir(parents=True, exist_ok=True)
    data = load(options.data, options.normalize)
    run(items, schedule, data, options.folder, options.device, options.seed, options.every)
    show(options.folder, list(dict.fromkeys([*every, *items])))


if __name__ == "__main__":
    main()
