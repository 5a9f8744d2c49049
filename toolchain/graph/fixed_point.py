"""Fixed-point arithmetic of TFLite's reference kernels, bit for bit, on numpy arrays.

Arrays are int64 and hold values of the C code's int32 (or int16) domain; where the C code would overflow, `wrap32` says
so. Names in brackets are those of gemmlowp (fixedpoint.h) and TFLite (kernels/internal), where each rule comes from.
TFLite Micro rounds twice: once when it multiplies, once when it shifts.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import GraphError

Integers = NDArray[np.int64]

INT16: Final = (-(1 << 15), (1 << 15) - 1)
INT32: Final = (-(1 << 31), (1 << 31) - 1)
# Largest left shift: 1 << 31 is not an int32. A real multiplier must stay below 2^30.
MAX_SHIFT: Final = 30


def wrap32(x: Integers) -> Integers:
    """What an int32 holds after an overflow: the low 32 bits (what the compiled kernels do)."""
    return x.astype(np.int32).astype(np.int64)


def quantize_multiplier(real: float, max_shift: int = MAX_SHIFT) -> tuple[int, int]:
    """(multiplier, shift) with real ~ multiplier * 2^(shift - 31) and multiplier in [2^30, 2^31), or (0, 0).

    Multipliers below 2^-32 become zero. [QuantizeMultiplier]

    Args:
        real: ratio of scales, zero or positive.
        max_shift: largest left shift that the caller's kernel can do.

    Raises:
        GraphError: `real` is 2^max_shift or more. Beyond 30 the kernels' left shift is undefined in C, and what
            TFLite Micro then computes depends on the processor.
    """
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)  # rounds half away from zero: fraction > 0
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > max_shift:
        raise GraphError(
            f"scales differ too much: their ratio {real:g} is not below 2^{max_shift}",
            remedy="check the quantisation of this operator's tensors",
        )
    return multiplier, shift


def doubling_high_multiply(a: Integers, b: Integers | int, bits: int = 32) -> Integers:
    """round(a * b / 2^(bits - 1)), ties upward. [SaturatingRoundingDoublingHighMul]

    The C code adds a nudge that depends on the sign and then divides towards zero; on every product that equals
    one addition and one arithmetic shift. Its one saturating case (both operands the least integer) saturates here too.
    """
    product: Integers = (a * b + (1 << (bits - 2))) >> (bits - 1)
    return np.minimum(product, (1 << (bits - 1)) - 1)


def rounding_shift_right(x: Integers, exponent: Integers | int, bits: int = 32) -> Integers:
    """round(x / 2^exponent), ties away from zero; exponent 0 to 31. [RoundingDivideByPOT]

    With 16 bits the mask of the C code is cut to an int16, so from exponent 16 on results are not quotients; that is
    reproduced.
    """
    exponent = np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent) - 1
    if bits == 16:
        mask = mask.astype(np.int16).astype(np.int64)
    remainder = x & mask
    threshold = (mask >> 1) + (x < 0)
    return np.asarray((x >> exponent) + (remainder > threshold), np.int64)


def multiply_by_quantized_multiplier(
    x: Integers, multiplier: Integers | int, shift: Integers | int
) -> Integers:
    """x * multiplier * 2^(shift - 31) with two roundings. [MultiplyByQuantizedMultiplier]

    A left shift comes first and wraps as an int32, as in the C code.

    Args:
        x: int32 values.
        multiplier, shift: of `quantize_multiplier`; scalars, or arrays that broadcast against `x`.
    """
    shift = np.asarray(shift, np.int64)
    left = np.maximum(shift, 0)
    if left.any():
        x = wrap32(x << left)
    high = doubling_high_multiply(x, multiplier)
    right = np.maximum(-shift, 0)
    return rounding_shift_right(high, right) if right.any() else high


def saturating_shift_left(x: Integers, amount: int, limits: tuple[int, int] = INT16) -> Integers:
    """x * 2^amount, saturated. [SaturatingLeftShift, SaturatingRoundingMultiplyByPOT]"""
    shifted: Integers = np.clip(x << amount, *limits)
    return shifted


def exp_of_negative(x: Integers) -> Integers:
    """exp(x) as Q0.31 for x <= 0 as Q5.26. [exp_on_negative_values]

    The part of x in [-1/4, 0) goes through a Taylor polynomial around -1/8, the rest is a product of exp(-2^k).
    """
    quarter = 1 << 24
    fine = (x & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_0(saturating_shift_left(fine, 5, INT32))
    rest = fine - x
    for power, factor in _EXP_OF_MINUS_POWERS:
        selected = (rest & (1 << (26 + power))) != 0
        result = np.where(selected, doubling_high_multiply(result, factor), result)
    return np.where(x == 0, INT32[1], result)


# exp(-2^k) as Q0.31.
_EXP_OF_MINUS_POWERS: Final = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)
_EXP_OF_MINUS_EIGHTH: Final = 1895147668
_THIRD: Final = 715827883


def _exp_between_minus_quarter_and_0(a: Integers) -> Integers:
    """exp(a) for a in [-1/4, 0), both Q0.31: exp(-1/8) * (1 + x + x^2/2 + x^3/6 + x^4/24), x = a + 1/8."""
    x = a + (1 << 28)
    x2 = doubling_high_multiply(x, x)
    x3 = doubling_high_multiply(x2, x)
    x4 = doubling_high_multiply(x2, x2)
    quarter_x4 = rounding_shift_right(x4, 2)
    tail = rounding_shift_right(doubling_high_multiply(quarter_x4 + x3, _THIRD) + x2, 1)
    return _EXP_OF_MINUS_EIGHTH + doubling_high_multiply(x + tail, _EXP_OF_MINUS_EIGHTH)


def reciprocal_of_one_plus(x: Integers) -> Integers:
    """1 / (1 + x) for x in [0, 1), both Q0.31: three Newton steps. [one_over_one_plus_x_for_x_in_0_1]"""
    half_denominator = (x + INT32[1] + 1) >> 1  # RoundingHalfSum of non-negative numbers
    estimate = 1515870810 + doubling_high_multiply(half_denominator, -1010580540)  # 48/17 - 32/17 d, Q2.29
    for _ in range(3):
        error = (1 << 29) - doubling_high_multiply(half_denominator, estimate)
        step = doubling_high_multiply(estimate, error)  # Q4.27
        estimate = estimate + saturating_shift_left(step, 2, INT32)
    # 1 / (2 half_denominator): Q2.29 read as Q1.30 halves it.
    return saturating_shift_left(estimate, 1, INT32)
