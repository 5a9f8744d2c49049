"""Everything that is printed: results on stdout, progress and errors on stderr, plain text off a terminal."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

JSON_SCHEMA = 1  # version of every --json document's shape
_ENDLESS = 100_000  # columns of what is not a terminal: nothing is cropped
_WIDTH = 100  # columns that prose and tables have there, where their words allow it


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


@contextmanager
def working(what: str = "starting") -> Iterator[None]:
    """Say at once, on a terminal, that something goes on, for as long as it does; elsewhere nothing."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(what, spinner="line"):
        yield


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
    """A titled table on stdout. Columns whose name ends in "|" hold figures: they are aligned right and stay whole. The
    others are folded at words where the table would be too wide; empty ones are left out.
    """
    console = stdout()
    width = console.width if console.is_terminal else _WIDTH
    shown = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    names = [columns[index].rstrip("|") for index in shown]
    figures = [columns[index].endswith("|") for index in shown]
    cells = [[row[index] for index in shown] for row in rows]
    widths = _fitted(names, figures, cells, width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name, figure, wide in zip(names, figures, widths, strict=True):
        justify: Any = "right" if figure else "left"
        heading = "\n".join(line.strip() for line in wrapped(name, wide).splitlines())
        table.add_column(Text(heading), justify=justify, no_wrap=True)
    for row in cells:
        table.add_row(*(Text(wrapped(cell, wide)) for cell, wide in zip(row, widths, strict=True)))
    console.print(Text(title if console.is_terminal else wrapped(title, width), style="bold"))
    if shown:
        # What does not fit by then is as wide as its words: the terminal breaks its lines, and nothing is lost.
        console.width = max(console.width, _width(widths))
        with console.capture() as rendered:
            console.print(table)
        lines = rendered.get().splitlines()
        console.soft_wrap = True
        console.print(Text.from_ansi("\n".join(line.rstrip() for line in lines)))
    if notes:
        print_prose(notes)
    console.print()


def _fitted(
    names: Sequence[str], figures: Sequence[bool], cells: Sequence[Sequence[str]], width: int
) -> list[int]:
    """Widths of columns that keep the table within `width` where their words and figures allow it."""
    texts = [[name, *(row[index] for row in cells)] for index, name in enumerate(names)]
    widths = [_widest(column) for column in texts]
    least = [
        max(_widest(column[1:]), _longest_word(column[0])) if figure else max(map(_longest_word, column))
        for figure, column in zip(figures, texts, strict=True)
    ]
    while _width(widths) > width:
        spare = [index for index in range(len(widths)) if widths[index] > least[index]]
        if not spare:
            break
        widths[max(spare, key=widths.__getitem__)] -= 1
    return widths


def _width(columns: Sequence[int]) -> int:
    return sum(columns) + 2 * (len(columns) - 1)  # two spaces between two


def print_prose(text: str) -> None:
    """Sentences on stdout; long ones continue below, indented, also off a terminal."""
    console = stdout()
    console.print(text if console.is_terminal else wrapped(text, _WIDTH))


def wrapped(text: str, width: int) -> str:
    """Each line folded at words; what has no spaces (a path) stays in one piece."""
    return "\n".join(
        textwrap.fill(
            line, width, subsequent_indent=" " * (len(line) - len(line.lstrip())) + "  ",
            break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
        )
        if len(line) > width
        else line
        for line in text.splitlines()
    )  # fmt: skip


def _widest(cells: Sequence[str]) -> int:
    return max(len(line) for cell in cells for line in (cell.splitlines() or [""]))


def _longest_word(cell: str) -> int:
    """With the indent that it has where it continues a line."""
    lines = ((len(line) - len(line.lstrip()), line.split()) for line in cell.splitlines())
    return max(
        (
            indent + len(word) + (2 if number else 0)
            for indent, words in lines
            for number, word in enumerate(words)
        ),
        default=0,
    )


def print_remote(line: str) -> None:
    """A line that a program on another machine printed; on stderr, without anything that steers a terminal."""
    stderr().print("".join(c if c.isprintable() else " " for c in line), markup=False, highlight=False)


def print_error(message: str, remedy: str = "") -> None:
    """What happened, and what to do about it: one line each."""
    console = stderr()
    console.print(Text.assemble(("error:", "bold red"), " ", " ".join(message.splitlines())))
    if remedy:
        console.print(Text.assemble(("remedy:", "bold"), " ", " ".join(remedy.splitlines())))
