"""Strict fairness (FairNAS, Chu et al., 2019): every candidate of every choice is trained equally often.

Each step runs several paths on the same batch, adds up their gradients, and updates once. Candidates are dealt from
shuffled decks, one deck a choice: with as many paths as candidates, each candidate of a choice is used exactly once a
step. In stages of variable depth a block is not always there; depths are dealt from a deck of their own, and a block's
deck only when the block exists. So at any moment the uses of two configurations of a block differ by at most one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.spaces import Architecture, Space, Stage, stages_of
from toolchain.supernet.single_path import train_paths
from toolchain.supernet.supernet import Supernet
from toolchain.supernet.train import Array, Progress


def fair_paths(space: Space, rng: np.random.Generator) -> Iterator[Architecture]:
    """Endless architectures, dealt from decks as the module says.

    A space with `stages` (a tuple of `Stage`, as `Mobilenet`) deals depths. In any other space, where a candidate
    is not available on the path so far, the deck's next available one is taken and the others wait; a choice whose
    candidates are always available is exactly fair.
    """
    stages = stages_of(space)
    in_stages = {position for s in stages for position in range(s.first, s.first + s.depth)}
    if in_stages and in_stages != set(range(len(space.choices))):
        raise ConfigurationError(f"{space.name}: its stages do not cover its choices")
    if stages:
        yield from _stage_paths(stages, rng)
    leaving = [
        {state: {s.candidate: s.end for s in steps if s.start == state} for state in {s.start for s in steps}}
        for steps in space.steps
    ]
    decks = [_Deck(len(choice.candidates), rng) for choice in space.choices]
    while True:
        state, path = 0, []
        for position, deck in enumerate(decks):
            ends = leaving[position][state]
            path.append(deck.deal(ends))
            state = ends[path[-1]]
        yield tuple(path)


def train_fair(
    supernet: Supernet,
    x: Array,
    y: Array,
    *,
    epochs: int,
    paths: int | None = None,
    batch_size: int = 128,
    learning_rate: float = 0.05,
    final_learning_rate: float = 0.0,
    weight_decay: float = 5e-4,
    bfloat16: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> tuple[float, ...]:
    """Train a supernet by single paths with strict fairness (SGD Nesterov, cosine schedule, one update a step).

    Gradients are summed over the paths, as FairNAS does, so a candidate that is used once a step moves as in
    single-path training. Those of stem and head, which every path uses, are divided by the number of paths.

    Args:
        supernet: trained in place.
        x, y: training data, numpy in torch's layout.
        epochs: passes over the data; each costs `paths` times one of `train_supernet`.
        paths: paths a step; None: as many as the largest choice (of a stage: its configurations) has candidates.
        batch_size, learning_rate, final_learning_rate, weight_decay, bfloat16: as `train_network`.
        seed: the same seed and data give the same weights.
        progress: called after each epoch.
        checkpoint: rewritten after each epoch. resume: continue from it where it exists; the result is the same.

    Returns:
        mean training loss of each epoch.

    Raises:
        DataError: broken data.
        ConfigurationError: a loss that is not finite, bad settings, or a checkpoint of another training.
    """
    paths = paths_per_step(supernet.space) if paths is None else paths
    if min(paths, epochs, batch_size) < 1:
        raise ConfigurationError(
            f"paths {paths}, epochs {epochs} and batch_size {batch_size} must be positive"
        )
    return train_paths(
        supernet, x, y, kind="train_fair", deal=partial(fair_paths, supernet.space), paths=paths, epochs=epochs,
        batch_size=batch_size, learning_rate=learning_rate, final_learning_rate=final_learning_rate,
        weight_decay=weight_decay, seed=seed, progress=progress, checkpoint=checkpoint, resume=resume,
        more_settings={"paths": paths}, bfloat16=bfloat16,
    )  # fmt: skip


def paths_per_step(space: Space) -> int:
    """Paths that use each candidate of the largest choice once; of a stage, each configuration (`none` is none)."""
    stages = stages_of(space)
    if stages:
        return max(stage.none for stage in stages)
    return max(len(choice.candidates) for choice in space.choices)


def _stage_paths(stages: tuple[Stage, ...], rng: np.random.Generator) -> Iterator[Architecture]:
    depths = [_Deck(stage.depth - stage.least + 1, rng) for stage in stages]
    blocks = [[_Deck(stage.none, rng) for _ in range(stage.depth)] for stage in stages]
    while True:
        path: list[int] = []
        for stage, depth_deck, decks in zip(stages, depths, blocks, strict=True):
            depth = stage.least + depth_deck.deal()
            path += [deck.deal() for deck in decks[:depth]] + [stage.none] * (stage.depth - depth)
        yield tuple(path)


class _Deck:
    """Cards 0 to size - 1, dealt in random order; all are dealt before one comes again."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._cards: list[int] = []

    def deal(self, allowed: dict[int, int] | None = None) -> int:
        """The next card, or the next that is a key of `allowed`; the cards before it keep their turn."""
        while True:
            for place, card in enumerate(self._cards):
                if allowed is None or card in allowed:
                    return self._cards.pop(place)
            # A card that waits does not come twice, so that rarely available ones cannot pile up.
            self._cards += [
                card for card in self._rng.permutation(self._size).tolist() if card not in self._cards
            ]
