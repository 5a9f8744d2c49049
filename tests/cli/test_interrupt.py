"""Ctrl-C at any moment of any command: it ends within a second, says how to go on, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from profilers.lut import Lut
from tests.cli.conftest import PROGRAM, Command
from tests.workflow.projects import edit, make_project
from toolchain.cli import interrupted
from toolchain.process import run_captured

ALLOWED_S = 1.0
LOADED_S = 2.0  # on top: a machine that runs other tests may not give a process its turn for so long
# A board's whole loop in about ten seconds on a quiet machine: firmware, emulator, supernet, training, deployment.
BOARD_BUDGETS = 'latency = "40 %"\nflash = "80 kB"\nram = "40 kB"'
# Natives that hear nothing: a C function of minutes, and a loop that swallows the exception as callbacks do.
DEAF = """
import hashlib, time
from toolchain.cli import app
def deaf(*_, **__):
    print("ready", flush=True)
    while {swallows}:
        try:
            time.sleep(10)
        except BaseException:
            pass
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
app.show.boards = deaf
"""


def press(process: subprocess.Popen[str]) -> tuple[str, str, float]:
    """Ctrl-C; gives what it said, and how long it took to end."""
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return out, err, time.monotonic() - begin


def start(*arguments: object, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def session_members(leader: int) -> list[str]:
    """Command lines of what runs in a session, whatever its process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.parametrize("swallows", [False, True])
def test_code_that_does_not_hear(swallows: bool) -> None:
    with start("boards", before=DEAF.format(swallows=swallows)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        _, err, seconds = press(process)
    assert process.returncode == 130
    assert err == "interrupted; again: boardfit boards\n"
    assert seconds < ALLOWED_S + LOADED_S


def test_what_was_started_in_the_background_ignores_it() -> None:
    """As a shell starts `boardfit boards &` in a script."""
    ignoring = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('x', flush=True)\n"
    with start("--version", before=ignoring) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "x\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0].startswith("boardfit ")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["run", "-C", "my motor", "--force"],
            "what was finished is kept, go on with: boardfit run -C 'my motor'",
        ),
        (
            ["--debug", "search", "-b", "latency=2 ms"],
            "go on with: boardfit --debug search -b 'latency=2 ms'",
        ),
        (["bench", "a.tflite"], "interrupted; again: boardfit bench a.tflite"),
        (["flash", "--board", "x"], "may be half written, write it again: boardfit flash --board x"),
    ],
)
def test_what_is_said(arguments: list[str], said: str) -> None:
    assert interrupted(arguments).endswith(said)


def test_a_program_that_is_broken_off_takes_its_own_children_along() -> None:
    inner = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    before = set(session_members(os.getsid(0)))
    with pytest.raises(subprocess.TimeoutExpired):
        run_captured([sys.executable, "-c", inner], timeout_s=1)
    end = time.monotonic() + 5  # killed, it may wait for its turn on a loaded machine
    while left := [
        line for line in session_members(os.getsid(0)) if "sleep(60)" in line and line not in before
    ]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


@pytest.fixture
def board_project(tmp_path: Path) -> Path:
    return make_project(
        tmp_path / "board", url="virtual:nucleo-l4r5zi", budgets=BOARD_BUDGETS, search_epochs=4, epochs=30
    )


@pytest.mark.slow
def test_at_random_moments(boardfit: Command, process: Command, board_project: Path) -> None:
    """Each command goes on where the one before was interrupted, until all is done; the firmware is built on the way.

    The same for the commands alone as for `run`, so that each is hit in its own beginning, too.
    """
    folder = board_project
    rng = random.Random(os.environ.get("BOARDFIT_SEED", "8"))
    slowest = 0.0
    hit = 0
    rows = 0
    commands = [[name, "-C", str(folder)] for name in ("profile", "search", "export", "deploy", "run")]
    for number in range(12):
        command = commands[number % len(commands)]
        with start(*command) as running:
            time.sleep(rng.uniform(0.1, 5))
            if running.poll() is not None:
                _, err = running.communicate()
                assert running.returncode in (0, 3), (command, err)  # e.g. nothing to export yet
                continue
            out, err, seconds = press(running)
        assert "Traceback" not in err, err
        assert session_members(running.pid) == []
        if running.returncode == 130:
            hit += 1
            slowest = max(slowest, seconds)
            assert out == ""
            assert err.splitlines()[-1] == interrupted(command)
        else:
            assert running.returncode in (0, 3), (command, err)
        if (folder / "lut.sqlite").exists():
            with Lut.open(folder / "lut.sqlite") as lut:
                assert len(lut) >= rows  # nothing that was measured is lost
                rows = len(lut)
    assert hit > 3
    assert slowest < ALLOWED_S + LOADED_S
    done = process("run", "-C", folder)
    assert done.code in (0, 1), done.err
    edit(folder, 'name = "tiny"', 'name = "renamed"')
    assert boardfit("doctor", "-C", folder, "--json").code == 0
