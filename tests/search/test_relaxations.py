"""Relaxations: each a distribution, each with the gradient that its paper gives; ConNAS works with all of them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.search.fakes import TableCost
from toolchain.search.connas_alphas import Alphas, argmax_decoder
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.relaxations import (
    LEAST_WEIGHT,
    RELAXATIONS,
    RelaxationName,
    darts_probabilities,
    first_alphas,
    gumbel_noise,
    logits_of,
    proxyless_probabilities,
)
from toolchain.units import Budget

LOGITS = [0.3, -0.2, 1.0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", get_args(RelaxationName))
def test_each_is_a_distribution_with_a_gradient_that_sums_to_zero(name: RelaxationName) -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    p = RELAXATIONS[name](logits, 1.0, generator())
    assert float(p.detach().sum()) == pytest.approx(1)
    assert bool((p.detach() >= 0).all())
    (gradient,) = torch.autograd.grad(p @ torch.tensor([1.0, 2.0, 4.0]), [logits])
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-6)
    assert bool((gradient != 0).any())


def test_darts_is_the_softmax_whatever_the_temperature() -> None:
    logits = torch.tensor(LOGITS)
    for temperature in (0.1, 10.0):
        torch.testing.assert_close(
            darts_probabilities(logits, temperature, generator()), torch.softmax(logits, 0)
        )


def test_one_path_is_one_hot_and_two_paths_get_the_gradient() -> None:
    logits = torch.tensor([*LOGITS, 0.0], requires_grad=True)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    source = generator()
    seen = set()
    for _ in range(40):
        p = proxyless_probabilities(logits, 1.0, source)
        assert sorted(p.detach().tolist()) == pytest.approx([0, 0, 0, 1])
        (gradient,) = torch.autograd.grad(p @ values, [logits])
        i, j = torch.nonzero(gradient).flatten().tolist()  # exactly two
        share = torch.softmax(logits.detach()[[i, j]], 0)
        # d/d logit_i of share_i v_i + share_j v_j
        assert float(gradient[i]) == pytest.approx(
            float(share[0] * share[1] * (values[i] - values[j])), rel=1e-4
        )
        seen.add((i, j))
    assert len(seen) == 6


def test_paths_are_drawn_with_the_probabilities_of_the_softmax() -> None:
    logits = torch.tensor(LOGITS)
    source = generator(3)
    drawn = [int(proxyless_probabilities(logits, 1.0, source).argmax()) for _ in range(6000)]
    share = np.bincount(drawn, minlength=3) / 6000
    # Two without replacement, then one of the two: P(i) = sum_j P(pair ij) p_i / (p_i + p_j)
    p = torch.softmax(logits, 0).numpy()
    expected = [
        sum(
            (p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])) * p[i] / (p[i] + p[j])
            for j in range(3)
            if j != i
        )
        for i in range(3)
    ]
    np.testing.assert_allclose(share, expected, atol=0.025)


def test_a_choice_of_one_candidate() -> None:
    for relax in RELAXATIONS.values():
        assert relax(torch.tensor([0.7]), 1.0, generator()).tolist() == [1.0]


def test_noise_has_the_mean_and_deviation_of_gumbel() -> None:
    noise = gumbel_noise(torch.zeros(20_000), generator())
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.03)
    assert float(noise.std()) == pytest.approx(np.pi / np.sqrt(6), abs=0.03)


def test_literal_alphas_are_weights_and_never_nan() -> None:
    alpha = torch.tensor([0.5, 0.25, -3.0])
    torch.testing.assert_close(
        torch.softmax(logits_of(alpha, "literal"), 0), torch.tensor([2 / 3, 1 / 3, 0.0]), atol=1e-6, rtol=0
    )
    assert float(logits_of(alpha, "literal")[2]) == pytest.approx(np.log(LEAST_WEIGHT))
    assert logits_of(alpha, "logits") is alpha
    start = first_alphas(4, "literal", generator())
    assert bool((start > 0).all())
    assert float(start.mean()) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("name", get_args(RelaxationName))
@pytest.mark.parametrize("scale", ["logits", "literal"])
def test_connas_reaches_the_budget_and_the_best_within_it_with_any(name: RelaxationName, scale: str) -> None:
    """Agnostic: the same update, gradients from any relaxation of the same mixture."""
    value = torch.tensor([[0.0, 1.0, 3.0], [0.0, 2.0, 3.0]])
    cost = TableCost({"latency_us": [[1.0, 2.0, 9.0], [1.0, 4.0, 9.0]]})
    config = ConnasConfig(
        relaxation=name, alpha_scale=scale,  # type: ignore[arg-type]
        alpha_learning_rate=0.05 if scale == "logits" else 0.01, turn="update", epsilon=0.5, alpha_weight_decay=0.0,
    )  # fmt: skip
    own = Alphas([3, 3], argmax_decoder, cost, [Budget("latency_us", 7.0)], config)
    source = generator()
    visited: set[tuple[int, ...]] = set()
    for step in range(300):
        temperature = max(0.3, 3.0 - step / 75)
        mixture: list[Tensor] = own.probabilities(temperature, source)
        loss = -sum((row @ p for row, p in zip(value, mixture, strict=True)), torch.zeros(()))
        own.step(torch.autograd.grad(loss, own.values))
        assert all(bool(torch.isfinite(alpha).all()) for alpha in own.values)
        if step > 150 and own.tested[1]:
            visited.add(own.tested[0])
    assert visited
    best = max(sum(float(value[i, a]) for i, a in enumerate(v)) for v in visited)
    # (1, 1) costs 6 of 7. A literal alpha that was pushed below 0 gets no gradient from the task any more, so that mode
    # may miss it: one more reason for logits.
    assert best == 3.0 or scale == "literal"
