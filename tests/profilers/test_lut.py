"""The LUT: what is stored, which row stands, what is refused, and files that are not LUTs."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from profilers.lut import CalibrationRow, Failure, Lut, Network, Row
from profilers.lut_file import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, table_columns
from profilers.lut_io import COLUMNS
from toolchain.errors import BoardfitError, LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

STACK = Stack.of({"target": "cpu:litert", "runtime": "litert", "threads": 1})
OTHER = Stack.of({"target": "cpu:litert", "runtime": "litert", "threads": 4})
OPS = [Operator.parse(f"conv2d 8x8x{c}->8x8x16 k3x3 s1x1 same relu int8") for c in range(1, 9)]
METRIC = "latency_us"


def us(value: float, **changes: object) -> Measurement:
    made = Measurement(
        METRIC,
        value,
        Evidence.HOST_WALL,
        (value, value * 1.1),
        False,
        {"ratio": "0.31"},
        "2026-03-01T10:00:00Z",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_what_was_put_is_read_back_exactly(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    with Lut.open(tmp_path / "a.lut") as lut:
        assert lut.put(STACK, OPS[0], us(value, samples=(value, 1e-308, -0.0, 7.0)))
    with Lut.open(tmp_path / "a.lut") as lut:
        row = lut.get(STACK, OPS[0], METRIC)
        assert row is not None
        assert row == Row(
            STACK,
            OPS[0],
            us(value, samples=(value, 1e-308, -0.0, 7.0), taken_at="2026-03-01T10:00:00.000000+00:00"),
        )
        assert row.value.hex() == value.hex()
        assert math.copysign(1, row.measurement.samples[2]) == -1
        assert lut.get(OTHER, OPS[0], METRIC) is None
        assert lut.get(STACK, OPS[1], METRIC) is None
        assert lut.get(STACK, OPS[0], "ram_bytes") is None
        assert lut.stacks() == [STACK]
        assert len(lut) == 1


def test_failures_are_rows_with_a_reason_and_a_remedy() -> None:
    with Lut.in_memory() as lut:
        assert lut.put_failure(STACK, OPS[0], METRIC, "the engine refuses it", "use another kernel")
        row = lut.get(STACK, OPS[0], METRIC)
        assert row is not None
        assert row.failed
        assert isinstance(row.outcome, Failure)
        assert row.outcome.reason == "the engine refuses it"
        with pytest.raises(LutError, match=r"the engine refuses it.*use another kernel"):
            _ = row.value
        assert lut.missing(STACK, OPS[:2], METRIC) == [OPS[1]]
        assert lut.missing(STACK, OPS[:2], METRIC, retry_failures=True) == OPS[:2]
        assert OPS[0] not in lut.table(STACK, METRIC).values


@pytest.mark.parametrize(
    ("first", "second", "stands"),
    [
        ("failure", "unstable", "unstable"),
        ("failure", "stable", "stable"),
        ("unstable", "stable", "stable"),
        ("stable", "failure", "stable"),
        ("stable", "unstable", "stable"),
        ("unstable", "failure", "unstable"),
        ("stable", "newer", "newer"),
        ("newer", "stable", "newer"),
    ],
)
def test_which_row_stands(first: str, second: str, stands: str) -> None:
    outcomes: dict[str, Measurement | Failure] = {
        "failure": Failure(METRIC, "no", taken_at="2026-12-01T00:00:00Z"),
        "unstable": us(2.0, unstable=True, taken_at="2026-11-01T00:00:00Z"),
        "stable": us(3.0, taken_at="2026-01-01T00:00:00Z"),
        "newer": us(4.0, taken_at="2026-01-02T00:00:00Z"),
    }
    with Lut.in_memory() as lut:
        assert lut.put_many([Row(STACK, OPS[0], outcomes[first])]) == 1
        assert lut.put_many([Row(STACK, OPS[0], outcomes[second])]) == (1 if stands == second else 0)
        row = lut.get(STACK, OPS[0], METRIC)
        assert row is not None
        expected = outcomes[stands]
        assert row.failed == isinstance(expected, Failure)
        assert row.failed or row.value == expected.value  # type: ignore[union-attr]
        assert len(lut) == 1


def test_a_report_tells_about_conflicting_stable_values() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[0], us(2.0))
        report = lut.absorb([Row(STACK, OPS[0], us(3.0, taken_at="2026-04-01T00:00:00Z"))])
        assert (report.added, report.replaced, report.kept) == (0, 1, 0)
        (conflict,) = report.conflicts
        assert (conflict.stands, conflict.dropped, conflict.subject) == (3.0, 2.0, OPS[0])
        older = lut.absorb([Row(STACK, OPS[0], us(1.0, taken_at="2025-04-01T00:00:00Z"))])
        assert (older.kept, older.conflicts[0].stands, older.conflicts[0].dropped) == (1, 3.0, 1.0)


@pytest.mark.parametrize(
    ("measurement", "why"),
    [
        (us(math.nan), "is nan"),
        (us(math.inf), "is inf"),
        (us(-0.5), r"is -0\.5; a cost cannot be negative"),
        (us(1.0, samples=(1.0, math.nan)), "a sample of .* is nan"),
        (replace(us(1.0), value="fast"), "not a number"),
        (us(1.0, details={"a": 1}), "must be text"),
        (us(1.0, details={"a": "\ud800"}), "not valid Unicode"),
        (us(1.0, taken_at="yesterday"), "'yesterday' is not a time"),
        (us(1.0, metric=""), "has no metric"),
        (us(1.0, metric="\udfff"), "not valid Unicode"),
    ],
)
def test_impossible_values_are_refused_and_named(measurement: Measurement, why: str) -> None:
    with Lut.in_memory() as lut:
        with pytest.raises(LutError, match=why):
            lut.put_many([Row(STACK, OPS[1], us(1.0)), Row(STACK, OPS[0], measurement)])
        assert len(lut) == 0


def test_a_stack_with_unsorted_fields_is_refused() -> None:
    with Lut.in_memory() as lut, pytest.raises(LutError, match=r"use Stack\.of"):
        lut.put(Stack((("b", "1"), ("a", "2"))), OPS[0], us(1.0))


def test_metrics_without_a_known_unit_are_fine() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[0], us(12.0, metric="cache misses"))
        assert lut.table(STACK, "cache misses").values == {OPS[0]: 12.0}


def test_an_empty_time_becomes_now_and_other_zones_become_utc() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[0], us(1.0, taken_at=""))
        lut.put(STACK, OPS[1], us(1.0, taken_at="2026-03-01T12:30:00+02:00"))
        times = [row.outcome.taken_at for row in lut.rows()]
        assert times[0].endswith("+00:00")
        assert times[1] == "2026-03-01T10:30:00.000000+00:00"


def test_different_evidence_never_shares_a_row_or_a_table() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[0], us(1.0))
        with pytest.raises(LutError, match=r"host_wall.*cycles_measured.*different evidence"):
            lut.put(STACK, OPS[0], us(1.0, evidence=Evidence.CYCLES_MEASURED))
        lut.put(STACK, OPS[1], us(1.0, evidence=Evidence.CYCLES_MEASURED))
        with pytest.raises(LutError, match="cycles_measured, host_wall"):
            lut.table(STACK, METRIC)


def test_table_has_values_evidence_and_flags() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[0], us(1.0))
        lut.put(STACK, OPS[1], us(2.0, unstable=True))
        lut.put_failure(STACK, OPS[2], METRIC, "no")
        lut.put(OTHER, OPS[3], us(9.0))
        table = lut.table(STACK, METRIC)
        assert table.values == {OPS[0]: 1.0, OPS[1]: 2.0}
        assert table.unstable == {OPS[1]}
        assert table.evidence is Evidence.HOST_WALL
        assert lut.table(STACK, "ram_bytes").evidence is None


def test_missing_gives_distinct_operators_in_order() -> None:
    with Lut.in_memory() as lut:
        lut.put(STACK, OPS[1], us(1.0))
        lut.put(STACK, OPS[2], us(1.0, unstable=True))
        wanted = [OPS[3], OPS[1], OPS[0], OPS[3], OPS[2]]
        assert lut.missing(STACK, wanted, METRIC) == [OPS[3], OPS[0]]
        assert lut.missing(STACK, wanted, METRIC, retry_unstable=True) == [OPS[3], OPS[0], OPS[2]]
        assert lut.missing(OTHER, wanted, METRIC) == [OPS[3], OPS[1], OPS[0], OPS[2]]


def test_networks_and_operators_stand_apart() -> None:
    one, two = Network("kws", (OPS[0], OPS[1])), Network("kws", (OPS[1],))
    with Lut.in_memory() as lut:
        lut.put_network(STACK, one, us(10.0))
        lut.put_network(STACK, two, us(5.0))
        lut.put(STACK, OPS[0], us(1.0))
        assert {n: m.value for n, m in lut.networks(STACK, METRIC)} == {one: 10.0, two: 5.0}
        assert list(lut.table(STACK, METRIC).values) == [OPS[0]]
        assert len(lut.rows(subject="network")) == 2
        assert (
            lut.get(STACK, one, METRIC)
            == lut.rows(subject="network")[[r.subject for r in lut.rows(subject="network")].index(one)]
        )
        assert one.fingerprint in lut.known(STACK, METRIC, "network")


def test_calibrations_are_appended() -> None:
    with Lut.in_memory() as lut:
        assert lut.calibration(STACK, METRIC) is None
        lut.put_calibration(STACK, METRIC, '{"scale": 0.1}')
        lut.put_calibration(STACK, METRIC, '{"scale": 0.2}')
        lut.put_calibration(STACK, "cycles", '{"scale": 3}')
        lut.absorb((), [CalibrationRow(STACK, METRIC, '{"old": 1}', "2001-01-01")])
        newest = lut.calibration(STACK, METRIC)
        assert newest is not None
        assert newest.text == '{"scale": 0.2}'
        texts = [row.text for row in lut.calibration_history(STACK, METRIC)]
        assert texts == ['{"old": 1}', '{"scale": 0.1}', '{"scale": 0.2}']
        assert len(lut.calibration_history()) == 4
        for wrong in ('{"a": NaN}', "[1]", "{", '{"a": -Infinity}'):
            with pytest.raises(LutError):
                lut.put_calibration(STACK, METRIC, wrong)


def test_the_order_of_rows_does_not_depend_on_the_order_of_writing() -> None:
    rows = [Row(s, op, us(1.0)) for s in (STACK, OTHER) for op in OPS]
    with Lut.in_memory() as forward, Lut.in_memory() as backward:
        forward.put_many(rows)
        backward.put_many(reversed(rows))
        assert forward.rows() == backward.rows()
        assert {row.subject for row in forward.rows(STACK)} == set(OPS)


# Files


def test_a_new_file_has_version_and_application_id(tmp_path: Path) -> None:
    path = tmp_path / "with space %20 and #.lut"
    with Lut.open(path) as lut:
        assert lut._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: survives a power cut
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert raw.execute("PRAGMA application_id").fetchone() == (0x424C5554,)
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sorted(os.listdir(tmp_path)) == [path.name]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("PRAGMA user_version = 99", r"schema 99.*newer version"),
        ("PRAGMA user_version = 0", r"schema 0.*older version"),
        ("PRAGMA application_id = 7", "not a LUT"),
        ("DROP TABLE rows", "rows is missing or changed"),
        ("ALTER TABLE rows ADD COLUMN extra TEXT", "rows is missing or changed"),
    ],
)
def test_files_of_other_versions_and_programs_are_refused(tmp_path: Path, statement: str, why: str) -> None:
    path = tmp_path / "a.lut"
    with Lut.open(path) as lut:
        lut.put(STACK, OPS[0], us(1.0))
    with closing(sqlite3.connect(path)) as raw:
        raw.execute(statement)
        raw.commit()
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(LutError, match=why):
            Lut.open(path, read_only=read_only)
    assert path.read_bytes() == before


def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "browser.sqlite"
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE cookies (a)")
        raw.commit()
    before = path.read_bytes()
    with pytest.raises(LutError, match="not a LUT"):
        Lut.open(path)
    assert path.read_bytes() == before


def test_missing_files_folders_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(LutError, match="there is no LUT"):
        Lut.open(tmp_path / "none.lut", create=False)
    with pytest.raises(LutError, match="there is no LUT"):
        Lut.open(tmp_path / "none.lut", read_only=True)
    with pytest.raises(LutError, match="folder exists"):
        Lut.open(tmp_path / "no folder" / "a.lut")
    text = tmp_path / "text.lut"
    text.write_text("fingerprint,value\n" * 100)
    with pytest.raises(LutError, match="not an SQLite file"):
        Lut.open(text)
    with pytest.raises(LutError, match="cannot open"):
        Lut.open(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["text.lut"]


def test_an_empty_file_becomes_a_lut(tmp_path: Path) -> None:
    (tmp_path / "a.lut").touch()
    with Lut.open(tmp_path / "a.lut") as lut:
        assert len(lut) == 0


def test_read_only_reads_and_refuses_to_write(tmp_path: Path) -> None:
    with Lut.open(tmp_path / "a.lut") as lut:
        lut.put(STACK, OPS[0], us(1.0))
    with Lut.open(tmp_path / "a.lut", read_only=True) as lut:
        assert len(lut) == 1
        with pytest.raises(BoardfitError, match="readonly"):
            lut.put(STACK, OPS[1], us(1.0))


@pytest.mark.skipif(sys.platform == "win32", reason="folder permissions work differently")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_media_can_be_read(tmp_path: Path) -> None:
    with Lut.open(tmp_path / "a.lut") as lut:
        lut.put(STACK, OPS[0], us(1.0))
    tmp_path.chmod(0o555)
    try:
        with Lut.open(tmp_path / "a.lut", read_only=True) as lut:
            assert len(lut) == 1
    finally:
        tmp_path.chmod(0o755)


def test_a_closed_lut_says_so() -> None:
    lut = Lut.in_memory()
    lut.close()
    lut.close()
    with pytest.raises(LutError, match="closed"):
        lut.rows()


def test_a_locked_file_is_reported_not_waited_for_forever(tmp_path: Path) -> None:
    path = tmp_path / "a.lut"
    with Lut.open(path, busy_seconds=0.05) as lut, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LutError, match="locked by another program"):
            lut.put(STACK, OPS[0], us(1.0))
        other.rollback()
        assert lut.put(STACK, OPS[0], us(1.0))


def test_damaged_files_never_give_a_wrong_number(tmp_path: Path) -> None:
    """Every damaged file is either refused with our error, or what it still gives is what was put."""
    path, bad = tmp_path / "a.lut", tmp_path / "bad.lut"
    rows = [Row(STACK, op, us(float(i) + 0.25, samples=(1.0,) * 60)) for i, op in enumerate(OPS)]
    with Lut.open(path) as lut:
        lut.put_many(rows)
        lut.put_network(STACK, Network("net", tuple(OPS)), us(50.0))
        lut.put_calibration(STACK, METRIC, '{"scale": 0.5}')
        good, history = set(map(repr, lut.rows())), lut.calibration_history()
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    errors = []
    for trial in range(150):
        damaged = bytearray(data)
        if trial % 10 == 0:
            del damaged[int(rng.integers(1, len(data))) :]
        for _ in range(int(rng.integers(1, 4))):
            damaged[int(rng.integers(0, len(damaged)))] ^= 1 << int(rng.integers(0, 8))
        bad.write_bytes(damaged)
        try:
            with Lut.open(bad, read_only=True) as lut:
                assert set(map(repr, lut.rows())) <= good
                assert all(row in history for row in lut.calibration_history())
                lut.check()
        except BoardfitError as error:
            errors.append(error)
    assert len(errors) > 15
    assert all(error.remedy for error in errors)


def test_the_lut_needs_neither_torch_nor_pyarrow() -> None:
    code = "import sys, profilers.lut, profilers.lut_io; print({'torch', 'pyarrow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# docs/lut.md


def documented(heading: str) -> list[tuple[str, ...]]:
    """Cells of the first table below a heading of docs/lut.md, without its head."""
    text = (Path(__file__).parents[2] / "docs" / "lut.md").read_text(encoding="utf-8")
    lines = iter(text.split(f"\n{heading}\n", 1)[1].splitlines())
    table: list[str] = []
    for line in lines:
        if line.startswith("|"):
            table.append(line)
        elif table:
            break
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in table[2:]]


@pytest.mark.parametrize("table", list(SCHEMA))
def test_documented_columns_are_the_real_ones(table: str) -> None:
    with Lut.in_memory() as lut:
        real = [(name, kind) for name, kind, *_ in table_columns(lut._connection, table)]
    assert [cells[:2] for cells in documented(f"### {table}")] == real


def test_the_rest_of_the_document_is_true() -> None:
    text = (Path(__file__).parents[2] / "docs" / "lut.md").read_text(encoding="utf-8")
    assert f"## Schema, version {SCHEMA_VERSION}" in text
    assert f"0x{APPLICATION_ID:X}" in text
    assert [cells[0] for cells in documented("## Files for other programs")] == list(COLUMNS)
    assert [cells[0] for cells in documented("## Words")] == list(Evidence)


def test_the_documented_sql_works(tmp_path: Path) -> None:
    with Lut.open(tmp_path / "lut.sqlite") as lut:
        lut.put(STACK, OPS[0], us(2.0, samples=(1.0, 2.5)))
    with closing(sqlite3.connect(f"file:{tmp_path}/lut.sqlite?mode=ro", uri=True)) as raw:
        query = "SELECT rows.*, stacks.fields FROM rows JOIN stacks ON fingerprint = stack"
        cursor = raw.execute(query)
        row = dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))
    assert list(np.frombuffer(row["samples"], "<f8")) == [1.0, 2.5]
    assert row["value"] == 2.0
