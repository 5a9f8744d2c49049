"""The search stage: what is done again and what is not, and what an impossible budget leaves behind."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from profilers.lut import Lut
from targets.session import describe
from tests.workflow.projects import edit, make_project, write_data
from toolchain.errors import BoardfitError, ConfigurationError, InfeasibleError, LutError, UsageError
from toolchain.measurement import Evidence, Measurement
from toolchain.units import Budget, QuantileBudget
from toolchain.workflow.deploy import deploy
from toolchain.workflow.export import export
from toolchain.workflow.profile import profile
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run
from toolchain.workflow.search import search
from toolchain.workflow.sessions import LATENCY

pytestmark = pytest.mark.usefixtures("without_onnx")

IMPOSSIBLE = (Budget("flash_bytes", 10.0),)


def test_nothing_changed_nothing_is_done_again(finished: Path) -> None:
    stages = ("search", "export")
    before = [(finished / "results" / f"{stage}.json").read_bytes() for stage in stages]
    outcome = run(open_project(finished))
    assert outcome.profile.targets[0].operators.measured == 0
    assert outcome.search.reused
    assert outcome.export.reused
    assert [(finished / "results" / f"{stage}.json").read_bytes() for stage in stages] == before


def test_a_reused_result_says_the_same(finished: Path) -> None:
    reused = search(open_project(finished))
    again = search(open_project(finished), force=True)
    assert reused.reused
    assert not again.reused
    for name in ("architecture", "text", "rows", "score", "budgets", "method", "seed", "alternatives"):
        assert getattr(reused, name) == getattr(again, name), name
    for metric in ("flash_bytes", "ram_bytes", "params", "macs"):
        assert reused.exact[metric] == again.exact[metric]
        assert reused.predicted[metric] == again.predicted[metric]


@pytest.mark.parametrize("method", ["connas", "random"])
def test_an_interrupted_force_is_gone_on_with(finished: Path, method: str) -> None:
    """Not answered from the search before it, and not begun again."""
    project = open_project(finished)
    before = search(project, method=method)

    def interrupt(stage: str, done: int, total: int, note: str) -> None:
        if (stage, done) == ("search" if method == "connas" else "supernet", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(project, method=method, progress=interrupt, force=True)
    with pytest.raises(ConfigurationError, match="no search has finished"):
        open_project(finished).found()
    steps: list[tuple[str, int]] = []
    again = search(
        open_project(finished), method=method, progress=lambda stage, done, *_: steps.append((stage, done))
    )
    assert not again.reused
    assert again.why == "what --force began is not finished"
    trained = [done for stage, done in steps if stage == ("search" if method == "connas" else "supernet")]
    assert trained[0] > 1  # the epochs of the forced search stand
    for name in ("text", "score", "alternatives"):
        assert getattr(again, name) == getattr(before, name), name
    assert search(open_project(finished), method=method).reused
    assert not list((finished / "results").glob("*.earlier.json"))


def test_the_course_of_the_search_is_left_for_people(finished: Path) -> None:
    with (finished / "results" / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = json.loads((finished / "results" / "search.json").read_text())
    assert len(rows) > 1
    assert {"entropy", "gradient/raw", "gradient/modified", "violation/flash_bytes"} <= set(rows[0])
    assert str(float(rows[-1]["entropy"])) in json.dumps(logged)
    if importlib.util.find_spec("matplotlib") is not None:
        assert "flash" in (finished / "results" / "plots" / "search.svg").read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('flash = "20 kB"', 'flash = "19 kB"'),
        ('ram = "4 kB"', 'macs = "90 %"'),
        ("epochs = 3", "epochs = 2"),
        ("epochs = 3", 'epochs = 3\nrelaxation = "proxyless"'),
        ("[project]", "[project]\nseed = 1"),
    ],
)
def test_other_settings_search_again(finished: Path, old: str, new: str) -> None:
    edit(finished, old, new)
    assert not search(open_project(finished)).reused
    assert search(open_project(finished)).reused


def test_other_data_do_everything_again(finished: Path) -> None:
    write_data(finished / "data.npz", seed=1)
    outcome = run(open_project(finished))
    assert not outcome.search.reused
    assert not outcome.export.reused
    assert outcome.profile.targets[0].operators.measured == 0  # of the same shape: the costs are the same


def test_an_edited_space_is_noticed(finished: Path) -> None:
    path = finished / "my_space.py"
    path.write_text(path.read_text().replace("nn.ReLU()", "nn.ReLU6()"))
    project = open_project(finished)
    with pytest.raises(ConfigurationError, match=r"other settings .*boardfit search"):
        export(project)
    outcome = run(project)
    assert outcome.profile.targets[0].operators.measured > 0
    assert not outcome.search.reused
    assert not outcome.export.reused


def test_a_faster_machine_later_does_not_search_again(finished: Path) -> None:
    """Deploying stores a measurement too. When its anchor is the fastest yet, all prices scale alike."""
    project = open_project(finished)
    stack = describe("cpu:litert").stack
    with Lut.open(project.lut_path) as lut:
        network, measured = lut.networks(stack, LATENCY)[0]
        details = {**measured.details, "anchor_us": "0.001"}
        lut.put_network(stack, network, Measurement(LATENCY, 0.001, Evidence.HOST_WALL, details=details))
    assert search(project).reused


def test_a_new_measurement_of_an_operator_searches_again(finished: Path) -> None:
    project = open_project(finished)
    stack = describe("cpu:litert").stack
    operator = project.space.chain("int8").operators[0]
    with Lut.open(project.lut_path) as lut:
        lut.put(stack, operator, Measurement(LATENCY, 123.0, Evidence.HOST_WALL))
    assert not search(project).reused


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"inputs": "x"}', None])
def test_damaged_and_deleted_results_are_noticed(finished: Path, damage: str | None) -> None:
    for stage in ("search", "export"):
        path = finished / "results" / f"{stage}.json"
        path.unlink()
        if damage is not None:
            path.write_text(damage)
    with pytest.raises(ConfigurationError, match="no search has finished"):
        export(open_project(finished))
    outcome = run(open_project(finished))
    assert not outcome.search.reused
    assert not outcome.export.reused


def test_an_edited_result_is_noticed(finished: Path) -> None:
    path = finished / "results" / "search.json"
    record = json.loads(path.read_text())
    record["architecture"] = [0, 0] if record["architecture"] != [0, 0] else [1, 1]
    path.write_text(json.dumps(record))
    assert open_project(finished).latest("search") is None
    assert not search(open_project(finished)).reused


def test_a_lost_record_is_found_again_without_training(finished: Path) -> None:
    """The kept supernet gives the very answer of the search that it comes from."""
    before = search(open_project(finished))
    (finished / "results" / "search.json").unlink()
    stages: list[str] = []
    again = search(open_project(finished), progress=lambda stage, *_: stages.append(stage))
    assert (again.architecture, again.score, again.why) == (before.architecture, before.score, "first time")
    assert set(stages) == {"costs", "front"}  # the table was read, nothing was trained


def test_other_budgets_are_answered_from_the_kept_supernet(finished: Path) -> None:
    project = open_project(finished)
    first = search(project)
    seen: list[tuple[str, str]] = []

    def note(stage: str, done: int, total: int, note: str) -> None:
        seen.append((stage, note))

    narrow = (Budget("flash_bytes", first.exact["flash_bytes"] - 1),)
    again = search(project, budgets=narrow, progress=note)
    assert (again.method, again.why) == ("connas", "budgets changed")
    assert again.exact["flash_bytes"] <= narrow[0].bound
    assert {text for stage, text in seen if stage == "select"} == {"kept supernet"}
    assert "search" not in {stage for stage, _ in seen}
    record = project.latest("search")
    assert record is not None
    assert record["history"]  # the course of the search that trained the supernet
    texts = [row["text"] for row in record["evaluated"]]
    assert again.text in texts
    assert len(texts) == len(set(texts))
    front = [row for row in record["evaluated"] if row["on_front"]]
    for row in front:  # nothing scored is better and cheaper
        assert not any(
            other["score"] > row["score"]
            and other["predicted"]["flash_bytes"] <= row["predicted"]["flash_bytes"]
            for other in record["evaluated"]
        )
    # Back to the first budgets: the very first answer. And --force trains anew.
    back = search(project)
    assert (back.architecture, back.score) == (first.architecture, first.score)
    seen.clear()
    assert search(project, budgets=narrow, progress=note, force=True).why == "budgets changed"
    assert "kept supernet" not in {text for _, text in seen}


def test_a_damaged_checkpoint_names_the_way_out(finished: Path) -> None:
    def interrupt(stage: str, done: int, total: int, note: str) -> None:
        if (stage, done) == ("search", 1):
            raise KeyboardInterrupt

    folder = finished / "results" / "checkpoints"
    assert not list(folder.glob("connas-*"))  # a finished search leaves none
    (finished / "results" / "search.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        search(open_project(finished), progress=interrupt, force=True)
    (checkpoint,) = folder.glob("connas-*")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match=r"damaged.*delete the file"):
        search(open_project(finished))
    assert search(open_project(finished), force=True).score >= 0.0


# --- budgets -------------------------------------------------------------------------------------------------------


def test_an_impossible_budget_leaves_nothing_to_deploy(finished: Path) -> None:
    edit(finished, 'flash = "20 kB"', 'flash = "10 B"')
    deployed = (finished / "results" / "deployed" / "model.tflite").read_bytes()
    with pytest.raises(InfeasibleError) as caught:
        run(open_project(finished))
    assert caught.value.exit_code == 4
    assert caught.value.binding == ("flash_bytes",)
    assert caught.value.least["flash_bytes"] > 10
    assert caught.value.nearest is not None
    for stage in (export, deploy):
        with pytest.raises(
            ConfigurationError, match=r"the last search found no network: .* then run `boardfit search`"
        ):
            stage(open_project(finished))
    assert (finished / "results" / "deployed" / "model.tflite").read_bytes() == deployed
    # Back to what was possible: the search goes on from its own checkpoint, the files still stand.
    edit(finished, 'flash = "10 B"', 'flash = "20 kB"')
    outcome = run(open_project(finished))
    assert not outcome.search.reused
    assert outcome.export.reused


def test_an_impossible_budget_of_the_command_line_too(finished: Path) -> None:
    with pytest.raises(InfeasibleError):
        search(open_project(finished), budgets=IMPOSSIBLE)
    with pytest.raises(ConfigurationError, match="the last search found no network"):
        deploy(open_project(finished))


def test_budgets_changed_but_not_searched(finished: Path) -> None:
    """An old winner is never held against, or shown under, budgets that it was not found for."""
    edit(finished, 'ram = "4 kB"', 'ram = "1 B"')
    for stage in (export, deploy):
        with pytest.raises(ConfigurationError, match=r"other settings .*\(run `boardfit search`\)"):
            stage(open_project(finished))


def test_budgets_of_the_command_line_replace_one_by_one(finished: Path) -> None:
    changed = search(open_project(finished), budgets=(Budget("flash_bytes", 15_000.0),))
    assert {b.metric: b.bound for b in changed.budgets} == {"flash_bytes": 15_000.0, "ram_bytes": 4000.0}
    assert export(open_project(finished)).architecture == changed.architecture
    rows = {row.metric: row for row in deploy(open_project(finished)).rows}
    assert rows["flash_bytes"].budget == 15_000.0


def test_a_budget_relative_to_the_space(finished: Path) -> None:
    project = open_project(finished)
    outcome = search(project, budgets=(QuantileBudget("macs", 0.5),))
    bound = next(b.bound for b in outcome.budgets if b.metric == "macs")
    assert outcome.exact["macs"] <= bound
    assert search(project, budgets=(QuantileBudget("macs", 0.5),)).reused
    assert not search(project, budgets=(QuantileBudget("macs", 0.6),)).reused


@pytest.mark.parametrize(
    ("budgets", "error", "message"),
    [
        ('latency = "1 s"', LutError, "run `boardfit profile`"),
        ('energy = "1 mJ"', ConfigurationError, "cpu:litert gives no energy_uj"),
    ],
)
def test_budgets_without_prices(
    tmp_path: Path, budgets: str, error: type[BoardfitError], message: str
) -> None:
    with pytest.raises(error, match=message):
        search(open_project(make_project(tmp_path / "tiny", budgets=budgets)))


def test_without_a_latency_budget_no_table_is_needed(tmp_path: Path) -> None:
    project = open_project(make_project(tmp_path / "tiny"))
    outcome = search(project)
    assert LATENCY not in outcome.predicted
    assert not project.lut_path.exists()


def test_a_table_that_is_half_filled(finished: Path) -> None:
    """A latency budget names the operators that miss; without one the search goes on without latencies."""
    project = open_project(finished)
    operators = project.space.chain("int8").operators
    with Lut.open(project.lut_path) as full:
        stack = describe("cpu:litert").stack
        rows = [(op, full.get(stack, op, LATENCY)) for op in operators[:-1]]
    project.lut_path.unlink()
    with Lut.open(project.lut_path) as half:
        for op, row in rows:
            assert row is not None
            half.put(stack, op, row.measurement)
    assert LATENCY not in search(project).predicted
    with pytest.raises(LutError, match=r"boardfit profile"):
        search(project, budgets=(Budget(LATENCY, 1e6),))
    assert profile(project).targets[0].operators.measured == 1
    assert search(project, budgets=(Budget(LATENCY, 1e6),)).exact[LATENCY] > 0


def test_an_unknown_method(finished: Path) -> None:
    with pytest.raises(UsageError, match="unknown search method 'magic'"):
        search(open_project(finished), method="magic")
