"""Calibration: recovers what made the data, and judges itself on networks that it has not seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilers.calibrate import (
    Calibration,
    average_ranks,
    calibrate,
    fit,
    mean_absolute_percentage_error,
    share_within,
    spearman,
)
from profilers.lut import Lut
from toolchain.errors import ConfigurationError, LutError
from toolchain.graph import Operator
from toolchain.measurement import Evidence, Stack

STACK = Stack.of({"target": "test", "runtime": "none"})


def networks(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw sums and operator counts of n networks."""
    counts = rng.integers(5, 60, n).astype(float)
    return counts * rng.uniform(2, 40, n), counts


@pytest.mark.parametrize("terms", [(0.0, 0.8, 0.0), (12.0, 0.9, 0.0), (0.0, 0.7, 1.5), (20.0, 1.1, 0.4)])
def test_exact_data_give_exact_terms(terms: tuple[float, float, float]) -> None:
    sums, counts = networks(np.random.default_rng(1), 30)
    measured = terms[0] + terms[1] * sums + terms[2] * counts
    result = fit(sums, counts, measured, stack=STACK)
    assert (result.intercept, result.scale, result.per_operator) == pytest.approx(terms, abs=1e-6)
    assert result.mape == pytest.approx(0, abs=1e-6)
    assert result.share_within_10 == 1
    assert result.spearman == pytest.approx(1)
    assert (result.n_fit, result.n_held_out, result.method) == (30, 30, "10-fold")
    assert result.stack == STACK.fingerprint
    np.testing.assert_allclose(result.predict(sums, counts), measured, rtol=1e-9)


def test_a_call_counted_once_per_operator_comes_off_again() -> None:
    """Half a microsecond of calling is in every one-operator model, and once in the whole network."""
    sums, counts = networks(np.random.default_rng(2), 24)
    measured = sums - 0.5 * (counts - 1)
    result = fit(sums, counts, measured, operator_floor=0.6)
    assert result.per_operator == pytest.approx(-0.5)
    assert result.intercept == pytest.approx(0.5, abs=1e-6)
    assert fit(sums, counts, measured).per_operator >= 0
    # The bound: no operator becomes cheaper than nothing.
    bounded = fit(sums, counts, sums - 0.5 * (counts - 1), operator_floor=0.2)
    assert bounded.per_operator >= -0.2 * bounded.scale - 1e-12


def test_noise_is_held_out_honestly() -> None:
    rng = np.random.default_rng(3)
    sums, counts = networks(rng, 40)
    measured = (5 + 0.8 * sums) * rng.normal(1, 0.05, 40)
    result = fit(sums, counts, measured)
    assert 2 < result.mape < 6
    assert result.share_within_10 > 0.85
    assert result.scale == pytest.approx(0.8, rel=0.1)


def test_held_out_networks_take_no_part_in_the_fit() -> None:
    sums, counts = networks(np.random.default_rng(4), 12)
    result = fit(
        sums, counts, 0.5 * sums, held_out=([100.0, 200.0, 400.0], [10, 10, 10], [100.0, 200.0, 400.0])
    )
    assert result.scale == pytest.approx(0.5)
    assert result.mape == pytest.approx(50)
    assert (result.n_fit, result.n_held_out, result.method) == (12, 3, "held-out set")
    assert result.share_within_10 == 0
    assert result.spearman == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_networks_fit_a_scale_only(n: int) -> None:
    sums, counts = networks(np.random.default_rng(5), n)
    result = fit(sums, counts, 3.0 + 0.8 * sums)
    assert result.intercept == result.per_operator == 0
    assert result.n_held_out == (n if n > 1 else 0)
    assert result.method == ("leave-one-out" if n > 1 else "none")
    assert math.isnan(result.mape) == (n == 1)


def test_equal_networks_do_not_break_the_fit() -> None:
    result = fit([10.0] * 6, [5] * 6, [8.0] * 6)
    assert result.predict([10.0], [5])[0] == pytest.approx(8)
    assert result.mape == pytest.approx(0, abs=1e-9)
    assert math.isnan(result.spearman)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0, 0.5), st.floats(0, 3))
def test_any_data_give_terms_within_their_bounds(seed: int, n: int, noise: float, floor: float) -> None:
    rng = np.random.default_rng(seed)
    sums, counts = networks(rng, n)
    measured = (rng.uniform(0, 20) + rng.uniform(0.2, 2) * sums) * np.exp(rng.normal(0, noise, n))
    result = fit(sums, counts, measured, operator_floor=floor)
    assert result.intercept >= 0
    assert result.scale >= 0
    assert result.per_operator >= -floor * result.scale - 1e-9
    assert (result.predict(sums, counts) > 0).all()
    copy = Calibration.from_json(result.to_json())
    assert copy.to_json() == result.to_json()


@pytest.mark.parametrize(
    ("sums", "counts", "measured"),
    [
        ([], [], []),
        ([1.0], [1], [1.0, 2.0]),
        ([0.0], [1], [1.0]),
        ([1.0], [1], [math.nan]),
        ([1.0], [0], [1.0]),
    ],
)
def test_impossible_data_are_refused(sums: list[float], counts: list[int], measured: list[float]) -> None:
    with pytest.raises(ConfigurationError, match="calibration needs"):
        fit(sums, counts, measured)


def test_ranks_and_errors() -> None:
    np.testing.assert_array_equal(average_ranks([3, 1, 3, 2]), [3.5, 1, 3.5, 2])
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1)
    assert math.isnan(spearman([1, 2], [1, 2]))
    assert mean_absolute_percentage_error([90, 120], [100, 100]) == pytest.approx(15)
    assert share_within([90, 111, 100], [100, 100, 100], 0.1) == pytest.approx(2 / 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=20))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = (list(side) for side in zip(*pairs, strict=True))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_json_keeps_everything_and_refuses_the_rest() -> None:
    result = fit([1.0], [1], [2.0], evidence=Evidence.CYCLES_ESTIMATED, metric="cycles")
    copy = Calibration.from_json(result.to_json())
    assert (copy.metric, copy.evidence, copy.scale) == ("cycles", Evidence.CYCLES_ESTIMATED, 2.0)
    assert math.isnan(copy.mape)
    for text in ("", "[]", "{}", result.to_json().replace('"scale": 2.0', '"scale": null'), "null"):
        with pytest.raises(LutError, match="not a stored calibration"):
            Calibration.from_json(text)


def test_calibrate_keeps_the_result_in_the_lut() -> None:
    a = Operator("hard_swish", ((1, 8),), (1, 8))
    b = Operator("softmax", ((1, 8),), (1, 8))
    values = {a: 3.0, b: 5.0}
    rng = np.random.default_rng(6)
    runs = []
    for i in range(12):
        operators = [a] * int(rng.integers(1, 9)) + [b] * int(rng.integers(1, 9))
        raw = sum(values[op] for op in operators)
        runs.append((f"net{i}", operators, 2.0 + 0.9 * raw - 1.0 * len(operators)))
    with Lut.in_memory() as lut:
        result = calibrate(lut, STACK, values, runs)
        stored = lut.calibration(STACK, "latency_us")
        assert stored is not None
        assert Calibration.from_json(stored.text) == result
    assert (result.intercept, result.scale, result.per_operator) == pytest.approx((2.0, 0.9, -1.0), abs=1e-6)
    with Lut.in_memory() as lut, pytest.raises(LutError, match=r"1 operators of net0.*softmax"):
        calibrate(lut, STACK, {a: 3.0}, runs)
