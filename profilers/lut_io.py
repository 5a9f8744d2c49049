"""A LUT in and out of CSV, JSON and Parquet without loss, merged with another, compared with another.

All three formats hold the same flat records (`COLUMNS`): one per row, failures included, and one per
calibration. Each record carries its whole stack, so that a file can be cut, filtered and joined by other
programs and still be read back. Formats: docs/lut.md.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from profilers.lut import Lut
from profilers.lut_rows import (
    CalibrationRow,
    Failure,
    MergeReport,
    Network,
    Row,
    Subject,
    encode,
    encode_calibration,
    encode_stack,
    parse_operator,
    subject_key,
    subject_text,
)
from toolchain.errors import BoardfitError, ConfigurationError, LutError
from toolchain.files import write_atomic
from toolchain.measurement import Evidence, Measurement, Stack

FORMAT: Final = "boardfit-lut"
FORMAT_VERSION: Final = 1
SUFFIXES: Final = (".csv", ".json", ".parquet")

# Name -> what it holds. "json" is an object or a list; CSV writes it as JSON text, Parquet objects as JSON text.
COLUMNS: Final[dict[str, str]] = {
    "record": "text",
    "stack": "text",
    "stack_fields": "object",
    "subject": "text",
    "key": "text",
    "network": "text",
    "operators": "texts",
    "metric": "text",
    "status": "text",
    "value": "number",
    "evidence": "text",
    "unstable": "flag",
    "details": "object",
    "reason": "text",
    "remedy": "text",
    "taken_at": "text",
    "samples": "numbers",
    "calibration": "text",
}
_EMPTY: Final[dict[str, Any]] = {
    "text": "", "object": {}, "texts": [], "numbers": [], "number": None, "flag": False,
}  # fmt: skip

Record = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """A row that two LUTs do not agree on.

    Attributes:
        left, right: what each has; None where it has nothing.
        ratio: right value / left value; None where there is no such thing.
        note: why there is no ratio; empty when there is one.
    """

    stack: Stack
    subject: Subject
    metric: str
    left: Measurement | Failure | None
    right: Measurement | Failure | None
    ratio: float | None
    note: str = ""


def export_lut(lut: Lut, path: Path) -> int:
    """Write everything to a file, atomically; the same contents give the same bytes.

    Args:
        path: the suffix says the format: .csv, .json or .parquet.

    Returns:
        Number of records: rows and calibrations.

    Raises:
        ConfigurationError: an unknown suffix, or Parquet without pyarrow.
        LutError: the LUT is corrupt.
        BoardfitError: the file cannot be written.
    """
    write = _format(path, {".csv": _write_csv, ".json": _write_json, ".parquet": _write_parquet})
    rows, calibrations = lut.contents()
    records = [*map(_row_record, rows), *map(_calibration_record, calibrations)]
    write_atomic(path, write(records))
    return len(records)


def import_lut(lut: Lut, path: Path) -> MergeReport:
    """Merge a file that `export_lut` wrote (or another program, in the same columns) into a LUT: all or nothing.

    Raises:
        LutError: the file is malformed; the message has the line (CSV) or the number of the record, counted
            from 1. Or a row is of different evidence than the one in the LUT. Nothing is written then.
        ConfigurationError: an unknown suffix, no such file, or Parquet without pyarrow.
    """
    read = _format(path, {".csv": _read_csv, ".json": _read_json, ".parquet": _read_parquet})
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", remedy="check the path") from error
    rows: list[Row] = []
    calibrations: list[CalibrationRow] = []
    for place, record in read(data, str(path)):
        with _at(f"{path}, {place}"):
            if set(record) != set(COLUMNS):
                raise _odd_columns(record)
            if record["record"] == "calibration":
                calibrations.append(_read_calibration(record))
            else:
                rows.append(_read_row(record))
    return lut.absorb(rows, calibrations)


def merge(target: Lut, source: Lut) -> MergeReport:
    """Put everything of one LUT into another: all or nothing.

    The same contents follow whichever is merged into which, in whatever order, however often.

    Raises:
        LutError: both have a row of different evidence under one key; nothing is merged then.
    """
    return target.absorb(*source.contents())


def diff(left: Lut, right: Lut) -> list[Difference]:
    """Rows that differ in value, evidence, stability or failure, or that only one has; in a fixed order.

    When a row was measured again with the same result, nothing differs. A ratio is only given between
    measurements of the same evidence.
    """
    ours = {(row.stack, row.subject, row.metric): row.outcome for row in left.rows()}
    theirs = {(row.stack, row.subject, row.metric): row.outcome for row in right.rows()}
    keys = sorted({*ours, *theirs}, key=lambda k: (k[0].fingerprint, *subject_key(k[1]), k[2]))
    pairs = [(key, ours.get(key), theirs.get(key)) for key in keys]
    return [
        Difference(*key, one, other, *_ratio(one, other))
        for key, one, other in pairs
        if _essence(one) != _essence(other)
    ]


def _essence(outcome: Measurement | Failure | None) -> tuple[Any, ...] | None:
    if isinstance(outcome, Measurement):
        return (outcome.value, outcome.evidence, outcome.unstable)
    return None if outcome is None else (outcome.reason,)


def _ratio(
    left: Measurement | Failure | None, right: Measurement | Failure | None
) -> tuple[float | None, str]:
    if left is None or right is None:
        return None, "only in the " + ("second" if left is None else "first")
    if isinstance(left, Failure) or isinstance(right, Failure):
        return None, "failed in " + " and ".join(
            name for name, o in (("the first", left), ("the second", right)) if isinstance(o, Failure)
        )
    if left.evidence != right.evidence:
        return None, f"different evidence: {left.evidence} and {right.evidence}"
    if left.value == 0:
        return None, "the first is 0"
    return right.value / left.value, ""


# Records


def _record(**values: Any) -> Record:
    return {name: values.get(name, _EMPTY[kind]) for name, kind in COLUMNS.items()}


def _row_record(row: Row) -> Record:
    kind, key = subject_key(row.subject)
    outcome = row.outcome
    record = _record(
        record="row", stack=row.stack.fingerprint, stack_fields=row.stack.as_dict(), subject=kind, key=key,
        metric=row.metric, taken_at=outcome.taken_at, status="failed" if row.failed else "ok",
    )  # fmt: skip
    if isinstance(row.subject, Network):
        record |= {"network": row.subject.name, "operators": [op.signature for op in row.subject.operators]}
    if isinstance(outcome, Failure):
        return record | {"reason": outcome.reason, "remedy": outcome.remedy}
    return record | {
        "value": outcome.value, "evidence": outcome.evidence.value, "unstable": outcome.unstable,
        "details": dict(outcome.details), "samples": list(outcome.samples),
    }  # fmt: skip


def _calibration_record(row: CalibrationRow) -> Record:
    return _record(
        record="calibration", stack=row.stack.fingerprint, stack_fields=row.stack.as_dict(),
        metric=row.metric, calibration=row.text, taken_at=row.created_at,
    )  # fmt: skip


def _read_stack(record: Record) -> Stack:
    stack = Stack.of(record["stack_fields"])
    encode_stack(stack)
    if stack.fingerprint != record["stack"]:
        raise LutError(
            f"the fields of stack {record['stack']} belong to {stack.fingerprint}",
            remedy="fields of a stack cannot be edited; measure on the other stack instead",
        )
    if not record["taken_at"]:
        raise LutError("taken_at is empty", remedy="write a time, e.g. 2026-01-31T12:00:00Z")
    return stack


def _read_calibration(record: Record) -> CalibrationRow:
    row = CalibrationRow(_read_stack(record), record["metric"], record["calibration"], record["taken_at"])
    encode_calibration(row)
    return row


def _read_row(record: Record) -> Row:
    for column, allowed in _CHOICES.items():
        if record[column] not in allowed:
            raise LutError(f"{column} is {record[column]!r}", remedy=f"use one of {', '.join(allowed)}")
    subject: Subject
    if record["subject"] == "operator":
        subject = parse_operator(record["key"])
    else:
        subject = Network(record["network"], tuple(parse_operator(text) for text in record["operators"]))
        if subject.fingerprint != record["key"]:
            raise LutError(
                f"network {record['network']!r} has key {subject.fingerprint}, not {record['key']!r}"
            )
    outcome: Measurement | Failure
    failed = record["status"] == "failed"
    if failed != (record["value"] is None) or failed != (record["evidence"] == ""):
        raise LutError("a row has value and evidence exactly when its status is ok")
    if failed:
        outcome = Failure(record["metric"], record["reason"], record["remedy"], record["taken_at"])
    else:
        outcome = Measurement(
            record["metric"], record["value"], Evidence(record["evidence"]), tuple(record["samples"]),
            record["unstable"], record["details"], record["taken_at"],
        )  # fmt: skip
    row = Row(_read_stack(record), subject, outcome)
    encode(row)
    return row


_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "record": ("row", "calibration"),
    "subject": ("operator", "network"),
    "status": ("ok", "failed"),
    "evidence": ("", *Evidence),
}


def _typed(column: str, value: Any) -> Any:
    """A value as JSON or Parquet give it, when it is what the column holds; else LutError."""
    kind = COLUMNS.get(column, "")
    number = (int, float)
    fits = {
        "text": lambda: isinstance(value, str),
        "flag": lambda: isinstance(value, bool),
        "number": lambda: value is None or (isinstance(value, number) and not isinstance(value, bool)),
        "object": lambda: isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
        "texts": lambda: isinstance(value, list) and all(isinstance(v, str) for v in value),
        "numbers": lambda: isinstance(value, list) and all(type(v) in number for v in value),
    }
    if kind in fits and not fits[kind]():
        raise LutError(f"{column} is {str(value)[:60]!r}, which is not {_MEANINGS[kind]}")
    return value


_MEANINGS: Final = {
    "text": "text", "flag": "true or false", "number": "a number", "object": "an object of texts",
    "texts": "a list of texts", "numbers": "a list of numbers",
}  # fmt: skip


def _odd_columns(names: Iterable[str]) -> LutError:
    names = list(names)
    odd = {*names} ^ {*COLUMNS} or {name for name in names if names.count(name) > 1}
    return LutError(
        f"missing, unknown or repeated columns: {', '.join(sorted(odd))}",
        remedy="see docs/lut.md for the columns",
    )


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Errors inside say where in the file they are."""
    try:
        yield
    except BoardfitError as error:
        raise LutError(f"{place}: {error.message}", remedy=error.remedy) from error
    except (ValueError, TypeError, RecursionError, csv.Error) as error:
        raise LutError(f"{place}: {error}", remedy="see docs/lut.md for the format") from error


def _format(path: Path, choices: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if path.suffix.lower() not in choices:
        raise ConfigurationError(
            f"cannot tell the format of {path.name!r}",
            remedy=f"use a name that ends in {', '.join(SUFFIXES)}",
        )
    return choices[path.suffix.lower()]


def _json_value(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a finite number")

    return json.loads(text, parse_constant=refuse)


# CSV: RFC 4180, UTF-8. Floats in the shortest form that reads back exactly.


def _write_csv(records: Iterable[Record]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([_to_cell(kind, record[name]) for name, kind in COLUMNS.items()] for record in records)
    return text.getvalue().encode()


def _to_cell(kind: str, value: Any) -> str:
    if kind == "text":
        return str(value)
    if kind == "number":
        return "" if value is None else repr(value)
    return json.dumps(value, sort_keys=True)


def _from_cell(column: str, text: str) -> Any:
    kind = COLUMNS.get(column, "")
    if kind == "number":
        return float(text) if text else None
    if kind == "flag":
        # Spreadsheets write TRUE.
        return _typed(column, {"true": True, "false": False}.get(text.lower(), text))
    return _typed(column, _json_value(text)) if kind in ("object", "texts", "numbers") else text


def _read_csv(data: bytes, name: str) -> Iterator[tuple[str, Record]]:
    with _at(name):
        # Spreadsheets put a byte order mark in front.
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    limit = csv.field_size_limit(2**31 - 1)  # samples make long cells; the limit is global, so it is put back
    try:
        header: list[str] | None = None
        while True:
            place = f"line {reader.line_num + 1}"
            with _at(f"{name}, {place}"):
                cells = next(reader, None)
                if cells is None:
                    break
                if header is None:
                    header = cells
                    if sorted(header) != sorted(COLUMNS):
                        raise _odd_columns(header)
                    continue
                if len(cells) != len(header):
                    raise LutError(f"{len(cells)} cells, the first line has {len(header)}")
                record = {
                    column: _from_cell(column, cell) for column, cell in zip(header, cells, strict=True)
                }
            yield place, record
    finally:
        csv.field_size_limit(limit)
    if header is None:
        raise LutError(f"{name} is empty", remedy="export it again")


# JSON: an envelope with the format's name and version, and one record per line.


def _write_json(records: Iterable[Record]) -> bytes:
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    head = json.dumps({"format": FORMAT, "version": FORMAT_VERSION})[:-1]
    return f'{head}, "records": [\n{lines}\n]}}\n'.encode()


def _read_json(data: bytes, name: str) -> Iterator[tuple[str, Record]]:
    with _at(name):
        value = _json_value(data.decode())
    if (
        not isinstance(value, dict)
        or value.get("format") != FORMAT
        or not isinstance(value.get("records"), list)
    ):
        raise LutError(f"{name} is not a LUT in JSON: it has no format {FORMAT!r} or no list of records")
    if value.get("version") != FORMAT_VERSION:
        raise LutError(
            f"{name} has format version {value.get('version')!r}, this boardfit reads {FORMAT_VERSION}",
            remedy="use the version of boardfit that wrote it, or update",
        )
    for number, record in enumerate(value["records"], 1):
        place = f"record {number}"
        with _at(f"{name}, {place}"):
            if not isinstance(record, dict):
                raise LutError("is not an object")
            typed = {column: _typed(column, cell) for column, cell in record.items()}
        yield place, typed


# Parquet: the same columns with their own types; objects are JSON text.


def _write_parquet(records: Iterable[Record]) -> bytes:
    pa, parquet = _pyarrow()
    types = {
        "text": pa.string(), "flag": pa.bool_(), "number": pa.float64(), "object": pa.string(),
        "texts": pa.list_(pa.string()), "numbers": pa.list_(pa.float64()),
    }  # fmt: skip
    schema = pa.schema(
        [pa.field(name, types[kind]) for name, kind in COLUMNS.items()],
        metadata={"format": FORMAT, "version": str(FORMAT_VERSION)},
    )
    flat = [
        {n: json.dumps(r[n], sort_keys=True) if k == "object" else r[n] for n, k in COLUMNS.items()}
        for r in records
    ]
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(flat, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _read_parquet(data: bytes, name: str) -> Iterator[tuple[str, Record]]:
    pa, parquet = _pyarrow()
    try:
        records = parquet.read_table(pa.BufferReader(data)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise LutError(f"{name} is not a Parquet file: {error}", remedy="export it again") from error
    for number, record in enumerate(records, 1):
        place = f"record {number}"
        with _at(f"{name}, {place}"):
            typed = {
                column: _typed(column, _json_value(cell) if COLUMNS.get(column) == "object" else cell)
                for column, cell in record.items()
            }
        yield place, typed


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError(
            "Parquet files need pyarrow, which is not installed", remedy="pip install 'boardfit[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def describe(difference: Difference) -> str:
    """One line about a difference, for people: what it is of, both values, ratio or why there is none."""

    def text(outcome: Measurement | Failure | None) -> str:
        if isinstance(outcome, Measurement):
            return f"{outcome.value:g}{' (unstable)' if outcome.unstable else ''}"
        return "-" if outcome is None else "failed"

    tail = f"x{difference.ratio:.3f}" if difference.ratio is not None else difference.note
    what = f"{difference.metric} of {subject_text(difference.subject)} on {difference.stack.label}"
    return f"{what}: {text(difference.left)} -> {text(difference.right)}, {tail}"
