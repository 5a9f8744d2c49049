"""Searches on the motor data: one supernet, ConNAS under a constraint, exact selection as a second opinion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from profilers.cost import ArcMetric, CostTable
from toolchain.search.connas import ConnasConfig, connas_search
from toolchain.search.estimators.contributions import choice_contributions
from toolchain.search.estimators.paths import sample_paths
from toolchain.search.evaluators import train_supernet
from toolchain.search.exact.model import from_chain
from toolchain.search.exact.solver import solve
from toolchain.search.protocols import SearchResult
from toolchain.spaces import Architecture, ConNAS1d
from toolchain.spaces.connas1d import CHANNELS, hand_crafted, paper_chain, paper_tables
from toolchain.supernet import Supernet
from toolchain.units import Budget

# Bytes of parameters and of the largest block's maps; the paper's units are decimal.
CONSTRAINTS = {
    "c1": (2_000_000, 640_000),
    "c2": (256_000, 112_000),
    "c3": (128_000, 36_000),
    "c4": (64_000, 18_000),
}
METRICS = {
    "flash_bytes": ArcMetric("sum", lambda arc: arc.constant_bytes),
    "ram_bytes": ArcMetric("max", lambda arc: arc.ram_bytes),
}
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Schedule:
    """How much is spent.

    Attributes:
        channels: of the searched space; the paper's has all seven.
        search: settings of ConNAS.
        root_epochs, supernet_epochs: of the supernet that exact selection uses: on one network, then on single paths.
        afresh: ConNAS starts from random weights for each constraint, as in the paper; else from that supernet, so that
            one training serves all.
        epochs, batch_size, learning_rate, final_learning_rate: of every final training.
        folds: of five, how many are trained.
        hand_crafted: which of the six models.
        samples: validation samples for contributions.
    """

    channels: tuple[int, ...]
    search: ConnasConfig
    root_epochs: int
    supernet_epochs: int
    afresh: bool
    epochs: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float
    folds: int
    hand_crafted: tuple[str, ...]
    samples: int


SCHEDULES = {
    "reduced": Schedule(
        channels=(8, 16, 32, 64, 128),
        search=replace(
            ConnasConfig.quick(epochs=6, batch_size=32),
            epoch_steps=25,
            path_steps=1,
            temperature=1.0,
            learning_rate=0.002,
            final_learning_rate=0.0005,
        ),
        root_epochs=3,
        supernet_epochs=8,
        afresh=False,
        epochs=20,
        batch_size=64,
        learning_rate=0.05,
        final_learning_rate=0.0,
        folds=3,
        hand_crafted=("Conv1D-Reg", "Conv1D-DS", "Conv1D-Reg-Min", "Conv1D-DS-Min"),
        samples=20_000,
    ),
    "full": Schedule(
        channels=CHANNELS,
        search=ConnasConfig(),
        root_epochs=15,
        supernet_epochs=150,
        afresh=True,
        epochs=250,
        batch_size=16,
        learning_rate=0.0025,
        final_learning_rate=0.0001,
        folds=5,
        hand_crafted=tuple(hand_crafted(ConNAS1d())),
        samples=100_000,
    ),
}


def budgets_of(constraint: str) -> list[Budget]:
    """Of one of the paper's constraints, on the metrics of `METRICS`."""
    weights, peak = CONSTRAINTS[constraint]
    return [Budget("flash_bytes", weights), Budget("ram_bytes", peak)]


def supernet_of(schedule: Schedule, data: Arrays, device: str, seed: int, folder: Path) -> Supernet:
    """The trained supernet; kept in the results folder, so it is trained once.

    One network first, 32 channels in regular convolutions, then single paths that depart from it in any number of
    choices. Paths drawn at random from the first step on are still where static and dynamic faults look the same
    (75 %) after thousands of steps, and there separable networks look no worse than others.
    """
    space = ConNAS1d(channels=schedule.channels)
    root = space.decode(" ".join(["conv32"] * len(space.choices)))

    def depart(rng: np.random.Generator) -> Architecture:
        there = rng.random(len(root)) < rng.random()
        return tuple(int(n if t else r) for r, n, t in zip(root, space.sample(rng), there, strict=True))

    torch.manual_seed(seed)
    supernet = Supernet(space).to(device)
    for name, sample, epochs in (
        ("root", lambda rng: root, schedule.root_epochs),
        ("supernet", depart, schedule.supernet_epochs),
    ):
        train_supernet(
            supernet, data["x_train"], data["y_train"], sample=sample, epochs=epochs, batch_size=64, seed=seed,
            checkpoint=folder / f"{name}.safetensors", resume=True,
            progress=lambda done, total, note: print(f"  supernet epoch {done}/{total}: {note}", flush=True),
        )  # fmt: skip
    return supernet


def search(
    constraint: str, schedule: Schedule, data: Arrays, device: str, seed: int, folder: Path
) -> Architecture:
    """ConNAS under one constraint, as an architecture of the searched space."""
    space = ConNAS1d(channels=schedule.channels)
    torch.manual_seed(seed)
    fresh = Supernet(space).to(device)
    supernet = fresh if schedule.afresh else supernet_of(schedule, data, device, seed, folder)
    file = folder / f"ConNAS+{constraint}.safetensors"
    result = _connas(supernet, budgets_of(constraint), schedule.search, data, constraint, file)
    print(f"  {constraint}: {space.encode(result.architecture)}, {100 * result.score:.2f} % with inherited weights"
          f"{', repaired' if result.repaired else ''}", flush=True)  # fmt: skip
    return result.architecture


def _connas(
    supernet: Supernet, budgets: list[Budget], config: ConnasConfig, data: Arrays, name: str, file: Path
) -> SearchResult:
    space = supernet.space
    assert isinstance(space, ConNAS1d)
    return connas_search(
        supernet,
        CostTable.of(paper_chain(space), METRICS),
        budgets,
        x=data["x_train"],
        y=data["y_train"],
        x_val=data["x_val"],
        y_val=data["y_val"],
        checker=lambda a: _exact(space, a),
        config=config,
        progress=lambda done, total, note: print(f"  {name} epoch {done}/{total}: {note}", flush=True),
        checkpoint=file,
        resume=True,
    )


def _exact(space: ConNAS1d, architecture: Architecture) -> dict[str, float]:
    """Parameters counted on the real module."""
    count = sum(p.numel() for p in space.module(architecture).parameters())
    return {"flash_bytes": 4.0 * count, "ram_bytes": float(paper_tables(space, architecture).peak_bytes)}


def select(schedule: Schedule, data: Arrays, device: str, seed: int, folder: Path) -> dict[str, Architecture]:
    """BINAS's way: one supernet, measured contributions, then the exact optimum under each constraint."""
    space = ConNAS1d(channels=schedule.channels)
    supernet = supernet_of(schedule, data, device, seed, folder)
    paths = sample_paths(
        supernet, data["x_val"], data["y_val"], samplers=[space.sample], samples=schedule.samples,
        companions=data["x_train"], seed=seed,
    )  # fmt: skip
    estimator = choice_contributions(paths, [len(choice.candidates) for choice in space.choices])
    chain = paper_chain(space)
    values = [v.tolist() for v in estimator.arc_values(chain)]
    model = from_chain(chain, values, METRICS, value_base=estimator.base)
    return {name: solve(model, budgets_of(name)).architecture for name in CONSTRAINTS}
