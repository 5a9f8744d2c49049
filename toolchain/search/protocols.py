"""What searchers, evaluators and cost models know of each other (design.md, section 6). NumPy only, no torch.

A *searcher* takes budgets and a cost model and returns a `SearchResult` or raises `InfeasibleError`. An *evaluator*
says how good architectures are, and what it cost to know that. A *cost model* says what they cost on the device. None
of the three knows how the others work, so tables, predictors, exact solvers and supernets can be exchanged freely.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

Architecture: TypeAlias = tuple[int, ...]
"""The index of the chosen candidate for each choice of the space."""

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

ExactChecker: TypeAlias = Callable[[Architecture], Mapping[str, float]]
"""Prices one architecture from its real graph and file: metric -> value, in whole units where the metric is a count.

It must give every metric that has a budget. Only an architecture that it passes is ever returned.
"""

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, one line about the last step)."""


class CostModel(Protocol):
    """Prices of architectures by table; structural, so that `profilers` need not import this module."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the columns that `price` and `swaps` give, each ending in its unit (toolchain.units)."""
        ...

    def price(self, architectures: Ints) -> Floats:
        """(n, choices) candidate indices -> (n, metrics) float64; a row of inf where the architecture is not valid."""
        ...

    def swaps(self, architecture: Architecture) -> Sequence[Floats]:
        """Per choice, (candidates, metrics): the whole network's costs with that one choice replaced (ConNAS eq. 3).

        A row is inf where the candidate is not available or makes a later choice unavailable.
        """
        ...

    def least(self) -> Mapping[str, tuple[float, Architecture]]:
        """Per metric, the least value over the whole space and a valid architecture that attains it."""
        ...


@runtime_checkable
class PlanningCostModel(CostModel, Protocol):
    """A cost model whose prices depend on bounds: each architecture is priced as it would be built to keep them."""

    def keeping(self, metrics: Collection[str]) -> CostModel:
        """The same with the bounds on these metrics alone; the others are free."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good one architecture is.

    Attributes:
        score: larger is better (validation accuracy unless the evaluator says otherwise).
        uncertainty: standard error of `score`, in its unit; 0 for a table.
        seconds: what it took to know that (the price of the evaluation, not of the network).
    """

    score: float
    uncertainty: float = 0.0
    seconds: float = 0.0


class Evaluator(Protocol):
    """Architectures in, scores with uncertainty and their price out."""

    def __call__(self, architectures: Sequence[Architecture]) -> Sequence[Evaluation]:
        """One evaluation for each architecture, in order. The same architecture gets the same score."""
        ...


Sampler: TypeAlias = Callable[[np.random.Generator], Architecture]
"""Draws one valid architecture; `Space.sample` is one. Also says which sub-network a supernet trains next."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One row of a search's log.

    Attributes:
        step: counts from 0; alpha steps for ConNAS, evaluations for the baselines.
        epoch: epoch or generation it belongs to, from 0.
        values: named numbers; the searcher's docstring lists the names.
    """

    step: int
    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """An architecture that keeps every budget, by the cost model and by the exact checker.

    Attributes:
        architecture: candidate indices, one for each choice.
        score: larger is better; validation accuracy with inherited weights unless the evaluator says otherwise.
        predicted: metric -> value by the cost model.
        exact: metric -> value by the exact checker; empty when the caller gave none.
        method: `connas`, `random`, `evolution`, ...
        seed: what makes the run repeatable.
        evaluations: number of architectures that were scored.
        repaired: True when none of the searcher's own candidates passed and a neighbour was taken.
        history: the log, see the searcher.
        alternatives: other architectures that the searcher scored and that keep the budgets by the cost model,
            best first, with their scores; not exactly checked.
        evaluated: every architecture that was scored, with its score, whether within the budgets or not.
    """

    architecture: Architecture
    score: float
    predicted: Mapping[str, float]
    exact: Mapping[str, float]
    method: str
    seed: int
    evaluations: int
    repaired: bool = False
    history: tuple[HistoryRow, ...] = field(default=(), repr=False)
    alternatives: tuple[tuple[Architecture, float], ...] = field(default=(), repr=False)
    evaluated: tuple[tuple[Architecture, float], ...] = field(default=(), repr=False)
