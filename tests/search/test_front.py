"""The walk along the front: what it scores, and that it finds the front of a space that can be enumerated."""

from __future__ import annotations

import numpy as np
import pytest

from tests.search.fakes import TableCost
from toolchain.errors import ConfigurationError
from toolchain.search.front import explore_front, front_of
from toolchain.search.protocols import Architecture, Evaluation

COST = TableCost({"cycles": [[1, 3, 9]] * 4, "ram": [[5, 2, 1]] * 4}, maxima=["ram"])
WORTH = np.random.default_rng(3).uniform(0, 1, (4, 3)) + np.array([0, 1, 1.8])


def worth(architecture: Architecture) -> float:
    return float(sum(WORTH[i, j] for i, j in enumerate(architecture)))


def evaluate(architectures: list[Architecture]) -> list[Evaluation]:
    return [Evaluation(worth(a)) for a in architectures]


def brute_front(known: list[Architecture]) -> set[Architecture]:
    cost = {a: COST.price(np.array([a]))[0, 0] for a in known}
    return {
        a
        for a in known
        if not any(
            (cost[b] <= cost[a] and worth(b) > worth(a)) or (cost[b] < cost[a] and worth(b) >= worth(a))
            for b in known
        )
    }


def test_the_front_is_what_no_other_beats() -> None:
    known = [COST.all()[i] for i in np.random.default_rng(0).permutation(81)[:40]]
    found = front_of(COST, {a: worth(a) for a in known}, "cycles")
    assert set(found) == brute_front(known)
    assert [worth(a) for a in found] == sorted(worth(a) for a in found)


def test_the_walk_begins_where_it_is_told_and_scores_nothing_twice() -> None:
    asked: list[Architecture] = []

    def count(architectures: list[Architecture]) -> list[Evaluation]:
        asked.extend(architectures)
        return evaluate(architectures)

    start = [(2, 2, 2, 2), (0, 1, 0, 1)]
    scores = explore_front(COST, count, start, "cycles", evaluations=60, seed=1)
    assert list(scores)[:3] == [*start, (0, 0, 0, 0)]
    assert len(scores) == len(asked) == len(set(asked)) == 60
    assert scores == explore_front(COST, evaluate, start, "cycles", evaluations=60, seed=1)


def test_the_walk_finds_a_better_front_than_as_many_random_networks() -> None:
    rng = np.random.default_rng(0)
    cost = TableCost({"cycles": [list(rng.uniform(1, 9, 6)) for _ in range(6)]})
    gain = rng.uniform(0, 1, (6, 6)) + 0.1 * cost.table[0]

    def good(a: Architecture) -> float:
        return float(sum(gain[i, j] for i, j in enumerate(a)))

    def reached(scores: dict[Architecture, float]) -> float:
        """The best under each budget, summed over budgets."""
        prices = cost.price(np.array(list(scores)))[:, 0]
        values = np.array(list(scores.values()))
        return float(sum(values[prices <= b].max(initial=0) for b in np.linspace(prices.min(), 50, 40)))

    for seed in range(5):
        drawn = np.random.default_rng(seed).integers(0, 6, (100, 6))
        random = {tuple(map(int, a)): good(tuple(a)) for a in [*drawn, np.array(cost.least()["cycles"][1])]}
        walk = explore_front(
            cost, lambda many: [Evaluation(good(a)) for a in many], [], "cycles", evaluations=101, seed=seed
        )
        assert reached(walk) > reached(random)


def test_it_ends_when_everything_near_is_known() -> None:
    assert len(explore_front(COST, evaluate, [], "cycles", evaluations=10_000, seed=0)) <= 81


def test_what_cannot_follow_is_never_scored() -> None:
    cost = TableCost({"cycles": [[1, 3, 9]] * 4}, forbidden=[(0, 1, 1), (2, 0, 2)])
    scores = explore_front(cost, evaluate, [], "cycles", evaluations=50, seed=2)
    assert all(cost.valid(a) for a in scores)


def test_an_unknown_cost_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="watts"):
        explore_front(COST, evaluate, [], "watts", evaluations=3)
