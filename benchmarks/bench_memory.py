"""Memory plans of random networks: how far the greedy plan is from the smallest, and what each costs.

    python benchmarks/bench_memory.py [--graphs 50] [--json FILE]

The networks are rows of lifetimes as residual networks have them: most tensors feed the next operator, some are
kept for a later sum. Sizes are multiples of 16.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from toolchain.graph.memory import Lifetime, MemoryPlan, greedy, optimal


def residual_lifetimes(rng: np.random.Generator, operators: int, kept: float) -> list[Lifetime]:
    """Lifetimes of a network of `operators` operators; a share of the tensors lives 2 to 12 steps."""
    tensors = []
    for step in range(operators + 1):
        last = step + (int(rng.integers(2, 13)) if rng.random() < kept else 1)
        tensors.append(Lifetime(f"t{step}", int(rng.integers(1, 400)) * 16, step, min(last, operators)))
    return tensors


def timed(
    planner: Callable[[list[Lifetime]], MemoryPlan], tensors: list[Lifetime]
) -> tuple[MemoryPlan, float]:
    """A plan, checked, and the milliseconds that it took."""
    begin = time.perf_counter()
    plan = planner(tensors)
    milliseconds = (time.perf_counter() - begin) * 1e3
    plan.check()
    return plan, milliseconds


def measure(operators: int, kept: float, graphs: int) -> dict[str, float]:
    """Figures over random networks of one kind, printed and returned."""
    rng = np.random.default_rng(operators)
    excess, first_ms, best_ms, proved = [], [], [], 0
    for _ in range(graphs):
        tensors = residual_lifetimes(rng, operators, kept)
        first, ms = timed(greedy, tensors)
        first_ms.append(ms)
        best, ms = timed(lambda t: optimal(t, 16), tensors)
        best_ms.append(ms)
        proved += best.proved
        excess.append(first.arena_bytes / best.arena_bytes - 1)
    figures = {
        "operators": float(operators),
        "kept": kept,
        "proved_share": proved / graphs,
        "greedy_excess_mean_percent": 100 * float(np.mean(excess)),
        "greedy_excess_max_percent": 100 * max(excess),
        "greedy_ms_median": float(np.median(first_ms)),
        "optimal_ms_median": float(np.median(best_ms)),
        "optimal_ms_max": max(best_ms),
    }
    print(", ".join(f"{name} {value:g}" for name, value in figures.items()))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=50)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    cases = [(operators, kept) for operators in (16, 30, 60, 120) for kept in (0.2, 0.5)]
    figures = [measure(operators, kept, arguments.graphs) for operators, kept in cases]
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
