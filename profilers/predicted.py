"""Predictions where a table has no row: what fills it, how far it is off, and what of that is kept in the table.

A prediction is never a row. It is made anew from the rows whenever it is needed, so it cannot outlive them; what is
kept is how far each kind's predictions were off, dated, as calibrations are.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from profilers.lut import Failure, Lut
from profilers.predictor import FEWEST, Prediction, Predictor, choose, fewest, fit
from profilers.steady import SteadyTable
from toolchain.errors import LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Stack

_PREFIX = "predictor of "  # of a metric's name, among the calibrations of a stack


@dataclass(frozen=True)
class KindError:
    """How far a kind's predictions are off, each made without the operator that it is compared with.

    Attributes:
        operators: measured ones.
        error: mean absolute relative error, e.g. 0.03.
        worst: the largest.
    """

    operators: int
    error: float
    worst: float


@dataclass(frozen=True, eq=False)
class Filled:
    """A space's operators with a cost each.

    Attributes:
        values: measured, or predicted where there is no row.
        predicted: the predicted ones among them.
        kinds: of the predicted ones, how far each kind is off.
        error: expected mean relative error of a predicted one; NaN where nothing is predicted.
    """

    values: Mapping[Operator, float]
    predicted: Mapping[Operator, Prediction]
    kinds: Mapping[str, KindError]
    error: float


def measured_operators(table: SteadyTable) -> dict[Operator, float]:
    """The operators among a table's subjects."""
    return {subject: value for subject, value in table.values.items() if isinstance(subject, Operator)}


def failed_operators(lut: Lut, stack: Stack, metric: str) -> set[Operator]:
    """Operators that the target refused: they have no cost, and none is predicted."""
    return {
        row.subject
        for row in lut.rows(stack, metric, subject="operator")
        if isinstance(row.outcome, Failure) and isinstance(row.subject, Operator)
    }


def fill(
    measured: Mapping[Operator, float],
    refused: set[Operator],
    wanted: Iterable[Operator],
    optional: Iterable[Operator] = (),
) -> Filled:
    """Give every wanted operator a cost.

    Args:
        measured: all that is known of the stack, also of other spaces.
        refused: see `failed_operators`.
        wanted: a space's operators.
        optional: get a cost where they can have one: the same operators by other algorithms, which no network needs.

    Raises:
        LutError: one of those wanted can be neither found nor predicted.
    """
    able = Counter(_algorithm(op) for op in measured)
    others = [
        op for op in optional if op in measured or (op not in refused and able[_algorithm(op)] >= FEWEST)
    ]
    wanted = tuple(dict.fromkeys((*wanted, *others)))
    missing = [op for op in wanted if op not in measured]
    known = {op: measured[op] for op in wanted if op in measured}
    if not missing:
        return Filled(known, {}, {}, math.nan)
    bad = [op for op in missing if op in refused]
    if bad:
        raise LutError(
            f"{len(bad)} operators of this space could not be measured, first {bad[0].signature!r}",
            remedy="run `boardfit profile --retry`, or take them out of the space",
        )
    predictor = fit({op: value for op, value in measured.items() if value > 0})
    found = predictor.predict(missing)
    off = [predictor.kind_of(op).error for op in missing]
    kinds = errors_of(predictor, missing)
    values = {op: known[op] if op in known else found[op].value for op in wanted}
    return Filled(values, found, kinds, sum(off) / len(off))


def _algorithm(op: Operator) -> tuple[str, str]:
    return op.kind, op.algorithm


def errors_of(predictor: Predictor, operators: Iterable[Operator]) -> dict[str, KindError]:
    """How far the kinds of these operators are off."""
    models = {model.kind: model for model in map(predictor.kind_of, operators)}
    return {kind: KindError(m.operators, m.error, m.worst) for kind, m in sorted(models.items())}


def next_to_measure(
    candidates: Iterable[Operator], measured: Mapping[Operator, float], share: float, done: float
) -> list[Operator]:
    """What to measure next, when only a share of a space is measured, in several rounds.

    Args:
        candidates: the space's operators that can be measured.
        measured: what is known of them.
        share: of the space, 0 to 1; more where a kind could not be predicted otherwise.
        done: of that share, how much shall be measured after this round, 0 to 1.
    """
    space = tuple(dict.fromkeys(candidates))
    known = {op: measured[op] for op in space if op in measured}
    count = max(math.ceil(done * math.ceil(share * len(space))) - len(known), fewest(space, known))
    return choose(space, known, count) if count > 0 else []


def keep_errors(lut: Lut, stack: Stack, metric: str, kinds: Mapping[str, KindError]) -> None:
    """Append to the table how far predictions are off, unless the newest entry says the same."""
    values = {kind: asdict(found) for kind, found in kinds.items()}
    text = json.dumps({"kinds": values}, sort_keys=True, allow_nan=False)
    newest = lut.calibration(stack, _PREFIX + metric)
    if newest is None or newest.text != text:
        lut.put_calibration(stack, _PREFIX + metric, text)


def kept_errors(lut: Lut, stack: Stack, metric: str) -> dict[str, KindError]:
    """The newest entry of `keep_errors`; empty where there is none.

    Raises:
        LutError: it is not one.
    """
    newest = lut.calibration(stack, _PREFIX + metric)
    return {} if newest is None else parse_errors(newest.text)


def is_predictor(metric: str) -> bool:
    """Whether an entry among a table's calibrations is one of `keep_errors`."""
    return metric.startswith(_PREFIX)


def parse_errors(text: str) -> dict[str, KindError]:
    """What `keep_errors` wrote.

    Raises:
        LutError: it is something else.
    """
    try:
        return {str(kind): KindError(**values) for kind, values in json.loads(text)["kinds"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LutError(
            f"not stored errors of predictions: {error}", remedy="measure again with `boardfit profile`"
        ) from error
