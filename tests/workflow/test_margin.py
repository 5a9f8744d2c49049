"""Predictions of measured metrics err: the search keeps a margin below their budgets."""

from __future__ import annotations

import pytest

from toolchain.units import Budget
from toolchain.workflow.search import tightened


def test_the_margin_tightens_what_is_measured_and_nothing_else() -> None:
    limits = (Budget("latency_us", 110.0), Budget("flash_bytes", 1000.0))
    latency, flash = tightened(limits, 10.0)
    assert (latency.metric, latency.bound) == ("latency_us", pytest.approx(100.0))
    assert flash == limits[1]
    assert tightened(limits, 0.0) == limits
