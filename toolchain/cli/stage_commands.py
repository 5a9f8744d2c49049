"""`boardfit profile`, `search`, `export`, `deploy`, and `run` for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolchain.cli import complete, show
from toolchain.cli.console import working
from toolchain.cli.options import Budgets, DryRun, Folder, Force, Json, Strict, TargetUrl, Wait
from toolchain.cli.progress import ProgressDisplay
from toolchain.errors import ConfigurationError, InfeasibleError, UsageError
from toolchain.units import Budget, QuantileBudget, parse_limit

if TYPE_CHECKING:
    from toolchain.workflow.project import Progress, Project


def profile(
    project: Folder = Path("."),
    target: TargetUrl = "",
    share: Annotated[
        str,
        typer.Option(
            help='Measure only so much of the operators ("25%"); what the others cost is predicted.',
            show_default="the project file's",
        ),
    ] = "",
    retry: Annotated[bool, typer.Option("--retry", help="Measure failed and unstable rows again.")] = False,
    wait: Wait = False,
    dry: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure the operators of the space on the targets into the lookup table. Goes on where it stopped."""
    from toolchain.workflow.config import parse_share
    from toolchain.workflow.project import open_project

    if share:
        try:
            parse_share(share)
        except ConfigurationError as error:
            raise UsageError(f"--share {error.message}", remedy=error.remedy) from error
    opened = open_project(project, target)
    if dry:
        _dry("profile", opened, as_json, retry=retry, share=share)
        return
    with working():
        from toolchain.workflow.profile import profile as run_profile
    with _progress(opened) as progress:
        outcome = run_profile(opened, progress=progress, retry=retry, wait=wait, share=share)
    show.profile(outcome, as_json)


def search(
    project: Folder = Path("."),
    target: TargetUrl = "",
    budget: Budgets = None,
    method: Annotated[
        str,
        typer.Option(
            autocompletion=complete.methods,
            help="connas, binas, evolution or random; default: the project file's.",
        ),
    ] = "",
    strict: Strict = False,
    force: Force = False,
    dry: DryRun = False,
    as_json: Json = False,
) -> None:
    """Find a network that keeps all budgets, by the costs in the table. Exit 4 when there is none."""
    from toolchain.workflow.project import open_project

    opened = open_project(project, target)
    limits = _budgets(budget)
    if dry:
        _dry("search", opened, as_json, budgets=limits, method=method, force=force, strict=strict)
        return
    with working():
        from toolchain.workflow.search import search as run_search
    with _explained(opened, as_json), _progress(opened, method) as progress:
        outcome = run_search(
            opened, progress=progress, budgets=limits, method=method or None, force=force, strict=strict
        )
    show.search(outcome, as_json)


def export(
    project: Folder = Path("."),
    target: TargetUrl = "",
    c_folder: Annotated[
        Path | None,
        typer.Option("--c", help="Also write a C project of the int8 network into this folder."),
    ] = None,
    strict: Strict = False,
    force: Force = False,
    dry: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train the network that the search found, quantise it, write its files, verify them."""
    from toolchain.workflow.project import open_project

    opened = open_project(project, target)
    if dry:
        _dry("export", opened, as_json, force=force)
        return
    with working():
        from toolchain.workflow.export import export as run_export
        from toolchain.workflow.export import export_c
    with _progress(opened) as progress:
        outcome = run_export(opened, progress=progress, force=force, strict=strict)
    written = None
    if c_folder is not None:
        outcome.verification.raise_for_breach()
        written = export_c(opened, c_folder)
    show.export(outcome, as_json, written)
    outcome.verification.raise_for_breach()


def deploy(
    project: Folder = Path("."),
    target: TargetUrl = "",
    place: Annotated[
        str,
        typer.Option(
            help="Where on the target; default: boardfit/PROJECT in the home folder of a Linux board, else "
            "results/deployed here.",
        ),
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Put back what stood there before instead.")] = False,
    wait: Wait = False,
    dry: DryRun = False,
    as_json: Json = False,
) -> None:
    """Put the model on the targets, check its outputs there, measure it, set predicted beside measured."""
    from toolchain.report.comparison import raise_for_budgets
    from toolchain.workflow.project import open_project

    opened, only = open_project(project), target
    if len(opened.config.target) == 1:  # another URL takes its place; of several, one is deployed to
        opened, only = open_project(project, target), ""
    if dry:
        if undo:
            raise UsageError("--dry-run says nothing about --undo", remedy="leave out one of them")
        _dry("deploy", opened, as_json)
        return
    with working():
        from toolchain.workflow.deploy import deploy as run_deploy
        from toolchain.workflow.deploy import undo as run_undo
    if undo:
        show.undo(run_undo(opened, only=only, place=place or None), as_json)
        return
    with _progress(opened) as progress:
        outcome = run_deploy(opened, only=only, place=place or None, progress=progress, wait=wait)
    show.deploy(outcome, as_json)
    raise_for_budgets(outcome.rows)


def run(
    project: Folder = Path("."),
    target: TargetUrl = "",
    budget: Budgets = None,
    strict: Strict = False,
    force: Force = False,
    wait: Wait = False,
    dry: DryRun = False,
    as_json: Json = False,
) -> None:
    """The whole loop: profile, search, export, deploy. Exit 1 when a budget is broken on the target."""
    from toolchain.report.comparison import raise_for_budgets
    from toolchain.workflow.project import open_project

    opened = open_project(project, target)
    limits = _budgets(budget)
    if dry:
        _dry("run", opened, as_json, budgets=limits, force=force, strict=strict)
        return
    with working():
        from toolchain.workflow.run import run as run_all
    with _explained(opened, as_json), _progress(opened) as progress:
        outcome = run_all(opened, progress=progress, budgets=limits, force=force, wait=wait, strict=strict)
    show.run(outcome, as_json)
    outcome.export.verification.raise_for_breach()
    raise_for_budgets(outcome.deploy.rows)


def _budgets(texts: list[str] | None) -> tuple[Budget | QuantileBudget, ...]:
    """`latency=2 ms`, `pi:latency=2 ms` -> Budget; several replace those of the project file one by one."""
    found = []
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--budget {text!r} is not KEY=VALUE", remedy='write --budget latency="2 ms"')
        name, colon, key = key.strip().rpartition(":")
        try:
            limit = parse_limit(key, value.strip().strip('"'))
            found.append(replace(limit, metric=f"{name}{colon}{limit.metric}"))
        except ConfigurationError as error:
            raise UsageError(f"--budget {text!r}: {error.message}", remedy=error.remedy) from error
    return tuple(found)


@contextmanager
def _progress(project: Project, method: str = "") -> Iterator[Progress]:
    """Bars; and how long each part takes is kept in the project, for the next `--dry-run`."""
    from toolchain.workflow.pace import timed

    with ProgressDisplay() as display, timed(project, display, method) as progress:
        yield progress


def _dry(command: str, project: Project, as_json: bool, **options: Any) -> None:
    """What a command would do with these options."""
    with working():
        from toolchain.workflow.dry_run import COMMANDS
        from toolchain.workflow.dry_step import Asked

        found = COMMANDS[command](project, Asked(**options))
    show.dry_run(command, found, as_json)


@contextmanager
def _explained(project: Project, as_json: bool) -> Iterator[None]:
    """An infeasible search has a result, too: what is possible instead."""
    try:
        yield
    except InfeasibleError as error:
        show.infeasible(error, project.space.encode(error.nearest) if error.nearest else "", as_json)
        raise
