"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import complete

Folder = Annotated[
    Path,
    typer.Option("--project", "-C", help="Project folder (with boardfit.toml).", show_default="this folder"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        "-b",
        autocompletion=complete.budgets,
        help='Replace a budget, e.g. --budget latency="2 ms"; of one of several targets --budget pi:latency="2 ms". '
        "May be repeated.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Do it again although nothing changed.")]
TargetUrl = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        autocompletion=complete.targets,
        help="Name or URL of one of the project's targets; of its only one any URL (boardfit boards).",
        show_default="the project file's",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse prices that rest on predicted operators.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be done, why, and how long it would take.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait while another process measures on the same device.")]
