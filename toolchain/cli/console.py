"""Everything that is printed: results on stdout, progress and errors on stderr, plain text off a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from toolchain.errors import BoardfitError

JSON_SCHEMA = 1  # version of every --json document's shape


def stdout() -> Console:
    """Results go here. Off a terminal: no colour, no cropping to a guessed width."""
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, soft_wrap=not terminal, highlight=False, width=None if terminal else 200)


def stderr() -> Console:
    """Progress, notes and errors go here."""
    return Console(file=sys.stderr, soft_wrap=True, highlight=False)


def print_json(kind: str, value: dict[str, Any]) -> None:
    """One JSON document on stdout: {"schema": 1, "kind": ..., ...value}."""
    document = {"schema": JSON_SCHEMA, "kind": kind, **value}
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=_plain) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """Numpy scalars, paths and enums as JSON knows them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, notes: str = ""
) -> None:
    """A titled table on stdout; columns whose name ends in "|" are aligned right."""
    table = Table(
        title=title, title_justify="left", title_style="bold", caption=notes or None, caption_justify="left"
    )
    for name in columns:
        table.add_column(name.rstrip("|"), justify="right" if name.endswith("|") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    stdout().print(table)


def print_error(error: BoardfitError) -> None:
    """What happened, and what to do about it."""
    console = stderr()
    console.print(f"[bold red]error:[/] {_escaped(error.message)}")
    if error.remedy:
        console.print(f"[bold]remedy:[/] {_escaped(error.remedy)}")


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


class ProgressDisplay:
    """Shows (stage, done, total, note) reports: bars with time left on a terminal, else a line every few seconds.

    Use as a context manager; pass the object itself as the `progress` callback of the workflow.
    """

    LINE_SECONDS = 10.0

    def __init__(self) -> None:
        self._console = stderr()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, float] = {}
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )

    def __enter__(self) -> ProgressDisplay:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` steps of a stage are finished."""
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, note=_escaped(note))
            self._bars.update(self._tasks[stage], completed=done, total=total, note=_escaped(note))
            return
        now = time.monotonic()
        if done >= total or now - self._lines.get(stage, -self.LINE_SECONDS) >= self.LINE_SECONDS:
            self._lines[stage] = now
            self._console.print(f"{stage}: {done}/{total} {_escaped(note)}".rstrip(), markup=True)
