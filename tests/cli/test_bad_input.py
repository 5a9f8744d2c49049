"""Whatever stands in files and options: an error with a remedy and its exit code, never a traceback or "internal"."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import PROGRAM, Command, Outcome
from tests.workflow.projects import edit

HUGE = "9" * 400
STAGES = ("profile", "search", "export", "deploy", "run", "report")


def refused(outcome: Outcome, *codes: int) -> None:
    """One error and one remedy; nothing else that looks like one."""
    assert outcome.code in (codes or (2, 3)), outcome
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, outcome.err
    assert lines[-1].startswith("remedy: "), outcome.err
    assert lines[-2] == errors[0]
    assert "internal" not in errors[0]
    assert "Traceback" not in outcome.err


def config(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "boardfit.toml").write_bytes(text.encode("utf-8")) and None


def change(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, old, new)


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "boardfit.toml").write_bytes(data) and None


def a_folder(name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return put


def data(**arrays: object) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]


X = np.zeros((30, 1, 8, 8), np.float32)
Y = np.arange(30) % 3


@pytest.mark.parametrize(
    "spoil",
    [
        config(""),
        config("\0\0\0"),
        raw(b"\xff\xfe[project]"),
        config("[project]\nname = 3"),
        config("project = 1"),
        config("[[project]]\nname = 'x'"),
        a_folder("boardfit.toml"),
        change('name = "tiny"', f'name = "tiny"\nseed = {HUGE}'),
        change('name = "tiny"', 'name = "tiny"\nseed = -1'),
        change('name = "tiny"', 'name = "tiny"\nthreads = 0'),
        change('name = "tiny"', "name = true"),
        change('flash = "20 kB"', 'flash = "-20 kB"'),
        change('flash = "20 kB"', f'flash = "{HUGE} kB"'),
        change('flash = "20 kB"', "flash = nan"),
        change('flash = "20 kB"', "flash = inf"),
        change('flash = "20 kB"', "flash = 0"),
        change('flash = "20 kB"', "flash = [1]"),
        change('flash = "20 kB"', 'flash = ""'),
        change('flash = "20 kB"', 'flash = "101 %"'),
        change('url = "cpu:litert"', 'url = ""'),
        change('url = "cpu:litert"', "url = 1"),
        change('url = "cpu:litert"', 'url = "cpu:litert?threads=-1"'),
        change('url = "cpu:litert"', 'url = "cpu:litert?what=1"'),
        change('url = "cpu:litert"', 'url = "serial:"'),
        change('url = "cpu:litert"', 'url = "ssh://"'),
        change('url = "cpu:litert"', 'url = "ssh://[::1"'),
        change('url = "cpu:litert"', 'url = "virtual:"'),
        change('precision = "int8"', 'precision = "int4"'),
        change('name = "my_space.py:MySpace"', 'name = "my_space.py"'),
        change('name = "my_space.py:MySpace"', 'name = "none.py:MySpace"'),
        change('name = "my_space.py:MySpace"', 'name = "data.npz:MySpace"'),
        change('name = "my_space.py:MySpace"', 'name = "my_space.py:Candidate"'),
        change('name = "my_space.py:MySpace"', 'name = ""'),
        lambda folder: (folder / "my_space.py").write_text("def (") and None,
        lambda folder: (folder / "my_space.py").write_text("raise RuntimeError('mine')") and None,
        lambda folder: (folder / "my_space.py").write_bytes(b"\xff\xfe\x00"),
        a_folder("my_space.py"),
        change('path = "data.npz"', 'path = "."'),
        change('path = "data.npz"', 'path = "a\\u0000b"'),
        a_folder("data.npz"),
        lambda folder: (folder / "data.npz").write_bytes(b""),
        lambda folder: (folder / "data.npz").write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda folder: (folder / "data.npz").write_bytes((folder / "data.npz").read_bytes()[:-500]),
        data(),
        data(x=X),
        data(x=X, y=Y[:-1]),
        data(x=X, y=Y * 0),
        data(x=X, y=Y + 0.5),
        data(x=X * np.nan, y=Y),
        data(x=X[:0], y=Y[:0]),
        data(x=X[:, 0, 0, 0], y=Y),
        data(x=X.astype(str), y=Y),
        data(x=X, y=Y, classes=["a"]),
        data(x=X, y=np.asarray(["a", "b", "c"] * 10), classes=["a", "b"]),
        data(x=np.float32(1), y=Y),
        data(x=X, y=np.float32(1)),
        data(x=X[:2], y=Y[:2]),
        change("epochs = 1\nbatch_size", f"epochs = {HUGE}\nbatch_size"),
        change("epochs = 1\nbatch_size", "epochs = -1\nbatch_size"),
        change("networks = 4", "networks = -4"),
        change("networks = 4", 'networks = 4\nlut = ""'),
        change("networks = 4", 'networks = 4\nlut = "."'),
        change("networks = 4", 'networks = 4\nshare = "0 %"'),
        change("[search]", "[search]\nlearning_rate = nan"),
        change("[search]", "[search]\nmargin = -5"),
        change("[search]", '[search]\nmethod = "luck"'),
    ],
)
def test_a_project(boardfit: Command, tiny: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tiny)
    refused(boardfit("search", "-C", tiny))
    assert boardfit("doctor", "-C", tiny).code in (0, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "--budget", f"ram={HUGE} kB"),
        ("search", "--budget", "ram=nan"),
        ("search", "--budget", "ram=\udcff"),
        ("search", "--target", ""),
        ("search", "--target", "cpu:litert?threads=x"),
        ("profile", "--share", "none"),
        ("profile", "--share", f"{HUGE} %"),
        ("profile", "--target", "virtual:nucleo-none"),
        ("deploy",),
        ("export",),
        ("compare", "none", "none"),
        ("doctor", "--install"),
        ("lut", "show", "none.sqlite"),
        ("lut", "show", "."),
        ("lut", "show", "data.npz"),
        ("lut", "export", "none.sqlite", "x.csv"),
        ("lut", "merge", "new.sqlite", "."),
        ("lut", "merge", "new.sqlite", "data.npz"),
        ("lut", "merge", "new.sqlite", "my_space.py"),
        ("lut", "diff", "data.npz", "data.npz"),
        ("bench", "."),
        ("bench", "data.npz"),
        ("bench", "my_space.py"),
        ("bench", "boardfit.toml", "-t", ""),
        ("bench", "boardfit.toml", "-t", "serial:/dev/none?board=nucleo-l4r5zi"),
        ("flash",),
        ("flash", "--board", "none"),
        ("flash", "--board", "nucleo-l4r5zi", "--firmware", "."),
        ("flash", "--board", "nucleo-l4r5zi", "--with", "magic"),
        ("flash", "--target", "virtual:nucleo-l4r5zi", "--timeout", "-1"),
        ("calibrate", "cpu:litert"),
        ("calibrate", "serial:/dev/none?board=nucleo-l4r5zi"),
        ("init", "data.npz/x"),
        ("init", "x" * 300),
        ("init", "a\0b"),
    ],
)
def test_options(
    boardfit: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tiny)
    found = boardfit(*arguments)
    if arguments == ("search", "--target", ""):  # as if it were not there
        assert found.code == 0
    else:
        refused(found, 1, 2, 3, 5)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", STAGES)
def test_a_folder_that_cannot_be_written(boardfit: Command, tiny: Path, command: str) -> None:
    tiny.chmod(0o500)
    try:
        refused(boardfit(command, "-C", tiny), 1, 3)
    finally:
        tiny.chmod(0o700)


@pytest.mark.parametrize("command", ["profile", "search"])
def test_results_that_is_a_file(boardfit: Command, tiny: Path, command: str) -> None:
    (tiny / "results").write_text("")
    outcome = boardfit(command, "-C", tiny)
    if command == "search":
        refused(outcome, 1, 3)
    else:
        assert outcome.code == 0  # the table lies beside it


def run_in(environment: dict[str, str], *arguments: str, stdout: int = subprocess.PIPE) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, stdin=subprocess.DEVNULL,
        stdout=stdout, stderr=subprocess.PIPE, text=True, errors="replace", timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "40"},
        {"COLUMNS": "1", "TERM": "dumb"},
        {"HOME": ""},
        {"HOME": "/nonexistent"},
        {"TERM": ""},
        {"NO_COLOR": "1"},
    ],
    ids=str,
)
def test_environments(variables: dict[str, str], tmp_path: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    code, err = run_in({**kept, **cache, **variables}, "search", "-C", str(tmp_path / "naïve"))
    assert code == 3
    assert err.splitlines()[-1] == "remedy: make one with: boardfit init NAME"


def test_no_home_and_no_cache_folder() -> None:
    code, err = run_in({"PATH": os.environ["PATH"]}, "boards")
    assert code == 0, err


def test_stdout_that_is_closed(tmp_path: Path) -> None:
    closing = "import os\nos.close(1)\n"
    done = subprocess.run(
        [sys.executable, "-c", closing + PROGRAM, "boards"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    full = Path("/dev/full")
    if full.exists():
        with full.open("w") as sink:
            code, err = run_in(dict(os.environ), "boards", stdout=sink.fileno())
        assert code != 0
        assert "Traceback" not in err
        assert err.startswith("error: ")
