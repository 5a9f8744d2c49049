"""ConNAS on a table: the expectation by hand, and searches that can be checked by enumeration."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toolchain.errors import ConfigurationError
from toolchain.report.plots import plot_search
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.connas_table import TableCost, TableOutcome, expectation, search_table
from toolchain.search.trace import epochs_of, write_trace
from toolchain.units import Budget

torch.set_num_threads(1)

SIZES = (3, 4, 2, 3)


def tables(seed: int = 0) -> tuple[TableCost, np.ndarray]:
    """Latencies that interact, parameters that add up, accuracies that rise with latency (slow networks win)."""
    rng = np.random.default_rng(seed)
    latency = rng.uniform(1, 5, SIZES) + 4 * np.indices(SIZES).sum(0)
    accuracy = 0.3 + 0.6 * (latency - latency.min()) / np.ptp(latency)
    params = sum(np.ix_(*(rng.integers(1, 40, n).astype(float) for n in SIZES)), np.zeros(SIZES))
    return TableCost({"latency_us": latency, "params": params}), accuracy


def search(budgets: list[Budget], **settings: Any) -> TableOutcome:
    cost, accuracy = tables()
    base: dict[str, Any] = {"epochs": 30, "alpha_learning_rate": 0.1, "turn": "update", "epsilon": 1.0}
    return search_table(cost, accuracy, budgets, config=ConnasConfig(**{**base, **settings}))


def quantile(metric: str, share: float) -> Budget:
    cost, _ = tables()
    return Budget(metric, float(np.quantile(cost.values[..., cost.metrics.index(metric)], share)))


def test_expectation_is_the_weighted_sum_with_its_gradient() -> None:
    rng = np.random.default_rng(1)
    table = torch.from_numpy(rng.normal(size=(2, *SIZES)))
    p = [torch.softmax(torch.from_numpy(rng.normal(size=n)), 0).requires_grad_() for n in SIZES]
    by_hand = sum(
        table[(slice(None), *a)] * torch.stack([q[i].detach() for q, i in zip(p, a, strict=True)]).prod()
        for a in itertools.product(*map(range, SIZES))
    )
    found = expectation(table, p)
    torch.testing.assert_close(found.detach(), by_hand)
    (gradient,) = torch.autograd.grad(found[0], [p[1]])
    hot = [torch.eye(4, dtype=torch.float64)[j] for j in range(4)]
    torch.testing.assert_close(
        gradient, torch.stack([expectation(table, [p[0], h, *p[2:]])[0].detach() for h in hot])
    )


def test_the_cost_table_is_a_cost_model() -> None:
    cost, _ = tables()
    assert cost.sizes == SIZES
    for k, rows in enumerate(cost.swaps((1, 2, 0, 1))):
        for j, row in enumerate(rows):
            swapped = [1, 2, 0, 1]
            swapped[k] = j
            np.testing.assert_array_equal(row, cost.price(np.array([swapped]))[0])
    for metric, (value, where) in cost.least().items():
        column = cost.metrics.index(metric)
        assert value == cost.values[..., column].min() == cost.price(np.array([where]))[0, column]
    with pytest.raises(ConfigurationError, match="one shape"):
        TableCost({"params": np.zeros((2, 2)), "macs": np.zeros((2, 3))})


@pytest.mark.parametrize("relaxation", ["gumbel", "darts", "proxyless"])
def test_it_ends_within_the_budgets_and_near_the_best(relaxation: str) -> None:
    budgets = [quantile("latency_us", 0.3)]
    cost, accuracy = tables()
    # DARTS has no noise, so a search on a table may circle through the bound with the beat of the epochs; what it
    # passes within the budgets counts too.
    found = search(budgets, relaxation=relaxation, candidates=5)
    within = cost.values[..., 0] <= budgets[0].bound
    assert found.feasible
    assert within[found.architecture]
    assert found.accuracy == accuracy[found.architecture]
    assert found.accuracy > np.quantile(accuracy[within], 0.8)


def test_two_interacting_budgets() -> None:
    budgets = [quantile("latency_us", 0.5), quantile("params", 0.3)]
    found = search(budgets)
    assert found.feasible
    assert all(b.keeps(tables()[0].values[(*found.architecture, k)]) for k, b in enumerate(budgets))


def test_what_breaks_a_budget_is_said_and_not_repaired() -> None:
    found = search([quantile("latency_us", 0.1)], enforce="summed", penalty_weight=0.0)
    assert not found.feasible
    assert found.kept == 0
    assert found.accuracy > 0.85  # free of budgets, the dearest network
    assert found.history[-1].values["violation/latency_us"] > 0


def test_a_heavy_penalty_ends_at_the_cheapest() -> None:
    cost, _ = tables()
    found = search([quantile("latency_us", 0.5)], enforce="summed", penalty_weight=20.0)
    assert found.feasible
    assert cost.values[(*found.architecture, 0)] <= np.quantile(cost.values[..., 0], 0.05)


def test_the_same_seed_gives_the_same_run() -> None:
    budgets = [quantile("latency_us", 0.3)]
    assert search(budgets, epochs=6) == search(budgets, epochs=6)
    assert search(budgets, epochs=6).history != search(budgets, epochs=6, seed=1).history


def test_accuracies_are_checked() -> None:
    cost, accuracy = tables()
    for wrong in (accuracy[0], accuracy * 100, accuracy - accuracy.min()):
        with pytest.raises(ConfigurationError, match="accuracies"):
            search_table(cost, wrong, [])


def test_the_log_as_csv_and_by_epochs(tmp_path: Path) -> None:
    found = search([quantile("latency_us", 0.3)], epochs=6)
    path = write_trace(found.history, tmp_path / "deep" / "trace.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.history) == 30
    for row, logged in zip(rows, found.history, strict=True):
        assert int(row["step"]) == logged.step
        for name, value in logged.values.items():
            assert float(row[name]) == value
    assert rows[0]["candidate/accuracy"] == ""
    assert {"violation/latency_us", "gradient/raw", "gradient/modified", "entropy"} <= set(rows[0])

    epochs = epochs_of(found.history)
    assert [e.epoch for e in epochs] == list(range(6))
    first = [r.values for r in found.history[:5]]
    assert epochs[0].accuracy == pytest.approx(np.mean([v["accuracy/validation"] for v in first]))
    costs = [v["cost/latency_us"] for v in first]
    assert epochs[0].costs == {"latency_us": (min(costs), float(np.median(costs)), max(costs))}
    assert epochs[0].kept == np.mean([v["violation/latency_us"] == 0 for v in first])
    assert np.isnan(epochs[0].candidate)
    assert epochs[-1].candidate == found.history[-1].values["candidate/accuracy"]
    assert epochs_of(()) == ()


def test_the_picture_is_the_same_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    budgets = [quantile("latency_us", 0.3), quantile("params", 0.5)]
    epochs = epochs_of(search(budgets, epochs=6).history)
    files = plot_search(epochs, budgets, tmp_path / "a", title="a search")
    again = plot_search(epochs, budgets, tmp_path / "b", title="a search")
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    text = files[1].read_text()
    for word in ("a search", "latency", "params", "budget", "epoch", "entropy"):
        assert word in text
    with pytest.raises(ConfigurationError, match="no course"):
        plot_search([], budgets, tmp_path / "c")
