"""`boardfit run`, killed twenty times wherever it stands, ends as one that nobody disturbed; and two do not meet."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.biased import bias, price_of_the_middle, wide_project
from tests.workflow.projects import edit, make_project, same, timeless
from tests.workflow.test_resume import FILES, kill_after, record, start
from toolchain.cli import main
from toolchain.errors import BoardfitError
from toolchain.workflow.project import open_project
from toolchain.workflow.run import run

KILLS = 20


def biased_project(folder: Path) -> Path:
    """A virtual board whose table is 20 % too low, so that the run has several rounds."""
    wide_project(folder, samples="samples = 40", search_epochs=8, epochs=16)
    edit(folder, 'cycles = "1 M"', f"cycles = {round(price_of_the_middle(folder))}")
    bias(folder, lambda op: 0.8)
    return folder


def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that goes to its end."""
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("unicorn", "capstone", "serial", "elftools"):
        pytest.importorskip(name, reason=f"a virtual board needs {name}")
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    fresh = biased_project(tmp_path / "fresh")
    undisturbed = Path(shutil.copytree(fresh, tmp_path / "undisturbed"))
    killed = Path(shutil.copytree(fresh, tmp_path / "killed"))
    ended(start(undisturbed, cache))

    rng = random.Random(20)
    kills = 0
    while kills < KILLS:
        process = start(killed, cache)
        # So many changes under results, and then anywhere before the next ones.
        if kill_after(process, killed, rng.choice((1, 1, 2, 3)), rng.choice((0.0, rng.uniform(0, 0.6)))):
            kills += 1
        else:  # it came to its end: the rest of the kills meet a run that finds everything done
            ended(process)
    ended(start(killed, cache))

    assert len(record(undisturbed, "rounds")["rounds"]) > 1
    for stage in ("rounds", "search", "export"):
        one, other = (timeless(record(folder, stage)) for folder in (killed, undisturbed))
        for record_of in (one, other):
            # Why a stage was begun differs: after a kill also because its record was not written yet. And fingerprints
            # of corrections differ with the last cycle.
            for name in ("inputs", "depends", *(("why",) if stage == "search" else ())):
                del record_of[name]
        for name in ("text", "architecture"):
            assert one.get(name) == other.get(name), stage
        same(one, other, stage)
    for name in (*FILES, "model_int8.bfp"):
        expected = (undisturbed / "results" / "model" / name).read_bytes()
        assert (killed / "results" / "model" / name).read_bytes() == expected, name
    one, other = (record(folder, "deploy") for folder in (killed, undisturbed))
    same(one["rows"], other["rows"], "rows")
    assert one["accuracies"] == other["accuracies"]


def test_two_runs_in_one_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = open_project(make_project(tmp_path / "tiny"))
    with project.held():
        with pytest.raises(BoardfitError, match=rf"process {os.getpid()} is running in .*tiny.*--wait"):
            run(open_project(tmp_path / "tiny"))
        assert main(["run", "-C", str(tmp_path / "tiny")]) == 1
        assert f"process {os.getpid()} is running" in capsys.readouterr().err
    with project.held():  # free again
        assert json.loads((project.results / "run.lock").read_text()) == {"pid": os.getpid()}


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    project = open_project(make_project(tmp_path / "tiny"))
    code = (
        "import sys, time; from pathlib import Path; from toolchain.workflow.project import open_project\n"
        "with open_project(Path(sys.argv[1])).held(): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(project.folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BoardfitError, match=f"process {process.pid} "), project.held():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with project.held():
        pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    project = open_project(make_project(tmp_path / "tiny"))
    real = os.open

    def refuse(path: Any, *args: Any, **more: Any) -> int:
        if str(path).startswith(str(project.results)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        BoardfitError, match=rf"cannot write .*{os.strerror(number)}.*copy the project elsewhere"
    ):
        run(project)


def test_a_full_disk_is_an_error_with_a_remedy(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a file is written; what stood there before stands, and the same command then goes on."""
    before = {
        p: p.read_bytes() for p in (finished / "results").rglob("*") if p.is_file() and p.suffix != ".lock"
    }
    real = os.fsync
    left = 0

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    edit(finished, 'flash = "20 kB"', 'flash = "19 kB"')
    monkeypatch.setattr(os, "fsync", full)
    for left in (0, 1, 2, 4):  # noqa: B007 (read by `full`)
        with pytest.raises(BoardfitError, match=r"cannot .*No space left on device.*free disk space"):
            run(open_project(finished))
    assert all(path.exists() for path in before)
    assert not list((finished / "results").rglob(".*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert run(open_project(finished)).search.why in ("budgets changed", "nothing changed")
