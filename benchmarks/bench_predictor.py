"""How well operators that nobody measured are predicted, by the share of a space's operators that was measured.

    python benchmarks/bench_predictor.py [--target cpu:litert] [--space image2d|connas1d|all] [--table FILE]

Measures every operator of a space once, then pretends that only 10, 25 and 50 % were: chosen by the predictor itself,
and at random for comparison. Errors are of the operators left out. --table keeps the measured rows for another run.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_prediction import SPACES
from profilers.lut import Lut
from profilers.predictor import choose, fit
from profilers.profile import profile_operators, session_metric
from profilers.steady import steady_table
from toolchain.graph import Operator
from toolchain.spaces import load_space
from toolchain.workflow.sessions import open_session

SHARES = (0.10, 0.25, 0.50)
_STEPS = 4  # a share is measured in so many rounds, each chosen with what the earlier ones showed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="cpu:litert")
    parser.add_argument("--space", choices=[*SPACES, "all"], default="all")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    for name in list(SPACES) if arguments.space == "all" else [arguments.space]:
        with tempfile.TemporaryDirectory() as folder:
            values, label, evidence = measured(
                name, arguments.target, arguments.table or Path(folder) / "lut.sqlite"
            )
        print(f"{name} on {label} [{evidence}]: {len(values)} operators")
        for share in SHARES:
            for way in ("chosen", "random"):
                line(values, share, way)


def measured(name: str, target: str, table: Path) -> tuple[dict[Operator, float], str, str]:
    """Costs of all operators of a space on a target, from the table where it has them."""
    operators = load_space(name, **SPACES[name]).chain("int8").operators
    with Lut.open(table) as lut, open_session(target, "int8") as session:
        profile_operators(lut, session, operators)
        found = steady_table(lut, session.stack, session_metric(session)).values
        values = {op: found[op] for op in operators if op in found}
        return values, session.stack.label, session.evidence.value


def line(values: dict[Operator, float], share: float, way: str) -> None:
    """Print the errors of one share."""
    operators = list(values)
    count = max(1, round(share * len(operators)))
    begin = time.perf_counter()
    known = (
        random.Random(0).sample(operators, count) if way == "random" else _chosen(operators, values, count)
    )
    model = fit({op: values[op] for op in known})
    left = [op for op in operators if op not in set(known)]
    covered = [op for op in left if model.covers(op)]
    found = model.predict(covered)
    errors = np.array([abs(found[op].value / values[op] - 1) for op in covered])
    seconds = time.perf_counter() - begin
    print(f"  {100 * share:3.0f} % {way}: {count:4} measured, {len(covered):4} predicted "
          f"({len(left) - len(covered)} of kinds with too few): "
          f"mean error {100 * errors.mean():4.1f} %, p90 {100 * np.quantile(errors, 0.9):4.1f} %, "
          f"within 10 %: {100 * (errors < 0.1).mean():3.0f} %, {seconds:.1f} s")  # fmt: skip


def _chosen(operators: Sequence[Operator], values: dict[Operator, float], count: int) -> list[Operator]:
    known: list[Operator] = []
    for step in range(1, _STEPS + 1):
        more = round(count * step / _STEPS) - len(known)
        known += choose(operators, {op: values[op] for op in known}, more)
    return known


if __name__ == "__main__":
    main()
