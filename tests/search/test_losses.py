"""The loss-based methods of Table 1 by number, and the expectations that they need."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.search.fakes import TableCost
from toolchain.errors import ConfigurationError
from toolchain.search.connas_alphas import Alphas, argmax_decoder
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.feasibility import Limits
from toolchain.search.losses import CostRange, Term, expected_costs, multiplied, penalised, piecewise, summed
from toolchain.units import Budget


def terms() -> list[Term]:
    # c' = 0.25, over its bound; c' = 0.5, below it
    first = Term(torch.tensor(30.0), bound=25.0, least=20.0, most=60.0)
    return [first, Term(torch.tensor(5.0), bound=8.0, least=0.0, most=10.0)]


def test_table_1_by_number() -> None:
    task = torch.tensor(2.0)
    assert float(summed(task, terms(), 1.0)) == pytest.approx(2 + (0.25 + 0.5) / 2)
    assert float(summed(task, terms(), 0.5)) == pytest.approx(2 + 0.5 * (0.25 + 0.5) / 2)
    assert float(multiplied(task, terms(), 1.0)) == pytest.approx(2 * 0.25 * 0.5)
    assert float(multiplied(task, terms(), 0.5)) == pytest.approx(2 * (0.25 * 0.5) ** 0.5)
    assert float(piecewise(task, terms(), 1.5)) == pytest.approx(2 + 1.5 * (0.25 - 0.5) / 2)
    at_bound = Term(torch.tensor(8.0), bound=8.0, least=0.0, most=10.0)
    assert float(piecewise(task, [at_bound], 1.0)) == 2.0


def test_gradients_point_down_in_cost_where_they_should() -> None:
    for loss, signs in ((summed, (1, 1)), (multiplied, (1, 1)), (piecewise, (1, -1))):
        own = terms()
        for term in own:
            term.cost.requires_grad_()
        gradients = torch.autograd.grad(loss(torch.tensor(2.0), own, 1.0), [t.cost for t in own])
        assert tuple(int(np.sign(float(g))) for g in gradients) == signs


def additive() -> tuple[TableCost, Limits]:
    cost = TableCost(
        {"latency_us": [[1.0, 4.0], [2.0, 3.0, 9.0]], "flash_bytes": [[5.0, 6.0], [7.0, 1.0, 2.0]]}
    )
    return cost, Limits.of(cost, [Budget("flash_bytes", 9.0), Budget("latency_us", 5.0)])


@pytest.mark.parametrize("around", [(0, 0), (1, 2)])
def test_expectation_of_a_sum_is_exact_around_any_architecture(around: tuple[int, int]) -> None:
    cost, limits = additive()
    p = [torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.3, 0.2])]
    found = expected_costs(cost, limits, around, p)
    everything = cost.all()
    weight = np.array([float(p[0][i] * p[1][j]) for i, j in everything])
    prices = cost.price(np.array(everything))
    assert [float(c) for c in found] == pytest.approx(
        [weight @ prices[:, 1], weight @ prices[:, 0]], rel=1e-5
    )


def test_expectation_leaves_out_what_is_not_available() -> None:
    cost = TableCost({"latency_us": [[1.0, 4.0], [2.0, 3.0]]}, forbidden=[(0, 0, 1)])
    limits = Limits.of(cost, [Budget("latency_us", 5.0)])
    p = [torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5], requires_grad=True)]
    (found,) = expected_costs(cost, limits, (0, 0), p)
    assert float(found.detach()) == pytest.approx(
        3 + 1.5
    )  # the first choice's mean is +1.5, the second stays
    with pytest.raises(ConfigurationError, match="not valid"):
        expected_costs(cost, limits, (0, 1), p)


def test_range_over_the_space() -> None:
    cost, limits = additive()
    extent = CostRange.of(cost, limits)
    prices = cost.price(np.array(cost.all()))
    assert extent.least.tolist() == [prices[:, 1].min(), prices[:, 0].min()]
    assert extent.most.tolist() == [prices[:, 1].max(), prices[:, 0].max()]


def test_no_budgets_no_penalty() -> None:
    cost, _ = additive()
    limits = Limits.of(cost, [])
    task = torch.tensor(2.0)
    assert penalised(task, [], limits, CostRange.of(cost, limits), "multiplied", 1.0) is task


def test_a_loss_based_step_turns_nothing_and_a_direction_adds_no_term() -> None:
    cost, _ = additive()
    budgets = [Budget("latency_us", 4.0)]
    for enforce in ("summed", "direction"):
        config = ConnasConfig(enforce=enforce, alpha_optimizer="sgd", alpha_learning_rate=0.1)  # type: ignore[arg-type]
        own = Alphas([2, 3], argmax_decoder, cost, budgets, config)
        with torch.no_grad():
            own.values[0].copy_(torch.tensor([0.0, 1.0]))
        p = own.probabilities(1.0, torch.Generator().manual_seed(0))
        task = torch.tensor(2.0)
        assert (own.penalised(task, p) is task) == (enforce == "direction")
        log = own.step([torch.tensor([0.1, -0.1]), None])
        assert log["violation/latency_us"] > 0  # it is logged either way
        assert (log["gradient/raw"] == log["gradient/modified"]) == (enforce == "summed")


def test_settings_of_losses() -> None:
    with pytest.raises(ConfigurationError, match="summed"):
        ConnasConfig(enforce="added")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="penalty_weight"):
        ConnasConfig(penalty_weight=-1.0)
    with pytest.raises(ConfigurationError, match="proxyless"):
        ConnasConfig(relaxation="snas")  # type: ignore[arg-type]
    assert ConnasConfig.nats_bench(3) == ConnasConfig(batch_size=64, seed=3)
