"""Random search: the baseline that every other method must beat under the same budgets and evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.search.feasibility import Limits, price_one, random_walk, require_feasible
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
from toolchain.search.selection import choose
from toolchain.units import Budget

TRIES = 200
"""Draws for one feasible architecture before a walk through feasible swaps takes over."""

_DRAWS = 20
_WALKS = 10


def random_search(
    cost: CostModel,
    evaluator: Evaluator,
    budgets: Sequence[Budget],
    *,
    sample: Sampler | None = None,
    evaluations: int = 100,
    checker: ExactChecker | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SearchResult:
    """Score distinct random feasible architectures and return the best that passes the exact check.

    History rows hold `score` and `best` of each evaluation.

    Args:
        cost: the cost model.
        evaluator: scores architectures, larger is better.
        budgets: hard upper bounds; at most one per metric.
        sample: draws a valid architecture, e.g. `Space.sample`; None uses walks through feasible swaps only.
        evaluations: how many architectures to score; fewer when there are no more.
        checker: exact check of the final pick.
        seed: makes the run repeatable.
        progress: called after each evaluation.

    Raises:
        InfeasibleError: no architecture keeps the budgets, or none passes the exact check.
    """
    if evaluations < 1:
        raise ConfigurationError(f"evaluations is {evaluations}; it must be at least 1")
    rng = np.random.default_rng(seed)
    anchor = require_feasible(cost, budgets, rng)
    scores: dict[Architecture, float] = {}
    rows: list[HistoryRow] = []
    for architecture in feasible_samples(cost, budgets, rng, anchor, sample):
        scores[architecture] = evaluator([architecture])[0].score
        best = max(scores.values())
        values = {"score": scores[architecture], "best": best}
        rows.append(HistoryRow(len(rows), 0, values))
        if progress is not None:
            progress(len(scores), evaluations, f"best score {best:.4f}")
        if len(scores) >= evaluations:
            break
    return finish(cost, evaluator, budgets, scores, checker, rng, "random", seed, rows)


def feasible_samples(
    cost: CostModel,
    budgets: Sequence[Budget],
    rng: np.random.Generator,
    anchor: Architecture,
    sample: Sampler | None,
) -> Iterator[Architecture]:
    """Distinct feasible architectures; ends when neither draws nor walks find a new one.

    Draws are uniform over the feasible ones. Where feasible ones are rarer than one in `TRIES`, walks of feasible
    swaps from the last one take over, which are not uniform.

    Args:
        cost: the cost model.
        budgets: at most one per metric.
        rng: decides everything.
        anchor: a feasible architecture, the start of the walks.
        sample: draws valid architectures; None for walks only.
    """
    limits = Limits.of(cost, budgets)
    seen: set[Architecture] = set()
    fresh: list[Architecture] = []
    while True:
        for _ in range(0 if sample is None else TRIES // _DRAWS):
            if fresh:
                break
            assert sample is not None
            drawn = [sample(rng) for _ in range(_DRAWS)]  # priced at once
            keeps = limits.keeps(cost.price(np.array(drawn)))
            kept = [a for a, keep in zip(drawn, keeps, strict=True) if keep and a not in seen]
            fresh = list(dict.fromkeys(kept))
        for sweeps in range(1, _WALKS + 1):
            if fresh:
                break
            anchor = random_walk(cost, limits, anchor, rng, min(sweeps, 3))
            fresh = [anchor] if anchor not in seen else []
        if not fresh:
            return
        found = fresh.pop(0)
        seen.add(found)
        yield found


def finish(
    cost: CostModel,
    evaluator: Evaluator,
    budgets: Sequence[Budget],
    scores: dict[Architecture, float],
    checker: ExactChecker | None,
    rng: np.random.Generator,
    method: str,
    seed: int,
    rows: Sequence[HistoryRow],
) -> SearchResult:
    """Rank what was scored, check exactly, and put the result together (shared by the baselines).

    Raises:
        InfeasibleError: see `choose`.
    """
    ranked = sorted(scores, key=lambda a: (-scores[a], a))
    chosen = choose(cost, budgets, ranked, checker, rng, score=lambda a: evaluator([a])[0].score)
    best = chosen.architecture
    return SearchResult(
        architecture=best,
        score=scores[best] if best in scores else evaluator([best])[0].score,
        predicted=price_one(cost, best),
        exact=dict(chosen.exact),
        method=method,
        seed=seed,
        evaluations=len(scores),
        repaired=chosen.repaired,
        history=tuple(rows),
        alternatives=tuple((a, scores[a]) for a in ranked if a != best)[:20],
        evaluated=tuple((a, scores[a]) for a in ranked),
    )
