"""Every error says what to do: by itself, or by its kind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolchain import errors

ROOT = Path(__file__).parents[1]
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.BoardfitError)
}
# What commands run into themselves: there the usual remedy of the kind is too vague.
OWN_REMEDY = ("toolchain/workflow", "toolchain/cli", "targets/mcu/flash")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_usual_remedy(kind: str) -> None:
    found = KINDS[kind].usual_remedy
    assert found
    assert "\n" not in found
    assert len(found) < 120


def without_remedy() -> Iterator[str]:
    for package in ("targets", "profilers", "toolchain"):
        for path in sorted((ROOT / package).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in KINDS
                    and not any(keyword.arg in ("remedy", None) for keyword in node.keywords)
                ):
                    yield f"{place}:{node.lineno}"


def test_errors_that_users_meet_have_a_remedy_of_their_own() -> None:
    found = list(without_remedy())
    assert [place for place in found if place.startswith(OWN_REMEDY)] == []
