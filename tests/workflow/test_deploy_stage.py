"""The deploy stage: broken budgets are shown and raised, wrong answers deploy nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profilers.lut import Lut
from targets.host import HostSession
from targets.session import Job, Result
from tests.workflow.projects import edit
from toolchain.cli import main
from toolchain.errors import BudgetError, ConfigurationError, DeviceError, VerificationError
from toolchain.graph import Graph
from toolchain.graph.graph import Array
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.tflite_reader import read_tflite
from toolchain.measurement import Evidence, Measurement
from toolchain.report.comparison import raise_for_budgets
from toolchain.workflow import deploy as stage
from toolchain.workflow import deploy_check
from toolchain.workflow.deploy import deploy
from toolchain.workflow.deploy_costs import measure
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run
from toolchain.workflow.sessions import LATENCY

pytestmark = pytest.mark.usefixtures("without_onnx")


def answer(patch: pytest.MonkeyPatch, value_us: float | None) -> None:
    """Let the target measure every network with this value, or refuse it."""

    def measure(self: HostSession, jobs: list[Job], **_: Any) -> Iterator[Result]:
        for job in jobs:
            if value_us is None:
                yield Result(job.key, None, "out of arena")
            else:
                yield Result(job.key, Measurement(LATENCY, value_us, Evidence.HOST_WALL, unstable=True))

    patch.setattr(HostSession, "measure", measure)


def test_a_budget_broken_on_the_target(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(finished, 'ram = "4 kB"', 'ram = "4 kB"\nlatency = "10 s"')
    run(open_project(finished))
    answer(monkeypatch, 11e6)
    rows = deploy(open_project(finished)).rows
    (broken,) = (row for row in rows if row.ok is False)
    assert broken.metric == LATENCY
    assert broken.cells()[-1] == "BROKEN"
    assert broken.cells()[-2] == "host_wall (unstable)"
    with pytest.raises(BudgetError, match=r"latency_us is 11\.000 s, the budget 10\.000 s") as caught:
        raise_for_budgets(rows)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("command", ["deploy", "run"])
def test_a_broken_budget_is_exit_code_1(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    edit(finished, 'ram = "4 kB"', 'ram = "4 kB"\nlatency = "10 s"')
    run(open_project(finished))
    answer(monkeypatch, 11e6)
    assert main([command, "-C", str(finished), "--json"]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    rows = (document if command == "deploy" else document["deploy"])["rows"]
    assert next(row for row in rows if row["metric"] == LATENCY)["ok"] is False
    assert "broken on the target" in printed.err


def test_wrong_answers_on_the_target_deploy_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opposite(graph: Graph, x: Array) -> Array:
        return np.asarray(~run_int8(graph, x))

    folder = finished / "results" / "deployed"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(deploy_check, "run_int8", opposite)
    with pytest.raises(VerificationError, match="the limit is 97 %") as caught:
        deploy(open_project(finished))
    assert caught.value.exit_code == 7
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(VerificationError):
        deploy(open_project(finished), place=str(finished / "elsewhere"))
    assert not (finished / "elsewhere").exists()


def test_the_target_cannot_measure_the_network(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, None)
    with pytest.raises(DeviceError, match="could not measure the network: out of arena"):
        deploy(open_project(finished))


def test_a_place_of_ones_own_and_what_stood_there(finished: Path) -> None:
    place = finished / "product" / "v1"
    first = deploy(open_project(finished), place=str(place))
    assert Path(first.targets[0].place) == place
    (place / "note").write_text("mine")
    deploy(open_project(finished), place=str(place))
    assert (place.with_name("v1.previous") / "note").read_text() == "mine"


def test_the_record_and_the_table_keep_the_measurement(finished: Path) -> None:
    project = open_project(finished)
    outcome = deploy(project)
    stored = project.latest("deploy")
    assert stored is not None
    assert stored["rows"] == [json.loads(json.dumps(row.as_dict())) for row in outcome.rows]
    assert stored["targets"][0]["stack"] == outcome.targets[0].stack.as_dict()
    with Lut.open(project.lut_path) as lut:
        names = [network.name for network, _ in lut.networks(outcome.targets[0].stack, LATENCY)]
    assert names.count(outcome.text) == 1


def test_an_onnx_file_needs_its_packages(finished: Path) -> None:
    """Where its packages are missing nothing was written for the engine; the error says what to install."""
    edit(finished, "cpu:litert", "cpu:onnxruntime")
    edit(finished, '"int8"', '"float32"')
    project = open_project(finished)
    with pytest.raises(ConfigurationError, match=r"model_float.onnx was not exported.*boardfit\[onnx\]"):
        run(project)


def test_int8_onnx_may_err_elsewhere_but_not_more(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reference is the float graph: other answers are no breach, fewer right ones are."""
    project = open_project(finished)
    labels = project.data.y["test"]

    def scores(wrong: slice) -> Array:
        answers = labels.copy()
        answers[wrong] = (answers[wrong] + 1) % 3
        return np.eye(3, dtype=np.float32)[answers]

    class Session:
        model_format = "onnx"
        device = None
        wrong = slice(2, 4)

        def run(self, model: bytes, inputs: Array) -> Array:
            return scores(self.wrong)

    monkeypatch.setattr(deploy_check, "PARTS", 1)  # this session gives all answers at once
    session: Any = Session()
    monkeypatch.setattr(deploy_check, "run_float", lambda graph, x: scores(slice(0, 2)))
    check, _ = deploy_check.check_outputs(project, session, b"", "model_int8.onnx")
    assert check["agreement"] == (len(labels) - 4) / len(labels)
    assert check["accuracy"] == (len(labels) - 2) / len(labels)
    with pytest.raises(VerificationError, match="the limit is 97 %"):
        deploy_check.check_outputs(project, session, b"", "model_float.onnx")
    session.wrong = slice(2, 8)
    with pytest.raises(
        VerificationError, match=r"75\.0 % of 24 answers are right, by the float reference 91\.7 %"
    ):
        deploy_check.check_outputs(project, session, b"", "model_int8.onnx")


class _Flickering:
    """A session whose machine is slow for a while."""

    def __init__(self, anchors: list[float]) -> None:
        self.anchors = anchors

    def measure(self, jobs: list[Job], *, wait: bool = False) -> Iterator[Result]:
        anchor = self.anchors.pop(0)
        found = Measurement(
            LATENCY,
            2 * anchor,
            Evidence.HOST_WALL,
            unstable=anchor > 1.03,
            details={"anchor_us": str(anchor)},
        )
        yield Result(jobs[0].key, found)


@pytest.mark.parametrize(
    ("anchors", "value", "left"),
    [([1.0, 9.0], 2.0, 1), ([1.5, 1.0, 9.0], 2.0, 1), ([1.5, 1.2, 1.4, 1.6, 9.0], 2.4, 1)],
)
def test_a_slow_phase_is_measured_again(anchors: list[float], value: float, left: int) -> None:
    session = _Flickering(list(anchors))
    found = measure(session, b"model", wait=False)  # type: ignore[arg-type]
    assert found.value == value
    assert found.unstable == (value != 2.0)
    assert len(session.anchors) == left


# --- taking a deployment back ----------------------------------------------------------------------------------------


def test_undo_puts_back_what_stood_there(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = finished / "results" / "deployed"
    (place / "mine").write_text("first")
    deploy(open_project(finished))
    assert not (place / "mine").exists()
    assert main(["deploy", "--undo", "-C", str(finished)]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # sentences are folded
    assert f"cpu-litert: what stood there before stands again in {place}" in shown
    assert (place / "mine").read_text() == "first"
    assert open_project(finished).latest("deploy") is None  # it described what does not stand there any more
    assert main(["deploy", "--undo", "-C", str(finished), "--json"]) == 0  # and back again
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["places"]) == ("undo", {"cpu-litert": str(place)})
    assert not (place / "mine").exists()


def test_undo_where_nothing_stood_before(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in (finished / "results" / "deployed").iterdir()}
    assert main(["deploy", "--undo", "-C", str(finished)]) == 3
    shown = capsys.readouterr()
    assert "there is nothing to go back to" in shown.err
    assert not shown.out
    assert {path.name: path.read_bytes() for path in (finished / "results" / "deployed").iterdir()} == before
    assert open_project(finished).latest("deploy") is not None
    assert main(["deploy", "--undo", "-C", str(finished), "--place", str(finished / "nowhere")]) == 3


def test_what_goes_along_with_the_model(finished: Path) -> None:
    """Class names, and samples that the documented command runs as they are."""
    project = open_project(finished)
    place = finished / "results" / "deployed"
    assert (place / "labels.txt").read_text() == "".join(f"{name}\n" for name in project.data.classes)
    inputs = np.load(place / "inputs.npy")
    assert (inputs.dtype, inputs.shape) == (np.int8, (stage.SAMPLES, 8, 8, 1))
    command = [sys.executable, "run_model.py", "inputs.npy", "outputs.npy"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    graph = read_tflite((place / "model.tflite").read_bytes())
    found = np.load(place / "outputs.npy").reshape(stage.SAMPLES, -1)
    assert np.abs(found.astype(int) - run_int8(graph, inputs).reshape(stage.SAMPLES, -1)).max() <= 2
