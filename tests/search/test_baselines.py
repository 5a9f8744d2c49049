"""Random search and evolution: feasible, repeatable, within their evaluations; evolution finds more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.fakes import TableCost, WeightedScore
from tests.search.test_feasibility import brute_violation, problems
from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.search.evolution import EvolutionConfig, evolve
from toolchain.search.protocols import Architecture, SearchResult
from toolchain.search.random_search import random_search
from toolchain.units import Budget

METHODS: list[Callable[..., SearchResult]] = [random_search, evolve]


def knapsack(choices: int = 8, candidates: int = 5) -> tuple[TableCost, WeightedScore]:
    """Better candidates are dearer, by amounts that differ."""
    rng = np.random.default_rng(1)
    value = np.sort(rng.random((choices, candidates)), axis=1)
    price = 10 * value**2 + rng.random((choices, candidates)) + 1
    return TableCost({"latency_us": price.tolist()}), WeightedScore(value.tolist())


def uniform(cost: TableCost) -> Callable[[np.random.Generator], Architecture]:
    return lambda rng: tuple(int(rng.integers(size)) for size in cost.sizes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("drawn", [True, False])
def test_feasible_repeatable_and_counted(method: Callable[..., SearchResult], drawn: bool) -> None:
    cost, score = knapsack()
    budgets = [Budget("latency_us", 30.0)]
    calls: list[tuple[int, int, str]] = []
    arguments: dict[str, Any] = {"sample": uniform(cost) if drawn else None, "evaluations": 60, "seed": 4}
    first = method(cost, score, budgets, checker=cost.exact, progress=lambda *a: calls.append(a), **arguments)
    assert first == method(cost, score, budgets, checker=cost.exact, **arguments)
    assert first.architecture != method(cost, score, budgets, **{**arguments, "seed": 5}).architecture
    assert first.predicted["latency_us"] <= 30
    assert first.exact == first.predicted
    assert first.evaluations == len(first.history) == len(calls) == 60
    assert calls[-1][:2] == (60, 60)
    assert first.score == max(row.values["score"] for row in first.history)
    assert first.history[-1].values["best"] == first.score
    assert all(cost.exact(a)["latency_us"] <= 30 for a, _ in first.alternatives)
    assert not first.repaired


def test_evolution_finds_more_than_random() -> None:
    cost, score = knapsack()
    budgets = [Budget("latency_us", 30.0)]
    found = {
        m: np.mean([m(cost, score, budgets, evaluations=120, seed=s).score for s in range(3)])
        for m in METHODS
    }
    assert found[evolve] > found[random_search]


@pytest.mark.parametrize("method", METHODS)
def test_a_rare_feasible_region_does_not_hang(method: Callable[..., SearchResult]) -> None:
    # 3 of 10^8 architectures are feasible, so no draw ever hits one.
    cost = TableCost({"latency_us": [[1.0, *[50.0] * 9]] * 7 + [[1.0, 2.0, 3.0, *[50.0] * 7]]})
    score = WeightedScore([[float(i) for i in range(10)]] * 8)
    result = method(cost, score, [Budget("latency_us", 10.0)], sample=uniform(cost), evaluations=50)
    assert result.architecture == (0, 0, 0, 0, 0, 0, 0, 2)
    assert result.evaluations == 3


@pytest.mark.parametrize("method", METHODS)
def test_infeasible_is_said_before_any_evaluation(method: Callable[..., SearchResult]) -> None:
    cost, score = knapsack(choices=3)
    with pytest.raises(InfeasibleError) as caught:
        method(cost, score, [Budget("latency_us", 1.0)])
    assert not score.seen
    assert caught.value.binding == ("latency_us",)


@pytest.mark.parametrize("method", METHODS)
def test_a_pick_that_fails_exactly_is_passed_over(method: Callable[..., SearchResult]) -> None:
    cost, score = knapsack(choices=4)

    def checker(a: Architecture) -> dict[str, float]:
        return {"latency_us": 1.2 * cost.exact(a)["latency_us"]}

    result = method(cost, score, [Budget("latency_us", 16.0)], checker=checker, evaluations=30)
    assert result.exact["latency_us"] <= 16 < 16.0001
    assert result.exact["latency_us"] == pytest.approx(1.2 * result.predicted["latency_us"])


@pytest.mark.parametrize("method", METHODS)
def test_settings_are_checked(method: Callable[..., SearchResult]) -> None:
    cost, score = knapsack(choices=2)
    with pytest.raises(ConfigurationError, match="evaluations is 0"):
        method(cost, score, [], evaluations=0)
    with pytest.raises(ConfigurationError):
        EvolutionConfig(population=0)
    with pytest.raises(ConfigurationError):
        EvolutionConfig(crossover=1.5)


@given(problems(), st.integers(0, 5), st.sampled_from(METHODS))
@settings(max_examples=30)
def test_results_always_pass_the_exact_check(
    problem: tuple[TableCost, list[Budget]], seed: int, method: Callable[..., SearchResult]
) -> None:
    cost, budgets = problem
    score = WeightedScore([[float(i) for i in range(size)] for size in cost.sizes])
    if brute_violation(cost, budgets) > 0:
        with pytest.raises(InfeasibleError):
            method(cost, score, budgets, sample=cost.sample, checker=cost.exact, evaluations=12, seed=seed)
        return
    result = method(
        cost, score, budgets, sample=cost.sample, checker=cost.exact, evaluations=12, seed=seed,
        **({"config": EvolutionConfig(population=4, tournament=2)} if method is evolve else {}),
    )  # fmt: skip
    assert all(b.keeps(result.exact[b.metric]) for b in budgets)
    assert result.exact == cost.exact(result.architecture)
