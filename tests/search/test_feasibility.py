"""Feasibility against brute force on tiny spaces; what the error says when there is no design."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.search.fakes import TableCost
from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.search import feasibility
from toolchain.search.feasibility import (
    Limits,
    explain_infeasible,
    feasible,
    feasible_neighbours,
    find_feasible,
    nearest_design,
    random_walk,
    require_feasible,
)
from toolchain.units import Budget

METRICS = ("latency_us", "flash_bytes", "ram_bytes")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@st.composite
def problems(draw: st.DrawFn) -> tuple[TableCost, list[Budget]]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    row = {size: st.lists(st.integers(1, 20), min_size=size, max_size=size) for size in range(1, 5)}
    tables = {m: [draw(row[size]) for size in sizes] for m in METRICS}
    pairs = [
        (i, a, b)
        for i in range(len(sizes) - 1)
        for a, b in itertools.product(range(sizes[i]), range(sizes[i + 1]))
    ]
    forbidden = draw(st.lists(st.sampled_from(pairs), max_size=4)) if pairs else []
    cost = TableCost(tables, maxima=("ram_bytes",), forbidden=forbidden)
    assume(cost.all())
    bounds = {m: draw(st.integers(1, 45)) for m in METRICS}
    names = draw(st.lists(st.sampled_from(METRICS), min_size=1, max_size=3, unique=True))
    return cost, [Budget(m, bounds[m]) for m in names]


def brute_violation(cost: TableCost, budgets: list[Budget]) -> float:
    return min(
        max(max(0.0, (cost.exact(a)[b.metric] - b.bound) / b.bound) for b in budgets) for a in cost.all()
    )


@given(problems())
def test_nearest_design_equals_brute_force(problem: tuple[TableCost, list[Budget]]) -> None:
    cost, budgets = problem
    nearest = nearest_design(cost, budgets, rng())
    assert nearest.proven
    assert cost.valid(nearest.architecture)
    assert nearest.violation == brute_violation(cost, budgets)
    found = find_feasible(cost, budgets, rng())
    assert (found is None) == (nearest.violation > 0)
    if found is not None:
        assert all(b.keeps(cost.exact(found)[b.metric]) for b in budgets)


@given(problems())
def test_the_error_says_least_binding_and_nearest(problem: tuple[TableCost, list[Budget]]) -> None:
    cost, budgets = problem
    assume(brute_violation(cost, budgets) > 0)
    with pytest.raises(InfeasibleError) as caught:
        require_feasible(cost, budgets, rng())
    error = caught.value
    everything = [cost.exact(a) for a in cost.all()]
    assert error.least == {m: min(costs[m] for costs in everything) for m in METRICS}
    alone = {b.metric for b in budgets if all(not b.keeps(c[b.metric]) for c in everything)}
    if alone:
        assert set(error.binding) == alone
    else:
        chosen = [b for b in budgets if b.metric in error.binding]
        assert len(chosen) >= 2
        assert brute_violation(cost, chosen) > 0
        for left_out in chosen:  # irreducible
            assert brute_violation(cost, [b for b in chosen if b is not left_out]) == 0
    assert error.nearest is not None
    assert cost.valid(error.nearest)
    assert error.nearest_costs == cost.exact(error.nearest)
    assert "nearest design needs" in error.remedy
    assert all(m in error.message for m in error.binding)


@given(problems())
def test_search_on_large_spaces_agrees_with_enumeration(problem: tuple[TableCost, list[Budget]]) -> None:
    cost, budgets = problem
    limit = feasibility.ENUMERABLE
    try:
        feasibility.ENUMERABLE = 0
        nearest = nearest_design(cost, budgets, rng())
    finally:
        feasibility.ENUMERABLE = limit
    assert nearest.violation == pytest.approx(brute_violation(cost, budgets))
    assert not nearest.proven


@given(problems(), st.integers(0, 9))
@settings(max_examples=50)
def test_walks_and_neighbours_stay_inside(problem: tuple[TableCost, list[Budget]], seed: int) -> None:
    cost, budgets = problem
    start = find_feasible(cost, budgets, rng())
    assume(start is not None)
    assert start is not None
    limits = Limits.of(cost, budgets)
    walked = random_walk(cost, limits, start, np.random.default_rng(seed), sweeps=2)
    near = list(feasible_neighbours(cost, limits, start))
    assert near[0] == start
    assert len(set(near)) == len(near)
    assert feasible(cost, np.array([walked, *near]), budgets).all()
    assert all(sum(a != b for a, b in zip(start, other, strict=True)) == 1 for other in near[1:])


def test_a_hard_joint_budget_in_a_large_space_is_found() -> None:
    # 12 choices of 8: 7e10 tuples. Two metrics that oppose each other; the joint budget leaves about 5 % of slack
    # over the Lagrangian optimum, which single swaps from the extremes do not reach at once.
    generator = np.random.default_rng(3)
    first = generator.integers(10, 100, size=(12, 8))
    second = 110 - first + generator.integers(0, 30, size=(12, 8))
    ram = generator.integers(10, 100, size=(12, 8))
    tables = dict(zip(METRICS, (first.tolist(), second.tolist(), ram.tolist()), strict=True))
    cost = TableCost(tables, maxima=("ram_bytes",))
    least_sum = (first + second).min(axis=1).sum()
    budgets = [
        Budget("latency_us", 0.53 * least_sum),
        Budget("flash_bytes", 0.53 * least_sum),
        Budget("ram_bytes", 90.0),
    ]
    found = find_feasible(cost, budgets, rng())
    assert found is not None
    assert feasible(cost, np.array([found]), budgets).all()
    tight = [Budget("latency_us", 0.49 * least_sum), Budget("flash_bytes", 0.49 * least_sum)]
    error = explain_infeasible(cost, tight, rng())
    assert set(error.binding) == {"latency_us", "flash_bytes"}
    assert "not proved" in error.message


def test_unknown_and_doubled_metrics_are_refused() -> None:
    cost = TableCost({"latency_us": [[1.0, 2.0]]})
    with pytest.raises(ConfigurationError, match="no energy_uj; it has latency_us"):
        find_feasible(cost, [Budget("energy_uj", 1.0)], rng())
    with pytest.raises(ConfigurationError, match="two budgets"):
        find_feasible(cost, [Budget("latency_us", 1.0), Budget("latency_us", 2.0)], rng())


def test_no_budget_means_every_valid_architecture() -> None:
    cost = TableCost({"latency_us": [[1.0, 2.0], [1.0, 2.0]]}, forbidden=[(0, 0, 0)])
    assert feasible(cost, np.array(cost.all()), []).all()
    assert not feasible(cost, np.array([(0, 0)]), []).any()
    assert find_feasible(cost, [], rng()) is not None
