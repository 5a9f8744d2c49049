"""Regularised (aging) evolution under hard budgets. Source: Real et al., AAAI 2019, with feasible children only."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.search.feasibility import Limits, require_feasible
from toolchain.search.protocols import (
    Architecture,
    CostModel,
    Evaluator,
    ExactChecker,
    HistoryRow,
    Progress,
    Sampler,
    SearchResult,
)
from toolchain.search.random_search import feasible_samples, finish
from toolchain.units import Budget


@dataclass(frozen=True, slots=True)
class EvolutionConfig:
    """Settings of the evolution.

    Attributes:
        population: how many live at once; the oldest dies for each child.
        tournament: how many are drawn for each parent; the best of them is it.
        crossover: probability that a child has two parents.
        mutations: choices that a child changes, at most.
        tries: attempts at a child that is feasible and new before the next is made.
    """

    population: int = 32
    tournament: int = 8
    crossover: float = 0.5
    mutations: int = 2
    tries: int = 20

    def __post_init__(self) -> None:
        if min(self.population, self.tournament, self.mutations, self.tries) < 1:
            raise ConfigurationError(f"evolution settings must be positive: {self}")
        if not 0 <= self.crossover <= 1:
            raise ConfigurationError(f"crossover is {self.crossover}; it is a probability")


def evolve(
    cost: CostModel,
    evaluator: Evaluator,
    budgets: Sequence[Budget],
    *,
    sample: Sampler | None = None,
    evaluations: int = 100,
    checker: ExactChecker | None = None,
    config: EvolutionConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SearchResult:
    """Evolve feasible architectures and return the best that passes the exact check.

    Mutations draw from the feasible single swaps, so they need no rejection. A crossover that breaks a budget is
    repeated up to `config.tries` times and then replaced by a mutation. History rows hold `score` and `best` of each
    evaluation; their epoch counts populations.

    Args:
        cost: the cost model.
        evaluator: scores architectures, larger is better.
        budgets: hard upper bounds; at most one per metric.
        sample: draws the first population, e.g. `Space.sample`; None uses walks through feasible swaps.
        evaluations: how many distinct architectures to score; fewer when no new ones are found.
        checker: exact check of the final pick.
        config: see `EvolutionConfig`.
        seed: makes the run repeatable.
        progress: called after each evaluation.

    Raises:
        InfeasibleError: no architecture keeps the budgets, or none passes the exact check.
    """
    if evaluations < 1:
        raise ConfigurationError(f"evaluations is {evaluations}; it must be at least 1")
    config = config or EvolutionConfig()
    rng = np.random.default_rng(seed)
    limits = Limits.of(cost, budgets)
    anchor = require_feasible(cost, budgets, rng)
    scores: dict[Architecture, float] = {}
    rows: list[HistoryRow] = []
    living: deque[Architecture] = deque(maxlen=config.population)

    def score(architecture: Architecture) -> None:
        scores[architecture] = evaluator([architecture])[0].score
        living.append(architecture)
        best = max(scores.values())
        values = {"score": scores[architecture], "best": best}
        rows.append(HistoryRow(len(rows), len(rows) // config.population, values))
        if progress is not None:
            progress(len(scores), evaluations, f"best score {best:.4f}")

    first = min(config.population, evaluations)
    for architecture in feasible_samples(cost, budgets, rng, anchor, sample):
        score(architecture)
        if len(scores) >= first:
            break
    while len(scores) < evaluations:
        child = _new_child(cost, limits, scores, list(living), config, rng)
        if child is None:
            break
        score(child)
    return finish(cost, evaluator, budgets, scores, checker, rng, "evolution", seed, rows)


def _new_child(
    cost: CostModel,
    limits: Limits,
    scores: dict[Architecture, float],
    living: list[Architecture],
    config: EvolutionConfig,
    rng: np.random.Generator,
) -> Architecture | None:
    """A feasible architecture that was not scored yet, or None when all tries failed."""
    for _ in range(config.tries):
        child = _tournament(scores, living, config, rng)
        if len(living) > 1 and rng.random() < config.crossover:
            child = _crossed(cost, limits, child, _tournament(scores, living, config, rng), config, rng)
        for _ in range(int(rng.integers(1, config.mutations + 1))):
            child = _mutated(cost, limits, child, rng)
        if child not in scores:
            return child
    # The population may have converged: look further away before giving up.
    for _ in range(config.tries):
        child = living[int(rng.integers(len(living)))]
        for _ in range(len(child)):
            child = _mutated(cost, limits, child, rng)
        if child not in scores:
            return child
    return None


def _tournament(
    scores: dict[Architecture, float],
    living: list[Architecture],
    config: EvolutionConfig,
    rng: np.random.Generator,
) -> Architecture:
    drawn = rng.integers(len(living), size=config.tournament)
    return max((living[int(i)] for i in drawn), key=lambda a: (scores[a], a))


def _crossed(
    cost: CostModel,
    limits: Limits,
    mother: Architecture,
    father: Architecture,
    config: EvolutionConfig,
    rng: np.random.Generator,
) -> Architecture:
    """Choices drawn from both parents; all tries are priced at once. The mother where none is feasible."""
    masks = rng.random((config.tries, len(mother))) < 0.5
    children = np.where(masks, np.array(mother), np.array(father))
    found = np.flatnonzero(limits.keeps(cost.price(children)))
    return tuple(int(i) for i in children[found[0]]) if len(found) else mother


def _mutated(cost: CostModel, limits: Limits, parent: Architecture, rng: np.random.Generator) -> Architecture:
    """One feasible swap: a random choice that has any, then one of its feasible candidates."""
    swaps = cost.swaps(parent)
    for choice in rng.permutation(len(parent)):
        allowed = np.flatnonzero(limits.keeps(np.asarray(swaps[choice])))
        allowed = allowed[allowed != parent[choice]]
        if len(allowed):
            return (*parent[:choice], int(rng.choice(allowed)), *parent[choice + 1 :])
    return parent
