"""A project folder: the project file, the data, the space, the table, and where results lie.

boardfit.toml          what the user wants
lut.sqlite             what was measured (docs/lut.md)
results/*.json         what each stage found; a stage whose inputs did not change is not done again
results/model/         the winner's files
results/checkpoints/   unfinished search and training
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolchain.errors import ConfigurationError
from toolchain.files import write_json
from toolchain.spaces import Space, load_space
from toolchain.workflow.config import PROJECT_FILE, Config, load_config
from toolchain.workflow.data import Dataset, load_dataset

# (stage, done, total, note): how far a stage is. The workflow reports, the command line shows.
Progress = Callable[[str, int, int, str], None]


def silent(stage: str, done: int, total: int, note: str) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class Project:
    """An open project. Data and space are read when first used.

    Attributes:
        folder: where boardfit.toml lies.
        config: its content, checked.
    """

    folder: Path
    config: Config

    @cached_property
    def data(self) -> Dataset:
        """The data set, split and normalised."""
        return load_dataset(self.config.data, self.folder, self.config.project.seed)

    @cached_property
    def space(self) -> Space:
        """The search space, made for the data's shape and number of classes."""
        parameters = dict(self.config.space.parameters)
        parameters.setdefault("input_shape", self.data.input_shape)
        parameters.setdefault("classes", len(self.data.classes))
        reference = self.config.space.name
        if ".py:" in reference:  # the user's own: its path starts at the project file
            reference = str(self.folder / reference)
        space = load_space(reference, **parameters)
        if tuple(space.input_shape) != self.data.input_shape or space.classes != len(self.data.classes):
            raise ConfigurationError(
                f"the space takes {tuple(space.input_shape)} and {space.classes} classes, "
                f"the data has {self.data.input_shape} and {len(self.data.classes)}",
                remedy="change [space.parameters] or [data]",
            )
        return space

    @property
    def lut_path(self) -> Path:
        return self.folder / self.config.profile.lut

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def model_folder(self) -> Path:
        return self.results / "model"

    def checkpoint(self, name: str) -> Path:
        """Where a stage keeps its unfinished work."""
        return self.results / "checkpoints" / name

    def record(self, stage: str, inputs: str) -> dict[str, Any] | None:
        """What a stage wrote, if it worked on these very inputs; else None (it must be done again)."""
        stored = self.latest(stage)
        return stored if stored is not None and stored.get("inputs") == inputs else None

    def latest(self, stage: str) -> dict[str, Any] | None:
        """What a stage wrote last, whatever its inputs; None if nothing, or if the file is damaged."""
        try:
            stored = json.loads((self.results / f"{stage}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return stored if isinstance(stored, dict) else None

    def write_record(self, stage: str, inputs: str, values: Mapping[str, Any]) -> None:
        """Keep a stage's result with the fingerprint of what it depended on."""
        write_json(self.results / f"{stage}.json", {"inputs": inputs, **values})


def open_project(folder: Path) -> Project:
    """Open the project in a folder (or of a given boardfit.toml).

    Raises:
        ConfigurationError: no project file, or one that does not fit.
    """
    path = folder if folder.is_file() else folder / PROJECT_FILE
    return Project(path.parent, load_config(path))


def fingerprint(*parts: Any) -> str:
    """16 hex digits over any JSON-like values: equal inputs, equal fingerprint."""
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
