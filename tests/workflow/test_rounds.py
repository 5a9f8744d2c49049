"""Hardware in the loop on a virtual board whose table is wrong: rounds correct it, end, and can be stopped anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from profilers.correct import correction_history
from profilers.lut import Lut
from targets.session import describe
from tests.workflow.biased import BOARD as URL
from tests.workflow.biased import bias, price_of_the_middle, wide_project
from tests.workflow.projects import edit, same, timeless
from toolchain.errors import InfeasibleError
from toolchain.graph.operator import Operator
from toolchain.measurement import Measurement
from toolchain.units import Budget
from toolchain.workflow import candidates
from toolchain.workflow.costs import open_costs
from toolchain.workflow.project import Project, open_project
from toolchain.workflow.rounds import RoundsOutcome, search_in_rounds
from toolchain.workflow.search import search

for name in ("unicorn", "capstone", "serial", "elftools"):
    pytest.importorskip(name, reason=f"a virtual board needs {name}")

pytestmark = pytest.mark.usefixtures("without_onnx")


@pytest.fixture(scope="module")
def _profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 networks, and a table of their operators; every one of them is scored by the search."""
    folder = wide_project(
        tmp_path_factory.mktemp("rounds") / "wide",
        samples='samples = 60\nmethod = "random"',
        search_epochs=2,
        epochs=2,
    )
    search(open_project(folder))  # the supernet and all scores are kept: what follows takes a second
    return folder


@pytest.fixture
def wide(_profiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_profiled, tmp_path / "wide"))


def budgeted(folder: Path, cycles: float) -> Project:
    edit(folder, 'cycles = "1 M"', f"cycles = {round(cycles)}")
    return open_project(folder)


def facts(outcome: RoundsOutcome) -> dict[str, Any]:
    """What must not depend on how often a run was stopped."""
    found = outcome.search
    values = {
        "network": [found.architecture, found.score, found.predicted, found.exact, found.alternatives],
        "rounds": [asdict(one) for one in outcome.rounds],
        "end": [outcome.settled, outcome.why, outcome.limit, outcome.tolerance],
    }
    plain: dict[str, Any] = timeless(json.loads(json.dumps(values, default=dict)))
    return plain


def test_a_true_table_settles_in_the_first_round(wide: Path) -> None:
    project = budgeted(wide, price_of_the_middle(wide))
    outcome = search_in_rounds(project)
    assert outcome.settled
    (only,) = outcome.rounds
    assert only.correction == {}
    assert [c.chosen for c in only.candidates] == [True, False, False, False]
    for candidate in only.candidates:
        assert candidate.evidence == {"cycles": "cycles_estimated", "latency_us": "cycles_estimated"}
        assert abs(candidate.error_percent["cycles"]) < 2
        assert candidate.measured["latency_us"] == pytest.approx(candidate.measured["cycles"] / 120)
    assert outcome.tolerance == {"cycles": 2.0, "latency_us": 2.0}
    record = project.latest("rounds")
    assert record is not None
    assert record["rounds"][0]["candidates"][0]["text"] == outcome.search.text
    with Lut.open(project.lut_path) as lut:
        assert correction_history(lut, None, "cycles") == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda op: 0.7, id="all too low"),
        pytest.param(lambda op: 1.5, id="all too high"),
        pytest.param(
            lambda op: 0.6 if op.kind == "conv2d" and op.output[-1] > 4 else 1.1, id="the large ones too low"
        ),
        pytest.param(lambda op: 0.5 if op.kind == "conv2d" else 1.0, id="one kind too low"),
        pytest.param(lambda op: 0.5 if op.output[-1] == 3 else 1.6, id="each its own way"),
    ],
)
def test_a_wrong_table_is_corrected(
    wide: Path, wrong: Callable[[Operator], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = price_of_the_middle(wide)
    with Lut.open(wide / "lut.sqlite") as lut:
        true = lut.table(describe(URL).stack, "cycles").values
    bias(wide, wrong)
    project = budgeted(wide, bound)
    first = search(project)
    outcome = search_in_rounds(project)
    rounds = outcome.rounds
    assert outcome.settled
    assert 2 <= len(rounds) <= outcome.limit
    assert rounds[0].candidates[0].text == first.text
    winners = [one.candidates[0] for one in rounds]
    assert abs(winners[0].error_percent["cycles"]) > 2
    assert abs(winners[-1].error_percent["cycles"]) < 2
    assert winners[-1].measured["cycles"] <= bound
    # No network that was seen to break the budget was chosen again, and the model came nearer in every round.
    broke = [w.text for w in winners if w.measured["cycles"] > bound]
    assert len(broke) == len(set(broke))
    factors = [1.0, *(one.correction["cycles"]["factor"] for one in rounds[:-1])]
    assert all(one.correction for one in rounds[:-1])
    assert not rounds[-1].correction
    for one in rounds[:-1]:
        assert (
            one.correction["cycles"]["error_after_percent"] < one.correction["cycles"]["error_before_percent"]
        )
    with Lut.open(project.lut_path) as lut:
        kept = correction_history(lut, None, "cycles")
        measured = {network.name for network, _ in lut.networks(describe(URL).stack, "cycles")}
        since = lut.table(describe(URL).stack, "cycles").values
    assert [found.factor for _, found in kept] == factors[1:]
    assert [found.before for _, found in kept] == factors[:-1]
    assert {c.text for one in rounds for c in one.candidates} <= measured

    # The rows of single operators were measured again where one factor does not explain what was seen.
    moved = [row for _, found in kept for row in found.rows]
    assert bool(moved) == (len({wrong(op) for op in since}) > 1)
    for row in moved:
        op = Operator.parse(row.signature)
        assert row.before == pytest.approx(true[op] * wrong(op))
        assert since[op] == row.value == pytest.approx(true[op], abs=2)

    # Again: the same answer from the records, without a device.
    monkeypatch.setattr(candidates, "open_session", None)
    again = search_in_rounds(open_project(wide))
    assert again.reused
    same(facts(again), facts(outcome), "again")


def test_rows_that_were_predicted_are_measured(wide: Path) -> None:
    """A table without rows of wide layers, whose predictions no factor mends: rounds measure what they need of it."""
    bound = price_of_the_middle(wide)
    path = wide / "lut.sqlite"
    with Lut.open(path) as lut:
        rows, calibrations = lut.contents()
    path.unlink()
    kept = [
        r
        for r in rows
        if not (isinstance(r.subject, Operator) and (r.subject.kind, r.subject.output[-1]) == ("conv2d", 8))
    ]
    with Lut.open(path) as lut:
        lut.absorb(kept, calibrations)
    project = budgeted(wide, bound)
    outcome = search_in_rounds(project)
    assert outcome.settled
    assert outcome.rounds[-1].candidates[0].measured["cycles"] <= bound
    new = [row for one in outcome.rounds for found in one.correction.values() for row in found["rows"]]
    assert new
    assert all(row["before"] is None for row in new)
    again = search_in_rounds(open_project(wide))
    assert again.reused
    same(facts(again), facts(outcome), "again")


def test_rows_measured_again_are_not_lost(wide: Path) -> None:
    """A run that is stopped amid them goes on behind the last one; when the round is recorded, the file is gone."""
    bound = price_of_the_middle(wide)
    bias(wide, lambda op: 0.5 if op.kind == "conv2d" else 1.0)
    budgeted(wide, bound)
    totals: list[int] = []

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if note == "operators measured again":
            totals.append(total)
            if len(totals) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_in_rounds(open_project(wide), progress=stop)
    left = list((wide / "results" / "checkpoints").glob("again-*"))
    assert left
    outcome = search_in_rounds(open_project(wide), progress=stop)
    assert totals[2] == totals[0] - 2
    assert outcome.rounds[0].correction["cycles"]["rows"]
    assert len(outcome.rounds[0].again["cycles"]) > totals[0]
    assert not any(path.exists() for path in left)


def test_a_model_that_was_too_dear_finds_a_better_network(wide: Path) -> None:
    """What a correction is for: where the table said too much, the budget was not made use of."""
    bound = price_of_the_middle(wide)
    true = search(open_project(wide), budgets=(Budget("cycles", bound),))
    bias(wide, lambda op: 1.5)
    project = budgeted(wide, bound)
    before = search(project)
    after = search_in_rounds(project).search
    assert before.score <= after.score
    assert abs(after.score - true.score) < 0.05


def test_by_corrected_costs_nothing_is_possible(wide: Path) -> None:
    costs = open_costs(open_project(wide), ["cycles"])
    least = costs.table.least()["cycles"][0]
    bias(wide, lambda op: 0.5)
    project = budgeted(wide, 0.9 * least)
    with pytest.raises(InfeasibleError):
        search_in_rounds(project)
    record = project.latest("rounds")
    assert record is not None
    assert not record["settled"]
    assert "no network keeps the budgets" in record["why"]
    assert record["rounds"][0]["correction"]["cycles"]["factor"] > 1.5
    assert project.latest("search") is None
    with pytest.raises(InfeasibleError):
        search_in_rounds(open_project(wide))


def test_what_deploy_finds_over_the_budget_is_not_chosen_again(wide: Path) -> None:
    project = budgeted(wide, price_of_the_middle(wide))
    outcome = search_in_rounds(project)
    stack = describe(URL).stack
    with Lut.open(project.lut_path) as lut:
        network, found = next(
            pair for pair in lut.networks(stack, "cycles") if pair[0].name == outcome.search.text
        )
        lut.put_network(stack, network, Measurement("cycles", 3 * found.value, found.evidence))
    again = search_in_rounds(open_project(wide))
    assert again.began == "cycles of the deployed network breaks its budget"
    assert again.search.text != outcome.search.text
    assert again.rounds[0].candidates[0].text == outcome.search.text


def test_other_settings_begin_anew_and_say_why(wide: Path) -> None:
    project = budgeted(wide, price_of_the_middle(wide))
    search_in_rounds(project)
    edit(wide, "[training]", "[run]\ntolerance = 0.001\nrounds = 2\ncandidates = 1\n[training]")
    strict = search_in_rounds(open_project(wide))
    assert strict.began == "run settings changed"
    assert len(strict.rounds) <= 2
    assert all(len(one.candidates) <= 2 for one in strict.rounds)
    edit(wide, "rounds = 2", "rounds = 0")
    never = search_in_rounds(open_project(wide))
    assert (never.rounds, never.settled, never.why) == ((), False, "run.rounds is 0")
    edit(wide, "rounds = 0", "rounds = 2")
    counts = (Budget("macs", 1e9),)
    edit(wide, "[target.budgets]\ncycles", "[target.budgets]\nmacs")
    free = search_in_rounds(open_project(wide), budgets=counts)
    assert (free.rounds, free.settled) == ((), True)
    assert "no budget on a measured metric" in free.why


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "conv2d"])
def test_stopped_at_every_report_and_started_again(wide: Path, tmp_path: Path, kind: str) -> None:
    """Without processes: an exception at the n-th report of progress, for every n; each start goes on."""
    bound = price_of_the_middle(wide)
    bias(wide, lambda op: 0.7 if kind in op.kind else 1.0)
    budgeted(wide, bound)
    stopped = Path(shutil.copytree(wide, tmp_path / "stopped"))
    expected = facts(search_in_rounds(open_project(wide)))

    class Stopped(Exception):
        pass

    for patience in range(1, 200):
        left = patience

        def stop(stage: str, done: int, total: int, note: str) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Stopped

        try:
            outcome = search_in_rounds(open_project(stopped), progress=stop)
            break
        except Stopped:
            continue
    assert patience > 5
    same(facts(outcome), expected, "stopped")
    names = ("search.json", "rounds.json")
    first, second = ([json.loads((f / "results" / n).read_text()) for n in names] for f in (wide, stopped))
    for one, other in zip(first, second, strict=True):
        assert one["inputs"] == other["inputs"] or "correction of costs" in one["depends"]
