"""Runs somebody else's flashing tool: with a limit, in a process group of its own, and reads what it says.

Tools differ in what their exit codes mean (pyOCD's pack search fails with 0), so a run is judged by what was said
as well. Their sentences stand in each back end as `Symptom`s; the first one that matches explains the failure.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.mcu.flash import remedies
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, FlashingError

_KEPT_BYTES = 64 * 1024  # of a tool's output: the last ones, a progress bar may make megabytes
_POLL_S = 0.02
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What a tool did.

    Attributes:
        returncode: its exit status; None when it was ended from here.
        lines: what it said on stdout and stderr together, without colours and blank lines.
        seconds: wall time.
        stopped_by: the text that made us end it, or empty.
    """

    returncode: int | None
    lines: tuple[str, ...]
    seconds: float
    stopped_by: str = ""

    def said(self, pattern: str) -> str:
        """The first line in which this regular expression is found, whatever its case; empty when there is none."""
        found = re.compile(pattern, re.IGNORECASE)
        return next((line for line in self.lines if found.search(line)), "")


@dataclass(frozen=True, slots=True)
class Symptom:
    """A sentence of a tool, and what it means.

    Attributes:
        pattern: regular expression, whatever its case, found in one line.
        error: DeviceError or FlashingError.
        meaning: for people.
        remedy: one of `remedies`.
    """

    pattern: str
    error: type[BoardfitError]
    meaning: str
    remedy: str


def find_tool(name: str, places: Sequence[Path] = ()) -> str | None:
    """The program's path: from PATH, else from one of the places where its installer puts it."""
    found = shutil.which(name)
    if found is None and places:
        found = shutil.which(name, path=os.pathsep.join(map(str, places)))
    return found


def run_tool(
    arguments: Sequence[str], *, timeout_s: float, stop_at: Sequence[str] = (), cwd: Path | None = None
) -> ToolRun:
    """Run a tool to its end, but not longer than allowed. It gets no input.

    Args:
        arguments: the program and its arguments; no shell sees them.
        timeout_s: after so long it is killed, with everything that it started.
        stop_at: texts that mean that it will wait for ever; it is killed as soon as it says one.
        cwd: its folder.

    Raises:
        ConfigurationError: it cannot be started.
    """
    begin = time.monotonic()
    # Output goes to a file, not a pipe: a grandchild that outlives the tool could hold a pipe open for ever.
    with tempfile.TemporaryDirectory(prefix="boardfit-") as folder:
        output = Path(folder) / "output"
        with output.open("wb") as sink:
            try:
                process = subprocess.Popen(
                    list(arguments), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, cwd=cwd,
                    start_new_session=sys.platform != "win32",
                )  # fmt: skip
            except OSError as error:
                raise ConfigurationError(
                    f"cannot start {arguments[0]}: {error.strerror}",
                    remedy="check that it is a program that you may run",
                ) from error
        stopped_by = ""
        try:
            while process.poll() is None and not stopped_by and time.monotonic() - begin < timeout_s:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
                if stop_at:
                    text = "\n".join(_lines(output))
                    stopped_by = next((stop for stop in stop_at if stop in text), "")
        finally:  # also after Ctrl-C, which a process group of its own does not see
            ended = process.poll() is not None
            if not ended:
                _kill(process)
        lines = _lines(output)
    return ToolRun(process.returncode if ended else None, lines, time.monotonic() - begin, stopped_by)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the tool and what it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(
        subprocess.TimeoutExpired
    ):  # unkillable only while the kernel waits for a device
        process.wait(5)


def _lines(output: Path) -> tuple[str, ...]:
    with output.open("rb") as source:
        source.seek(max(0, output.stat().st_size - _KEPT_BYTES))
        data = source.read(_KEPT_BYTES)
    text = _COLOUR.sub("", data.decode("utf-8", errors="replace"))
    return tuple(line.strip() for line in re.split(r"[\r\n]+", text) if line.strip())


def judge(
    run: ToolRun,
    tool: str,
    symptoms: Sequence[Symptom],
    *,
    success: Sequence[str],
    began: str,
    timeout_s: float,
) -> None:
    """Return when the tool has done it; otherwise say what went wrong.

    Args:
        run: what it did.
        tool: its name, for people.
        symptoms: what its sentences mean, the more telling ones first.
        success: regular expressions; each must have been said, whatever the exit status is.
        began: regular expression of the sentence after which the flash is no longer what it was.
        timeout_s: the limit it had, for the message.

    Raises:
        DeviceError: the board was not reached, and is as it was.
        FlashingError: the flash may be half written.
    """
    if run.returncode == 0 and all(run.said(pattern) for pattern in success):
        return
    for symptom in symptoms:
        line = run.said(symptom.pattern)
        if line:
            raise symptom.error(f"{tool}: {symptom.meaning}: {line!r}", remedy=symptom.remedy)
    touched = bool(run.said(began))
    error = FlashingError if touched else DeviceError
    last = run.said(r"\berror\b|\bfailed\b|\bfailure\b") or (run.lines[-1] if run.lines else "nothing")
    if run.returncode is None:
        raise error(
            f"{tool} did not finish within {timeout_s:g} s; its last word was {last!r}",
            remedy=remedies.TOO_SLOW,
        )
    if run.returncode:
        raise FlashingError(
            f"{tool} failed with exit status {run.returncode}: {last!r}",
            remedy=remedies.AGAIN if touched else remedies.OTHER_BACK_END,
        )
    raise FlashingError(
        f"{tool} ended without an error, but does not say that it has written and verified; it said {last!r}",
        remedy=remedies.AGAIN,
    )
