"""The wheel in a clean environment, outside the repository: firmware, boards, C sources and templates come along.

boardfit itself is installed from the wheel; third-party packages are those of this environment, reached by a path or
by links, so that nothing is fetched.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from profilers.lut import Lut
from profilers.single import operator_model
from tests.cli.test_lut import make_table
from tests.workflow.projects import make_project
from toolchain.compiled import compilers
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph.operator import Operator

ROOT = Path(__file__).parents[1]
PACKAGES = ("firmware", "targets", "profilers", "toolchain")
CORE = ("numpy", "numpy.libs", "flatbuffers", "tflite")
BOARD = "virtual:nucleo-l4r5zi"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="links packages into an environment"),
]


def command(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program that must find nothing of this repository."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=kept, capture_output=True, text=True, timeout=600, check=False
    )


def succeed(*words: object, cwd: Path) -> str:
    done = command(*words, cwd=cwd)
    assert done.returncode == 0, done
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a checkout has, without what is built in it."""
    folder = tmp_path_factory.mktemp("source") / "boardfit"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(sources, folder)


def build(source: Path, folder: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q")
    succeed(*pip, "-w", folder, source, cwd=folder)
    (found,) = folder.glob("boardfit-*.whl")
    return found


def environment(folder: Path, wheel: Path) -> Path:
    """A virtual environment with this wheel and nothing else; gives its folder of packages."""
    succeed(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "-q")
    succeed(*pip, "--no-deps", "--no-index", wheel, cwd=folder.parent)
    return Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))


@pytest.fixture(scope="module")
def everything(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with all extras."""
    folder = tmp_path_factory.mktemp("all") / "env"
    packages = environment(folder, wheel)
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without extras."""
    folder = tmp_path_factory.mktemp("core") / "env"
    packages = environment(folder, wheel)
    here = Path(sysconfig.get_path("purelib"))
    for name in CORE:
        if (here / name).exists():
            (packages / name).symlink_to(here / name)
    return folder


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_file_of_the_packages_comes_along(sources: Path, wheel: Path) -> None:
    found = (path for name in PACKAGES for path in (sources / name).rglob("*") if path.is_file())
    there = {str(path.relative_to(sources)) for path in found}
    assert {name for name in members(wheel) if not name.startswith("boardfit-")} == there


def test_the_sdist_builds_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    hook = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    succeed(sys.executable, "-c", hook, tmp_path, cwd=sources)
    (sdist,) = tmp_path.glob("boardfit-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path)
    assert members(again) == members(wheel)


def test_without_extras(core: Path, tmp_path: Path) -> None:
    """numpy, flatbuffers and the TFLite schema: enough to read a table, a graph, and to write a model file."""
    make_table(tmp_path / "lut.sqlite", 5)
    script = """
import sys
import toolchain.graph
from profilers.lut import Lut
from profilers.single import operator_model
from targets.mcu.board import load_board
from toolchain.export.native.writer import write_program
from toolchain.compiled import compilers
from toolchain.export.tflite_writer import write_tflite
from toolchain.graph.memory import plan
from toolchain.graph.operator import Operator
from toolchain.graph.tflite_reader import read_tflite
with Lut.open(__import__("pathlib").Path("lut.sqlite"), read_only=True) as lut:
    print(len(lut))
graph = operator_model(Operator.parse("conv2d 8x8x4->8x8x8 k3x3 s1x1 same relu int8"))
assert read_tflite(write_tflite(graph)).operators == graph.operators
assert write_program(graph, "dsp") and plan(graph)
print(load_board("nucleo-l4r5zi").name, toolchain.__file__)
print([name for name in ("torch", "typer", "rich", "pydantic", "serial", "unicorn") if name in sys.modules])
"""
    shown = succeed(core / "bin" / "python", "-c", script, cwd=tmp_path).splitlines()
    with Lut.open(tmp_path / "lut.sqlite", read_only=True) as lut:
        assert shown[0] == str(len(lut))
    assert shown[1].startswith(f"nucleo-l4r5zi {core}")
    assert shown[2] == "[]"
    refused = command(core / "bin" / "boardfit", "boards", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        "error: the command line needs typer", "remedy: pip install 'boardfit[cli]'",
    ]  # fmt: skip


def test_the_commands(everything: Path, tmp_path: Path) -> None:
    boardfit = everything / "bin" / "boardfit"

    def run(*words: object, cwd: Path = tmp_path) -> str:
        return succeed(boardfit, *words, cwd=cwd)

    assert run("--version") == f"boardfit {metadata.version('boardfit')}\n"
    where = succeed(
        everything / "bin" / "python", "-c", "import toolchain; print(toolchain.__file__)", cwd=tmp_path
    )
    assert where.startswith(str(everything))
    assert BOARD in run("boards")
    run("init", "-t", BOARD, "motor")
    assert (tmp_path / "motor" / "boardfit.toml").exists()
    model = tmp_path / "small.tflite"
    model.write_bytes(
        write_tflite(operator_model(Operator.parse("conv2d 8x8x4->8x8x8 k3x3 s1x1 same relu int8")))
    )
    assert "cycles_estimated" in run("bench", model.name, "-t", BOARD)
    assert "latency" in run("bench", model.name)


def test_the_whole_loop(everything: Path, tmp_path: Path) -> None:
    """On a virtual board; then a C project, a report, and the exact solver, C that is compiled at first use."""
    folder = make_project(
        tmp_path / "tiny", url=BOARD, budgets='flash = "80 kB"\nram = "40 kB"', search_epochs=1, epochs=4
    )
    boardfit = everything / "bin" / "boardfit"
    shown = succeed(boardfit, "run", "-C", folder.name, cwd=tmp_path)
    assert "no hardware was used" in shown
    assert "Predicted and measured" in shown
    for words in (("export", "--c", "c"), ("report",)):
        succeed(boardfit, words[0], "-C", folder.name, *words[1:], cwd=tmp_path)
    assert "<svg" in (folder / "results" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "c" / "Makefile").exists()
    solver = "from toolchain.search.exact.native import library; print(library() is not None)"
    assert succeed(everything / "bin" / "python", "-c", solver, cwd=tmp_path) == f"{has_compiler()}\n"


def has_compiler() -> bool:
    return next(compilers(), None) is not None
