"""Predictions of measured metrics err: the search keeps a margin below their budgets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toolchain.errors import InfeasibleError
from toolchain.units import Budget, parse_budget
from toolchain.workflow.budgets import tightened
from toolchain.workflow.project import open_project
from toolchain.workflow.search import search


def test_the_margin_tightens_what_is_measured_and_nothing_else() -> None:
    limits = (Budget("latency_us", 110.0), Budget("flash_bytes", 1000.0))
    latency, flash = tightened(limits, {"latency_us": 10.0})
    assert (latency.metric, latency.bound) == ("latency_us", pytest.approx(100.0))
    assert flash == limits[1]
    assert tightened(limits, {}) == limits


def test_an_infeasible_latency_names_the_budget_that_would_do(finished: Path) -> None:
    def refused(text: str) -> InfeasibleError:
        with pytest.raises(InfeasibleError) as caught:
            search(open_project(finished), budgets=(parse_budget("latency", text),))
        return caught.value

    error = refused("1 ns")
    assert "the latency budget less search.margin, 10 %" in error.message
    (value,) = re.findall(r'with the margin that is latency = "(.+)"', error.remedy)
    # What the remedy names is enough for the nearest design; the bare figure of the table is not.
    assert parse_budget("latency", value).bound / 1.1 >= error.nearest_costs["latency_us"]
    with pytest.raises(InfeasibleError) as other:
        search(open_project(finished), budgets=(Budget("flash_bytes", 10.0),))
    assert "margin" not in other.value.message + other.value.remedy
    assert not search(open_project(finished), budgets=(parse_budget("latency", value),)).reused
