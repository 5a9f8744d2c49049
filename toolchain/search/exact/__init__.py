"""Exact selection under budgets (BINAS): models in integers, optima with certificates, Pareto fronts."""

from toolchain.search.exact.alternatives import Change, best_designs, sweep, what_if
from toolchain.search.exact.certificate import Certificate, Verdict, verify, verify_front
from toolchain.search.exact.front import Front, pareto_front
from toolchain.search.exact.model import ArcFlow, Layer, Metric, Stages, from_chain, from_layers, from_stages
from toolchain.search.exact.solution import Solution
from toolchain.search.exact.solver import solve, solve_or_none

__all__ = [
    "ArcFlow",
    "Certificate",
    "Change",
    "Front",
    "Layer",
    "Metric",
    "Solution",
    "Stages",
    "Verdict",
    "best_designs",
    "from_chain",
    "from_layers",
    "from_stages",
    "pareto_front",
    "solve",
    "solve_or_none",
    "sweep",
    "verify",
    "verify_front",
    "what_if",
]
