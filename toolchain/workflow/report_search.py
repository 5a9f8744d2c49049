"""What a report says of the search: its course, the networks it saw, why the winner is as it is, and the rounds."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from targets.registry import module_of
from targets.session import HERE, device_of
from toolchain.errors import BoardfitError, InfeasibleError
from toolchain.report.document import Infeasible, Missing
from toolchain.report.document_search import (
    Choices,
    Course,
    Effect,
    Epoch,
    Network,
    Reason,
    Round,
    Rounds,
    Swap,
    Worth,
)
from toolchain.report.number import Number, finite, unit_of
from toolchain.search.feasibility import require_feasible
from toolchain.search.protocols import HistoryRow
from toolchain.search.trace import epochs_of
from toolchain.units import Budget
from toolchain.workflow.binas import PLOTS
from toolchain.workflow.binas_selection import selection_from_record
from toolchain.workflow.binas_supernet import METHOD
from toolchain.workflow.budgets import margins_of, project_budgets, resolved, tightened, within_the_part
from toolchain.workflow.costs import Costs, evidence_text, open_costs
from toolchain.workflow.project import Project

SHOWN = 300  # networks


def open_prices(project: Project, missing: list[Missing]) -> Costs | None:
    """The cost model of today's table; None, with the reason, where there is none, or where a device had to be opened
    to say what it is.
    """
    away = [target.name for target in project.config.target if not _told_here(target.url)]
    if away:
        missing.append(
            Missing(
                "prices of networks beside the winner",
                f"what {', '.join(away)} is today can only be told by opening it, which a report does not",
                "`boardfit search` prices them",
            )
        )
        return None
    try:
        return open_costs(project, [b.metric for b in project_budgets(project)])
    except BoardfitError as error:
        missing.append(
            Missing(
                "prices of networks beside the winner",
                error.message,
                error.remedy or "run `boardfit profile`",
            )
        )
        return None


def _told_here(url: str) -> bool:
    """Whether a target is described without opening another machine or board."""
    return hasattr(module_of(url.partition(":")[0]), "describe") or device_of(url) == HERE


def course_of(
    found: Mapping[str, Any],
    costs: Costs | None,
    measured: Mapping[str, Mapping[str, Number]],
    missing: list[Missing],
) -> Course:
    """How the network was found.

    Args:
        found: the search's record.
        costs: the cost model that it searched with; None where today's is another.
        measured: networks that were measured as a whole on the targets, by their text.
        missing: gets what cannot be told.
    """
    history = [
        HistoryRow(row["step"], row["epoch"], {k: v for k, v in row.items() if k not in ("step", "epoch")})
        for row in found.get("history", ())
    ]
    gradient = found["method"] == "connas" and bool(history)
    epochs = tuple(
        Epoch(
            row.epoch,
            finite(row.accuracy),
            finite(row.candidate),
            dict(row.costs),
            row.kept,
            finite(row.entropy),
        )
        for row in (epochs_of(history) if gradient else ())
    )
    if found["method"] == "connas" and not history:
        missing.append(Missing("the search's course", "it made no alpha step", "raise `search.epochs`"))
    networks = _networks(found, costs, measured)
    metric, front = _front(found, costs)
    return Course(
        found["method"],
        found["seed"],
        found["evaluations"],
        found["seconds"],
        found["repaired"],
        epochs,
        networks,
        front,
        metric,
    )


def _networks(
    found: Mapping[str, Any], costs: Costs | None, measured: Mapping[str, Mapping[str, Number]]
) -> tuple[Network, ...]:
    """Networks that the search evaluated, the best first; the winner is always among them."""
    selection = found["selection"]
    kind = "shared_weights"
    seen: dict[str, tuple[float, Mapping[str, float]]] = {}
    if selection is not None:  # its front and its winner stand on one scale: that of the contributions
        kind = "estimated"
        seen = {a["text"]: (a["accuracy"], a["costs"]) for a in selection["alternatives"]}
        seen[found["text"]] = (selection["predicted_accuracy"], found["predicted"])
    else:
        priced = {text: _priced(costs, text) for text, _ in found["alternatives"]}
        seen = {text: (score, priced[text]) for text, score in found["alternatives"]}
        for one in found.get("evaluated", ()):
            seen[one["text"]] = (one["score"], one["predicted"])
        seen[found["text"]] = (found["score"], found["predicted"])
    for text in measured:
        seen.setdefault(text, (math.nan, _priced(costs, text)))
    error = selection["predicted_error"] if selection is not None else None
    networks = [
        Network(
            text,
            None if not math.isfinite(score) else Number(
                score, "share", kind, error=error if text == found["text"] else None
            ),
            {metric: predicted_number(found, metric, value) for metric, value in prices.items()},
            measured.get(text, {}),
            text == found["text"],
        )
        for text, (score, prices) in seen.items()
    ]  # fmt: skip
    networks.sort(key=lambda n: (not n.chosen, not n.measured, -(n.score.value or 0) if n.score else 1))
    return tuple(networks[:SHOWN])


def _priced(costs: Costs | None, text: str) -> Mapping[str, float]:
    if costs is None:
        return {}
    row = costs.table.price([costs.project.space.decode(text)])[0]
    return {metric: float(value) for metric, value in zip(costs.table.metrics, row, strict=True)}


def predicted_number(found: Mapping[str, Any], metric: str, value: float) -> Number:
    """A price with what it rests on, e.g. `predicted`, from `cycles_estimated`."""
    kind, _, source = str(found["evidence"].get(metric, "predicted")).partition(" from ")
    owner = metric.rpartition(":")[0]
    stacks = {one["name"]: one["stack"] for one in found["targets"]}
    stack = stacks.get(owner, next(iter(stacks.values()), "") if len(stacks) == 1 else "")
    return Number(value, unit_of(metric), kind, source, "" if kind == "computed" else stack)


def _front(found: Mapping[str, Any], costs: Costs | None) -> tuple[str, tuple[tuple[float, float], ...]]:
    """The exact front that a BINAS search kept: its metric, and (cost, predicted accuracy) along it."""
    if found["method"] != METHOD or costs is None:
        return "", ()
    try:
        with (costs.project.results / PLOTS / "front.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        points = tuple((float(row[0]), float(row[1])) for row in rows[1:])
    except (OSError, ValueError, IndexError):
        return "", ()
    thinned = points[:: max(1, len(points) // SHOWN)]
    return rows[0][0], (*thinned, *(points[-1:] if thinned[-1:] != points[-1:] else ()))


def choices_of(found: Mapping[str, Any], costs: Costs | None) -> Choices:
    """Why the network is as it is: what properties pay (BINAS), and what the other candidates would cost."""
    reasons = () if costs is None else _reasons(found, costs)
    if found["selection"] is None:
        return Choices((), (), "", None, None, 0, reasons)
    chosen = selection_from_record(found["selection"])
    proof = (
        f"proved by the checker ({chosen.how}): no network within the budgets has a higher predicted accuracy"
        if chosen.proved
        else "not proved: by prediction, a network within the budgets may be up to "
        f"{100 * chosen.gap:.2f} points better"
    )
    return Choices(
        tuple(
            Effect(what, Number(value, "share", "estimated", error=error))
            for what, value, error in chosen.effects
        ),
        tuple(
            Worth(
                w.metric,
                Number(w.bound, unit_of(w.metric), "asked"),
                Number(w.more, unit_of(w.metric), "asked"),
                Number(w.gain, "share", "estimated"),
            )
            for w in chosen.worth
        ),
        f"{proof}; {chosen.arcs:,} arcs, {chosen.milliseconds:.1f} ms",
        finite(chosen.kendall),
        finite(chosen.spearman),
        chosen.ranked,
        reasons,
    )


def _reasons(found: Mapping[str, Any], costs: Costs) -> tuple[Reason, ...]:
    space, architecture = costs.project.space, tuple(int(i) for i in found["architecture"])
    bounds = [Budget(b["metric"], b["bound"]) for b in found["budgets"]]
    column = {metric: index for index, metric in enumerate(costs.table.metrics)}
    reasons = []
    for choice, at, prices in zip(space.choices, architecture, costs.table.swaps(architecture), strict=True):
        swaps = []
        for index, candidate in enumerate(choice.candidates):
            row = prices[index]
            if not all(math.isfinite(float(value)) for value in row):
                continue  # not available here
            swaps.append(
                Swap(
                    candidate.name,
                    {
                        b.metric: predicted_number(found, b.metric, float(row[column[b.metric]]))
                        for b in bounds
                    },
                    tuple(b.metric for b in bounds if not b.keeps(float(row[column[b.metric]]))),
                    index == at,
                )
            )
        reasons.append(Reason(choice.name, choice.candidates[at].name, tuple(swaps)))
    return tuple(reasons)


def infeasible_of(project: Project, costs: Costs) -> Infeasible | None:
    """Why no network keeps today's budgets; None where some network does."""
    limits = within_the_part(costs, resolved(project, costs, project_budgets(project)))
    narrow = tightened(limits, margins_of(project, costs))
    try:
        require_feasible(costs.table, narrow, np.random.default_rng(project.config.project.seed))
    except InfeasibleError as error:

        def numbers(values: Mapping[str, float]) -> dict[str, Number]:
            return {m: _price_number(costs, m, value) for m, value in values.items()}

        nearest = "" if error.nearest is None else project.space.encode(error.nearest)
        return Infeasible(
            error.message,
            error.remedy,
            numbers(error.least),
            error.binding,
            nearest,
            numbers(error.nearest_costs),
        )
    return None


def _price_number(costs: Costs, metric: str, value: float) -> Number:
    kind, _, source = evidence_text(costs, metric).partition(" from ")
    return Number(value, unit_of(metric), kind, source)


def measured_networks(
    found: Mapping[str, Any], record: Mapping[str, Any] | None, winner: Iterable[tuple[str, Number]]
) -> dict[str, dict[str, Number]]:
    """Networks that were measured as a whole on the targets: text -> metric -> number."""
    known: dict[str, dict[str, Number]] = {}
    for one in (record or {}).get("rounds", ()):
        for candidate in one.get("candidates", ()):
            numbers = _measured(found, candidate)
            if numbers:
                known.setdefault(candidate["text"], {}).update(numbers)
    deployed = dict(winner)
    if deployed:
        known.setdefault(found["text"], {}).update(deployed)
    return known


def _measured(found: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Number]:
    evidence = candidate.get("evidence", {})
    stacks = {metric: predicted_number(found, metric, 0.0).stack for metric in candidate.get("measured", {})}
    return {
        metric: Number(value, unit_of(metric), evidence[metric], "", stacks[metric])
        for metric, value in candidate.get("measured", {}).items()
        if value is not None and metric in evidence
    }


def rounds_of(found: Mapping[str, Any], record: Mapping[str, Any] | None) -> Rounds | None:
    """The rounds of the loop; None where none was made."""
    if record is None:
        return None
    rounds = []
    for one in record.get("rounds", ()):
        candidates: Sequence[Mapping[str, Any]] = one.get("candidates", ())
        errors: dict[str, list[float]] = {}
        for candidate in candidates:
            for metric, value in candidate.get("error_percent", {}).items():
                if value is not None and math.isfinite(value):
                    errors.setdefault(metric, []).append(abs(value))
        rounds.append(
            Round(
                int(one["round"]),
                finite(one.get("seconds")),
                tuple(
                    Network(
                        c["text"],
                        None if c.get("score") is None else Number(c["score"], "share", "shared_weights"),
                        {m: predicted_number(found, m, v) for m, v in c.get("predicted", {}).items() if v is not None},
                        _measured(found, c),
                        bool(c.get("chosen", False)),
                    )
                    for c in candidates
                ),
                {metric: sum(values) / len(values) for metric, values in errors.items()},
                one.get("correction", {}),
                str(one.get("why", "")),
            )
        )  # fmt: skip
    return Rounds(
        tuple(rounds),
        record.get("tolerance", {}),
        record.get("limit"),
        bool(record.get("settled", False)),
        str(record.get("why", "")),
    )
