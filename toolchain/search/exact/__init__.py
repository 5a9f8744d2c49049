"""Exact selection under budgets (BINAS): models in integers, optima with certificates, Pareto fronts."""

from toolchain.search.exact.certificate import Certificate, Verdict, verify, verify_front
from toolchain.search.exact.model import ArcFlow, Layer, Metric, Stages, from_chain, from_layers, from_stages
from toolchain.search.exact.solution import Solution

__all__ = [
    "ArcFlow",
    "Certificate",
    "Layer",
    "Metric",
    "Solution",
    "Stages",
    "Verdict",
    "from_chain",
    "from_layers",
    "from_stages",
    "verify",
    "verify_front",
]
