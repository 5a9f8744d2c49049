"""What TAB offers, in the shells that are here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PROGRAM
from tests.workflow.projects import edit
from toolchain.cli import complete
from toolchain.workflow.search import METHODS

SHELLS = {
    "bash": ({"COMP_WORDS": "boardfit {line}", "COMP_CWORD": "{last}"}, "complete_bash"),
    "zsh": ({"_TYPER_COMPLETE_ARGS": "boardfit {line}"}, "complete_zsh"),
    "fish": (
        {"_TYPER_COMPLETE_ARGS": "boardfit {line}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        "complete_fish",
    ),
}


def offered(line: str, cwd: Path, shell: str = "bash") -> str:
    """What the completion script of a shell is answered."""
    variables, instruction = SHELLS[shell]
    filled = {name: text.format(line=line, last=len(line.split(" "))) for name, text in variables.items()}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.argv[0] = 'boardfit'\n{PROGRAM}"], cwd=cwd, text=True, check=False,
        capture_output=True, timeout=60, env={**filled, "_BOARDFIT_COMPLETE": instruction, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def test_methods_are_those_of_the_search() -> None:
    assert complete.METHODS == METHODS


@pytest.mark.parametrize("shell", SHELLS)
def test_in_each_shell(shell: str, tiny: Path) -> None:
    assert "nucleo-l4r5zi" in offered("search --target virtual:nucleo-l", tiny, shell)
    assert "evolution" in offered("search --method ev", tiny, shell)


def test_of_the_project(tiny: Path, tmp_path: Path) -> None:
    edit(tiny, "[target]\n", '[target]\nname = "desk"\n')
    assert offered("search --target de", tiny).split() == ["desk"]
    assert offered("search --budget lat", tiny).split() == ["latency="]
    assert offered("search --budget desk:la", tiny).split() == ["desk:latency="]
    assert offered("search -C tiny --target de", tmp_path).split() == ["desk"]
    (tiny / "boardfit.toml").write_text("[[[")
    assert offered("search --target de", tiny).strip() == ""
    assert "cpu:litert" in offered("search --target cpu:", tmp_path)
    assert offered("flash --board nucleo-l", tmp_path).split() == ["nucleo-l4r5zi"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_takes(shell: str, tmp_path: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not here")
    before = f"import sys\nsys.argv[0] = 'boardfit'\n{PROGRAM}"
    inner = f'{sys.executable} -c "{before}" --show-completion; true'
    script = subprocess.run(
        [found, "-c", inner], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    (tmp_path / "script").write_text(script)
    assert "_BOARDFIT_COMPLETE" in script
    assert subprocess.run([found, "-n", str(tmp_path / "script")], timeout=60, check=False).returncode == 0
