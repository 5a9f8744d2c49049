"""The report for a pull request: the answer, in GitHub's Markdown, within what fits a comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toolchain.report.document import Report
from toolchain.report.number import LABELS, Number, shown
from toolchain.report.runs import RunComparison, rows_of

_SYMBOLS = {"kept": "✅", "broken": "❌", "predicted": "⚠️", "infeasible": "❌", "empty": "⚠️"}


def markdown(report: Report) -> str:
    """The document's answer, accuracies, rounds, what was not measured, and the stacks; ends with a newline."""
    parts = [
        f"### {_text(report.project.name)}: {_SYMBOLS[report.status]} {_text(report.headline)}",
        *([f"Network: {code(report.network)}"] if report.network else []),
        *(
            f"> {_text(target.name)}: {_text(target.note)}"
            for target in report.targets
            if target.note
        ),
    ]  # fmt: skip
    rows: list[tuple[str, ...]]
    if report.costs:
        rows = [
            (
                code(row.metric), shown(row.budget), shown(row.predicted), _labelled(row.measured),
                "-" if row.error_percent is None else f"{row.error_percent:+.1f} %",
                {True: "✅ kept", False: "❌ broken", None: "" if row.budget is None else "not measured"}[row.ok],
            )
            for row in report.costs
        ]  # fmt: skip
        parts.append(table(("metric", "budget|", "predicted|", "on the target|", "error|", ""), rows))
    if report.infeasible is not None:
        found = report.infeasible
        rows = [
            (code(metric), shown(value), "binds" if metric in found.binding else "")
            for metric, value in found.least.items()
        ]
        parts.append(table(("metric", "least in the space|", "its budget"), rows))
        parts.append(_text(f"{found.message}. What to do: {found.remedy}"))
    if report.accuracy:
        rows = [
            (f"{a.stage}, {_text(a.where)}", shown(a.number), LABELS.get(a.number.evidence, ""))
            for a in report.accuracy
        ]
        parts.append(table(("accuracy", "right|", "evidence"), rows))
    if report.rounds is not None:
        rows = [
            (str(one.round), code(metric), f"{error:.2f} %", f"{len(one.networks)}")
            for one in report.rounds.rounds
            for metric, error in one.errors_percent.items()
        ]
        parts.append(table(("round|", "metric", "mean error of predictions|", "networks|"), rows))
    parts += [f"> **Could not be read:** {_text(text)}" for text in report.damage]
    if report.missing:
        items = (
            f"- {_text(m.what)}: {_text(m.why)}" + (f" ({prose(m.how)})" if m.how else "")
            for m in report.missing
        )
        parts.append(
            "<details><summary>What was not measured</summary>\n\n" + "\n".join(items) + "\n\n</details>"
        )
    stacks = ", ".join(f"{_text(t.name)} {code(t.stack)}" for t in report.targets if t.stack)
    parts.append(f"<sub>boardfit {report.boardfit}, {report.made_at}; stacks: {stacks or 'none'}</sub>")
    return "\n\n".join(parts) + "\n"


def runs_markdown(found: RunComparison) -> str:
    """Two runs side by side; ends with a newline."""
    parts = []
    for title, columns, rows in rows_of(found):
        texts = [tuple(_text(cell) for cell in row) for row in rows]
        parts.append(f"**{title}**\n\n{table(columns, texts)}")
    return "\n\n".join(parts) + "\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns whose name ends in "|" are aligned right. Cells are Markdown already."""
    lines = [
        "| " + " | ".join(name.rstrip("|") or " " for name in columns) + " |",
        "|" + "|".join("---:" if name.endswith("|") else "---" for name in columns) + "|",
        *("| " + " | ".join(cell or " " for cell in row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def code(text: str) -> str:
    """Text in code style, whatever characters it has."""
    line = " ".join(text.split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def prose(text: str) -> str:
    """Words in which commands stand between backticks."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backtick alone
        return _text(text)
    return "".join(code(piece) if index % 2 else _text(piece) for index, piece in enumerate(pieces))


def _labelled(number: Number | None) -> str:
    if number is None:
        return "-"
    return f"{shown(number)} ({LABELS.get(number.evidence, number.evidence)}{', unstable' if number.unstable else ''})"


def _text(text: str) -> str:
    """Plain words: nothing in them is Markdown, HTML or a mention."""
    line = re.sub(r"\s+", " ", text)
    line = re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", line)
    return line.replace("@", "@\u200b")
