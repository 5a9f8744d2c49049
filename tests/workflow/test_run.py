"""The whole loop on this CPU: what the stages say agrees with each other, with the files, and with the target."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from profilers.counts import graph_costs
from tests.workflow.projects import make_project, write_data
from toolchain.errors import ConfigurationError
from toolchain.graph import quantize_array
from toolchain.graph.tflite_reader import read_tflite
from toolchain.measurement import Evidence
from toolchain.report.comparison import raise_for_budgets
from toolchain.units import Budget
from toolchain.workflow.data import to_nhwc
from toolchain.workflow.project import Project, open_project
from toolchain.workflow.run import RunOutcome, run
from toolchain.workflow.sessions import LATENCY, open_session

slow = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples" / "own-space"


@pytest.mark.parametrize(
    ("url", "precision"),
    [
        ("cpu:litert", "int8"),
        pytest.param("cpu:litert", "float32", marks=slow),
        pytest.param("cpu:onnxruntime", "float32", marks=slow),
        pytest.param("cpu:onnxruntime", "int8", marks=slow),
        pytest.param("cpu:torch", "float32", marks=slow),
    ],
)
def test_the_loop_closes(tmp_path: Path, url: str, precision: str) -> None:
    # A generous latency: a measured budget takes part, and no wall-clock value is asserted.
    folder = make_project(
        tmp_path / "tiny", url=url, precision=precision,
        budgets='latency = "10 s"\nflash = "90 kB"\nram = "8 kB"',
    )  # fmt: skip
    project = open_project(folder)
    outcome = run(project)
    check_outcome(project, outcome)
    check_deployed_folder(project, outcome)
    assert outcome.export.accuracy["float"] >= 0.9
    assert outcome.deploy.targets[0].accuracy >= 0.9


@slow
def test_time_series_from_csv_windows(tmp_path: Path) -> None:
    """The built-in 1-D space takes its input's shape from the data."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for index, frequency in enumerate((0.05, 0.2, 0.45)):
        t = np.arange(1200)
        waves = np.stack([np.sin(frequency * t), np.cos(frequency * t)], axis=1) + rng.normal(
            0, 0.1, (1200, 2)
        )
        lines = [f"{a:.4f},{b:.4f},speed{index}" for a, b in waves]
        (tmp_path / "data" / f"{index}.csv").write_text("a,b,label\n" + "\n".join(lines) + "\n")
    (tmp_path / "boardfit.toml").write_text(
        """
        project.name = "series"
        data = {kind = "csv", path = "data", window = 32, stride = 16, normalize = "standard"}
        space = {name = "connas1d", parameters = {channels = [4, 8], edges = 3}}
        target.budgets = {flash = "30 kB", ram = "2 kB", latency = "10 s"}
        profile.networks = 3
        search = {epochs = 3, batch_size = 32}
        training = {epochs = 10, calibration_samples = 64}
        """
    )
    project = open_project(tmp_path)
    assert project.space.input_shape == (2, 32)
    assert project.space.count() == 4 * 5 * 4
    outcome = run(project)
    check_outcome(project, outcome)
    check_deployed_folder(project, outcome)
    assert outcome.deploy.targets[0].accuracy >= 0.9


@slow
@pytest.mark.parametrize("method", ["evolution", "random"])
def test_other_methods_and_quantisation_aware_training(
    tmp_path: Path, method: str, without_onnx: None
) -> None:
    folder = make_project(tmp_path / "tiny", epochs=8)
    text = (folder / "boardfit.toml").read_text().replace("[search]", f'[search]\nmethod = "{method}"')
    (folder / "boardfit.toml").write_text(text + 'quantization = "qat"\nqat_epochs = 2\n')
    project = open_project(folder)
    outcome = run(project)
    assert (outcome.search.method, outcome.export.quantization) == (method, "qat")
    check_outcome(project, outcome)


def test_int8_on_the_torch_engine_is_refused_with_a_remedy(tmp_path: Path, without_onnx: None) -> None:
    folder = make_project(tmp_path / "tiny", url="cpu:torch")
    with pytest.raises(ConfigurationError, match=r"no int8 model .*precision = \"float32\""):
        run(open_project(folder))


def test_a_space_takes_what_the_data_say(tmp_path: Path) -> None:
    """A class that asks for the classes alone gets them alone; shapes that do not fit are an error."""
    folder = make_project(tmp_path / "tiny")
    path = folder / "my_space.py"
    path.write_text(path.read_text().replace("input_shape: tuple[int, ...], ", "size: int = 8, "))
    path.write_text(path.read_text().replace("tuple(input_shape)", "(1, size, size)"))
    assert open_project(folder).space.input_shape == (1, 8, 8)
    text = (folder / "boardfit.toml").read_text()
    (folder / "boardfit.toml").write_text(text.replace("[target]", "[space.parameters]\nsize = 16\n[target]"))
    with pytest.raises(ConfigurationError, match=r"the space takes \(1, 16, 16\).*the data has \(1, 8, 8\)"):
        _ = open_project(folder).space


def test_two_projects_with_the_same_seed_agree(tmp_path: Path, without_onnx: None) -> None:
    """Whatever the machine's speed: only latencies may differ when only counts are budgeted."""
    first, second = (run(open_project(make_project(tmp_path / name))) for name in "ab")
    assert first.search.architecture == second.search.architecture
    for name in ("model_float.tflite", "model_int8.tflite", "weights.safetensors", "model.json"):
        assert (first.export.folder / name).read_bytes() == (second.export.folder / name).read_bytes(), name
    write_data(tmp_path / "b" / "data.npz", seed=1)
    assert open_project(tmp_path / "b").settings != open_project(tmp_path / "a").settings


@slow
def test_the_example_of_an_own_space(tmp_path: Path) -> None:
    """examples/own-space, through the command line as its README says."""
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "own-space"))
    command = [
        sys.executable,
        "-c",
        "from toolchain.cli import main; raise SystemExit(main())",
        "run",
        "--json",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    # 1: a latency measured in a slow phase of the machine may break its budget. Everything else must hold.
    assert done.returncode in (0, 1), done.stderr
    outcome = json.loads(done.stdout)
    rows = {row["metric"]: row for row in outcome["deploy"]["rows"]}
    broken = {metric for metric, row in rows.items() if row["ok"] is False}
    assert broken == ({LATENCY} if done.returncode else set())
    assert rows.keys() >= {LATENCY, "flash_bytes", "ram_bytes"}
    assert outcome["deploy"]["targets"][0]["accuracy"] > 0.9
    assert (folder / "results" / "deployed" / "model.tflite").stat().st_size == rows["flash_bytes"][
        "measured"
    ]
    readme = (EXAMPLE / "README.md").read_text()
    assert f"{open_project(folder).space.count()} networks" in readme


# --- what every loop must hold --------------------------------------------------------------------------------------


def check_outcome(project: Project, outcome: RunOutcome) -> None:
    """The stages agree with each other and with what lies on the disk."""
    found, exported, deployed = outcome.search, outcome.export, outcome.deploy
    (there,) = deployed.targets
    precision = project.config.target[0].precision
    assert not outcome.profile.targets[0].failures
    assert found.architecture == exported.architecture
    assert found.text == exported.text == deployed.text == project.space.encode(found.architecture)
    assert 0.0 <= found.score <= 1.0
    limits = {b.metric: b for b in found.budgets}
    assert limits == {b.metric: b for b in project.config.target[0].limits}
    for metric, limit in limits.items():
        assert limit.keeps(found.exact[metric]), metric
        assert limit.keeps(found.predicted[metric]), metric

    # What is measured and budgeted was measured before anything was trained; a CPU under load need not settle.
    judged = LATENCY in limits
    assert bool(outcome.rounds.rounds) == judged
    assert outcome.rounds.search == found
    for one in outcome.rounds.rounds:
        assert one.candidates[0].chosen
        assert one.candidates[0].evidence == {LATENCY: "host_wall"}
        assert project.space.decode(one.candidates[0].text) == one.candidates[0].architecture
    steps = [(one.step, one.split) for one in deployed.accuracies]
    assert steps == [
        ("supernet", "val"), ("float", "val"), ("float", "test"), ("int8", "test"), ("target", "test"),
    ]  # fmt: skip

    assert exported.verification.ok
    for name, size in exported.files.items():
        assert (exported.folder / name).stat().st_size == size
    described = json.loads((exported.folder / "model.json").read_text())
    assert described["architecture"] == found.text
    assert described["classes"] == list(project.data.classes)

    rows = {row.metric: row for row in deployed.rows}
    assert rows.keys() == {LATENCY, "flash_bytes", "ram_bytes", "params", "macs"}
    kind = "int8" if precision == "int8" else "float"
    graph = read_tflite((exported.folder / f"model_{kind}.tflite").read_bytes())
    costs = graph_costs(graph)
    assert rows["flash_bytes"].measured == exported.files[f"model_{kind}.tflite"]
    if there.model.endswith(".tflite"):  # predicted from operators alone: never too small
        assert (rows["flash_bytes"].predicted or 0) >= (rows["flash_bytes"].measured or 0)
    assert rows["ram_bytes"].measured == costs["ram_bytes"] == rows["ram_bytes"].predicted
    for metric in ("params", "macs"):
        assert rows[metric].measured == costs[metric] == found.predicted[metric] == found.exact[metric]
        assert rows[metric].evidence is Evidence.COMPUTED
    assert rows[LATENCY].evidence is Evidence.HOST_WALL
    assert (rows[LATENCY].measured or 0) > 0
    for metric, row in rows.items():
        assert row.budget == (limits[metric].bound if metric in limits else None)
        assert row.ok == (None if row.budget is None else Budget(metric, row.budget).keeps(row.measured or 0))
    raise_for_budgets(deployed.rows)

    assert there.samples == len(project.data.x["test"])
    assert deployed.accuracy_before == exported.accuracy
    assert there.agreement >= 0.97
    assert (there.differing is None) == (there.model != "model_int8.tflite")
    with open_session(project.config.target[0].url, precision) as session:
        assert there.stack == outcome.profile.targets[0].stack == session.stack
    for stage in ("search", "export", "deploy"):
        assert project.latest(stage) is not None


def check_deployed_folder(project: Project, outcome: RunOutcome) -> None:
    """A user runs the deployed folder with its own script; the answers are those of the session."""
    folder = Path(outcome.deploy.targets[0].place)
    (model,) = (path for path in folder.glob("model.*") if path.suffix != ".json")
    assert model.read_bytes() == (outcome.export.folder / outcome.deploy.targets[0].model).read_bytes()
    x: NDArray[Any] = project.data.x["test"][:5]
    if outcome.deploy.targets[0].model.endswith(".tflite"):
        graph = read_tflite(model.read_bytes())
        source = graph.tensors[graph.inputs[0]].quantization
        x = to_nhwc(x) if source is None else quantize_array(to_nhwc(x), source)
    np.save(folder / "in.npy", x)
    done = subprocess.run(
        [sys.executable, "run_model.py", "in.npy", "out.npy"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with open_session(project.config.target[0].url, project.config.target[0].precision) as session:
        np.testing.assert_array_equal(np.load(folder / "out.npy"), session.run(model.read_bytes(), x))
