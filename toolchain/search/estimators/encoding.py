"""Architectures as the 0/1 vectors alpha (configurations) and beta (depths) of BINAS, equation 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from toolchain.search.estimators.additive import index_table
from toolchain.search.protocols import Architecture, Floats, Ints

if TYPE_CHECKING:  # imports torch, which nothing here needs
    from toolchain.spaces.mobilenet import Stage


@dataclass(frozen=True, slots=True)
class Encoding:
    """How architectures of one space become vectors.

    Attributes:
        sizes: number of candidates of each choice.
        stages: stages of variable depth. A block that is not there has no alpha, and the stage's depth is its
            beta. Empty for spaces without such stages: all candidates are alpha, beta has no columns.
    """

    sizes: tuple[int, ...]
    stages: tuple[Stage, ...] = ()

    def encode(self, architectures: Ints | Sequence[Architecture]) -> tuple[Floats, Floats]:
        """(n, choices) indices -> alpha (n, A) and beta (n, B), both 0/1 float64.

        Raises:
            ConfigurationError: wrong number of choices, or an index out of range.
        """
        table = index_table(architectures, self.sizes)
        kept = list(self.sizes)
        beta = []
        for stage in self.stages:
            blocks = range(stage.first, stage.first + stage.depth)
            for choice in blocks:
                kept[choice] = stage.none
            depth = (table[:, blocks.start : blocks.stop] != stage.none).sum(1)
            beta.append(depth[:, None] == np.arange(stage.least, stage.depth + 1))
        alpha = [table[:, choice, None] == np.arange(size) for choice, size in enumerate(kept)]
        empty = np.zeros((len(table), 0))
        return np.concatenate([empty, *alpha], axis=1), np.concatenate([empty, *beta], axis=1)
