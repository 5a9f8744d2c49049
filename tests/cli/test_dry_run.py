"""--dry-run says what the command then does, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.workflow.projects import edit, make_project
from toolchain.workflow import pace
from toolchain.workflow.project import open_project


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a project; SQLite makes and removes its two beside a table that is read."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and "-shm" not in path.name
        and "-wal" not in path.name
        and "__pycache__" not in str(path)
    }


@pytest.fixture
def dry(boardfit: Command, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a device was opened")

    def run(command: str, folder: Path, *options: str) -> dict[str, Any]:
        before = contents(folder)
        with monkeypatch.context() as patch:
            patch.setattr("toolchain.workflow.sessions.open_target", opened)
            outcome = boardfit(command, "-C", folder, "--dry-run", "--json", *options)
        assert outcome.code == 0, outcome
        assert contents(folder) == before
        assert outcome.err == ""
        document = outcome.document
        assert (document["kind"], document["command"]) == ("dry-run", command)
        return {step["stage"]: step for step in document["steps"]} | {"seconds": document["seconds"]}

    return run


def test_before_and_after_a_run(
    boardfit: Command, dry: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.workflow.exported.ONNX_PACKAGES", ("a_package_that_is_not_there",))
    folder = make_project(tmp_path / "tiny", search_epochs=2, epochs=8)
    first = dry("run", folder)
    assert [first[stage]["does"] for stage in ("profile", "search", "export", "deploy")] == ["do"] * 4
    assert first["profile"]["why"] == "there is no table yet"
    assert first["seconds"] is None
    assert "unknown" in first["search"]["basis"]
    operators = int(first["profile"]["what"].split()[1])
    assert first["rounds"]["does"] in ("do", "reuse")

    done = boardfit("run", "-C", folder, "--json")
    assert done.code in (0, 1), done.err
    assert done.document["profile"]["targets"][0]["operators"]["measured"] == operators

    again = dry("run", folder)
    assert [again[stage]["does"] for stage in ("profile", "search", "export", "deploy")] == [
        "reuse", "reuse", "reuse", "do",
    ]  # fmt: skip
    assert again["search"]["why"] == "nothing changed"
    assert 0 < again["seconds"] < 600

    forced = dry("search", folder, "--force")
    assert forced["search"]["does"] == "do"
    assert forced["search"]["seconds"] > 0
    twice = dry("search", folder, "--budget", "ram=3 kB")
    assert "budgets changed" in twice["search"]["why"]
    assert "kept supernet" in twice["search"]["what"]

    edit(folder, "[training]\nepochs = 8", "[training]\nepochs = 80")
    longer = dry("export", folder)["export"]
    assert longer["why"] == "training settings changed"
    assert longer["seconds"] > 10 * pace.seconds_of(open_project(folder), "train", 1)
    text = boardfit("run", "-C", folder, "--dry-run").out
    assert "nothing was done, no device was opened" in text
    assert max(len(line) for line in text.splitlines()) <= 200


def test_a_board_over_ssh_is_not_asked(dry: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    folder = make_project(tmp_path / "pi", url="ssh://nobody@192.0.2.1")
    found = dry("run", folder)
    assert found["profile"]["does"] == "open"
    assert "by opening ssh://nobody@192.0.2.1" in found["profile"]["why"]


def test_what_cannot_be_done_is_said(boardfit: Command, tmp_path: Path) -> None:
    folder = make_project(tmp_path / "tiny")
    for command in ("export", "deploy"):
        outcome = boardfit(command, "-C", folder, "--dry-run")
        assert (outcome.code, outcome.err.splitlines()[-1]) == (3, "remedy: run `boardfit search`")
    assert boardfit("deploy", "-C", folder, "--dry-run", "--undo").code == 2


def test_the_pace_is_that_of_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = open_project(make_project(tmp_path / "tiny"))
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])

    def interrupted() -> None:
        with pace.timed(project, lambda *_: None, "connas") as progress:
            now[0] = 100.0
            progress("train", 20, 60, "")  # twenty were there
            for done in range(21, 31):
                now[0] += 2
                progress("train", done, 60, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert pace.seconds_of(project, "train", 60) == 120
    assert pace.seconds_of(project, "train") == 20
    assert pace.seconds_of(project, "verify") is None
    path = project.results / "pace.json"
    assert json.loads(path.read_text()) == {"train": {"seconds": 20.0, "steps": 10}}
    path.write_text('{"train": {"steps": "x"}}')
    assert pace.seconds_of(project, "train") is None
