from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.search.exact import brute
from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.search.exact import (
    ArcFlow,
    Metric,
    best_designs,
    from_stages,
    instances,
    native,
    pareto_front,
    solve,
    solve_or_none,
    solver,
    sweep,
    verify,
    verify_front,
    what_if,
)
from toolchain.units import Budget

MODELS = {"stages": brute.stages_model, "coupled": brute.coupled_model}


def random_case(kind: str, seed: int) -> tuple[ArcFlow, list, list[Budget]]:
    rng = np.random.default_rng([seed, len(kind)])
    model = MODELS[kind](rng, coarse=seed % 3 == 0)
    rows = brute.table(model)
    return model, rows, brute.some_budgets(rng, model, rows, seed % 4)


@pytest.mark.parametrize("kind", MODELS)
def test_equals_enumeration_on_hundreds_of_tiny_spaces(kind: str, engine: str) -> None:
    infeasible = 0
    for seed in range(150 if engine == "c" else 60):
        model, rows, budgets = random_case(kind, seed)
        values = brute.best(rows, model.bounds(budgets))
        solution = solve_or_none(model, budgets, engine=engine)
        if not values:
            infeasible += 1
            assert solution is None
            continue
        assert solution is not None
        assert solution.proved
        assert solution.value == values[0]
        assert model.totals(solution.path) == (solution.value, solution.costs)
        for budget in budgets:
            assert solution.resources[budget.metric] <= budget.bound
            assert solution.slack[budget.metric] >= 0
        assert verify(model, solution.certificate).optimal
    assert infeasible


@pytest.mark.parametrize("kind", MODELS)
def test_infeasible_budgets_are_explained_by_least_values_and_a_nearest_design(
    kind: str, engine: str
) -> None:
    explained = together = 0
    for seed in range(60 if engine == "c" else 30):
        model, rows, budgets = random_case(kind, seed)
        if brute.best(rows, model.bounds(budgets)):
            continue
        with pytest.raises(InfeasibleError) as caught:
            solve(model, budgets, engine=engine)
        explained += 1
        error = caught.value
        for j, metric in enumerate(model.metrics):
            assert error.least[metric.name] == metric.amount(min(costs[j] for _, costs, _ in rows))
        # The binding budgets cannot be kept; without any one of them the others of the set can.
        bound_by_name = {b.metric: b for b in budgets}
        binding = [bound_by_name[name] for name in error.binding]
        if all(brute.best(rows, model.bounds([b])) for b in binding):
            together += 1
            assert not brute.best(rows, model.bounds(binding))
            for rest in itertools.combinations(binding, len(binding) - 1):
                assert brute.best(rows, model.bounds(rest))

        def violation(amounts: dict[str, float], budgets: list[Budget] = budgets) -> float:
            return max(amounts[b.metric] / b.bound - 1 for b in budgets)

        least = min(violation(model.amounts(costs)) for _, costs, _ in rows)
        assert violation(error.nearest_costs) == pytest.approx(least, abs=1e-3 * (1 + least))
    assert explained
    if engine == "c":
        assert together


def test_no_budget_gives_the_longest_path_by_the_bound_alone(engine: str) -> None:
    model = brute.coupled_model(np.random.default_rng(5))
    solution = solve(model, [], engine=engine)
    assert solution.value == max(v for v, _, _ in brute.table(model))
    assert solution.certificate.evidence == "bound"
    assert verify(model, solution.certificate).how == "bound"


def test_a_model_without_any_path_says_so(engine: str) -> None:
    model = brute.stages_model(np.random.default_rng(3))
    with pytest.raises(ConfigurationError, match="no path"):
        solve(model, [], allowed=np.zeros(model.arcs, bool), engine=engine)


def test_negative_costs_and_large_numbers(engine: str) -> None:
    rng = np.random.default_rng(0)
    for scale in (1, 2**30):
        start = np.repeat(np.arange(6), 3)
        arrays = [rng.integers(-9, 10, 18) * scale for _ in range(3)]
        model = ArcFlow(
            7, start, start + 1, arrays[0], np.stack(arrays[1:], 1), start, np.tile(np.arange(3), 6), 6,
            (Metric("a"), Metric("b")),
        )  # fmt: skip
        rows = brute.table(model)
        for limits in ((10, 10), (-10, 5), (-20, -20), (2**33, 3)):
            budgets = ((0, limits[0] * scale), (1, limits[1] * scale))
            values = brute.best(rows, budgets)
            alive, columns, bounds = solver.restricted(model, budgets)
            raw, _ = solver.run(model, model.costs[:, columns], bounds, alive, engine)  # type: ignore[arg-type]
            assert bool(raw.path) == bool(values)
            if values:
                assert raw.value == values[0]


def test_the_engines_agree_at_paper_size() -> None:
    if native.library() is None:
        pytest.skip("no C compiler here")
    for seed in range(3):
        model = from_stages(instances.mobilenet(seed))
        for metrics in (("latency_us",), ("latency_us", "flash_bytes", "ram_bytes")):
            budgets = instances.budgets_between(model, metrics, 0.4)
            compiled, plain = (solve(model, budgets, engine=e) for e in ("c", "python"))  # type: ignore[arg-type]
            assert (compiled.value, compiled.proved) == (plain.value, plain.proved) == (plain.value, True)


def test_the_c_core_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "0")
    native.library.cache_clear()
    try:
        model = brute.stages_model(np.random.default_rng(1))
        assert solve(model, []).engine == "python"
        with pytest.raises(ConfigurationError, match="C core"):
            solve(model, [], engine="c")
    finally:
        native.library.cache_clear()


def test_where_labels_run_out_highs_finishes_or_the_gap_is_said(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = from_stages(instances.mobilenet(4))
    budgets = instances.budgets_between(model, ("latency_us", "flash_bytes", "energy_uj"), 0.25)
    best = solve(model, budgets, engine=engine)
    monkeypatch.setattr(solver, "available", lambda: False)
    cut = solve(model, budgets, engine=engine, labels=1)
    assert not cut.proved
    assert cut.value <= best.value <= cut.bound
    assert cut.upper == model.score(cut.bound)
    assert verify(model, cut.certificate, labels=5).how == "open"
    monkeypatch.undo()
    if solver.available():
        hybrid = solve(model, budgets, engine=engine, labels=1)
        assert (hybrid.value, hybrid.proved, hybrid.certificate.evidence) == (best.value, True, "solver")


@pytest.mark.parametrize("kind", MODELS)
def test_the_front_holds_every_optimum(kind: str) -> None:
    for seed in range(60):
        model, rows, _ = random_case(kind, seed)
        front = pareto_front(model, "latency_us")
        points: list[tuple[int, int]] = []
        for cost, value in sorted(((c[0], v) for v, c, _ in rows), key=lambda p: (p[0], -p[1])):
            if not points or value > points[-1][1]:
                points.append((cost, value))
        assert list(zip(front.costs.tolist(), front.values.tolist(), strict=True)) == points
        verify_front(model, 0, points)
        for i in range(len(front)):
            value, costs = model.totals(front.path(i))
            assert (costs[0], value) == points[i]
            assert front.architecture(i) == model.architecture(front.path(i))
            assert front.at(Budget("latency_us", front.amounts[i] + 1e-9)) == i
        assert front.at(Budget("latency_us", front.amounts[0] / 2)) is None


def test_a_front_under_a_peak_and_with_epsilon() -> None:
    model = from_stages(instances.mobilenet(0))
    exact = pareto_front(model, "latency_us")
    assert exact.error == 0
    rough = pareto_front(model, "latency_us", epsilon=1e-3)
    assert 0 < rough.error < 0.1
    assert len(rough) < len(exact)
    for cost, value in zip(rough.costs.tolist(), rough.values.tolist(), strict=True):
        best = exact.values[np.searchsorted(exact.costs, cost, side="right") - 1]
        assert best - rough.error / float(model.value_unit) <= value <= best
    for i in range(0, len(exact), 97):  # and none of the exact ones is missed by more
        at = np.searchsorted(rough.costs, exact.costs[i], side="right") - 1
        assert rough.values[at] >= exact.values[i] - rough.error / float(model.value_unit)
    ram = instances.budgets_between(model, ("ram_bytes",), 0.3)
    narrow = pareto_front(model, "latency_us", budgets=[*ram, Budget("latency_us", 25e3)])
    assert narrow.amounts[-1] <= 25e3
    for i in range(0, len(narrow), 50):
        budgets = [*ram, Budget("latency_us", narrow.amounts[i] + 1e-9)]
        assert solve(model, budgets).value == narrow.values[i]
    with pytest.raises(ConfigurationError, match="another sum"):
        pareto_front(model, "latency_us", budgets=[Budget("flash_bytes", 1e6)])
    with pytest.raises(ConfigurationError, match="maximum"):
        pareto_front(model, "ram_bytes")


@pytest.mark.parametrize("kind", MODELS)
def test_next_best_designs_in_exact_order(kind: str, engine: str) -> None:
    for seed in range(25):
        model, rows, budgets = random_case(kind, seed)
        values = brute.best(rows, model.bounds(budgets))
        if not values:
            continue
        designs = best_designs(model, budgets, 6, engine=engine)
        assert [d.value for d in designs] == values[:6]
        assert len({d.path for d in designs}) == len(designs)


def test_what_one_more_unit_buys_is_what_solving_again_gives(engine: str) -> None:
    for seed in range(30):
        model, rows, budgets = random_case("stages", seed)
        values = brute.best(rows, model.bounds(budgets))
        if not values or not budgets:
            continue
        metric = budgets[0].metric
        for change in what_if(model, budgets, {metric: 2.0}, engine=engine) + what_if(
            model, budgets, {metric: -2.0}, engine=engine
        ):
            bound = budgets[0].bound + change.amount
            if bound <= 0:
                assert change.gain is None
                continue
            there = brute.best(rows, model.bounds([Budget(metric, bound), *budgets[1:]]))
            if there:
                assert change.gain == pytest.approx(float((there[0] - values[0]) * model.value_unit))
            else:
                assert change.gain is None


def test_shadow_prices_bound_what_more_budget_can_bring(engine: str) -> None:
    """Weak duality: optimum(T + d) <= bound(T) + price * d."""
    model = from_stages(instances.mobilenet(1))
    budgets = instances.budgets_between(model, ("latency_us", "flash_bytes"), 0.3)
    solution = solve(model, budgets, engine=engine)
    assert solution.prices["latency_us"] > 0
    for extra in (500.0, 5000.0):
        (change,) = what_if(model, budgets, {"latency_us": extra}, engine=engine)
        assert change.solution is not None
        gap = model.score(solution.bound) - solution.score
        slack = sum(solution.prices[m] * 1.0 for m in solution.prices)  # budgets are counted in whole steps
        at_most = solution.score + gap + solution.prices["latency_us"] * extra + slack + 0.05
        assert change.solution.score <= at_most


def test_a_sweep_meets_the_front() -> None:
    model = from_stages(instances.mobilenet(2))
    front = pareto_front(model, "latency_us")
    bounds = [float(front.amounts[0]) - 1.0, *(float(x) for x in front.amounts[::100] + 1e-9)]
    first, *others = sweep(model, [], "latency_us", bounds)
    assert first is None
    assert [s.value for s in others if s] == front.values[::100].tolist()
