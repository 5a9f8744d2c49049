"""The benchmark's lock-step searches make the searcher's own updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.nats_batched import Run, check, search_batch
from benchmarks.nats_bench import Nats
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.connas_table import TableCost
from toolchain.units import Budget

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def nats() -> Nats:
    rng = np.random.default_rng(0)
    shape = (5,) * 6
    parts = [rng.integers(1, 9, 5).astype(float) for _ in shape]
    params = sum(np.ix_(*parts), np.zeros(shape))
    latency = rng.uniform(1, 3, shape) + params / 10
    accuracy = 0.2 + 0.6 * (params - params.min()) / np.ptp(params) + rng.uniform(0, 0.1, shape)
    return Nats(accuracy, {"c10": 100 * accuracy}, TableCost({"params": params, "raspi4_ms": latency}))


def runs(nats: Nats, *settings: dict[str, Any], **more: Any) -> list[Run]:
    bounds = np.quantile(nats.cost.values.reshape(-1, 2), 0.2, axis=0)
    both = (Budget("params", float(bounds[0])), Budget("raspi4_ms", float(bounds[1])))
    base: dict[str, Any] = {"alpha_learning_rate": 0.1, "turn": "update", "epsilon": 1.0, **more}
    return [Run(both[: 1 + i % 2], ConnasConfig(seed=i, **{**base, **own})) for i, own in enumerate(settings)]


def test_the_same_noise_gives_the_same_alphas(nats: Nats) -> None:
    every: list[dict[str, Any]] = [
        {}, {"rescale": 5.0}, {"turn": "gradient", "epsilon": 1e-3}, {"enforce": "summed", "penalty_weight": 0.5},
        {"enforce": "multiplied", "penalty_weight": 1.5}, {"enforce": "piecewise"}, {"enforce": "multiplied"},
    ]  # fmt: skip
    assert check(nats, runs(nats, *every), steps=10) < 1e-5
    # The comparison sees what it should: another rescale factor is another way.
    one, other = runs(nats, {}, {}), runs(nats, {"rescale": 1.3}, {"rescale": 1.3})
    first, second = (search_batch(nats, r, 1) for r in (one, other))
    assert [f.kept for f in first] != [f.kept for f in second]


def test_whole_searches_keep_the_budgets(nats: Nats) -> None:
    own = runs(nats, {}, {}, {"enforce": "summed", "penalty_weight": 0.0}, epochs=60)
    found = search_batch(nats, own)
    for run, one in zip(own, found, strict=True):
        prices = nats.cost.price(np.array([one.architecture]))[0]
        kept = all(b.keeps(float(prices[nats.cost.metrics.index(b.metric)])) for b in run.budgets)
        assert kept == one.feasible
    assert [one.feasible for one in found] == [True, True, False]
    assert search_batch(nats, own) == found
