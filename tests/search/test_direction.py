"""Every worked number of the corrected ConNAS direction, and the properties that make it one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import ConfigurationError
from toolchain.search.direction import aggregate, direction, modified_gradient

ROW_2 = (0.408248, 0.408248, -0.816497)


@pytest.mark.parametrize(
    ("costs", "bound", "expected"),
    [
        ((1, 2, 3), 5, (0, 0, 0)),
        ((1, 2, 3), 2.5, ROW_2),
        ((1, 2, 3), 1.5, (0.816497, -0.408248, -0.408248)),
        ((10, 20, 30), 5, (0.707107, 0, -0.707107)),
        ((10, 20, 20), 5, (0.816497, -0.408248, -0.408248)),
        ((7, 7, 7), 5, (0, 0, 0)),
        ((1, 2, 3, 4), 0.5, (0.670820, 0.223607, -0.223607, -0.670820)),
        # not available = worst, tied: no NaN
        ((10, math.inf, math.inf), 5, (0.816497, -0.408248, -0.408248)),
        ((1, 2, math.inf), 2.5, ROW_2),
        ((math.inf, math.inf), 5, (0, 0)),
    ],
)
def test_worked_directions(costs: tuple[float, ...], bound: float, expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(direction(costs, bound), expected, atol=1e-6)


def test_ties_are_not_broken_by_index() -> None:
    """The literal passes (1 head, then 2 heads, ...; ties by index) put a bias between two equal candidates."""
    literal = np.array([3.0, -2.0, -1.0]) / math.sqrt(14)
    np.testing.assert_allclose(literal, (0.801784, -0.534522, -0.267261), atol=1e-6)
    ours = direction((10, 20, 20), 5)
    assert ours[1] == ours[2] != literal[1]


def test_two_constraints_are_summed_and_normalised() -> None:
    first, second = direction((1, 2, 3), 2.5), direction((30, 20, 10), 5)
    np.testing.assert_allclose(second, (-0.707107, 0, 0.707107), atol=1e-6)
    np.testing.assert_allclose(aggregate([first, second]), (-0.577350, 0.788675, -0.211325), atol=1e-6)


def test_opposing_directions_cancel_to_zero() -> None:
    first = direction((10, 20, 30), 5)
    assert aggregate([first, -first]).tolist() == [0, 0, 0]
    assert aggregate([], size=2).tolist() == [0, 0]
    with pytest.raises(ConfigurationError, match="no directions"):
        aggregate([])


def test_worked_update() -> None:
    alpha, gradient = np.full(3, 1 / 3), np.array([0.3, -0.4, 0.0])
    toward = direction((1, 2, 3), 2.5)
    assert np.linalg.norm(gradient) == pytest.approx(0.5)
    by_edge = modified_gradient(gradient, toward, rescale=1.2, epsilon=1e-3)
    np.testing.assert_allclose(by_edge, (0.055051, -0.644949, 0.489898), atol=1e-6)
    np.testing.assert_allclose(alpha - 0.1 * by_edge, (0.327828, 0.397828, 0.284344), atol=1e-6)
    by_entry = modified_gradient(gradient, toward, rescale=1.2, epsilon=1e-3, norm="entry")
    # The zero-gradient violator moves by eta R epsilon |D| = 9.8e-5 only.
    np.testing.assert_allclose(alpha - 0.1 * by_entry, (0.318030, 0.392929, 0.333235), atol=1e-6)
    printed = gradient + 1.2 * toward * 0.5  # eq. 2 as printed: away from feasibility
    np.testing.assert_allclose(alpha - 0.1 * printed, (0.278838, 0.348838, 0.382323), atol=1e-6)


def test_a_vanishing_gradient_still_moves() -> None:
    toward = direction((1, 2, 3), 2.5)
    np.testing.assert_allclose(
        -0.1 * modified_gradient(np.zeros(3), toward), 0.1 * 1.2 * 1e-3 * toward, atol=1e-12
    )


def test_the_per_entry_norm_can_move_away() -> None:
    toward = np.array([1.0, 1.0, -1.0]) / math.sqrt(3)
    gradient = np.array([1.0, 1.0, -1.0])
    step = -modified_gradient(gradient, direction((1, 1, 3), 2), norm="entry") @ direction((1, 1, 3), 2)
    assert step == pytest.approx(-0.433, abs=5e-4)  # R = 1.2: away from feasibility
    assert -modified_gradient(gradient, direction((1, 1, 3), 2)) @ direction((1, 1, 3), 2) > 0
    assert -modified_gradient(gradient, toward) @ toward > 0


@pytest.mark.parametrize("costs", [(1.0, math.nan), (1.0, -math.inf), ()])
def test_bad_costs_are_refused(costs: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError):
        direction(costs, 1.0)


def test_bad_arguments_of_the_modified_gradient() -> None:
    with pytest.raises(ConfigurationError, match="unknown norm"):
        modified_gradient([1.0], [1.0], norm="row")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="shape"):
        modified_gradient([1.0], [1.0, 0.0])


COSTS = st.lists(st.one_of(st.integers(1, 6).map(float), st.just(math.inf)), min_size=1, max_size=9)
BOUND = st.sampled_from([0.5, 1.0, 2.0, 3.5, 6.0])


@given(COSTS, BOUND)
def test_unit_norm_or_zero_and_sum_zero(costs: list[float], bound: float) -> None:
    d = direction(costs, bound)
    assert np.isfinite(d).all()
    assert np.linalg.norm(d) == pytest.approx(1, abs=1e-12) or not d.any()
    assert d.sum() == pytest.approx(0, abs=1e-9)


@given(COSTS, BOUND)
def test_ties_get_equal_entries_and_cheaper_never_less(costs: list[float], bound: float) -> None:
    d = direction(costs, bound)
    for i, a in enumerate(costs):
        for j, b in enumerate(costs):
            if a == b:
                assert d[i] == d[j]
            elif a < b:
                assert d[i] >= d[j]


@given(st.integers(1, 6), st.integers(1, 6))
def test_the_closed_form_equals_the_sum_of_unit_vectors(feasible: int, other: int) -> None:
    n = feasible + other
    total = np.zeros(n)
    for j in range(feasible):
        for m in range(feasible, n):
            total[j] += 1 / math.sqrt(2)
            total[m] -= 1 / math.sqrt(2)
    np.testing.assert_allclose(
        direction([1.0] * feasible + [3.0] * other, 2.0), total / np.linalg.norm(total), atol=1e-12
    )


@given(st.permutations(list(range(7))))
def test_without_a_feasible_candidate_entries_are_linear_in_rank(ranks: list[int]) -> None:
    d = direction([10.0 + r**3 for r in ranks], 1.0)
    expected = np.array([6.0 - 2 * r for r in ranks])
    np.testing.assert_allclose(d, expected / np.linalg.norm(expected), atol=1e-12)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.floats(-10, 10)), min_size=2, max_size=8),
    BOUND,
    st.floats(1.001, 10),
    st.sampled_from([1e-4, 0.1, 1.0]),
)
def test_a_plain_gradient_step_always_makes_progress(
    rows: list[tuple[int, float]], bound: float, rescale: float, eta: float
) -> None:
    costs, gradient = [float(c) for c, _ in rows], np.array([g for _, g in rows])
    d = direction(costs, bound)
    if not d.any():
        return
    step = -eta * modified_gradient(gradient, d, rescale=rescale, epsilon=1e-3)
    least = eta * (rescale - 1) * max(float(np.linalg.norm(gradient)), 1e-3)
    assert step @ d >= least * (1 - 1e-9) - 1e-12
