"""`boardfit lut`: look into tables, bring them out and together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolchain.cli.console import print_json, print_prose, print_table, stdout
from toolchain.cli.options import Json
from toolchain.errors import ConfigurationError

if TYPE_CHECKING:
    from profilers.lut_io import Difference

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)

Table = Annotated[Path, typer.Argument(help="A table, e.g. lut.sqlite.")]


@app.command()
def show(
    table: Table = Path("lut.sqlite"),
    metric: Annotated[str, typer.Option(help="Only this metric.")] = "",
    stack: Annotated[str, typer.Option(help="Only stacks whose fingerprint or fields contain this.")] = "",
    match: Annotated[str, typer.Option(help="Only operators or networks that contain this.")] = "",
    failures: Annotated[bool, typer.Option("--failures", help="Only failures.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="At most so many rows; 0 for all.")] = 50,
    as_json: Json = False,
) -> None:
    """Print rows of a table."""
    from profilers.lut import Lut
    from profilers.lut_rows import subject_text
    from toolchain.cli.show import tables

    with Lut.open(table, read_only=True) as lut:
        rows = [
            row
            for row in lut.rows(metric=metric or None)
            if (not stack or stack in row.stack.fingerprint or stack in str(row.stack.fields))
            and (not match or match in subject_text(row.subject))
            and (not failures or row.failed)
        ]
        stacks, calibrations = lut.stacks(), lut.calibration_history()
    shown = rows[:limit] if limit else rows
    if as_json:
        print_json(
            "lut show",
            {
                "stacks": {s.fingerprint: s.as_dict() for s in stacks},
                "rows": [tables.row_json(row) for row in shown],
                "total": len(rows),
                "calibrations": [
                    {
                        "stack": c.stack.fingerprint,
                        "metric": c.metric,
                        "created_at": c.created_at,
                        "text": c.text,
                    }
                    for c in calibrations
                ],
            },
        )
        return
    for one in stacks:
        stdout().print(f"stack {one.fingerprint}: {one.label}")
    cells = [tables.row_cells(row) for row in shown]
    same = [
        i for i in (0, 2, 4) if cells and len({row[i] for row in cells}) == 1
    ]  # said once, above the rows
    title = ", ".join([f"{table}: {len(shown)} of {len(rows)} rows", *(cells[0][i] for i in same if i)])
    kept = [i for i in range(len(tables.COLUMNS)) if i not in same]
    print_table(title, [tables.COLUMNS[i] for i in kept], [[row[i] for i in kept] for row in cells])
    for calibration in calibrations:
        print_prose(tables.calibration_line(calibration))


@app.command("export")
def export_command(
    table: Table,
    file: Annotated[Path, typer.Argument(help="Where to: .csv, .json or .parquet.")],
) -> None:
    """Write a whole table to a file, lossless."""
    from profilers.lut import Lut
    from profilers.lut_io import export_lut

    with Lut.open(table, read_only=True) as lut:
        count = export_lut(lut, file)
    stdout().print(f"wrote {count} records to {file}")


@app.command("merge")
def merge_command(
    table: Table,
    sources: Annotated[list[Path], typer.Argument(help="Tables, or files that `lut export` wrote.")],
    as_json: Json = False,
) -> None:
    """Add the rows of other tables or exported files. The order makes no difference."""
    from profilers.lut import Lut
    from profilers.lut_io import import_lut, merge

    reports = {}
    for source in sources:
        if source.resolve() == table.resolve():
            raise ConfigurationError(f"{source} cannot be merged into itself", remedy="name another table")
        if not source.exists():  # before the table is made
            raise ConfigurationError(f"there is no file {source}", remedy="check the path")
    with Lut.open(table) as lut:
        for source in sources:
            if source.suffix in (".csv", ".json", ".parquet"):
                reports[str(source)] = import_lut(lut, source)
            else:
                with Lut.open(source, read_only=True) as other:
                    reports[str(source)] = merge(lut, other)
    if as_json:
        print_json(
            "lut merge",
            {
                "sources": {
                    name: {
                        "added": r.added,
                        "replaced": r.replaced,
                        "kept": r.kept,
                        "conflicts": len(r.conflicts),
                    }
                    for name, r in reports.items()
                }
            },
        )
        return
    for name, report in reports.items():
        stdout().print(
            f"{name}: {report.added} added, {report.replaced} replaced, {report.kept} kept, "
            f"{len(report.conflicts)} with another stable value, {report.calibrations} calibrations",
            markup=False,
        )


@app.command("diff")
def diff_command(
    left: Annotated[Path, typer.Argument(help="A table.")],
    right: Annotated[Path, typer.Argument(help="Another table.")],
    tolerance: Annotated[float, typer.Option(min=0, help="Hide rows within so many per cent.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Print the rows on which two tables differ."""
    from profilers.lut import Lut
    from profilers.lut_io import describe, diff
    from toolchain.cli.show import tables

    with Lut.open(left, read_only=True) as a, Lut.open(right, read_only=True) as b:
        found = [d for d in diff(a, b) if not _within(d, tolerance)]
    if as_json:
        print_json("lut diff", {"differences": [tables.difference_json(d) for d in found]})
        return
    for difference in found:
        stdout().print(describe(difference))
    stdout().print("1 row differs" if len(found) == 1 else f"{len(found)} rows differ")


def _within(difference: Difference, percent: float) -> bool:
    return difference.ratio is not None and abs(difference.ratio - 1) * 100 <= percent and percent > 0
