"""Costs of operators that nobody has measured, learned from those that somebody has, per kind and stack.

Two parts, multiplied: a trend (non-negative combination of counts such as MACs and output elements, fitted on relative
errors) and a Gaussian process on the logarithm of what the trend leaves over, which follows the steps that channel
counts, kernels and strides make. The process says how sure it is, and so what to measure next.

Sources: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), equations 2.25, 2.26 (prediction),
4.17 (Matern 5/2) and 5.10, 5.12 (leave-one-out without refitting). Lawson and Hanson, Solving Least Squares Problems
(1974), chapter 23 (non-negative least squares). Adaptive sampling instead of a grid: nn-Meter (MobiSys 2021),
section 4.3, which samples where its regressor errs; here the next sample is the one the process is least sure of.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import LutError
from toolchain.graph.operator import WINDOWED, Operator

Floats = NDArray[np.float64]

FEWEST: Final = 6  # measured operators of a kind; below, the kind is not predicted
# What may differ between operators of one group: everything else is in the group's key.
_LENGTHS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
_NOISES: Final = (0.003, 0.01, 0.03, 0.1)
_ROUNDS: Final = 2  # of improving one length scale after the other
_MOST_FITTED: Final = 250  # operators that choose the length scales; all of them predict
_SEED: Final = 0
# A few operators cannot tell the length scales: until about `_PRIOR` of them are there, these prefer `_USUAL_LENGTH`.
_USUAL_LENGTH: Final = 2.0
_PRIOR: Final = 8.0
_LEAST_SPREAD: Final = 0.1  # prior standard deviation of the logarithm that 2 operators stand for


@dataclass(frozen=True)
class Prediction:
    """A predicted cost.

    Attributes:
        value: in the metric's unit.
        spread: relative standard deviation that the model expects of itself, e.g. 0.04.
    """

    value: float
    spread: float


@dataclass(frozen=True, eq=False)
class KindModel:
    """The model of one kind of operator. Made by `fit`.

    Attributes:
        kind: operator kind.
        operators: how many it was fitted on.
        error: mean absolute relative error of leave-one-out predictions, e.g. 0.03.
        worst: largest of them.
    """

    kind: str
    operators: int
    error: float
    worst: float
    _trend: Floats
    _inputs: Floats
    _centre: Floats
    _scale: Floats
    _lengths: Floats
    _noise: float
    _variance: float
    _weights: Floats
    _factor: Floats

    def predict(self, operators: Sequence[Operator]) -> list[Prediction]:
        """Predicted costs of operators of this kind."""
        if not operators:
            return []
        trend = _counts(operators) @ self._trend
        x = (_features(operators) - self._centre) / self._scale
        cross = _matern(x, self._inputs, self._lengths)
        mean = cross @ self._weights
        solved = np.linalg.solve(self._factor, cross.T)
        left = np.maximum(1.0 + self._noise - np.sum(solved**2, axis=0), 1e-9) * self._variance
        return [
            Prediction(float(t * math.exp(m)), float(math.sqrt(v)))
            for t, m, v in zip(trend, mean, left, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Predictor:
    """Models by kind of operator; see `fit`."""

    kinds: Mapping[str, KindModel]

    def covers(self, operator: Operator) -> bool:
        """True when the operator's kind has been measured often enough."""
        return _group(operator) in self.kinds

    def kind_of(self, operator: Operator) -> KindModel:
        """The model that predicts an operator.

        Raises:
            LutError: its kind was measured less than `FEWEST` times.
        """
        name = _group(operator)
        if name not in self.kinds:
            raise LutError(
                f"operators of kind {name} cannot be predicted: fewer than {FEWEST} are measured",
                remedy="measure more of them with `boardfit profile`",
            )
        return self.kinds[name]

    def predict(self, operators: Iterable[Operator]) -> dict[Operator, Prediction]:
        """Predicted costs of operators; measured ones are predicted too.

        Raises:
            LutError: a kind that was measured less than `FEWEST` times.
        """
        groups: dict[str, list[Operator]] = {}
        for operator in dict.fromkeys(operators):
            groups.setdefault(_group(operator), []).append(operator)
        models = {name: self.kind_of(groups[name][0]) for name in sorted(groups)}
        found: dict[Operator, Prediction] = {}
        for name, members in groups.items():
            found.update(zip(members, models[name].predict(members), strict=True))
        return found


def fit(values: Mapping[Operator, float]) -> Predictor:
    """Learn from measured operators.

    Args:
        values: operator -> cost, positive.

    Returns:
        A predictor of the kinds that have at least `FEWEST` operators.

    Raises:
        LutError: a value that is not positive and finite.
    """
    groups: dict[str, dict[Operator, float]] = {}
    for operator, value in values.items():
        if not 0 < value < math.inf:
            raise LutError(f"{operator.signature!r} costs {value}: it must be positive and finite")
        groups.setdefault(_group(operator), {})[operator] = value
    return Predictor({name: _fit_kind(name, rows) for name, rows in groups.items() if len(rows) >= FEWEST})


def fewest(candidates: Iterable[Operator], values: Mapping[Operator, float]) -> int:
    """How many more of a space's operators must be measured at least, so that all others can be predicted."""
    space = tuple(dict.fromkeys(candidates))
    known = Counter(_group(op) for op in space if op in values)
    sizes = Counter(_group(op) for op in space)
    return sum(max(0, min(FEWEST, size) - known[name]) for name, size in sizes.items())


def choose(candidates: Iterable[Operator], values: Mapping[Operator, float], count: int) -> list[Operator]:
    """Which operators to measure next.

    First those that every kind needs, spread over the kind. Then in turn those that the models of the
    measured ones are least sure of, where one chosen makes its neighbours surer, and random ones.

    Args:
        candidates: the operators of a space.
        values: what is measured already.
        count: how many to choose.

    Returns:
        At most `count` operators without a value, in the order in which to measure them.
    """
    groups: dict[str, list[Operator]] = {}
    for operator in dict.fromkeys(candidates):
        groups.setdefault(_group(operator), []).append(operator)
    predictor = fit({op: value for op, value in values.items() if value > 0})
    queues: list[list[tuple[float, Operator]]] = []
    for name, members in groups.items():
        known = [op for op in members if op in values]
        left = [op for op in members if op not in values]
        if left:
            queues.append(_order(predictor.kinds.get(name), known, left, min(count, len(left))))
    # The largest doubt first, whatever its kind; what a kind needs at all has an infinite one.
    merged = sorted(itertools.chain.from_iterable(queues), key=lambda pair: (-pair[0], pair[1].signature))
    return [operator for _, operator in merged[:count]]


def _order(
    model: KindModel | None, known: Sequence[Operator], left: Sequence[Operator], count: int
) -> list[tuple[float, Operator]]:
    """The next `count` operators of a kind with the doubt about each at the moment it is chosen.

    Every other one is the least sure (greedy maximum variance, by one column of the Cholesky factor for each choice),
    the others are drawn at random: alone, the least sure ones are all at the rim, and most networks live inside.
    """
    everything = [*known, *left]
    raw = _features(everything)
    centre, scale = (model._centre, model._scale) if model else _standard(raw)
    lengths = model._lengths if model else np.full(raw.shape[1], _USUAL_LENGTH)
    noise, variance = (model._noise, model._variance) if model else (0.01, 1.0)
    x = (raw - centre) / scale
    doubt = np.ones(len(everything))
    columns: list[Floats] = []

    def take(index: int) -> None:
        column = _matern(x, x[index : index + 1], lengths)[:, 0]
        for earlier in columns:
            column = column - earlier * earlier[index]
        column = column / math.sqrt(max(doubt[index] + noise, 1e-9))
        columns.append(column)
        np.maximum(doubt - column**2, 0.0, out=doubt)

    for index in range(len(known)):
        take(index)
    chosen: list[tuple[float, Operator]] = []
    open_ = np.ones(len(everything), bool)
    open_[: len(known)] = False
    needed = FEWEST - len(known)
    rng = np.random.default_rng([_SEED, len(known)])
    weight = math.sqrt(variance)
    while len(chosen) < count:
        index = int(np.argmax(np.where(open_, doubt, -1.0)))
        if len(everything) % 2 == (len(known) + len(chosen)) % 2:
            index = int(rng.choice(np.flatnonzero(open_)))
        value = math.inf if len(chosen) < needed else weight * math.sqrt(max(doubt[index], 0.0))
        chosen.append((value, everything[index]))
        open_[index] = False
        take(index)
    return chosen


def _fit_kind(name: str, rows: Mapping[Operator, float]) -> KindModel:
    operators = sorted(rows, key=lambda op: op.signature)
    y = np.array([rows[op] for op in operators])
    counts, raw = _counts(operators), _features(operators)
    trend = _non_negative(counts / y[:, None], np.ones(len(y)))
    base = counts @ trend
    if np.any(base <= 0):  # cannot be with a positive constant column; a fit of zeros would be
        trend[0] = max(trend[0], float(y.min()))
        base = counts @ trend
    left = np.log(y / base)
    centre, scale = _standard(raw)
    x = (raw - centre) / scale
    few = np.arange(len(y))
    if len(y) > _MOST_FITTED:
        few = np.sort(np.random.default_rng(_SEED).choice(len(y), _MOST_FITTED, replace=False))
    lengths, noise = _choose_lengths(x[few], left[few])
    kernel = _matern(x, x, lengths) + noise * np.eye(len(y))
    factor = np.asarray(np.linalg.cholesky(kernel), np.float64)
    inverse = np.linalg.solve(factor.T, np.linalg.solve(factor, np.eye(len(y))))
    weights = inverse @ left
    out = weights / np.diag(inverse)  # left-out residuals, eq. 5.12
    variance = (float(left @ weights) + 2 * _LEAST_SPREAD**2) / (len(y) + 2)
    errors = np.abs(np.expm1(-out))
    return KindModel(
        name, len(y), float(errors.mean()), float(errors.max()), trend, x, centre, scale, lengths, noise,
        variance, weights, factor,
    )  # fmt: skip


def _choose_lengths(x: Floats, y: Floats) -> tuple[Floats, float]:
    """Length scales and noise with the best leave-one-out likelihood (eq. 5.11), one coordinate after the other."""
    dimensions = x.shape[1]
    best = min(
        (
            (_loo_loss(x, y, np.full(dimensions, length), noise), length, noise)
            for length in _LENGTHS
            for noise in _NOISES
        ),
        key=lambda found: found[0],
    )
    loss, lengths, noise = best[0], np.full(dimensions, best[1]), best[2]
    for _ in range(_ROUNDS):
        for dimension in range(dimensions):
            for factor in (0.5, 2.0, 4.0):
                tried = lengths.copy()
                tried[dimension] = min(max(tried[dimension] * factor, 0.25), 64.0)
                found = _loo_loss(x, y, tried, noise)
                if found < loss:
                    loss, lengths = found, tried
    for tried_noise in _NOISES:
        found = _loo_loss(x, y, lengths, tried_noise)
        if found < loss:
            loss, noise = found, tried_noise
    return lengths, noise


def _loo_loss(x: Floats, y: Floats, lengths: Floats, noise: float) -> float:
    """Negative leave-one-out log likelihood, up to constants, with the variance at its best."""
    kernel = _matern(x, x, lengths) + noise * np.eye(len(y))
    try:
        inverse = np.linalg.inv(kernel)
    except np.linalg.LinAlgError:
        return math.inf
    diagonal = np.diag(inverse)
    if np.any(diagonal <= 0):
        return math.inf
    residual = (inverse @ y) / diagonal
    variance = max(float(np.mean(residual**2 * diagonal)), 1e-14)
    prior = float(np.mean(np.log2(lengths / _USUAL_LENGTH) ** 2)) * _PRIOR / len(y) / 2
    return float(0.5 * math.log(variance) - 0.5 * np.mean(np.log(diagonal))) + prior


def _matern(a: Floats, b: Floats, lengths: Floats) -> Floats:
    """Matern 5/2 with a length scale per dimension, variance 1."""
    sa, sb = a / lengths, b / lengths
    squared = np.maximum(np.sum(sa**2, 1)[:, None] + np.sum(sb**2, 1)[None, :] - 2 * sa @ sb.T, 0.0)
    r = np.sqrt(5.0 * squared)
    return np.asarray((1.0 + r + r**2 / 3.0) * np.exp(-r), np.float64)


def _standard(raw: Floats) -> tuple[Floats, Floats]:
    spread = raw.std(axis=0)
    return raw.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)


def _group(operator: Operator) -> str:
    """Operators that share a model: of one kind, dtype, algorithm and kind of convolution (a 1x1 has other kernels)."""
    if operator.algorithm != "direct":
        return f"{operator.kind} {operator.algorithm} {operator.dtype}"
    if operator.kind == "conv2d":
        pointwise = operator.kernel == (1, 1)
        return f"conv2d {'1x1' if pointwise else 'window'} {operator.dtype}"
    return f"{operator.kind} {operator.dtype}"


def _counts(operators: Sequence[Operator]) -> Floats:
    """Columns of the trend: a constant, MACs, MACs with channels padded to 4, elements read and written, constants, and
    elements that windows read one by one, because no word of four holds a pixel's channels.
    """
    rows = []
    for op in operators:
        elements_in = sum(math.prod(shape) for shape in op.inputs)
        elements_out = math.prod(op.output)
        window = math.prod(op.kernel) if op.kind in WINDOWED else 1
        c_in, c_out = op.inputs[0][-1], op.output[-1]
        padded = (-(-c_in // 4) * 4 / c_in) * (-(-c_out // 4) * 4 / c_out) * op.macs
        single = elements_out // c_out * window * c_in if op.kind in WINDOWED and c_in % 4 else 0
        rows.append(
            [1.0, op.macs, padded, elements_in, elements_out, elements_out * window, op.params, single]
        )
    return np.array(rows, np.float64)


def _features(operators: Sequence[Operator]) -> Floats:
    """Where an operator lies among those of its kind: logarithms of its sizes, and what kernels make steps of."""
    rows = []
    for op in operators:
        first = op.inputs[0] if len(op.inputs[0]) == 4 else (1, 1, 1, math.prod(op.inputs[0]))
        last = op.output if len(op.output) == 4 else (1, 1, 1, math.prod(op.output))
        c_in, c_out = first[3], last[3]
        rows.append(
            [
                *(math.log2(size) for size in (last[1], last[2], c_in, c_out)),
                math.log2(max(op.macs, math.prod(op.output))),
                *(math.log2(size) for size in (*op.kernel, *op.stride)),
                *(-(-c // step) * step / c for c in (c_in, c_out) for step in (4, 8, 16)),
                -(-last[2] // 4) * 4 / last[2],
                float(op.padding == "same"),
                float(op.activation != "none"),
                float(len(op.inputs)),
            ]
        )
    return np.array(rows, np.float64)


def _non_negative(a: Floats, b: Floats) -> Floats:
    """argmin |a x - b| with x >= 0, by Lawson and Hanson's active sets; columns are scaled to length 1."""
    norms = np.linalg.norm(a, axis=0)
    norms = np.where(norms > 0, norms, 1.0)
    scaled = a / norms
    n = a.shape[1]
    x, passive = np.zeros(n), np.zeros(n, bool)
    for _ in range(3 * n):
        gradient = scaled.T @ (b - scaled @ x)
        gradient[passive] = -math.inf
        best = int(np.argmax(gradient))
        if gradient[best] <= 1e-10:
            break
        passive[best] = True
        while True:
            trial = np.zeros(n)
            trial[passive] = np.linalg.lstsq(scaled[:, passive], b, rcond=None)[0]
            if np.all(trial[passive] > 0):
                x = trial
                break
            shrink = passive & (trial <= 0)
            step = float(np.min(x[shrink] / np.maximum(x[shrink] - trial[shrink], 1e-300)))
            x = x + step * (trial - x)
            passive &= x > 1e-14
            x[~passive] = 0.0
            if not passive.any():
                break
    return np.asarray(x / norms, np.float64)
