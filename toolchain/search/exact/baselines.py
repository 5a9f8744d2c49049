"""The paper's own ways to solve its program (eq. 6), faithful to it, to compare with: Algorithm 1 (BCFW) with argmax
rounding, and the bilinear integer program. Evolution is `toolchain.search.evolution`. Not for use: BCFW stops at
partial optima and its rounding breaks budgets, the bilinear program does not finish (figures: docs/selection.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from toolchain.errors import ConfigurationError
from toolchain.search.exact.milp import available
from toolchain.search.exact.model import Stages
from toolchain.search.protocols import Floats

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Rounded:
    """An architecture from a baseline.

    Attributes:
        depths: (S,) number of blocks of each stage.
        configurations: (S, D) configuration of each block; those beyond the depth are meaningless.
        score: of this architecture by eq. 3, base included.
        cost: of this architecture, base included, in the metric's unit.
        violation: relative excess over the budget, 0 where it is kept.
        relaxed: score of the continuous solution before rounding (an upper figure for a proof: see the baseline).
        fractional: groups of α and of β that are not one-hot before rounding (Theorem 3.3 says at most 1 each).
        iterations: steps made; 0 where the notion does not apply.
        seconds: wall time.
    """

    depths: tuple[int, ...]
    configurations: tuple[tuple[int, ...], ...]
    score: float
    cost: float
    violation: float
    relaxed: float
    fractional: tuple[int, int]
    iterations: int
    seconds: float


def evaluate(stages: Stages, metric: str, depths: Floats, configurations: Floats) -> tuple[float, float]:
    """Score and cost of one architecture by eqs. 3 and 5, bases included."""
    score, cost = stages.base_value, stages.bases.get(metric, 0.0)
    for s, depth in enumerate(np.asarray(depths, int).tolist()):
        score += float(stages.depths[s, depth - 1])
        for b in range(depth):
            c = int(configurations[s, b])
            score += float(stages.contributions[s, b, c])
            cost += float(stages.costs[metric][s, b, c])
    return score, cost


def bcfw(
    stages: Stages,
    metric: str,
    bound: float,
    rng: np.random.Generator,
    *,
    p: float = 0.5,
    iterations: int = 200,
    tries: int = 1000,
) -> Rounded:
    """Algorithm 1 of the paper: α or β is drawn and replaced by the optimum of its linear program with the other fixed,
    unit steps; then the argmax of each group is taken (section 3.5.1).

    The linear programs are solved to a vertex by the exact greedy of the multiple-choice knapsack, so that Theorem 3.3
    holds. The start is a random architecture within the budget (the least one where `tries` draws found none).
    Stops early when neither block changes the value any more.

    Args:
        stages: the tables; additive metrics, every configuration available.
        metric, bound: the one budget of the algorithm, base included.
        rng: start and order of the blocks.
        p: probability of an α step.
        iterations: K of the algorithm.

    Raises:
        ConfigurationError: a metric that is a maximum, missing configurations, or a bound below the least cost.
    """
    begin = time.perf_counter()
    gains, times = stages.contributions, stages.costs[metric]
    if metric in stages.maxima or np.isnan(gains).any():
        raise ConfigurationError("BCFW takes one additive metric and tables without gaps")
    count, depth, width = gains.shape
    limit = bound - stages.bases.get(metric, 0.0)
    beta_free = np.arange(depth) >= stages.min_depth - 1
    alpha, beta = _start(times, beta_free, limit, rng, tries)
    fractional, last = [0, 0], [np.nan, np.nan]
    steps = 0
    for _ in range(iterations):
        steps += 1
        # P(stage s has at least b blocks): what eq. 3's double sum over b' >= b comes to.
        reach = beta[:, ::-1].cumsum(1)[:, ::-1]
        if rng.random() < p:
            block = 0
            weight = np.repeat(reach.ravel(), width).reshape(count * depth, width)
            used = reach.ravel() > _TINY
            chosen, fractional[0] = _knapsack(
                (weight * gains.reshape(-1, width))[used], (weight * times.reshape(-1, width))[used], limit
            )
            flat = alpha.reshape(-1, width).copy()
            flat[used] = chosen  # blocks that no depth reaches have gradient 0: they stay as they are
            alpha = flat.reshape(gains.shape)
        else:
            block = 1
            value = stages.depths + (alpha * gains).sum(2).cumsum(1)
            cost = (alpha * times).sum(2).cumsum(1)
            chosen, fractional[1] = _knapsack(value[:, beta_free], cost[:, beta_free], limit)
            beta = np.zeros_like(beta)
            beta[:, beta_free] = chosen
        now = float((beta * (stages.depths + (alpha * gains).sum(2).cumsum(1))).sum())
        last[block] = now
        if abs(last[0] - last[1]) <= 1e-12 * max(1.0, abs(now)):
            break
    depths, configurations = beta.argmax(1) + 1, alpha.argmax(2)
    score, cost_of = evaluate(stages, metric, depths, configurations)
    return Rounded(
        tuple(depths.tolist()),
        tuple(tuple(row) for row in configurations.tolist()),
        score,
        cost_of,
        max(0.0, cost_of / bound - 1),
        now + stages.base_value,
        (fractional[0], fractional[1]),
        steps,
        time.perf_counter() - begin,
    )


def bilinear(
    stages: Stages, metric: str, bound: float, *, seconds: float = 100.0
) -> tuple[Rounded | None, bool]:
    """The bilinear integer program (eq. 6) with McCormick's inequalities for each product α·β, in HiGHS.

    Linearised exactly over binaries (y <= α, y <= β, y >= α + β - 1), so its optimum is right; its relaxation is
    so weak that it takes thousands of times longer than the arc-flow form.

    Returns:
        the best architecture found (None where there is none), `relaxed` being HiGHS's bound; and True when proved.

    Raises:
        ConfigurationError: highspy is not installed, or as `bcfw`.
    """
    if not available():
        raise ConfigurationError("HiGHS is not installed", remedy="pip install 'boardfit[solvers]'")
    import highspy

    gains, times = stages.contributions, stages.costs[metric]
    if metric in stages.maxima or np.isnan(gains).any():
        raise ConfigurationError("the bilinear program takes one additive metric and tables without gaps")
    begin = time.perf_counter()
    count, depth, width = gains.shape
    blocks = count * depth
    products = [
        (s, b, c, e)
        for s in range(count)
        for b in range(depth)
        for c in range(width)
        for e in range(b, depth)
    ]
    alphas, total = blocks * width, blocks * width + blocks + len(products)
    objective, upper = np.zeros(total), np.ones(total)
    objective[alphas : alphas + blocks] = stages.depths.ravel()
    for s in range(count):
        upper[alphas + s * depth : alphas + s * depth + stages.min_depth - 1] = 0.0
    rows: list[tuple[float, float, list[int], list[float]]] = []
    for group in range(blocks):
        rows.append((1.0, 1.0, list(range(group * width, (group + 1) * width)), [1.0] * width))
    for s in range(count):
        rows.append((1.0, 1.0, list(range(alphas + s * depth, alphas + (s + 1) * depth)), [1.0] * depth))
    spent: list[float] = []
    for number, (s, b, c, e) in enumerate(products):
        y, a, z = alphas + blocks + number, (s * depth + b) * width + c, alphas + s * depth + e
        objective[y] = gains[s, b, c]
        spent.append(float(times[s, b, c]) / bound)
        rows.append((-highspy.kHighsInf, 0.0, [y, a], [1.0, -1.0]))
        rows.append((-highspy.kHighsInf, 0.0, [y, z], [1.0, -1.0]))
        rows.append((-1.0, highspy.kHighsInf, [y, a, z], [1.0, -1.0, -1.0]))
    limit = (bound - stages.bases.get(metric, 0.0)) / bound
    rows.append((-highspy.kHighsInf, limit, list(range(alphas + blocks, total)), spent))
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = total, len(rows)
    program.sense_ = highspy.ObjSense.kMaximize
    program.col_cost_, program.col_lower_, program.col_upper_ = objective, np.zeros(total), upper
    program.integrality_ = [highspy.HighsVarType.kInteger] * (alphas + blocks) + [
        highspy.HighsVarType.kContinuous
    ] * len(products)
    program.row_lower_ = np.array([r[0] for r in rows])
    program.row_upper_ = np.array([r[1] for r in rows])
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.cumsum([0] + [len(r[2]) for r in rows])
    program.a_matrix_.index_ = np.concatenate([r[2] for r in rows])
    program.a_matrix_.value_ = np.concatenate([r[3] for r in rows])
    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("mip_rel_gap", 0.0),
        ("time_limit", float(seconds)),
    ):
        solver.setOptionValue(name, value)
    solver.passModel(program)
    solver.run()
    info = solver.getInfo()
    proved = bool(solver.getModelStatus() == highspy.HighsModelStatus.kOptimal)
    if info.primal_solution_status != 2:
        return None, bool(solver.getModelStatus() == highspy.HighsModelStatus.kInfeasible)
    x = np.array(solver.getSolution().col_value)
    configurations = x[:alphas].reshape(count, depth, width).argmax(2)
    depths = x[alphas : alphas + blocks].reshape(count, depth).argmax(1) + 1
    score, cost = evaluate(stages, metric, depths, configurations)
    found = Rounded(
        tuple(depths.tolist()),
        tuple(tuple(row) for row in configurations.tolist()),
        score,
        cost,
        max(0.0, cost / bound - 1),
        float(info.mip_dual_bound) + stages.base_value,
        (0, 0),
        0,
        time.perf_counter() - begin,
    )
    return found, proved


def _start(
    times: Floats, free: np.typing.NDArray[np.bool_], limit: float, rng: np.random.Generator, tries: int
) -> tuple[Floats, Floats]:
    """One-hot (α, β) within the limit: random, else the least one."""
    count, depth, width = times.shape
    allowed = np.flatnonzero(free)
    for attempt in range(tries + 1):
        if attempt < tries:
            configurations, depths = rng.integers(width, size=(count, depth)), rng.choice(allowed, count)
        else:
            configurations = times.argmin(2)
            least = times.min(2).cumsum(1)
            least[:, ~free] = np.inf
            depths = least.argmin(1)
        alpha = np.eye(width)[configurations]
        spent = (alpha * times).sum(2).cumsum(1)[np.arange(count), depths].sum()
        if spent <= limit:
            return alpha, np.eye(depth)[depths]
    raise ConfigurationError(f"no architecture costs {limit:g} or less beside the base: BCFW has no start")


def _knapsack(values: Floats, costs: Floats, limit: float) -> tuple[Floats, int]:
    """A vertex of the linear multiple-choice knapsack: groups x items; and how many groups are fractional (0 or 1).

    Greedy over the steps of each group's upper concave hull, steepest first; exact for the linear program (Kellerer et
    al., chapter 11, which the paper cites).
    """
    groups = len(values)
    chosen = np.zeros(values.shape)
    current = np.empty(groups, int)
    steps: list[tuple[float, int, int, float]] = []
    spent = 0.0
    for g in range(groups):
        order = np.lexsort((-values[g], costs[g])).tolist()
        hull = [order[0]]
        v, c = values[g].tolist(), costs[g].tolist()
        for item in order[1:]:
            if v[item] <= v[hull[-1]]:
                continue
            while len(hull) > 1 and (v[item] - v[hull[-1]]) * (c[hull[-1]] - c[hull[-2]]) >= (
                v[hull[-1]] - v[hull[-2]]
            ) * (c[item] - c[hull[-1]]):
                hull.pop()
            hull.append(item)
        current[g] = hull[0]
        spent += c[hull[0]]
        for before, item in pairwise(hull):
            extra = c[item] - c[before]
            steps.append((-(v[item] - v[before]) / max(extra, _TINY), g, item, extra))
    chosen[np.arange(groups), current] = 1.0
    fractional = 0
    for _, g, item, extra in sorted(steps):
        if spent + extra <= limit:
            chosen[g], chosen[g, item] = 0.0, 1.0
            current[g] = item
            spent += extra
            continue
        share = (limit - spent) / extra
        if share > _TINY:
            chosen[g, item], chosen[g, current[g]] = share, 1 - share
            fractional = 1
        break
    return chosen, fractional
