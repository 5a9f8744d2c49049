"""What a LUT survives: kill -9 at any moment, several writers at once, a disk that is full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from profilers.lut import Lut, Row
from toolchain.errors import BoardfitError
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

METRIC = "latency_us"
STACK = Stack.of({"target": "cpu:litert"})

# Writes what is missing of `count` operators and says each index on stdout after the commit. With several
# writers each begins elsewhere, so that they meet on the same rows.
WRITER = """
import sys
from profilers.lut import Lut
from tests.profilers.test_lut_kill import METRIC, STACK, operator, measurement
path, count, start = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Lut.open(path) as lut:
    print("open", flush=True)
    operators = [operator((start + i) % count) for i in range(count)]
    for op in lut.missing(STACK, operators, METRIC):
        index = op.inputs[0][3] - 1
        lut.put(STACK, op, measurement(index))
        print(index, flush=True)
    print("done", flush=True)
"""


def operator(index: int) -> Operator:
    return Operator("conv2d", ((1, 4, 4, index + 1),), (1, 4, 4, 4), dtype="int8")


def measurement(index: int) -> Measurement:
    samples = tuple(index + i / 7 for i in range(50))
    return Measurement(METRIC, index + 0.5, Evidence.HOST_WALL, samples, taken_at="2026-01-01T00:00:00Z")


def writer(path: Path, count: int, start: int = 0) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(count), str(start)],
        stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def kill_rounds(path: Path, rounds: int, count: int, seed: int) -> int:
    """Kill a writer `rounds` times at random moments, checking the file each time. Returns rows at the end."""
    rng = random.Random(seed)
    acknowledged: set[int] = set()
    written_twice: list[int] = []
    for _ in range(rounds):
        with writer(path, count) as process:
            assert process.stdout is not None
            first = ""
            if rng.random() < 0.8:  # else kill while it starts: before, in or after the making of the tables
                process.stdout.readline()
                first = process.stdout.readline()  # one row at least, on a busy machine too
                time.sleep(rng.random() * 0.08)
            else:
                time.sleep(rng.random() * 0.25)
            os.kill(process.pid, signal.SIGKILL)
            lines = (first + process.stdout.read()).split("\n")
        now = [int(line) for line in lines[:-1] if line.isdigit()]  # the last line may be cut
        written_twice += sorted(acknowledged.intersection(now))
        acknowledged.update(now)
        if path.exists():
            check(path, acknowledged)
    assert written_twice == []  # a resumed run measures only what is missing
    with Lut.open(path) as lut:
        return len(lut)


def check(path: Path, acknowledged: set[int]) -> None:
    with Lut.open(path) as lut:
        lut.check()
        rows = lut.rows(STACK, METRIC)
        stored = [row.subject.inputs[0][3] - 1 for row in rows if isinstance(row.subject, Operator)]
        assert len(stored) == len(set(stored)) == len(rows)
        assert acknowledged <= set(stored)
        for index, row in zip(stored, rows, strict=True):
            assert row.value == measurement(index).value
            assert row.measurement.samples == measurement(index).samples


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    assert 0 < kill_rounds(tmp_path / "a.lut", rounds=4, count=5000, seed=0) < 5000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_9_sixty_times_then_finish(tmp_path: Path) -> None:
    path, count = tmp_path / "a.lut", 3000
    kill_rounds(path, rounds=60, count=count, seed=1)
    with writer(path, count) as process:
        assert process.stdout is not None
        assert process.stdout.read().endswith("done\n")
    check(path, set(range(count)))


def several_writers(path: Path, count: int) -> None:
    processes = [writer(path, count, start=count * i // 4) for i in range(4)]
    outputs = [process.communicate()[0] for process in processes]
    assert all(output.endswith("done\n") for output in outputs), outputs
    check(path, set(range(count)))
    assert sorted(os.listdir(path.parent)) == [path.name]  # no write-ahead log is left


def test_four_processes_write_at_once(tmp_path: Path) -> None:
    several_writers(tmp_path / "a.lut", count=40)


@pytest.mark.slow
def test_four_processes_write_at_once_for_long(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        several_writers(tmp_path / str(i) / "a.lut", count=800)


def fill(lut: Lut) -> int:
    """Put rows until the disk is full; how many were stored."""
    for index in range(1000):
        try:
            lut.put(STACK, operator(index), measurement(index))
        except BoardfitError as error:
            assert "disk is full (free disk space" in str(error)  # noqa: PT017 (the count matters as well)
            return index
    raise AssertionError("the disk was never full")


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with Lut.open(tmp_path / "a.lut") as lut:
        # SQLite's own limit on the size of a file gives the same error as a disk without room.
        lut._connection.execute("PRAGMA max_page_count = 24")
        stored = fill(lut)
        assert stored > 0
        with pytest.raises(BoardfitError, match="disk is full"):
            lut.put_many([Row(STACK, operator(i), measurement(i)) for i in range(stored, stored + 100)])
        assert len(lut) == stored
        lut._connection.execute("PRAGMA max_page_count = 1000000")  # somebody made room
        assert lut.put(STACK, operator(stored), measurement(stored))
    check(tmp_path / "a.lut", set(range(stored + 1)))


@pytest.mark.skipif(sys.platform != "linux", reason="needs tmpfs")
def test_a_really_full_disk(tmp_path: Path) -> None:
    """On a tmpfs of 256 KiB, where mounting one is allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        allowed = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        allowed = False
    if not allowed:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        with Lut.open(disk / "a.lut") as lut:
            stored = fill(lut)
        assert stored > 0
        check(disk / "a.lut", set(range(stored)))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
