"""kill -9 at any moment loses nothing that was finished, and changes nothing in what comes out."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from profilers.lut import Lut
from tests.workflow.projects import edit, make_project
from toolchain.workflow.profile import profile
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run

COMMAND = "from toolchain.cli import main; raise SystemExit(main())"
FILES = ("weights.safetensors", "model_float.tflite", "model_int8.tflite", "model.json")


def start(folder: Path, cache: Path) -> subprocess.Popen[bytes]:
    """`boardfit run` as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", "--project", str(folder)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def written(folder: Path) -> frozenset[tuple[str, int]]:
    """What lies under results, with the time of its last change."""
    found = set()
    for path in folder.glob("results/**/*"):
        try:
            found.add((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:  # a temporary file that has just become a real one
            continue
    return frozenset(found)


def kill_after(process: subprocess.Popen[bytes], folder: Path, moment: int | str, delay_s: float) -> bool:
    """Kill the process a short time after a moment; False when it ended before.

    Args:
        moment: so many changes under results, or the appearance of a file there.
        delay_s: how much later.
    """
    changes, before = 0, written(folder)
    while True:
        if process.poll() is not None:
            return False
        now = written(folder)
        changes, before = changes + (now != before), now
        if (folder / "results" / moment).exists() if isinstance(moment, str) else changes >= moment:
            break
        time.sleep(0.001)
    time.sleep(delay_s)
    if process.poll() is not None:
        return False
    process.kill()
    process.communicate()
    return True


def record(folder: Path, stage: str) -> dict[str, Any]:
    """What a stage found, without how long it took."""
    found = open_project(folder).latest(stage)
    assert found is not None
    found.pop("seconds", None)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("method", "quantization"), [("connas", "ptq"), ("evolution", "qat")])
def test_killed_runs_end_as_an_undisturbed_one(tmp_path: Path, method: str, quantization: str) -> None:
    rng = random.Random(method)
    fresh = make_project(tmp_path / "fresh", search_epochs=15, epochs=25)
    edit(fresh, "[search]", f'[search]\nmethod = "{method}"')
    edit(fresh, "[training]", f'[training]\nquantization = "{quantization}"')
    profile(open_project(fresh))  # one table for both, so that prices and predictions are the same
    undisturbed = Path(shutil.copytree(fresh, tmp_path / "undisturbed"))
    killed = Path(shutil.copytree(fresh, tmp_path / "killed"))
    outcome = run(open_project(undisturbed))

    # In search and training, between the files of the export, and while the model is deployed.
    moments: list[int | str] = [rng.randint(1, 16) for _ in range(3)]
    kills = 0
    for moment in [*moments, "model/model_float.tflite", "export.json"]:
        process = start(killed, tmp_path / "cache")
        if kill_after(process, killed, moment, rng.uniform(0, 0.05)):
            kills += 1
        else:
            assert process.wait() == 0
    assert kills >= 3
    process = start(killed, tmp_path / "cache")
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()

    assert record(killed, "search") == record(undisturbed, "search")
    assert record(killed, "export") == record(undisturbed, "export")
    for name in FILES:
        expected = (undisturbed / "results" / "model" / name).read_bytes()
        assert (killed / "results" / "model" / name).read_bytes() == expected, name
    deployed = record(killed, "deploy")
    assert deployed["text"] == outcome.deploy.text
    assert deployed["targets"][0]["accuracy"] == outcome.deploy.targets[0].accuracy
    assert (killed / "results" / "deployed" / "model.tflite").read_bytes() == (
        undisturbed / "results" / "model" / "model_int8.tflite"
    ).read_bytes()


@pytest.mark.slow
def test_a_killed_profile_goes_on(tmp_path: Path) -> None:
    """Nothing is measured twice: the rows of a killed process stand."""
    folder = make_project(tmp_path / "tiny")
    rng = random.Random(7)
    total = len(open_project(folder).space.chain("int8").operators)
    rows = 0
    for _ in range(2):
        process = start(folder, tmp_path / "cache")
        while process.poll() is None and not (folder / "lut.sqlite").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0.05, 0.5))
        process.kill()
        process.communicate()
        before, rows = rows, measured(folder)
        assert rows >= before
    process = start(folder, tmp_path / "cache")
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert measured(folder) == total
    (again,) = profile(open_project(folder)).targets
    assert (again.operators.measured, again.operators.skipped) == (0, total)


def measured(folder: Path) -> int:
    """Operators in the table, which must be whole."""
    if not (folder / "lut.sqlite").exists():
        return 0
    with Lut.open(folder / "lut.sqlite") as lut:
        lut.check()
        return sum(1 for stack in lut.stacks() for _ in lut.rows(stack, subject="operator"))


def test_an_interrupted_training_goes_on(tmp_path: Path, without_onnx: None) -> None:
    """The same without processes: a stop after any epoch, in search and training, leaves the same files."""
    project = open_project(make_project(tmp_path / "a"))
    outcome = run(project)
    epochs: dict[str, list[int]] = {"search": [], "train": []}

    class Stopped(Exception):
        pass

    begun: set[str] = set()

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage not in epochs:
            return
        if stage not in begun:  # the first report says where it goes on
            begun.add(stage)
        elif done < total:
            epochs[stage].append(done)
            raise Stopped

    folder = make_project(tmp_path / "b")
    for _ in range(30):
        begun.clear()
        try:
            again = run(open_project(folder), progress=stop)
            break
        except Stopped:
            continue
    assert epochs == {"search": [1, 2], "train": list(range(1, 12))}  # each epoch ran once
    assert again.search.architecture == outcome.search.architecture
    for name in FILES:
        assert (again.export.folder / name).read_bytes() == (outcome.export.folder / name).read_bytes(), name
    assert record(folder, "search")["history"] == record(tmp_path / "a", "search")["history"]
