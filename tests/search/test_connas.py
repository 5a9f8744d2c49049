"""ConNAS: its parts by number, and whole searches on a tiny real space with a real cost table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from profilers.cost import MACS, PARAMS, RAM_BYTES, CostTable
from tests.search.fakes import TableCost
from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.search.connas import (
    Alphas,
    ConnasConfig,
    argmax_decoder,
    connas_search,
    gumbel_probabilities,
    path_decoder,
)
from toolchain.search.evaluators import SupernetEvaluator, recalibration_batches, train_supernet
from toolchain.search.evolution import evolve
from toolchain.search.protocols import Architecture, CostModel, SearchResult
from toolchain.search.random_search import random_search
from toolchain.spaces import ConNAS1d, Step
from toolchain.supernet import Supernet
from toolchain.units import Budget

torch.set_num_threads(1)

CONFIG = ConnasConfig(
    epochs=6, batch_size=32, learning_rate=0.05, final_learning_rate=0.01, alpha_learning_rate=0.05,
    recalibration_batches=2, recalibration_batch_size=32,
)  # fmt: skip


@cache
def space() -> ConNAS1d:
    return ConNAS1d(input_channels=2, length=16, classes=3, channels=(4, 8, 16), edges=4)


@pytest.fixture(scope="module")
def cost() -> CostTable:
    return CostTable.of(space().chain(), {"params": PARAMS, "macs": MACS, "ram_bytes": RAM_BYTES})


def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(space())


def data(samples: int = 128, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, samples)
    time = np.arange(16)
    x = rng.normal(0, 0.6, (samples, 2, 16))
    x[:, 0] += np.sin(2 * np.pi * time[None, :] * (1 + y[:, None]) / 16 + rng.uniform(0, 6, (samples, 1)))
    return x.astype(np.float32), y


def search(cost: CostModel, budgets: Sequence[Budget], **settings: Any) -> SearchResult:
    x, y = data()
    x_val, y_val = data(64, seed=1)
    arguments = {"x": x, "y": y, "x_val": x_val, "y_val": y_val, "config": CONFIG, **settings}
    return connas_search(arguments.pop("supernet", None) or supernet(), cost, budgets, **arguments)


# --- parts --------------------------------------------------------------------------------------------------------


def test_temperature_is_linear_over_two_thirds_then_constant() -> None:
    config = ConnasConfig()
    assert config.anneal_epochs == 100
    assert [config.temperature_at(e) for e in (0, 50, 100, 149)] == pytest.approx([10, 5.05, 0.1, 0.1])
    assert ConnasConfig(epochs=1).temperature_at(0) == pytest.approx(0.1)
    assert ConnasConfig(epochs=3, anneal=1.0).anneal_epochs == 2


def test_gumbel_probabilities_are_a_distribution_with_a_gradient() -> None:
    alpha = torch.tensor([0.3, -0.2, 2.0], requires_grad=True)
    p = gumbel_probabilities(alpha, 1.0, torch.Generator().manual_seed(0))
    assert float(p.detach().sum()) == pytest.approx(1)
    p[0].backward()
    assert alpha.grad is not None
    assert float(alpha.grad.sum()) == pytest.approx(0, abs=1e-6)
    cold = gumbel_probabilities(alpha.detach(), 1e-3, torch.Generator().manual_seed(0))
    assert float(cold.max()) == pytest.approx(1)
    # Gumbel-max: at low temperature candidates are drawn with the probabilities softmax(alpha)
    generator = torch.Generator().manual_seed(1)
    drawn = [int(gumbel_probabilities(alpha.detach(), 0.01, generator).argmax()) for _ in range(3000)]
    share = np.bincount(drawn, minlength=3) / 3000
    np.testing.assert_allclose(share, torch.softmax(alpha.detach(), 0).numpy(), atol=0.03)


def test_decoding_takes_the_best_available_and_meets_no_dead_end() -> None:
    # Candidate 1 at the first choice leads to state 1, where only candidate 0 is available.
    steps = [(Step(0, 0, 0), Step(1, 0, 1)), (Step(0, 0, 0), Step(1, 0, 0), Step(0, 1, 0))]
    decode = path_decoder(steps)
    assert decode([np.array([1.0, 0.0]), np.array([0.0, 1.0])]) == (0, 1)
    assert decode([np.array([0.0, 1.0]), np.array([0.0, 1.0])]) == (1, 0)
    assert decode([np.array([1.0, 1.0]), np.array([1.0, 1.0])]) == (0, 0)
    assert argmax_decoder([np.array([0.0, 1.0]), np.array([2.0, 1.0])]) == (1, 0)


def test_samples_follow_the_softmax_of_alpha() -> None:
    own = alphas(table([1.0, 2.0, 3.0]), [], [[0.3, -0.2, 1.0]])
    generator = torch.Generator().manual_seed(0)
    share = np.bincount([own.sample(generator)[0] for _ in range(3000)], minlength=3) / 3000
    np.testing.assert_allclose(share, torch.softmax(own.values[0].detach(), 0).numpy(), atol=0.03)


def test_decoding_always_gives_a_valid_architecture() -> None:
    own = space()
    decode = path_decoder(own.steps)
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = [rng.normal(size=len(c.candidates)) for c in own.choices]
        assert own.valid(decode(scores))


def table(*latency: Sequence[float], **others: Sequence[Sequence[float]]) -> TableCost:
    return TableCost({"latency_us": list(latency), **others})


def alphas(
    cost: TableCost, budgets: Sequence[Budget], values: Sequence[Sequence[float]], **config: Any
) -> Alphas:
    settings = {"alpha_optimizer": "sgd", "alpha_learning_rate": 0.1, "alpha_weight_decay": 0.0, **config}
    result = Alphas(cost.sizes, argmax_decoder, cost, budgets, ConnasConfig(**settings))
    with torch.no_grad():
        for tensor, row in zip(result.values, values, strict=True):
            tensor.copy_(torch.tensor(row))
    return result


def test_the_worked_update_through_alphas() -> None:
    # The swaps of the second choice cost (1, 2, 3) + 1; bound 3.5; the current one is the third: violated.
    cost = table([1.0], [1.0, 2.0, 3.0])
    own = alphas(cost, [Budget("latency_us", 3.5)], [[0.0], [1 / 3, 1 / 3, 1 / 3 + 1e-6]])
    log = own.step([None, torch.tensor([0.3, -0.4, 0.0])])
    np.testing.assert_allclose(own.values[1].detach().numpy(), (0.327828, 0.397828, 0.284344), atol=2e-6)
    assert log["violation/latency_us"] == pytest.approx(0.5 / 3.5)
    assert log["cost/latency_us"] == 4
    assert log["gradient/raw"] == pytest.approx(0.5)
    assert log["gradient/modified"] == pytest.approx(
        np.linalg.norm((0.055051, -0.644949, 0.489898)), abs=1e-6
    )
    assert log["entropy"] == pytest.approx(np.log(3) / 2, abs=1e-6)


def test_a_satisfied_constraint_changes_nothing() -> None:
    cost = table([1.0, 2.0, 9.0])
    own = alphas(cost, [Budget("latency_us", 3.5)], [[0.0, 1.0, 0.0]])
    own.step([torch.tensor([0.1, 0.0, -0.1])])
    np.testing.assert_allclose(own.values[0].detach().numpy(), (-0.01, 1.0, 0.01), atol=1e-7)


def test_opposing_constraints_are_logged_and_the_worst_can_be_followed_alone() -> None:
    # Latency must fall and flash must fall; each candidate that helps one hurts the other.
    cost = table([10.0, 20.0, 30.0], flash_bytes=[[80.0, 70.0, 60.0]])
    budgets = [Budget("latency_us", 5.0), Budget("flash_bytes", 50.0)]
    both = alphas(cost, budgets, [[0.0, 1.0, 0.0]])
    directions, log = both.directions()
    assert not directions[0].any()  # they cancel exactly
    assert log["opposed"] == 1
    worst = alphas(cost, budgets, [[0.0, 1.0, 0.0]], constraints="most_violated")
    np.testing.assert_allclose(worst.directions()[0][0], (0.707107, 0, -0.707107), atol=1e-6)
    # One that a candidate keeps, one that none keeps: they oppose each other and do not cancel.
    budgets = [Budget("latency_us", 15.0), Budget("flash_bytes", 50.0)]
    directions, log = alphas(cost, budgets, [[0.0, 1.0, 0.0]]).directions()
    assert log["opposed"] == 1
    assert np.linalg.norm(directions[0]) == pytest.approx(1)
    assert log["violation/latency_us"] == pytest.approx(1 / 3)
    assert log["violation/flash_bytes"] == pytest.approx(0.4)


def test_plain_steps_reach_the_feasible_region_against_the_gradient() -> None:
    rng = np.random.default_rng(0)
    latency = rng.integers(1, 20, (5, 4)).astype(float)
    cost = table(*latency.tolist())
    budget = Budget("latency_us", float(latency.min(axis=1).sum()) + 3)
    start = [(row == row.max()).astype(float).tolist() for row in latency]
    own = alphas(cost, [budget], start)
    # The task always pulls towards the dearest candidates.
    pull = [torch.tensor(-row / np.linalg.norm(row), dtype=torch.float32) for row in latency]
    kept = []
    for _ in range(300):
        own.step(pull)
        kept.append(budget.keeps(float(cost.price(np.array([own.architecture()]))[0, 0])))
    assert not kept[0]
    assert any(kept)


def test_turning_the_update_keeps_the_guarantee_under_adam() -> None:
    # Every step moves along D by at least rate * (R - 1) * max(||update||, epsilon), whatever Adam remembers.
    rng = np.random.default_rng(0)
    cost = table([4.0, 6.0, 9.0, 5.0])
    own = alphas(
        cost, [Budget("latency_us", 4.5)], [[0.0, 0.0, 50.0, 0.0]],
        alpha_optimizer="adam", turn="update", epsilon=0.5,
    )  # fmt: skip
    for _ in range(50):
        (toward,), _ = own.directions()
        before = own.values[0].detach().numpy().astype(float).copy()
        own.step([torch.tensor(rng.normal(size=4) * rng.choice([0.0, 1e-6, 10.0]), dtype=torch.float32)])
        moved = own.values[0].detach().numpy() - before
        assert moved @ toward >= 0.1 * 0.2 * 0.5 - 1e-4
        assert own.tested == ((2,), False)


def test_after_a_spike_only_the_turned_update_comes_back() -> None:
    """Adam remembers one large gradient for thousands of steps, and drowns the paper's pull of epsilon."""
    steps = {}
    for turn in ("gradient", "update"):
        own = alphas(
            table([1.0, 9.0]), [Budget("latency_us", 5.0)], [[0.0, 1.0]],
            alpha_optimizer="adam", turn=turn, epsilon=1e-3 if turn == "gradient" else 0.5,
        )  # fmt: skip
        own.step([torch.tensor([10.0, -10.0])])
        count = 0
        while own.architecture() == (1,) and count < 200:
            own.step([torch.zeros(2)])
            count += 1
        steps[turn] = count
    assert steps["update"] < 50 < steps["gradient"]


def test_unavailable_candidates_never_make_nan() -> None:
    cost = TableCost({"latency_us": [[5.0, 9.0], [5.0, 9.0]]}, forbidden=[(0, 0, 0), (0, 1, 0)])
    steps = [(Step(0, 0, 0), Step(1, 0, 0)), (Step(1, 0, 0),)]
    own = Alphas([2, 2], path_decoder(steps), cost, [Budget("latency_us", 3.0)], ConnasConfig())
    log = own.step([torch.tensor([0.1, 0.1]), None])
    assert all(np.isfinite(v) for v in log.values())
    assert all(torch.isfinite(a).all() for a in own.values)
    assert cost.valid(own.architecture())


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"rescale": 1.0}, {"anneal": 0.0}, {"warmup_epochs": 150}, {"norm": "row"},
        {"constraints": "none"}, {"path_steps": -1}, {"epoch_steps": 0}, {"alpha_optimizer": "lion"},
        {"learning_rate": -1.0},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ConnasConfig(**wrong)


# --- whole searches -----------------------------------------------------------------------------------------------


def middle(cost: CostTable, metric: str, quantile: float) -> float:
    rng = np.random.default_rng(0)
    prices = cost.price(np.array([space().sample(rng) for _ in range(500)]))
    return float(np.quantile(prices[:, cost.metrics.index(metric)], quantile))


def test_it_moves_into_the_feasible_region_and_the_exact_checker_agrees(cost: CostTable) -> None:
    budgets = [Budget("params", middle(cost, "params", 0.1)), Budget("macs", middle(cost, "macs", 0.1))]
    checked: list[Architecture] = []

    def checker(a: Architecture) -> dict[str, float]:
        checked.append(a)
        return dict(zip(cost.metrics, cost.price(np.array([a]))[0].tolist(), strict=True))

    calls: list[tuple[int, int, str]] = []
    result = search(cost, budgets, checker=checker, progress=lambda *a: calls.append(a))
    assert result.history[0].values["violation/params"] > 0  # the start is outside
    assert result.history[-1].values["violation/params"] == result.history[-1].values["violation/macs"] == 0
    assert not result.repaired
    assert space().valid(result.architecture)
    assert all(b.keeps(result.exact[b.metric]) for b in budgets)
    assert result.exact == result.predicted
    assert checked == [result.architecture]
    assert 0 <= result.score <= 1
    assert result.evaluations >= 1
    assert len(result.history) == 6 * 4  # epochs x batches of 32 in 128
    assert [c[:2] for c in calls] == [(i, 6) for i in range(7)]
    last = result.history[-1].values
    assert last["temperature"] == pytest.approx(0.1)
    assert {
        "loss/train",
        "loss/validation",
        "entropy",
        "gradient/raw",
        "gradient/modified",
        "candidate/loss",
    } <= set(last)


def test_an_epoch_may_be_a_part_of_the_data(cost: CostTable) -> None:
    budgets = [Budget("params", middle(cost, "params", 0.3))]
    result = search(cost, budgets, config=replace(CONFIG, epoch_steps=3))
    assert len(result.history) == 6 * 3
    assert (
        search(cost, budgets, config=replace(CONFIG, epoch_steps=99)).history == search(cost, budgets).history
    )


def test_the_same_seed_gives_the_same_result(cost: CostTable) -> None:
    budgets = [Budget("params", middle(cost, "params", 0.2))]
    config = replace(CONFIG, epochs=3)
    first, second = search(cost, budgets, config=config), search(cost, budgets, config=config)
    assert first == second
    other = search(cost, budgets, config=replace(config, seed=1))
    assert other.history != first.history


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_search_resumes_to_the_same_result(
    cost: CostTable, tmp_path: Path, stop_after: int
) -> None:
    def stop(done: int, total: int, line: str) -> None:
        if done == stop_after:
            raise Stop

    budgets = [Budget("params", middle(cost, "params", 0.2))]
    config = replace(CONFIG, epochs=4, warmup_epochs=1, path_steps=1)
    path = tmp_path / "search.safetensors"
    undisturbed = search(cost, budgets, config=config)
    with pytest.raises(Stop):
        search(cost, budgets, config=config, checkpoint=path, progress=stop)
    fresh = Supernet(space())  # other random weights: all that matters comes from the file
    resumed = search(cost, budgets, config=config, checkpoint=path, resume=True, supernet=fresh)
    assert resumed == undisturbed
    assert resumed.history[0].epoch == 1  # the warm-up has no alpha steps


def test_a_checkpoint_of_another_search_is_refused(cost: CostTable, tmp_path: Path) -> None:
    budgets = [Budget("params", middle(cost, "params", 0.2))]
    config = replace(CONFIG, epochs=1)
    path = tmp_path / "search.safetensors"
    search(cost, budgets, config=config, checkpoint=path)
    with pytest.raises(ConfigurationError, match="seed = 0, this run has 7"):
        search(cost, budgets, config=replace(config, seed=7), checkpoint=path, resume=True)
    with pytest.raises(ConfigurationError, match="budgets"):
        search(cost, [Budget("params", 1e6)], config=config, checkpoint=path, resume=True)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigurationError, match="damaged"):
        search(cost, budgets, config=config, checkpoint=path, resume=True)


def test_infeasible_is_said_before_training(cost: CostTable) -> None:
    own = supernet()
    before = {n: t.clone() for n, t in own.state_dict().items()}
    least = cost.least()["params"][0]
    with pytest.raises(InfeasibleError) as caught:
        search(cost, [Budget("params", least - 1), Budget("macs", 1e9)], supernet=own)
    assert caught.value.binding == ("params",)
    assert caught.value.least["params"] == least
    assert caught.value.nearest_costs["params"] == least
    assert all(torch.equal(t, before[n]) for n, t in own.state_dict().items())


def test_a_run_too_short_to_get_inside_is_repaired(cost: CostTable) -> None:
    budgets = [Budget("params", cost.least()["params"][0] * 1.05)]
    config = replace(CONFIG, epochs=1, alpha_learning_rate=1e-6)
    result = search(cost, budgets, config=config)
    assert result.repaired
    assert result.predicted["params"] <= budgets[0].bound


def test_more_candidates_than_the_last_of_an_epoch(cost: CostTable) -> None:
    budgets = [Budget("params", middle(cost, "params", 0.5))]
    config = replace(CONFIG, alpha_learning_rate=0.5)
    one, many = (search(cost, budgets, config=replace(config, candidates=n)) for n in (1, 8))
    assert [r.values["loss/train"] for r in one.history] == [r.values["loss/train"] for r in many.history]
    assert many.evaluations > one.evaluations
    for architecture, _ in many.alternatives:
        assert cost.price(np.array([architecture]))[0][cost.metrics.index("params")] <= budgets[0].bound


def test_a_loss_that_explodes_names_the_learning_rate(cost: CostTable) -> None:
    with pytest.raises(ConfigurationError, match="lower the learning rate"):
        search(cost, [Budget("params", 1e6)], config=replace(CONFIG, learning_rate=1e25))


@pytest.mark.slow
def test_the_quick_settings_choose_and_learn(cost: CostTable) -> None:
    x, y = data(512)
    budgets = [Budget("params", middle(cost, "params", 0.3)), Budget("macs", middle(cost, "macs", 0.3))]
    result = search(cost, budgets, config=ConnasConfig.quick(epochs=16), x=x, y=y)
    assert not result.repaired
    assert result.score > 0.8  # inherited weights; a guess gives 0.33
    assert result.history[-1].values["entropy"] < 0.5 * result.history[0].values["entropy"]
    kept = [max(r.values["violation/params"], r.values["violation/macs"]) == 0 for r in result.history]
    assert np.mean(kept[-len(kept) // 3 :]) > 0.5


def test_no_budgets_is_a_plain_search(cost: CostTable) -> None:
    result = search(cost, [], config=replace(CONFIG, epochs=1))
    assert space().valid(result.architecture)
    assert result.history[0].values["opposed"] == 0
    assert result.predicted


# --- baselines on a supernet --------------------------------------------------------------------------------------


def test_baselines_on_inherited_weights(cost: CostTable, tmp_path: Path) -> None:
    own, (x, y), (x_val, y_val) = supernet(), data(), data(64, seed=1)
    path = tmp_path / "supernet.safetensors"
    arguments: dict[str, Any] = {"sample": space().sample, "epochs": 3, "batch_size": 32}
    losses = train_supernet(own, x, y, **arguments)
    assert len(losses) == 3

    def stop(done: int, total: int, line: str) -> None:
        if done == 2:
            raise Stop

    again = supernet()
    with pytest.raises(Stop):
        train_supernet(again, x, y, checkpoint=path, progress=stop, **arguments)
    again = Supernet(space())
    assert train_supernet(again, x, y, checkpoint=path, resume=True, **arguments) == losses
    for a, b in zip(own.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)

    evaluator = SupernetEvaluator(own, x_val, y_val, recalibration_batches(x, torch.device("cpu"), 2, 32))
    before = {n: t.clone() for n, t in own.state_dict().items()}
    budgets = [Budget("params", middle(cost, "params", 0.3))]
    for method in (random_search, evolve):
        result = method(cost, evaluator, budgets, sample=space().sample, evaluations=6)
        assert result.predicted["params"] <= budgets[0].bound
        assert result.score == evaluator([result.architecture])[0].score
    assert evaluator([result.architecture])[0].uncertainty > 0 or result.score in (0, 1)
    assert all(torch.equal(t, before[n]) for n, t in own.state_dict().items())


def test_recalibration_needs_two_samples() -> None:
    with pytest.raises(ConfigurationError):
        recalibration_batches(data(1)[0], torch.device("cpu"))
    parts = recalibration_batches(data(9)[0], torch.device("cpu"), batches=4, batch_size=2)
    assert [len(p) for p in parts] == [2, 2, 2, 2]
    assert [len(p) for p in recalibration_batches(data(5)[0], torch.device("cpu"), 4, 2)] == [3, 2]
