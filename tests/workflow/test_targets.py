"""Several targets: which share a device, that independent ones work side by side, and how they end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from targets.session import HERE, device_of
from tests.workflow.projects import make_project
from toolchain.errors import DeviceError
from toolchain.workflow.config import TargetSection
from toolchain.workflow.project import Progress, open_project, silent
from toolchain.workflow.targets import each, lanes, place_of

LOOPBACK = "ssh://pi@127.0.0.1:2222?threads=2"
PI, OTHER = "ssh://pi@raspberrypi.local", "ssh://pi@10.0.0.7"
BOARD = "virtual:nucleo-l4r5zi"


def targets(*urls: str) -> tuple[TargetSection, ...]:
    return tuple(TargetSection(name=f"t{number}", url=url) for number, url in enumerate(urls))


@pytest.mark.parametrize(
    ("url", "device"),
    [
        ("cpu:litert", HERE),
        ("cpu:onnxruntime?threads=2", HERE),
        (LOOPBACK, HERE),
        ("ssh://localhost", HERE),
        (PI, "ssh raspberrypi.local"),
        (PI + ":22?runtime=onnxruntime", "ssh raspberrypi.local"),
        ("serial:/dev/ttyACM0?board=nucleo-l4r5zi", "serial:/dev/ttyACM0"),
        (BOARD, BOARD),
    ],
)
def test_what_a_target_is_measured_on(url: str, device: str) -> None:
    assert device_of(url) == device


def test_this_machine_comes_last_and_its_engines_one_after_the_other() -> None:
    found = lanes(targets("cpu:litert", PI, LOOPBACK, BOARD, PI + "?threads=4"))
    assert [[t.name for t in lane] for lane in found] == [["t1", "t4"], ["t3"], ["t0", "t2"]]


def test_independent_devices_work_at_the_same_time_and_this_machine_alone() -> None:
    both = threading.Barrier(2)  # passes only when two wait at it together
    active: set[str] = set()
    with_cpu: list[set[str]] = []

    def work(target: TargetSection, tell: Progress) -> str:
        active.add(target.name)
        if target.url.startswith("cpu"):
            with_cpu.append(set(active))
        else:
            both.wait(timeout=20)
        active.discard(target.name)
        return target.url

    urls = ("cpu:litert", PI, OTHER, "cpu:torch")
    assert each(targets(*urls), work, silent) == list(urls)
    assert with_cpu == [{"t0"}, {"t3"}]


def test_one_progress_tells_the_targets_apart() -> None:
    seen = []

    def work(target: TargetSection, tell: Progress) -> None:
        tell("profile", 1, 1, "operators")

    def progress(stage: str, done: int, total: int, note: str) -> None:
        seen.append(stage)

    each(targets(PI, OTHER, BOARD), work, progress)
    assert sorted(seen) == ["t0 profile", "t1 profile", "t2 profile"]
    seen.clear()
    each(targets(BOARD), work, progress)
    assert seen == ["profile"]


def test_where_one_fails_the_others_are_finished_first() -> None:
    done, seen = [], []

    def work(target: TargetSection, tell: Progress) -> None:
        if target.url == PI:
            raise DeviceError("the board is gone")
        done.append(target.name)

    def progress(stage: str, done: int, total: int, note: str) -> None:
        seen.append((stage, note))

    with pytest.raises(DeviceError, match="the board is gone"):
        each(targets(PI, OTHER, "cpu:litert"), work, progress)
    assert sorted(done) == ["t1", "t2"]
    assert seen == [("t0 failed", "the board is gone")]


def test_an_error_that_nobody_foresaw_is_not_lost() -> None:
    def work(target: TargetSection, tell: Progress) -> None:
        if target.url == PI:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each(targets(PI, OTHER), work, silent)


def test_an_interruption_ends_all() -> None:
    """Ctrl-C reaches the thread that waits; the others end at their next report."""
    started = threading.Event()
    ended = []

    def work(target: TargetSection, tell: Progress) -> None:
        if target.url == "cpu:litert":
            raise AssertionError("nothing begins after an interruption")
        try:
            for step in range(10_000):
                tell("profile", step, 10_000, "")
                started.set()
                time.sleep(0.005)
        except Exception:
            ended.append(target.name)
            raise

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if timeout is None:  # the first wait, before the interruption
            started.wait(20)
            raise KeyboardInterrupt
        join(thread, timeout)

    join = threading.Thread.join
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            each(targets(PI, OTHER, "cpu:litert"), work, silent)
    assert sorted(ended) == ["t0", "t1"]


def test_where_a_network_goes(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "tiny", url=PI)
    path = folder / "boardfit.toml"
    path.write_text(path.read_text().replace('name = "tiny"', 'name = "My net/v1"'))
    project = open_project(folder)
    assert place_of(project, project.config.target[0], None) == "boardfit/My-net-v1"
    assert place_of(project, project.config.target[0], "elsewhere") == "elsewhere"
    here = open_project(folder, "cpu:litert")
    assert place_of(here, here.config.target[0], None) == str(folder / "results" / "deployed")
    text = path.read_text().replace("[target]", "[[target]]").replace("[target.budgets]", "[target.budgets]")
    path.write_text(text + f'[[target]]\nname = "stm"\nurl = "{BOARD}"\n')
    both = open_project(folder)
    assert [place_of(both, target, None) for target in both.config.target] == [
        "boardfit/My-net-v1-raspberrypi",
        str(folder / "results" / "deployed-stm"),
    ]
