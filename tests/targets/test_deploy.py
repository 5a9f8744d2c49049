"""Folders that are whole or absent, and scripts that run what lies beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from targets.deploy import deploy_folder, runner_files
from targets.session import Array, open_target
from tests.targets.models import onnx_conv, pt2_conv, tflite_conv
from toolchain.errors import BoardfitError, ConfigurationError, ModelFileError


def test_a_new_folder_and_the_previous_one(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "board"
    assert deploy_folder({"a": b"1"}, place) == place
    assert (place / "a").read_bytes() == b"1"
    deploy_folder({"b": b"2"}, place)
    deploy_folder({"c": b"3"}, place)
    assert [path.name for path in place.iterdir()] == ["c"]
    previous = place.with_name("board.previous")
    assert [path.name for path in previous.iterdir()] == ["b"]
    assert sorted(path.name for path in place.parent.iterdir()) == ["board", "board.previous"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/x", "a\\b"])
def test_names_with_folders_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="plain file name"):
        deploy_folder({name: b""}, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(ConfigurationError, match="is a file"):
        deploy_folder({"a": b""}, tmp_path / "x")


def test_a_failure_at_any_step_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "board"
    deploy_folder({"a": b"old"}, place)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.name.startswith(".board."):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(BoardfitError, match="No space left"):
        deploy_folder({"a": b"new"}, place)
    assert (place / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["board"]


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("cpu:litert", tflite_conv),
        ("cpu:litert?kernels=reference", tflite_conv),
        ("cpu:onnxruntime", onnx_conv),
        pytest.param("cpu:torch", pt2_conv, marks=pytest.mark.slow),  # imports torch in a process of its own
    ],
)
def test_the_deployed_folder_runs_by_itself(url: str, model: object, tmp_path: Path) -> None:
    assert callable(model)
    data: bytes = model()
    x: Array = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
    with open_target(url, cache=tmp_path / "cache") as session:
        feed = x if session.model_format == "tflite" else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        place = Path(session.deploy(data, tmp_path / "board", files={"labels.txt": b"a\nb\n"}))
        want = session.run(data, feed)
    np.save(tmp_path / "in.npy", feed)
    command = [
        sys.executable,
        str(place / "run_model.py"),
        str(tmp_path / "in.npy"),
        str(tmp_path / "out.npy"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want)
    assert {"run_model.py", "requirements.txt", "README.txt", "labels.txt"} < {
        path.name for path in place.iterdir()
    }
    assert "==" in (place / "requirements.txt").read_text()


def test_a_model_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    with open_target("cpu", cache=tmp_path / "cache") as session, pytest.raises(ModelFileError):
        session.deploy(b"nonsense", tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_names_that_clash(tmp_path: Path) -> None:
    with open_target("cpu") as session, pytest.raises(ConfigurationError, match=r"run_model\.py"):
        session.deploy(tflite_conv(), tmp_path / "board", files={"run_model.py": b""})


def test_an_old_system_gets_a_script_for_its_package() -> None:
    files = runner_files(b"", runtime="tflite-runtime", runtime_version="2.14.0", kernels="reference")
    assert b"from tflite_runtime.interpreter import Interpreter, OpResolverType\n" in files["run_model.py"]
    assert files["requirements.txt"].startswith(b"tflite-runtime==2.14.0\n")
    compile(files["run_model.py"], "run_model.py", "exec")


def test_a_runtime_without_a_script() -> None:
    with pytest.raises(ConfigurationError, match="tflm"):
        runner_files(b"", runtime="tflm", runtime_version="1")
