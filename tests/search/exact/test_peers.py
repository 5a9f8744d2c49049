"""The exact solver against two independent technologies: HiGHS (branch and cut, floats), CP-SAT (clauses, integers)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.search.exact import brute
from toolchain.search.exact import ArcFlow, from_stages, instances, solve_or_none, solver
from toolchain.search.exact.milp import available, solve_milp
from toolchain.units import Budget

SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.95)
METRICS = (("latency_us",), ("latency_us", "flash_bytes"), ("latency_us", "flash_bytes", "energy_uj"))

needs_highs = pytest.mark.skipif(not available(), reason="highspy is not installed (the extra `solvers`)")


def paper_size() -> list[tuple[ArcFlow, list[Budget]]]:
    """120 instances: the paper's size and ConNAS's coupled space, one to three additive budgets, some with RAM."""
    found = []
    for seed in range(20):
        model = from_stages(instances.mobilenet(seed)) if seed % 4 else instances.connas(seed)
        for share in SHARES:
            metrics = METRICS[(seed + len(found)) % 3]
            budgets = instances.budgets_between(model, metrics, share)
            if seed % 2:
                budgets += instances.budgets_between(model, ("ram_bytes",), 0.7)
            found.append((model, budgets))
    return found


def highs(model: ArcFlow, budgets: list[Budget]) -> int | None:
    alive, columns, limits = solver.restricted(model, model.bounds(budgets))
    result = solve_milp(model, model.costs[:, columns], limits, alive)
    assert result.proved
    return result.value if result.path else None


@needs_highs
def test_highs_agrees_on_tiny_spaces() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        model = (brute.stages_model, brute.coupled_model)[seed % 2](rng)
        rows = brute.table(model)
        budgets = brute.some_budgets(rng, model, rows, seed % 4)
        values = brute.best(rows, model.bounds(budgets))
        assert highs(model, budgets) == (values[0] if values else None)


@needs_highs
@pytest.mark.slow
def test_highs_agrees_on_120_instances_of_paper_size() -> None:
    for model, budgets in paper_size():
        solution = solve_or_none(model, budgets)
        assert (solution.value if solution else None) == highs(model, budgets)


@pytest.mark.slow
def test_cp_sat_agrees_on_120_instances_of_paper_size() -> None:
    python = os.environ.get("BOARDFIT_ORTOOLS_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import ortools"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("ortools is not importable; name an interpreter that has it in BOARDFIT_ORTOOLS_PYTHON")
    questions, answers = [], []
    for model, budgets in paper_size():
        alive, columns, limits = solver.restricted(model, model.bounds(budgets))
        questions.append(
            {
                "nodes": model.nodes,
                "start": model.start[alive].tolist(),
                "end": model.end[alive].tolist(),
                "value": model.value[alive].tolist(),
                "costs": model.costs[alive][:, columns].T.tolist(),
                "limits": limits.tolist(),
            }
        )
        solution = solve_or_none(model, budgets)
        answers.append(solution.value if solution else None)
    script = Path(__file__).with_name("cpsat_peer.py")
    done = subprocess.run(
        [python, str(script)], input=json.dumps(questions), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == answers
