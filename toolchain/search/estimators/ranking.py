"""How well predicted scores rank: Kendall's tau-b, Spearman's rho, mean squared error. Ties are honoured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.search.protocols import Floats


@dataclass(frozen=True, slots=True)
class Ranking:
    """Agreement of predicted and measured scores.

    Attributes:
        kendall: tau-b, -1 to 1. spearman: rank correlation, -1 to 1. Both NaN where one side is constant.
        mse: mean squared error, in the scores' unit squared.
        samples: number of pairs.
    """

    kendall: float
    spearman: float
    mse: float
    samples: int


def rank_quality(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Ranking:
    """All three figures of two equally long vectors (BINAS, section 5.2 and Figure 7 left).

    Raises:
        ConfigurationError: see `kendall_tau`.
    """
    a, b = _pair(predicted, measured)
    return Ranking(kendall_tau(a, b), spearman_rho(a, b), float(np.mean((a - b) ** 2)), len(a))


def kendall_tau(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Kendall's tau-b of two (n,) vectors, in O(n log n) (Knight 1966); NaN where one of them is constant.

    Raises:
        ConfigurationError: lengths differ, fewer than two values, or NaN among them.
    """
    x, y = _pair(a, b)
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    total = len(x) * (len(x) - 1) // 2
    tied_x, tied_y = _tied_pairs(x), _tied_pairs(np.sort(y))
    both = _runs((x[1:] != x[:-1]) | (y[1:] != y[:-1]), len(x))
    tied_both = int((both * (both - 1) // 2).sum())
    if tied_x == total or tied_y == total:
        return math.nan
    # Sorted by x and then y, pairs tied in x are in order, so an inversion of y is a discordant pair.
    discordant = _inversions(np.unique(y, return_inverse=True)[1].astype(np.int64))
    concordant_less_discordant = total - tied_x - tied_y + tied_both - 2 * discordant
    return concordant_less_discordant / math.sqrt(total - tied_x) / math.sqrt(total - tied_y)


def spearman_rho(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two (n,) vectors, ties at their mean rank; NaN where one is constant.

    Raises:
        ConfigurationError: see `kendall_tau`.
    """
    x, y = _pair(a, b)
    ranks = [_mean_ranks(v) - (len(v) - 1) / 2 for v in (x, y)]
    scale = math.sqrt(float(ranks[0] @ ranks[0])) * math.sqrt(float(ranks[1] @ ranks[1]))
    return float(ranks[0] @ ranks[1]) / scale if scale else math.nan


def _pair(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ConfigurationError(
            f"shapes {x.shape} and {y.shape}: ranking needs two vectors of one length, 2 or more"
        )
    if np.isnan(x).any() or np.isnan(y).any():
        raise ConfigurationError("NaN cannot be ranked")
    return x, y


def _runs(changes: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.int64]:
    """Lengths of the runs of equal neighbours; `changes[i]` says that i and i + 1 differ."""
    edges = np.concatenate([[0], np.flatnonzero(changes) + 1, [length]])
    return np.diff(edges).astype(np.int64)


def _tied_pairs(ordered: Floats) -> int:
    runs = _runs(ordered[1:] != ordered[:-1], len(ordered))
    return int((runs * (runs - 1) // 2).sum())


def _mean_ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - 1 - (counts - 1) / 2)[inverse]


def _inversions(values: npt.NDArray[np.int64]) -> int:
    """Number of pairs i < j with values[i] > values[j]: bottom-up merges, each level at once in NumPy."""
    count, width = 0, 1
    while width < len(values):
        merged = values.copy()
        for begin in range(0, len(values) - width, 2 * width):
            left, right = values[begin : begin + width], values[begin + width : begin + 2 * width]
            count += len(left) * len(right) - int(np.searchsorted(left, right, side="right").sum())
            merged[begin : begin + len(left) + len(right)] = np.sort(values[begin : begin + 2 * width])
        values, width = merged, 2 * width
    return count
