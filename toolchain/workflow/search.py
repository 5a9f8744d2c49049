"""The search stage: a network that keeps every budget by the table, checked on its real graph and file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from toolchain.units import Budget, QuantileBudget
from toolchain.workflow.binas import PLOTS, Selection, binas_search, can_draw, selection_from_record
from toolchain.workflow.budgets import (
    explain_margin,
    margins_of,
    merged_budgets,
    named,
    project_budgets,
    resolved,
    tightened,
    within_the_part,
)
from toolchain.workflow.config import SearchSection
from toolchain.workflow.costs import Costs, TargetCosts, evidence_text, open_costs
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import Progress, Project, fingerprint, silent

STAGE = "search"
METHODS = ("connas", "binas", "evolution", "random")


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
    asked = merged_budgets(project_budgets(project), tuple(named(project, b) for b in budgets))
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
    margins = margins_of(project, costs)
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
        explain_margin(error, narrow, margins)
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
