"""The command `boardfit`: reads arguments, calls the workflow, prints, and turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

EXIT_INTERRUPTED = 130
EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (docs/cli.md). The entry point of the console script.

    Every BoardfitError becomes one line and its remedy. `--debug`, anywhere before the command, shows the traceback.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import typer

        from toolchain.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "pydantic"):
            raise
        sys.stderr.write(f"error: the command line needs {error.name}\nremedy: pip install 'boardfit[cli]'\n")
        return EXIT_USAGE

    from toolchain.cli.console import print_error, stderr
    from toolchain.cli.show import infeasible
    from toolchain.errors import BoardfitError, InfeasibleError

    # typer may carry its own copy of click; BadParameter's base is the class of all its usage errors.
    usage_error: Any = typer.BadParameter.__mro__[1]
    debug = "--debug" in arguments
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="boardfit", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        stderr().print("interrupted; what was finished is kept, the same command goes on from there")
        return EXIT_INTERRUPTED
    except BoardfitError as error:
        if debug:
            raise
        if isinstance(error, InfeasibleError):
            infeasible(error)
        print_error(error)
        return error.exit_code
    except Exception as error:
        if isinstance(error, usage_error):
            error.show()
            return EXIT_USAGE
        if debug:
            raise
        stderr().print(f"[bold red]internal error:[/] {type(error).__name__}: {error}", markup=True)
        stderr().print("remedy: run again as `boardfit --debug ...` and report the traceback")
        return 1
    return code if isinstance(code, int) else 0
