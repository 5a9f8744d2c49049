"""`boardfit doctor`: every problem with what mends it, whatever else is broken."""

from __future__ import annotations

import importlib.util
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from profilers.lut import Lut
from tests.cli.conftest import Command
from tests.workflow.projects import edit
from toolchain.workflow import doctor

Found = dict[str, dict[str, str]]


def checks(boardfit: Command, folder: Path, code: int) -> Found:
    outcome = boardfit("doctor", "-C", folder, "--json")
    assert outcome.code == code, outcome
    assert outcome.document["kind"] == "doctor"
    found = {check["name"]: check for check in outcome.document["checks"]}
    assert len(found) == len(outcome.document["checks"])
    for check in found.values():
        assert check["status"] in ("ok", "warning", "error")
        assert check["status"] == "ok" or check["remedy"], check
    return found


def test_a_good_project(boardfit: Command, tiny: Path) -> None:
    found = checks(boardfit, tiny, 0)
    assert {name: found[name]["status"] for name in ("project file", "target", "data", "space", "cache")} == {
        "project file": "ok", "target": "ok", "data": "ok", "space": "ok", "cache": "ok",
    }  # fmt: skip
    assert found["data"]["detail"].startswith("1x8x8, 3 classes, train ")
    assert "6 architectures" in found["space"]["detail"]
    assert found["table"]["status"] == "warning"
    assert found["table"]["remedy"] == f"boardfit profile -C {tiny}"
    Lut.open(tiny / "lut.sqlite").close()
    found = checks(boardfit, tiny / "boardfit.toml", 0)
    assert (found["table"]["status"], found["table"]["detail"]) == ("ok", "lut.sqlite: 0 rows")
    assert not (tiny / "results").exists()


def test_no_project_is_no_error(boardfit: Command, tmp_path: Path) -> None:
    found = checks(boardfit, tmp_path / "nowhere" / "at all", 0)
    assert found["project"]["remedy"] == "boardfit init NAME"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("change", "name", "detail", "remedy"),
    [
        (("[data]", "[data"), "project file", "not TOML", "boardfit init NAME"),
        (('kind = "npz"', 'kidn = "npz"'), "project file", "'data.kidn'", "did you mean 'data.kind'"),
        (('"cpu:litert"', '"cpu:tpu"'), "target", "cpu:tpu", "cpu:litert"),
        (('"data.npz"', '"none.npz"'), "data", "does not exist", "correct data.path"),
        (("my_space.py:MySpace", "my_space.py:Mine"), "space", "Mine", ""),
        (("my_space.py:MySpace", "none.py:Mine"), "space", "none.py", ""),
    ],
)
def test_what_is_wrong_with_the_project_file(
    boardfit: Command, tiny: Path, change: tuple[str, str], name: str, detail: str, remedy: str
) -> None:
    edit(tiny, *change)
    found = checks(boardfit, tiny, 1)
    errors = [check for check in found.values() if check["status"] == "error"]
    assert [check["name"] for check in errors] == [name]
    assert detail in errors[0]["detail"]
    assert remedy in errors[0]["remedy"]
    text = boardfit("doctor", "-C", tiny)
    assert text.code == 1
    assert f"remedy: {errors[0]['remedy']}" in " ".join(text.out.split())
    assert "1 error, " in text.out


def test_one_problem_hides_no_other(boardfit: Command, tiny: Path) -> None:
    (tiny / "lut.sqlite").write_bytes(b"SQLite format 3\0" + bytes(4000))
    (tiny / "data.npz").write_bytes(b"PK nothing")
    edit(tiny, '"cpu:litert"', '"usb:1"')
    found = checks(boardfit, tiny, 1)
    assert [name for name, check in found.items() if check["status"] == "error"] == [
        "target",
        "data",
        "table",
    ]
    assert (tiny / "lut.sqlite").stat().st_size == 4016


def test_missing_packages(boardfit: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        return None if name in doctor.PACKAGES else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    found = checks(boardfit, tiny, 1)  # the project's own target is not here
    assert found["torch"]["status"] == "warning"
    assert found["torch"]["remedy"] == "pip install 'boardfit[train]'"
    assert found["target"]["status"] == "error"
    assert "ai-edge-litert" in found["target"]["remedy"]
    assert found["data"]["status"] == "ok"
    assert "space" not in found
    shown = " ".join(boardfit("doctor", "-C", tiny).out.split())
    assert "remedy: pip install 'boardfit[train]'" in shown  # brackets are no markup
    assert "all missing packages at once: pip install 'boardfit[train,tflite," in shown


def test_without_torch(process: Command, tiny: Path) -> None:
    before = (
        "import importlib.util, sys\nreal = importlib.util.find_spec\nsys.modules['torch'] = None\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else real(name, *a)\n"
    )
    outcome = process("doctor", "-C", tiny, before=before)
    assert outcome.code == 0
    assert "pip install 'boardfit[train]'" in outcome.out
    assert outcome.err == ""


def test_extras_are_those_of_the_package() -> None:
    offered = metadata.metadata("boardfit").get_all("Provides-Extra") or []
    assert {extra for _, extra, _ in doctor.PACKAGES.values()} <= {*offered}


def test_a_package_without_metadata(
    boardfit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor.PACKAGES, "json", ("json-of-python", "train", "nothing"))
    assert checks(boardfit, tmp_path, 0)["json-of-python"]["detail"] == "installed, version unknown"


def test_a_full_disk_and_a_cache_that_cannot_be_written(
    boardfit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_NEEDED_DISK_BYTES", 10**18)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = checks(boardfit, tmp_path, 1)
    assert found["free disk"]["status"] == "warning"
    assert "XDG_CACHE_HOME" in found["cache"]["remedy"]


def test_a_busy_machine(boardfit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    assert checks(boardfit, tmp_path, 0)["load"]["status"] == "warning"


def test_a_board_that_is_not_there_is_no_ok(boardfit: Command, tmp_path: Path) -> None:
    """Its engine follows from the board's facts; that it answers does not."""
    outcome = boardfit("doctor", "--target", f"serial:{tmp_path}/none?board=nucleo-l4r5zi", "--json")
    assert outcome.code == 1
    found = {check["name"]: check for check in outcome.document["checks"]}
    assert found["engine"]["status"] == "ok"
    assert found["board"]["status"] == "error"
    assert found["board"]["remedy"]
    outcome = boardfit("doctor", "--target", "virtual:nucleo-l4r5zi", "--json")
    assert outcome.code == 0
    assert "board" not in {check["name"] for check in outcome.document["checks"]}


def test_every_extra_with_packages_is_looked_at() -> None:
    """But those that only bring others, those of developers, and what the command line itself needs to say anything."""
    offered = set(metadata.metadata("boardfit").get_all("Provides-Extra") or [])
    looked_at = {extra for _, extra, _ in doctor.PACKAGES.values()}
    assert offered - looked_at <= {"all", "dev", "cli", "docs"}


def test_a_port_that_belongs_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ttyACM0").write_text("")
    (tmp_path / "ttyUSB1").write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: "ACM" not in str(path))
    refused, fine = doctor._ports(tmp_path)
    assert (refused.status, fine.status) == ("error", "ok")
    assert refused.remedy.startswith("sudo usermod -aG ")
    assert refused.remedy.endswith("$USER, then log in again")
