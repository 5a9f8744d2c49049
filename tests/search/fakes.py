"""Cost models given by explicit tables, small enough to enumerate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from toolchain.search.protocols import Architecture, Evaluation, Floats, Ints


class TableCost:
    """Sums (or maxima) of entries per choice and candidate; pairs in `forbidden` cannot follow each other.

    Args:
        tables: metric -> per choice the candidates' costs.
        maxima: metrics that combine by maximum (like peak memory).
        forbidden: (choice, candidate, candidate at the next choice) that is not available.
    """

    def __init__(
        self,
        tables: Mapping[str, Sequence[Sequence[float]]],
        maxima: Sequence[str] = (),
        forbidden: Sequence[tuple[int, int, int]] = (),
    ) -> None:
        self.metrics = tuple(tables)
        self.tables = tables
        self.maxima = set(maxima)
        self.forbidden = set(forbidden)
        self.sizes = [len(row) for row in next(iter(tables.values()))]

    def valid(self, a: Architecture) -> bool:
        return not any((i, a[i], a[i + 1]) in self.forbidden for i in range(len(a) - 1))

    def price(self, architectures: Ints) -> Floats:
        rows = [self._one(tuple(int(i) for i in a)) for a in architectures]
        return np.array(rows, dtype=np.float64).reshape(len(architectures), len(self.metrics))

    def _one(self, a: Architecture) -> list[float]:
        if not self.valid(a):
            return [np.inf] * len(self.metrics)
        parts = {m: [row[i] for row, i in zip(t, a, strict=True)] for m, t in self.tables.items()}
        return [max(p) if m in self.maxima else sum(p) for m, p in parts.items()]

    def swaps(self, architecture: Architecture) -> list[Floats]:
        return [
            self.price(np.array([(*architecture[:i], j, *architecture[i + 1 :]) for j in range(size)]))
            for i, size in enumerate(self.sizes)
        ]

    def all(self) -> list[Architecture]:
        return [a for a in itertools.product(*map(range, self.sizes)) if self.valid(a)]

    def least(self) -> dict[str, tuple[float, Architecture]]:
        prices = self.price(np.array(self.all()))
        best = prices.argmin(axis=0)
        return {m: (float(prices[best[k], k]), self.all()[best[k]]) for k, m in enumerate(self.metrics)}

    def sample(self, rng: np.random.Generator) -> Architecture:
        return self.all()[int(rng.integers(len(self.all())))]

    def exact(self, architecture: Architecture) -> dict[str, float]:
        return dict(zip(self.metrics, self._one(architecture), strict=True))


class WeightedScore:
    """An evaluator by table: the sum of the candidates' values; counts its calls."""

    def __init__(self, values: Sequence[Sequence[float]]) -> None:
        self.values = values
        self.seen: list[Architecture] = []

    def __call__(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        self.seen += list(architectures)
        return [Evaluation(sum(row[i] for row, i in zip(self.values, a, strict=True))) for a in architectures]
