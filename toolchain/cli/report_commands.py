"""`boardfit report` and `boardfit compare`: one project's findings, and two beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli.console import print_json, print_table, stderr, stdout, working
from toolchain.cli.options import Folder, Json
from toolchain.errors import UsageError

Document = Annotated[bool, typer.Option("--json", help="Print the document as JSON (docs/report.md).")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print it as Markdown, for a pull request.")]


def report(
    project: Folder = Path("."),
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML file.", show_default="results/report.html of the project"),
    ] = None,
    as_json: Document = False,
    as_markdown: Markdown = False,
) -> None:
    """Write what was found as one HTML file: the answer, diagrams, where every number comes from, what is missing."""
    from toolchain.workflow.project import open_project

    if as_json + as_markdown + (out is not None) > 1:
        raise UsageError("--json, --markdown and --out exclude each other", remedy="give one of them")
    opened = open_project(project)
    with working("gathering the report"):
        from toolchain.report.markdown import markdown
        from toolchain.workflow.report import gather, write_report

        gathered = gather(opened)
        written = None if as_json or as_markdown else write_report(opened, out, gathered)
    for text in gathered.damage:
        stderr().print(f"warning: could not be read: {text}", markup=False, highlight=False)
    if written is not None:
        stdout().print(f"wrote {written}")
    elif as_json:
        print_json("report", gathered.as_json())
    else:
        stdout().print(markdown(gathered), end="")


def compare(
    left: Annotated[
        Path, typer.Argument(help="A project folder, or what `report --json` printed.", metavar="A")
    ],
    right: Annotated[Path, typer.Argument(help="Another one.", metavar="B")],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="Compare only this metric, e.g. flash_bytes. May be repeated."),
    ] = None,
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Two runs side by side. Refuses (exit 3) to compare numbers of different evidence or of different stacks."""
    from toolchain.report.markdown import runs_markdown
    from toolchain.report.runs import compare_reports, rows_of
    from toolchain.workflow.report_load import load_report

    if as_json and as_markdown:
        raise UsageError("--json and --markdown exclude each other", remedy="give one of them")
    with working("gathering the reports"):
        documents = load_report(left), load_report(right)
    found = compare_reports(*documents, metrics=tuple(metric or ()), names=(str(left), str(right)))
    if as_json:
        print_json("compare", found.as_json())
    elif as_markdown:
        stdout().print(runs_markdown(found), end="")
    else:
        for title, columns, rows in rows_of(found):
            print_table(title, columns, rows)
