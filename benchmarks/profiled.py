"""A space profiled into a fresh table, for benchmarks of predictions: no data set, no training."""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from toolchain.spaces import Space, load_space
from toolchain.workflow.config import parse_config
from toolchain.workflow.profile import TargetProfile, profile
from toolchain.workflow.project import Project

Spaces = Mapping[str, Mapping[str, Any]]


@contextmanager
def profiled(
    space: str, parameters: Mapping[str, Any], target: str, networks: int
) -> Iterator[tuple[Project, TargetProfile]]:
    """Measure every operator of a space and random whole networks of it on a target, into a table that is deleted
    afterwards.
    """
    config = {
        "project": {"name": "bench"},
        "data": {"kind": "digits"},  # not read: the space has its shape
        "space": {"name": space, "parameters": dict(parameters)},
        "target": {"url": target},
        "profile": {"networks": networks},
    }
    with tempfile.TemporaryDirectory() as folder:
        project = _SpaceOnly(Path(folder), parse_config(config, "bench"))
        (outcome,) = profile(project).targets
        yield project, outcome


def run(
    doc: str | None,
    spaces: Spaces,
    target: str,
    networks: int,
    measure: Callable[[str, str, int], Mapping[str, float]],
) -> None:
    """Parse the arguments that these benchmarks share, measure the chosen spaces, and keep the figures.

    Args:
        target, networks: defaults.
        measure: (space, target, networks) -> figures, which it also prints.
    """
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=target)
    parser.add_argument("--networks", type=int, default=networks)
    parser.add_argument("--space", choices=[*spaces, "all"], default="all")
    parser.add_argument("--json", type=Path)
    arguments: Namespace = parser.parse_args()
    chosen = list(spaces) if arguments.space == "all" else [arguments.space]
    figures = {name: dict(measure(name, arguments.target, arguments.networks)) for name in chosen}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


class _SpaceOnly(Project):
    """A project whose space needs no data set."""

    @cached_property
    def space(self) -> Space:
        return load_space(self.config.space.name, **self.config.space.parameters)
