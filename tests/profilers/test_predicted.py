"""What stands in for operators without a row, what is measured next, and what of it the table keeps."""

from __future__ import annotations

import itertools
import math

import pytest

from profilers.lut import Lut
from profilers.predicted import (
    KindError,
    failed_operators,
    fill,
    is_predictor,
    keep_errors,
    kept_errors,
    next_to_measure,
    parse_errors,
)
from profilers.predictor import FEWEST, fit
from toolchain.errors import LutError
from toolchain.graph import Operator
from toolchain.measurement import Stack

STACK = Stack.of({"target": "board", "threads": 1})


def space() -> list[Operator]:
    convolutions = [
        Operator.parse(f"conv2d {n}x{n}x{a}->{n}x{n}x{b} k3x3 s1x1 same relu int8")
        for n, a, b in itertools.product((4, 8), (4, 8, 12), (4, 8, 12))
    ]
    heads = [Operator.parse(f"fully_connected {n}->10 none int8") for n in (8, 16, 24)]
    return [*convolutions, *heads]


def cost(op: Operator) -> float:
    return 100.0 + 1.3 * op.macs


def measured(operators: list[Operator]) -> dict[Operator, float]:
    return {op: cost(op) for op in operators}


def test_a_whole_table_is_taken_as_it_is() -> None:
    found = fill(measured(space()), set(), space())
    assert (dict(found.values), dict(found.predicted), dict(found.kinds)) == (measured(space()), {}, {})
    assert math.isnan(found.error)


def test_gaps_are_filled_and_what_is_measured_stays() -> None:
    known = measured([op for number, op in enumerate(space()) if number % 2 or op.kind != "conv2d"])
    found = fill(known, set(), space())
    assert list(found.values) == space()
    assert found.predicted.keys() == set(space()) - known.keys()
    for op in space():
        if op in known:
            assert found.values[op] == known[op]
        else:
            assert found.values[op] == found.predicted[op].value == pytest.approx(cost(op), rel=0.1)
    ((kind, error),) = found.kinds.items()
    model = fit(known).kinds[kind]
    assert (error, found.error) == (KindError(9, model.error, model.worst), model.error)


def test_rows_of_other_spaces_help() -> None:
    others = measured(space())
    alone = [Operator.parse("conv2d 6x6x4->6x6x8 k3x3 s1x1 same relu int8")]
    found = fill(others, set(), alone)
    assert found.values[alone[0]] == pytest.approx(cost(alone[0]), rel=0.1)


def test_a_kind_that_is_hardly_measured_and_one_that_the_target_refuses() -> None:
    some = measured(space()[:9])
    with pytest.raises(LutError, match="fully_connected int8 cannot be predicted"):
        fill(some, set(), space())
    with pytest.raises(LutError, match="1 operators of this space could not be measured"):
        fill(some, {space()[10]}, space())


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 1.0])
def test_rounds_measure_the_share_and_what_every_kind_needs(share: float) -> None:
    known: dict[Operator, float] = {}
    sizes = []
    for done in (0.25, 0.5, 0.75, 1.0):
        chosen = next_to_measure(space(), known, share, done)
        assert not known.keys() & set(chosen)
        known |= measured(chosen)
        sizes.append(len(known))
    least = FEWEST + 3  # all of the three heads
    assert sizes[-1] == max(math.ceil(share * len(space())), least)
    assert sizes == sorted(sizes)
    assert sizes[0] >= least
    fill(known, set(), space())
    assert next_to_measure(space(), known, share, 1.0) == []


def test_what_is_known_of_one_kind_does_not_stand_for_another() -> None:
    known = measured(space()[:15])
    chosen = next_to_measure(space(), known, 0.1, 1.0)
    assert {op.kind for op in chosen} == {"fully_connected"}


def test_the_table_keeps_errors_with_their_history() -> None:
    with Lut.in_memory() as lut:
        assert kept_errors(lut, STACK, "cycles") == {}
        first, second = (
            {"conv2d window int8": KindError(6, 0.1, 0.3)},
            {"softmax int8": KindError(7, 0.0, 0.01)},
        )
        keep_errors(lut, STACK, "cycles", first)
        keep_errors(lut, STACK, "cycles", first)
        assert kept_errors(lut, STACK, "cycles") == first
        keep_errors(lut, STACK, "cycles", second)
        assert kept_errors(lut, STACK, "cycles") == second
        history = [row for row in lut.calibration_history(STACK) if is_predictor(row.metric)]
        assert [parse_errors(row.text) for row in history] == [first, second]
        # They are not taken for corrections of sums, nor for those of another stack or metric.
        assert lut.calibration(STACK, "cycles") is None
        assert kept_errors(lut, STACK, "latency_us") == {}
        lut.put_failure(STACK, space()[0], "cycles", "no memory")
        assert failed_operators(lut, STACK, "cycles") == {space()[0]}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kinds": {"a": {"error": 1}}}', '{"kinds": 3}'])
def test_damaged_errors_are_noticed(text: str) -> None:
    with pytest.raises(LutError, match="not stored errors"):
        parse_errors(text)
