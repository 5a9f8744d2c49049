"""Scores that add up: a base and one number per (choice, candidate), and what exact selection needs of them.

The paper's bilinear estimator (BINAS, equation 3) has this form too, once depth is written as trailing `none`
candidates: with depth deltas q_d, giving `none` at block b the value q_(b-1) - q_b and adding q_D to the base makes
the sum over the trailing `none`s telescope to q_d. So no products are left, and a longest path is the best network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.graph.chain import Chain
from toolchain.search.protocols import Architecture, Floats, Ints


class Estimator(Protocol):
    """Predicts scores of architectures; larger is better."""

    def predict(self, architectures: Ints | Sequence[Architecture]) -> Floats:
        """(n, choices) candidate indices -> (n,) scores, in the unit that the estimator was fitted in."""
        ...


@dataclass(frozen=True, slots=True)
class AdditiveEstimator:
    """score(a) = base + sum over choices l of values[l][a_l].

    Attributes:
        base: score of nothing chosen, in the unit of the scores (accuracy: 0 to 1).
        values: per choice, (candidates,) float64 contributions in the same unit; finite.
        errors: per choice, (candidates,) standard errors of `values`; empty where nobody measured them.
    """

    base: float
    values: tuple[Floats, ...]
    errors: tuple[Floats, ...] = ()

    def __post_init__(self) -> None:
        if not np.isfinite(self.base) or not all(np.isfinite(v).all() for v in self.values):
            raise ConfigurationError("an additive estimator has a value that is not finite")
        if self.errors and [v.shape for v in self.errors] != [v.shape for v in self.values]:
            raise ConfigurationError("an additive estimator's errors do not pair up with its values")

    def predict(self, architectures: Ints | Sequence[Architecture]) -> Floats:
        """(n, choices) candidate indices -> (n,) scores.

        Raises:
            ConfigurationError: wrong number of choices, or an index out of range.
        """
        table = index_table(architectures, [len(v) for v in self.values])
        scores = np.full(len(table), self.base)
        for choice, values in enumerate(self.values):
            scores += values[table[:, choice]]
        return scores

    def arc_values(self, chain: Chain) -> tuple[Floats, ...]:
        """Per position of the chain, one value for each of its arcs, in `chain.arcs`' order; 0 at stem and head.

        The values along a path and `base` add up to `predict` of its architecture.

        Raises:
            ConfigurationError: the chain is of another space.
        """
        if len(chain.choices) != len(self.values):
            raise ConfigurationError(
                f"the estimator has {len(self.values)} choices, the chain {len(chain.choices)}"
            )
        found = [np.zeros(len(arcs)) for arcs in chain.arcs]
        for values, position in zip(self.values, chain.choices, strict=True):
            candidates = np.array([arc.candidate for arc in chain.arcs[position]])
            if candidates.max() >= len(values):
                raise ConfigurationError(
                    f"position {position} of the chain has candidate {candidates.max()}, the estimator "
                    f"has {len(values)}"
                )
            found[position] = values[candidates]
        return tuple(found)


def index_table(architectures: Ints | Sequence[Architecture], sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Architectures as a checked (n, choices) int64 array.

    Args:
        architectures: n rows of candidate indices.
        sizes: number of candidates of each choice.

    Raises:
        ConfigurationError: another number of choices, or an index out of range.
    """
    table = np.asarray(architectures, dtype=np.int64)
    if table.size == 0:
        return table.reshape(0, len(sizes))
    if table.ndim != 2 or table.shape[1] != len(sizes):
        raise ConfigurationError(
            f"architectures of shape {table.shape}, expected (n, {len(sizes)}): one index per choice"
        )
    wrong = (table < 0) | (table >= np.asarray(sizes))
    if wrong.any():
        row, choice = (int(i) for i in np.argwhere(wrong)[0])
        raise ConfigurationError(
            f"architecture {row} has index {table[row, choice]} at choice {choice}, which has "
            f"{sizes[choice]} candidates"
        )
    return table
