"""The report says what records, table and files say, and what is missing; it measures nothing."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from profilers.lut import Lut
from targets import session
from tests.workflow.projects import edit, make_project
from toolchain.cli import main
from toolchain.errors import ConfigurationError
from toolchain.graph.memory import plan_greedy
from toolchain.graph.operator import Operator
from toolchain.graph.tflite_reader import read_tflite
from toolchain.report import sections
from toolchain.report.document import Report
from toolchain.report.html import Html
from toolchain.report.markdown import markdown
from toolchain.report.page import page
from toolchain.workflow.project import open_project
from toolchain.workflow.report import gather, write_report
from toolchain.workflow.report_load import load_report

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Diagrams have tests of their own."""
    monkeypatch.setattr(sections, "drawn", lambda make: Html(""))


def gathered(folder: Path) -> Report:
    return gather(open_project(folder), NOON)


def record(folder: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results" / f"{stage}.json").read_text())
    return found


def gaps(report: Report) -> dict[str, str]:
    """What is missing -> how to get it."""
    return {one.what: one.how for one in report.missing}


def rewrite(folder: Path, stage: str, **changes: Any) -> None:
    """A stage's record as if it had found something else."""
    project = open_project(folder)
    stored = project.latest(stage)
    assert stored is not None
    for name in ("inputs", "settings"):
        stored.pop(name)
    project.write_record(stage, stored.pop("depends"), {**stored, **changes})


def test_a_finished_project_is_told_as_it_is_recorded(finished: Path) -> None:
    report, found, deployed = gathered(finished), record(finished, "search"), record(finished, "deploy")
    assert (report.status, report.network) == ("kept", found["text"])
    assert report.made_at == "2026-11-22T12:00:00+00:00"
    assert report.headline.startswith("All 2 budgets kept on cpu-litert; ")
    assert [b.choice for b in report.blocks if b.choice != "-"] == found["text"].split()
    rows = {row["metric"]: row for row in deployed["rows"]}
    for cost in report.costs:
        row = rows[cost.metric]
        assert cost.predicted is None or cost.predicted.value == row["predicted"]
        assert cost.measured is not None
        assert (cost.measured.value, cost.measured.evidence) == (row["measured"], row["evidence"])
        assert cost.ok == row["ok"]
    stages = [(a.stage, a.number.value) for a in report.accuracy]
    accuracy = record(finished, "export")["accuracy"]
    assert stages == [
        ("supernet", found["score"]),
        ("float", accuracy["float"]),
        ("int8", accuracy["int8"]),
        ("target", deployed["targets"][0]["accuracy"]),
    ]
    assert report.accuracy[-1].samples == deployed["targets"][0]["samples"]


def test_operators_memory_and_table_are_of_the_winner(finished: Path) -> None:
    (target,) = gathered(finished).targets
    graph = read_tflite((finished / "results" / "model" / "model_int8.tflite").read_bytes())
    assert [s.signature for s in target.steps] == [op.signature for op in graph.operators]
    with Lut.open(finished / "lut.sqlite", read_only=True) as lut:
        rows = {
            r.subject.signature: r for r in lut.rows(subject="operator") if isinstance(r.subject, Operator)
        }
    for step in target.steps:
        assert step.number is not None
        assert step.number.evidence == "host_wall"
        assert (
            0 < (step.number.value or 0) <= rows[step.signature].value * 1.001
        )  # at the machine's best speed
    assert target.memory is not None
    planned = plan_greedy(graph)
    assert target.memory.arena.value == planned.arena_bytes
    assert {(p.name, p.offset) for p in target.memory.places} == set(planned.offsets.items())
    assert max(target.memory.live) <= planned.arena_bytes
    assert target.table is not None
    assert target.table.measured == target.table.operators == len(rows)
    assert len(target.table.samples) >= 4
    assert target.stack in gathered(finished).provenance.stacks


def test_other_candidates_and_their_prices(finished: Path) -> None:
    report = gathered(finished)
    assert report.choices is not None
    assert [r.choice for r in report.choices.reasons] == ["first", "second"]
    for reason in report.choices.reasons:
        assert [s.candidate for s in reason.swaps if s.chosen] == [reason.chosen]
        for swap in reason.swaps:
            assert set(swap.costs) == {"flash_bytes", "ram_bytes"}
            assert swap.breaks == ()  # 20 kB are plenty
    chosen = next(s for s in report.choices.reasons[0].swaps if s.chosen)
    predicted = {c.metric: c.predicted for c in report.costs}
    assert chosen.costs["flash_bytes"] == predicted["flash_bytes"]
    assert report.course is not None
    assert [n.text for n in report.course.networks if n.chosen] == [report.network]
    assert report.course.epochs


def test_run_has_written_the_page(finished: Path) -> None:
    text = (finished / "results" / "report.html").read_text(encoding="utf-8")
    assert "Budgets kept" in text
    again = write_report(open_project(finished))
    assert again == finished / "results" / "report.html"
    elsewhere = write_report(open_project(finished), finished / "other.html")
    assert elsewhere.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_new_project_says_what_to_do(tmp_path: Path) -> None:
    report = gathered(make_project(tmp_path / "new"))
    assert (report.status, report.network, report.costs) == ("empty", "", ())
    found = gaps(report)
    assert found["the network"] == "`boardfit search`"
    assert found["costs of operators"] == "`boardfit profile`"
    assert "No search has finished yet." in page(report)


def test_budgets_that_nothing_keeps_are_explained(finished: Path) -> None:
    """The search forgets its record then; the report says why from the table alone."""
    edit(finished, 'flash = "20 kB"', 'flash = "0.5 kB"')
    open_project(finished).drop_record("search")
    report = gathered(finished)
    assert report.status == "infeasible"
    assert report.infeasible is not None
    assert report.infeasible.binding == ("flash_bytes",)
    least = report.infeasible.least["flash_bytes"]
    assert (least.value or 0) > 500
    assert least.evidence in ("computed", "predicted")
    assert report.infeasible.nearest
    assert "✗ No network keeps the budgets" in page(report)


def test_another_network_than_the_deployed_one(finished: Path) -> None:
    """After `search --budget` the old deployment is no answer: it is not mixed in."""
    project = open_project(finished)
    old = record(finished, "search")
    other = next(a for a in project.space if list(a) != old["architecture"])
    rewrite(finished, "search", architecture=list(other), text=project.space.encode(other))
    report = gathered(finished)
    assert report.status == "predicted"
    assert all(cost.measured is None for cost in report.costs)
    assert report.targets[0].memory is None
    found = gaps(report)
    assert found["what the network costs on the target, and its answers there"] == "`boardfit deploy`"
    assert "another network" in next(m.why for m in report.missing if m.what.startswith("accuracy after"))


def test_an_edited_project_file_is_noticed(finished: Path) -> None:
    assert all(r.current for r in gathered(finished).provenance.records)
    edit(finished, 'ram = "4 kB"', 'ram = "3 kB"')
    report = gathered(finished)
    assert not any(r.current for r in report.provenance.records)
    assert gaps(report)["search under today's project file"] == "`boardfit run`"


@pytest.mark.parametrize("damage", ["garbage", "truncated"])
def test_a_damaged_table_leaves_the_answer(
    finished: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page says so at its top, the command line and the Markdown, too."""
    path = finished / "lut.sqlite"
    data = path.read_bytes()
    path.write_bytes(b"no table at all" * 100 if damage == "garbage" else data[: len(data) // 2])
    report = gathered(finished)
    assert report.status == "kept"
    assert report.targets[0].table is None
    assert "the lookup table's rows of cpu-litert" in gaps(report)
    assert "Budgets kept" in page(report)
    (said,) = report.damage
    assert said.startswith("the lookup table's rows of cpu-litert: ")
    assert "Could not be read: the lookup table" in page(report)
    assert "**Could not be read:** the lookup table" in markdown(report)
    assert main(["report", "-C", str(finished)]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith("warning: could not be read: the lookup table's rows of cpu-litert")
    assert "wrote" in shown.out


def test_a_damaged_record_is_said(finished: Path) -> None:
    assert gathered(finished).damage == ()
    (finished / "results" / "rounds.json").write_text("{")
    (finished / "results" / "deploy.json").write_text("")
    assert gathered(finished).damage == (
        "what rounds found: rounds.json is damaged (`boardfit run`)",
        "what deploy found: deploy.json is damaged (`boardfit deploy`)",
    )


def test_a_deleted_table_and_model_leave_the_answer(finished: Path) -> None:
    (finished / "lut.sqlite").unlink()
    shutil.rmtree(finished / "results" / "model")
    report = gathered(finished)
    assert report.status == "kept"
    assert gaps(report)["costs of operators"] == "`boardfit profile`"
    assert report.targets[0].steps == ()
    assert page(report)


def test_a_broken_budget_is_said(finished: Path) -> None:
    rows = record(finished, "deploy")["rows"]
    broken = [{**r, "ok": False} if r["metric"] == "ram_bytes" else r for r in rows]
    for row in broken:
        if row["metric"] == "ram_bytes":
            row["budget"] = row["measured"] - 1
    budgets = [{"metric": r["metric"], "bound": r["budget"]} for r in broken if r["budget"]]
    rewrite(finished, "deploy", rows=broken)
    rewrite(finished, "search", budgets=budgets)
    report = gathered(finished)
    assert report.status == "broken"
    assert report.headline.startswith("ram_bytes broken on cpu-litert; ")


def test_no_device_is_opened(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux board can only be described by asking it."""

    def refuse(url: str, **how: object) -> None:
        raise AssertionError(f"{url} is opened")

    monkeypatch.setattr(session, "open_target", refuse)
    edit(finished, 'url = "cpu:litert"', 'url = "ssh://pi@raspberry.invalid"')
    report = gathered(finished)
    why = next(m.why for m in report.missing if m.what == "prices of networks beside the winner")
    assert why == "what raspberry.invalid is today can only be told by opening it, which a report does not"
    assert report.choices is not None
    assert report.choices.reasons == ()


def test_rounds_are_shown_as_they_are_recorded(finished: Path) -> None:
    found = record(finished, "search")
    candidates = [
        {
            "text": found["text"], "architecture": found["architecture"], "chosen": True, "score": found["score"],
            "predicted": {"latency_us": 20.0}, "measured": {"latency_us": 25.0},
            "error_percent": {"latency_us": -20.0}, "evidence": {"latency_us": "host_wall"},
        },
        {
            "text": "c8 id", "architecture": [1, 2], "chosen": False, "score": 0.5, "predicted": {"latency_us": 30.0},
            "measured": {}, "error_percent": {}, "evidence": {},
        },
    ]  # fmt: skip
    one = {
        "round": 1,
        "seconds": 2.5,
        "correction": {"latency_us": {"factor": 1.2}},
        "candidates": candidates,
    }
    stored = {
        "tolerance": {"latency_us": 5.0},
        "limit": 4,
        "settled": False,
        "why": "the limit",
        "rounds": [one],
    }
    open_project(finished).write_record("rounds", {}, stored)
    report = gathered(finished)
    assert report.rounds is not None
    (only,) = report.rounds.rounds
    assert only.errors_percent == {"latency_us": 20.0}
    assert [n.chosen for n in only.networks] == [True, False]
    measured = only.networks[0].measured["latency_us"]
    assert (measured.value, measured.evidence, measured.stack) == (25.0, "host_wall", report.targets[0].stack)
    assert (report.rounds.settled, report.rounds.why, report.rounds.tolerance) == (
        False, "the limit", {"latency_us": 5.0},
    )  # fmt: skip
    assert report.course is not None
    winner = next(n for n in report.course.networks if n.chosen)
    deployed = {r["metric"]: r["measured"] for r in record(finished, "deploy")["rows"]}
    assert winner.measured["latency_us"].value == deployed["latency_us"]  # the newer one


def test_networks_that_the_search_evaluated_are_there(finished: Path) -> None:
    evaluated = [
        {"text": "c4 c4", "score": 0.4, "predicted": {"flash_bytes": 3000.0}, "on_front": True},
        {"text": "c8 c8", "score": 0.6, "predicted": {"flash_bytes": 5000.0}, "on_front": True},
    ]
    rewrite(finished, "search", evaluated=evaluated)
    course = gathered(finished).course
    assert course is not None
    known = {n.text: n for n in course.networks}
    assert {"c4 c4", "c8 c8"} <= set(known)
    assert len([n for n in course.networks if n.chosen]) == 1


def test_a_document_comes_from_a_folder_or_a_file(finished: Path) -> None:
    document = load_report(finished)
    file = finished / "report.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    assert load_report(file) == document
    for text, why in (("{", "is not JSON"), ("{}", "is no report")):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=why):
            load_report(file)
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_report(finished / "nothing.json")
