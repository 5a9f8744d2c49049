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
from toolchain.search.evaluators import SupernetEvaluator, recalibration_batches, train_supernet
from toolchain.search.exact.model import from_chain
from toolchain.search.exact.solver import solve
from toolchain.search.protocols import Sampler, SearchResult
from toolchain.search.random_search import random_search
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
        root_epochs, supernet_epochs: of a constraint's supernet: on its root alone, then on single paths.
        afresh: ConNAS starts from random weights, as in the paper; else from that supernet.
        epochs, batch_size, learning_rate, final_learning_rate: of every final training.
        folds: of five, how many are trained.
        hand_crafted: which of the six models.
        samples: validation samples for contributions.
        drawn: networks that the control draws within a constraint.
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
    drawn: int


SCHEDULES = {
    "reduced": Schedule(
        channels=(8, 16, 32, 64, 128),
        # The weights are the supernet's and stay as they are: mixtures would undo in hundreds of steps what single
        # paths have learned, so the rate is next to nothing, and the temperature starts where a draw is nearly a path.
        search=replace(
            ConnasConfig.quick(epochs=10, batch_size=32),
            epoch_steps=40,
            path_steps=0,
            temperature=0.5,
            learning_rate=1e-6,
            final_learning_rate=1e-6,
            alpha_learning_rate=0.05,
            candidates=12,
        ),
        root_epochs=10,
        supernet_epochs=24,
        afresh=False,
        epochs=20,
        batch_size=64,
        learning_rate=0.05,
        final_learning_rate=0.0,
        folds=5,
        hand_crafted=("Conv1D-Reg", "Conv1D-DS", "Conv1D-Reg-Min", "Conv1D-DS-Min"),
        samples=20_000,
        drawn=100,
    ),
    "full": Schedule(
        channels=CHANNELS,
        search=ConnasConfig(),
        root_epochs=150,
        supernet_epochs=150,
        afresh=True,
        epochs=250,
        batch_size=16,
        learning_rate=0.0025,
        final_learning_rate=0.0001,
        folds=5,
        hand_crafted=tuple(hand_crafted(ConNAS1d())),
        samples=100_000,
        drawn=1000,
    ),
}


def keeps(space: ConNAS1d, constraint: str, architecture: Architecture) -> bool:
    """Whether an architecture is within one of the paper's constraints, in the paper's accounting."""
    size, (weights, peak) = paper_tables(space, architecture), CONSTRAINTS[constraint]
    return size.weight_bytes <= weights and size.peak_bytes <= peak


def budgets_of(constraint: str) -> list[Budget]:
    """Of one of the paper's constraints, on the metrics of `METRICS`."""
    weights, peak = CONSTRAINTS[constraint]
    return [Budget("flash_bytes", weights), Budget("ram_bytes", peak)]


def root_of(space: ConNAS1d, constraint: str) -> Architecture:
    """Where a supernet starts: regular convolutions of one width, the widest that keeps the constraint."""
    widths = sorted(c.channels for c in space.choices[0].candidates if c.family == "conv" and c.channels)
    roots = [space.decode(" ".join([f"conv{width}"] * len(space.choices))) for width in widths]
    return [root for root in roots if keeps(space, constraint, root)][-1]


def within(space: ConNAS1d, constraint: str) -> Sampler:
    """Draws networks that keep the constraint and depart from its root in any number of choices."""
    root = root_of(space, constraint)

    def depart(rng: np.random.Generator) -> Architecture:
        while True:
            there = rng.random(len(root)) < rng.random()
            path = tuple(int(n if t else r) for r, n, t in zip(root, space.sample(rng), there, strict=True))
            if keeps(space, constraint, path):
                return path

    return depart


def supernet_of(
    constraint: str, schedule: Schedule, data: Arrays, device: str, seed: int, folder: Path
) -> Supernet:
    """The supernet of one constraint; kept in the results folder, so it is trained once.

    Its root first, alone; then single paths within the constraint that depart from it. By themselves, paths drawn at
    random stay where static and dynamic faults look the same (75 %) for thousands of steps, and there separable
    networks look no worse than others; and what a wide root knows does not reach networks a tenth of its size
    (docs/motor.md).
    """
    space = ConNAS1d(channels=schedule.channels)
    root = root_of(space, constraint)
    torch.manual_seed(seed)
    supernet = Supernet(space).to(device)
    for name, sample, epochs, rate, final_rate in (
        ("root", lambda rng: root, schedule.root_epochs, 0.05, 0.02),
        ("supernet", within(space, constraint), schedule.supernet_epochs, 0.02, 0.0),
    ):
        train_supernet(
            supernet, data["x_train"], data["y_train"], sample=sample, epochs=epochs, batch_size=64,
            learning_rate=rate, final_learning_rate=final_rate, weight_decay=1e-4, bfloat16=True, seed=seed,
            checkpoint=folder / f"{name}-{constraint}.safetensors", resume=True,
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
    supernet = fresh if schedule.afresh else supernet_of(constraint, schedule, data, device, seed, folder)
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


def select(
    constraint: str, schedule: Schedule, data: Arrays, device: str, seed: int, folder: Path
) -> Architecture:
    """BINAS's way: measured contributions on the constraint's supernet, then the exact optimum of their sum."""
    space = ConNAS1d(channels=schedule.channels)
    supernet = supernet_of(constraint, schedule, data, device, seed, folder)
    paths = sample_paths(
        supernet, data["x_val"], data["y_val"], samplers=[within(space, constraint)], samples=schedule.samples,
        companions=data["x_train"], seed=seed,
    )  # fmt: skip
    estimator = choice_contributions(paths, [len(choice.candidates) for choice in space.choices])
    chain = paper_chain(space)
    values = [v.tolist() for v in estimator.arc_values(chain)]
    model = from_chain(chain, values, METRICS, value_base=estimator.base)
    return solve(model, budgets_of(constraint)).architecture


def drawn(
    constraint: str, schedule: Schedule, data: Arrays, device: str, seed: int, folder: Path
) -> Architecture:
    """The rejection loop, as a control: of random networks within the constraint the best with the same weights."""
    space = ConNAS1d(channels=schedule.channels)
    supernet = supernet_of(constraint, schedule, data, device, seed, folder)
    batches = recalibration_batches(data["x_train"], torch.device(device), seed=seed)
    result = random_search(
        CostTable.of(paper_chain(space), METRICS),
        SupernetEvaluator(supernet, data["x_val"], data["y_val"], batches),
        budgets_of(constraint),
        sample=space.sample,
        evaluations=schedule.drawn,
        checker=lambda a: _exact(space, a),
        seed=seed,
    )
    return result.architecture
