"""BINAS in a project (docs/binas.md): supernet, accuracy contributions, exact selection, and what people look at.

The supernet and the contributions depend on data, space, seed and their own settings, not on budgets or
prices. So they are kept in the project, and a search under other budgets only solves and checks.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from toolchain.errors import InfeasibleError
from toolchain.files import write_atomic, write_json
from toolchain.report.insights import effects, overall, panels
from toolchain.report.plots import (
    FrontPicture,
    Panel,
    Point,
    RankingPicture,
    plot_front,
    plot_panels,
    plot_ranking,
)
from toolchain.search.estimators import (
    AdditiveEstimator,
)
from toolchain.search.exact import (
    ArcFlow,
    Solution,
    best_designs,
    from_chain,
    pareto_front,
    solve,
    sweep,
    verify,
    what_if,
)
from toolchain.search.feasibility import price_one
from toolchain.search.protocols import Architecture, Floats, SearchResult
from toolchain.search.selection import choose
from toolchain.units import Budget, format_value
from toolchain.workflow.binas_selection import Alternative, Selection, Worth
from toolchain.workflow.binas_supernet import (
    METHOD,
    contributions_of,
    evaluator_of,
    ranking_of,
    trained_supernet,
)
from toolchain.workflow.costs import Costs, evidence_text
from toolchain.workflow.project import Progress, Project

CERTIFICATE: Final = "certificate.json"
PLOTS: Final = "plots"
EXACT_FRONT: Final = 3000  # arcs up to which the front is complete to the last point
SWEEP: Final = 60  # bounds at which the front under all budgets is drawn
PROOF_LABELS: Final = 200_000  # partial paths that the checker walks, about a second
ALTERNATIVES: Final = 5
CHECKED: Final = 40  # best architectures of the model that are tried before its budgets are tightened
ROUNDS: Final = 8
MORE: Final = 0.10  # "what would 10 % more of a budget buy"


def binas_search(
    project: Project,
    costs: Costs,
    limits: tuple[Budget, ...],
    *,
    progress: Progress,
    force: bool = False,
) -> tuple[SearchResult, Selection]:
    """Train, measure contributions, solve, check exactly. What was trained and measured before is used again.

    Args:
        limits: hard upper bounds, measured ones with their margin taken off.
        force: train and measure again.

    Raises:
        InfeasibleError: no network of the space keeps the budgets by the model, or none that was tried keeps them
            exactly.
    """
    chain, metrics = costs.alternatives()
    # Whether any network keeps the budgets is known before anything is trained.
    solve(from_chain(chain, lambda position, arc: 0.0, metrics), limits)
    torch.set_num_threads(project.config.project.threads)
    supernet, trained = trained_supernet(project, progress, force)
    contributions = contributions_of(project, supernet, trained, progress)
    estimator = contributions.estimator
    model = from_chain(
        chain,
        [v.tolist() for v in estimator.arc_values(chain)],
        metrics,
        value_base=estimator.base,
    )
    progress("select", 0, 1, f"{model.arcs:,} arcs, {len(limits)} budgets")
    best = solve(model, limits)
    verdict = verify(model, best.certificate, labels=PROOF_LABELS)
    write_json(project.results / CERTIFICATE, best.certificate.as_dict())
    progress("select", 1, 1, f"predicted accuracy {100 * best.score:.2f} %")
    picked = _first_that_passes(project, costs, model, limits, best, progress)
    passed_over = {*picked.refused, picked.architecture}
    others = [
        s for s in best_designs(model, limits, ALTERNATIVES + len(passed_over))
        if s.architecture not in passed_over
    ][:ALTERNATIVES]  # fmt: skip

    looked_at = [picked.architecture, *(s.architecture for s in others)]
    evaluator = evaluator_of(project, supernet)
    scores = []
    for number, architecture in enumerate(looked_at):
        scores.append(evaluator([architecture])[0])
        progress("evaluate", number + 1, 1 + len(others), f"shared weights: {100 * scores[-1].score:.1f} %")
    ranking, ranked = ranking_of(project, evaluator, estimator, trained, progress)
    measured = contributions.measured
    found = effects(project.space.choices, measured.values, measured.errors)
    front = _front(project, model, limits, costs)
    selection = Selection(
        predicted_accuracy=float(estimator.predict([picked.architecture])[0]),
        predicted_error=_error(estimator, picked.architecture),
        base=contributions.mean,
        optimum=best.score,
        bound=best.upper,
        proved=verdict.optimal,
        how=verdict.how,
        milliseconds=1e3 * best.seconds,
        arcs=model.arcs,
        worth=_worth(model, limits, best),
        alternatives=tuple(
            Alternative(
                project.space.encode(s.architecture), s.score, e.score, _priced(costs, s.architecture)
            )
            for s, e in zip(others, scores[1:], strict=True)
        ),
        refused=tuple(picked.refused.values()),
        front_metric=front.metric,
        front_size=len(front.costs),
        kendall=ranking.kendall,
        spearman=ranking.spearman,
        ranked=len(ranking.predicted),
        contribution_samples=contributions.samples,
        effects=overall(found),
    )
    selection = _drawn(project, costs, limits, picked.architecture, selection, front, ranking, panels(found))
    progress("plots", 1, 1, f"{len(selection.plots)} files")
    evaluated = ranked | {a: found.score for a, found in zip(looked_at, scores, strict=True)}
    result = SearchResult(
        architecture=picked.architecture,
        score=scores[0].score,
        predicted=price_one(costs.table, picked.architecture),
        exact=picked.exact,
        method=METHOD,
        seed=project.config.project.seed,
        evaluations=len(ranking.predicted) + len(scores),
        repaired=picked.repaired,
        alternatives=tuple((s.architecture, e.score) for s, e in zip(others, scores[1:], strict=True)),
        evaluated=tuple(evaluated.items()),
    )
    return result, selection


@dataclass(frozen=True, eq=False)
class _Picked:
    """What passed the exact check, the better ones that did not, and whether the model's budgets were tightened."""

    architecture: Architecture
    exact: Mapping[str, float]
    refused: Mapping[Architecture, Alternative]
    repaired: bool


def _first_that_passes(
    project: Project,
    costs: Costs,
    model: ArcFlow,
    limits: tuple[Budget, ...],
    best: Solution,
    progress: Progress,
) -> _Picked:
    """The best architecture of the model whose real graph and file keep the budgets.

    The model's architectures are tried best first. Where `CHECKED` of them fail, the model predicts some metric too
    low for what is good here: its budget is then tightened by the ratio found, and solved again.

    Raises:
        InfeasibleError: nothing that was tried passes.
    """
    refused: dict[Architecture, Alternative] = {}
    ratios = {b.metric: 1.0 for b in limits}
    for turn in range(ROUNDS):
        budgets = tuple(Budget(b.metric, b.bound * ratios[b.metric]) for b in limits)
        try:
            tried = _best_first(model, budgets, best if turn == 0 else None)
            for candidate in tried:
                if candidate.architecture in refused:
                    continue
                exact = costs.exact(candidate.architecture)
                progress("check", len(refused) + 1, len(refused) + 1, "real graph and file")
                broken = [b for b in limits if not b.keeps(exact[b.metric])]
                if not broken:
                    return _Picked(candidate.architecture, exact, refused, turn > 0)
                refused[candidate.architecture] = Alternative(
                    project.space.encode(candidate.architecture),
                    candidate.score,
                    None,
                    _priced(costs, candidate.architecture),
                    ", ".join(f"{b.metric} is {format_value(b.metric, exact[b.metric])}" for b in broken),
                )
                for b in broken:
                    predicted = candidate.resources[b.metric]
                    if 0 < predicted < exact[b.metric]:
                        ratios[b.metric] = min(ratios[b.metric], predicted / exact[b.metric])
        except InfeasibleError:
            break  # tightened too far
    rng = np.random.default_rng(project.config.project.seed)
    found = choose(costs.table, limits, [], costs.exact, rng, start=best.architecture)
    return _Picked(found.architecture, found.exact, refused, True)


def _best_first(model: ArcFlow, budgets: tuple[Budget, ...], best: Solution | None) -> Iterator[Solution]:
    """The optimum, then the next best ones, which are looked for only when they are asked for."""
    yield best or solve(model, budgets)
    yield from best_designs(model, budgets, CHECKED if best else ALTERNATIVES)


def _error(estimator: AdditiveEstimator, architecture: Architecture) -> float:
    """Standard error of a predicted accuracy, the contributions taken as independent; 0 where it is not known."""
    if not estimator.errors:
        return 0.0
    errors = [float(e[index]) for e, index in zip(estimator.errors, architecture, strict=True)]
    total = math.hypot(*errors)
    return total if math.isfinite(total) else 0.0


def _priced(costs: Costs, architecture: Architecture) -> dict[str, float]:
    return price_one(costs.table, architecture)


def _worth(model: ArcFlow, limits: tuple[Budget, ...], best: Solution) -> tuple[Worth, ...]:
    """Per budget, its shadow price, and what the exact optimum gains when it alone is larger."""
    changes = what_if(model, limits, {b.metric: MORE * b.bound for b in limits})
    return tuple(
        Worth(b.metric, b.bound, best.prices.get(b.metric, 0.0), b.bound + change.amount, change.gain or 0.0)
        for b, change in zip(limits, changes, strict=True)
    )


@dataclass(frozen=True, eq=False)
class _Front:
    """Networks that no other beats in both accuracy and this cost, costs ascending; then the same with every other
    budget held, at some bounds."""

    metric: str
    costs: Floats
    accuracies: Floats
    held_costs: Floats
    held_accuracies: Floats


def _front(project: Project, model: ArcFlow, limits: tuple[Budget, ...], costs: Costs) -> _Front:
    """The front against the first budgeted sum, within the budgets on maxima (RAM); kept as front.csv."""
    how = dict(zip(costs.table.metrics, costs.table.combines, strict=True))
    sums = [name for name in (*(b.metric for b in limits), *how) if how[name] == "sum"]
    metric = sums[0]
    caps = [b for b in limits if how[b.metric] == "max"]
    found = pareto_front(model, metric, budgets=caps, epsilon=0.0 if model.arcs <= EXACT_FRONT else 1e-4)
    amounts, scores = found.amounts, found.scores
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([metric, "predicted_accuracy", "architecture"])
    for index, (amount, score) in enumerate(zip(amounts.tolist(), scores.tolist(), strict=True)):
        writer.writerow([f"{amount:.6g}", f"{score:.6f}", project.space.encode(found.architecture(index))])
    write_atomic(project.results / PLOTS / "front.csv", text.getvalue().encode())
    held: list[Solution] = []
    if any(b.metric != metric and how[b.metric] == "sum" for b in limits):
        bounds = np.linspace(amounts[0], amounts[-1], SWEEP).tolist()
        held = [s for s in sweep(model, limits, metric, bounds) if s is not None]
    return _Front(
        metric,
        amounts,
        scores,
        np.array([s.resources[metric] for s in held]),
        np.array([s.score for s in held]),
    )


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def _drawn(
    project: Project,
    costs: Costs,
    limits: tuple[Budget, ...],
    chosen: Architecture,
    selection: Selection,
    front: _Front,
    ranking: RankingPicture,
    bars: Sequence[Panel],
) -> Selection:
    """The selection with the pictures that were drawn, or why there are none."""
    if not can_draw():
        return replace(selection, note="no plots: matplotlib is missing (pip install 'boardfit[plots]')")
    bounds = {b.metric: b.bound for b in limits}
    how = dict(zip(costs.table.metrics, costs.table.combines, strict=True))
    said = {
        kind: ", ".join(
            f"{m} ≤ {format_value(m, v)}" for m, v in bounds.items() if how[m] == kind and m != front.metric
        )
        for kind in ("max", "sum")
    }
    picture = FrontPicture(
        front.metric,
        evidence_text(costs, front.metric),
        front.costs,
        front.accuracies,
        Point(_priced(costs, chosen)[front.metric], selection.predicted_accuracy, selection.predicted_error),
        tuple(Point(a.costs[front.metric], a.accuracy) for a in selection.alternatives),
        bounds.get(front.metric),
        said["max"],
        said["sum"],
        front.held_costs,
        front.held_accuracies,
    )
    folder = project.results / PLOTS
    files = [*plot_front(picture, folder / "front")]
    if len(ranking.predicted) > 1:
        files += plot_ranking(ranking, folder / "ranking")
    if any(panel.bars for panel in bars):
        files += plot_panels(bars, "What design choices add to the accuracy", folder / "contributions")
    return replace(selection, plots=tuple(str(path.relative_to(project.folder)) for path in files))
