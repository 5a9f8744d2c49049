"""The command `boardfit`: reads arguments, calls the workflow, prints, and turns errors into exit codes."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from toolchain.cli.interrupt import EXIT_INTERRUPTED, Interruptible

EXIT_USAGE = 2
# What these had finished when they were interrupted is kept; the others have nothing to keep.
_RESUMABLE = ("profile", "search", "export", "deploy", "run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (docs/cli.md). The entry point of the console script.

    Every BoardfitError becomes two lines, `error: ...` and `remedy: ...`. `--debug` shows the traceback above them.
    """
    alone = arguments is None  # a process for this command
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            with contextlib.suppress(OSError):  # closed by whoever started us
                stream.reconfigure(errors="backslashreplace")
    with Interruptible(lambda: interrupted(arguments), to_the_end=alone) as signals:
        try:
            code = _run(arguments, lambda: signals.arrived)
            sys.stdout.flush()
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
        except BrokenPipeError:  # whoever read our output has seen enough, e.g. `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if code == EXIT_INTERRUPTED:
            signals.tell(sys.stderr.write)
        return code


def interrupted(arguments: Sequence[str]) -> str:
    """What an interrupted command says: what is kept, and the exact command to go on with."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    again = f"boardfit {shlex.join(arguments)}"
    if command == "flash":
        return f"interrupted; the board may be half written, write it again: {again}"
    if command not in _RESUMABLE:
        return f"interrupted; again: {again}"
    # --force begins from the start; without it the work that it began goes on.
    again = f"boardfit {shlex.join(word for word in arguments if word != '--force')}"
    return f"interrupted; what was finished is kept, go on with: {again}"


def _run(arguments: list[str], stopped: Callable[[], bool]) -> int:
    try:
        import typer

        from toolchain.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "pydantic"):
            raise
        sys.stderr.write(f"error: the command line needs {error.name}\nremedy: pip install 'boardfit[cli]'\n")
        return EXIT_USAGE

    from toolchain.cli.console import OutputClosedError, print_error
    from toolchain.errors import BoardfitError

    # typer may carry its own copy of click; BadParameter's base is the class of all its usage errors.
    usage_error: Any = typer.BadParameter.__mro__[1]
    debug = "--debug" in arguments
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="boardfit", standalone_mode=False)
    except typer.Abort:
        return EXIT_INTERRUPTED
    except OutputClosedError as error:
        raise BrokenPipeError from error
    except Exception as error:
        if stopped():  # an import or a library that was broken off says anything
            return EXIT_INTERRUPTED
        if isinstance(error, usage_error):
            return _usage(error)
        if debug:
            traceback.print_exc()
        if isinstance(error, BoardfitError):
            print_error(error.message, error.remedy or error.usual_remedy)
            return error.exit_code
        extra = _extra_that_brings(error)
        if extra:
            print_error(
                f"this needs {extra[0]}, which is not installed", f"pip install 'boardfit[{extra[1]}]'"
            )
            return 3
        if isinstance(error, OSError) and error.strerror:
            what = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
            print_error(
                f"{error.strerror}: {what or 'output'}", "check the path, its permissions, and the free space"
            )
            return 1
        print_error(
            f"internal: {type(error).__name__}: {error}",
            "" if debug else "run again as `boardfit --debug ...` and report the traceback",
        )
        return 1
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> int:
    """Print what is wrong with the command line, in the words of typer's copy of click."""
    from toolchain.cli.console import print_error

    if type(error).__name__ == "NoArgsIsHelpError":  # nothing is wrong yet: it carries the help
        error.show()
    else:
        message = str(error.format_message()).strip().rstrip(".")
        path = error.ctx.command_path if error.ctx is not None else "boardfit"
        print_error(message[:1].lower() + message[1:], f"`{path} --help` shows what there is")
    return EXIT_USAGE


def _extra_that_brings(error: Exception) -> tuple[str, str] | None:
    """(distribution, extra of boardfit) of an optional package whose import failed; None for anything else."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    from toolchain.workflow.doctor import PACKAGES

    found = PACKAGES.get(error.name.partition(".")[0])
    return None if found is None else found[:2]
