"""The commands. Each parses, calls one function of the workflow, and prints its outcome."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from toolchain.cli import board_commands, complete, lut_commands, report_commands, show, stage_commands
from toolchain.cli.console import print_remote, stdout, working
from toolchain.cli.options import Folder, Json, Wait
from toolchain.cli.progress import ProgressDisplay
from toolchain.errors import UsageError

app = typer.Typer(
    name="boardfit",
    help="Finds the neural network that fits a board, and proves it on the board.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
    with working():
        from toolchain.workflow.bench import bench as run_bench
    with ProgressDisplay() as progress:
        outcome = run_bench(model, target, progress=progress, wait=wait)
    show.bench(outcome, as_json)


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
    with working():
        from toolchain.workflow.calibrate import calibrate as run_calibrate
    with ProgressDisplay() as progress:
        outcome = run_calibrate(target, progress=progress)
    show.calibrate(outcome, as_json)


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
    if install and not (target or "").startswith("ssh:"):
        raise UsageError("--install is for Linux boards", remedy="name one: --target ssh://USER@HOST")
    with working(f"looking at {target or 'this machine'}"):
        from toolchain.workflow.doctor import examine
        from toolchain.workflow.doctor_target import examine_target

        checks = (
            examine_target(target, install_engine=install, say=print_remote) if target else examine(project)
        )
    show.doctor(checks, as_json)
    if any(check.status == "error" for check in checks):
        raise typer.Exit(code=1)


# In the order of `boardfit --help`.
for _command in (
    init,
    board_commands.boards,
    board_commands.flash,
    stage_commands.profile,
    stage_commands.search,
    stage_commands.export,
    stage_commands.deploy,
    stage_commands.run,
    report_commands.report,
    report_commands.compare,
    bench,
    calibrate,
    doctor,
):
    app.command()(_command)
app.add_typer(lut_commands.app, name="lut", help="Look into lookup tables: show, export, merge, diff.")
