"""docs/cli.md and the code say the same, in both directions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from toolchain import errors
from toolchain.cli import EXIT_INTERRUPTED
from toolchain.cli.app import app
from toolchain.units import BUDGET_METRICS
from toolchain.workflow.config import Config

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    lines = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines()
    rows = [line.strip().strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def commands(command: Any, path: str = "boardfit") -> Iterator[tuple[str, Any]]:
    """Every command with its path; a group without options of its own is only the way to its commands."""
    if any(parameter.opts for parameter in command.params):
        yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def usage(path: str, command: Any) -> str:
    words = [path]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            word = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
            words.append(word if parameter.required else f"[{word}]")
    return " ".join(words)


REAL = {usage(path, command): command for path, command in commands(typer.main.get_command(app))}
DOCUMENTED = {row[0].strip("`"): re.findall(r"`(--?[A-Za-z-]+)`", row[2]) for row in table("Commands")}


def test_every_command_with_its_arguments() -> None:
    assert list(DOCUMENTED) == list(REAL)


@pytest.mark.parametrize("command", REAL)
def test_every_option(command: str) -> None:
    real = [
        name
        for parameter in REAL[command].params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    ]
    assert DOCUMENTED[command] == real


@pytest.mark.parametrize("command", REAL)
def test_every_option_and_command_has_a_help_text(command: str) -> None:
    found = REAL[command]
    assert found.help
    assert all(parameter.help for parameter in found.params)


def test_every_exit_code() -> None:
    def tree(error: type[errors.BoardfitError]) -> Iterator[int]:
        yield error.exit_code
        for inner in error.__subclasses__():
            yield from tree(inner)

    codes = {int(code) for code, _ in table("Exit codes")}
    assert codes == {0, EXIT_INTERRUPTED, *tree(errors.BoardfitError)}


def test_every_key_of_the_project_file() -> None:
    real = []
    for section, outer in Config.model_fields.items():
        kinds = (outer.annotation, *get_args(outer.annotation))  # a section, or several of a kind
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
        for key, field in model.model_fields.items():
            default = "(needed)"
            if not field.is_required():
                value = field.get_default(call_default_factory=True)
                default = "" if value in (None, "", {}) else f"`{json.dumps(value)}`"
            real.append([f"`{section}.{key}`", default, field.description])
    assert table("boardfit.toml") == real


def test_every_budget_and_unit() -> None:
    text = PAGE.partition("\nBudgets: ")[2].partition("\n## ")[0]
    for key, (_, units) in BUDGET_METRICS.items():
        assert f"`{key}`" in text
        for unit in units:
            assert not unit or re.search(rf"\b{unit.replace('µ', 'u')}\b", text), unit


def test_every_search_method_has_a_paragraph() -> None:
    methods = re.findall(r"`(\w+)`", PAGE.partition("\n## Search methods\n")[2])
    values = Config.model_fields["search"].annotation.model_fields["method"].annotation.__args__
    assert {*values} <= {*methods}
