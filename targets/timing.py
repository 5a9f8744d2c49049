"""How a noisy machine is timed: one file of standard library, so that an agent carries it to a remote board.

A desktop or server core changes its speed by steps of x1.2 to x1.6 for seconds, and flickers within milliseconds.
Means and medians follow that noise. What repeats is a low quantile (p5) of short loops, taken shuffled and
interleaved, beside an anchor whose speed is known: when the anchor is slow, the machine is slow and the window is
worth nothing.
Reasons and figures: docs/lut.md.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

PROTOCOL = "p5-anchor/1"  # part of a stack: numbers of another protocol are other numbers
EMPTY = "\x00empty"  # the key of the empty call in a window; never a user's key
ANCHOR = "\x00anchor"
_MOST_LOOPS = (
    1 << 14
)  # no call takes less than 10 ns; a clock that stands still must not make loops without end

Call = Callable[[], object]
Clock = Callable[[], int]  # nanoseconds, as time.perf_counter_ns


@dataclass(frozen=True)
class Settings:
    """How carefully to measure. The defaults take about 35 ms per operator.

    Attributes:
        samples: timed loops of each kernel in a window.
        fewest: samples of a kernel so slow that `samples` of it would take longer than `kernel_s`.
        inner_us: length of one timed loop. Longer loops average the machine's flicker in, shorter ones feel the clock.
        warm_up: share of a loop that runs untimed before each timed one; at least one call, none for a call
            of a hundred `inner_us`.
        quantile: the estimator, in percent of the samples.
        group: kernels that are interleaved in one window, beside the anchor.
        gate: a window counts when its anchor is at most this much above the best anchor known.
        retries: how often a window that does not count is measured again before it is marked unstable.
        pause_s: wait before such a repetition when no other window is left to measure meanwhile.
        kernel_s: most seconds that one kernel may take in a window.
        settle: windows of the anchor alone, before all others, when no best anchor is known.
        seed: of the shuffling.
    """

    samples: int = 200
    fewest: int = 20
    inner_us: float = 150.0
    warm_up: float = 0.1
    quantile: float = 5.0
    group: int = 12
    gate: float = 0.03
    retries: int = 4
    pause_s: float = 0.5
    kernel_s: float = 4.0
    settle: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.samples, self.fewest, self.group, self.settle) < 1 or self.retries < 0:
            raise ValueError(f"samples, fewest, group and settle must be at least 1, retries 0: {self}")
        if not (self.inner_us > 0 and self.kernel_s > 0 and self.gate > 0 and 0 <= self.quantile <= 100):
            raise ValueError(f"inner_us, kernel_s and gate must be positive, quantile in 0..100: {self}")
        if self.warm_up < 0 or self.pause_s < 0:
            raise ValueError(f"warm_up and pause_s must not be negative: {self}")


@dataclass(frozen=True)
class Timing:
    """What the protocol found about one kernel.

    Attributes:
        key: the caller's.
        p_us: the estimator's value (p5), in microseconds per call.
        ratio: `p_us` over the anchor's value in the same window: repeats better than either.
        anchor_us: the anchor's value in the same window.
        best_anchor_us: the least anchor value known when this became final.
        overhead_us: the baseline's value in the same window (an empty call unless a baseline was given).
        samples_us: the samples, in the order they were taken.
        loops: calls per timed loop.
        windows: how many windows were measured for it.
        unstable: no window met the gate; the figures are of the window with the fastest anchor.
    """

    key: str
    p_us: float
    ratio: float
    anchor_us: float
    best_anchor_us: float
    overhead_us: float
    samples_us: tuple[float, ...]
    loops: int
    windows: int
    unstable: bool


@dataclass(frozen=True)
class Failure:
    """A kernel that could not be loaded or called: its key and the reason."""

    key: str
    reason: str


class AnchorError(RuntimeError):
    """The anchor or the baseline itself fails: nothing can be measured beside it."""


@dataclass(frozen=True)
class Window:
    """One window: what was sampled of each kernel (key -> microseconds per call) and what broke (key -> reason)."""

    samples_us: Mapping[str, tuple[float, ...]]
    loops: Mapping[str, int]
    broken: Mapping[str, str] = field(default_factory=dict)


Sampler = Callable[[Mapping[str, Call], Settings, random.Random], Window]


def quantile(samples: Sequence[float], percent: float) -> float:
    """The quantile by linear interpolation between order statistics (numpy's default).

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("quantile of no samples")
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100.0
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@contextmanager
def quiet(cores: int = 1) -> Iterator[tuple[int, ...]]:
    """Pin this thread to `cores` cores and stop the garbage collector; both are put back, also after Ctrl-C.

    Yields the cores (empty where the system cannot pin). Takes the last allowed ones: the first one usually
    serves interrupts.
    """
    collecting = gc.isenabled()
    before: set[int] = set()
    chosen: tuple[int, ...] = ()
    try:
        if hasattr(os, "sched_setaffinity"):
            before = set(os.sched_getaffinity(0))
            chosen = tuple(sorted(before)[-cores:])
            os.sched_setaffinity(0, chosen)
        gc.disable()
        yield chosen
    finally:
        if collecting:
            gc.enable()
        if before:
            os.sched_setaffinity(0, before)


def sample_window(
    kernels: Mapping[str, Call],
    settings: Settings,
    *,
    rng: random.Random,
    clock: Clock = time.perf_counter_ns,
) -> Window:
    """Sample kernels, shuffled anew in each round, each sample after its own warm-up.

    A kernel that raises is dropped from the window and named in `broken`; the others go on.

    Args:
        kernels: key -> one call.
        settings: see `Settings`.
        rng: shuffles the rounds.
        clock: nanoseconds.
    """
    broken: dict[str, str] = {}
    loops: dict[str, int] = {}
    warm: dict[str, int] = {}
    counts: dict[str, int] = {}
    for key, call in kernels.items():
        try:
            call()  # the first call of a kernel may prepare, allocate or pack
            loops[key], warm[key], counts[key] = _sizes(call, settings, clock)
        except Exception as error:  # a kernel raises what its engine raises; the reason is kept in `broken`
            broken[key] = _reason(error)
    samples: dict[str, list[float]] = {key: [] for key in loops}
    order = list(loops)
    for index in range(settings.samples):
        rng.shuffle(order)
        for key in order:
            count = counts[key]  # a slow kernel is sampled in `count` of the rounds, evenly spread
            if key in broken or index * count // settings.samples == (index + 1) * count // settings.samples:
                continue
            try:
                _loop(kernels[key], warm[key], clock)
                samples[key].append(_loop(kernels[key], loops[key], clock) / loops[key] / 1e3)
            except Exception as error:  # as above
                broken[key] = _reason(error)
    kept = {key: tuple(values) for key, values in samples.items() if key not in broken}
    return Window(kept, loops, broken)


def measure(
    kernels: Sequence[tuple[str, Callable[[], Call]]],
    anchor: Call,
    *,
    settings: Settings | None = None,
    baseline: Call | None = None,
    best_anchor_us: float | None = None,
    on_anchor: Callable[[float], None] | None = None,
    cores: int = 1,
    sampler: Sampler | None = None,
    clock: Clock = time.perf_counter_ns,
    sleep: Callable[[float], object] = time.sleep,
    rng: random.Random | None = None,
) -> Iterator[Timing | Failure]:
    """Time kernels in groups beside the anchor; yields each as soon as it is final.

    A window whose anchor is slow goes to the end of the queue and is measured again later, because slow phases last for
    seconds. After `settings.retries` repetitions the window with the fastest anchor stands, marked `unstable`.
    Between two results the caller's code runs unpinned and with its garbage collector.

    Args:
        kernels: (key, loader); a loader gives the call to time. It runs again for each repetition, so that the
            memory in use stays that of one group. One that raises becomes a `Failure`.
        anchor: the call whose speed is known.
        settings: see `Settings`.
        baseline: the least call, whose time is the overhead; by default an empty Python call.
        best_anchor_us: the least anchor value known from earlier runs on this stack.
        on_anchor: told each window's anchor value, so that the caller can keep the best.
        cores: how many cores to pin to (the engine's threads).
        sampler: takes the samples of a window; None: `sample_window` with `clock`. A GPU has events of its own.
        clock, sleep, rng: for tests.

    Raises:
        AnchorError: the anchor or the baseline itself fails.
    """
    use = settings or Settings()
    shuffler = rng or random.Random(use.seed)
    fixed: dict[str, Call] = {ANCHOR: anchor, EMPTY: baseline or _nothing}
    best = best_anchor_us

    def window(calls: Mapping[str, Call]) -> tuple[Window, float]:
        nonlocal best
        with quiet(cores):
            if sampler is None:
                found = sample_window({**fixed, **calls}, use, rng=shuffler, clock=clock)
            else:
                found = sampler({**fixed, **calls}, use, shuffler)
        for key in fixed:
            if key in found.broken:
                raise AnchorError(found.broken[key])
        value = quantile(found.samples_us[ANCHOR], use.quantile)
        best = value if best is None else min(best, value)
        if on_anchor is not None:
            on_anchor(value)
        return found, value

    if best is None and kernels:
        for _ in range(use.settle):
            window({})
    queue = deque(_Group(tuple(part)) for part in _parts(kernels, use.group))
    while queue:
        group = queue.popleft()
        if group.windows and not queue:
            sleep(use.pause_s)  # nothing else to do meanwhile: give a slow phase time to pass
        calls: dict[str, Call] = {}
        for key, load in group.loaders:
            try:
                calls[key] = load()
            except Exception as error:  # whatever a loader raises is the reason why this kernel has no time
                yield Failure(key, _reason(error))
        if not calls:
            continue
        found, value = window(calls)
        for key, reason in found.broken.items():
            yield Failure(key, reason)
        left = tuple(entry for entry in group.loaders if entry[0] in calls and entry[0] not in found.broken)
        kept = group.kept if group.kept is not None and group.kept[1] <= value else (found, value)
        group = _Group(left, group.windows + 1, kept)
        assert best is not None  # a window has just set it
        # The window kept may be an earlier one, which no longer meets a best that has fallen since, or meets it now.
        stable = kept[1] <= best * (1 + use.gate)
        if not stable and group.windows <= use.retries:
            queue.append(group)
            continue
        overhead = quantile(kept[0].samples_us[EMPTY], use.quantile)
        for key, _ in left:
            values = kept[0].samples_us[key]
            p = quantile(values, use.quantile)
            yield Timing(
                key,
                p,
                p / kept[1],
                kept[1],
                best,
                overhead,
                values,
                kept[0].loops[key],
                group.windows,
                not stable,
            )


@dataclass(frozen=True)
class _Group:
    loaders: tuple[tuple[str, Callable[[], Call]], ...]
    windows: int = 0
    kept: tuple[Window, float] | None = None  # the window with the fastest anchor so far, and that anchor


def _parts(
    kernels: Sequence[tuple[str, Callable[[], Call]]], size: int
) -> Iterator[Sequence[tuple[str, Callable[[], Call]]]]:
    for start in range(0, len(kernels), size):
        yield kernels[start : start + size]


def _nothing() -> None:
    return None


def _loop(call: Call, count: int, clock: Clock) -> int:
    """Nanoseconds of `count` calls."""
    turns = itertools.repeat(None, count)
    start = clock()
    for _ in turns:
        call()
    return clock() - start


def _sizes(call: Call, settings: Settings, clock: Clock) -> tuple[int, int, int]:
    """Calls per timed loop, untimed calls before each, and how many such samples the kernel's share of time allows."""
    target = settings.inner_us * 1e3
    count = 1
    while True:
        # The quicker of two: a loop that the machine interrupted says that a call is slower than it is.
        spent = max(min(_loop(call, count, clock), _loop(call, count, clock)), 1)
        if spent >= target / 2 or count >= _MOST_LOOPS:
            break
        count = max(count + 1, min(count * 8, int(count * target / spent)))
    per_call = spent / count
    count = min(_MOST_LOOPS, max(1, round(target / per_call)))
    # A call that is itself a hundred loops long (a large network) has no cold start worth a second one.
    warm = 0 if per_call > 100 * target else max(1, int(count * settings.warm_up))
    samples = int(settings.kernel_s * 1e9 / (per_call * (count + warm)))
    return count, warm, min(settings.samples, max(settings.fewest, samples))


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
