"""Speed of pricing: architectures per second, single-choice swaps, least values; with plans of programs. One thread.

    python benchmarks/bench_cost.py [--architectures 1000000] [--json FILE]

The chain has the shape of ConNAS's condition-monitoring space: 8 choices, 14 or 15 candidates (7 widths x 2 kinds,
identity on even edges), 7 widths between them. Operator values are made up; the speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from profilers.cost import ArcMetric, CostTable
from profilers.counts import FlashModel
from profilers.footprint import algorithms_of, footprint_of
from profilers.planned import PlannedTable, Policies
from profilers.plans import PlanSpace
from toolchain.export.native.plan import estimated_cycles
from toolchain.graph import Arc, Chain, Operator

WIDTHS = (8, 16, 32, 64, 128, 256, 512)
LENGTH = 512


def connas_like_chain(edges: int = 8) -> Chain:
    """Stem-free ConNAS-like space as a chain, with a classifier as the forced last position."""

    def shape(position: int, width: int) -> tuple[int, ...]:
        return (1, 1, max(LENGTH >> ((position + 1) // 2), 1), width)

    def convolution(a: tuple[int, ...], b: tuple[int, ...], kind: str, kernel: int) -> Operator:
        stride = (1, a[2] // b[2])
        return Operator(kind, (a,), b, kernel=(1, kernel), stride=stride, padding="same", dtype="int8")  # type: ignore[arg-type]

    states: list[tuple[tuple[int, ...], ...]] = [(shape(0, 8),)]
    arcs: list[tuple[Arc, ...]] = []
    for edge in range(edges):
        ends = tuple(shape(edge + 1, w) for w in WIDTHS)
        found = []
        for start, a in enumerate(states[-1]):
            for end, b in enumerate(ends):
                middle = (*b[:3], a[3])
                plain = (convolution(a, b, "conv2d", 3),)
                separable = (
                    convolution(a, middle, "depthwise_conv2d", 3),
                    convolution(middle, b, "conv2d", 1),
                )
                for kind, operators in enumerate((plain, separable)):
                    found.append(
                        Arc(
                            kind * len(WIDTHS) + end,
                            start,
                            end,
                            operators,
                            max(sum(op.activation_bytes) for op in operators),
                            sum(op.params for op in operators),
                        )
                    )
            if edge % 2 == 1 and a[2] == ends[0][2]:
                found.append(Arc(2 * len(WIDTHS), start, start, (), sum(map(int, a)), 0))
        states.append(ends)
        arcs.append(tuple(found))
    heads = []
    for start, a in enumerate(states[-1]):
        head = Operator("fully_connected", (a,), (1, 4), dtype="int8")
        heads.append(Arc(0, start, 0, (head,), sum(head.activation_bytes), head.params))
    return Chain((*states, ((1, 4),)), (*arcs, tuple(heads)), tuple(range(edges)))


def best_of(repeat: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def measure(name: str, chain: Chain, count: int) -> dict[str, float | str | int]:
    """Figures of one chain, printed and returned."""
    rng = np.random.default_rng(0)
    values = {op: float(rng.random()) for op in chain.operators}
    begin = time.perf_counter()
    table = CostTable.build(chain, {"latency_us": values}, flash=FlashModel(600, lambda op: 150))
    built = time.perf_counter() - begin
    architectures = np.stack([rng.integers(0, n, count) for n in table.candidates], 1)
    one = architectures[0].tolist()
    priced = best_of(5, lambda: table.price(architectures))
    small = architectures.astype(np.uint8)
    priced_small = best_of(5, lambda: table.price(small))
    swaps = best_of(200, lambda: table.swaps(one))
    least = best_of(50, table.least)
    figures: dict[str, float | str | int] = {
        "chain": name,
        "choices": table.length,
        "arcs": sum(len(a) for a in chain.arcs),
        "operators": len(chain.operators),
        "metrics": len(table.metrics),
        "build_ms": built * 1e3,
        "price_per_s": count / priced,
        "price_uint8_per_s": count / priced_small,
        "swaps_us": swaps * 1e6,
        "swapped_architectures": sum(table.candidates),
        "least_us": least * 1e6,
    }
    print(
        f"{name}: "
        + ", ".join(f"{k} {v:,.0f}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    )
    return figures


def measure_plans(name: str, chain: Chain, count: int) -> dict[str, float | str | int]:
    """Prices of a space whose programs have plans, where the part has room for all, and where flash binds."""
    footprint = footprint_of("native-dsp", chain.operators, None)
    options = {
        op: (op, replace(op, algorithm="winograd"))
        for op in chain.operators
        if "winograd" in algorithms_of("native-dsp", op)
    }
    cost = ArcMetric("sum", lambda arc: sum(estimated_cycles(op, op.algorithm) for op in arc.operators))
    metrics = {"cycles": cost, "flash_bytes": footprint.flash, "ram_bytes": footprint.ram}
    plans = PlanSpace(options, cost, footprint.flash, footprint.ram)

    def table(price: float) -> CostTable:
        plan = plans.policy(price)

        def moved(metric: ArcMetric) -> ArcMetric:
            return replace(metric, value=lambda arc: metric.value(plan(arc)))

        return CostTable.of(chain, {key: moved(metric) for key, metric in metrics.items()})

    tables = [partial(table, price) for price in plans.prices(chain)]
    fastest = tables[0]()
    rng = np.random.default_rng(0)
    architectures = np.stack([rng.integers(0, n, count) for n in fastest.candidates], 1)
    flash = fastest.price(architectures)[:, 1]
    figures: dict[str, float | str | int] = {"plans of": name, "policies": len(tables)}
    for label, bound in (("roomy", float(flash.max())), ("binding", float(np.quantile(flash, 0.3)))):
        model = PlannedTable(fastest, (Policies(tuple(metrics), {"flash_bytes": bound}, tables),))
        model.price(architectures)  # makes the tables
        figures[f"price_per_s, {label}"] = count / best_of(3, partial(model.price, architectures))
        figures[f"swaps_us, {label}"] = 1e6 * best_of(50, partial(model.swaps, architectures[0].tolist()))
    print(", ".join(f"{k} {v:,.0f}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()))
    return figures


def spaces() -> list[tuple[str, Chain]]:
    """The real spaces, where torch is installed."""
    try:
        from toolchain.spaces import ConNAS1d, Image2d
    except ImportError:
        return []
    return [(space.name, space.chain("int8")) for space in (ConNAS1d(), Image2d())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", type=int, default=1_000_000)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    chains = [("ConNAS-like, 8 edges", connas_like_chain()), *spaces()]
    figures = [measure(name, chain, arguments.architectures) for name, chain in chains]
    figures += [
        measure_plans(name, chain, arguments.architectures) for name, chain in chains if name == "image2d"
    ]
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
