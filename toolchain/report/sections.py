"""The sections of the page, each from a part of the document. Every diagram also stands there as a table."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from toolchain.report import diagrams
from toolchain.report.document import Cost, Report, Target
from toolchain.report.html import Html, join, more, number, table, tag
from toolchain.report.number import Number, shown
from toolchain.units import plain_metric

NO_PLOTS = "No diagram: matplotlib is missing (pip install 'boardfit[plots]')."
_BARS = 100.0


def drawn(make: Callable[[], str]) -> Html:
    """A diagram, or why there is none; nothing where there is nothing to draw."""
    if importlib.util.find_spec("matplotlib") is None:
        return tag("p", NO_PLOTS, class_="note")
    found = make()
    return tag("figure", Html(found)) if found else Html("")


def budgets(report: Report) -> tuple[tuple[str, Number | None], ...]:
    """The budgeted metrics with their bounds; without any, what is predicted first."""
    rows = [(row.metric, row.budget) for row in report.costs if row.budget is not None]
    return tuple(rows) or tuple((row.metric, None) for row in report.costs[:1])


def front(report: Report) -> Html:
    """Networks in the planes of accuracy and each budgeted cost."""
    found = report.course
    if found is None:
        return Html("")
    pictures = [
        drawn(lambda m=m, b=b, i=i: diagrams.front(found, m, b, f"front{i}"))  # type: ignore[misc]
        for i, (m, b) in enumerate(budgets(report))
    ]
    kinds = {n.score.evidence for n in found.networks if n.score is not None}
    scale = (
        "accuracies are predicted from contributions of single design choices"
        if "estimated" in kinds
        else "accuracies are of the validation samples with shared weights, lower than after training"
    )
    metrics = [metric for metric, _ in budgets(report)]
    rows = [
        (
            tag("strong", "chosen") if n.chosen else "",
            number(n.score),
            *(
                join(
                    (
                        number(n.predicted.get(m)),
                        *([" → ", number(n.measured[m])] if n.measured.get(m) is not None else []),
                    )
                )
                for m in metrics
            ),
            tag("code", n.text),
        )
        for n in found.networks[:40]
    ]
    return join(
        (
            tag(
                "p",
                f"{found.evaluations:,} networks evaluated by {found.method}, {len(found.networks):,} of them here; ",
                scale,
                ". Costs are predictions of the table, diamonds what was found on the target. Point at a mark, or tap "
                "it, to read the network.",
            ),
            tag("div", *pictures, class_="grid"),
            more(
                f"The {len(rows)} networks as a table" if len(rows) == len(found.networks)
                else f"The best {len(rows)} as a table",
                table(("", "accuracy|", *(f"{m}|" for m in metrics), "network"), rows, kind="stack"),
            ),
        )
    )  # fmt: skip


def operators(target: Target) -> Html:
    """The winner's operators on one target, the dearest with the longest bar."""
    if not target.steps:
        return tag("p", "No costs of operators: see what is missing, at the end.", class_="note")
    known = [s.number.value for s in target.steps if s.number is not None and s.number.value is not None]
    top, total = max(known, default=0.0), sum(known)
    rows = []
    for step in target.steps:
        value = step.number.value if step.number is not None else None
        width = 0.0 if value is None or not top else _BARS * value / top
        bar = tag("span", tag("span", style=f"width:{width:.1f}%"), class_="bar")
        share = "" if value is None or not total else f"{100 * value / total:.1f} %"
        rows.append(
            (
                str(step.step),
                tag("code", step.signature),
                step.how,
                number(step.number)
                if step.number is not None
                else tag("span", "not measured", class_="none"),
                "" if step.time is None else number(step.time),
                share,
                bar,
            )
        )
    evidence = next((s.number.evidence for s in target.steps if s.number is not None), "")
    whole = tag(
        "p",
        f"Each operator was profiled alone ({evidence}); alone, the {len(known)} add up to ",
        number(Number(total, target.steps[0].number.unit if target.steps[0].number else "count", evidence,
                      "", target.stack)),
        *(
            [". Beside its operators a network costs ", number(target.overhead),
             ", which each operator alone also pays; sums are corrected by it."]
            if target.overhead is not None
            else [". Whole networks cost otherwise: sums are corrected, see the lookup table."]
        ),
    )  # fmt: skip
    columns = (
        "step|", "operator", "by", f"{plain_metric(target.metric)}|", "time|", "share|", "",
    )  # fmt: skip
    return join((whole, table(columns, rows, kind="stack operators")))


def memory(target: Target, name: str) -> Html:
    """Memory over time of the winner's activations."""
    found = target.memory
    if found is None:
        return Html("")
    from_device = () if found.device is None else ("; the device reports ", number(found.device, label=True))
    busiest = max(range(len(found.live)), key=lambda i: found.live[i])
    return join(
        (
            tag(
                "p",
                f"Memory over time ({found.method}): arena ",
                number(found.arena, label=True),
                *from_device,
                f"; fullest at step {busiest}, with {found.live[busiest]:,} B in use. No plan is smaller than ",
                number(found.bound, label=True),
                ".",
            ),
            drawn(lambda: diagrams.memory(found, name)),
            more(
                "The places as a table",
                table(
                    ("place", "bytes|", "from|", "first step|", "last step|"),
                    [
                        (p.name, f"{p.size:,}", f"{p.offset:,}", str(p.first), str(p.last))
                        for p in found.places
                    ],
                    kind="stack",
                ),
            ),
        )
    )


def course(report: Report) -> Html:
    """How the search went."""
    found = report.course
    if found is None:
        return Html("")
    said = [
        f"{found.method}, seed {found.seed}: {found.evaluations:,} networks evaluated in {found.seconds:,.0f} s",
        *(["the pick was repaired to keep the budgets"] if found.repaired else []),
    ]
    if not found.epochs:
        return tag("p", "; ".join(said), ". This method has no course by epochs.")
    pictures = [drawn(lambda: diagrams.learning(found, "learning"))]
    pictures += [
        drawn(lambda m=m, b=b, i=i: diagrams.course(found, m, b, f"course{i}"))  # type: ignore[misc]
        for i, (m, b) in enumerate(budgets(report))
    ]
    last = found.epochs[-1]
    end = f" At the end {100 * last.kept:.0f} % of the steps were within the budgets."
    return join(
        (
            tag(
                "p",
                "; ".join(said),
                ". Costs over epochs are predictions for the networks of each epoch.",
                end,
            ),
            tag("div", *pictures, class_="grid"),
        )
    )


def lut(target: Target, name: str) -> Html:
    """What the table knows of the space, and how far sums are off."""
    found = target.table
    if found is None:
        return tag("p", "No table: see what is missing, at the end.", class_="note")
    rows = [
        (
            kind.kind,
            *(
                f"{n:,}" if n or i < 2 else ""
                for i, n in enumerate(
                    (kind.operators, kind.measured, kind.predicted, kind.failed, kind.unstable)
                )
            ),
        )
        for kind in found.kinds
    ]
    said = [
        tag(
            "p",
            f"{found.measured:,} of the space's {found.operators:,} operators are in the table",
            f" ({found.first_row[:10]} to {found.last_row[:10]})." if found.first_row else ".",
            ""
            if found.predicted_error is None
            else f" Predicted ones are off by {found.predicted_error:.1f} % (each left out in turn).",
        )
    ]
    if found.mape is not None:
        rank = "" if found.spearman is None else f", rank correlation {found.spearman:.3f}"
        error = number(Number(found.mape, "percent", "computed", f"{found.networks} networks", target.stack))
        said.append(
            tag(
                "p",
                f"Sums of operators were set beside {found.networks} whole networks ({found.method}): mean error ",
                error,
                f"{rank}. A network costs {found.formula}." if found.formula else f"{rank}.",
            )
        )
    columns = ("kind", "in the space|", "measured|", "predicted|", "failed|", "unstable|")
    failed = (
        [more("What failed", table(("operator", "why"), [(tag("code", s), w) for s, w in found.failures]))]
        if found.failures
        else []
    )
    return join(
        (*said, table(columns, rows, kind="stack"), *failed, drawn(lambda: diagrams.samples(found, name)))
    )


def rounds(report: Report) -> Html:
    """Each round's predictions and measurements."""
    found = report.rounds
    if found is None:
        return tag(
            "p",
            "No candidates beside the winner were measured (boardfit run measures some in rounds).",
            class_="note",
        )
    metrics = _round_metrics(report)
    pictures = [
        drawn(lambda m=m, i=i: diagrams.rounds(found, m, f"rounds{i}"))  # type: ignore[misc]
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


def _round_metrics(report: Report) -> list[str]:
    """What the rounds measured; of a board's cycles and latency, which say the same, one is enough."""
    assert report.rounds is not None
    known = dict.fromkeys(m for one in report.rounds.rounds for n in one.networks for m in n.measured)
    budgeted = {metric for metric, _ in budgets(report)}
    kept = []
    for metric in known:
        other = metric.replace("cycles", "latency_us")
        if metric == other or other not in known or (metric in budgeted and other not in budgeted):
            kept.append(metric)
    return kept


def _corrections(found: Mapping[str, Any]) -> Iterator[str]:
    """What was put into the table after a round."""
    for metric, values in found.items():
        if isinstance(values, Mapping) and isinstance(values.get("factor"), int | float):
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
            drawn(lambda: diagrams.effects(found.effects, "effects")),
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
    metrics = [metric for metric, _ in budgets(report)]
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


def cost_rows(report: Report) -> list[tuple[str, ...]]:
    """The answer's table: each metric with budget, prediction, measurement, verdict."""
    return [
        (
            tag("code", row.metric),
            number(row.budget),
            number(row.predicted),
            number(row.measured, label=True),
            "-" if row.error_percent is None else f"{row.error_percent:+.1f} %",
            verdict(row),
        )
        for row in report.costs
    ]


def verdict(row: Cost) -> Html:
    """Kept, broken, or nothing to say; in words as well as in colour."""
    if row.budget is None:
        return Html("")
    words = {True: ("kept", "✓ kept"), False: ("broken", "✗ broken"), None: ("open", "not measured")}[row.ok]
    return tag("span", words[1], class_=f"verdict {words[0]}")


def _error(predicted: Number | None, measured: Number) -> str:
    if predicted is None or predicted.value is None or not measured.value:
        return shown(None)
    return f"{100 * (predicted.value - measured.value) / measured.value:+.2f} %"
