"""The budgets of a search: from the project file and the command line, per target, absolute, less the margin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from profilers.footprint import RAM
from profilers.patched import least_ram
from toolchain.errors import InfeasibleError
from toolchain.units import BUDGET_METRICS, Budget, QuantileBudget, format_value, plain_metric
from toolchain.workflow.costs import Costs, open_costs
from toolchain.workflow.project import Project
from toolchain.workflow.sessions import LATENCY, MEASURED

QUANTILE_SEED, QUANTILE_SAMPLES = 0, 4096
# search.margin where the project does not say: a CPU's predictions err by some per cent, a board's by parts of one.
MARGIN, BOARD_MARGIN = 10.0, 2.0
SPREADS = (
    2.0  # standard deviations of single networks about the corrected model that the margin need not exceed
)


def asked_budgets(
    project: Project, changes: tuple[Budget | QuantileBudget, ...]
) -> tuple[Budget | QuantileBudget, ...]:
    """The budgets of the project file, with those of the command line in their place metric by metric."""
    return merged_budgets(project_budgets(project), tuple(named(project, b) for b in changes))


Prices = tuple[Costs, tuple[Budget, ...]]
"""The costs of a project's space as the table has them, and the budgets as absolute bounds."""


def priced(project: Project, asked: tuple[Budget | QuantileBudget, ...], *, strict: bool = False) -> Prices:
    """The costs of the project's space under plans that keep the budgets, and the budgets as absolute bounds.

    Raises: as `open_costs`.
    """
    costs = open_costs(project, [b.metric for b in asked], strict=strict)
    limits = within_the_part(costs, resolved(project, costs, asked))
    return costs.under(limits), limits


def merged_budgets(
    base: tuple[Budget | QuantileBudget, ...], changes: tuple[Budget | QuantileBudget, ...]
) -> tuple[Budget | QuantileBudget, ...]:
    """`base` with the bounds of `changes` in place of those on the same metric."""
    new = {b.metric: b for b in changes}
    changed = [new.get(b.metric, b) for b in base]
    return tuple(dict.fromkeys((*changed, *new.values())))


def project_budgets(project: Project) -> tuple[Budget | QuantileBudget, ...]:
    """The budgets of all targets, with the project's names of metrics."""
    return tuple(
        replace(limit, metric=project.metric(target, limit.metric))
        for target in project.config.target
        for limit in target.limits
    )


def named(project: Project, budget: Budget | QuantileBudget) -> Budget | QuantileBudget:
    """A budget of the command line with the project's name of its metric."""
    name = budget.metric.rpartition(":")[0]
    owner = next((target for target in project.config.target if target.name == name), None)
    if owner is None:
        return budget  # of the only target, of the network, or of none: `open_costs` knows
    return replace(budget, metric=project.metric(owner, plain_metric(budget.metric)))


def margins_of(project: Project, costs: Costs) -> dict[str, float]:
    """Metric -> per cent by which its budget is tightened for the search."""
    given = project.config.search.margin
    found = {}
    for one in costs.targets:
        usual = MARGIN if one.device is None else BOARD_MARGIN
        if one.filled is not None:
            usual = max(usual, MARGIN)
        if one.correction is not None and one.factor == one.correction.factor:
            # Measured near the optimum: it is known there how far single networks are off.
            usual = min(usual, 100 * SPREADS * one.correction.spread)
        for metric in MEASURED:
            found[project.metric(one.target, metric)] = usual if given is None else given
    return found


def resolved(
    project: Project, costs: Costs, budgets: tuple[Budget | QuantileBudget, ...]
) -> tuple[Budget, ...]:
    """Budgets relative to the space become absolute: the quantile over networks drawn uniformly, by the table."""
    if not any(isinstance(b, QuantileBudget) for b in budgets):
        return tuple(b for b in budgets if isinstance(b, Budget))
    rng = np.random.default_rng(QUANTILE_SEED)
    prices = costs.table.price([project.space.sample(rng) for _ in range(QUANTILE_SAMPLES)])
    column = {metric: prices[:, index] for index, metric in enumerate(costs.table.metrics)}
    return tuple(
        b
        if isinstance(b, Budget)
        else Budget(b.metric, float(f"{np.quantile(column[b.metric], b.share):.3g}"), b.share)
        for b in budgets
    )


def tightened(limits: Iterable[Budget], margins: Mapping[str, float]) -> tuple[Budget, ...]:
    """What is searched under: predictions of measured metrics err, so their bounds come down by the margin.

    Args:
        margins: metric -> per cent; the others stay.
    """
    return tuple(Budget(b.metric, b.bound / (1 + margins.get(b.metric, 0.0) / 100)) for b in limits)


def within_the_part(costs: Costs, limits: tuple[Budget, ...]) -> tuple[Budget, ...]:
    """The budgets, and on a board the memories of the part: what does not fit there is no result, asked or not.

    Where several targets have a budget on the same metric of the network, the least bound holds.
    """
    bounds: dict[str, float] = {}
    for budget in limits:
        bounds[budget.metric] = min(budget.bound, bounds.get(budget.metric, math.inf))
    for one in costs.targets:
        for plain, most in one.footprint.limits.items():
            metric = costs.project.metric(one.target, plain)
            bounds[metric] = min(most, bounds.get(metric, most))
    shares = {(b.metric, b.bound): b.share for b in limits}
    return tuple(Budget(metric, bound, shares.get((metric, bound))) for metric, bound in bounds.items())


def explain_margin(error: InfeasibleError, narrow: Iterable[Budget], margins: Mapping[str, float]) -> None:
    """Where a tightened bound is in the way, say so, and name the budget that lets the nearest design pass."""
    for budget in narrow:
        metric = budget.metric
        plain = plain_metric(metric)
        key = next((key for key, (name, _) in BUDGET_METRICS.items() if name == plain), plain)
        key = metric.removesuffix(plain) + key
        margin_percent = margins.get(metric, 0.0)
        if not margin_percent:
            continue
        if metric in error.binding:
            error.message += f" (the {key} budget less search.margin, {margin_percent:g} %)"
        needed = error.nearest_costs.get(metric)
        if needed is not None and needed > budget.bound:
            # Rounded up: a rounded-down budget would be refused by its last digit.
            enough = math.ceil(needed * (1 + margin_percent / 100) * 1000) / 1000
            text = f'"{enough:g} us"' if plain == LATENCY else f"{math.ceil(enough)}"
            error.remedy += f"; with the margin that is {key} = {text}"


def explain_patches(error: InfeasibleError, costs: Costs) -> None:
    """Where RAM is in the way on a target that can run first layers patch by patch, say what that is worth."""
    for one in costs.targets:
        metric = costs.project.metric(one.target, RAM)
        if one.plans is None or metric not in error.binding:
            continue
        whole = least_ram(one.chain, one.footprint.ram, one.policy)
        least = min(whole, error.least.get(metric, whole))
        error.message += f"; {metric} is {format_value(metric, whole)} at the least without patches, " + (
            f"{format_value(metric, least)} with" if least < whole else "and patches bring it no lower"
        )
