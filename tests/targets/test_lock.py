"""One measurement at a time on a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from targets.lock import exclusive
from toolchain.errors import DeviceError
from toolchain.files import cache_folder

_HOLD = """
import sys, pathlib
from targets.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_it_and_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    with _holder(tmp_path) as process:
        with pytest.raises(DeviceError, match=f"process {process.pid} is measuring"), exclusive(tmp_path):
            pass
        process.kill()
        process.wait()
        with exclusive(tmp_path):
            pass


def test_waiting_for_the_holder(tmp_path: Path) -> None:
    naps: list[float] = []
    with _holder(tmp_path) as process:

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 2:
                process.kill()
                process.wait()

        with exclusive(tmp_path, wait=True, sleep=sleep):
            assert naps == [0.2, 0.2]


def test_it_is_released_after_an_error_and_names_its_holder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="oops"), exclusive(tmp_path):
        raise RuntimeError("oops")
    with exclusive(tmp_path) as path:
        assert str(os.getpid()) in path.read_text()
        with pytest.raises(DeviceError, match=str(os.getpid())), exclusive(tmp_path):
            pass


def test_a_holder_that_has_not_written_its_pid_yet(tmp_path: Path) -> None:
    with exclusive(tmp_path) as path:
        path.write_text("")
        with pytest.raises(DeviceError, match="unknown"), exclusive(tmp_path):
            pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="lock file"), exclusive(tmp_path / "file"):
        pass


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "boardfit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "boardfit"
