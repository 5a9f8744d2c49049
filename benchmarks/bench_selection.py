"""Exact selection under budgets beside HiGHS and the paper's own algorithms (BINAS, Figure 7 middle). One thread.

    python benchmarks/bench_selection.py [--instances 20] [--peers 6] [--seconds 10] [--quick] [--json FILE]

Instances are synthetic and seeded (toolchain.search.exact.instances); nothing here was measured on a device. The first
table is speed: milliseconds to a proved optimum, the goal, and the ratio to HiGHS on the arc-flow form in the same run.
The second is quality at the paper's size under one latency budget: accuracy points below the proved optimum, broken
budgets, seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np

from toolchain.search.evolution import EvolutionConfig, evolve
from toolchain.search.exact import (
    ArcFlow,
    Stages,
    from_stages,
    instances,
    native,
    pareto_front,
    solve,
    solver,
    verify,
)
from toolchain.search.exact.baselines import bcfw, bilinear, evaluate
from toolchain.search.exact.milp import available, solve_milp
from toolchain.search.protocols import Architecture, Evaluation, Floats, Ints
from toolchain.units import Budget

SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.95)
ONE = ("latency_us",)
THREE = ("latency_us", "flash_bytes", "energy_uj")


class StageCosts:
    """The stages' latency as a `CostModel`: S depths (less one), then S x D configurations."""

    metrics = ("latency_us",)

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self.count, self.depth, self.width = stages.contributions.shape
        self.sizes = [self.depth] * self.count + [self.width] * (self.count * self.depth)
        self.where = np.arange(self.count * self.depth)

    def price(self, architectures: Ints) -> Floats:
        codes = np.asarray(architectures)
        times = self.stages.costs["latency_us"].reshape(-1, self.width)[self.where, codes[:, self.count :]]
        live = np.arange(self.depth) <= codes[:, : self.count, None]
        total: Floats = (times.reshape(-1, self.count, self.depth) * live).sum((1, 2))[:, None]
        return total

    def swaps(self, architecture: Architecture) -> Sequence[Floats]:
        rows = np.repeat(np.array([architecture]), sum(self.sizes), 0)
        cuts = np.cumsum([0, *self.sizes])
        for choice, size in enumerate(self.sizes):
            rows[cuts[choice] : cuts[choice + 1], choice] = np.arange(size)
        return np.split(self.price(rows), cuts[1:-1])

    def least(self) -> dict[str, tuple[float, Architecture]]:
        fastest = self.stages.costs["latency_us"].argmin(2).ravel().tolist()
        best = (*[0] * self.count, *fastest)
        return {"latency_us": (float(self.price(np.array([best]))[0, 0]), best)}

    def split(self, architecture: Architecture) -> tuple[Floats, Floats]:
        codes = np.array(architecture)
        return codes[: self.count] + 1, codes[self.count :].reshape(self.count, self.depth)


def speed(
    name: str,
    models: Sequence[ArcFlow],
    metrics: tuple[str, ...],
    goal: str,
    peers: int,
    ram: float | None = None,
    checked: int = 2,
) -> dict[str, object]:
    """One row of the first table."""
    times, highs, unproved, violations, differ, verified, fallback = [], [], 0, 0, 0, 0, 0
    for index, model in enumerate(models):
        for share in SHARES:
            budgets = instances.budgets_between(model, metrics, share)
            if ram is not None:
                budgets += instances.budgets_between(model, ("ram_bytes",), ram)
            solution = solver.solve_or_none(model, budgets)
            if solution is None:
                continue
            times.append(solution.seconds * 1e3)
            unproved += not solution.proved
            fallback += solution.certificate.evidence == "solver"
            violations += any(solution.resources[b.metric] > b.bound for b in budgets)
            if index < checked:
                verified += verify(model, solution.certificate, labels=100_000).optimal
            if len(highs) < peers and available():
                begin = time.perf_counter()
                alive, columns, limits = solver.restricted(model, model.bounds(budgets))
                peer = solve_milp(model, model.costs[:, columns], limits, alive, seconds=60)
                highs.append((time.perf_counter() - begin) * 1e3 / times[-1])
                differ += peer.proved and peer.value != solution.value
    row: dict[str, object] = {
        "task": name,
        "runs": len(times),
        "median_ms": float(np.median(times)),
        "p90_ms": float(np.quantile(times, 0.9)),
        "max_ms": max(times),
        "goal": goal,
        "highs_over_ours_median": float(np.median(highs)) if highs else None,
        "highs_runs": len(highs),
        "differ_from_highs": differ,
        "unproved": unproved,
        "finished_by_highs": fallback,
        "violations": violations,
        "certificates_checked_optimal": verified,
    }
    ratio = f"{row['highs_over_ours_median']:>7.0f}x of {len(highs):>2}" if highs else "      -"
    print(
        f"{name:<28}{row['runs']:>5}{row['median_ms']:>9.2f}{row['p90_ms']:>9.2f}{row['max_ms']:>9.1f}  {goal:<20}"
        f"{ratio:>15}{differ:>7}{unproved:>9}{fallback:>9}{violations:>8}{verified:>9}"
    )
    return row


def fronts(name: str, models: Sequence[ArcFlow], goal: str) -> dict[str, object]:
    """Complete exact fronts."""
    times, points = [], []
    for model in models:
        begin = time.perf_counter()
        front = pareto_front(model, "latency_us")
        times.append((time.perf_counter() - begin) * 1e3)
        points.append(len(front))
    median = float(np.median(times))
    print(
        f"{name:<28}{len(times):>5}{median:>9.2f}{np.quantile(times, 0.9):>9.2f}{max(times):>9.1f}  {goal:<20}"
        f"  {min(points)}-{max(points)} points"
    )
    return {"task": name, "median_ms": median, "max_ms": max(times), "goal": goal, "points": points}


def quality(count: int, starts: int, evaluations: int, seconds: float) -> list[dict[str, object]]:
    """Figure 7 (middle): optimisers of the same program, per budget."""
    print(
        f"\nPaper size, latency budget; {count} instances. Accuracy points below the proved optimum: mean (max).\n"
        f"BCFW: {starts} starts each, gap of the feasible roundings. Evolution: {evaluations} evaluations. "
        f"McCormick: 1 instance, {seconds:g} s."
    )
    print(
        f"{'budget':>7} {'exact s':>9} | {'BCFW gap':>13} {'broken':>7} {'worst':>7} {'s':>8} | "
        f"{'evolution gap':>14} {'broken':>6} {'s':>6} | {'McCormick gap':>13} {'proved':>6} {'s':>6}"
    )
    rows: list[dict[str, object]] = []
    for share in SHARES:
        exact_s, gaps, broken, bcfw_s, evolution_gaps, evolution_broken, evolution_s = (
            [],
            [],
            [],
            [],
            [],
            0,
            [],
        )
        linear: tuple[float | None, bool, float] | None = None
        for seed in range(count):
            stages = instances.mobilenet(seed)
            model = from_stages(stages)
            (budget,) = instances.budgets_between(model, ONE, share)
            best = solve(model, [budget])
            exact_s.append(best.seconds)
            for start in range(starts):
                found = bcfw(stages, "latency_us", budget.bound, np.random.default_rng(start))
                broken.append(found.violation)
                bcfw_s.append(found.seconds)
                if not found.violation:
                    gaps.append(best.score - found.score)
            score, seconds_taken, violated = _evolved(stages, budget, evaluations, seed)
            evolution_gaps.append(best.score - score)
            evolution_s.append(seconds_taken)
            evolution_broken += violated
            if linear is None and available() and seconds > 0:
                design, proved = bilinear(stages, "latency_us", budget.bound, seconds=seconds)
                gap = None if design is None else best.score - design.score
                linear = (gap, proved, design.seconds if design else seconds)
        worst = [v for v in broken if v > 0]
        row: dict[str, object] = {
            "budget_share": share,
            "exact_s": float(np.median(exact_s)),
            "bcfw_gap_mean": float(np.mean(gaps)) if gaps else None,
            "bcfw_gap_max": max(gaps, default=None),
            "bcfw_broken": len(worst) / len(broken),
            "bcfw_worst": max(worst, default=0.0),
            "bcfw_s": float(np.median(bcfw_s)),
            "evolution_gap_mean": float(np.mean(evolution_gaps)),
            "evolution_gap_max": max(evolution_gaps),
            "evolution_broken": evolution_broken,
            "evolution_s": float(np.median(evolution_s)),
            "mccormick": linear,
        }
        rows.append(row)
        bcfw_gap = f"{np.mean(gaps):.2f} ({max(gaps):.2f})" if gaps else "none feasible"
        last = (
            f"{'none' if linear[0] is None else f'{linear[0]:.2f}':>13} {linear[1]!s:>6} {linear[2]:>6.1f}"
            if linear
            else f"{'-':>13}"
        )
        print(
            f"{share:>7} {np.median(exact_s):>9.5f} | {bcfw_gap:>13} {row['bcfw_broken']:>7.0%} "
            f"{row['bcfw_worst']:>7.1%} {row['bcfw_s']:>8.4f} | "
            f"{np.mean(evolution_gaps):>6.2f} ({max(evolution_gaps):.2f}) {evolution_broken:>6} "
            f"{np.median(evolution_s):>6.2f} | {last}"
        )
    return rows


def _evolved(stages: Stages, budget: Budget, evaluations: int, seed: int) -> tuple[float, float, bool]:
    cost = StageCosts(stages)

    def evaluator(architectures: Sequence[Architecture]) -> list[Evaluation]:
        return [Evaluation(evaluate(stages, "latency_us", *cost.split(a))[0]) for a in architectures]

    begin = time.perf_counter()
    config = EvolutionConfig(population=100, tournament=25)
    result = evolve(cost, evaluator, [budget], evaluations=evaluations, config=config, seed=seed)
    return result.score, time.perf_counter() - begin, result.predicted["latency_us"] > budget.bound


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--instances", type=int, default=20, help="instances per task, 6 budgets each")
    parser.add_argument("--peers", type=int, default=12, help="runs of HiGHS per task")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="limit of the McCormick program; 0 leaves it out"
    )
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--quick", action="store_true", help="2 instances, 3 runs of HiGHS, no McCormick")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    count, peers, limit = (2, 3, 0.0) if given.quick else (given.instances, given.peers, given.seconds)
    engine = "c" if native.library() is not None else "python (no C compiler)"
    print(f"engine: {engine}; HiGHS: {'yes' if available() else 'not installed'}\n")
    print(
        f"{'task (ms)':<28}{'runs':>5}{'median':>9}{'p90':>9}{'max':>9}  {'goal':<20}{'HiGHS/ours':>15}{'differ':>7}"
        f"{'unproved':>9}{'by HiGHS':>9}{'broken':>8}{'checked':>9}"
    )
    paper = [from_stages(instances.mobilenet(seed)) for seed in range(count)]
    large = [from_stages(instances.mobilenet(seed, instances.TENFOLD)) for seed in range(max(1, count // 4))]
    coupled = [instances.connas(seed) for seed in range(count)]
    solve(paper[0], [])  # loads the library
    table = [
        speed("paper size, 1 budget", paper, ONE, "median 0.5, max 25", peers),
        speed("paper size, 3 budgets", paper, THREE, "median 5, max 100", peers),
        fronts("paper size, exact front", paper, "20"),
        speed("10x size, 1 budget", large, ONE, "25", max(1, peers // 2), checked=0),
        speed("10x size, 3 budgets", large, THREE, "3000, always proved", max(1, peers // 4), checked=0),
        speed("ConNAS, 1 budget + RAM", coupled, ONE, "median 2, max 50", peers, ram=0.7),
        speed("ConNAS, 3 budgets + RAM", coupled, THREE, "median 2, max 50", peers, ram=0.7),
        fronts("ConNAS, exact front", coupled, "-"),
    ]
    rows = quality(max(1, count // 4), 10, given.evaluations, limit)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({"engine": engine, "speed": table, "quality": rows}, file, indent=1)


if __name__ == "__main__":
    main()
