"""The sections that explain: the loop's rounds, and why the network is as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from profilers.correct import moved_text
from toolchain.report import diagrams, sections
from toolchain.report.document import Report
from toolchain.report.html import Html, join, more, number, table, tag
from toolchain.report.number import Number, shown
from toolchain.units import plain_metric


def rounds(report: Report) -> Html:
    """Each round's predictions and measurements."""
    found = report.rounds
    if found is None:
        return tag(
            "p",
            "No candidates beside the winner were measured (boardfit run measures some in rounds).",
            class_="note",
        )
    metrics = round_metrics(report)
    pictures = [
        sections.drawn(lambda m=m, i=i: diagrams.rounds(found, m, f"rounds{i}"))  # type: ignore[misc]
        for i, m in enumerate(metrics)
    ]
    rows = [
        (
            str(one.round),
            tag("strong", "chosen") if n.chosen else "",
            metric,
            number(n.predicted.get(metric)),
            number(n.measured[metric], label=True),
            _error(n.predicted.get(metric), n.measured[metric]),
            tag("code", n.text),
        )
        for one in found.rounds
        for n in one.networks
        for metric in metrics
        if metric in n.measured
    ]
    tolerance = ", ".join(f"{m} {found.tolerance[m]:g} %" for m in metrics if m in found.tolerance)
    counted = "1 round" if len(found.rounds) == 1 else f"{len(found.rounds)} rounds"
    steps = [
        tag("li", one.why or f"round {one.round}", *(f"; {text}" for text in _corrections(one.correction)))
        for one in found.rounds
    ]
    columns = ("round|", "", "metric", "predicted|", "on the target|", "error|", "network")
    return join(
        (
            tag(
                "p",
                f"{counted}, {'settled' if found.settled else 'not settled'}; tolerance of predictions: ",
                f"{tolerance or 'none, as nothing that is measured has a budget'}.",
            ),
            tag("ul", *steps),
            tag("div", *pictures, class_="grid"),
            table(columns, rows, kind="stack") if rows else "",
        )
    )


def round_metrics(report: Report) -> list[str]:
    """What the rounds measured; of a board's cycles and latency, which say the same, one is enough."""
    assert report.rounds is not None
    known = dict.fromkeys(m for one in report.rounds.rounds for n in one.networks for m in n.measured)
    budgeted = {metric for metric, _ in sections.budgets(report)}
    kept = []
    for metric in known:
        twins = {"cycles": "latency_us", "latency_us": "cycles"}
        plain = plain_metric(metric)
        twin = metric.removesuffix(plain) + twins.get(plain, "")
        # The budgeted one of the two; else the time.
        if twin in known and (twin in budgeted, plain == "cycles") > (metric in budgeted, plain != "cycles"):
            continue
        kept.append(metric)
    return kept


def _corrections(found: Mapping[str, Any]) -> Iterator[str]:
    """What was put into the table after a round."""
    for metric, values in found.items():
        if isinstance(values, Mapping) and isinstance(values.get("factor"), int | float):
            moved = moved_text(values.get("rows", ()))
            if moved:
                yield f"operators were measured again; in the table moved {moved}"
            yield f"predicted {metric} is multiplied by {values['factor']:.4f} from here on"


def why(report: Report) -> Html:
    """Why the network is as it is."""
    found = report.choices
    if found is None:
        return Html("")
    parts: list[str] = []
    if found.proof:
        parts.append(tag("p", f"Exact selection, {found.proof}."))
    if found.effects:
        rank = (
            "" if found.kendall is None
            else f" Predicted and measured accuracies of {found.ranked} random networks agree with Kendall "
            f"{found.kendall:.2f}, Spearman {found.spearman or 0:.2f}."
        )  # fmt: skip
        parts += [
            tag("p", "What single design choices add to the accuracy, on average over blocks, with shared weights.",
                rank),
            sections.drawn(lambda: diagrams.effects(found.effects, "effects")),
            more(
                "The contributions as a table",
                table(("design choice", "adds|"), [(e.what, number(e.number)) for e in found.effects]),
            ),
        ]  # fmt: skip
    if found.worth:
        parts.append(
            table(
                ("budget", "searched under|", "with|", "gains|"),
                [(w.metric, number(w.bound), number(w.more), number(w.gain)) for w in found.worth],
                caption="What more of a budget buys, by prediction",
                kind="stack",
            )
        )
    metrics = [metric for metric, _ in sections.budgets(report)]
    for reason in found.reasons:
        if len(reason.swaps) < 2:
            continue
        rows = [
            (
                tag("strong", s.candidate) if s.chosen else s.candidate,
                *(number(s.costs.get(m)) for m in metrics),
                "chosen" if s.chosen else f"breaks {', '.join(s.breaks)}" if s.breaks else "would fit",
            )
            for s in reason.swaps
        ]
        fits = sum(not s.breaks and not s.chosen for s in reason.swaps)
        breaks = sum(bool(s.breaks) for s in reason.swaps)
        parts.append(
            more(
                f"{reason.choice}: {reason.chosen} ({fits} others would fit, {breaks} break a budget)",
                table(("candidate", *(f"{m}|" for m in metrics), ""), rows, kind="stack"),
            )
        )
    if found.reasons:
        parts.insert(
            len(parts) - sum(len(r.swaps) > 1 for r in found.reasons),
            tag("p", "What each choice's other candidates would cost, all else left as it is (predicted):"),
        )
    return join(parts)


def _error(predicted: Number | None, measured: Number) -> str:
    if predicted is None or predicted.value is None or not measured.value:
        return shown(None)
    return f"{100 * (predicted.value - measured.value) / measured.value:+.2f} %"
