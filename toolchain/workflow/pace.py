"""How long the parts of a stage take in this project: kept when they were done, for `--dry-run`.

results/pace.json: part -> {"seconds", "steps"} of the last time that it was done. A part is what progress is reported
of: `train` has its epochs, `verify` one step.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from toolchain.errors import BoardfitError
from toolchain.files import write_json
from toolchain.workflow.project import Progress, Project

_NAME = "pace.json"
_OF_A_METHOD = ("search", "select", "supernet")  # parts that are another thing for another search method


@dataclass
class Stopwatch:
    """Passes progress on, and adds up the time of each part. What was there when a part began is not counted."""

    onward: Progress
    method: str
    spent: dict[str, list[float]] = field(default_factory=dict)
    _latest: dict[str, int] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if stage in self._latest:
            part = self.spent.setdefault(part_name(stage, self.method), [0.0, 0])
            part[0] += now - self._since
            part[1] += max(0, done - self._latest[stage])
        self._latest[stage], self._since = done, now
        self.onward(stage, done, total, note)


def part_name(stage: str, method: str) -> str:
    """The name of a part in the file."""
    return f"{stage} by {method}" if stage in _OF_A_METHOD else stage


@contextlib.contextmanager
def timed(project: Project, progress: Progress, method: str) -> Iterator[Progress]:
    """A progress callback that also keeps how long each part took, also where the work was interrupted.

    Args:
        method: of the search.
    """
    watch = Stopwatch(progress, method or project.config.search.method)
    try:
        yield watch
    finally:
        done = {name: {"seconds": s, "steps": int(n)} for name, (s, n) in watch.spent.items() if n}
        if done:
            with contextlib.suppress(OSError, BoardfitError):  # a time that is not kept is no reason to fail
                write_json(project.results / _NAME, {**_read(project), **done})


def seconds_of(project: Project, part: str, steps: int | None = None) -> float | None:
    """How long so many steps of a part would take, or all that it had the last time; None where it was never done."""
    found = _read(project).get(part)
    if found is None:
        return None
    each = found["seconds"] / found["steps"]
    return each * (found["steps"] if steps is None else steps)


def _read(project: Project) -> Mapping[str, Mapping[str, float]]:
    try:
        stored = json.loads((project.results / _NAME).read_text(encoding="utf-8"))
        return {
            str(name): {"seconds": float(one["seconds"]), "steps": int(one["steps"])}
            for name, one in stored.items()
            if one["steps"] > 0
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # none yet, or damaged
