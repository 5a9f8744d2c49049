"""Export, import, merge and diff: nothing is lost, the order never matters, malformed files change nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilers.lut import CalibrationRow, Failure, Lut, Network, Row
from profilers.lut_io import COLUMNS, SUFFIXES, describe, diff, export_lut, import_lut, merge
from toolchain.errors import BoardfitError, ConfigurationError, LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

METRIC = "latency_us"
STACK = Stack.of({"target": "cpu:litert", "clock": "1.8 GHz"})
OPS = [Operator.parse(f"conv2d 8x8x{c}->8x8x16 k3x3 s1x1 same relu int8") for c in range(1, 5)]
TIMES = [f"2026-01-0{day}T00:00:00.000000+00:00" for day in (1, 2)]

# Text that breaks careless formats: quotes, separators, every kind of line end, NUL, markup, other scripts.
nasty = st.one_of(
    st.sampled_from(
        ['"', ",", "\r", "\n", "\r\n", "\0", "'", "\\", "\ufeff", "\u2028", "=1+1", "NULL", "nan", ""]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
numbers = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
samples = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(tuple)
stacks = st.dictionaries(nasty, nasty, min_size=1, max_size=3).map(Stack.of)
times = st.sampled_from(TIMES)
subjects = st.one_of(
    st.sampled_from(OPS),
    st.builds(Network, nasty, st.lists(st.sampled_from(OPS), max_size=3).map(tuple)),
)


def rows_strategy(
    stack: st.SearchStrategy[Stack],
    subject: st.SearchStrategy[Operator | Network],
    metric: st.SearchStrategy[str],
    number: st.SearchStrategy[float],
    evidence: st.SearchStrategy[Evidence],
) -> st.SearchStrategy[list[Row]]:
    measured = st.builds(
        Measurement, metric, number, evidence, samples, st.booleans(),
        st.dictionaries(nasty, nasty, max_size=2), times,
    )  # fmt: skip
    failed = st.builds(Failure, metric, nasty, nasty, times)
    return st.lists(st.builds(Row, stack, subject, st.one_of(measured, failed)), max_size=6)


any_rows = rows_strategy(stacks, subjects, nasty.filter(bool), numbers, st.sampled_from([Evidence.HOST_WALL]))
# Few keys and few values, so that rows meet.
meeting = rows_strategy(
    st.just(STACK), st.sampled_from(OPS[:2]), st.just(METRIC), st.sampled_from([1.0, 2.0]),
    st.sampled_from([Evidence.HOST_WALL]),
)  # fmt: skip
mixed = rows_strategy(
    st.just(STACK), st.just(OPS[0]), st.just(METRIC), st.just(1.0), st.sampled_from(list(Evidence)[:2])
)
calibrations = st.lists(
    st.builds(
        CalibrationRow, stacks, nasty.filter(bool),
        st.dictionaries(nasty, st.one_of(numbers, nasty), max_size=3).map(json.dumps), times,
    ),
    max_size=3,
)  # fmt: skip


def lut_of(rows: list[Row], calibrations: list[CalibrationRow] | None = None) -> Lut:
    lut = Lut.in_memory()
    lut.absorb(rows, calibrations or ())
    return lut


def exact(lut: Lut) -> list[str]:
    """Everything in it, to the last bit: repr tells -0.0 from 0.0 and rounds no float."""
    rows, history = lut.contents()
    return [*map(repr, rows), *map(repr, history)]


@settings(max_examples=25, deadline=None)
@given(any_rows, calibrations)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trips_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[Row], history: list[CalibrationRow]
) -> None:
    path = tmp_path_factory.mktemp("io") / f"a{suffix}"
    with lut_of(rows, history) as lut, Lut.in_memory() as back, Lut.in_memory() as again:
        count = export_lut(lut, path)
        report = import_lut(back, path)
        assert report.added + report.calibrations == count
        assert exact(back) == exact(lut)
        assert [s.fingerprint for s in back.stacks()] == [
            s.fingerprint for s in lut.stacks() if s in {r.stack for r in rows} | {c.stack for c in history}
        ]
        first = path.read_bytes()
        import_lut(again, path)
        export_lut(again, path)
        assert path.read_bytes() == first
        assert import_lut(back, path).added == 0


def merged(*parts: list[Row]) -> list[str] | str:
    """Contents after merging in order, or why that is refused."""
    try:
        with lut_of(parts[0]) as target:
            for part in parts[1:]:
                with lut_of(part) as source:
                    merge(target, source)
            return exact(target)
    except LutError:
        return "refused"


@settings(max_examples=40, deadline=None)
@given(meeting, meeting, meeting)
def test_merging_is_commutative_associative_and_idempotent(a: list[Row], b: list[Row], c: list[Row]) -> None:
    assert merged(a, b) == merged(b, a)
    assert merged(a, a) == merged(a)
    assert merged(a, b, b, a) == merged(a, b)
    with lut_of(b) as bc, lut_of(c) as only_c, lut_of(a) as left:
        merge(bc, only_c)
        merge(left, bc)
        assert exact(left) == merged(a, b, c)


@settings(max_examples=25, deadline=None)
@given(mixed, mixed)
def test_merging_refuses_other_evidence_from_both_sides(a: list[Row], b: list[Row]) -> None:
    assert merged(a, b) == merged(b, a)
    evidence = {row.measurement.evidence for row in [*a, *b] if not row.failed}
    assert (merged(a, b) == "refused") == (len(evidence) > 1)


def measured(value: float, **changes: object) -> Measurement:
    made = Measurement(METRIC, value, Evidence.HOST_WALL, (value,), False, {}, TIMES[0])
    return replace(made, **changes)  # type: ignore[arg-type]


def test_merge_reports_what_it_did() -> None:
    mine = [Row(STACK, OPS[0], measured(1.0)), Row(STACK, OPS[1], Failure(METRIC, "no", "", TIMES[0]))]
    theirs = [
        Row(STACK, OPS[0], measured(2.0, taken_at=TIMES[1])),
        Row(STACK, OPS[1], measured(3.0)),
        Row(STACK, OPS[2], measured(4.0)),
    ]
    with lut_of(mine) as target, lut_of(theirs, [CalibrationRow(STACK, METRIC, "{}", TIMES[0])]) as source:
        report = merge(target, source)
        assert (report.added, report.replaced, report.kept, report.calibrations) == (1, 2, 0, 1)
        (conflict,) = report.conflicts
        assert (conflict.stands, conflict.dropped) == (2.0, 1.0)
        again = merge(target, source)
        assert (again.added, again.replaced, again.kept, again.calibrations) == (0, 0, 3, 0)
        assert again.conflicts == ()


def test_diff_gives_ratios_between_equal_evidence_only() -> None:
    cycles = replace(measured(5.0), evidence=Evidence.CYCLES_MEASURED)
    left = [
        Row(STACK, OPS[0], measured(2.0)),
        Row(STACK, OPS[1], measured(5.0)),
        Row(STACK, OPS[2], Failure(METRIC, "no", "", TIMES[0])),
        Row(STACK, OPS[3], measured(0.0)),
        Row(STACK, Network("same", ()), measured(7.0)),
        Row(STACK, Network("mine", ()), measured(7.0)),
    ]
    right = [
        Row(STACK, OPS[0], measured(3.0, unstable=True)),
        Row(STACK, OPS[1], cycles),
        Row(STACK, OPS[2], measured(1.0)),
        Row(STACK, OPS[3], measured(1.0)),
        Row(STACK, Network("same", ()), measured(7.0, taken_at=TIMES[1])),
    ]
    with lut_of(left) as a, lut_of(right) as b:
        found = {d.subject: d for d in diff(a, b)}
        assert found[OPS[0]].ratio == 1.5
        assert "2 -> 3 (unstable), x1.500" in describe(found[OPS[0]])
        assert found[OPS[1]].ratio is None
        assert found[OPS[1]].note == "different evidence: host_wall and cycles_measured"
        assert found[OPS[2]].note == "failed in the first"
        assert found[OPS[3]].note == "the first is 0"
        assert found[Network("mine", ())].note == "only in the first"
        assert Network("same", ()) not in found
        assert diff(a, a) == []


# Malformed files

GOOD = [
    Row(STACK, OPS[0], measured(1.5)),
    Row(STACK, OPS[1], Failure(METRIC, "no", "do this", TIMES[0])),
    Row(STACK, Network("net", (OPS[0],)), measured(9.0)),
]


def edited_csv(path: Path, column: str, text: str) -> None:
    """Write the good rows and change one cell of the second record, which is on line 3."""
    import csv

    with lut_of(GOOD) as lut:
        export_lut(lut, path)
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    lines[2][lines[0].index(column)] = text
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("value", "nan"), ("value", "-1"), ("value", "fast"), ("value", "inf"),
        ("evidence", "guessed"), ("evidence", ""), ("status", "perhaps"), ("status", "failed"),
        ("unstable", "maybe"), ("samples", "[1, NaN]"), ("samples", "[1,"), ("samples", "[true]"),
        ("samples", "7"), ("stack", "0000000000000000"), ("stack_fields", "[]"), ("stack_fields", '{"a": 1}'),
        ("details", "{"), ("details", '{"a": 1}'), ("taken_at", "noon"), ("taken_at", ""), ("subject", "dog"),
        ("key", "conv9d 1->1 int8"), ("metric", ""), ("record", "thing"), ("operators", "[1]"),
        ("samples", "[" * 100_000), ("value", "1" * 400),
    ],
)  # fmt: skip
def test_a_malformed_csv_names_the_line_and_changes_nothing(tmp_path: Path, column: str, text: str) -> None:
    path = tmp_path / "bad.csv"
    edited_csv(path, column, text)
    with Lut.in_memory() as lut:
        with pytest.raises(LutError, match=r"bad\.csv, line 3: "):
            import_lut(lut, path)
        assert len(lut) == 0
        assert lut.stacks() == []


def mangled(change: Callable[[bytes], bytes], path: Path) -> None:
    with lut_of(GOOD) as lut:
        export_lut(lut, path)
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("a.csv", lambda d: b"", "is empty"),
        ("a.csv", lambda d: d.replace(b"metric", b"metrik", 1), "line 1: .*metric, metrik"),
        ("a.csv", lambda d: d.replace(b"metric", b"reason", 1), "line 1: .*metric"),
        ("a.csv", lambda d: d + b"row,1\r\n", "line 5: 2 cells"),
        ("a.csv", lambda d: d + b'"row', "line 5: "),
        ("a.csv", lambda d: d + b"\xff\xfe", "utf-8"),
        ("a.json", lambda d: d[:-3], "a.json: "),
        ("a.json", lambda d: b"[]", "is not a LUT in JSON"),
        ("a.json", lambda d: b'{"format": "boardfit-lut", "version": 2, "records": []}', "format version 2"),
        ("a.json", lambda d: b"[" * 100_000, "a.json: "),
        ("a.json", lambda d: d.replace(b'"value": 1.5', b'"value": NaN'), "NaN is not a finite number"),
        ("a.json", lambda d: d.replace(b'"value": 1.5', b'"value": "1.5"'), "record [123]: value is '1.5'"),
        ("a.json", lambda d: d.replace(b'"value": 1.5, ', b""), "record [123]: missing.* value"),
        ("a.json", lambda d: d.replace(b'"record": "row"', b'"record": 3', 1), "record 1: record is '3'"),
        ("a.json", lambda d: b'{"format": "boardfit-lut", "version": 1, "records": [1]}', "record 1: is not"),
        ("a.parquet", lambda d: d[: len(d) // 2], "is not a Parquet file"),
        ("a.parquet", lambda d: b"PAR1", "is not a Parquet file"),
    ],
)
def test_mangled_files_are_refused(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], why: str
) -> None:
    mangled(change, tmp_path / name)
    with Lut.in_memory() as lut:
        with pytest.raises(LutError, match=why):
            import_lut(lut, tmp_path / name)
        assert len(lut) == 0


def test_parquet_from_another_program_is_checked_too(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    with lut_of(GOOD) as lut:
        export_lut(lut, path)
    table = pq.read_table(path)
    at = table.column_names.index("value")
    pq.write_table(table.set_column(at, "value", pa.array([1.0, -2.0, 3.0])), path)
    with Lut.in_memory() as lut, pytest.raises(LutError, match=r"record [123]: "):
        import_lut(lut, path)
    pq.write_table(table.drop_columns(["reason"]), path)
    with Lut.in_memory() as lut, pytest.raises(LutError, match=r"record 1: .*reason"):
        import_lut(lut, path)


def test_a_spreadsheets_marks_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    mangled(lambda d: b"\xef\xbb\xbf" + d.replace(b",false,", b",FALSE,").replace(b"\r\n", b"\n"), path)
    with Lut.in_memory() as lut:
        assert import_lut(lut, path).added == 3


def test_unknown_suffixes_and_missing_files(tmp_path: Path) -> None:
    with Lut.in_memory() as lut:
        with pytest.raises(ConfigurationError, match=r"\.csv, \.json, \.parquet"):
            export_lut(lut, tmp_path / "a.xlsx")
        with pytest.raises(ConfigurationError, match="check the path"):
            import_lut(lut, tmp_path / "none.csv")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with Lut.in_memory() as lut:
        with pytest.raises(ConfigurationError, match=r"boardfit\[parquet\]"):
            export_lut(lut, tmp_path / "a.parquet")
        with pytest.raises(ConfigurationError, match=r"boardfit\[parquet\]"):
            import_lut(lut, tmp_path / "b.parquet")


def test_an_export_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Lut.in_memory() as lut, pytest.raises(BoardfitError, match="cannot write"):
        export_lut(lut, tmp_path / "file" / "a.csv")


def test_exported_files_have_the_documented_columns(tmp_path: Path) -> None:
    with lut_of(GOOD) as lut:
        export_lut(lut, tmp_path / "a.csv")
        export_lut(lut, tmp_path / "a.json")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[0] == ",".join(COLUMNS)
    value = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [list(record) for record in value["records"]] == [list(COLUMNS)] * 3
