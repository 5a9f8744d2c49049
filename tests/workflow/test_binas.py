"""The search stage by exact selection: right answers on an enumerable space, and what is kept."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.workflow.projects import edit, make_project
from toolchain.cli import main
from toolchain.errors import InfeasibleError
from toolchain.search.exact import Certificate
from toolchain.spaces import Architecture
from toolchain.units import Budget
from toolchain.workflow import binas
from toolchain.workflow.costs import Costs
from toolchain.workflow.deploy import deploy
from toolchain.workflow.export import export
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run
from toolchain.workflow.search import search

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "binas-digits"

pytestmark = pytest.mark.usefixtures("without_onnx")


@pytest.fixture(scope="session")
def _searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("binas") / "tiny", search_epochs=6)
    edit(folder, "samples = 8", 'method = "binas"\ncontribution_samples = 800\nranking_networks = 6')
    search(open_project(folder))
    return folder


@pytest.fixture
def searched(_searched: Path, tmp_path: Path) -> Path:
    """A copy of a project of six networks that has been searched, with nothing measured on any target."""
    return Path(shutil.copytree(_searched, tmp_path / "tiny"))


class Stages:
    """Which stages reported progress."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        self.seen.add(stage)


def test_the_best_of_all_networks_that_keep_the_budgets(searched: Path) -> None:
    project = open_project(searched)
    outcome = search(project)
    assert outcome.reused
    found = outcome.selection
    assert found is not None
    assert found.proved
    assert found.optimum == found.bound
    with (searched / "results" / "plots" / "front.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found.front_size
    assert all(project.space.valid(project.space.decode(row["architecture"])) for row in rows)
    everything = {a.text: a.accuracy for a in found.alternatives} | {outcome.text: found.predicted_accuracy}
    assert found.predicted_accuracy == max(everything.values())
    assert [a.accuracy for a in found.alternatives] == sorted(
        (a.accuracy for a in found.alternatives), reverse=True
    )
    assert set(everything) == {
        project.space.encode(a) for a in project.space
    }  # all six keep these wide budgets
    assert {w.metric for w in found.worth} == {"flash_bytes", "ram_bytes"}
    assert all(w.gain >= 0 for w in found.worth)
    Certificate.from_dict(json.loads((searched / "results" / "certificate.json").read_text()))
    for name in found.plots:
        assert (searched / name).stat().st_size > 1000, name


def test_other_budgets_train_and_measure_nothing(searched: Path) -> None:
    project = open_project(searched)
    first = search(project)
    bound = first.exact["flash_bytes"] - 1
    before = {p.name: p.read_bytes() for p in (searched / "results" / "checkpoints").iterdir()}
    stages = Stages()
    again = search(project, budgets=(Budget("flash_bytes", bound),), progress=stages)
    assert not again.reused
    assert again.exact["flash_bytes"] <= bound
    assert again.selection is not None
    assert first.selection is not None
    assert again.selection.predicted_accuracy <= first.selection.predicted_accuracy
    assert not stages.seen & {"supernet", "contributions", "ranking"}
    assert {p.name: p.read_bytes() for p in (searched / "results" / "checkpoints").iterdir()} == before
    assert search(project, budgets=(Budget("flash_bytes", bound),)).selection == again.selection


def test_an_interrupted_force_measures_everything_anew(searched: Path) -> None:
    def interrupt(stage: str, done: int, total: int, note: str) -> None:
        if (stage, done) == ("supernet", 1):
            raise KeyboardInterrupt

    first = search(open_project(searched))
    with pytest.raises(KeyboardInterrupt):
        search(open_project(searched), progress=interrupt, force=True)
    stages = Stages()
    again = search(open_project(searched), progress=stages)
    assert {"supernet", "contributions", "ranking"} <= stages.seen
    assert again.why == "what --force began is not finished"
    assert again.text == first.text


def test_more_samples_go_on_from_those_measured(searched: Path) -> None:
    edit(searched, "contribution_samples = 800", "contribution_samples = 1600")
    stages = Stages()
    outcome = search(open_project(searched), progress=stages)
    assert outcome.selection is not None
    assert outcome.selection.contribution_samples >= 1600
    assert "contributions" in stages.seen
    assert "supernet" not in stages.seen


def test_what_the_exact_check_refuses_gives_way_to_the_next_best(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(open_project(searched))
    real = Costs.exact

    def larger(self: Costs, architecture: Architecture) -> Mapping[str, float]:
        found = real(self, architecture)
        return found | {"ram_bytes": 1e9} if architecture == first.architecture else found

    monkeypatch.setattr(Costs, "exact", larger)
    outcome = search(open_project(searched), force=True)
    assert outcome.selection is not None
    assert first.selection is not None
    assert outcome.text == first.selection.alternatives[0].text
    assert [(a.text, a.refused) for a in outcome.selection.refused] == [
        (first.text, "ram_bytes is 1000.000 MB")
    ]


def test_nothing_passes_the_exact_check(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costs, "exact", lambda self, architecture: {"ram_bytes": 1e9, "flash_bytes": 1e9})
    with pytest.raises(InfeasibleError, match="checked exactly"):
        search(open_project(searched), budgets=(Budget("flash_bytes", 19_999.0),))


def test_an_impossible_budget(searched: Path) -> None:
    with pytest.raises(InfeasibleError) as caught:
        search(open_project(searched), budgets=(Budget("flash_bytes", 10.0),))
    assert caught.value.exit_code == 4
    assert caught.value.binding == ("flash_bytes",)
    assert caught.value.least["flash_bytes"] > 10
    assert caught.value.nearest is not None
    assert open_project(searched).space.valid(caught.value.nearest)


def test_export_and_deploy_go_on(searched: Path) -> None:
    project = open_project(searched)
    outcome = search(project)
    assert export(project).text == outcome.text
    rows = {row.metric: row for row in deploy(project).rows}
    assert rows["flash_bytes"].ok


def test_without_matplotlib_the_answer_stands(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(open_project(searched))
    monkeypatch.setattr(binas, "can_draw", lambda: False)
    outcome = search(open_project(searched), budgets=(Budget("flash_bytes", 19_999.0),))
    assert outcome.selection is not None
    assert outcome.selection.plots == ()
    assert "boardfit[plots]" in outcome.selection.note
    assert outcome.text == first.text


def test_what_is_printed_and_the_same_as_json(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "-C", str(searched)]) == 0
    text = " ".join(capsys.readouterr().out.split())  # sentences are folded
    for part in (
        "proved by",
        "What more of a budget buys",
        "Next best within the budgets by the model",
        "What design choices add",
        "Pareto front of accuracy and",
        "drawn: results/plots/front.png",
    ):
        assert part in text, part
    assert main(["search", "-C", str(searched), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["selection"]
    assert found["proved"]
    assert found["bound"] == found["optimum"]
    assert [w["metric"] for w in found["worth"]] == ["flash_bytes", "ram_bytes"]
    assert main(["search", "-C", str(searched), "--json", "-b", "flash=10 B"]) == 4
    assert json.loads(capsys.readouterr().out)["binding"] == ["flash_bytes"]


@pytest.mark.slow
def test_the_example_end_to_end(tmp_path: Path) -> None:
    """examples/binas-digits, shortened: a smaller supernet and less of everything, but every stage."""
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "binas-digits"))
    for old, new in (
        ("epochs = 24 ", "epochs = 2 "),
        ("contribution_samples = 20000", "contribution_samples = 1000\nranking_networks = 4"),
        ("widths = [8, 16, 24]", "widths = [8, 16]"),
        ("depth = 3 ", "depth = 2 "),
        ("epochs = 30", "epochs = 2"),
        ("[search]", "[profile]\nnetworks = 4\n\n[search]"),
    ):
        edit(folder, old, new)
    outcome = run(open_project(folder))
    found = outcome.search.selection
    assert found is not None
    assert found.proved
    assert {what for what, _, _ in found.effects} >= {
        "squeeze excite",
        "kernel 5 instead of 3",
        "having the block",
    }
    assert len(found.plots) == 6
    kept = {row.metric: row.ok for row in outcome.deploy.rows}
    assert kept["flash_bytes"]
    assert kept["ram_bytes"]


def test_every_network_that_was_scored_is_recorded(searched: Path) -> None:
    """The random ones that judge the estimator, the winner and the next best; for the front of the report."""
    project = open_project(searched)
    search(project)
    record = project.latest("search")
    assert record is not None
    rows = {row["text"]: row for row in record["evaluated"]}
    assert record["text"] in rows
    assert len(rows) == len(record["evaluated"]) == project.space.count()  # six networks: all were looked at
    assert rows[record["text"]]["score"] == record["score"]
    assert any(row["on_front"] for row in rows.values())
