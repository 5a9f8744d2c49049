"""The sections of the page, each from a part of the document. Every diagram also stands there as a table."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from toolchain.report import diagrams
from toolchain.report.document import Cost, Report
from toolchain.report.document_target import Target
from toolchain.report.html import Html, join, more, number, table, tag
from toolchain.report.number import Number
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
