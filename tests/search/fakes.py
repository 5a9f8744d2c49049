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
        self.maxima = set(maxima)
        self.forbidden = set(forbidden)
        self.sizes = [len(row) for row in next(iter(tables.values()))]
        # (metrics, choices, candidates), inf beyond a choice's candidates
        self.table = np.full((len(tables), len(self.sizes), max(self.sizes)), np.inf)
        for k, rows in enumerate(tables.values()):
            for i, row in enumerate(rows):
                self.table[k, i, : len(row)] = row
        self._all: list[Architecture] = []
        self._least: dict[str, tuple[float, Architecture]] = {}

    def valid(self, a: Architecture) -> bool:
        return not any((i, a[i], a[i + 1]) in self.forbidden for i in range(len(a) - 1))

    def price(self, architectures: Ints) -> Floats:
        codes = np.asarray(architectures)
        picked = self.table[:, np.arange(len(self.sizes)), codes]  # metrics, n, choices
        columns = [
            part.max(axis=1) if metric in self.maxima else part.sum(axis=1)
            for metric, part in zip(self.metrics, picked, strict=True)
        ]
        prices = np.stack(columns, axis=1)
        for i, first, second in self.forbidden:
            prices[(codes[:, i] == first) & (codes[:, i + 1] == second)] = np.inf
        return prices

    def swaps(self, architecture: Architecture) -> list[Floats]:
        return [
            self.price(np.array([(*architecture[:i], j, *architecture[i + 1 :]) for j in range(size)]))
            for i, size in enumerate(self.sizes)
        ]

    def all(self) -> list[Architecture]:
        if not self._all:
            self._all = [a for a in itertools.product(*map(range, self.sizes)) if self.valid(a)]
        return self._all

    def least(self) -> dict[str, tuple[float, Architecture]]:
        if not self._least and self.forbidden:
            everything = self.all()
            prices = self.price(np.array(everything))
            best = prices.argmin(axis=0)
            self._least = {
                m: (float(prices[best[k], k]), everything[best[k]]) for k, m in enumerate(self.metrics)
            }
        elif not self._least:
            for k, m in enumerate(self.metrics):
                cheapest = tuple(int(j) for j in self.table[k].argmin(axis=1))
                self._least[m] = (float(self.price(np.array([cheapest]))[0, k]), cheapest)
        return self._least

    def sample(self, rng: np.random.Generator) -> Architecture:
        return self.all()[int(rng.integers(len(self.all())))]

    def exact(self, architecture: Architecture) -> dict[str, float]:
        row = self.price(np.array([architecture]))[0]
        return {metric: float(value) for metric, value in zip(self.metrics, row, strict=True)}


class WeightedScore:
    """An evaluator by table: the sum of the candidates' values; counts its calls."""

    def __init__(self, values: Sequence[Sequence[float]]) -> None:
        self.values = values
        self.seen: list[Architecture] = []

    def __call__(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        self.seen += list(architectures)
        return [Evaluation(sum(row[i] for row, i in zip(self.values, a, strict=True))) for a in architectures]
