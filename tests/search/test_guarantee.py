"""The guarantee of ConNAS: with plain gradient steps and R > 1 a violated constraint is always approached."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search.fakes import TableCost
from toolchain.search.connas_alphas import Alphas, argmax_decoder
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.direction import direction, modified_gradient
from toolchain.units import Budget

NUMBERS = st.floats(-100, 100, allow_nan=False)
COSTS = st.lists(st.integers(1, 9), min_size=2, max_size=6)
ETA = 0.1


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[int]], float, list[list[float]], list[list[float]]]:
    """Costs per choice, a bound between the least and the greatest, alphas, gradients."""
    costs = draw(st.lists(COSTS, min_size=1, max_size=4))
    least, most = sum(min(row) for row in costs), sum(max(row) for row in costs)
    bound = least + draw(st.floats(0, 1)) * (most - least)
    alphas = [draw(st.lists(NUMBERS, min_size=len(row), max_size=len(row))) for row in costs]
    gradients = [draw(st.lists(NUMBERS, min_size=len(row), max_size=len(row))) for row in costs]
    return costs, bound, alphas, gradients


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(), st.floats(1.01, 20), st.sampled_from([1e-3, 1.0]))
def test_every_plain_step_moves_along_every_edges_direction(
    case: tuple[list[list[int]], float, list[list[float]], list[list[float]]], rescale: float, epsilon: float
) -> None:
    """By at least eta (R - 1) max(||g||, epsilon), whatever the task's gradient; kept constraints change nothing."""
    costs, bound, alphas, gradients = case
    cost = TableCost({"latency_us": [[float(c) for c in row] for row in costs]})
    config = ConnasConfig(
        alpha_optimizer="sgd",
        alpha_learning_rate=ETA,
        alpha_weight_decay=0.0,
        rescale=rescale,
        epsilon=epsilon,
    )
    own = Alphas(cost.sizes, argmax_decoder, cost, [Budget("latency_us", bound)], config)
    with torch.no_grad():
        for i, row in enumerate(alphas):
            own.values[i] = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    own.optimizer = torch.optim.SGD(own.values, lr=ETA)
    directions, log = own.directions()
    before = [alpha.detach().numpy().copy() for alpha in own.values]
    own.step([torch.tensor(row, dtype=torch.float64) for row in gradients])
    violated = log["violation/latency_us"] > 0
    moved_somewhere = False
    for start, alpha, toward, gradient in zip(before, own.values, directions, gradients, strict=True):
        moved = alpha.detach().numpy() - start
        if toward.any():
            assert violated
            moved_somewhere = True
            least = ETA * (rescale - 1) * max(float(np.linalg.norm(gradient)), epsilon)
            assert moved @ toward >= least * (1 - 1e-6) - 1e-9
        else:
            np.testing.assert_allclose(moved, -ETA * np.array(gradient), atol=1e-9)
    assert moved_somewhere or not violated  # an edge where candidates differ in cost always points somewhere


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=5), st.floats(0.5, 8.5))
def test_along_the_direction_feasible_candidates_gain_on_the_others(costs: list[int], bound: float) -> None:
    toward = direction(costs, bound)
    alpha = np.zeros(len(costs))
    after = alpha - ETA * modified_gradient(np.zeros(len(costs)), toward, 1.2, 1.0)
    share = np.exp(after) / np.exp(after).sum()
    within = np.array(costs) <= bound
    if within.any() and not within.all():
        assert share[within].sum() > within.mean()
    if not within.any() and len(set(costs)) > 1:
        assert share @ np.array(costs) < np.mean(costs)  # towards the cheaper ones


def test_the_guarantee_needs_the_norm_of_the_edge() -> None:
    """With the norm of each entry, as eq. 2 is printed, the same step leads away from feasibility."""
    toward = direction([1.0, 2.0, 3.0], 2.5)
    gradient = np.array([1.0, 1.0, -1.0])
    edge = -modified_gradient(gradient, toward, 1.2, 1e-3, "edge") @ toward
    entry = -modified_gradient(gradient, toward, 1.2, 1e-3, "entry") @ toward
    assert edge >= 0.2 * np.sqrt(3)
    assert abs(entry + 0.433) < 1e-3
