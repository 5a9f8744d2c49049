"""Solves arc-flow instances with OR-Tools' CP-SAT, on integers without tolerances. Its own process, because ortools
and highspy cannot be imported in one: reads JSON on stdin, writes JSON on stdout. Uses no code of this project.
"""

from __future__ import annotations

import json
import sys

from ortools.sat.python import cp_model  # type: ignore[import-not-found]


def solve(instance: dict) -> int | None:
    model = cp_model.CpModel()
    arcs = [model.NewBoolVar("") for _ in instance["start"]]
    for node in range(instance["nodes"]):
        leaving = [x for x, s in zip(arcs, instance["start"], strict=True) if s == node]
        coming = [x for x, e in zip(arcs, instance["end"], strict=True) if e == node]
        balance = 1 if node == 0 else -1 if node == instance["nodes"] - 1 else 0
        model.Add(sum(leaving) - sum(coming) == balance)
    for costs, limit in zip(instance["costs"], instance["limits"], strict=True):
        model.Add(cp_model.LinearExpr.WeightedSum(arcs, costs) <= limit)
    model.Maximize(cp_model.LinearExpr.WeightedSum(arcs, instance["value"]))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.relative_gap_limit = 0.0
    status = solver.Solve(model)
    if status == cp_model.INFEASIBLE:
        return None
    if status != cp_model.OPTIMAL:
        raise RuntimeError(solver.StatusName(status))
    return round(solver.ObjectiveValue())


if __name__ == "__main__":
    json.dump([solve(instance) for instance in json.load(sys.stdin)], sys.stdout)
