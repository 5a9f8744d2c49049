"""From sums of operators to whole networks: how wrong a sum is, and the correction that makes it less wrong.

A network is not the sum of its operators measured alone: calling a one-operator model costs something each time,
caches are warmer or colder, and a runtime fuses. So predicted = intercept + scale * sum + per_operator * count,
fitted on whole networks measured on the same stack, and judged on networks that the fit has not seen.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolchain.errors import ConfigurationError, LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Stack

Floats = NDArray[np.float64]
NETWORKS_FOR_THREE_TERMS = 4  # fewer networks than this cannot tell an intercept from a slope: scale only
FOLDS = 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """The correction of one metric on one stack, and how well it did on networks it was not fitted on.

    Attributes:
        metric: e.g. `latency_us`; intercept and per_operator are in its unit.
        intercept, scale, per_operator: predicted = intercept + scale * raw_sum + per_operator * n_operators.
        mape: mean absolute error in per cent of the measured value, on held-out networks.
        share_within_10: share (0..1) of held-out networks predicted within 10 %.
        spearman: rank correlation of held-out predictions with measurements; NaN below 3 networks or when all tie.
        n_fit: networks in the final fit.
        n_held_out: networks behind the three figures above. Each was predicted by a fit without it.
        method: how the held-out figures were made, e.g. "10-fold", "leave-one-out", "held-out set", "none".
        evidence: evidence of the measured values (predictions themselves are `Evidence.PREDICTED`).
        stack: fingerprint of the stack that was measured.
    """

    metric: str
    intercept: float
    scale: float
    per_operator: float
    mape: float
    share_within_10: float
    spearman: float
    n_fit: int
    n_held_out: int
    method: str
    evidence: Evidence
    stack: str = ""

    def predict(self, raw_sums: ArrayLike, operator_counts: ArrayLike) -> Floats:
        """Predicted values of whole networks, of the shape of `raw_sums`, in the metric's unit."""
        sums, counts = np.asarray(raw_sums, np.float64), np.asarray(operator_counts, np.float64)
        return np.asarray(self.intercept + self.scale * sums + self.per_operator * counts, np.float64)

    def to_json(self) -> str:
        """One line of JSON; NaN is written as null."""
        values = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}
        return json.dumps(values, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """The calibration that `to_json` wrote.

        Raises:
            LutError: not JSON, unknown or missing fields, or a coefficient that is no finite number.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            for name in ("mape", "share_within_10", "spearman"):
                values[name] = math.nan if values[name] is None else float(values[name])
            for name in ("intercept", "scale", "per_operator"):
                values[name] = float(values[name])
                if not math.isfinite(values[name]):
                    raise ValueError(f"{name} is {values[name]}")
            if set(values) != {f.name for f in fields(cls)}:
                raise ValueError(f"fields are {sorted(values)}")
            values["evidence"] = Evidence(values["evidence"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LutError(
                f"not a stored calibration: {error}", remedy="measure again with `boardfit profile`"
            ) from error


def fit(
    raw_sums: ArrayLike,
    operator_counts: ArrayLike,
    measured: ArrayLike,
    *,
    metric: str = "latency_us",
    evidence: Evidence = Evidence.HOST_WALL,
    stack: Stack | None = None,
    operator_floor: float = 0.0,
    held_out: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
) -> Calibration:
    """Fit the three terms to whole networks: least squares on the relative error, no term below its bound.

    The coefficients come from all networks given; the quality figures come from networks outside the fit: the
    `held_out` set where given, else by cross-validation (leave-one-out up to 20 networks, 10-fold above).
    Below four networks only the scale is fitted. A term stays in only where leaving it out is worse under
    cross-validation, so that few or noisy networks do not buy a term that does not generalise.

    Args:
        raw_sums: sum of operator values per network, in the metric's unit; n positive numbers.
        operator_counts: operators per network; n.
        measured: value of the whole network; n positive numbers.
        metric, evidence, stack: what was measured and how; copied to the result.
        operator_floor: the cheapest operator's raw value. A positive one lets `per_operator` be negative down to
            -scale * operator_floor (the cost of calling a model, counted once per operator in the sum), while no
            operator becomes cheaper than nothing.
        held_out: (raw_sums, operator_counts, measured) of networks that are only for judging.

    Raises:
        ConfigurationError: no network, different lengths, or values that are not positive and finite.
    """
    sums, counts, values = _checked(raw_sums, operator_counts, measured)
    if not 0 <= operator_floor < math.inf:
        raise ConfigurationError(f"operator_floor is {operator_floor}; it must be finite and not negative")
    # The smallest sum per operator bounds the floor, or the columns below would be negative.
    floor = min(operator_floor, float((sums / counts).min()))
    terms = _choose_terms(sums, counts, values, floor)
    coefficients = _solve(sums, counts, values, floor, terms)
    if held_out is not None:
        test = _checked(*held_out)
        predicted, truth, method = _predict(coefficients, test[0], test[1]), test[2], "held-out set"
    elif len(sums) > 1:
        # Choose the terms inside each fold too: a choice made with the judged network would flatter the figures.
        predicted, truth = _cross_validated(sums, counts, values, floor, None), values
        method = "leave-one-out" if _folds(len(sums)) == len(sums) else f"{_folds(len(sums))}-fold"
    else:
        predicted = truth = np.empty(0)
        method = "none"
    return Calibration(
        metric=metric,
        intercept=float(coefficients[0]),
        scale=float(coefficients[1]),
        per_operator=float(coefficients[2]),
        mape=mean_absolute_percentage_error(predicted, truth),
        share_within_10=share_within(predicted, truth, 0.10),
        spearman=spearman(predicted, truth),
        n_fit=len(sums),
        n_held_out=len(truth),
        method=method,
        evidence=evidence,
        stack=stack.fingerprint if stack else "",
    )


class CalibrationStore(Protocol):
    """What `calibrate` needs of a LUT (profilers.lut.Lut)."""

    def put_calibration(self, stack: Stack, metric: str, text: str) -> None:
        """Keep the JSON of a calibration."""
        ...


def calibrate(
    lut: CalibrationStore,
    stack: Stack,
    operator_values: Mapping[Operator, float],
    networks: Sequence[tuple[str, Sequence[Operator], float]],
    *,
    metric: str = "latency_us",
    evidence: Evidence = Evidence.HOST_WALL,
) -> Calibration:
    """Fit a metric's calibration from measured networks, and keep it in the LUT.

    Args:
        lut: where the result is put.
        stack: the stack on which operators and networks were both measured.
        operator_values: value of every operator in the networks, in the metric's unit.
        networks: (name, operators in order, measured value of the whole network).

    Raises:
        LutError: a network uses an operator that was not measured.
        ConfigurationError: no network, or values that are not positive.
    """
    missing = {op for _, ops, _ in networks for op in ops} - set(operator_values)
    if missing:
        names = [name for name, ops, _ in networks if missing.intersection(ops)]
        raise LutError(
            f"cannot calibrate {metric}: {len(missing)} operators of {', '.join(names[:3])} have no row, "
            f"first {min(op.signature for op in missing)!r}",
            remedy="run `boardfit profile`",
        )
    used = {op for _, ops, _ in networks for op in ops}
    result = fit(
        [sum(operator_values[op] for op in ops) for _, ops, _ in networks],
        [len(ops) for _, ops, _ in networks],
        [value for _, _, value in networks],
        metric=metric,
        evidence=evidence,
        stack=stack,
        operator_floor=min((operator_values[op] for op in used), default=0.0),
    )
    lut.put_calibration(stack, metric, result.to_json())
    return result


def keep_constant(
    lut: CalibrationStore,
    stack: Stack,
    constant: float,
    operator_values: Mapping[Operator, float],
    networks: Sequence[tuple[str, Sequence[Operator], float]],
    *,
    metric: str,
    evidence: Evidence,
) -> Calibration:
    """The correction on a board, where nothing is fitted: each operator alone costs its own work and once the
    runtime's constant, a network costs the work of all and once the constant. Kept in the LUT.

    Args:
        lut, stack, operator_values, networks, metric, evidence: as `calibrate`; the networks only judge.
        constant: what a run costs beside its operators, in the metric's unit, as it was measured.
    """
    constant = max(0.0, constant)
    predicted = [
        constant + sum(max(0.0, operator_values[op] - constant) for op in operators)
        for _, operators, _ in networks
    ]
    measured = [value for _, _, value in networks]
    result = Calibration(
        metric=metric,
        intercept=constant,
        scale=1.0,
        per_operator=-constant,
        mape=mean_absolute_percentage_error(predicted, measured),
        share_within_10=share_within(predicted, measured, 0.10),
        spearman=spearman(predicted, measured),
        n_fit=0,
        n_held_out=len(measured),
        method="measured constant",
        evidence=evidence,
        stack=stack.fingerprint,
    )
    lut.put_calibration(stack, metric, result.to_json())
    return result


def mean_absolute_percentage_error(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Mean of |predicted - measured| / measured in per cent; NaN without networks."""
    p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    return float(100 * np.mean(np.abs(p - m) / m)) if len(m) else math.nan


def share_within(predicted: ArrayLike, measured: ArrayLike, tolerance: float) -> float:
    """Share (0..1) of networks with |predicted - measured| <= tolerance * measured; NaN without networks."""
    p, m = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    return float(np.mean(np.abs(p - m) <= tolerance * m)) if len(m) else math.nan


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation; ties get the average of their ranks. NaN below 3 values or when one side ties."""
    x, y = average_ranks(a), average_ranks(b)
    if len(x) != len(y):
        raise ConfigurationError(f"{len(x)} values against {len(y)}")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / math.sqrt((x @ x) * (y @ y)))


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1, with ties sharing their mean rank."""
    array = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks


Terms = tuple[bool, bool, bool]  # intercept, scale, per_operator
_ALL_TERMS: tuple[Terms, ...] = (
    (False, True, False),
    (True, True, False),
    (False, True, True),
    (True, True, True),
)


def _checked(
    raw_sums: ArrayLike, operator_counts: ArrayLike, measured: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    arrays = tuple(np.asarray(a, np.float64).ravel() for a in (raw_sums, operator_counts, measured))
    if len({len(a) for a in arrays}) != 1 or not len(arrays[0]):
        raise ConfigurationError(
            f"calibration needs as many sums as counts and measured values, and at least one; "
            f"got {', '.join(str(len(a)) for a in arrays)}"
        )
    for name, array in zip(("sums", "counts", "measured values"), arrays, strict=True):
        if not (np.isfinite(array).all() and (array > 0).all()):
            raise ConfigurationError(
                f"calibration needs positive finite {name}; got {array.min()}..{array.max()}"
            )
    return arrays[0], arrays[1], arrays[2]


def _solve(sums: Floats, counts: Floats, values: Floats, floor: float, terms: Terms) -> Floats:
    """Non-negative least squares on relative errors, exact for three unknowns: the best of all sub-sets.

    With the columns (1, sum - floor * count, count), non-negative coefficients (a, b, c) mean
    per_operator = c - b * floor >= -b * floor.
    """
    columns = np.stack([np.ones_like(sums), sums - floor * counts, counts], 1) / values[:, None]
    if not terms[2]:
        columns[:, 1] = sums / values
    scales = np.abs(columns).max(0)
    scales[scales == 0] = 1.0
    best, best_error = np.zeros(3), math.inf
    for active in itertools.product((False, True), repeat=3):
        chosen = [i for i in range(3) if active[i] and terms[i]]
        if not chosen:
            continue
        solution, *_ = np.linalg.lstsq(columns[:, chosen] / scales[chosen], np.ones_like(sums), rcond=None)
        if (solution < 0).any():
            continue
        candidate = np.zeros(3)
        candidate[chosen] = solution / scales[chosen]
        error = float(((columns @ candidate - 1) ** 2).sum())
        if error < best_error - 1e-12:
            best, best_error = candidate, error
    if terms[2]:
        best[2] -= best[1] * floor
    return best


def _predict(coefficients: Floats, sums: Floats, counts: Floats) -> Floats:
    predicted: Floats = coefficients[0] + coefficients[1] * sums + coefficients[2] * counts
    return predicted


def _choose_terms(sums: Floats, counts: Floats, values: Floats, floor: float) -> Terms:
    """The terms that predict held-out networks best; fewer terms win within 2 % of the best error."""
    if len(sums) < NETWORKS_FOR_THREE_TERMS:
        return _ALL_TERMS[0]
    errors = []
    for terms in _ALL_TERMS:
        predicted = _cross_validated(sums, counts, values, floor, terms)
        errors.append(math.sqrt(float(np.mean((predicted / values - 1) ** 2))))
    limit = 1.02 * min(errors) + 1e-9
    return next(terms for terms, error in zip(_ALL_TERMS, errors, strict=True) if error <= limit)


def _folds(networks: int) -> int:
    return networks if networks <= 20 else FOLDS


def _cross_validated(
    sums: Floats, counts: Floats, values: Floats, floor: float, terms: Terms | None
) -> Floats:
    """Each network predicted by a fit without its fold; `terms=None` chooses the terms within each fold."""
    predicted = np.empty_like(values)
    # Networks often come sorted by size; dealing them out by size keeps every fold's range alike.
    fold_of = np.empty(len(values), np.intp)
    fold_of[np.argsort(values, kind="stable")] = np.arange(len(values)) % _folds(len(values))
    for fold in range(_folds(len(values))):
        test = fold_of == fold
        train = (sums[~test], counts[~test], values[~test])
        low = min(floor, float((train[0] / train[1]).min()))
        chosen = _choose_terms(*train, low) if terms is None else terms
        coefficients = _solve(*train, low, chosen)
        predicted[test] = _predict(coefficients, sums[test], counts[test])
    return predicted
