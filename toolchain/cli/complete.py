"""What the shell offers for options: targets, methods and budget keys. A completer never fails; it offers nothing."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from toolchain.units import BUDGET_METRICS

# As `toolchain.workflow.search.METHODS`; that module imports torch, and a key press does not wait for it.
METHODS = ("connas", "binas", "evolution", "random")


def targets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names and URLs of the project's targets; then this machine's engines and the virtual boards."""
    found = [
        value for target in _of_project(ctx) for value in (target.get("name"), target.get("url")) if value
    ]
    with contextlib.suppress(Exception):
        from targets.mcu.board import list_boards

        found += ["cpu:litert", "cpu:onnxruntime", "cpu:torch", "cuda:torch", "ssh://"]
        found += [f"virtual:{name}" for name in list_boards()]
    return _beginning(map(str, found), incomplete)


def boards(incomplete: str) -> list[str]:
    """Names of boards."""
    with contextlib.suppress(Exception):
        from targets.mcu.board import list_boards

        return [name for name in list_boards() if name.startswith(incomplete)]
    return []


def methods(incomplete: str) -> list[str]:
    """Search methods."""
    return [name for name in METHODS if name.startswith(incomplete)]


def budgets(ctx: typer.Context, incomplete: str) -> list[str]:
    """`latency=`, and of one of several targets `pi:latency=`."""
    names = [str(target["name"]) for target in _of_project(ctx) if target.get("name")]
    keys = [*BUDGET_METRICS, *(f"{name}:{key}" for name in names for key in BUDGET_METRICS)]
    return _beginning((f"{key}=" for key in keys), incomplete)


def _beginning(values: Iterable[str], incomplete: str) -> list[str]:
    """Those that begin so; bash takes a colon for the begin of a new word, so the rest behind one is a word, too."""
    known = list(dict.fromkeys(values))
    whole = [value for value in known if value.startswith(incomplete)]
    tails = (value.partition(":")[2] for value in known)
    return whole or [tail for tail in tails if tail and tail.startswith(incomplete)]


def _of_project(ctx: typer.Context) -> Iterator[dict[str, Any]]:
    """The targets of the project file that the command line names, read leniently."""
    folder = Path(str(ctx.params.get("project") or "."))
    with contextlib.suppress(OSError, ValueError):
        text = (folder / "boardfit.toml" if folder.is_dir() else folder).read_text(encoding="utf-8")
        section = tomllib.loads(text).get("target", [])
        for target in section if isinstance(section, list) else [section]:
            if isinstance(target, dict):
                yield target
