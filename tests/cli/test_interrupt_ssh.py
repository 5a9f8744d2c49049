"""Ctrl-C while a Linux board measures, over a real sshd: the agent there ends, and what it measured is kept."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from profilers.lut import Lut
from profilers.lut_rows import subject_text
from targets.lock import exclusive
from tests.cli.conftest import Command
from tests.cli.test_interrupt import ALLOWED_S, LOADED_S, press, session_members, start
from tests.targets.ssh.sshd import WHY_NOT, Sshd, python_that, sshd
from tests.workflow.projects import make_project
from toolchain.cli import interrupted
from toolchain.errors import BoardfitError

pytestmark = pytest.mark.slow
NOTICES_S = 10.0  # an agent whose connection ended reads the end of its input
# A board that takes its time for each operator, as a small one does.
SLOW = """
import time
from targets.host import HostSession
real = HostSession.measure
def measure(*arguments, **options):
    for result in real(*arguments, **options):
        yield result
        time.sleep(0.3)
HostSession.measure = measure
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    pytest.importorskip("paramiko")
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def project(server: Sshd, tmp_path: Path) -> Path:
    return make_project(tmp_path / "board", url=f"{server.url}&python={python_that(tmp_path, SLOW)}")


def agents(server: Sshd) -> list[str]:
    """Processes on the board that run the agent, in the home folder of this server alone."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={server.home}" in (folder / "environ").read_text().split("\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def rows_of(folder: Path) -> dict[str, object]:
    """What stands in the table, without opening it for writing."""
    if not (folder / "lut.sqlite").exists():
        return {}
    with Lut.open(folder / "lut.sqlite", read_only=True) as lut:
        return {f"{row.metric} {subject_text(row.subject)}": row.outcome for row in lut.rows()}


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> bool:
    """Whether it comes true, while the process runs."""
    end = time.monotonic() + (60 if process else NOTICES_S)
    while time.monotonic() < end and (process is None or process.poll() is None):
        with contextlib.suppress(BoardfitError):  # the table is being made
            if what():
                return True
        time.sleep(0.02)
    return False


def test_while_a_board_measures(server: Sshd, project: Path, process: Command) -> None:
    """Once by one Ctrl-C, once by two, which end the process where it stands."""
    command = ["profile", "-C", str(project)]
    kept: dict[str, object] = {}
    for rows, hard in ((1, False), (4, True)):
        with start(*command) as running:
            assert wait_for(lambda least=rows: len(rows_of(project)) >= least, running), rows_of(project)
            assert len(agents(server)) == 1
            seen = rows_of(project)
            if hard:
                running.send_signal(signal.SIGINT)
            out, err, seconds = press(running)
        assert running.returncode == 130, err
        assert out == ""
        assert err.splitlines()[-1] == interrupted(command)
        assert "Traceback" not in err
        assert seconds < ALLOWED_S + LOADED_S
        assert session_members(running.pid) == []
        assert wait_for(lambda: not agents(server)), agents(server)
        kept, before = rows_of(project), kept
        # Nothing that was measured is lost, or measured again.
        assert {**before, **seen}.items() <= kept.items()
        with exclusive(server.home / ".cache" / "boardfit"):  # the board is free again
            pass
    done = process(*command)
    assert done.code == 0, done.err
    operators = [name for name in kept if "->" in name]
    assert len(operators) >= 4
    assert f"{len(operators)} there already" in done.out, (done.out, sorted(kept))
    assert kept.items() <= rows_of(project).items()
    assert wait_for(lambda: not agents(server)), agents(server)  # the agent ends when its input does
