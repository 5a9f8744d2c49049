"""Everything that is printed: results on stdout, progress and errors on stderr, plain text off a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

JSON_SCHEMA = 1  # version of every --json document's shape
_ENDLESS = 100_000  # columns of what is not a terminal: nothing is wrapped or cropped


class OutputClosedError(Exception):
    """Whoever read stdout has closed it (`boardfit ... | head`). Never seen by users."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise OutputClosedError


def stdout() -> Console:
    """Results go here. Text is text, whatever brackets and colons it has; a terminal's long lines break at words."""
    console = _console(sys.stdout)
    console.soft_wrap = not console.is_terminal
    return console


def stderr() -> Console:
    """Progress, notes and errors go here. Long lines stay in one piece, so that paths can be copied."""
    return _console(sys.stderr)


def _console(file: Any) -> Console:
    console = _Console(file=file, soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def print_json(kind: str, value: Mapping[str, Any]) -> None:
    """One JSON document on stdout: {"schema": 1, "kind": ..., ...value}. What is not finite becomes null."""
    document = _plain({"schema": JSON_SCHEMA, "kind": kind, **value})
    try:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosedError from error


def _plain(value: Any) -> Any:
    """As JSON knows it: mappings, sequences, numpy scalars and arrays, enums, paths."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, notes: str = ""
) -> None:
    """A titled table on stdout. Columns whose name ends in "|" are aligned right; empty ones are left out."""
    console = stdout()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    for index in shown:
        name = columns[index]
        justify: Any = "right" if name.endswith("|") else "left"
        table.add_column(Text(name.rstrip("|")), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[index]) for index in shown))
    console.print(Text(title, style="bold"))
    if shown and console.is_terminal:
        console.print(table)
    elif shown:
        with console.capture() as rendered:
            console.print(table)
        console.print("\n".join(line.rstrip() for line in rendered.get().splitlines()))
    if notes:
        console.print(notes)
    console.print()


def print_remote(line: str) -> None:
    """A line that a program on another machine printed; on stderr, without anything that steers a terminal."""
    stderr().print("".join(c if c.isprintable() else " " for c in line), markup=False, highlight=False)


def print_error(message: str, remedy: str = "") -> None:
    """What happened, and what to do about it: one line each."""
    console = stderr()
    console.print(Text.assemble(("error:", "bold red"), " ", " ".join(message.splitlines())))
    if remedy:
        console.print(Text.assemble(("remedy:", "bold"), " ", " ".join(remedy.splitlines())))
