"""The measuring protocol, driven by a machine that does not exist: its clock moves only when a kernel runs."""

from __future__ import annotations

import ast
import gc
import os
import random
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets import timing
from targets.timing import AnchorError, Failure, Settings, Timing, measure, quantile, sample_window

QUICK = Settings(samples=40, group=3, retries=2, settle=2)


class Machine:
    """A clock and kernels that move it; `speed(ns)` is how much slower than its best the machine is at that time."""

    def __init__(self, speed: Callable[[int], float] = lambda ns: 1.0) -> None:
        self.now = 0
        self.speed = speed
        self.log: list[str] = []
        self.pauses: list[float] = []

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += int(seconds * 1e9)

    def kernel(self, name: str, us: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.now += round(us * 1e3 * self.speed(self.now))

        return call

    def loader(self, name: str, us: float) -> tuple[str, Callable[[], Callable[[], None]]]:
        return name, lambda: self.kernel(name, us)

    def measure(
        self,
        *loaders: tuple[str, Callable[[], Callable[[], object]]],
        settings: Settings = QUICK,
        best: float | None = None,
        seen: list[float] | None = None,
    ) -> list[Timing | Failure]:
        return list(
            measure(
                loaders,
                self.kernel("anchor", 20.0),
                baseline=self.kernel("empty", 1.0),
                settings=settings,
                best_anchor_us=best,
                on_anchor=None if seen is None else seen.append,
                clock=self.clock,
                sleep=self.sleep,
            )
        )


def timings(found: list[Timing | Failure]) -> dict[str, Timing]:
    return {item.key: item for item in found if isinstance(item, Timing)}


def test_one_file_of_standard_library() -> None:
    tree = ast.parse(Path(timing.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=300),
    st.one_of(st.sampled_from([0, 5, 50, 100]), st.floats(0, 100)),
)
def test_quantile_is_numpys(samples: list[float], percent: float) -> None:
    assert quantile(samples, percent) == pytest.approx(
        float(np.percentile(samples, percent)), rel=1e-9, abs=1e-9
    )


def test_quantile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        quantile([], 5)


def test_the_defaults_are_the_protocol_of_the_manual() -> None:
    use = Settings()
    assert (use.quantile, use.warm_up, use.gate) == (5.0, 0.1, 0.03)
    assert 100 <= use.inner_us <= 300
    assert use.samples >= 200
    assert use.retries >= 1
    assert use.group > 1  # interleaved


def test_a_steady_machine_gives_the_truth() -> None:
    machine = Machine()
    seen: list[float] = []
    found = timings(machine.measure(machine.loader("a", 10.0), machine.loader("b", 35.0), seen=seen))
    assert found["a"].p_us == 10.0
    assert found["b"].p_us == 35.0
    assert found["b"].ratio == 35.0 / 20.0
    assert found["a"].overhead_us == 1.0
    assert found["a"].loops == 15  # of 10 us in 150 us
    assert found["b"].loops == 4
    assert len(found["a"].samples_us) == QUICK.samples
    assert not any(item.unstable for item in found.values())
    assert seen == [20.0] * (QUICK.settle + 1)
    assert machine.pauses == []


def test_rounds_are_shuffled_and_each_sample_warms_up_first() -> None:
    machine = Machine()
    kernels = {name: machine.kernel(name, us) for name, us in (("a", 3.0), ("b", 5.0), ("c", 15.0))}
    window = sample_window(kernels, QUICK, rng=random.Random(1), clock=machine.clock)
    runs = [(name, len(list(group))) for name, group in groupby(machine.log)]
    order = [name for name, _ in runs][-3 * QUICK.samples + QUICK.samples // 2 :]
    assert len(set(zip(order[::3], order[1::3], order[2::3], strict=False))) > 3  # not one order for ever
    # Two rounds may meet at the same kernel; taken together, every kernel has its warm-up and its loop in each round.
    each = {name: max(1, int(window.loops[name] * QUICK.warm_up)) + window.loops[name] for name in kernels}
    for name, calls in each.items():
        lengths = [length for other, length in runs if other == name]
        assert set(lengths[1:]) <= {calls, 2 * calls}  # the first run has the sizing in it
        assert machine.log.count(name) - lengths[0] <= QUICK.samples * calls
        assert max(lengths[1:]) <= 2 * calls


def test_the_same_seed_gives_the_same_window() -> None:
    def log() -> list[str]:
        machine = Machine()
        machine.measure(machine.loader("a", 10.0), machine.loader("b", 35.0))
        return machine.log

    assert log() == log()


def test_flicker_does_not_reach_the_low_quantile() -> None:
    machine = Machine(lambda ns: 1.6 if ns // 5_000_000 % 2 else 1.0)  # half the time slow, in turns of 5 ms
    found = timings(machine.measure(machine.loader("a", 10.0), machine.loader("b", 35.0)))
    assert found["a"].p_us == pytest.approx(10.0, rel=0.01)
    assert found["b"].p_us == pytest.approx(35.0, rel=0.01)
    assert np.median(found["a"].samples_us) > 10.05 or np.mean(found["a"].samples_us) > 11


def test_a_slow_phase_sends_its_window_to_the_end_of_the_queue() -> None:
    machine = Machine()
    speeds = iter([1.2, 1.0, 1.0])  # of the three windows: the first one meets a slow phase

    def loader(name: str) -> tuple[str, Callable[[], Callable[[], None]]]:
        def load() -> Callable[[], None]:
            if name in "ad":  # the first of each group
                speed = next(speeds)
                machine.speed = lambda ns: speed
            return machine.kernel(name, 12.0)

        return name, load

    found = machine.measure(*(loader(name) for name in "abcdef"), best=20.0)
    assert [item.key for item in found] == list("defabc")
    assert [(item.p_us, item.unstable) for item in timings(found).values()] == [(12.0, False)] * 6
    assert [item.windows for item in timings(found).values()] == [1, 1, 1, 2, 2, 2]
    assert machine.pauses == [QUICK.pause_s]  # before the repetition: nothing else was left to do


def test_a_machine_that_stays_slow_is_marked() -> None:
    machine = Machine(lambda ns: 1.2)
    found = timings(machine.measure(machine.loader("a", 10.0), best=20.0))
    assert found["a"].unstable
    assert found["a"].windows == QUICK.retries + 1
    assert found["a"].p_us == pytest.approx(12.0)
    assert found["a"].ratio == pytest.approx(0.5)  # the ratio does not see the phase
    assert found["a"].best_anchor_us == 20.0
    assert machine.pauses == [QUICK.pause_s] * QUICK.retries


def test_the_window_with_the_fastest_anchor_stands() -> None:
    speeds = iter([1.6, 1.2, 1.4])
    machine = Machine()
    loads = 0

    def load() -> Callable[[], None]:
        nonlocal loads
        loads += 1
        speed = next(speeds)
        machine.speed = lambda ns: speed
        return machine.kernel("a", 10.0)

    found = timings(machine.measure(("a", load), best=20.0))
    assert loads == 3
    assert found["a"].unstable
    assert found["a"].p_us == pytest.approx(12.0)


def test_a_best_that_falls_later_does_not_excuse_an_earlier_window() -> None:
    speeds = iter([1.6, 1.0])
    machine = Machine()

    def load() -> Callable[[], None]:
        speed = next(speeds)
        machine.speed = lambda ns: speed
        return machine.kernel("a", 10.0)

    found = timings(machine.measure(("a", load), best=30.0))  # 32 us is within no gate of 20, nor is it of 30
    assert not found["a"].unstable
    assert found["a"].p_us == pytest.approx(10.0)
    assert found["a"].best_anchor_us == pytest.approx(20.0)


def test_results_come_as_soon_as_they_are_final() -> None:
    machine = Machine()
    loaded: list[str] = []

    def loader(name: str) -> tuple[str, Callable[[], Callable[[], None]]]:
        def load() -> Callable[[], None]:
            loaded.append(name)
            return machine.kernel(name, 12.0)

        return name, load

    iterator = measure(
        [loader(name) for name in "abcdefgh"],
        machine.kernel("anchor", 20.0),
        settings=QUICK,
        clock=machine.clock,
    )
    first = next(iterator)
    assert first.key == "a"
    assert loaded == ["a", "b", "c"]  # one group, not all
    assert [item.key for item in iterator] == list("bcdefgh")


def test_a_kernel_that_fails_costs_only_itself() -> None:
    machine = Machine()
    calls = 0

    def refuse() -> Callable[[], None]:
        raise ValueError("no such operation\nin detail")

    def tire() -> Callable[[], None]:
        def call() -> None:
            nonlocal calls
            calls += 1
            machine.now += 10_000
            if calls > 300:
                raise ValueError

        return call

    found = machine.measure(
        machine.loader("a", 10.0), ("refused", refuse), ("tired", tire), machine.loader("b", 5.0)
    )
    failures = {item.key: item.reason for item in found if isinstance(item, Failure)}
    assert failures == {"refused": "no such operation", "tired": "ValueError"}
    assert {key: item.p_us for key, item in timings(found).items()} == {"a": 10.0, "b": 5.0}


def test_nothing_to_measure() -> None:
    assert Machine().measure() == []


def test_only_failures() -> None:
    def refuse() -> Callable[[], None]:
        raise ValueError("no")

    assert Machine().measure(("a", refuse)) == [Failure("a", "no")]


def test_an_anchor_that_fails_ends_it() -> None:
    def broken() -> None:
        raise ValueError("anchor gone")

    with pytest.raises(AnchorError, match="anchor gone"):
        list(measure([("a", lambda: lambda: None)], broken, settings=QUICK))


def test_slow_kernels_get_fewer_samples_spread_over_the_window() -> None:
    machine = Machine()
    settings = Settings(samples=40, fewest=5, kernel_s=0.5, settle=1)
    found = timings(
        machine.measure(machine.loader("net", 30_000.0), machine.loader("huge", 1e6), settings=settings)
    )
    assert found["net"].loops == 1
    assert len(found["net"].samples_us) == 16  # 0.5 s / 30 ms, without a warm-up as long as itself
    assert len(found["huge"].samples_us) == 5
    assert found["huge"].p_us == 1e6
    last = machine.log[-200:]
    assert "net" in last  # evenly spread: also near the end


def test_the_affinity_and_the_collector_come_back_after_ctrl_c() -> None:
    inside: list[tuple[int, bool]] = []
    before = os.sched_getaffinity(0)

    def interrupted() -> None:
        inside.append((len(os.sched_getaffinity(0)), gc.isenabled()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(measure([("a", lambda: interrupted)], lambda: None, settings=QUICK, best_anchor_us=1.0))
    assert inside == [(1, False)]
    assert os.sched_getaffinity(0) == before
    assert gc.isenabled()


def test_the_callers_code_runs_unpinned() -> None:
    machine = Machine()
    before = os.sched_getaffinity(0)
    for _ in measure(
        [machine.loader("a", 10.0)], machine.kernel("anchor", 20.0), settings=QUICK, clock=machine.clock
    ):
        assert os.sched_getaffinity(0) == before
        assert gc.isenabled()


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    with timing.quiet() as cores:
        assert cores == ()


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"group": 0}, {"retries": -1}, {"inner_us": 0}, {"gate": 0}, {"quantile": 101}]
)
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Settings(**wrong)  # type: ignore[arg-type]
