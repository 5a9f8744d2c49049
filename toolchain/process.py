"""Other programs, run to their end and not longer: a compiler that is interrupted leaves nothing running behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence


def run_captured(command: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program without input, its output captured as text.

    It has a process group of its own: compilers start others (zig is a driver of clang), and whatever ends the wait,
    a timeout or Ctrl-C, ends them all.

    Args:
        command: the program and its arguments; no shell sees them.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it did not end in time.
    """
    with subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", process_group=0 if os.name == "posix" else None,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            end_group(process)
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill a program that has a process group of its own, with all that it started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
