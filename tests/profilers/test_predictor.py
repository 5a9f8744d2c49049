from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers import predictor as module
from profilers.predictor import FEWEST, choose, fit
from toolchain.errors import LutError
from toolchain.graph import Operator


def convolutions() -> list[Operator]:
    sizes, channels = (4, 8, 12), (3, 4, 8, 12, 16)
    return [
        Operator.parse(f"conv2d {n}x{n}x{a}->{n}x{n}x{b} k3x3 s1x1 same relu int8")
        for n, a, b in itertools.product(sizes, channels, channels)
    ]


def linear(op: Operator) -> float:
    return 100.0 + 1.3 * op.macs + 9.0 * math.prod(op.output)


def steps(op: Operator) -> float:
    """A kernel that computes channels in fours, and pays for the rest."""
    padded = -(-op.output[-1] // 4) * 4 * -(-op.inputs[0][-1] // 4) * 4 * 9 * op.output[1] * op.output[2]
    return 400.0 + 1.1 * padded + 30.0 * op.output[1]


def test_a_linear_cost_is_found_from_few_operators() -> None:
    every = convolutions()
    known = every[::5]
    model = fit({op: linear(op) for op in known})
    for op, found in model.predict(every).items():
        assert found.value == pytest.approx(linear(op), rel=0.01)


def test_steps_of_the_channels_are_learned() -> None:
    every = convolutions()
    known = every[::2]
    model = fit({op: steps(op) for op in known})
    errors = [
        abs(found.value / steps(op) - 1) for op, found in model.predict(set(every) - set(known)).items()
    ]
    assert np.mean(errors) < 0.03
    (kind,) = model.kinds.values()
    assert kind.operators == len(known)
    assert 0 <= kind.error <= kind.worst


def test_left_out_errors_are_those_of_refitting_without_each() -> None:
    rows = {op: steps(op) for op in convolutions()[::4]}
    (kind,) = fit(rows).kinds.values()
    operators = sorted(rows, key=lambda op: op.signature)
    base = module._counts(operators) @ kind._trend
    left = np.log(np.array([rows[op] for op in operators]) / base)
    errors = []
    for i in range(len(operators)):
        keep = np.arange(len(operators)) != i
        kernel = module._matern(kind._inputs[keep], kind._inputs[keep], kind._lengths)
        kernel += kind._noise * np.eye(keep.sum())
        cross = module._matern(kind._inputs[i : i + 1], kind._inputs[keep], kind._lengths)
        errors.append(abs(math.expm1(float((cross @ np.linalg.solve(kernel, left[keep]))[0]) - left[i])))
    assert kind.error == pytest.approx(np.mean(errors), rel=1e-6)
    assert kind.worst == pytest.approx(max(errors), rel=1e-6)


def test_a_measured_operator_is_predicted_close_to_its_value_and_surely() -> None:
    every = convolutions()
    known = every[::3]
    model = fit({op: steps(op) for op in known})
    found = model.predict(every)
    assert np.mean([found[op].spread for op in known]) < np.mean(
        [found[op].spread for op in every if op not in known]
    )


def test_too_few_of_a_kind_are_refused_by_name() -> None:
    known = dict.fromkeys(convolutions()[: FEWEST - 1], 1.0)
    model = fit(known)
    assert not model.covers(next(iter(known)))
    with pytest.raises(LutError, match="conv2d") as caught:
        model.predict(known)
    assert "boardfit profile" in caught.value.remedy


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_cost_that_cannot_be_is_refused(value: float) -> None:
    with pytest.raises(LutError, match="must be positive and finite"):
        fit({convolutions()[0]: value})


def test_choosing_gives_every_kind_what_it_needs_first() -> None:
    pools = [
        Operator.parse(f"average_pool {n}x{n}x8->1x1x8 k{n}x{n} s1x1 valid none int8") for n in range(2, 12)
    ]
    chosen = choose([*convolutions(), *pools], {}, 2 * FEWEST)
    assert sum(op.kind == "average_pool" for op in chosen) == FEWEST
    assert len(set(chosen)) == 2 * FEWEST


def test_choosing_is_repeatable_and_never_measures_twice() -> None:
    every = convolutions()
    values = {op: steps(op) for op in every[::6]}
    first = choose(every, values, 20)
    assert first == choose(every, dict(reversed(values.items())), 20)
    assert not set(first) & set(values)
    assert len(choose(every, values, 10_000)) == len(every) - len(values)
    assert choose(every, dict.fromkeys(every, 1.0), 5) == []


def test_chosen_operators_teach_more_than_the_first_ones_of_a_list() -> None:
    every = convolutions()
    known: dict[Operator, float] = {}
    while len(known) < 24:
        known.update((op, steps(op)) for op in choose(every, known, 6))
    clever, plain = fit(known), fit({op: steps(op) for op in every[:24]})

    def error(model: module.Predictor) -> float:
        return float(np.mean([abs(f.value / steps(op) - 1) for op, f in model.predict(every).items()]))

    assert error(clever) < error(plain)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 10_000))
def test_non_negative_least_squares_meets_its_conditions(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    x = module._non_negative(a, b)
    gradient = a.T @ (a @ x - b)
    assert np.all(x >= 0)
    assert np.all(gradient >= -1e-6)  # no coordinate could grow
    assert np.all(np.abs(gradient[x > 1e-9]) <= 1e-6)  # and none in use should move
