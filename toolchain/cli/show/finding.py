"""How a search is shown: the network and what it costs, what exact selection adds, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain.cli.console import print_json, print_prose, print_table, stdout
from toolchain.cli.show.words import again, count, note, plan_text, rank, shape
from toolchain.units import format_value

if TYPE_CHECKING:
    from toolchain.errors import InfeasibleError
    from toolchain.units import Budget
    from toolchain.workflow.binas_selection import Selection
    from toolchain.workflow.search import SearchOutcome, TargetPrices


def search(outcome: SearchOutcome, as_json: bool) -> None:
    """The network, block by block, and its costs against the budgets."""
    if as_json:
        print_json("search", search_json(outcome))
        return
    blocks = [
        (r.name, r.candidate, shape(r.input), shape(r.output), f"{r.params:,}", f"{r.macs:,}")
        for r in outcome.rows
    ]
    print_table(
        f"Network found by {outcome.method}{again(outcome.why, outcome.reused, 'result')}",
        ("block", "choice", "in", "out", "params|", "MACs|"),
        blocks,
    )
    limits = {b.metric: b for b in outcome.budgets}
    rows = []
    for metric, value in sorted(outcome.predicted.items(), key=rank):
        budget = limits.get(metric)
        checked = outcome.exact.get(metric)
        rows.append(
            (
                metric,
                "-" if budget is None else format_value(metric, budget.bound) + _share(budget),
                format_value(metric, value),
                "-" if budget is None else f"{100 * (1 - value / budget.bound):+.1f} %",
                "-" if checked is None else format_value(metric, checked),
                outcome.evidence.get(metric, ""),
            )
        )
    print_table(
        "Costs before training",
        ("metric", "budget|", "by table|", "left|", "by graph|", "evidence of table"),
        rows,
    )
    print_prose(
        f"validation accuracy with shared weights {100 * outcome.score:.1f} %, "
        f"{count(outcome.evaluations, 'network')} evaluated, {outcome.seconds:.0f} s, seed {outcome.seed}"
        + (", repaired to keep the budgets" if outcome.repaired else "")
    )
    for target in outcome.targets:
        if told := plan_text(target.plan):
            print_prose(f"program for {target.name}: {told}")
    notes(outcome.targets)
    if outcome.selection is not None:
        _selection(outcome.selection, [b.metric for b in outcome.budgets])
        return
    for text, score in outcome.alternatives:
        print_prose(f"  also within budgets: {text} ({100 * score:.1f} %)")
    if outcome.method == "connas" and outcome.alternatives:
        print_prose("  (the choice is by validation loss, not by this accuracy)")


def _share(budget: Budget) -> str:
    """As it was asked for, where that was relative to the space."""
    return "" if budget.share is None else f" ({100 * budget.share:g} %)"


def _selection(found: Selection, budgeted: Sequence[str]) -> None:
    """What exact selection adds: the certificate, what more of a budget buys, the next best, what pays."""
    proof = {
        "bound": "proved by the bound of its multipliers",
        "search": "proved by exhausting what the bounds leave",
        "open": "not proved",
    }[found.how]
    error = f" ± {100 * found.predicted_error:.2f}" if found.predicted_error else ""
    print_prose(
        f"predicted accuracy {100 * found.predicted_accuracy:.2f} %{error}; optimum of the model "
        f"{100 * found.optimum:.2f} %, bound {100 * found.bound:.2f} %, gap {100 * found.gap:.2f}: {proof}; "
        f"{found.arcs:,} arcs solved in {found.milliseconds:.1f} ms"
    )
    for network in found.refused[:_SHOWN]:
        print_prose(f"  better by the model, refused by the exact check: {network.text} ({network.refused})")
    if len(found.refused) > _SHOWN:
        print_prose(f"  and {count(len(found.refused) - _SHOWN, 'more network')} refused")
    stdout().print()
    if found.worth:
        print_table(
            "What more of a budget buys (predicted accuracy, percentage points)",
            ("budget", "searched under|", "shadow price|", "10 % more|", "buys|"),
            [
                (
                    w.metric,
                    format_value(w.metric, w.bound),
                    _price(w.metric, w.bound, w.price),
                    format_value(w.metric, w.more),
                    f"{100 * w.gain:+.2f}",
                )
                for w in found.worth
            ],
        )
    if found.alternatives:
        metrics = [m for m in found.alternatives[0].costs if m in budgeted]
        print_table(
            "Next best within the budgets by the model",
            ("predicted|", "shared weights|", *(f"{metric}|" for metric in metrics), "network"),
            [
                (
                    f"{100 * a.accuracy:.2f} %",
                    "-" if a.measured is None else f"{100 * a.measured:.1f} %",
                    *(format_value(metric, a.costs[metric]) for metric in metrics),
                    a.text,
                )
                for a in found.alternatives
            ],
        )
    if found.effects:
        print_table(
            f"What design choices add (percentage points, mean over blocks; {found.contribution_samples:,} samples)",
            ("design choice", "adds|", "standard error|"),
            [(what, f"{100 * value:+.2f}", f"{100 * error:.2f}") for what, value, error in found.effects],
        )
    ranks = (
        "" if math.isnan(found.kendall) else f": Kendall {found.kendall:.2f}, Spearman {found.spearman:.2f}"
    )
    print_prose(f"predicted against measured accuracy on {count(found.ranked, 'random network')}{ranks}")
    print_prose(f"Pareto front of accuracy and {found.front_metric}: {count(found.front_size, 'network')}")
    for path in found.plots:
        print_prose(f"  drawn: {path}")
    if found.note:
        print_prose(found.note)


_SHOWN = 3  # networks that the exact check refused; --json has all
_UNITS = (
    ("_us", (("ms", 1e3), ("us", 1.0))),
    ("_bytes", (("kB", 1e3), ("B", 1.0))),
    ("_uj", (("mJ", 1e3), ("uJ", 1.0))),
    ("", (("million", 1e6), ("thousand", 1e3), ("unit", 1.0))),
)


def _price(metric: str, bound: float, price: float) -> str:
    """A shadow price in percentage points per unit that people think in."""
    units = next(units for suffix, units in _UNITS if metric.endswith(suffix))
    unit, size = next((pair for pair in units if bound >= pair[1]), units[-1])
    return "0" if price == 0 else f"{100 * price * size:.3g} per {unit}"


def infeasible(error: InfeasibleError, nearest: str, as_json: bool) -> None:
    """What is possible instead: the least values, the budgets that bind, and the nearest design.

    Args:
        nearest: `error.nearest` as people read it; empty when there is none.
    """
    if as_json:
        print_json(
            "infeasible",
            {
                "message": error.message,
                "remedy": error.remedy,
                "least": error.least,
                "binding": error.binding,
                "nearest": {"architecture": error.nearest, "text": nearest, "costs": error.nearest_costs},
            },
        )
        return
    rows = [
        (
            metric,
            format_value(metric, value),
            format_value(metric, error.nearest_costs[metric]) if metric in error.nearest_costs else "-",
            "binds" if metric in error.binding else "-",
        )
        for metric, value in sorted(error.least.items(), key=rank)
    ]
    if rows:
        print_table(
            "What is possible",
            ("metric", "least in the space|", "nearest design|", "its budget"),
            rows,
            notes=f"nearest design: {nearest}" if nearest else "",
        )


def notes(targets: Sequence[TargetPrices]) -> None:
    """What the prices on each target must be read with; named, where there are several targets."""
    for one in targets:
        note(one.note and (f"{one.name}: " * (len(targets) > 1) + one.note))


def search_json(outcome: SearchOutcome) -> dict[str, Any]:
    return {
        **asdict(outcome),
        "rows": [row._asdict() if hasattr(row, "_asdict") else asdict(row) for row in outcome.rows],
    }
