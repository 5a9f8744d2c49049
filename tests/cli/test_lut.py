"""`boardfit lut`: a small table shown, exported, merged back and compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from profilers.calibrate import calibrate
from profilers.lut import Failure, Lut, Network, Row
from tests.cli.conftest import Command
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

STACK = Stack.of({"target": "cpu:litert", "runtime": "litert", "runtime_version": "2.3"})
FAILED = Operator.parse("fully_connected 4->2 none int8")
METRIC = "latency_us"


def operator(channels: int) -> Operator:
    return Operator.parse(f"conv2d 8x8x{channels}->8x8x16 k3x3 s1x1 same relu int8")


def make_table(path: Path, count: int = 3, scale: float = 1.0) -> Path:
    """A table with operators, a failure, networks and their calibration."""
    with Lut.open(path) as lut:
        values = {operator(c): scale * (1.0 + c) for c in range(1, count + 1)}
        lut.put_many(
            Row(STACK, op, Measurement(METRIC, value, Evidence.HOST_WALL, unstable=op == operator(2)))
            for op, value in values.items()
        )
        lut.put_failure(STACK, FAILED, METRIC, "it said [no]", "ask again")
        networks = [
            (f"n{c}", (operator(c), operator(1)), values[operator(c)] + values[operator(1)])
            for c in range(1, min(count, 4))
        ]
        for name, operators, value in networks:
            network = Network(name, operators)
            lut.put_network(STACK, network, Measurement(METRIC, value, Evidence.HOST_WALL))
        if len(networks) > 2:
            calibrate(lut, STACK, values, networks, evidence=Evidence.HOST_WALL)
    return path


def test_show_takes_this_folders_table(
    boardfit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = boardfit("lut", "show")
    assert missing.code == 3
    assert "remedy: run `boardfit profile`" in missing.err
    make_table(tmp_path / "lut.sqlite", 5)
    shown = boardfit("lut", "show")
    assert shown.code == 0
    assert "lut.sqlite: 9 of 9 rows" in shown.out
    assert operator(1).signature in shown.out
    assert "it said [no]" in shown.out
    assert "calibration of 20" in shown.out


def test_filters(boardfit: Command, tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.sqlite", 5)

    def total(*options: object) -> int:
        found = boardfit("lut", "show", table, "--json", *options).document
        assert found["kind"] == "lut show"
        return int(found["total"])

    assert total() == 9
    assert total("--failures") == 1
    assert total("--match", "conv2d 8x8x3") == 1
    assert total("--metric", "cycles") == 0
    assert total("--stack", STACK.fingerprint[:8]) == 9
    assert total("--stack", "cpu:torch") == 0
    limited = boardfit("lut", "show", table, "--limit", 2, "--json").document
    assert (len(limited["rows"]), limited["total"]) == (2, 9)
    assert "2 of 9 rows, latency_us, host_wall" in boardfit(
        "lut", "show", table, "--limit", 2, "--match", "conv2d"
    ).out.replace("2 of 5", "2 of 9")
    assert boardfit("lut", "show", table, "--metric", "cycles").code == 0


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_out_and_in_again(boardfit: Command, tmp_path: Path, suffix: str) -> None:
    table, file, copy = make_table(tmp_path / "a.sqlite", 5), tmp_path / f"a.{suffix}", tmp_path / "b.sqlite"
    written = boardfit("lut", "export", table, file)
    assert written == (0, f"wrote 10 records to {file}\n", "")
    merged = boardfit("lut", "merge", copy, file)
    assert merged.code == 0
    assert "9 added" in merged.out
    assert boardfit("lut", "diff", table, copy) == (0, "0 rows differ\n", "")
    again = boardfit("lut", "merge", copy, table, "--json").document
    assert again["kind"] == "lut merge"
    assert again["sources"][str(table)]["added"] == 0


def test_diff(boardfit: Command, tmp_path: Path) -> None:
    one, other = make_table(tmp_path / "a.sqlite", 3), make_table(tmp_path / "b.sqlite", 4, scale=1.02)
    found = boardfit("lut", "diff", one, other, "--json").document
    assert found["kind"] == "lut diff"
    ratios = [d["ratio"] for d in found["differences"] if d["ratio"] is not None]
    assert ratios == pytest.approx([1.02] * len(ratios))
    text = boardfit("lut", "diff", one, other)
    assert operator(1).signature in text.out
    assert text.out.endswith(f"{len(found['differences'])} rows differ\n")
    within = boardfit("lut", "diff", one, other, "--tolerance", 5)
    assert within.out.splitlines()[-1] == "2 rows differ"  # what only the second one has


def test_one_row_differs_in_the_singular(boardfit: Command, tmp_path: Path) -> None:
    one, other = make_table(tmp_path / "a.sqlite", 1), make_table(tmp_path / "b.sqlite", 1, scale=2.0)
    assert boardfit("lut", "diff", one, other).out.endswith("1 row differs\n")


def test_refusals(boardfit: Command, tmp_path: Path) -> None:
    table = make_table(tmp_path / "a.sqlite")
    for arguments, part in (
        (("export", table, tmp_path / "a.xls"), ".csv, .json, .parquet"),
        (("merge", table, table), "into itself"),
        (("merge", table, tmp_path / "none.csv"), "none.csv"),
        (("show", tmp_path / "none.sqlite"), "none.sqlite"),
        (("diff", table, tmp_path / "none.sqlite"), "none.sqlite"),
    ):
        outcome = boardfit("lut", *arguments)
        assert outcome.code == 3, outcome
        assert outcome.err.startswith("error: ")
        assert part in outcome.err


def test_a_merge_of_nothing_makes_no_table(boardfit: Command, tmp_path: Path) -> None:
    outcome = boardfit("lut", "merge", tmp_path / "new.sqlite", tmp_path / "none.csv")
    assert outcome.code == 3
    assert not (tmp_path / "new.sqlite").exists()


def test_a_failure_is_shown_with_its_reason(boardfit: Command, tmp_path: Path) -> None:
    table = make_table(tmp_path / "a.sqlite", 1)
    row = boardfit("lut", "show", table, "--failures", "--json").document["rows"][0]
    assert (row["failed"], row["reason"], row["remedy"]) == (True, "it said [no]", "ask again")
    assert Failure(METRIC, row["reason"]).reason in boardfit("lut", "show", table, "--failures").out
