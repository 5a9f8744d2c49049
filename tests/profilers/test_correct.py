"""The correction from networks near the optimum: exact cases, and that the loop over it comes to rest."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from profilers.calibrate import Calibration, fit
from profilers.correct import (
    Candidate,
    Correction,
    RowAgain,
    correction_history,
    correction_row,
    fit_correction,
    has_moved,
    is_correction,
    moved_text,
    rows_before,
    wrong_kinds,
)
from profilers.lut import Lut
from profilers.lut_io import export_lut, import_lut
from toolchain.errors import ConfigurationError, LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

STACK = Stack.of({"target": "a board"})
METRIC = "cycles"
CONVS = [
    Operator.parse(f"conv2d 8x8x4->8x8x{channels} k3x3 s1x1 same relu int8") for channels in (2, 4, 6, 8)
]


def of(
    ratios: list[float], *, at: float = 1000.0, costs: list[float] | None = None, **more: object
) -> Correction:
    """A correction from networks whose measured value is `ratio` times the predicted one."""
    costs = costs or [1000.0] * len(ratios)
    networks = [
        Candidate(f"n{i}", f"k{i}", cost, cost * ratio)
        for i, (cost, ratio) in enumerate(zip(costs, ratios, strict=True))
    ]
    settings = {"metric": METRIC, "stack": STACK, "scope": "s", "at": at, "usual_error": 0.01, **more}
    return fit_correction(networks, **settings)  # type: ignore[arg-type]


def test_what_all_networks_share_is_believed() -> None:
    found = of([1.3, 1.3, 1.3, 1.3])
    assert found.factor == pytest.approx(1.3, rel=1e-3)
    assert found.error_before_percent == pytest.approx(100 * 0.3 / 1.3)
    assert found.error_after_percent < 0.1


def test_what_a_model_errs_on_any_network_is_not() -> None:
    """2 % on one network, of a model that is off by 10 % on any: a twenty-sixth of it is believed."""
    found = of([1.02], usual_error=0.10)
    mean = math.log(1.02)
    assert found.shrinkage == pytest.approx(mean**2 / (mean**2 + 0.01))
    assert abs(found.factor - 1) < 1e-3
    # Where nothing disagrees nothing changes.
    assert of([1.0, 1.0]).factor == 1.0


def test_more_networks_are_believed_more_and_scattered_ones_less() -> None:
    few, many = (of([1.05] * n, usual_error=0.05).shrinkage for n in (1, 8))
    assert few == pytest.approx(0.49, abs=0.01)
    assert many > 0.98
    assert of([1.2, 0.9, 1.15, 0.95]).shrinkage < of([1.05, 1.05, 1.05, 1.05]).shrinkage


def test_networks_count_by_how_near_they_are() -> None:
    """A network of the winner's cost says 1.2, one that is ten times as dear says 0.8."""
    near = of([1.2, 0.8], costs=[1000.0, 10_000.0], at=1000.0)
    far = of([1.2, 0.8], costs=[1000.0, 10_000.0], at=10_000.0)
    assert near.factor == pytest.approx(1.2, rel=0.01)
    assert far.factor == pytest.approx(0.8, rel=0.01)
    alone = of([1.2], costs=[1000.0], at=1e9)  # nothing is near: what there is counts
    assert alone.factor > 1.15


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_costs_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="positive costs"):
        of([1.0], costs=[value])
    with pytest.raises(ConfigurationError, match="positive costs"):
        of([], costs=[])


def test_the_factor_is_on_all_terms_of_a_calibration() -> None:
    calibration = fit([10.0, 20.0, 40.0, 55.0, 80.0], [2, 3, 5, 6, 9], [13.0, 24.0, 47.0, 63.0, 92.0])
    corrected = of([1.25] * 4).applied(calibration)
    assert isinstance(corrected, Calibration)
    assert corrected.predict(30.0, 4) == pytest.approx(of([1.25] * 4).factor * calibration.predict(30.0, 4))


def test_every_correction_stays_in_the_table(tmp_path: Path) -> None:
    first, second, elsewhere = of([1.3] * 4), of([1.1] * 4, round=2, before=1.3), of([2.0] * 4, scope="other")
    times = ("2026-01-01T00:00:00.000000+00:00", "2026-01-02T00:00:00.000000+00:00")
    with Lut.open(tmp_path / "a.sqlite") as lut:
        rows = [correction_row(STACK, one, at) for one, at in zip((first, second), times, strict=True)]
        lut.absorb((), [*rows, correction_row(STACK, elsewhere, times[1])])
        lut.absorb((), rows)  # offered again after a crash: there once
        assert history(lut, "s") == [first, second]
        assert history(lut, "other") == [elsewhere]
        assert history(lut, "none") == []
        assert lut.calibration(STACK, METRIC) is None  # a correction is no calibration
        assert all(is_correction(row.metric) for row in lut.calibration_history(STACK))
        export_lut(lut, tmp_path / "a.json")
    with Lut.open(tmp_path / "b.sqlite") as lut:
        import_lut(lut, tmp_path / "a.json")
        assert history(lut, "s") == [first, second]


def history(lut: Lut, scope: str) -> list[Correction]:
    return [found for _, found in correction_history(lut, STACK, METRIC, scope)]


def again(op: Operator, before: float | None, value: float, speed: float = 1.0) -> RowAgain:
    found = Measurement(
        METRIC,
        value,
        Evidence.CYCLES_ESTIMATED,
        (value, value),
        False,
        {"a": "b"},
        "2026-01-03T00:00:00.000000+00:00",
    )
    return RowAgain.of(op, before, value, speed, found)


def test_rows_that_were_measured_again_travel_with_the_correction() -> None:
    row = again(CONVS[0], 10.0, 20.0)
    found = of([1.3] * 4, rows=[row])
    assert found.rows == (row,)
    assert Correction.from_json(found.to_json()) == found
    kept = row.row(STACK)
    assert kept.subject == CONVS[0]
    assert kept.measurement.value == 20.0
    assert kept.measurement.samples == (20.0, 20.0)
    assert kept.measurement.evidence is Evidence.CYCLES_ESTIMATED
    with Lut.in_memory() as lut:
        lut.absorb([kept])
        lut.absorb([Correction.from_json(found.to_json()).rows[0].row(STACK)])  # offered again: the same row
        (there,) = lut.rows(STACK)
        assert there == kept
    old = json.loads(found.to_json())
    del old["rows"]  # as earlier versions wrote it
    assert Correction.from_json(json.dumps(old)) == replace(found, rows=())


def test_what_moved_is_told_by_kind() -> None:
    pool = Operator.parse("max_pool 8x8x4->4x4x4 k2x2 s2x2 valid none int8")
    rows = [
        again(CONVS[0], 10.0, 20.0),
        again(CONVS[1], 10.0, 19.0),
        again(pool, 4.0, 2.0),
        again(CONVS[2], None, 9.0),
    ]
    assert (
        moved_text(rows) == "2 rows of conv2d x 1.9 to 2, 1 row of max_pool x 0.5, 1 row that was predicted"
    )
    assert moved_text([asdict(row) for row in rows]) == moved_text(rows)
    assert moved_text([]) == ""


def test_a_table_as_it_was_before_rows_were_measured_again() -> None:
    """Two loops moved the same row, one added a row; one row was measured otherwise since."""
    one, two, other, new = (op.signature for op in CONVS)
    rounds = [
        of([1.0], rows=[again(CONVS[0], 10.0, 20.0, speed=4.0), again(CONVS[2], 7.0, 8.0)]),
        of([1.0], rows=[again(CONVS[0], 10.0, 30.0, speed=2.0), again(CONVS[3], None, 9.0)]),
    ]
    now = {one: 15.0, two: 3.0, other: 8.5, new: 9.0}
    assert rows_before(rounds, now) == {one: 2.5, two: 3.0, other: 8.5}
    assert rows_before(rounds, {one: 16.0}) == {one: 16.0}
    assert rows_before([], now) == now


def test_a_kind_is_wrong_where_most_of_its_rows_moved() -> None:
    ratios = dict(zip(CONVS, (2.0, 0.5, 1.03, 1.0), strict=True))
    assert wrong_kinds(ratios, 2.0) == {"conv2d"}
    assert wrong_kinds(ratios, 5.0) == set()  # half is not most: single rows
    ratios[replace(CONVS[0], algorithm="winograd")] = 0.9
    assert wrong_kinds(ratios, 5.0) == {"conv2d"}
    assert wrong_kinds({}, 2.0) == set()
    assert has_moved(1 / 1.03, 2.0)
    assert not has_moved(1 / 1.03, 3.0)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"factor": 1}'])
def test_another_text_is_no_correction(text: str) -> None:
    with pytest.raises(LutError, match="not a stored correction"):
        Correction.from_json(text)
    broken = of([1.0]).to_json().replace('"factor": 1.0', '"factor": -1.0')
    with pytest.raises(LutError, match="factor"):
        Correction.from_json(broken)


@pytest.mark.parametrize("bias", [0.6, 0.9, 1.0, 1.1, 1.7])
@pytest.mark.parametrize("scatter", [0.0, 0.03, 0.10])
def test_the_loop_comes_to_rest(bias: float, scatter: float) -> None:
    """400 networks with a worth and a cost; the model is off by `bias`, and by `scatter` more on each network.

    Selection takes the best that keeps the budget: a measured one by its measurement, another by the corrected model.
    The best four are measured in each round. Whatever the errors are, it ends, no network that was seen to break the
    budget is chosen, and the factor does not swing.
    """
    tolerance, budget = 0.05, 1000.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = rng.uniform(300, 2000, 400)
        true = model * bias * np.exp(rng.normal(0, scatter, 400))
        worth = np.log(model) + rng.normal(0, 0.1, 400)
        known: dict[int, float] = {}
        factors, winners = [1.0], []
        for number in range(1, 40):
            costs = factors[-1] * model
            decided = [known.get(i, costs[i]) for i in range(400)]
            ranked = sorted((i for i in range(400) if max(decided[i], 0) <= budget), key=lambda i: -worth[i])
            winner, fresh = ranked[0], [i for i in ranked[:4] if i not in known]
            winners.append(winner)
            known |= {i: float(true[i]) for i in fresh}
            kept = true[winner] <= budget
            if kept and (abs(costs[winner] / true[winner] - 1) <= tolerance or not fresh):
                break
            networks = [Candidate(str(i), str(i), float(model[i]), value) for i, value in known.items()]
            found = fit_correction(
                networks, metric=METRIC, stack=STACK, scope="s", at=float(model[winner]),
                usual_error=max(scatter, 0.005), round=number, before=factors[-1],
            )  # fmt: skip
            factors.append(found.factor)
        else:
            pytest.fail(f"seed {seed}: no end after 39 rounds, factors {factors}")
        assert true[winner] <= budget
        broke = [i for i in winners if true[i] > budget]
        assert len(broke) == len(set(broke))  # each at most once: then it was known
        steps = np.abs(np.diff(np.log(factors)))
        assert len(factors) <= 2 or steps[1:].max() <= steps[0] + 2 * scatter
        if scatter <= 0.03:
            assert number <= 6
