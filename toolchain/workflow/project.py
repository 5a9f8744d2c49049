"""A project folder: the project file, the data, the space, the table, and where results lie.

boardfit.toml          what the user wants
lut.sqlite             what was measured (docs/lut.md)
results/*.json         what each stage found; a stage whose inputs did not change is not done again
results/model/         the winner's files
results/checkpoints/   unfinished search and training, and supernets that answer other budgets in seconds
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.lock import hold
from toolchain.errors import BoardfitError, ConfigurationError
from toolchain.files import write_json
from toolchain.workflow.config import PROJECT_FILE, Config, TargetSection, load_config
from toolchain.workflow.data import Dataset, load_dataset

if TYPE_CHECKING:
    from toolchain.spaces import Space

INFEASIBLE = "infeasible"  # the record that a search leaves when no network keeps the budgets
# What a stage's result depends on, by name: "budgets" -> a fingerprint. The names say what changed, when it does.
Depends = Mapping[str, str]
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
        # Of torch, which takes seconds to import; not every stage has a space.
        from toolchain.spaces.load import BUILT_IN, load_space, space_class
        from toolchain.spaces.shapes import data_remedy

        shape = self.data.input_shape
        known = {"input_shape": shape, "classes": len(self.data.classes), "input_channels": shape[0]}
        if len(shape) == 2:
            known["length"] = shape[1]
        reference = self._space_reference
        takes = inspect.signature(space_class(reference)).parameters
        # What the data say; a class that does not ask for it (a fixed shape) is compared with them below.
        derived = {name: value for name, value in known.items() if name in takes}
        space = load_space(reference, **{**derived, **self.config.space.parameters})
        if tuple(space.input_shape) != self.data.input_shape or space.classes != len(self.data.classes):
            raise ConfigurationError(
                f"the space takes {tuple(space.input_shape)} and {space.classes} classes, "
                f"the data has {self.data.input_shape} and {len(self.data.classes)}",
                remedy=(
                    data_remedy(shape)
                    if reference in BUILT_IN and len(shape) != len(space.input_shape)
                    else "change [space.parameters] or [data]"
                ),
            )
        return space

    @property
    def space_fingerprint(self) -> str:
        """Changes with the space's name, its parameters, and the text of the user's own file."""
        path = Path(self._space_reference.rpartition(":")[0])
        text = path.read_bytes() if path.is_file() else b""
        return fingerprint(self.config.space.model_dump(), hashlib.sha256(text).hexdigest())

    @property
    def _space_reference(self) -> str:
        reference = self.config.space.name
        # The path of a user's own space starts at the project file.
        return str(self.folder / reference) if ".py:" in reference else reference

    @property
    def lut_path(self) -> Path:
        return self.folder / self.config.profile.lut

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def model_folder(self) -> Path:
        return self.results / "model"

    def metric(self, target: TargetSection, metric: str) -> str:
        """See `Config.metric`."""
        return self.config.metric(target, metric)

    def checkpoint(self, name: str) -> Path:
        """Where a stage keeps its unfinished work, and what later runs start from."""
        return self.results / "checkpoints" / name

    @contextmanager
    def held(self, *, wait: bool = False) -> Iterator[None]:
        """Have the project for this process alone: two runs in one folder would write each other's files.

        Raises:
            BoardfitError: another process has it (its pid is in the message), or the folder cannot be written.
        """

        def busy(pid: str) -> BoardfitError:
            return BoardfitError(
                f"process {pid} is running in {self.folder}",
                remedy="wait until it has finished (--wait does that), or end it",
            )

        def refused(path: Path, reason: str) -> BoardfitError:
            return BoardfitError(
                f"cannot write {path}: {reason}",
                remedy="make the project folder writable and free disk space, or copy the project elsewhere",
            )

        with hold(self.results / "run.lock", busy=busy, refused=refused, wait=wait):
            yield

    @property
    def settings(self) -> str:
        """Fingerprint of what a search result answers: data, space, seed, target with its budgets, search settings."""
        config = self.config
        return fingerprint(
            config.project.seed, self.data.fingerprint, self.space_fingerprint,
            [target.model_dump() for target in config.target], config.search.model_dump(),
        )  # fmt: skip

    def record(self, stage: str, depends: Depends, *, force: bool = False) -> dict[str, Any] | None:
        """What a stage wrote, if it worked on these very inputs; else None (it must be done again).

        Args:
            force: do it again whatever it wrote. That is set aside, so that a run without `force` goes on with this one
                where it is interrupted.
        """
        if force:
            self.set_aside(stage)
        stored = self.latest(stage)
        return stored if stored is not None and stored["inputs"] == fingerprint(dict(depends)) else None

    def why(self, stage: str, depends: Depends, *, force: bool = False) -> str:
        """Why a stage is done (again), or that it is not: "budgets changed", "nothing changed", "first time"."""
        stored = self.latest(stage)
        if stored is None:
            if self.is_set_aside(stage):
                return "--force" if force else "what --force began is not finished"
            there = (self.results / f"{stage}.json").exists()
            return "its record is damaged" if there else "first time"
        before = stored.get("depends", {})
        changed = [name for name, value in depends.items() if before.get(name) != value]
        if changed:
            return f"{' and '.join(filter(None, (', '.join(changed[:-1]), changed[-1])))} changed"
        return "--force" if force else "nothing changed"

    def latest(self, stage: str) -> dict[str, Any] | None:
        """What a stage wrote last, whatever its inputs; None if nothing, or if the file is damaged."""
        try:
            stored = json.loads((self.results / f"{stage}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(stored, dict) or stored.pop("checksum", None) != fingerprint(stored):
            return None
        return stored

    def found(self) -> dict[str, Any]:
        """The search's record, for the stages after it.

        Raises:
            ConfigurationError: no search has finished, or its result answers another project file than today's.
        """
        stored = self.latest("search")
        if stored is None:
            refused = self.latest(INFEASIBLE)
            if refused is not None:
                raise ConfigurationError(
                    f"the last search found no network: {refused['message']}",
                    remedy=f"{refused['remedy']}; then run `boardfit search`",
                )
            raise ConfigurationError("no search has finished", remedy="run `boardfit search`")
        if stored["settings"] != self.settings:
            raise ConfigurationError(
                f"the search result {stored['text']!r} was found under other settings (budgets, data, space, target "
                "or search) than those that now stand in the project file",
                remedy="run `boardfit search`",
            )
        return stored

    def write_record(self, stage: str, depends: Depends, values: Mapping[str, Any]) -> None:
        """Keep a stage's result with what it depended on, and the fingerprint of that."""
        stored = {
            **values,
            "depends": dict(depends),
            "inputs": fingerprint(dict(depends)),
            "settings": self.settings,
        }
        write_json(self.results / f"{stage}.json", {**stored, "checksum": fingerprint(stored)})
        self._earlier(stage).unlink(missing_ok=True)

    def drop_record(self, stage: str) -> None:
        """Forget a stage's result: what it described does not stand any more."""
        (self.results / f"{stage}.json").unlink(missing_ok=True)
        self._earlier(stage).unlink(missing_ok=True)

    def set_aside(self, stage: str) -> None:
        """The stage will be done again whatever it wrote, also by a later run, should this one be interrupted."""
        with suppress(FileNotFoundError):
            (self.results / f"{stage}.json").replace(self._earlier(stage))

    def is_set_aside(self, stage: str) -> bool:
        """Whether a stage that `--force` asked for has not finished since."""
        return self._earlier(stage).exists()

    def _earlier(self, stage: str) -> Path:
        """Where a record lies while `--force` does its stage again."""
        return self.results / f"{stage}.earlier.json"


def open_project(folder: Path, target: str = "") -> Project:
    """Open the project in a folder (or of a given boardfit.toml).

    Args:
        target: name or URL of one of the project file's targets, which is then the only one; where the file has one,
            any URL, which takes its place. Empty keeps the file's.

    Raises:
        ConfigurationError: no project file, or one that does not fit; or none of its targets is called so.
    """
    path = folder if folder.is_file() else folder / PROJECT_FILE
    config = load_config(path)
    if target:
        config = config.model_copy(update={"target": (target_called(config, target),)})
    return Project(path.parent, config)


def target_called(config: Config, target: str) -> TargetSection:
    """The target of a project file with this name or URL; the only one with another URL, where there is but one.

    Raises:
        ConfigurationError: none of several is called so.
    """
    for known in config.target:
        if target in (known.name, known.url):
            return known
    if len(config.target) > 1:
        raise ConfigurationError(
            f"none of the project's targets is called {target!r}",
            remedy=f"use one of {', '.join(known.name for known in config.target)}",
        )
    return config.target[0].model_copy(update={"url": target})


def fingerprint(*parts: Any) -> str:
    """16 hex digits over any JSON-like values: equal inputs, equal fingerprint."""
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
