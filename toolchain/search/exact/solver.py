"""The best architecture under any budgets, exactly, with a certificate.

Source of the problem: BINAS eq. 6. Of the method: docs/selection.md ("Lagrangian and labels" on the arc-flow graph).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.search.exact import native, reference
from toolchain.search.exact.certificate import Certificate, Evidence
from toolchain.search.exact.infeasible import explain
from toolchain.search.exact.milp import available, solve_milp
from toolchain.search.exact.model import ArcFlow
from toolchain.search.exact.reference import Raw, Status
from toolchain.search.exact.solution import Engine, Solution
from toolchain.units import Budget

LABELS: Final = 3_000_000
"""Partial paths per search before HiGHS takes over (about 200 MB)."""

PASSES: Final = 300
_BEAM: Final = 100
_BEAM_ONE: Final = 20
_SMALL: Final = 1000


def solve(
    model: ArcFlow,
    budgets: Sequence[Budget],
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    engine: Engine | None = None,
    labels: int = LABELS,
    seconds: float = 60.0,
) -> Solution:
    """The architecture of the largest score that keeps every budget.

    Budgets on sums are handled by a Lagrangian bound and label setting; those on maxima (peak RAM) delete arcs. Where
    the search needs more than `labels` partial paths, HiGHS finishes on the arcs that are left, if it is installed;
    its answer is added up again in integers.

    Args:
        model: the space in integers.
        budgets: at most one per metric; none means the best of the space.
        allowed: (arcs,) False for arcs that must not be used; None for all.
        engine: "c" or "python"; by default C where it can be compiled.
        labels: partial paths per search, at most.
        seconds: limit of HiGHS, where it is needed.

    Returns:
        the optimum; `proved` is False only where the limit was reached and HiGHS could not finish either.

    Raises:
        InfeasibleError: no architecture keeps the budgets; with the least values, what binds, the nearest design.
        ConfigurationError: a budget on an unknown metric, or engine "c" where nothing compiles.
    """
    found = solve_or_none(model, budgets, allowed=allowed, engine=engine, labels=labels, seconds=seconds)
    if found is None:
        raise explain(model, budgets, allowed, _within(model, allowed, engine, labels))
    return found


def solve_or_none(
    model: ArcFlow,
    budgets: Sequence[Budget],
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    engine: Engine | None = None,
    labels: int = LABELS,
    seconds: float = 60.0,
) -> Solution | None:
    """As `solve`, but None where no architecture keeps the budgets: for loops that need no explanation."""
    begin = time.perf_counter()
    bounds = model.bounds(budgets)
    alive, columns, limits = restricted(model, bounds, allowed)
    costs = model.costs[:, columns]
    raw, used = run(model, costs, limits, alive, engine, labels)
    evidence: Evidence = "bound" if raw.bound == raw.value else "search"
    if raw.status is Status.LIMIT:
        raw, evidence = _hybrid(model, costs, limits, raw, seconds)
    if not raw.path:
        if raw.status is Status.INFEASIBLE:
            return None
        raise ConfigurationError(
            f"no design found within {labels} partial paths, and none is excluded either",
            remedy="install highspy (the extra `solvers`), or allow more partial paths",
        )
    return _solution(model, budgets, bounds, columns, raw, evidence, used, begin)


def restricted(
    model: ArcFlow, bounds: Sequence[tuple[int, int]], allowed: npt.NDArray[np.bool_] | None = None
) -> tuple[npt.NDArray[np.bool_], list[int], npt.NDArray[np.int64]]:
    """Arcs that keep the budgets on maxima; columns and limits of the budgets on sums."""
    alive = np.ones(model.arcs, np.bool_) if allowed is None else np.asarray(allowed, np.bool_).copy()
    if alive.shape != (model.arcs,):
        raise ConfigurationError(f"allowed has shape {alive.shape}, the model {model.arcs} arcs")
    columns, limits = [], []
    for column, limit in bounds:
        if model.metrics[column].combine == "max":
            alive &= model.costs[:, column] <= limit
        else:
            columns.append(column)
            limits.append(max(-(2**62), min(2**62, limit)))
    return alive, columns, np.array(limits, np.int64)


def run(
    model: ArcFlow,
    costs: npt.NDArray[np.int64],
    limits: npt.NDArray[np.int64],
    alive: npt.NDArray[np.bool_],
    engine: Engine | None = None,
    labels: int = LABELS,
    value: npt.NDArray[np.int64] | None = None,
) -> tuple[Raw, Engine]:
    """The raw solve on steps, by the engine asked for or the best there is.

    Raises:
        ConfigurationError: engine "c" where nothing compiles, or with more than `native.MOST` limits.
    """
    beam = _BEAM if len(limits) > 1 else _BEAM_ONE if len(alive) > _SMALL else 0
    values = model.value if value is None else value
    core = None if engine == "python" or len(limits) > native.MOST else native.library()
    if core is not None:
        raw = native.solve_arrays(
            core, model.nodes, model.start, model.end, values, costs, limits, alive,
            passes=PASSES, labels=labels, beam=beam,
        )  # fmt: skip
        return raw, "c"
    if engine == "c":
        raise ConfigurationError(
            "the C core is not available here", remedy="install a C compiler or the ziglang package"
        )
    raw = reference.solve_arrays(
        model.nodes,
        model.start,
        model.end,
        values,
        costs,
        limits,
        alive,
        passes=PASSES,
        labels=labels,
        beam=beam,
    )
    return raw, "python"


def _within(
    model: ArcFlow, allowed: npt.NDArray[np.bool_] | None, engine: Engine | None, labels: int
) -> Callable[[Sequence[tuple[int, int]]], tuple[int, ...] | None]:
    """Bounds in steps -> any path that keeps them, or None; for the explanation of what is not possible."""

    def search(bounds: Sequence[tuple[int, int]]) -> tuple[int, ...] | None:
        alive, columns, limits = restricted(model, bounds, allowed)
        costs = model.costs[:, columns]
        # The least of one cost under limits on the others answers it, with bounds that have something to bite on.
        value = -costs[:, 0] if columns else model.value
        raw, _ = run(model, costs[:, 1:], limits[1:], alive, engine, labels, np.ascontiguousarray(value))
        if raw.path and (not columns or -raw.value <= limits[0]):
            return raw.path
        return None

    return search


def _hybrid(
    model: ArcFlow,
    costs: npt.NDArray[np.int64],
    limits: npt.NDArray[np.int64],
    raw: Raw,
    seconds: float,
) -> tuple[Raw, Evidence]:
    """HiGHS on the arcs of all paths that could beat the incumbent; its answer added up in integers."""
    if not available():
        return raw, "search"
    found = solve_milp(model, costs, limits, raw.alive, seconds)
    path, value = raw.path, raw.value
    if found.path and (not path or found.value > value):
        path, value = found.path, found.value
    status = Status.LIMIT if not found.proved else Status.PROVED if path else Status.INFEASIBLE
    return replace(raw, status=status, path=path, value=value), "solver"


def _solution(
    model: ArcFlow,
    budgets: Sequence[Budget],
    bounds: tuple[tuple[int, int], ...],
    columns: list[int],
    raw: Raw,
    evidence: Evidence,
    engine: Engine,
    begin: float,
) -> Solution:
    value, costs = model.totals(raw.path)
    resources = model.amounts(costs)
    certificate = Certificate(
        model=model.digest(),
        path=raw.path,
        value=value,
        budgets=bounds,
        shift=raw.shift,
        multipliers=raw.multipliers,
        bound=raw.bound,
        evidence=evidence,
    )
    steps = dict(bounds)
    slack = {model.metrics[c].name: float((t - costs[c]) * model.metrics[c].unit) for c, t in bounds}
    prices = {b.metric: 0.0 for b in budgets}
    for column, multiplier in zip(columns, raw.multipliers[0] if raw.multipliers else (), strict=True):
        metric = model.metrics[column]
        prices[metric.name] = float(Fraction(multiplier, 2**raw.shift) * model.value_unit / metric.unit)
    assert all(costs[c] <= t for c, t in steps.items())
    return Solution(
        path=raw.path,
        architecture=model.architecture(raw.path),
        value=value,
        score=model.score(value),
        costs=costs,
        resources=resources,
        slack=slack,
        prices=prices,
        bound=raw.bound,
        upper=model.score(value if raw.status is Status.PROVED else raw.bound),
        proved=raw.status is Status.PROVED,
        certificate=certificate,
        engine=engine,
        labels=raw.labels,
        arcs_left=raw.arcs_left,
        seconds=time.perf_counter() - begin,
    )
