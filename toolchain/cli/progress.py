"""How far a command is: bars with rate and time left on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from toolchain.cli.console import stderr

_MEMORY_S = 20.0  # the rate is that of about so many seconds


class Pace:
    """Seconds per step, from the steps that were seen being done, the latest ones counting most.

    What was there at the first report was done before (a resumed training), and says nothing.
    """

    def __init__(self, done: int, now: float) -> None:
        self.began = now
        self.step_s: float | None = None
        self._done = done
        self._since = now

    def update(self, done: int, now: float) -> None:
        """So many are done now."""
        steps, seconds = done - self._done, now - self._since
        if steps <= 0:
            return
        latest = seconds / steps
        # A step that takes long says as much as many short ones: the weight goes by time, not by steps.
        weight = 1.0 if self.step_s is None else min(1.0, max(seconds / _MEMORY_S, 0.05))
        self.step_s = latest if self.step_s is None else self.step_s + weight * (latest - self.step_s)
        self._done, self._since = done, now

    def left_s(self, total: int, now: float) -> float | None:
        """Seconds until all is done; it counts down between two reports. None while nothing is known."""
        if self.step_s is None:
            return None
        return max(0.0, (total - self._done) * self.step_s - (now - self._since))

    def rate(self) -> str:
        """For people: "3.2/s", "1.4 s each"; empty while nothing is known."""
        if not self.step_s:
            return ""
        return f"{1 / self.step_s:,.3g}/s" if self.step_s < 1 else f"{duration(self.step_s)} each"


def duration(seconds: float) -> str:
    """For people: "0.4 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class ProgressDisplay:
    """Shows (stage, done, total, note) reports.

    On a terminal bars with rate and time left, and below them that something goes on while none of them does; elsewhere
    one line when a stage is finished, and while it is not one after ten seconds, then ever more rarely.

    Use as a context manager; pass the object itself as the `progress` callback of the workflow.
    """

    LINE_SECONDS = 10.0
    LINES_SHARE = 0.1  # a line at least after so much of the time that a stage has taken

    def __init__(self) -> None:
        self._console = stderr()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._idle: TaskID | None = None
        self._paces: dict[str, Pace] = {}
        self._lines: dict[str, float] = {}
        self._ended: dict[str, bool] = {}
        if self._console.is_terminal:
            self._console.soft_wrap = False  # bars are redrawn, so a line must not become two
            self._bars = Progress(
                TextColumn("{task.description:<10}", markup=False, table_column=Column(no_wrap=True)),
                BarColumn(bar_width=min(20, max(5, self._console.width // 5))),
                _Counted(table_column=Column(no_wrap=True)),
                _Time(table_column=Column(no_wrap=True)),
                TextColumn(
                    "{task.fields[note]}",
                    markup=False,
                    table_column=Column(no_wrap=True, overflow="ellipsis"),
                ),
                console=self._console,
                refresh_per_second=4,
            )

    def __enter__(self) -> ProgressDisplay:
        if self._bars is not None:
            self._between(self._bars, "starting")
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._between(self._bars, None)
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` steps of a stage are finished."""
        now = time.monotonic()
        if self._ended.get(stage) and done < total:  # once more, e.g. in the next round
            self._paces.pop(stage)
            self._lines.pop(stage, None)
            if self._bars is not None:
                self._bars.remove_task(self._tasks.pop(stage))
        self._ended[stage] = done >= total
        pace = self._paces.setdefault(stage, Pace(done, now))
        pace.update(done, now)
        if self._bars is not None:
            # A single step has no share: its bar pulses.
            known = None if total <= 1 and done < total else total
            self._between(self._bars, None)
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=known, note=note, pace=pace)
            self._bars.update(self._tasks[stage], completed=done, total=known, note=note)
            if all(self._ended.values()):
                self._between(self._bars, "working")
            return
        begun = now - pace.began
        since = now - self._lines.setdefault(stage, now)
        if done >= total or since >= max(self.LINE_SECONDS, self.LINES_SHARE * begun):
            self._lines[stage] = now
            count = f" {done}/{total}" if total > 1 else ""
            self._console.print(f"{stage}:{count} {note}".rstrip() + self._time(pace, done, total, now))

    def _between(self, bars: Progress, what: str | None) -> None:
        """A row below the others while no stage is under way; None takes it away."""
        if self._idle is not None:
            bars.remove_task(self._idle)
            self._idle = None
        if what is not None:
            self._idle = bars.add_task(what, total=None, note="", pace=Pace(0, time.monotonic()))

    def _time(self, pace: Pace, done: int, total: int, now: float) -> str:
        if done >= total:
            return f", in {duration(now - pace.began)}" if now - pace.began >= self.LINE_SECONDS else ""
        left = pace.left_s(total, now)
        return "" if left is None else f", {pace.rate()}, {duration(left)} left"


class _Counted(ProgressColumn):
    """ "12/200", and how fast that goes."""

    def render(self, task: Task) -> Text:
        if task.total is None or task.total <= 1:
            return Text("")
        pace: Pace = task.fields["pace"]
        return Text(f"{int(task.completed)}/{int(task.total)} {pace.rate()}".rstrip())


class _Time(ProgressColumn):
    """How long it takes, and when done how long it took."""

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        if task.finished:
            return Text(f"in {duration(task.finished_time or 0.0)}")
        left = None if task.total is None else pace.left_s(int(task.total), time.monotonic())
        return Text(f"{duration(task.elapsed or 0.0)}" if left is None else f"{duration(left)} left")
