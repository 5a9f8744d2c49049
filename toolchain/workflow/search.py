"""The search stage: a network that keeps every budget by the table, checked on its real graph and file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolchain.errors import InfeasibleError, UsageError
from toolchain.report.plots import plot_search
from toolchain.search.connas import ConnasConfig, connas_search
from toolchain.search.evaluators import SupernetEvaluator, recalibration_batches, train_supernet
from toolchain.search.evolution import evolve
from toolchain.search.protocols import SearchResult
from toolchain.search.random_search import random_search
from toolchain.search.trace import epochs_of, write_trace
from toolchain.spaces import Architecture, Row
from toolchain.supernet import Supernet
from toolchain.units import BUDGET_METRICS, Budget, QuantileBudget, plain_metric
from toolchain.workflow.binas import PLOTS, Selection, binas_search, can_draw, selection_from_record
from toolchain.workflow.config import SearchSection
from toolchain.workflow.costs import Costs, TargetCosts, evidence_text, open_costs
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import Progress, Project, fingerprint, silent
from toolchain.workflow.sessions import LATENCY, MEASURED

STAGE = "search"
METHODS = ("connas", "binas", "evolution", "random")
QUANTILE_SEED, QUANTILE_SAMPLES = 0, 4096
# search.margin where the project does not say: a CPU's predictions err by some per cent, a board's by parts of one.
MARGIN, BOARD_MARGIN = 10.0, 2.0


@dataclass(frozen=True)
class TargetPrices:
    """What the prices on one target rest on.

    Attributes:
        name, url: the target's.
        stack: fingerprint of what the prices belong to.
        calibration_mape: mean error of predicted latencies (cycles) on held-out networks in per cent; None if unknown.
        operators: of the space. predicted: those among them that were not measured, but predicted.
        predicted_in_network: those among the operators of the network that was found.
        predicted_error: mean relative error of predicted operators, by leaving measured ones out; None without any.
        note: what every figure must be read with, e.g. that no hardware was used; may be empty.
    """

    name: str
    url: str
    stack: str
    calibration_mape: float | None
    operators: int
    predicted: int
    predicted_in_network: int
    predicted_error: float | None
    note: str


@dataclass(frozen=True)
class SearchOutcome:
    """What the stage found. Where the project has several targets, metrics are named after them: `pi:latency_us`.

    Attributes:
        architecture, text: the winner, as indices and as people read it.
        rows: the winner block by block.
        score: validation accuracy with the supernet's weights.
        predicted: metric -> value from the table.
        exact: metric -> value from the real graph and file.
        evidence: metric -> what the predicted value is.
        budgets: the bounds it keeps.
        targets: what the prices on each target rest on.
        method, seed, evaluations, repaired: how it was found (`toolchain.search.SearchResult`).
        alternatives: (text, score) of other networks that keep the budgets by the table.
        seconds: of the search; of the first time when it is reused.
        selection: binas: certificate, alternatives, what more of a budget buys, which design choices pay.
        reused: nothing had changed, so the earlier result stands.
    """

    architecture: Architecture
    text: str
    rows: tuple[Row, ...]
    score: float
    predicted: Mapping[str, float]
    exact: Mapping[str, float]
    evidence: Mapping[str, str]
    budgets: tuple[Budget, ...]
    targets: tuple[TargetPrices, ...]
    method: str
    seed: int
    evaluations: int
    repaired: bool
    alternatives: tuple[tuple[str, float], ...]
    seconds: float
    selection: Selection | None = None
    reused: bool = False


def search(
    project: Project,
    *,
    progress: Progress = silent,
    budgets: tuple[Budget | QuantileBudget, ...] = (),
    method: str | None = None,
    force: bool = False,
    strict: bool = False,
) -> SearchOutcome:
    """Search under the project's budgets, resuming an unfinished search, or repeat the earlier answer.

    Args:
        budgets: replace those of the project file metric by metric; of several targets' metrics as in the outcome.
        method: replaces that of the project file.
        force: search again from the start although nothing changed.
        strict: refuse prices that rest on predicted operators.

    Raises:
        InfeasibleError: no network keeps all budgets; carries the least values and the nearest design. An earlier
            result is forgotten then.
        LutError: the table lacks operators that cannot be predicted, or with `strict` any; the remedy is
            `boardfit profile`.
        ConfigurationError: a budget on a metric that no target gives.
    """
    method = method or project.config.search.method
    if method not in METHODS:
        raise UsageError(
            f"unknown search method {method!r}", remedy=f"use {', '.join(METHODS[:-1])} or {METHODS[-1]}"
        )
    asked = merged_budgets(project_budgets(project), tuple(_named(project, b) for b in budgets))
    progress("costs", 0, 1, "reading the table")
    costs = open_costs(project, [b.metric for b in asked], strict=strict)
    progress("costs", 1, 1, f"{len(costs.chain.operators)} operators")
    limits = within_the_part(costs, resolved(project, costs, asked))
    inputs = search_inputs(project, asked, method, costs)
    stored = None if force else project.record(STAGE, inputs)
    if stored is not None:
        return _from_record(project, stored)
    # A bound relative to the space moves with the machine's best speed, and a search resumes only under its own.
    checkpoint = project.checkpoint(
        f"{method}-{fingerprint(inputs, [(b.metric, b.bound) for b in limits])}.safetensors"
    )
    if force:
        checkpoint.unlink(missing_ok=True)
    margins = _margins(project, costs)
    narrow = tightened(limits, margins)
    started = time.monotonic()
    selection = None
    try:
        if method == "binas":
            result, selection = binas_search(project, costs, narrow, progress=progress, force=force)
        else:
            result = _run(project, costs, narrow, method, checkpoint, progress)
    except InfeasibleError as error:
        # An earlier winner does not keep these budgets: nobody shall go on with it.
        project.drop_record(STAGE)
        _explain_margin(error, narrow, margins)
        raise
    outcome = SearchOutcome(
        architecture=result.architecture,
        text=project.space.encode(result.architecture),
        rows=tuple(project.space.describe(result.architecture)),
        score=result.score,
        predicted=dict(result.predicted),
        exact=dict(result.exact),
        evidence={metric: evidence_text(costs, metric) for metric in costs.table.metrics},
        budgets=limits,
        targets=tuple(_prices(project, found, result.architecture) for found in costs.targets),
        method=result.method,
        seed=result.seed,
        evaluations=result.evaluations,
        repaired=result.repaired,
        alternatives=tuple((project.space.encode(a), score) for a, score in result.alternatives[:5]),
        seconds=time.monotonic() - started,
        selection=selection,
    )
    values = asdict(replace(outcome, rows=()))
    history = [{"step": h.step, "epoch": h.epoch, **h.values} for h in result.history]
    project.write_record(STAGE, inputs, {**values, "history": history})
    if method == "connas" and result.history:
        _leave_trace(project, result, narrow)
    checkpoint.unlink(missing_ok=True)
    return outcome


def _leave_trace(project: Project, result: SearchResult, budgets: tuple[Budget, ...]) -> None:
    """The log of every alpha step as a table, and the course of the search as a picture where matplotlib is there."""
    write_trace(result.history, project.results / "search.csv")
    if can_draw():
        plot_search(epochs_of(result.history), budgets, project.results / PLOTS / "search")


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


def _named(project: Project, budget: Budget | QuantileBudget) -> Budget | QuantileBudget:
    """A budget of the command line with the project's name of its metric."""
    name = budget.metric.rpartition(":")[0]
    owner = next((target for target in project.config.target if target.name == name), None)
    if owner is None:
        return budget  # of the only target, of the network, or of none: `open_costs` knows
    return replace(budget, metric=project.metric(owner, plain_metric(budget.metric)))


def _margins(project: Project, costs: Costs) -> dict[str, float]:
    """Metric -> per cent by which its budget is tightened for the search."""
    given = project.config.search.margin
    found = {}
    for one in costs.targets:
        usual = MARGIN if one.device is None else BOARD_MARGIN
        if one.filled is not None:
            usual = max(usual, MARGIN)
        for metric in MEASURED:
            found[project.metric(one.target, metric)] = usual if given is None else given
    return found


def _prices(project: Project, costs: TargetCosts, architecture: Architecture) -> TargetPrices:
    filled = costs.filled
    inside = 0
    if filled is not None:
        graph = structural_graph(project, architecture, costs.target.precision)
        inside = len({op for op in graph.operators if op in filled.predicted})
    return TargetPrices(
        costs.target.name,
        costs.target.url,
        costs.stack.fingerprint,
        costs.mape,
        len(costs.chain.operators),
        len(filled.predicted) if filled else 0,
        inside,
        filled.error if filled else None,
        costs.note,
    )


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
        else Budget(b.metric, float(f"{np.quantile(column[b.metric], b.share):.3g}"))
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
    return tuple(Budget(metric, bound) for metric, bound in bounds.items())


def _explain_margin(error: InfeasibleError, narrow: Iterable[Budget], margins: Mapping[str, float]) -> None:
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


def search_inputs(
    project: Project, asked: tuple[Budget | QuantileBudget, ...], method: str, costs: Costs
) -> str:
    """Fingerprint of everything that the answer depends on: settings, data, space, budgets and prices."""
    return fingerprint(
        project.config.search.model_dump(),
        asdict(connas_config(project.config.search, project.config.project.seed)),
        project.config.project.seed,
        project.config.project.threads,
        project.data.fingerprint,
        project.space_fingerprint,
        [target.precision for target in project.config.target],
        [asdict(b) for b in asked],
        method,
        costs.fingerprint,
    )


def connas_config(settings: SearchSection, seed: int) -> ConnasConfig:
    """The preset's settings with those of the project file in their place."""
    base = ConnasConfig.quick(seed=seed) if settings.preset == "quick" else ConnasConfig(seed=seed)
    given = {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "final_learning_rate": None if settings.learning_rate is None else settings.learning_rate / 10,
        "alpha_learning_rate": settings.alpha_learning_rate,
        "rescale": settings.rescale,
        "relaxation": settings.relaxation,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return replace(base, **changes)


def _run(
    project: Project,
    costs: Costs,
    limits: tuple[Budget, ...],
    method: str,
    checkpoint: Path,
    progress: Progress,
) -> SearchResult:
    settings, data, seed = project.config.search, project.data, project.config.project.seed
    torch.set_num_threads(project.config.project.threads)
    torch.manual_seed(seed)
    supernet = Supernet(project.space)

    def step(done: int, total: int, note: str = "") -> None:
        progress("search", done, total, note)

    if method == "connas":
        return connas_search(
            supernet,
            costs.table,
            limits,
            x=data.x["train"],
            y=data.y["train"],
            x_val=data.x["val"],
            y_val=data.y["val"],
            checker=costs.exact,
            config=connas_config(settings, seed),
            progress=step,
            checkpoint=checkpoint,
            resume=True,
        )
    schedule = connas_config(settings, seed)
    train_supernet(
        supernet,
        data.x["train"],
        data.y["train"],
        sample=project.space.sample,
        epochs=schedule.epochs,
        batch_size=schedule.batch_size,
        learning_rate=schedule.learning_rate,
        seed=seed,
        progress=lambda done, total, note: progress("supernet", done, total, note),
        checkpoint=checkpoint,
        resume=True,
    )
    batches = recalibration_batches(data.x["train"], torch.device("cpu"))
    evaluator = SupernetEvaluator(supernet, data.x["val"], data.y["val"], batches)
    searcher = evolve if method == "evolution" else random_search
    return searcher(
        costs.table,
        evaluator,
        limits,
        sample=project.space.sample,
        evaluations=settings.samples,
        checker=costs.exact,
        seed=seed,
        progress=step,
    )


def _from_record(project: Project, stored: Mapping[str, Any]) -> SearchOutcome:
    """The outcome that a record describes; the rows follow from the architecture."""
    architecture = tuple(int(i) for i in stored["architecture"])
    return SearchOutcome(
        architecture=architecture,
        text=stored["text"],
        rows=tuple(project.space.describe(architecture)),
        score=stored["score"],
        predicted=stored["predicted"],
        exact=stored["exact"],
        evidence=stored["evidence"],
        budgets=tuple(Budget(b["metric"], b["bound"]) for b in stored["budgets"]),
        targets=tuple(TargetPrices(**one) for one in stored["targets"]),
        method=stored["method"],
        seed=stored["seed"],
        evaluations=stored["evaluations"],
        repaired=stored["repaired"],
        alternatives=tuple((text, score) for text, score in stored["alternatives"]),
        seconds=stored["seconds"],
        selection=None if stored["selection"] is None else selection_from_record(stored["selection"]),
        reused=True,
    )
