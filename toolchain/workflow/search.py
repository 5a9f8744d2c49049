"""The search stage: a network that keeps every budget by the table, checked on its real graph and file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from toolchain.errors import InfeasibleError, UsageError
from toolchain.export.native.plan import DIRECT
from toolchain.search.front import front_of
from toolchain.search.protocols import SearchResult
from toolchain.spaces import Architecture, Row
from toolchain.units import Budget, QuantileBudget
from toolchain.workflow.binas import binas_search
from toolchain.workflow.binas_selection import Selection, selection_from_record
from toolchain.workflow.budgets import (
    Prices,
    asked_budgets,
    explain_margin,
    explain_patches,
    margins_of,
    priced,
    tightened,
)
from toolchain.workflow.costs import Costs, TargetCosts, evidence_text
from toolchain.workflow.methods import baseline, connas, connas_config, front_metric
from toolchain.workflow.models import structural_graph
from toolchain.workflow.project import INFEASIBLE, Progress, Project, fingerprint, silent

STAGE = "search"
BASELINES = ("evolution", "random")
METHODS = ("connas", "binas", *BASELINES)
EVALUATED = 300  # networks that a record keeps beside the winner: those on the front, then the best


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
        plan: of the network's program (`Plan.as_dict`): it is priced, written and deployed with it.
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
    plan: Mapping[str, Sequence[int]] = field(default_factory=DIRECT.as_dict)


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
        why: why it was searched (again), or that nothing changed.
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
    why: str = ""


def search(
    project: Project,
    *,
    progress: Progress = silent,
    budgets: tuple[Budget | QuantileBudget, ...] = (),
    method: str | None = None,
    force: bool = False,
    strict: bool = False,
    prices: Prices | None = None,
) -> SearchOutcome:
    """Search under the project's budgets, resuming an unfinished search, or repeat the earlier answer.

    Args:
        budgets: replace those of the project file metric by metric; of several targets' metrics as in the outcome.
        method: replaces that of the project file.
        force: search again from the start although nothing changed.
        strict: refuse prices that rest on predicted operators.
        prices: `priced` with these budgets and the table as it is, where they are at hand.

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
    asked = asked_budgets(project, budgets)
    progress("costs", 0, 1, "reading the table")
    costs, limits = priced(project, asked, strict=strict) if prices is None else prices
    progress("costs", 1, 1, f"{len(costs.chain.operators)} operators")
    inputs = search_inputs(project, asked, method, costs)
    why = project.why(STAGE, inputs, force=force)
    stored = project.record(STAGE, inputs, force=force)
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
        elif method in BASELINES:
            result = baseline(project, costs, narrow, method, progress, force=force)
        else:
            result = connas(project, costs, narrow, checkpoint, progress, force=force)
    except InfeasibleError as error:
        # An earlier winner does not keep these budgets: nobody shall go on with it.
        project.drop_record(STAGE)
        explain_margin(error, narrow, margins)
        explain_patches(error, costs)
        project.write_record(INFEASIBLE, inputs, {"message": error.message, "remedy": error.remedy})
        raise
    project.drop_record(INFEASIBLE)
    outcome = SearchOutcome(
        architecture=result.architecture,
        text=project.space.encode(result.architecture),
        rows=tuple(project.space.describe(result.architecture)),
        score=result.score,
        predicted=costs.predict(result.architecture),
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
        why=why,
    )
    values = asdict(replace(outcome, rows=()))
    history = [{"step": h.step, "epoch": h.epoch, **h.values} for h in result.history]
    more = {"history": history, "evaluated": _evaluated(project, costs, limits, result)}
    project.write_record(STAGE, inputs, {**values, **more})
    checkpoint.unlink(missing_ok=True)
    return outcome


def _evaluated(
    project: Project, costs: Costs, limits: Iterable[Budget], result: SearchResult
) -> list[dict[str, Any]]:
    """Networks that the method scored with supernet or estimator, with their costs by the table.

    `on_front`: no other of them is both better and cheaper by the first budgeted metric that is a sum.
    """
    if not result.evaluated:
        return []
    scored = dict(result.evaluated)
    front = set(front_of(costs.table, scored, front_metric(costs, limits)))
    order = sorted(scored, key=lambda a: (a not in front, -scored[a]))[:EVALUATED]
    prices = costs.table.price(order)
    return [
        {
            "text": project.space.encode(architecture),
            "score": scored[architecture],
            "predicted": dict(zip(costs.table.metrics, map(float, price), strict=True)),
            "on_front": architecture in front,
        }
        for architecture, price in zip(order, prices, strict=True)
    ]


def _prices(project: Project, costs: TargetCosts, architecture: Architecture) -> TargetPrices:
    filled, plan, inside = costs.filled, DIRECT, 0
    if filled is not None or costs.plans is not None:
        graph = structural_graph(project, architecture, costs.target.precision)
        plan = costs.plan(graph)
        inside = 0 if filled is None else len({op for op in plan.operators(graph) if op in filled.predicted})
    return TargetPrices(
        costs.target.name,
        costs.target.url,
        costs.stack.fingerprint,
        costs.mape,
        len(costs.values) or len(costs.chain.operators),
        len(filled.predicted) if filled else 0,
        inside,
        filled.error if filled else None,
        costs.note,
        plan.as_dict(),
    )


def search_inputs(
    project: Project, asked: tuple[Budget | QuantileBudget, ...], method: str, costs: Costs
) -> dict[str, str]:
    """Everything that the answer depends on: settings, data, space, budgets and prices; see `Project.why`."""
    config = project.config
    connas = connas_config(config.search, config.project.seed)
    return {
        "budgets": fingerprint([asdict(b) for b in asked]),
        "search method": method,
        "search settings": fingerprint(config.search.model_dump(), asdict(connas)),
        "seed": str(config.project.seed),
        "threads": str(config.project.threads),
        "data": project.data.fingerprint,
        "space": project.space_fingerprint,
        "precision": fingerprint([target.precision for target in config.target]),
        "table of costs": costs.fingerprint,
        "correction of costs": costs.corrections,
    }


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
        budgets=tuple(Budget(**b) for b in stored["budgets"]),
        targets=tuple(TargetPrices(**one) for one in stored["targets"]),
        method=stored["method"],
        seed=stored["seed"],
        evaluations=stored["evaluations"],
        repaired=stored["repaired"],
        alternatives=tuple((text, score) for text, score in stored["alternatives"]),
        seconds=stored["seconds"],
        selection=None if stored["selection"] is None else selection_from_record(stored["selection"]),
        reused=True,
        why="nothing changed",
    )
