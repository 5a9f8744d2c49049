"""Speed of the LUT on a disk: rows written one by one and in batches, read back, exported, merged.

    python benchmarks/bench_lut.py [--rows 5000] [--samples 200] [--folder DIR] [--json FILE]

Each single write is a transaction with its fsync; a batch is one transaction. `--folder` chooses the disk (default: the
system's folder for temporary files).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from profilers.lut import Lut, Row
from profilers.lut_io import export_lut, import_lut, merge
from toolchain.graph import Operator
from toolchain.measurement import Evidence, Measurement, Stack

STACK = Stack.of({"target": "bench", "runtime": "none", "threads": 1})
METRIC = "latency_us"


def rows(count: int, samples: int) -> list[Row]:
    """As many measured rows of distinct operators, with samples of full precision."""
    taken = "2026-01-01T00:00:00+00:00"
    return [
        Row(
            STACK,
            Operator("conv2d", ((1, 8, 8, i + 1),), (1, 8, 8, 16), dtype="int8"),
            Measurement(
                METRIC, i / 7, Evidence.HOST_WALL, tuple((i + j) / 7 for j in range(samples)), taken_at=taken
            ),
        )
        for i in range(count)
    ]


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(folder: Path, count: int, samples: int) -> dict[str, float]:
    """Rows per second of each operation, and the size of the file in bytes per row."""
    made = rows(count, samples)
    single = made[: max(1, min(count, 1000))]
    found: dict[str, float] = {}
    with Lut.open(folder / "single.lut") as lut:
        took = seconds(lambda: [lut.put_many([row]) for row in single])
        found["single writes"] = len(single) / took
    with Lut.open(folder / "a.lut") as lut, Lut.open(folder / "b.lut") as other:
        found["batched writes"] = count / seconds(lambda: lut.put_many(made))
        operators = [row.subject for row in made if isinstance(row.subject, Operator)]
        found["missing()"] = count / seconds(lambda: lut.missing(STACK, operators, METRIC))
        found["rows()"] = count / seconds(lambda: lut.rows(STACK, METRIC))
        found["table()"] = count / seconds(lambda: lut.table(STACK, METRIC))
        found["check()"] = count / seconds(lut.check)
        found["merge"] = count / seconds(lambda: merge(other, lut))
        for suffix in (".csv", ".json", ".parquet"):
            path = folder / f"a{suffix}"
            found[f"export {suffix}"] = count / seconds(lambda path=path: export_lut(lut, path))
            with Lut.in_memory() as empty:
                found[f"import {suffix}"] = count / seconds(
                    lambda path=path, empty=empty: import_lut(empty, path)
                )
    found["bytes per row"] = (folder / "a.lut").stat().st_size / count
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(Path(folder), arguments.rows, arguments.samples)
    print(f"{arguments.rows} rows with {arguments.samples} samples each, Python {sys.version.split()[0]}")
    for name, value in found.items():
        print(f"{name:16} {value:12,.0f}{'' if name == 'bytes per row' else ' rows/s'}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
