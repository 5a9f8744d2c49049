"""Rank figures against their definitions, and against scipy where it is there."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from toolchain.errors import ConfigurationError
from toolchain.search.estimators import kendall_tau, rank_quality, spearman_rho


def tau_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """tau-b from all pairs."""
    pairs = [
        (np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(len(a)), 2)
    ]
    score = sum(x * y for x, y in pairs)
    return float(score / math.sqrt(sum(x != 0 for x, _ in pairs) * sum(y != 0 for _, y in pairs)))


@pytest.mark.parametrize("values", [3, 10, 10**6])
@pytest.mark.parametrize("n", [5, 17, 64])
def test_kendall_is_its_definition(n, values):
    rng = np.random.default_rng([n, values])
    for _ in range(5):
        a, b = rng.integers(values, size=n), rng.integers(values, size=n)
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert kendall_tau(a, b) == pytest.approx(tau_by_definition(a, b), abs=1e-12)


def test_both_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n, values in itertools.product((2, 10, 501), (4, 10**9)):
        a = rng.integers(values, size=n)
        b = a + rng.integers(values, size=n)
        if len(set(a)) > 1 and len(set(b)) > 1:
            assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
            assert spearman_rho(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_orders_and_constants():
    up = [1.0, 2.0, 5.0, 9.0]
    assert kendall_tau(up, up) == pytest.approx(1)
    assert spearman_rho(up, up[::-1]) == pytest.approx(-1)
    assert spearman_rho(np.exp(up), up) == pytest.approx(1)
    assert math.isnan(kendall_tau(up, [1, 1, 1, 1]))
    assert math.isnan(spearman_rho([0, 0, 0, 0], up))
    found = rank_quality([1, 2, 3], [1, 2, 5])
    assert (found.mse, found.samples) == (pytest.approx(4 / 3), 3)


def test_what_cannot_be_ranked_is_refused():
    for a, b in (([1], [1]), ([1, 2], [1, 2, 3]), ([[1, 2]], [[1, 2]])):
        with pytest.raises(ConfigurationError, match="two vectors"):
            kendall_tau(a, b)
    with pytest.raises(ConfigurationError, match="NaN"):
        spearman_rho([1, math.nan], [1, 2])
