"""What lies around an answer: networks along the trade-off between accuracy and one cost, for people to see.

A gradient search scores few networks, so it shows its winner and hardly what more of a budget would buy. This walks
along the front of the networks scored so far: single swaps of its members, budgets or not. Nothing is chosen by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.search.protocols import Architecture, CostModel, Evaluator, Progress

_TRIES = 50  # at a swap that was not scored yet


def explore_front(
    cost: CostModel,
    evaluator: Evaluator,
    start: Sequence[Architecture],
    metric: str,
    *,
    evaluations: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[Architecture, float]:
    """Score `start`, the cheapest architecture, and then swaps of the front's members.

    Args:
        cost: prices them. evaluator: scores them, larger is better.
        start: architectures to begin with; may be empty.
        metric: the cost of the front.
        evaluations: how many distinct architectures to score, `start` included; fewer when no new ones are found.
        seed: makes the walk repeatable. progress: called after each evaluation.

    Returns:
        Architecture -> score, in the order of scoring.

    Raises:
        ConfigurationError: a metric that the cost model has not.
    """
    if metric not in cost.metrics:
        raise ConfigurationError(
            f"there is no cost {metric!r}", remedy=f"use one of {', '.join(cost.metrics)}"
        )
    rng = np.random.default_rng(seed)
    scores: dict[Architecture, float] = {}

    def score(architecture: Architecture) -> None:
        scores[architecture] = evaluator([architecture])[0].score
        if progress is not None:
            progress(len(scores), evaluations, "networks around it")

    for architecture in dict.fromkeys((*start, cost.least()[metric][1])):
        if len(scores) < evaluations:
            score(architecture)
    while len(scores) < evaluations:
        child = _fresh_swap(cost, front_of(cost, scores, metric), scores, rng)
        if child is None:
            break
        score(child)
    return scores


def front_of(cost: CostModel, scores: Mapping[Architecture, float], metric: str) -> tuple[Architecture, ...]:
    """The architectures that no other beats in both score and cost, from the cheapest to the best."""
    known = sorted(scores)
    prices = cost.price(np.array(known))[:, list(cost.metrics).index(metric)]
    points = [(float(price), scores[a]) for price, a in zip(prices, known, strict=True)]
    return tuple(known[index] for index in undominated(points))


def undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, score) that no other beats in both, costs ascending; of equal ones the first."""
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not found or points[index][1] > points[found[-1]][1]:
            found.append(index)
    return found


def _fresh_swap(
    cost: CostModel,
    front: Sequence[Architecture],
    scores: Mapping[Architecture, float],
    rng: np.random.Generator,
) -> Architecture | None:
    """A member of the front with one or two choices changed that was not scored yet, or None."""
    for _ in range(_TRIES):
        child = front[int(rng.integers(len(front)))]
        for _ in range(int(rng.integers(1, 3))):
            choice = int(rng.integers(len(child)))
            allowed = np.flatnonzero(np.isfinite(cost.swaps(child)[choice]).all(axis=1))
            child = (*child[:choice], int(rng.choice(allowed)), *child[choice + 1 :])
        if child not in scores:
            return child
    return None
