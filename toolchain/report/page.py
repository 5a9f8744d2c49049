"""The report as one HTML file: no network, readable on a phone, in light and dark, in print, without JavaScript.

A Content-Security-Policy in the page itself allows its own style and script and nothing else, so that neither a
hostile name nor a later change can make it load or run anything.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Final

from toolchain.report import explained, sections
from toolchain.report.document import Report
from toolchain.report.html import Html, join, more, number, prose, table, tag

_MARKS: Final = {
    "kept": ("kept", "✓ Budgets kept"),
    "broken": ("broken", "✗ Budget broken"),
    "predicted": ("open", "Not measured yet"),
    "infeasible": ("broken", "✗ No network keeps the budgets"),
    "empty": ("open", "Nothing found yet"),
}
_STAGES: Final = {
    "estimator": "estimated",
    "supernet": "in the supernet",
    "float": "trained, float",
    "int8": "trained, int8",
    "target": "on the target",
}


def page(report: Report) -> str:
    """The document as a page; the same document gives the same bytes."""
    style, script = _resource("page.css"), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    name = report.project.name
    parts = [part for part in _sections(report) if part[2]]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: boardfit report"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(style)),
    )
    contents = tag(
        "nav", *(tag("a", title, href=f"#{key}") for key, title, _ in parts), aria_label="Contents"
    )
    body = tag(
        "body",
        tag(
            "header",
            tag("p", "boardfit report", class_="kind"),
            tag("h1", name),
            _answer(report),
        ),
        contents,
        tag("main", *(tag("section", tag("h2", title), inner, id=key) for key, title, inner in parts)),
        tag("footer", f"Made by boardfit {report.boardfit} at {report.made_at}."),
        tag("div", id="tip", role="status", hidden=""),
        tag("script", Html(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _resource(name: str) -> str:
    return (resources.files("toolchain.report") / name).read_text(encoding="utf-8")


def _sections(report: Report) -> list[tuple[str, str, Html]]:
    several = len(report.targets) > 1
    operators, tables = [], []
    for index, target in enumerate(report.targets):
        title = [tag("h3", target.name)] if several else []
        operators += [*title, sections.operators(target), sections.memory(target, f"memory{index}")]
        tables += [*title, sections.lut(target, f"samples{index}")]
    found = bool(report.network)
    return [
        ("front", "Accuracy and cost", sections.front(report)),
        ("operators", "Where the time and the memory go", join(operators) if found else Html("")),
        ("search", "The search", sections.course(report)),
        ("table", "The lookup table", join(tables)),
        ("rounds", "The loop", explained.rounds(report) if found else Html("")),
        ("why", "Why this network", explained.why(report)),
        ("provenance", "Where the numbers come from", _provenance(report)),
        ("missing", "What was not measured", _missing(report)),
    ]


def _answer(report: Report) -> Html:
    kind, words = _MARKS[report.status]
    parts: list[str] = [
        tag("p", tag("strong", words, class_=f"verdict {kind}"), " ", report.headline, class_="headline")
    ]
    parts += [tag("p", f"Could not be read: {text}", class_="note warning") for text in report.damage]
    if report.hardware_free:
        notes = dict.fromkeys(t.note for t in report.targets if t.url.startswith("virtual:") and t.note)
        parts.append(
            tag("p", "Virtual board: ", "; ".join(notes) or "no hardware was used", class_="note warning")
        )
    parts += [
        tag("p", f"{t.name}: {t.note}", class_="note")
        for t in report.targets
        if t.note and not t.url.startswith("virtual:")
    ]
    if report.costs:
        columns = ("metric", "budget|", "predicted|", "on the target|", "error|", "")
        parts.append(table(columns, sections.cost_rows(report), kind="stack answer"))
    if report.accuracy:
        rows = [
            (
                join(
                    (
                        _STAGES[a.stage],
                        tag("small", ", ".join(filter(None, (a.where, a.note))), class_="line"),
                    )
                ),
                number(a.number),
                f"{a.samples:,}" if a.samples else "",
            )
            for a in report.accuracy
        ]
        parts.append(table(("accuracy", "right|", "samples|"), rows, kind="trail"))
    if report.network:
        blocks = [
            (b.name, tag("strong", b.choice), b.input, b.output, f"{b.params:,}", f"{b.macs:,}")
            for b in report.blocks
        ]
        parts += [
            tag("p", "Network: ", tag("code", report.network)),
            more(
                "Block by block",
                table(("block", "choice", "in", "out", "params|", "MACs|"), blocks, kind="stack"),
            ),
        ]
    if report.infeasible is not None:
        parts.append(_infeasible(report))
    return join(parts)


def _infeasible(report: Report) -> Html:
    found = report.infeasible
    assert found is not None
    rows = [
        (
            tag("code", metric),
            number(value),
            number(found.nearest_costs.get(metric)),
            "binds" if metric in found.binding else "",
        )
        for metric, value in found.least.items()
    ]
    return join(
        (
            table(("metric", "least in the space|", "nearest design|", "its budget"), rows, kind="stack"),
            tag("p", "Nearest design: ", tag("code", found.nearest)) if found.nearest else "",
            tag("p", "What to do: ", prose(found.remedy)) if found.remedy else "",
        )
    )


def _provenance(report: Report) -> Html:
    found, facts = report.provenance, report.project
    kinds = {n.evidence for n in report.numbers() if n.value is not None}
    stacks = [
        more(f"Stack {key}", table(("", ""), list(fields.items()), kind="pairs"))
        for key, fields in found.stacks.items()
    ]
    return join(
        (
            table(
                ("evidence", "means"),
                [(tag("code", kind), words) for kind, words in found.evidence.items() if kind in kinds],
                caption="How numbers came to be; each carries its kind, point at it",
                kind="legend",
            ),
            table(
                ("", ""),
                [
                    ("data", f"{facts.data} (fingerprint {facts.data_fingerprint})"),
                    ("space", f"{facts.space}, {facts.networks} networks"),
                    ("seed", str(facts.seed)),
                    *(
                        (f"target {t.name}", f"{t.url}, {t.precision}, stack {t.stack or 'unknown'}")
                        for t in report.targets
                    ),
                    ("versions", ", ".join(f"{name} {version}" for name, version in found.versions.items())),
                ],
                caption="What was asked, and with what",
                kind="pairs",
            ),
            *stacks,
            table(
                ("stage", "written", "inputs", "answers today's project file"),
                [
                    (r.stage, r.written_at, tag("code", r.inputs or "-"), "yes" if r.current else "no")
                    for r in found.records
                ],
                caption="Records of the stages",
                kind="stack",
            ),
            table(
                ("command", "does"),
                [(tag("code", command), what) for command, what in found.commands],
                caption="Commands that make it again, in the project's folder",
                kind="stack",
            ),
            more(
                "Files",
                table(
                    ("file", "bytes|", "SHA-256"),
                    [(name, f"{size:,}", tag("code", digest)) for name, (size, digest) in found.files.items()],
                    kind="stack",
                ),
            )
            if found.files
            else "",
        )
    )  # fmt: skip


def _missing(report: Report) -> Html:
    if not report.missing:
        return tag("p", "Nothing: every number above was found on the target, or follows exactly.")
    rows = [(m.what, m.why, prose(m.how)) for m in report.missing]
    return table(("what", "why", "how to get it"), rows, kind="stack")
