from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from tests.search.exact import brute
from toolchain.errors import ConfigurationError
from toolchain.graph.chain import Arc, Chain
from toolchain.search.exact import Layer, Metric, Stages, from_chain, from_layers, from_stages, solve
from toolchain.search.exact.model import Combine, steps_up
from toolchain.units import Budget


def test_costs_round_up_and_budgets_down_exactly() -> None:
    rng = np.random.default_rng(0)
    amounts = np.concatenate(
        [rng.uniform(0, 1e5, 2000), np.round(rng.uniform(0, 100, 2000), 3), [0.0, 0.1, 12.3]]
    )
    steps = steps_up(amounts, Fraction(1, 1000))
    for amount, step in zip(amounts.tolist(), steps.tolist(), strict=True):
        assert step == math.ceil(Fraction(amount) * 1000)
    metric = Metric("latency_us", base=0.1, unit=Fraction(1, 1000))
    for bound in (2.0, 0.3, 7.7, 1e6 + 0.001):
        assert metric.steps(bound) == math.floor((Fraction(bound) - Fraction(0.1)) * 1000)
        assert metric.amount(metric.steps(bound)) <= bound


def test_a_base_comes_off_the_budget_and_is_in_the_result() -> None:
    stages = Stages(
        np.array([[[1.0, 2.0]]]),
        np.zeros((1, 1)),
        {"latency_us": np.array([[[10.0, 20.0]]])},
        bases={"latency_us": 5.0},
        base_value=60.0,
    )
    model = from_stages(stages)
    cheap, dear = (solve(model, [Budget("latency_us", t)]) for t in (24.999, 25.0))
    assert (cheap.architecture, cheap.resources["latency_us"], cheap.score) == ((0,), 15.0, 61.0)
    assert (dear.architecture, dear.resources["latency_us"], dear.score) == ((1,), 25.0, 62.0)
    assert dear.slack == {"latency_us": 0.0}


def test_stages_count_the_paths_of_equation_2() -> None:
    rng = np.random.default_rng(1)
    shape = (2, 3, 2)
    for min_depth in (1, 2, 3):
        model = from_stages(
            Stages(
                rng.random(shape),
                rng.random(shape[:2]),
                {"latency_us": rng.random(shape)},
                min_depth=min_depth,
            )
        )
        assert len(list(brute.paths(model))) == sum(2**d for d in range(min_depth, 4)) ** 2


def test_a_path_is_worth_what_equations_3_and_5_say() -> None:
    rng = np.random.default_rng(2)
    shape = (2, 3, 2)
    stages = Stages(
        rng.random(shape), rng.random(shape[:2]), {"latency_us": rng.random(shape)}, base_value=70.0
    )
    model = from_stages(stages)
    for value, costs, path in brute.table(model):
        architecture = np.array(model.architecture(path)).reshape(2, 3)
        depths = (architecture >= 0).sum(1)
        beta = np.eye(3)[depths - 1]
        alpha = np.where(architecture[..., None] < 0, 0.5, np.eye(2)[np.maximum(architecture, 0)])
        reach = beta[:, ::-1].cumsum(1)[:, ::-1, None]
        accuracy = 70 + (beta * stages.depths).sum() + (alpha * stages.contributions * reach).sum()
        latency = (alpha * stages.costs["latency_us"] * reach).sum()
        assert model.score(value) == pytest.approx(accuracy, abs=1e-5)
        assert 0 <= model.amounts(costs)["latency_us"] - latency <= 6e-3


@dataclass(frozen=True)
class ArcCost:
    combine: Combine
    key: str
    base: float = 0.0

    def value(self, arc: Arc) -> float:
        return float(getattr(arc, self.key))


def test_a_chain_with_forced_positions_and_two_final_shapes() -> None:
    a, b = (1, 1, 1, 4), (1, 1, 1, 8)
    chain = Chain(
        ((a,), (a,), (a, b), (a, b)),
        (
            (Arc(0, 0, 0, (), 5, 7),),
            (Arc(1, 0, 1, (), 30, 9), Arc(0, 0, 0, (), 10, 1)),
            (Arc(0, 0, 0, (), 10, 2), Arc(0, 1, 0, (), 20, 4), Arc(1, 1, 1, (), 10, 8)),
        ),
        (1, 2),
    )
    metrics = {
        "flash_bytes": ArcCost("sum", "constant_bytes", 100.0),
        "ram_bytes": ArcCost("max", "ram_bytes", 12.0),
    }
    model = from_chain(chain, lambda position, arc: position * 10.0 + arc.candidate, metrics)
    rows = {model.architecture(p): (v, model.amounts(c)) for v, c, p in brute.table(model)}
    assert rows == {
        (0, 0): (30_000_000, {"flash_bytes": 110.0, "ram_bytes": 12.0}),
        (1, 0): (31_000_000, {"flash_bytes": 120.0, "ram_bytes": 30.0}),
        (1, 1): (32_000_000, {"flash_bytes": 124.0, "ram_bytes": 30.0}),
    }
    lists = [[0.0], [11.0, 10.0], [20.0, 20.0, 21.0]]
    assert from_chain(chain, lists, metrics).digest() == model.digest()
    assert solve(model, [Budget("ram_bytes", 29.0)]).architecture == (0, 0)


def test_another_start_state() -> None:
    rng = np.random.default_rng(3)
    following = np.array([[0, 1], [1, 0]])
    metric = Metric("macs")
    layers = [
        Layer(following, rng.random((2, 2)), rng.integers(1, 9, (1, 2, 2)).astype(float), i) for i in (0, 1)
    ]
    model = from_layers(layers, [metric], start=1)
    for value, _, path in brute.table(model):
        first, second = model.architecture(path)
        state = following[1, first]
        expected = layers[0].value[1, first] + layers[1].value[state, second]
        assert model.score(value) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contributions": np.zeros((2, 2))}, "do not fit"),
        ({"costs": {"latency_us": np.zeros((1, 1, 2))}}, "latency_us"),
        ({"min_depth": 3}, "min_depth"),
        ({"costs": {"latency_us": np.full((1, 2, 2), np.inf)}}, "finite"),
        ({"depths": np.full((1, 2), np.nan)}, "finite"),
    ],
)
def test_tables_that_do_not_fit_are_named(change: dict, message: str) -> None:
    good = {
        "contributions": np.zeros((1, 2, 2)),
        "depths": np.zeros((1, 2)),
        "costs": {"latency_us": np.ones((1, 2, 2))},
    }
    with pytest.raises(ConfigurationError, match=message):
        from_stages(Stages(**{**good, **change}))


def test_budgets_on_unknown_or_double_metrics_are_refused() -> None:
    model = brute.stages_model(np.random.default_rng(0))
    with pytest.raises(ConfigurationError, match="no cycles"):
        solve(model, [Budget("cycles", 5.0)])
    with pytest.raises(ConfigurationError, match="two budgets"):
        solve(model, [Budget("latency_us", 5.0), Budget("latency_us", 6.0)])
