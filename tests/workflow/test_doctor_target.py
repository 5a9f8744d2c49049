from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.targets.ssh.sshd import WHY_NOT, Sshd, sshd
from toolchain.workflow import doctor_target
from toolchain.workflow.doctor_target import examine_target

pytest.importorskip("paramiko")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def test_a_good_board(server: Sshd) -> None:
    checks = {check.name: check for check in examine_target(f"{server.url}&python={sys.executable}")}
    assert checks["connection"].status == "ok"
    assert checks["engine"].status == "ok"
    assert "ai-edge-litert" in checks["engines"].detail


def test_a_board_that_nobody_knows(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    url = server.url.replace(str(server.folder / "known_hosts"), str(tmp_path / "none"))
    (check,) = examine_target(url)
    assert check.status == "error"
    assert "SHA256:" in check.detail
    assert check.remedy


def test_what_makes_times_worthless_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    report: dict[str, Any] = {
        "machine": {"cpu": "Cortex-A72", "cores": "4", "architecture": "aarch64", "governor": "ondemand"},
        "python": "3.11.2", "executable": "/usr/bin/python3", "runtimes": {"numpy": "2.4"},
        "throttling": ["under-voltage"], "temperature_c": 82.0,
        "ram_available_bytes": 10_000_000, "disk_free_bytes": 10**10,
    }  # fmt: skip
    monkeypatch.setattr(doctor_target, "look", lambda url: report)
    checks = {check.name: check for check in examine_target("ssh://pi@nowhere.invalid?config=/nowhere")}
    assert {name: check.status for name, check in checks.items()} == {
        "connection": "ok", "Python": "ok", "engines": "error", "CPU governor": "warning", "throttling": "warning",
        "temperature": "warning", "memory": "warning", "disk": "ok", "engine": "error",
    }  # fmt: skip
    assert all(check.remedy for check in checks.values() if check.status != "ok")


def test_any_target_can_be_looked_at() -> None:
    (check,) = examine_target("cpu:litert")
    assert (check.name, check.status) == ("engine", "ok")
    (wrong,) = examine_target("cpu:nonsense")
    assert wrong.status == "error"
