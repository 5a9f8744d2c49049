"""The whole loop on a Linux board: a real sshd on loopback stands for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.targets.ssh.sshd import WHY_NOT, Sshd, sshd
from tests.workflow.projects import edit, make_project
from toolchain.cli import main
from toolchain.errors import ConfigurationError
from toolchain.measurement import Evidence
from toolchain.workflow.deploy import deploy, undo
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run

pytest.importorskip("paramiko")
pytestmark = pytest.mark.usefixtures("without_onnx")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.mark.slow
def test_the_loop_closes_and_a_deployment_is_taken_back(
    server: Sshd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}&python={sys.executable}"
    folder = make_project(
        tmp_path / "tiny", url=url, budgets='latency = "10 s"\nflash = "20 kB"', search_epochs=1, epochs=6
    )
    edit(folder, "networks = 4", "networks = 2")
    project = open_project(folder)
    outcome = run(project)
    (there,) = outcome.deploy.targets
    rows = {row.metric: row for row in outcome.deploy.rows}
    assert rows["latency_us"].evidence is Evidence.HOST_WALL
    assert rows["latency_us"].ok
    assert there.stack.as_dict()["target"] == "ssh:litert"
    assert there.stack == outcome.profile.targets[0].stack
    assert there.accuracy == outcome.deploy.accuracy_before["int8"] or there.agreement >= 0.97

    # The place is in the home folder there, whatever this machine's paths are.
    place = server.home / "boardfit" / "tiny"
    assert there.place.endswith(f":{place}")
    assert (place / "labels.txt").read_text().split() == list(project.data.classes)
    assert json.loads((place / "model.json").read_text())["architecture"] == outcome.search.text
    command = [sys.executable, "run_model.py", "inputs.npy", "outputs.npy"]  # as docs/linux-targets.md has it
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    inputs, outputs = np.load(place / "inputs.npy"), np.load(place / "outputs.npy")
    assert inputs.dtype == outputs.dtype == np.int8
    assert len(inputs) == len(outputs)

    with pytest.raises(ConfigurationError, match="nothing to go back to") as caught:
        undo(project)
    assert caught.value.exit_code == 3
    (place / "mine").write_text("first")
    deploy(project)
    assert not (place / "mine").exists()
    capsys.readouterr()
    assert main(["deploy", "--undo", "-C", str(folder)]) == 0
    assert f"stands again in {there.place}" in " ".join(capsys.readouterr().out.split())
    assert (place / "mine").read_text() == "first"
    assert project.latest("deploy") is None
    assert main(["deploy", "--undo", "-C", str(folder), "--place", "products/other"]) == 3
    assert "products/other.previous does not exist" in capsys.readouterr().err
