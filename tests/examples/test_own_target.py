"""examples/own-target: installed by pip as a user would, then costed with and run through the whole loop."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets import session
from targets.session import Job, open_target
from targets.timing import Settings
from tests.random_graphs import random_inputs
from tests.targets.test_native_runner import net
from tests.workflow.projects import make_project
from toolchain.compiled import compilers
from toolchain.errors import BoardfitError, ConfigurationError, DeviceError, ModelFileError
from toolchain.export.native.writer import write_program
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph.integer_reference import run_int8
from toolchain.workflow.config import load_config

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own-target"
URL = "process:native"
QUICK = Settings(samples=3, fewest=1, inner_us=20, retries=0, settle=1)

pytestmark = pytest.mark.skipif(not any(True for _ in compilers()), reason="no C compiler for this machine")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, without network; from a copy, because setuptools writes beside its sources."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", folder / "site", folder / "source"],
        check=True, timeout=120,
    )  # fmt: skip
    return folder / "site"


@pytest.fixture(autouse=True)
def _installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and in the ones that it starts, which compile the runtime once for all tests here."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(site.parent / "cache"))


@pytest.fixture
def boardfit() -> Callable[..., Any]:
    """A command in a process of its own, whose answer is JSON."""
    program = "import sys\nfrom toolchain.cli import main\nsys.exit(main())\n"

    def run(*arguments: object, codes: tuple[int, ...] = (0,)) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode in codes, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_session(tmp_path: Path) -> None:
    graph = net(4)
    program = write_program(graph)
    x = random_inputs(graph, 3, 0)[0]
    with open_target(URL, cache=tmp_path) as opened:
        np.testing.assert_array_equal(opened.run(program, x), run_int8(graph, x).reshape(3, -1))
        assert opened.stack.as_dict()["runtime"] == "native"
        assert opened.device is None
        steps: list[tuple[int, int]] = []
        jobs = [Job("good", program), Job("bad", b"no program"), Job("other", write_program(net(8)))]
        found = {
            result.key: result
            for result in opened.measure(jobs, settings=QUICK, progress=lambda *step: steps.append(step))
        }
        assert steps == [(1, 3), (2, 3), (3, 3)]
        assert "no program" in found["bad"].failure
        for key in ("good", "other"):
            measured = found[key].measurement
            assert measured is not None
            assert (measured.metric, measured.evidence) == ("latency_us", "host_wall")
            assert 0 < measured.value <= max(measured.samples)
        with pytest.raises(ConfigurationError, match="same key"):
            opened.measure([jobs[0], jobs[0]])
        with pytest.raises(ModelFileError, match="refuses"):
            opened.run(write_tflite(graph), x)
        assert opened.run(program, x).shape == (3, 16)  # the device goes on after a refusal


def test_deployed_it_runs_by_itself(tmp_path: Path) -> None:
    graph = net(4)
    x = random_inputs(graph, 2, 0)[0]
    with open_target(URL, cache=tmp_path) as opened:
        opened.deploy(write_program(net(3)), tmp_path / "there")
        assert opened.deploy(write_program(graph), tmp_path / "there") == str(tmp_path / "there")
        np.save(tmp_path / "x.npy", x)
        command = [
            sys.executable,
            tmp_path / "there" / "run_model.py",
            tmp_path / "x.npy",
            tmp_path / "y.npy",
        ]
        subprocess.run(command, check=True, timeout=60)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), run_int8(graph, x).reshape(2, -1))
        with pytest.raises(ModelFileError):
            opened.deploy(b"no program", tmp_path / "there")
        opened.undo(tmp_path / "there")
        assert (tmp_path / "there" / "model.bfp").read_bytes() == write_program(net(3))


def test_a_device_that_dies_is_an_error_and_a_listener_that_leaves_ends_it(tmp_path: Path) -> None:
    jobs = [Job(str(n), write_program(net(n))) for n in range(1, 30)]
    with open_target(URL, cache=tmp_path) as opened:
        results = opened.measure(jobs, settings=QUICK)
        next(results)
        opened._process.kill()
        with pytest.raises(DeviceError, match="ended with code -9"):
            list(results)
    with open_target(URL, cache=tmp_path) as opened:
        results = opened.measure(jobs, settings=QUICK)
        next(results)
        results.close()
        with pytest.raises(DeviceError):
            opened.run(jobs[0].model, np.zeros((1, 4, 4, 1), np.int8))
    with open_target(URL, cache=tmp_path) as again:  # the measuring lock is free
        assert len(list(again.measure(jobs[:2], settings=QUICK))) == 2


@pytest.mark.parametrize("url", ["process:other", "process:native?threads=2"])
def test_what_its_urls_do_not_mean(url: str) -> None:
    for function in (session.model_format, open_target):
        with pytest.raises(BoardfitError, match="process"):
            function(url)


def test_boards_and_bench(boardfit: Callable[..., Any], tmp_path: Path) -> None:
    listed = {target["url"]: target for target in boardfit("boards", "--json")["targets"]}
    assert listed[URL]["available"]
    assert "boardfit-process 0.1.0" in listed[URL]["notes"]
    (tmp_path / "model.tflite").write_bytes(write_tflite(net(4)))
    found = boardfit("bench", tmp_path / "model.tflite", "--target", URL, "--json")
    assert found["whole"]["evidence"] == "host_wall"
    assert found["computed"]["flash_bytes"] == len(write_program(net(4)))  # the program, not the .tflite file
    assert [cost["measurement"]["value"] > 0 for cost in found["operators"]] == [True, True]


@pytest.mark.slow
def test_the_whole_loop(boardfit: Callable[..., Any], tmp_path: Path) -> None:
    budgets = 'latency = "60 %"\nflash = "20 kB"\nram = "4 kB"'
    folder = make_project(tmp_path / "project", url=URL, budgets=budgets, search_epochs=2, epochs=8)
    # 1: a latency measured in a slow phase of the machine may break its budget. Everything else must hold.
    found = boardfit("run", "--project", folder, "--json", codes=(0, 1))
    (deployed,) = found["deploy"]["targets"]
    assert deployed["model"] == "model_int8.bfp"
    assert deployed["differing"] == 0  # the firmware's C computes what TensorFlow Lite Micro computes
    assert deployed["stack"]["target"] == URL
    assert (folder / "results" / "deployed" / "model.bfp").is_file()


def test_its_files_are_those_that_its_pages_name() -> None:
    package = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert package["entry-points"] == {"boardfit.targets": {"process": "boardfit_process"}}
    assert load_config(EXAMPLE / "boardfit.toml").target[0].url == URL
