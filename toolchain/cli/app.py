"""The commands. Each parses, calls one function of the workflow, and prints its outcome."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolchain.cli import board_commands, complete, lut_commands, report_commands, show
from toolchain.cli.console import print_remote, stdout
from toolchain.cli.progress import ProgressDisplay
from toolchain.errors import ConfigurationError, InfeasibleError, UsageError
from toolchain.units import Budget, QuantileBudget, parse_limit

if TYPE_CHECKING:
    from toolchain.workflow.project import Progress, Project

app = typer.Typer(
    name="boardfit",
    help="Finds the neural network that fits a board, and proves it on the board.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(lut_commands.app, name="lut", help="Look into lookup tables: show, export, merge, diff.")

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


def _version(asked: bool) -> None:
    if asked:
        stdout().print(f"boardfit {metadata.version('boardfit')}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    # --debug is read by `main`, before any command runs.
    pass


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make; its last part names the project.")],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            autocompletion=complete.targets,
            help="What the project is for (boardfit boards).",
            show_default="cpu:litert",
        ),
    ] = "",
) -> None:
    """Make a project folder with a boardfit.toml that works as it is."""
    from toolchain.cli.templates import write_project

    path = write_project(folder, target)
    go = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    stdout().print(f"made {path}\nnext: {go}boardfit run")


app.command()(board_commands.boards)
app.command()(board_commands.flash)


@app.command()
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
    from toolchain.workflow.profile import profile as run_profile
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
    with _progress(opened) as progress:
        outcome = run_profile(opened, progress=progress, retry=retry, wait=wait, share=share)
    show.profile(outcome, as_json)


@app.command()
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
    from toolchain.workflow.search import search as run_search

    opened = open_project(project, target)
    limits = _budgets(budget)
    if dry:
        _dry("search", opened, as_json, budgets=limits, method=method, force=force, strict=strict)
        return
    with _explained(opened, as_json), _progress(opened, method) as progress:
        outcome = run_search(
            opened, progress=progress, budgets=limits, method=method or None, force=force, strict=strict
        )
    show.search(outcome, as_json)


@app.command()
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
    from toolchain.workflow.export import export as run_export
    from toolchain.workflow.export import export_c
    from toolchain.workflow.project import open_project

    opened = open_project(project, target)
    if dry:
        _dry("export", opened, as_json, force=force)
        return
    with _progress(opened) as progress:
        outcome = run_export(opened, progress=progress, force=force, strict=strict)
    written = None
    if c_folder is not None:
        outcome.verification.raise_for_breach()
        written = export_c(opened, c_folder)
    show.export(outcome, as_json, written)
    outcome.verification.raise_for_breach()


@app.command()
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
    from toolchain.workflow.deploy import deploy as run_deploy
    from toolchain.workflow.deploy import undo as run_undo
    from toolchain.workflow.project import open_project

    opened, only = open_project(project), target
    if len(opened.config.target) == 1:  # another URL takes its place; of several, one is deployed to
        opened, only = open_project(project, target), ""
    if dry:
        if undo:
            raise UsageError("--dry-run says nothing about --undo", remedy="leave out one of them")
        _dry("deploy", opened, as_json)
        return
    if undo:
        show.undo(run_undo(opened, only=only, place=place or None), as_json)
        return
    with _progress(opened) as progress:
        outcome = run_deploy(opened, only=only, place=place or None, progress=progress, wait=wait)
    show.deploy(outcome, as_json)
    raise_for_budgets(outcome.rows)


@app.command()
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
    from toolchain.workflow.run import run as run_all

    opened = open_project(project, target)
    limits = _budgets(budget)
    if dry:
        _dry("run", opened, as_json, budgets=limits, force=force, strict=strict)
        return
    with _explained(opened, as_json), _progress(opened) as progress:
        outcome = run_all(opened, progress=progress, budgets=limits, force=force, wait=wait, strict=strict)
    show.run(outcome, as_json)
    outcome.export.verification.raise_for_breach()
    raise_for_budgets(outcome.deploy.rows)


app.command()(report_commands.report)
app.command()(report_commands.compare)


@app.command()
def bench(
    model: Annotated[Path, typer.Argument(help="A .tflite file, float or int8.")],
    target: Annotated[
        str,
        typer.Option("--target", "-t", autocompletion=complete.targets, help="Target URL (boardfit boards)."),
    ] = "cpu:litert",
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Cost any .tflite model: every operator alone, their sum, the whole network, flash, RAM, MACs."""
    from toolchain.workflow.bench import bench as run_bench

    with ProgressDisplay() as progress:
        outcome = run_bench(model, target, progress=progress, wait=wait)
    show.bench(outcome, as_json)


@app.command()
def calibrate(
    target: Annotated[
        str,
        typer.Argument(
            help="A real board's URL, e.g. serial:/dev/ttyACM0?board=nucleo-l4r5zi.", metavar="TARGET"
        ),
    ],
    as_json: Json = False,
) -> None:
    """Fit the timing model of a virtual board to your own: a few layers, measured on both."""
    from toolchain.workflow.calibrate import calibrate as run_calibrate

    with ProgressDisplay() as progress:
        outcome = run_calibrate(target, progress=progress)
    show.calibrate(outcome, as_json)


@app.command()
def doctor(
    project: Folder = Path("."),
    target: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete.targets,
            help="Look at this target instead, e.g. ssh://pi@raspberrypi.local.",
        ),
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Give a Linux board the engine that it lacks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check this machine and this project, or a target; every problem comes with the command that mends it."""
    from toolchain.workflow.doctor import examine
    from toolchain.workflow.doctor_target import examine_target

    if install and not (target or "").startswith("ssh:"):
        raise UsageError("--install is for Linux boards", remedy="name one: --target ssh://USER@HOST")
    checks = examine_target(target, install_engine=install, say=print_remote) if target else examine(project)
    show.doctor(checks, as_json)
    if any(check.status == "error" for check in checks):
        raise typer.Exit(code=1)


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
    from toolchain.workflow.dry_run import COMMANDS, Asked

    show.dry_run(command, COMMANDS[command](project, Asked(**options)), as_json)


@contextmanager
def _explained(project: Project, as_json: bool) -> Iterator[None]:
    """An infeasible search has a result, too: what is possible instead."""
    try:
        yield
    except InfeasibleError as error:
        show.infeasible(error, project.space.encode(error.nearest) if error.nearest else "", as_json)
        raise
