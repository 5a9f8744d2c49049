"""An induction motor with an eccentric rotor: its equations, for many motors at once.

Multiple coupled circuits in space-harmonic form: a sinusoidal stator winding of p pole pairs, a cage whose bars carry
the field harmonics p - 1, p and p + 1, and an air gap whose permeance is not even round the circumference. Inductances
come from the modified winding function (as in Nandi, Bharadwaj and Toliyat, IEEE Trans. Energy Conversion 17(3), 2002),
which for these windings leaves sums over harmonics; torque is the derivative of the co-energy, so power balances.

Permeance over the gap 1 - e cos(x): with q = sqrt(1 - e^2) its mean is 1/q and its first harmonic 2 e / (q (1 + q))
(Fourier series of 1 / (1 - e cos x)); higher ones are left out. The eccentricity is the vector sum of a static part,
fixed in the stator, and a dynamic one that turns with the rotor, so it depends on the rotor's angle where both are
there.

What that shows in the stator current, as it is known of real machines (there; Nandi, Ahmed, Toliyat, 16(3), 2001):
- mixed eccentricity: side bands at f +- k fr round the supply frequency;
- each kind alone: a principal slot harmonic at ((R + nd)(1 - s)/p + 1) f, nd = 0 static, nd = 1 dynamic. Whether a
  machine shows it depends on its numbers of bars and poles: of R = 43 bars and p = 2 the field of order R + p + 1 = 46
  is one that a three-phase winding links (23 p, negative sequence). `slot_h` is that linkage.

The base machine is the 3 hp one of Krause, Wasynczuk and Sudhoff, "Analysis of Electric Machinery".
Left out: saturation, skin effect, iron losses, the rotor's own whirling under the magnetic pull.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

POLE_PAIRS = 2
BARS = 43
TURN = np.exp(2j * np.pi / 3)
RATED_FREQUENCY_HZ = 60.0
RATED_VOLTAGE = 220.0 * np.sqrt(2 / 3)  # peak of a phase
RATED_TORQUE_NM = 11.9
RATED_SPEED = 1710 * np.pi / 30  # rad/s
_X = 2 * np.pi * RATED_FREQUENCY_HZ


@dataclass(frozen=True)
class Motors:
    """Parameters of N motors, every field of shape (N,); angles in rad, inductances in H, referred to the stator.

    Attributes:
        stator_ohm, rotor_ohm: resistances. stator_h, rotor_h: leakage inductances. magnetising_h: of a centred rotor.
        slot_h: linkage of the slot harmonic of order R + p + 1 per unit of first-harmonic permeance.
        inertia: kg m^2.
        static, dynamic: eccentricity as a share of the gap; their sum is below 1.
        static_angle, dynamic_angle: where the gap is narrow, in the stator and on the rotor.
    """

    stator_ohm: Floats
    rotor_ohm: Floats
    stator_h: Floats
    rotor_h: Floats
    magnetising_h: Floats
    slot_h: Floats
    inertia: Floats
    static: Floats
    dynamic: Floats
    static_angle: Floats
    dynamic_angle: Floats


@dataclass(frozen=True)
class Supply:
    """Voltages of N motors, every field of shape (N,): peaks in V, angles in rad; a star without neutral.

    Attributes:
        frequency_hz, voltage, angle: positive sequence.
        unbalance, unbalance_angle: negative sequence, as a share of `voltage`.
        fifth, seventh: harmonics, as shares.
    """

    frequency_hz: Floats
    voltage: Floats
    angle: Floats
    unbalance: Floats
    unbalance_angle: Floats
    fifth: Floats
    seventh: Floats

    def vector(self, time_s: float) -> Complexes:
        """The voltages' space vector, (N,)."""
        turn = np.exp(1j * (2 * np.pi * self.frequency_hz * time_s + self.angle))
        back = turn.conj()
        negative = self.unbalance * np.exp(1j * self.unbalance_angle) * back
        fifth, seventh = self.fifth * back * back**4, self.seventh * turn * turn**6
        result: Complexes = self.voltage * (turn + negative + fifth + seventh)
        return result


@dataclass(frozen=True)
class Load:
    """Torque of N loads: `torque` Nm at rated speed, of which the share `fan` grows with the square of the speed, and
    which swings with the rotor's angle by the share `ripple`. Every field (N,)."""

    torque: Floats
    fan: Floats
    ripple: Floats
    ripple_angle: Floats

    def at(self, speed: Floats, angle: Floats) -> Floats:
        """Nm at a speed in rad/s and a rotor angle."""
        level = 1 - self.fan + self.fan * (speed / RATED_SPEED) ** 2
        result: Floats = self.torque * level * (1 + self.ripple * np.cos(angle + self.ripple_angle))
        return result


class State(NamedTuple):
    """Flux linkages in the stator's frame (stator; cage harmonics p - 1, p, p + 1), speed in rad/s, rotor angle."""

    stator: Complexes
    lower: Complexes
    main: Complexes
    upper: Complexes
    speed: Floats
    angle: Floats


class Gap(NamedTuple):
    """Permeance round the gap and its derivative by the rotor's angle: mean, first harmonic (half, as a vector), and
    the slot linkage."""

    mean: Floats
    first: Complexes
    slot: Complexes
    mean_slope: Floats
    first_slope: Complexes
    slot_slope: Complexes


class Currents(NamedTuple):
    """Space vectors in the stator's frame, (N,) each, in A."""

    stator: Complexes
    lower: Complexes
    main: Complexes
    upper: Complexes


def base_motors(count: int) -> Motors:
    """`count` copies of the base machine, centred."""

    def full(value: float) -> Floats:
        return np.full(count, value)

    magnetising = 26.13 / _X
    return Motors(
        full(0.435), full(0.816), full(0.754 / _X), full(0.754 / _X), full(magnetising), full(0.0006 * magnetising),
        full(0.089), full(0.0), full(0.0), full(0.0), full(0.0),
    )  # fmt: skip


def rated_supply(count: int) -> Supply:
    """Balanced, sinusoidal, rated."""
    zero = np.zeros(count)
    return Supply(zero + RATED_FREQUENCY_HZ, zero + RATED_VOLTAGE, zero, zero, zero, zero, zero)


def gap(motors: Motors, angle: Floats) -> Gap:
    """The permeance where the rotor stands at `angle`."""
    turning = motors.dynamic * np.exp(1j * (angle + motors.dynamic_angle))
    offset = motors.static * np.exp(1j * motors.static_angle) + turning
    offset_slope = 1j * turning
    q = np.sqrt(1 - (offset.real**2 + offset.imag**2))
    q_slope = -(offset.conj() * offset_slope).real / q
    scale = 1 / (q * (1 + q))
    first = offset * scale
    first_slope = offset_slope * scale - offset * (q_slope * (1 + 2 * q) * scale * scale)
    bars = motors.slot_h * np.exp(1j * BARS * angle)
    slot = bars * first
    return Gap(1 / q, first, slot, -q_slope / q**2, first_slope, 1j * BARS * slot + bars * first_slope)


def currents(motors: Motors, state: State, g: Gap) -> Currents:
    """Solve the flux equations for the currents; closed form, as only three harmonics couple."""
    lm, ls, lr = motors.magnetising_h, motors.stator_h, motors.rotor_h
    own = lm * g.mean
    lower_h, upper_h = own + _LOWER * lr, own + _UPPER * lr
    forward = lm * g.first
    back = forward.conj()
    # The cage's side harmonics eliminated: main flux = main_h * (stator + main current) + side.
    main_h = own - (forward.real**2 + forward.imag**2) * (1 / lower_h + 1 / upper_h)
    side = forward * (state.lower / lower_h) + back * (state.upper / upper_h)
    slot_back = g.slot.conj()
    slot_square = g.slot.real**2 + g.slot.imag**2
    delta = ls * lr - slot_square
    both = (state.stator + state.main).conj()
    right = lr * state.stator + ls * state.main - slot_back * both + (delta / main_h) * side
    alpha = delta / main_h + ls + lr
    flux = (alpha * right + 2 * slot_back * right.conj()) / (alpha * alpha - 4 * slot_square)
    a, b = state.stator - flux, state.main - flux
    stator = (lr * a - slot_back * b.conj()) / delta
    main = (ls * b - slot_back * a.conj()) / delta
    total = stator + main
    return Currents(
        stator, (state.lower - back * total) / lower_h, main, (state.upper - forward * total) / upper_h
    )


def torque(motors: Motors, state: State, i: Currents, g: Gap) -> Floats:
    """Nm: derivative of the co-energy by the rotor's angle, with the cage's currents held on the rotor."""
    p = POLE_PAIRS
    frame = -(
        (p - 1) * (state.lower.conj() * i.lower).imag
        + p * (state.main.conj() * i.main).imag
        + (p + 1) * (state.upper.conj() * i.upper).imag
    )
    total = i.stator + i.main
    squares = _square(i.lower) + _square(total) + _square(i.upper)
    swing = ((total.conj() * i.lower + i.upper.conj() * total) * g.first_slope).real
    permeance = motors.magnetising_h * (0.5 * g.mean_slope * squares + swing)
    result: Floats = 1.5 * (frame + permeance + (g.slot_slope * i.stator * i.main).real)
    return result


def energy(motors: Motors, i: Currents, g: Gap) -> Floats:
    """J in the magnetic field."""
    total = i.stator + i.main
    leak = motors.stator_h * _square(i.stator) + motors.rotor_h * (
        _LOWER * _square(i.lower) + _square(i.main) + _UPPER * _square(i.upper)
    )
    field = (
        g.mean * (_square(i.lower) + _square(total) + _square(i.upper))
        + 2 * ((total.conj() * i.lower + i.upper.conj() * total) * g.first).real
    )
    result: Floats = 1.5 * (
        0.5 * leak + 0.5 * motors.magnetising_h * field + (g.slot * i.stator * i.main).real
    )
    return result


def copper_loss(motors: Motors, i: Currents) -> Floats:
    """W in stator winding and cage."""
    rotor = _LOWER * _square(i.lower) + _square(i.main) + _UPPER * _square(i.upper)
    result: Floats = 1.5 * (motors.stator_ohm * _square(i.stator) + motors.rotor_ohm * rotor)
    return result


def slopes(motors: Motors, supply: Supply, load: Load, time_s: float, state: State) -> State:
    """Time derivatives of the state."""
    g = gap(motors, state.angle)
    i = currents(motors, state, g)
    p, r, w = POLE_PAIRS, motors.rotor_ohm, 1j * state.speed
    return State(
        supply.vector(time_s) - motors.stator_ohm * i.stator,
        (p - 1) * w * state.lower - _LOWER * r * i.lower,
        p * w * state.main - r * i.main,
        (p + 1) * w * state.upper - _UPPER * r * i.upper,
        (torque(motors, state, i, g) - load.at(state.speed, state.angle)) / motors.inertia,
        state.speed,
    )


def advance(motors: Motors, supply: Supply, load: Load, time_s: float, step_s: float, state: State) -> State:
    """One step of the classical Runge-Kutta method."""
    half = 0.5 * step_s
    k1 = slopes(motors, supply, load, time_s, state)
    k2 = slopes(motors, supply, load, time_s + half, _moved(state, k1, half))
    k3 = slopes(motors, supply, load, time_s + half, _moved(state, k2, half))
    k4 = slopes(motors, supply, load, time_s + step_s, _moved(state, k3, step_s))
    return State(
        *(y + step_s / 6 * (a + 2 * (b + c) + d) for y, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True))
    )


def steady_state(motors: Motors, supply: Supply, speed: Floats) -> tuple[State, Floats]:
    """The textbook's equivalent circuit at a given speed, of a centred rotor: the state at time 0, and the torque."""
    omega = 2 * np.pi * supply.frequency_hz
    slip = 1 - POLE_PAIRS * speed / omega
    rotor = motors.rotor_ohm / slip + 1j * omega * motors.rotor_h
    magnetising = 1j * omega * motors.magnetising_h
    parallel = rotor * magnetising / (rotor + magnetising)
    voltage = supply.voltage * np.exp(1j * supply.angle)
    stator = voltage / (motors.stator_ohm + 1j * omega * motors.stator_h + parallel)
    main = -stator * magnetising / (rotor + magnetising)
    flux = motors.magnetising_h * (stator + main)
    zero = np.zeros_like(flux)
    state = State(
        flux + motors.stator_h * stator, zero, flux + motors.rotor_h * main, zero, speed, np.zeros_like(speed)
    )
    return state, 1.5 * POLE_PAIRS / omega * _square(main) * motors.rotor_ohm / slip


def phases(vector: Complexes) -> Floats:
    """A space vector as its three phases, one more axis at the front."""
    return np.stack([vector.real, (vector / TURN).real, (vector * TURN).real])


# A cage's resistance and leakage of harmonic n, referred to the stator's winding, grow with (n / p)^2: the same bars
# and rings make a field of order n that is p / n times as strong.
_LOWER = ((POLE_PAIRS - 1) / POLE_PAIRS) ** 2
_UPPER = ((POLE_PAIRS + 1) / POLE_PAIRS) ** 2


def _square(z: Complexes) -> Floats:
    result: Floats = z.real**2 + z.imag**2
    return result


def _moved(state: State, slope: State, step_s: float) -> State:
    return State(*(y + step_s * dy for y, dy in zip(state, slope, strict=True)))
