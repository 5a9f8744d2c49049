"""A board that is a process: killed or reset in the middle of a table, or wanted by two at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="the emulator is not installed")

from profilers.lut import Lut
from profilers.profile import profile_operators
from targets.session import Session, open_target
from tests.targets.mcu.virtual.firmware import any_compiler
from toolchain.errors import DeviceError
from toolchain.graph import Operator

BOARD = "nucleo-g491re"
OPERATORS = [Operator.parse(f"add 4x4x{n},4x4x{n}->4x4x{n} none int8") for n in range(1, 9)]
AFTER = 3
SECOND = """
import sys
from targets.session import open_target
from toolchain.errors import DeviceError
try:
    with open_target(sys.argv[1]): pass
except DeviceError as error:
    print(error.exit_code, error.message)
"""


class BoardProcess:
    """`board_process.py`, running."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.url = f"socket://127.0.0.1:{int(process.stdout.readline())}?board={BOARD}"

    def press_reset(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"r")
        self.process.stdin.flush()


@contextmanager
def board() -> Iterator[BoardProcess]:
    any_compiler()
    command = [sys.executable, "-m", "tests.profilers.board_process", f"virtual:{BOARD}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield BoardProcess(process)
        finally:
            process.kill()


def profiled(lut: Lut, session: Session, happens: Callable[[], object] | None = None) -> tuple[int, int]:
    """(measured, skipped); after some rows something happens."""

    def progress(done: int, total: int) -> None:
        if done == AFTER and happens is not None:
            happens()

    report = profile_operators(lut, session, OPERATORS, progress=progress)
    assert not report.failed
    return report.measured, report.skipped


@pytest.mark.parametrize("death", ["kill", pytest.param("reset", marks=pytest.mark.slow)])
def test_rows_stay_and_the_next_run_measures_the_rest(tmp_path: Path, death: str) -> None:
    with Lut.open(tmp_path / "a.lut") as lut, board() as first:
        happens = first.process.kill if death == "kill" else first.press_reset
        with open_target(first.url) as session, pytest.raises(DeviceError) as caught:
            profiled(lut, session, happens)
        assert caught.value.remedy
        kept = {row.subject: row.outcome for row in lut.rows()}
        assert len(kept) == AFTER
        with board() as second, open_target(second.url) as session:
            assert profiled(lut, session) == (len(OPERATORS) - AFTER, AFTER)
        rows = {row.subject: row.outcome for row in lut.rows()}
        assert len(rows) == len(OPERATORS)
        assert {subject: rows[subject] for subject in kept} == kept


@pytest.mark.slow
def test_a_second_process_is_told_who_has_the_board() -> None:
    with board() as there, open_target(there.url) as session, Lut.in_memory() as lut:
        arguments = [sys.executable, "-c", SECOND, there.url]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("5 process ")
        assert "is measuring" in done.stdout
        assert profiled(lut, session) == (len(OPERATORS), 0)  # and it disturbed nothing
