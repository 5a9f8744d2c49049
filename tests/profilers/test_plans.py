"""Plans of a space: policies in the table and parallel arcs for exact selection, against all plans of all networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from profilers.cost import ArcMetric, CostTable
from profilers.planned import PlannedTable, Policies
from profilers.plans import MOST_PRICES, PlanSpace
from tests.profilers.test_cost import all_architectures, walk
from toolchain.errors import InfeasibleError
from toolchain.export.native.footprint import operator_bytes, step_bytes
from toolchain.graph import Arc, Chain, Operator
from toolchain.graph.liveness import Live
from toolchain.search.exact import best_designs, from_chain, solve
from toolchain.units import Budget

METRICS = ("cycles", "flash_bytes", "ram_bytes")
WIDTHS = (4, 8, 16, 20)


def conv(before: int, after: int, kernel: int) -> Operator:
    return Operator(
        "conv2d",
        ((1, 6, 6, before),),
        (1, 6, 6, after),
        kernel=(kernel, kernel),
        padding="same",
        dtype="int8",
    )


def conv_chain(rng: np.random.Generator, positions: int = 3) -> Chain:
    """Blocks of one or two convolutions, 3x3 (with a choice of algorithms) or 1x1, that change the channels."""
    states = [((1, 6, 6, 8),)]
    arcs = []
    for _ in range(positions):
        after = tuple((1, 6, 6, int(c)) for c in rng.choice(WIDTHS, int(rng.integers(1, 3)), replace=False))
        found = []
        for start, candidate in itertools.product(range(len(states[-1])), range(2)):
            end, middle = int(rng.integers(len(after))), int(rng.choice(WIDTHS))
            widths = [states[-1][start][3], *([middle] if rng.random() < 0.5 else []), after[end][3]]
            ops = tuple(conv(a, b, int(rng.choice([1, 3, 3]))) for a, b in itertools.pairwise(widths))
            live = tuple(Live(36 * op.output[3], (36 * op.inputs[0][3],), False) for op in ops)
            found.append(Arc(candidate, start, end, ops, 0, 0, live))
        states.append(after)
        arcs.append(tuple(found))
    return Chain(tuple(states), tuple(arcs), tuple(range(positions)))


def options_of(chain: Chain) -> dict[Operator, tuple[Operator, ...]]:
    return {
        op: (op, replace(op, algorithm="winograd")) for op in chain.operators if op.kernel == (3, 3)
    }  # fmt: skip


def plan_space(chain: Chain, rng: np.random.Generator) -> PlanSpace:
    """Random cycles; Winograd's may be more than the direct ones. Bytes are the real ones."""
    options = options_of(chain)
    cycles = {op: float(rng.integers(500, 1000)) for op in chain.operators}
    for direct, winograd in options.values():
        cycles[winograd] = float(round(cycles[direct] * rng.uniform(0.4, 1.1)))
    return PlanSpace(
        options,
        ArcMetric("sum", lambda arc: sum(cycles[op] for op in arc.operators), 10.0),
        ArcMetric("sum", lambda arc: sum(operator_bytes(op, "dsp", op.algorithm) for op in arc.operators), 64.0),
        ArcMetric(
            "max",
            lambda arc: max(
                step_bytes(op, live, "dsp", op.algorithm) for op, live in zip(arc.operators, arc.live, strict=True)
            ),
        ),
    )  # fmt: skip


def table_of(chain: Chain, plans: PlanSpace, flash: float, ram: float) -> PlannedTable:
    def make(plan: Callable[[Arc], Arc]) -> CostTable:
        def moved(metric: ArcMetric) -> ArcMetric:
            return replace(metric, value=lambda arc: metric.value(plan(arc)))

        metrics = dict(zip(METRICS, map(moved, (plans.cost, plans.flash, plans.ram)), strict=True))
        return CostTable.of(chain, metrics, candidates=[2] * len(chain.choices))

    tables = [partial(make, plans.policy(price, ram)) for price in plans.prices(chain, ram)]
    bounds = {"flash_bytes": flash, "ram_bytes": ram}
    return PlannedTable(tables[0](), (Policies(METRICS, bounds, tables),))


def every_plan(path: list[Arc], plans: PlanSpace) -> Iterator[tuple[float, float, float]]:
    """(cycles, flash, RAM) of a network under each of its plans."""
    ways = [plans.options.get(op, (op,)) for arc in path for op in arc.operators]
    for chosen in itertools.product(*ways):
        rest = iter(chosen)
        arcs = [replace(arc, operators=tuple(next(rest) for _ in arc.operators)) for arc in path]
        yield (
            plans.cost.base + sum(map(plans.cost.value, arcs)),
            plans.flash.base + sum(map(plans.flash.value, arcs)),
            max(map(plans.ram.value, arcs)),
        )


def bounds_of(chain: Chain, plans: PlanSpace, rng: np.random.Generator) -> tuple[float, float]:
    """Bounds between the least and the most that some network's plans take."""
    paths = [walk(chain, a) for a in itertools.product(range(2), repeat=len(chain.choices))]
    found = np.array([plan for path in paths if path for plan in every_plan(path, plans)])
    low, high = found.min(0), found.max(0)
    flash = rng.uniform(low[1], high[1])
    return float(math.floor(flash)), float(rng.choice([math.inf, math.floor(rng.uniform(low[2], high[2]))]))


@pytest.mark.parametrize("seed", range(40))
def test_prices_are_of_plans_that_keep_the_bounds(seed: int) -> None:
    """Each price is a real plan's; within the bounds where any plan is; between the exact plan and what the Lagrangian
    bound says of it: the next faster policy.
    """
    rng = np.random.default_rng(seed)
    chain = conv_chain(rng)
    plans = plan_space(chain, rng)
    flash, ram = bounds_of(chain, plans, rng)
    table = table_of(chain, plans, flash, ram)
    (policies,) = table.targets
    count = len(policies.tables)
    architectures = all_architectures(table.fastest)
    by_policy = np.array([policies.table(k).price(architectures) for k in range(count)])
    for number, (architecture, row) in enumerate(
        zip(architectures.tolist(), table.price(architectures), strict=True)
    ):
        path = walk(chain, tuple(architecture))
        if path is None:
            assert np.isinf(row).all()
            continue
        every = np.array(list(every_plan(path, plans)))
        assert np.isclose(every, row, rtol=0, atol=1e-4).all(1).any()
        inside = every[(every[:, 1] <= flash) & (every[:, 2] <= ram)]
        assert (len(inside) > 0) == bool(row[1] <= flash and row[2] <= ram)
        if len(inside):
            best = inside[:, 0].min()
            assert row[0] >= best - 1e-4
            first = np.flatnonzero(by_policy[:, number, 1] <= flash)[0]
            assert (row == by_policy[first, number]).all()
            assert count <= MOST_PRICES
            assert first == 0 or by_policy[first - 1, number, 0] <= best + 1e-4


@pytest.mark.parametrize("seed", range(20))
def test_swaps_and_least_agree_with_prices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chain = conv_chain(rng, 4)
    plans = plan_space(chain, rng)
    table = table_of(chain, plans, *bounds_of(chain, plans, rng))
    architectures = all_architectures(table.fastest)
    prices = table.price(architectures)
    valid = np.isfinite(prices).all(1)
    for architecture in architectures[valid][:4].tolist():
        for choice, rows in enumerate(table.swaps(architecture)):
            for candidate, row in enumerate(rows):
                swapped = (*architecture[:choice], candidate, *architecture[choice + 1 :])
                np.testing.assert_array_equal(row, table.price([swapped])[0])
    (policies,) = table.targets
    for column, (metric, (value, architecture)) in enumerate(table.least().items()):
        every = [
            policies.table(k).price(architectures[valid])[:, column] for k in range(len(policies.tables))
        ]
        assert metric == METRICS[column]
        assert value == np.min(every) <= prices[valid, column].min()
        assert any(policies.table(k).price([architecture])[0, column] == value for k in range(len(every)))


def test_many_prices_are_thinned_out_evenly() -> None:
    """The ends stay: as fast as can be, and as small as can be."""
    rng = np.random.default_rng(0)
    ops = [conv(4 * a, 4 * b, 3) for a, b in itertools.product(range(1, 7), repeat=2)]
    live = Live(1, (1,), False)
    chain = Chain((((1,),), ((1,),)), ((Arc(0, 0, 0, tuple(ops), 0, 0, (live,) * len(ops)),),), ())
    plans = plan_space(chain, rng)
    prices = plans.prices(chain)
    assert len(prices) == MOST_PRICES
    assert list(prices) == sorted(set(prices))
    (arc,) = chain.arcs[0]
    assert all(op.algorithm == "direct" for op in plans.policy(prices[-1])(arc).operators)
    fastest = plans.policy(0.0)(arc)
    assert plans.cost.value(fastest) == sum(min(way.cost for way in plans.ways(op, live)) for op in ops)


@pytest.mark.parametrize("seed", range(40))
def test_exact_selection_is_exact_over_plans(seed: int) -> None:
    """The optimum over the parallel arcs is the best of all networks under all of their plans."""
    rng = np.random.default_rng(1000 + seed)
    chain = conv_chain(rng)
    plans = plan_space(chain, rng)
    worth = {(p, c): float(rng.integers(0, 50)) for p in range(len(chain.arcs)) for c in range(2)}
    wide = replace(
        chain, arcs=tuple(tuple(w for a in arcs for w in plans.alternatives(a)) for arcs in chain.arcs)
    )
    metrics = dict(zip(METRICS, (plans.cost, plans.flash, plans.ram), strict=True))
    model = from_chain(wide, lambda position, arc: worth[(position, arc.candidate)], metrics)
    flash, ram = bounds_of(chain, plans, rng)
    networks = {}
    for architecture in itertools.product(range(2), repeat=len(chain.choices)):
        path = walk(chain, architecture)
        if path:
            networks[architecture] = np.array(list(every_plan(path, plans)))
    cycles = float(np.quantile(np.concatenate(list(networks.values()))[:, 0], rng.uniform(0.05, 0.9)))
    bounds = np.array([cycles, flash, ram])
    score = {a: sum(worth[(p, c)] for p, c in enumerate(a)) for a in networks}
    allowed = {a: score[a] for a, every in networks.items() if (every <= bounds).all(1).any()}
    budgets = [Budget(m, b) for m, b in zip(METRICS, bounds.tolist(), strict=True) if b < math.inf]
    if not allowed:
        with pytest.raises(InfeasibleError):
            solve(model, budgets)
        return
    found = solve(model, budgets)
    assert found.proved
    assert found.score == max(allowed.values())
    assert allowed[found.architecture] == found.score
    assert np.isclose(networks[found.architecture], list(found.resources.values()), atol=1e-6).all(1).any()
    # The next best designs are other networks, not the same one under another plan.
    designs = best_designs(model, budgets, len(networks))
    assert sorted(d.architecture for d in designs) == sorted(allowed)
    assert [d.score for d in designs] == sorted(allowed.values(), reverse=True)
