from __future__ import annotations

import numpy as np
import pytest

from toolchain.errors import ConfigurationError
from toolchain.search.exact import Stages, baselines, from_stages, instances, solve
from toolchain.search.exact.milp import available


def test_the_linear_programs_of_algorithm_1_are_solved_to_a_vertex() -> None:
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(0)
    for _ in range(30):
        groups, items = rng.integers(1, 5, 2)
        values, costs = rng.normal(size=(groups, items)), rng.uniform(0, 5, (groups, items))
        limit = costs.min(1).sum() + rng.uniform(0, 1) * (costs.max(1).sum() - costs.min(1).sum())
        chosen, fractional = baselines._knapsack(values, costs, limit)
        equal = np.repeat(np.eye(groups), items, axis=1)
        best = linprog(-values.ravel(), costs.reshape(1, -1), [limit], equal, np.ones(groups), bounds=(0, 1))
        assert (chosen * values).sum() == pytest.approx(-best.fun, abs=1e-7)
        assert (chosen * costs).sum() <= limit + 1e-9
        assert chosen.sum(1) == pytest.approx(np.ones(groups))
        assert fractional == ((chosen > 1e-9).sum(1) > 1).sum() <= 1


def test_bcfw_stays_below_the_bound_and_its_rounding_breaks_budgets() -> None:
    broken = 0
    for seed in range(6):
        stages = instances.mobilenet(seed)
        model = from_stages(stages)
        (budget,) = instances.budgets_between(model, ("latency_us",), 0.25)
        exact = solve(model, [budget])
        for start in range(4):
            found = baselines.bcfw(stages, "latency_us", budget.bound, np.random.default_rng(start))
            assert (
                found.relaxed <= model.score(exact.bound) + 1e-4
            )  # the relaxation is the linear program's (1.3)
            assert max(found.fractional) <= 1  # Theorem 3.3
            value, cost = baselines.evaluate(
                stages, "latency_us", found.depths, np.array(found.configurations)
            )
            assert (value, cost) == (found.score, found.cost)
            if found.violation:
                broken += 1
            else:
                assert found.score <= exact.score + 1e-4
    assert broken > 0


@pytest.mark.skipif(not available(), reason="highspy is not installed (the extra `solvers`)")
def test_the_bilinear_program_has_the_same_optimum() -> None:
    for seed in range(3):
        stages = instances.mobilenet(seed, (2, 3, 3))
        model = from_stages(stages)
        (budget,) = instances.budgets_between(model, ("latency_us",), 0.5)
        found, proved = baselines.bilinear(stages, "latency_us", budget.bound)
        assert proved
        assert found is not None
        assert found.score == pytest.approx(solve(model, [budget]).score, abs=1e-4)
        nothing, proved = baselines.bilinear(stages, "latency_us", 1.0)
        assert (nothing, proved) == (None, True)


def test_baselines_refuse_what_the_algorithm_does_not_take() -> None:
    stages = instances.mobilenet(0, (1, 2, 3))
    with pytest.raises(ConfigurationError, match="additive"):
        baselines.bcfw(stages, "ram_bytes", 1e9, np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="no start"):
        baselines.bcfw(stages, "latency_us", 1.0, np.random.default_rng(0), tries=3)
    holes = Stages(np.full((1, 1, 2), np.nan), np.zeros((1, 1)), {"latency_us": np.ones((1, 1, 2))})
    with pytest.raises(ConfigurationError, match="gaps"):
        baselines.bcfw(holes, "latency_us", 10.0, np.random.default_rng(0))
