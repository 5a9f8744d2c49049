"""The command in this process and in one of its own, on a tiny project."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from targets import host
from targets.timing import Settings
from tests.workflow.projects import make_project
from toolchain.cli import main

PROGRAM = "import sys\nfrom toolchain.cli import main\nsys.exit(main())\n"


class Outcome(NamedTuple):
    """What a user sees of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on stdout; strict, so NaN is none."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        found: dict[str, Any] = json.loads(self.out, parse_constant=refuse)
        assert found["schema"] == 1
        return found


Command = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "COLUMNS", "_TYPER_FORCE_DISABLE_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(
        host, "Settings", lambda: Settings(samples=3, fewest=1, inner_us=20, retries=0, settle=1)
    )


@pytest.fixture
def boardfit(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def process() -> Command:
    """Run a command in a process of its own; `before` is Python that runs first."""

    def run(*arguments: object, before: str = "", **options: Any) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-c", before + PROGRAM, *map(str, arguments)],
            capture_output=True, text=True, timeout=120, **options,
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A project with six networks, whose budgets need no measuring."""
    return make_project(tmp_path / "tiny", search_epochs=1, epochs=1)
