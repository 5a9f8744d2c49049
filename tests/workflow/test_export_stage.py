"""The export stage: done again only when its own inputs change; a breach leaves nothing that could be deployed."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from tests.workflow.projects import edit, make_project
from toolchain.cli import main
from toolchain.errors import ConfigurationError, VerificationError
from toolchain.graph import Graph
from toolchain.graph.float_reference import run_float
from toolchain.graph.graph import Array
from toolchain.graph.integer_reference import run_int8
from toolchain.graph.tflite_reader import read_tflite
from toolchain.supernet.checkpoint import load_checkpoint
from toolchain.workflow.deploy import deploy
from toolchain.workflow.export import export
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run
from toolchain.workflow.search import search

pytestmark = pytest.mark.usefixtures("without_onnx")

VERIFY = importlib.import_module("toolchain.export.verify")  # the package has a function of the same name
MODELS = ("model_float.tflite", "model_int8.tflite")


def wrong_reference(graph: Graph, x: Array) -> Array:
    """The integer reference, off by one."""
    return np.asarray(run_int8(graph, x) ^ 1)


def test_files_are_what_the_record_says(finished: Path) -> None:
    project = open_project(finished)
    outcome = export(project)
    assert outcome.reused
    assert set(outcome.files) == set(MODELS)
    tensors = load_checkpoint(project.model_folder / "weights.safetensors").tensors
    module = project.space.module(outcome.architecture)
    module.load_state_dict(tensors)
    x = project.data.nhwc("test")
    scores = run_float(read_tflite((project.model_folder / MODELS[0]).read_bytes()), x)
    assert float(np.mean(scores.argmax(1) == project.data.y["test"])) == outcome.accuracy["float"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs = 12", "epochs = 6"),
        ("calibration_samples = 48", "calibration_samples = 20"),
        ("[training]", '[training]\nranges = "mse"'),
    ],
)
def test_other_training_settings_export_again_only(finished: Path, old: str, new: str) -> None:
    edit(finished, old, new)
    with pytest.raises(ConfigurationError, match=r"other settings .*boardfit export"):
        deploy(open_project(finished))
    outcome = run(open_project(finished))
    assert outcome.search.reused
    assert not outcome.export.reused


def test_another_winner_is_exported_again(finished: Path) -> None:
    """A tighter budget searches again, and exports again only when the winner is another."""
    first = search(open_project(finished))
    edit(finished, 'flash = "20 kB"', f"macs = {int(first.exact['macs']) - 1}")
    second = search(open_project(finished))
    assert second.architecture != first.architecture
    with pytest.raises(ConfigurationError, match=rf"found '{second.text}', but '{first.text}' was exported"):
        deploy(open_project(finished))
    exported = export(open_project(finished))
    assert not exported.reused
    assert exported.text == second.text == deploy(open_project(finished)).text


def test_the_same_winner_under_other_budgets_is_not_trained_again(finished: Path) -> None:
    edit(finished, 'flash = "20 kB"', 'flash = "21 kB"')
    outcome = run(open_project(finished))
    assert not outcome.search.reused
    assert outcome.export.reused
    assert next(r.budget for r in outcome.deploy.rows if r.metric == "flash_bytes") == 21_000


def test_force_trains_again_to_the_same_files(finished: Path) -> None:
    project = open_project(finished)
    before = {name: (project.model_folder / name).read_bytes() for name in MODELS}
    epochs: list[int] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stage == "train":
            epochs.append(done)

    assert not export(project, force=True, progress=progress).reused
    assert epochs == list(range(13))  # from the start, not from the checkpoint of the finished training
    assert {name: (project.model_folder / name).read_bytes() for name in MODELS} == before


def test_an_interrupted_force_of_run_trains_anew(finished: Path) -> None:
    """Also where it did not come as far as the export."""

    def interrupt(stage: str, done: int, total: int, note: str) -> None:
        if stage == "search":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(open_project(finished), progress=interrupt, force=True)
    epochs: list[int] = []

    def progress(stage: str, done: int, total: int, note: str) -> None:
        if stage == "train":
            epochs.append(done)

    outcome = run(open_project(finished), progress=progress)
    assert outcome.export.why == "what --force began is not finished"
    assert epochs == list(range(13))
    assert not list((finished / "results").glob("*.earlier.json"))
    assert run(open_project(finished)).export.reused


@pytest.mark.parametrize("name", [*MODELS, "weights.safetensors", "model.json"])
@pytest.mark.parametrize("damage", ["deleted", "changed"])
def test_damaged_files_are_made_again_and_never_deployed(finished: Path, name: str, damage: str) -> None:
    path = finished / "results" / "model" / name
    before = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # of the same size
    with pytest.raises(ConfigurationError, match=rf"{name} is not the file that was verified"):
        deploy(open_project(finished))
    assert not export(open_project(finished)).reused
    assert path.read_bytes() == before
    assert deploy(open_project(finished)).targets[0].accuracy >= 0.9


def test_another_engine_gets_its_file(finished: Path) -> None:
    """The same winner, but cpu:torch takes a file that was not written for cpu:litert."""
    edit(finished, "cpu:litert", "cpu:torch")
    edit(finished, '"int8"', '"float32"')
    with pytest.raises(ConfigurationError, match="boardfit search"):
        export(open_project(finished))
    search(open_project(finished))
    outcome = export(open_project(finished))
    assert not outcome.reused
    assert "model_float.pt2" in outcome.files


def test_nothing_to_export_or_deploy(tmp_path: Path) -> None:
    project = open_project(make_project(tmp_path / "tiny"))
    with pytest.raises(ConfigurationError, match=r"no search has finished \(run `boardfit search`\)"):
        export(project)
    with pytest.raises(ConfigurationError, match=r"no search has finished"):
        deploy(project)
    search(project)
    with pytest.raises(ConfigurationError, match=r"no export has finished \(run `boardfit export`\)"):
        deploy(project)


# --- verification --------------------------------------------------------------------------------------------------


def test_a_breach_deploys_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = open_project(make_project(tmp_path / "tiny"))
    monkeypatch.setattr(VERIFY, "run_int8", wrong_reference)
    with pytest.raises(VerificationError, match="TFLite Micro") as caught:
        run(project)
    assert caught.value.exit_code == 7
    assert not (project.results / "deployed").exists()
    assert project.latest("export") is None
    with pytest.raises(ConfigurationError, match="no export has finished"):
        deploy(project)


def test_a_breach_forgets_the_files_that_were_good(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood in the folder was overwritten: the older record does not vouch for the new files."""
    monkeypatch.setattr(VERIFY, "run_int8", wrong_reference)
    edit(finished, "epochs = 12", "epochs = 6")
    assert not export(open_project(finished)).verification.ok
    edit(finished, "epochs = 6", "epochs = 12")
    with pytest.raises(ConfigurationError, match="no export has finished"):
        deploy(open_project(finished))
    monkeypatch.undo()
    outcome = export(open_project(finished))
    assert not outcome.reused
    assert outcome.verification.ok


@pytest.mark.parametrize("command", ["export", "run"])
def test_a_breach_is_exit_code_7(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(VERIFY, "run_int8", wrong_reference)
    edit(finished, "epochs = 12", "epochs = 6")
    assert main([command, "-C", str(finished)]) == 7
    assert "do not deploy these files" in capsys.readouterr().err
    assert main(["deploy", "-C", str(finished)]) == 3
