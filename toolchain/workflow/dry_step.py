"""One step of a dry run, what it is asked with, and how long it takes by this project's own past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toolchain.units import Budget, QuantileBudget
from toolchain.workflow.pace import seconds_of
from toolchain.workflow.project import Project

Does = Literal["reuse", "do", "go on", "open"]


@dataclass(frozen=True)
class Step:
    """One stage, on one target where it is done on each.

    Attributes:
        stage: "profile", "search", "rounds", "export" or "deploy".
        target: its name; empty where the step is of no target.
        does: "reuse": an earlier result stands; "do"; "go on" with what was interrupted; "open": cannot be said.
        what: what would be done, in words.
        why: the reason.
        seconds: how long that takes; None where nothing is known.
        basis: what the time rests on.
    """

    stage: str
    target: str
    does: Does
    what: str
    why: str
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Asked:
    """The options of the command.

    Attributes:
        budgets, method, force, strict, retry, share: as the stages take them.
    """

    budgets: tuple[Budget | QuantileBudget, ...] = ()
    method: str = ""
    force: bool = False
    strict: bool = False
    retry: bool = False
    share: str = ""


def timed(
    project: Project, stage: str, does: Does, what: str, why: str, parts: Sequence[tuple[str, int | None]]
) -> Step:
    """A step with the sum of its parts' times, as they were in this project."""
    times = {name: seconds_of(project, name, steps) for name, steps in parts}
    unknown = [name for name, seconds in times.items() if seconds is None]
    if unknown:
        return Step(
            stage, "", does, what, why, None, f"unknown: {', '.join(unknown)} not done yet in this project"
        )
    each = [
        f"{seconds_of(project, name, 1):.2g} s per step of {name}"
        for name, steps in parts
        if steps is not None
    ]
    return Step(
        stage, "", does, what, why, sum(s for s in times.values() if s is not None),
        ", ".join(each) + " the last time",
    )  # fmt: skip
