"""How rows of a lookup table are shown. It imports the profilers, so `boardfit lut` imports it when it is asked."""

from __future__ import annotations

from typing import Any

from profilers.calibrate import Calibration
from profilers.correct import Correction, is_correction
from profilers.lut import Row
from profilers.lut_io import Difference
from profilers.lut_rows import CalibrationRow, subject_text
from profilers.predicted import is_predictor, parse_errors
from toolchain.cli.show.loop import correction_text
from toolchain.cli.show.measuring import calibration_text, kind_text
from toolchain.errors import LutError
from toolchain.measurement import Measurement
from toolchain.units import format_value

COLUMNS = ("stack", "operator or network", "metric", "value|", "evidence", "notes")


def calibration_line(row: CalibrationRow) -> str:
    """What a calibration, a predictor or a correction of the table says."""
    when = row.created_at[:19]
    try:
        if is_predictor(row.metric):
            kinds = parse_errors(row.text).items()
            said = "; ".join(kind_text(kind, error) for kind, error in kinds)
            return f"predictor of {when}: {row.metric} {said}"
        if is_correction(row.metric):
            return f"correction of {when}: {row.metric} {correction_text(Correction.from_json(row.text))}"
        return f"calibration of {when}: {calibration_text(Calibration.from_json(row.text))}"
    except LutError:  # another program's: as it stands
        return f"calibration of {when}: {row.metric}: {row.text}"


def difference_json(difference: Difference) -> dict[str, Any]:
    """Both values of a row on which two tables differ."""

    def value(side: object) -> float | None:
        return side.value if isinstance(side, Measurement) else None

    return {
        "stack": difference.stack.fingerprint,
        "subject": subject_text(difference.subject),
        "metric": difference.metric,
        "left": value(difference.left),
        "right": value(difference.right),
        "ratio": difference.ratio,
        "note": difference.note,
    }


def row_cells(row: Row) -> tuple[str, ...]:
    """A row under `COLUMNS`."""
    fingerprint = row.stack.fingerprint[:8]
    outcome = row.outcome
    if not isinstance(outcome, Measurement):
        return fingerprint, subject_text(row.subject), row.metric, "failed", "", outcome.reason
    value = format_value(row.metric, outcome.value)
    notes = "unstable" if outcome.unstable else ""
    return fingerprint, subject_text(row.subject), row.metric, value, outcome.evidence.value, notes


def row_json(row: Row) -> dict[str, Any]:
    """A row for --json."""
    outcome = row.outcome
    values: dict[str, Any] = {
        "stack": row.stack.fingerprint,
        "subject": subject_text(row.subject),
        "metric": row.metric,
    }
    if isinstance(outcome, Measurement):
        return values | {
            "value": outcome.value,
            "evidence": outcome.evidence.value,
            "unstable": outcome.unstable,
            "taken_at": outcome.taken_at,
            "details": dict(outcome.details),
        }
    return values | {"failed": True, "reason": outcome.reason, "remedy": outcome.remedy}
