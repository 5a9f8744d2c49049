"""How well the measuring protocol repeats on this machine, and how fast it is: `python benchmarks/bench_timing.py`.

Twelve one-operator models are measured five times on LiteRT, then a few hundred at once. Prints figures and
asserts none: a shared machine has none to assert.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from profilers.single import operator_model
from targets.session import Job, Session, open_target
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph import Operator
from toolchain.graph.operator import DType

REPEATS = 5


def convolution(channels: int, size: int, kernel: int, dtype: DType) -> Operator:
    shape = (1, size, size, channels)
    return Operator(
        "conv2d", (shape,), shape, kernel=(kernel, kernel), padding="same", activation="relu", dtype=dtype
    )


def depthwise(channels: int, size: int, dtype: DType) -> Operator:
    shape = (1, size, size, channels)
    return Operator(
        "depthwise_conv2d", (shape,), shape, kernel=(3, 3), padding="same", activation="relu", dtype=dtype
    )


def job(operator: Operator, number: int = 0) -> Job:
    return Job(f"{operator.signature} #{number}", write_tflite(operator_model(operator)))


def spread(values: list[float]) -> float:
    """The coefficient of variation in percent."""
    return statistics.stdev(values) / statistics.mean(values) * 100


def repeatability(session: Session) -> None:
    """Each kernel's spread over repeats: of p5, and of its ratio to the anchor."""
    dtypes: tuple[DType, ...] = ("float32", "int8")
    operators = [
        *(convolution(channels, size, 1, dtype) for dtype in dtypes for channels, size in ((16, 8), (64, 8))),
        *(convolution(channels, 16, 3, dtype) for dtype in dtypes for channels in (8, 16)),
        *(depthwise(channels, 16, dtype) for dtype in dtypes for channels in (32, 64)),
    ]
    jobs = [job(operator) for operator in operators]
    values: dict[str, list[float]] = {one.key: [] for one in jobs}
    ratios: dict[str, list[float]] = {one.key: [] for one in jobs}
    unstable = 0
    for _ in range(REPEATS):
        for result in session.measure(jobs, wait=True):
            if result.measurement is None:
                raise SystemExit(f"{result.key}: {result.failure}")
            values[result.key].append(result.measurement.value)
            ratios[result.key].append(float(result.measurement.details["anchor_ratio"]))
            unstable += result.measurement.unstable
        time.sleep(1)
    for key, found in values.items():
        print(
            f"{statistics.median(found):8.2f} us  CV {spread(found):5.1f} %  ratio {spread(ratios[key]):5.1f} %  {key}"
        )
    for name, table in (("p5", values), ("ratio", ratios)):
        spreads = [spread(found) for found in table.values()]
        within = sum(
            max(abs(x / statistics.median(found) - 1) for x in found) <= 0.05 for found in table.values()
        )
        print(
            f"{name}: CV median {statistics.median(spreads):.1f} %, worst {max(spreads):.1f} %; "
            f"all repeats within 5 % of the median: {within} of {len(table)}"
        )
    print(f"marked unstable: {unstable} of {REPEATS * len(jobs)} measurements")


def rate(session: Session, count: int = 300) -> None:
    """How many operators are measured per second."""
    jobs = [
        job(convolution(4 + number % 29, 8, 1 + number % 2 * 2, "int8"), number) for number in range(count)
    ]
    start, busy = time.perf_counter(), time.process_time()
    results = list(session.measure(jobs, wait=True))
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    unstable = sum(result.measurement is None or result.measurement.unstable for result in results)
    print(
        f"{count} operators in {seconds:.1f} s: {count / seconds:.0f} per second "
        f"({count / busy:.0f} per second of this process's CPU time), {unstable} unstable"
    )


def main() -> None:
    anchor = job(convolution(16, 16, 3, "float32")).model
    shape = (1, 1, 1, 1)
    baseline = job(Operator("add", (shape, shape), shape)).model
    with (
        tempfile.TemporaryDirectory() as folder,  # what earlier runs knew would hide what this one finds
        open_target("cpu:litert", anchor=anchor, baseline=baseline, cache=Path(folder)) as session,
    ):
        print(session.stack.label, session.stack.as_dict()["cpu"])
        repeatability(session)
        rate(session)


if __name__ == "__main__":
    main()
