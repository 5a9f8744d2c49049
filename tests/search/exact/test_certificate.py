from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.search.exact import brute
from toolchain.errors import ConfigurationError, VerificationError
from toolchain.search.exact import (
    Certificate,
    certificate,
    from_stages,
    instances,
    solve,
    verify,
    verify_front,
)
from toolchain.search.exact.front import pareto_front


@pytest.fixture(scope="module")
def case():
    model = from_stages(instances.mobilenet(0))
    solution = solve(model, instances.budgets_between(model, ("latency_us", "flash_bytes", "ram_bytes"), 0.5))
    return model, solution


def test_the_checker_knows_neither_numpy_nor_the_solver() -> None:
    tree = ast.parse(Path(certificate.__file__).read_text(encoding="utf-8"))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported <= {"__future__", "collections.abc", "dataclasses", "typing", "toolchain.errors"}


def test_a_true_certificate_survives_json(case) -> None:
    model, solution = case
    copy = Certificate.from_dict(json.loads(json.dumps(solution.certificate.as_dict())))
    assert copy == solution.certificate
    verdict = verify(model, copy)
    assert verdict.optimal
    assert verdict.bound == solution.value
    assert verdict.how == "search"
    assert verdict.labels > 0
    with pytest.raises(ConfigurationError, match="not a certificate"):
        Certificate.from_dict({"model": "x"})


def test_every_false_claim_is_found(case) -> None:
    model, solution = case
    true = solution.certificate
    (column, _), *others = true.budgets
    worse = solve(model, [])  # another path, of more value, over the budgets
    false = {
        "another model": replace(true, model="0" * 64),
        "value is": replace(true, value=true.value + 1),
        "does not start": replace(true, path=true.path[1:]),
        "ends at": replace(true, path=true.path[:-1]),
        "the budget": replace(true, budgets=((column, solution.costs[column] - 1), *others)),
        "steps, the budget": replace(true, path=worse.path, value=worse.value),
        "multipliers must": replace(true, multipliers=(tuple(-x - 1 for x in true.multipliers[0]),)),
        "prove the bound": replace(true, bound=true.value),
    }
    for message, certificate_ in false.items():
        with pytest.raises(VerificationError, match=message):
            verify(model, certificate_)


def test_a_feasible_path_that_is_not_the_best_is_refuted() -> None:
    refuted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        model = brute.stages_model(rng)
        rows = brute.table(model)
        budgets = brute.some_budgets(rng, model, rows, 2)
        bounds = model.bounds(budgets)
        within = sorted((r for r in rows if all(r[1][c] <= t for c, t in bounds)), reverse=True)
        if len(within) < 2 or within[0][0] == within[-1][0]:
            continue
        true = solve(model, budgets).certificate
        with pytest.raises(VerificationError, match=r"there is a path|the largest"):
            verify(model, replace(true, path=within[-1][2], value=within[-1][0]))
        refuted += 1
    assert refuted > 10


def test_a_wrong_front_is_refuted() -> None:
    model = brute.stages_model(np.random.default_rng(4))
    front = pareto_front(model, "latency_us")
    points = list(zip(front.costs.tolist(), front.values.tolist(), strict=True))
    verify_front(model, 0, points)
    for wrong in (points[1:], [*points, (points[-1][0] + 1, points[-1][1] + 1)]):
        with pytest.raises(VerificationError, match="front"):
            verify_front(model, 0, wrong)
