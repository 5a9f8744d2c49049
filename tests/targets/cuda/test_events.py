"""The sampling protocol of a GPU, with a GPU that is a clock."""

from __future__ import annotations

import random

import pytest

from targets.cuda.events import WARM_US, event_sampler
from targets.timing import Failure, Settings, Timing, measure
from tests.targets.cuda.fake import FakeGpu
from toolchain.errors import DeviceError

SETTINGS = Settings(samples=40, fewest=5, settle=1, retries=1, pause_s=0)


def test_samples_are_what_the_gpu_took_for_the_call_alone() -> None:
    gpu = FakeGpu()
    window = event_sampler(gpu)(
        {"a": gpu.kernel("a", 7), "b": gpu.kernel("b", 3.5)}, SETTINGS, random.Random(0)
    )
    assert window.samples_us["a"] == pytest.approx([7] * 40)
    assert window.samples_us["b"] == pytest.approx([3.5] * 40)
    assert window.loops == {"a": 1, "b": 1}
    assert window.broken == {}
    assert gpu.queued == 1


def test_each_sample_comes_after_a_flush_and_between_two_marks() -> None:
    gpu = FakeGpu()
    event_sampler(gpu)({"a": gpu.kernel("a", 7)}, SETTINGS, random.Random(0))
    parts = windows(gpu.log)
    assert parts[-40:] == [["flush", "mark", "a", "mark"]] * 40
    assert gpu.log.count("flush") == gpu.log.count("a")  # also of what is not timed


def test_the_gpu_works_before_a_window_until_its_clock_has_risen() -> None:
    gpu = FakeGpu()
    event_sampler(gpu)({"a": gpu.kernel("a", 7)}, SETTINGS, random.Random(0))
    first = gpu.log.count("a") - 40
    assert first * 47 >= WARM_US
    assert first * 47 < 1.1 * WARM_US
    gpu.flush_us = 0  # a kernel that takes no time ends it too
    assert event_sampler(gpu)({"a": lambda: None}, SETTINGS, random.Random(0)).samples_us == {
        "a": (0.0,) * 40
    }


def test_rounds_are_shuffled() -> None:
    gpu = FakeGpu()
    event_sampler(gpu)({n: gpu.kernel(n, 7) for n in "xyz"}, SETTINGS, random.Random(0))
    rounds = [tuple(w for w in part if w in "xyz") for part in windows(gpu.log)[-40:]]
    assert {len(r) for r in rounds} == {3}
    assert len(set(rounds)) == 6


def windows(log: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in log:
        if word == "wait":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts[:-1]


def test_a_slow_kernel_takes_fewer_samples_spread_over_the_window() -> None:
    gpu = FakeGpu()
    kernels = {"slow": gpu.kernel("slow", 500_000), "fast": gpu.kernel("fast", 10)}
    window = event_sampler(gpu)(kernels, SETTINGS, random.Random(0))
    assert len(window.samples_us["slow"]) == 8  # kernel_s of 4 s
    assert len(window.samples_us["fast"]) == 40
    very = {"slow": gpu.kernel("slow", 5_000_000)}
    assert len(event_sampler(gpu)(very, SETTINGS, random.Random(0)).samples_us["slow"]) == SETTINGS.fewest


@pytest.mark.parametrize("fails_at", [0, 1, 5, 3000])
def test_a_kernel_that_raises_is_left_out_with_its_reason(fails_at: int) -> None:
    gpu = FakeGpu()
    calls = 0

    def bad() -> None:
        nonlocal calls
        calls += 1
        gpu.now_us += 7
        if calls > fails_at:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB\nmore")

    window = event_sampler(gpu)(
        {"bad": bad, "good": gpu.kernel("good", 5)}, Settings(samples=4000), random.Random(0)
    )
    assert window.broken == {"bad": "CUDA out of memory. Tried to allocate 20 GiB"}
    assert set(window.samples_us) == set(window.loops) == {"good"}
    assert window.samples_us["good"] == pytest.approx([5] * 4000)


def test_a_failure_inside_the_queue_ends_the_measurement() -> None:
    gpu = FakeGpu()
    gpu.fails = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."
    with pytest.raises(
        DeviceError, match=r"the GPU failed: CUDA error: an illegal memory access was encountered"
    ) as seen:
        event_sampler(gpu)({"a": gpu.kernel("a", 7)}, SETTINGS, random.Random(0))
    assert seen.value.remedy


def test_the_measuring_protocol_over_it() -> None:
    """Anchor, ratio, overhead, gate and failures are those of `measure`."""
    gpu = FakeGpu()
    kernels = [("a", lambda: gpu.kernel("a", 30)), ("broken", raising)]
    found = list(measure(kernels, gpu.kernel("anchor", 20), settings=SETTINGS, sampler=event_sampler(gpu)))
    failure, timing = sorted(found, key=lambda each: isinstance(each, Timing))
    assert failure == Failure("broken", "no such model")
    assert isinstance(timing, Timing)
    assert (timing.p_us, timing.anchor_us, timing.overhead_us) == pytest.approx((30, 20, 0))
    assert timing.ratio == pytest.approx(1.5)
    assert not timing.unstable


def test_a_gpu_with_a_low_clock_is_unstable() -> None:
    gpu = FakeGpu()
    gpu.factor = 1.2
    kernels = [("a", lambda: gpu.kernel("a", 30))]
    (timing,) = measure(
        kernels, gpu.kernel("anchor", 20), settings=SETTINGS, sampler=event_sampler(gpu), best_anchor_us=20
    )
    assert isinstance(timing, Timing)
    assert timing.unstable
    assert timing.windows == SETTINGS.retries + 1
    assert timing.p_us == pytest.approx(36)


def raising() -> object:
    raise RuntimeError("no such model")
