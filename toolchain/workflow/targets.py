"""Several targets of one project: which of them share a device, and what can be done on the others meanwhile."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from targets.session import HERE, device_of
from toolchain.errors import BoardfitError
from toolchain.workflow.config import TargetSection
from toolchain.workflow.project import Progress, Project

T = TypeVar("T")

_END_S: Final = 10.0  # how long an interrupted run waits for a device's last answer


def lanes(targets: Sequence[TargetSection]) -> list[list[TargetSection]]:
    """Targets by device, in their order; this machine's own come last."""
    found: dict[str, list[TargetSection]] = {}
    for target in targets:
        found.setdefault(device_of(target.url), []).append(target)
    here = found.pop(HERE, None)
    return [*found.values(), *([here] if here else [])]


class _Stopped(Exception):
    """The run was interrupted."""


def each(
    targets: Sequence[TargetSection], work: Callable[[TargetSection, Progress], T], progress: Progress
) -> list[T]:
    """Do something on every target, on different devices side by side; the results in the order of the targets.

    This machine's own times are taken after everything else, alone: another thread of the same Python would be
    measured with them. Where one target fails the others are finished, then the first error is raised. Ctrl-C ends
    all at their next report of progress.

    Args:
        work: called with a target and what it reports its progress to, in a thread of its own where there are
            several devices.
        progress: gets the reports of all, one at a time, with the target's name in the stage's where there are several.
    """
    results: dict[str, T] = {}
    errors: list[BaseException] = []
    stop = threading.Event()
    one_at_a_time = threading.Lock()

    def teller(target: TargetSection) -> Progress:
        def tell(stage: str, done: int, total: int, note: str) -> None:
            if stop.is_set():
                raise _Stopped
            with one_at_a_time:
                progress(stage if len(targets) == 1 else f"{target.name} {stage}", done, total, note)

        return tell

    def drive(lane: Sequence[TargetSection]) -> None:
        for target in lane:
            try:
                results[target.name] = work(target, teller(target))
            except BoardfitError as error:
                errors.append(error)
                if len(targets) > 1 and not stop.is_set():
                    teller(target)("failed", 1, 1, error.message)
            except _Stopped:
                return
            except Exception as error:
                errors.append(error)
                return

    beside = lanes(targets)
    last = beside.pop()
    if device_of(last[0].url) != HERE:
        beside, last = [*beside, last], []
    if len(beside) == 1:
        beside, last = [], [*beside[0], *last]
    threads = [threading.Thread(target=drive, args=(lane,), daemon=True) for lane in beside]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        drive(last)
    except BaseException:
        stop.set()
        for thread in threads:
            thread.join(_END_S)
        raise
    if errors:
        raise errors[0]
    return [results[target.name] for target in targets]


def place_of(project: Project, target: TargetSection, place: str | None) -> str:
    """Where a network goes on a target: on a Linux board a folder in the user's home, else one in the project.

    Args:
        place: what the user asked for; several targets have folders `<place>-<name>`.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", project.config.project.name).strip("-.") or "project"
    default = f"boardfit/{name}" if target.url.startswith("ssh:") else str(project.results / "deployed")
    alone = len(project.config.target) == 1
    return (place or default) + ("" if alone else f"-{target.name}")
