"""Condition monitoring data: windows of a simulated induction motor's sensors, labelled by the rotor's eccentricity.

    python simulator.py motor.npz                  # small: 4,560 windows
    python simulator.py motor.npz --size full      # the paper's 31,920 windows (25,530 to learn from, 6,390 to test)

As in ConNAS (section 4.2, appendix D.2): 256 steps at 5 kHz; 3 currents and 3 voltages as spectra, speed and rotor
angle as they are; no, static, dynamic and mixed eccentricity. The paper's own data are not public. Differences: see
docs/motor.md.

One motor is one draw of parameters and of sensor errors. It makes ten recordings, each at an operating point of its own
(load, supply, kind and degree of the fault), and each recording gives three windows. Splits are by motor, so neither a
motor nor an operating point stands on two sides.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from machine import (
    POLE_PAIRS,
    RATED_FREQUENCY_HZ,
    RATED_TORQUE_NM,
    RATED_VOLTAGE,
    Floats,
    Load,
    Motors,
    Supply,
    advance,
    base_motors,
    currents,
    gap,
    phases,
    steady_state,
)
from numpy.typing import NDArray

CLASSES = ("none", "static", "dynamic", "mixed")
RATE_HZ = 5000
STEPS = 256
WINDOWS = 3  # of a recording
RECORDINGS = 10  # of a motor
SETTLE_S, SETTLE_STEP_S = 0.25, 2e-4
STEP_S = 1e-4  # the slot harmonics of some 1.3 kHz need this; two steps a sample
WINDOW_START_STEPS = 400  # samples from one window's start to the next: 80 ms
CHUNK = 1330  # recordings simulated at once; their arrays stay in the cache

# Motors by split; the full ones make the paper's 25,530 (of which the search holds 20 % out) and 6,390 windows.
SIZES = {"small": (96, 24, 32), "medium": (320, 80, 100), "full": (681, 170, 213)}
SPLITS = ("train", "val", "test")

# A sound motor is not perfect, and a fault may be small.
SOUND, FAULTY = 0.05, (0.12, 0.5)
# A motor for 50 and 60 Hz within zone B of IEC 60034-1, 7.3: frequency -5 to +3 %, voltage +-10 %.
FREQUENCY_HZ = (50.0 * 0.95, 60.0 * 1.03)
VOLTAGE = (0.9, 1.1)
CURRENT_NOISE_A, CURRENT_STEP_A = 0.02, 50 / 4096  # 12 bits over +-25 A
VOLTAGE_NOISE_V, VOLTAGE_STEP_V = 0.3, 800 / 4096
SPEED_NOISE, ANGLE_STEP = 0.3, 2 * np.pi / 4096  # tachometer; encoder of 1024 lines, four edges each
FLOOR = 1e-4  # amplitudes below are noise; it bounds the logarithm

Part = TypeVar("Part", Motors, Supply, Load)


@dataclass(frozen=True)
class Recordings:
    """What is simulated: every field has one entry per recording.

    Attributes:
        motor: number of the motor. label: index into `CLASSES`. motors, supply, load: see `machine`.
        gains: (n, 6) of the current and voltage sensors. noise_seed: of the sensors' noise.
    """

    motor: NDArray[np.int64]
    label: NDArray[np.int64]
    motors: Motors
    supply: Supply
    load: Load
    gains: Floats
    noise_seed: NDArray[np.int64]


def draw(count: int, seed: int) -> Recordings:
    """The recordings of `count` motors. A motor's draw depends on the seed and its own number alone."""
    parts = [_draw_motor(number, seed) for number in range(count)]
    return Recordings(
        np.concatenate([p.motor for p in parts]),
        np.concatenate([p.label for p in parts]),
        _joined([p.motors for p in parts]),
        _joined([p.supply for p in parts]),
        _joined([p.load for p in parts]),
        np.concatenate([p.gains for p in parts]),
        np.concatenate([p.noise_seed for p in parts]),
    )


def _draw_motor(number: int, seed: int) -> Recordings:
    rng = np.random.default_rng([seed, number])
    n = RECORDINGS
    base = base_motors(n)

    def spread(values: Floats, low: float, high: float) -> Floats:
        return values * rng.uniform(low, high)

    label = (np.arange(n) + number * n) % len(CLASSES)
    static_fault, dynamic_fault = np.isin(label, (1, 3)), np.isin(label, (2, 3))
    motors = replace(
        base,
        stator_ohm=spread(base.stator_ohm, 0.85, 1.25),
        rotor_ohm=spread(base.rotor_ohm, 0.85, 1.25),
        stator_h=spread(base.stator_h, 0.9, 1.1),
        rotor_h=spread(base.rotor_h, 0.9, 1.1),
        magnetising_h=spread(base.magnetising_h, 0.9, 1.1),
        slot_h=spread(base.slot_h, 0.7, 1.4),
        inertia=spread(base.inertia, 0.8, 1.6),
        static=np.where(static_fault, rng.uniform(*FAULTY, n), rng.uniform(0, SOUND, n)),
        dynamic=np.where(dynamic_fault, rng.uniform(*FAULTY, n), rng.uniform(0, SOUND, n)),
        static_angle=rng.uniform(0, 2 * np.pi, n),
        dynamic_angle=rng.uniform(0, 2 * np.pi, n),
    )
    # Both faults together close at most 80 % of the gap.
    much = np.maximum(1, (motors.static + motors.dynamic) / 0.8)
    motors = replace(motors, static=motors.static / much, dynamic=motors.dynamic / much)
    frequency = rng.uniform(*FREQUENCY_HZ, n)  # an inverter with constant voltage per frequency
    supply = Supply(
        frequency_hz=frequency,
        voltage=RATED_VOLTAGE * frequency / RATED_FREQUENCY_HZ * rng.uniform(*VOLTAGE, n),
        angle=rng.uniform(0, 2 * np.pi, n),
        unbalance=rng.uniform(0, 0.02, n),
        unbalance_angle=rng.uniform(0, 2 * np.pi, n),
        fifth=rng.uniform(0, 0.02, n),
        seventh=rng.uniform(0, 0.015, n),
    )
    load = Load(
        torque=RATED_TORQUE_NM * rng.uniform(0.15, 1.1, n),
        fan=rng.choice([0.0, 1.0], n),
        ripple=rng.uniform(0, 0.03, n),
        ripple_angle=rng.uniform(0, 2 * np.pi, n),
    )
    gains = np.tile(rng.normal(1, 0.005, 6), (n, 1))
    return Recordings(np.full(n, number), label, motors, supply, load, gains, rng.integers(0, 2**62, n))


def simulate(recordings: Recordings) -> NDArray[np.float32]:
    """The sensors' readings: (recordings, WINDOWS, 8, STEPS); currents in A, voltages in V, rad/s, rad."""
    n, motors, supply, load = (
        len(recordings.motor), recordings.motors, recordings.supply, recordings.load,
    )  # fmt: skip
    sync = 2 * np.pi * supply.frequency_hz / POLE_PAIRS
    # The speed at which the equivalent circuit carries the load, as torque grows with slip; then it settles.
    _, at_base = steady_state(motors, supply, 0.98 * sync)
    state, _ = steady_state(motors, supply, sync * (1 - 0.02 * np.clip(load.torque / at_base, 0.05, 3)))
    now = 0.0
    for _ in range(round(SETTLE_S / SETTLE_STEP_S)):
        state = advance(motors, supply, load, now, SETTLE_STEP_S, state)
        now += SETTLE_STEP_S
    result = np.empty((n, WINDOWS, 8, STEPS), np.float32)
    for sample in range(WINDOW_START_STEPS * (WINDOWS - 1) + STEPS):
        window, step = divmod(sample, WINDOW_START_STEPS)
        if step < STEPS:
            stator = currents(motors, state, gap(motors, state.angle)).stator
            result[:, window, 0:3, step] = phases(stator).T
            result[:, window, 3:6, step] = phases(supply.vector(now)).T
            result[:, window, 6, step] = state.speed
            result[:, window, 7, step] = np.mod(state.angle, 2 * np.pi)
        for _ in range(round(1 / RATE_HZ / STEP_S)):
            state = advance(motors, supply, load, now, STEP_S, state)
            now += STEP_S
    return _measured(result, recordings)


def _measured(true: NDArray[np.float32], recordings: Recordings) -> NDArray[np.float32]:
    """Readings of imperfect sensors: gain, noise, steps of the converter."""
    for index, seed in enumerate(recordings.noise_seed):
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((WINDOWS, 7, STEPS), np.float32)
        values = true[index]
        values[:, :6] *= recordings.gains[index][:, None]
        values[:, 0:3] = _steps(values[:, 0:3] + CURRENT_NOISE_A * noise[:, 0:3], CURRENT_STEP_A)
        values[:, 3:6] = _steps(values[:, 3:6] + VOLTAGE_NOISE_V * noise[:, 3:6], VOLTAGE_STEP_V)
        values[:, 6] += SPEED_NOISE * noise[:, 6]
        values[:, 7] = np.floor(values[:, 7] / ANGLE_STEP) * ANGLE_STEP
    return true


def _steps(values: NDArray[Any], step: float) -> NDArray[Any]:
    return np.round(values / step) * step


def features(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 8, STEPS) readings -> what the network sees: currents and voltages as spectra, speed and angle as they are.

    A spectrum is the amplitude in dB (20 log10) of a Hann window padded to twice its length, bins 0 to 255: 9.8 Hz
    apart. One value a step as in the paper, without the mirrored half.
    """
    hann = np.hanning(STEPS + 1)[:-1].astype(np.float32)
    result = windows.astype(np.float32)
    spectrum = np.abs(np.fft.rfft(windows[:, :6] * hann, n=2 * STEPS)[..., :STEPS]) * (2 / hann.sum())
    result[:, :6] = 20 * np.log10(np.maximum(spectrum, FLOOR))
    return result


def dataset(size: str, seed: int = 0, processes: int = 2) -> dict[str, NDArray[Any]]:
    """The arrays of the npz file (docs/data.md): x_SPLIT, y_SPLIT, classes; and motor_SPLIT, each window's motor."""
    counts = SIZES[size]
    arrays: dict[str, NDArray[Any]] = {"classes": np.array(CLASSES)}
    recordings = draw(sum(counts), seed)
    parts = list(_chunks(recordings))
    if processes > 1 and len(parts) > 1:
        with ProcessPoolExecutor(processes) as pool:
            found = list(pool.map(_features_of, parts))
    else:
        found = [_features_of(part) for part in parts]
    x = np.concatenate(found)
    label, motor = (np.repeat(a, WINDOWS) for a in (recordings.label, recordings.motor))
    # Motors are drawn alike, so the first ones make the first split.
    ends = np.cumsum(counts)
    for split, begin, end in zip(SPLITS, ends - counts, ends, strict=True):
        kept = (motor >= begin) & (motor < end)
        arrays |= {f"x_{split}": x[kept], f"y_{split}": label[kept], f"motor_{split}": motor[kept]}
    return arrays


def _features_of(recordings: Recordings) -> NDArray[np.float32]:
    return features(simulate(recordings).reshape(-1, 8, STEPS))


def _chunks(recordings: Recordings) -> Iterator[Recordings]:
    for begin in range(0, len(recordings.motor), CHUNK):
        part = slice(begin, begin + CHUNK)
        yield Recordings(
            recordings.motor[part],
            recordings.label[part],
            _part(recordings.motors, part),
            _part(recordings.supply, part),
            _part(recordings.load, part),
            recordings.gains[part],
            recordings.noise_seed[part],
        )


def _part(values: Part, part: slice) -> Part:
    return type(values)(**{f.name: getattr(values, f.name)[part] for f in fields(values)})


def _joined(parts: list[Part]) -> Part:
    kind = type(parts[0])
    return kind(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(kind)})


def main() -> None:
    """Write the npz file, if it is not there."""
    parser = argparse.ArgumentParser(description="Simulated condition monitoring data of induction motors.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.file.exists():
        print(f"{options.file} is there already")
        return
    started = time.monotonic()
    arrays = dataset(options.size, options.seed, options.processes)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    partial = options.file.with_suffix(".part.npz")
    np.savez(partial, **arrays)
    partial.replace(options.file)
    counts = ", ".join(f"{len(arrays[f'y_{s}']):,} {s}" for s in SPLITS)
    print(f"{options.file}: windows {counts}; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
