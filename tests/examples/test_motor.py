"""The motor example: the machine's physics, the data set's shape and splits."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "motor"
sys.path.insert(0, str(FOLDER))
import machine  # noqa: E402
import simulator  # noqa: E402

STEP_S = 1e-4


def eccentric(static: float, dynamic: float) -> machine.Motors:
    one = np.ones(1)
    return replace(
        machine.base_motors(1),
        static=static * one,
        dynamic=dynamic * one,
        static_angle=0.7 * one,
        dynamic_angle=1.1 * one,
    )


def constant_load(newton_metres: float) -> machine.Load:
    zero = np.zeros(1)
    return machine.Load(zero + newton_metres, zero, zero, zero)


def settled(motors: machine.Motors, load: machine.Load, seconds: float) -> tuple[machine.State, float]:
    supply = machine.rated_supply(1)
    state, _ = machine.steady_state(motors, supply, np.full(1, machine.RATED_SPEED))
    now = 0.0
    for _ in range(round(seconds / STEP_S)):
        state = machine.advance(motors, supply, load, now, STEP_S, state)
        now += STEP_S
    return state, now


def test_rated_point_is_the_nameplates() -> None:
    # Krause's 3 hp machine: 1710 rpm, 60 Hz; torque base 3 hp / synchronous speed = 11.9 Nm.
    speeds = np.linspace(1650, 1790, 2801) * np.pi / 30
    _, torque = machine.steady_state(
        machine.base_motors(len(speeds)), machine.rated_supply(len(speeds)), speeds
    )
    at_3_hp = speeds[np.argmin(np.abs(torque * speeds - 3 * 745.7))]
    assert at_3_hp == pytest.approx(machine.RATED_SPEED, rel=0.01)
    assert 3 * 745.7 / (1800 * np.pi / 30) == pytest.approx(machine.RATED_TORQUE_NM, rel=0.005)
    # The pull-out torque of the equivalent circuit in closed form (Thevenin), and its slip.
    x, xm, w = 0.754, 26.13, 2 * np.pi * 60 / 2
    thevenin = 1j * xm / (0.435 + 1j * (x + xm))
    z = thevenin * (0.435 + 1j * x)
    slip = 0.816 / np.hypot(z.real, z.imag + x)
    v = abs(thevenin) * machine.RATED_VOLTAGE
    most = 1.5 * v**2 / (2 * w * (z.real + np.hypot(z.real, z.imag + x)))
    _, at_slip = machine.steady_state(
        machine.base_motors(1), machine.rated_supply(1), np.full(1, w * (1 - slip))
    )
    assert at_slip[0] == pytest.approx(most, rel=1e-9)


def test_a_centred_motor_settles_where_the_equivalent_circuit_says() -> None:
    motors = eccentric(0, 0)
    state, now = settled(motors, constant_load(11.9), 0.4)
    g = machine.gap(motors, state.angle)
    i = machine.currents(motors, state, g)
    expected, torque = machine.steady_state(motors, machine.rated_supply(1), state.speed)
    assert torque[0] == pytest.approx(11.9, rel=1e-3)
    assert machine.torque(motors, state, i, g)[0] == pytest.approx(11.9, rel=1e-3)
    assert abs(state.stator[0]) == pytest.approx(abs(expected.stator[0]), rel=1e-3)
    # The flux turns at the supply's frequency: back at time 0 it lies where the circuit has it.
    assert np.angle(state.stator[0] * np.exp(-2j * np.pi * 60 * now) / expected.stator[0]) == pytest.approx(
        0, abs=2e-3
    )


def test_power_in_is_loss_and_work_and_change_of_the_field() -> None:
    """To the integrator's error, with both eccentricities: inductances, their slopes and torque belong together."""
    motors, load, supply = eccentric(0.3, 0.35), constant_load(9.0), machine.rated_supply(1)
    state, now = settled(motors, load, 0.05)
    step = 1e-6

    def field(s: machine.State) -> float:
        g = machine.gap(motors, s.angle)
        return float(machine.energy(motors, machine.currents(motors, s, g), g)[0])

    before = machine.advance(motors, supply, load, now, -step, state)
    after = machine.advance(motors, supply, load, now, step, state)
    change = (field(after) - field(before)) / (2 * step)
    g = machine.gap(motors, state.angle)
    i = machine.currents(motors, state, g)
    power = 1.5 * (supply.vector(now) * i.stator.conj()).real[0]
    work = (machine.torque(motors, state, i, g) * state.speed)[0]
    assert power == pytest.approx(machine.copper_loss(motors, i)[0] + work + change, rel=1e-6)
    assert abs(change) > 1  # the balance is not one of zeros


def test_currents_solve_the_flux_equations() -> None:
    motors = eccentric(0.25, 0.4)
    state, _ = settled(motors, constant_load(5.0), 0.03)
    g = machine.gap(motors, state.angle)
    i = machine.currents(motors, state, g)
    lm, total = motors.magnetising_h, i.stator + i.main
    linked = lm * (g.first * i.lower + g.mean * total + g.first.conj() * i.upper)
    np.testing.assert_allclose(
        motors.stator_h * i.stator + linked + (g.slot * i.main).conj(), state.stator, rtol=1e-9
    )
    np.testing.assert_allclose(
        motors.rotor_h * i.main + linked + (g.slot * i.stator).conj(), state.main, rtol=1e-9
    )
    lower = 0.25 * motors.rotor_h * i.lower + lm * (g.mean * i.lower + g.first.conj() * total)
    upper = 2.25 * motors.rotor_h * i.upper + lm * (g.mean * i.upper + g.first * total)
    np.testing.assert_allclose(lower, state.lower, rtol=1e-9)
    np.testing.assert_allclose(upper, state.upper, rtol=1e-9)


def test_permeance_is_that_of_the_gap() -> None:
    """Mean and first harmonic against the integral over 1 / (1 - e cos), slopes against differences."""
    motors, angle = eccentric(0.3, 0.25), np.full(1, 0.9)
    g = machine.gap(motors, angle)
    x = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    offset = 0.3 * np.exp(0.7j) + 0.25 * np.exp(1j * (0.9 + 1.1))
    around = 1 / (1 - (offset * np.exp(-1j * x)).real)
    assert g.mean[0] == pytest.approx(around.mean(), rel=1e-12)
    assert g.first[0] == pytest.approx((around * np.exp(1j * x)).mean(), rel=1e-12)
    step = 1e-6
    ahead, behind = machine.gap(motors, angle + step), machine.gap(motors, angle - step)
    assert g.mean_slope[0] == pytest.approx((ahead.mean - behind.mean)[0] / (2 * step), rel=1e-6)
    assert g.first_slope[0] == pytest.approx((ahead.first - behind.first)[0] / (2 * step), rel=1e-6)
    assert g.slot_slope[0] == pytest.approx((ahead.slot - behind.slot)[0] / (2 * step), rel=1e-6)


CASES = {"none": (0.0, 0.0), "static": (0.4, 0.0), "dynamic": (0.0, 0.4), "mixed": (0.3, 0.3)}
SEEN = {
    "none": set(),
    "static": {"slot, static"},
    "dynamic": {"slot, dynamic"},
    "mixed": {"lower", "upper", "slot, static", "slot, dynamic"},
}


@pytest.fixture(scope="module")
def levels() -> dict[str, dict[str, float]]:
    """Per case, dB below the fundamental of the lines that the literature gives."""
    n, samples_count = len(CASES), 3000
    zero = np.zeros(n)
    static, dynamic = np.array(list(CASES.values())).T
    motors = replace(machine.base_motors(n), static=static, dynamic=dynamic, static_angle=zero + 0.7)
    supply, load = machine.rated_supply(n), machine.Load(zero + 11.9, zero, zero, zero)
    state, _ = machine.steady_state(motors, supply, zero + 1722 * np.pi / 30)
    samples, speeds, now = [], [], 0.0
    for step in range(2500 + samples_count):
        if step >= 2500:
            samples.append(machine.currents(motors, state, machine.gap(motors, state.angle)).stator)
            speeds.append(state.speed)
        state = machine.advance(motors, supply, load, now, STEP_S, state)
        now += STEP_S
    weighted = np.blackman(samples_count)[:, None] * np.array(samples)
    times = np.arange(samples_count)[:, None] * STEP_S

    def line(hertz: np.ndarray) -> np.ndarray:
        return np.abs(np.sum(weighted * np.exp(-2j * np.pi * hertz * times), axis=0))

    turns = np.mean(speeds, axis=0) / (2 * np.pi)
    slip = 1 - turns / 30
    lines = {
        "lower": 60 - turns,
        "upper": 60 + turns,
        "slot, static": -((43 * (1 - slip) / 2) + 1) * 60,
        "slot, dynamic": -((44 * (1 - slip) / 2) + 1) * 60,
    }
    top = line(zero + 60)
    assert (line(zero + 50) < 0.01 * top).all()  # the supply's frequency is the peak
    assert (line(zero + 70) < 0.01 * top).all()
    decibels = {name: 20 * np.log10(line(f) / top) for name, f in lines.items()}
    return {case: {name: decibels[name][i] for name in lines} for i, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES)
def test_side_bands_stand_where_the_formulae_put_them(levels: dict[str, dict[str, float]], case: str) -> None:
    for name, level in levels[case].items():
        assert (level > -60) == (name in SEEN[case]), (name, level)


@pytest.fixture(scope="module")
def recordings() -> simulator.Recordings:
    return simulator.draw(4, seed=3)


@pytest.fixture(scope="module")
def arrays(recordings: simulator.Recordings) -> dict[str, Any]:
    simulator.SIZES["tiny"] = (2, 1, 1)
    return simulator.dataset("tiny", seed=3, processes=1)


def test_windows_have_the_papers_shape_and_numbers(arrays: dict[str, Any]) -> None:
    assert arrays["x_train"].shape == (60, 8, 256)
    assert arrays["x_train"].dtype == np.float32
    assert list(arrays["classes"]) == ["none", "static", "dynamic", "mixed"]
    train, held_out, test = (m * simulator.RECORDINGS * simulator.WINDOWS for m in simulator.SIZES["full"])
    assert (train + held_out, test) == (25_530, 6_390)
    assert held_out / (train + held_out) == pytest.approx(0.2, abs=0.001)
    assert (simulator.RATE_HZ, simulator.STEPS) == (5000, 256)


def test_no_motor_and_no_operating_point_is_on_two_sides(arrays: dict[str, Any]) -> None:
    motors = [set(arrays[f"motor_{split}"].tolist()) for split in simulator.SPLITS]
    assert all(motors)
    assert sum(map(len, motors)) == len(set.union(*motors))
    # Operating points belong to a motor: no two recordings of any motors share one.
    drawn = simulator.draw(sum(simulator.SIZES["small"]), seed=0)
    points = np.stack([drawn.supply.frequency_hz, drawn.supply.voltage, drawn.load.torque], axis=1)
    assert len(np.unique(points, axis=0)) == len(points)


def test_spectra_show_the_supply_and_classes_are_even(
    arrays: dict[str, Any], recordings: simulator.Recordings
) -> None:
    every = np.concatenate([arrays[f"x_{s}"] for s in simulator.SPLITS])
    peaks = every[:, 0:6].argmax(2) * simulator.RATE_HZ / 512
    supply = np.repeat(recordings.supply.frequency_hz, simulator.WINDOWS)
    assert np.abs(peaks - supply[:, None]).max() < simulator.RATE_HZ / 512
    speed = every[:, 6].mean(1)
    sync = np.pi * supply
    assert ((speed < sync) & (speed > 0.9 * sync)).all()
    assert ((every[:, 7] >= 0) & (every[:, 7] < 2 * np.pi)).all()
    counts = np.bincount(recordings.label)
    assert counts.max() - counts.min() <= 1


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(arrays: dict[str, Any]) -> None:
    again = simulator.dataset("tiny", seed=3, processes=1)
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, again[name])
    assert simulator.draw(1, seed=4).load.torque[0] != simulator.draw(1, seed=3).load.torque[0]
    # A motor's draw does not depend on how many there are.
    np.testing.assert_array_equal(
        simulator.draw(2, seed=3).load.torque, simulator.draw(4, seed=3).load.torque[:20]
    )
