"""What whole networks near the optimum say about a cost model: one factor on top of the calibration.

The calibration is fitted on random networks; a search returns networks that are all of one kind, the best under a
budget, and there a model can be off by more than its error on random ones. So the best candidates are measured, and
sums are multiplied by one factor:

    factor = exp(shrinkage * mean),   mean = weighted mean of log(measured / predicted)

Networks count by how near their cost is to that of the winner (`WIDTH`). The mean is shrunk by how well it is known,
shrinkage = mean^2 / (mean^2 + standard error^2): a deviation of a few candidates that is no larger than what the model
errs on single networks anyway is mostly noise, one that all share is not. All networks measured so far take part, so a
factor moves less and less, and cannot swing from round to round.

Each correction is kept in the table, dated, among the calibrations of its stack; nothing is overwritten (docs/lut.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import numpy as np

from profilers.calibrate import Calibration
from profilers.lut import CalibrationRow, Lut
from toolchain.errors import ConfigurationError, LutError
from toolchain.measurement import Stack

WIDTH: Final = 0.5  # of the weights, in the logarithm of the cost: a network 1.65 times as dear counts 0.6
UNKNOWN_SPREAD: Final = 0.05  # of single networks about a model that nothing has judged yet
_PREFIX: Final = "correction of "  # of a metric's name, among the calibrations of a stack


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole network that was measured.

    Attributes:
        name: as people read it.
        key: `Network.fingerprint`, of its row in the table.
        predicted: by the cost model without any correction, in the metric's unit.
        measured: at the machine's best known speed, in the metric's unit.
    """

    name: str
    key: str
    predicted: float
    measured: float

    @property
    def log_ratio(self) -> float:
        return math.log(self.measured / self.predicted)


@dataclass(frozen=True, slots=True)
class Correction:
    """One correction of one metric on one stack for one space.

    Attributes:
        metric: e.g. `cycles`. stack: fingerprint of what was measured on.
        scope: fingerprint of the space's operators; a correction says nothing about another space.
        calibration: fingerprint of the calibration that it stands on; "" where there is none.
        round: of the loop that made it, from 1.
        factor: what predictions are multiplied by. before: the factor that was in force until then.
        mean: weighted mean of log(measured / predicted). shrinkage: 0 to 1, how much of it is believed.
        spread: standard deviation of single networks about the mean, as a share.
        at: predicted cost of the winner, about which networks are weighted, in the metric's unit.
        error_before_percent, error_after_percent: mean absolute error of the weighted networks with the factor
            before, and with this one.
        networks: all that it rests on.
    """

    metric: str
    stack: str
    scope: str
    calibration: str
    round: int
    factor: float
    before: float
    mean: float
    shrinkage: float
    spread: float
    at: float
    error_before_percent: float
    error_after_percent: float
    networks: tuple[Candidate, ...]

    def to_json(self) -> str:
        """One line of JSON; the same correction gives the same text."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Correction:
        """The correction that `to_json` wrote.

        Raises:
            LutError: it is none.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if set(values) != {f.name for f in fields(cls)}:
                raise ValueError(f"fields are {sorted(values)}")
            networks = tuple(Candidate(**one) for one in values.pop("networks"))
            found = cls(**values, networks=networks)
            if not (math.isfinite(found.factor) and found.factor > 0):
                raise ValueError(f"factor is {found.factor}")
            return found
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LutError(
                f"not a stored correction: {error}", remedy="measure again with `boardfit run`"
            ) from error

    def applied(self, calibration: Calibration) -> Calibration:
        """The calibration with the factor on all its terms."""
        return replace(
            calibration,
            intercept=calibration.intercept * self.factor,
            scale=calibration.scale * self.factor,
            per_operator=calibration.per_operator * self.factor,
        )


def fit_correction(
    networks: Sequence[Candidate],
    *,
    metric: str,
    stack: Stack,
    scope: str,
    at: float,
    calibration: str = "",
    usual_error: float | None = None,
    round: int = 1,
    before: float = 1.0,
) -> Correction:
    """The factor that networks measured near the optimum ask for.

    Args:
        networks: at least one; predictions without any correction.
        metric, stack, scope, calibration, round: copied to the result.
        at: predicted cost of the winner, without correction, in the metric's unit.
        usual_error: what the calibrated model errs on networks that it was not fitted on, as a share; None where that
            is not known. It counts as much as one more network in the estimate of the spread.
        before: the factor that is in force now.

    Raises:
        ConfigurationError: no network, or a cost that is not positive and finite.
    """
    costs = [at, *(cost for n in networks for cost in (n.predicted, n.measured))]
    if not networks or not all(math.isfinite(cost) and cost > 0 for cost in costs):
        raise ConfigurationError(f"a correction of {metric} needs networks with positive costs, got {costs}")
    ratios = np.array([n.log_ratio for n in networks])
    distances = np.array([math.log(n.predicted / at) for n in networks]) / WIDTH
    weights = np.exp(-0.5 * distances**2)
    if weights.sum() < 1e-9:  # all very far away: better than nothing, equally
        weights = np.ones(len(networks))
    weights /= weights.sum()
    mean = float(weights @ ratios)
    effective = 1.0 / float(weights @ weights)
    prior = usual_error if usual_error is not None and math.isfinite(usual_error) else UNKNOWN_SPREAD
    squares = effective * float(weights @ (ratios - mean) ** 2)
    spread = math.sqrt((prior**2 + squares) / effective)
    error = spread**2 / effective
    shrinkage = mean**2 / (mean**2 + error) if mean else 0.0
    factor = math.exp(shrinkage * mean)

    def percent(used: float) -> float:
        return float(100 * weights @ np.abs(used * np.exp(-ratios) - 1))

    return Correction(
        metric=metric,
        stack=stack.fingerprint,
        scope=scope,
        calibration=calibration,
        round=round,
        factor=factor,
        before=before,
        mean=mean,
        shrinkage=shrinkage,
        spread=spread,
        at=at,
        error_before_percent=percent(before),
        error_after_percent=percent(factor),
        networks=tuple(sorted(networks, key=lambda n: n.key)),
    )


def correction_row(stack: Stack, correction: Correction, created_at: str) -> CalibrationRow:
    """How a correction stands in a table: appended (`Lut.absorb`), and once however often it is offered."""
    return CalibrationRow(stack, _PREFIX + correction.metric, correction.to_json(), created_at)


def correction_history(lut: Lut, stack: Stack | None, metric: str) -> list[tuple[str, Correction]]:
    """(time, correction) of a metric, oldest first.

    Args:
        stack: None means all stacks.

    Raises:
        LutError: an entry is no correction.
    """
    rows = lut.calibration_history(stack, _PREFIX + metric)
    return [(row.created_at, Correction.from_json(row.text)) for row in rows]


def kept_correction(lut: Lut, stack: Stack, metric: str, scope: str) -> Correction | None:
    """The newest correction of a metric for a space, or None.

    Raises:
        LutError: an entry is no correction.
    """
    history = correction_history(lut, stack, metric)
    return next((found for _, found in reversed(history) if found.scope == scope), None)


def is_correction(metric: str) -> bool:
    """Whether an entry among a table's calibrations is a correction."""
    return metric.startswith(_PREFIX)
