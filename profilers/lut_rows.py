"""What a row of a LUT is, how it is written to columns and read back, and which of two rows stands.

No SQL here: `profilers.lut` keeps the columns in SQLite, `profilers.lut_io` in CSV, JSON and Parquet.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from toolchain.errors import GraphError, LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Evidence, Measurement, Stack

SubjectKind = Literal["operator", "network"]


@dataclass(frozen=True)
class Network:
    """A whole network that was measured, e.g. to calibrate sums of operators.

    Attributes:
        name: for people; part of the identity.
        operators: in execution order.
    """

    name: str
    operators: tuple[Operator, ...]

    @property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over name and signatures: the key of its rows."""
        text = json.dumps([self.name, *(op.signature for op in self.operators)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


Subject = Operator | Network


@dataclass(frozen=True)
class Failure:
    """A metric that could not be measured. It is remembered, so that the next run does not try again unasked.

    Attributes:
        metric: name with unit.
        reason: what happened.
        remedy: what the user can do about it.
        taken_at: ISO 8601 time in UTC; empty means now.
    """

    metric: str
    reason: str
    remedy: str = ""
    taken_at: str = ""


@dataclass(frozen=True)
class Row:
    """One row: a subject on a stack, with what came out for one metric."""

    stack: Stack
    subject: Subject
    outcome: Measurement | Failure

    @property
    def metric(self) -> str:
        return self.outcome.metric

    @property
    def failed(self) -> bool:
        return isinstance(self.outcome, Failure)

    @property
    def unstable(self) -> bool:
        return isinstance(self.outcome, Measurement) and self.outcome.unstable

    @property
    def measurement(self) -> Measurement:
        """The measurement.

        Raises:
            LutError: the row is a failure; the message has its reason.
        """
        if isinstance(self.outcome, Failure):
            raise LutError(
                f"{self.metric} of {subject_text(self.subject)} could not be measured: {self.outcome.reason}",
                remedy=self.outcome.remedy or "profile again with failures retried",
            )
        return self.outcome

    @property
    def value(self) -> float:
        """The measured value in the metric's unit; LutError for a failure."""
        return self.measurement.value


@dataclass(frozen=True)
class CalibrationRow:
    """One result of a calibration of a metric on a stack, as stored. Appended, never replaced.

    Attributes:
        text: a JSON object without NaN and infinities (`profilers.calibrate` writes and reads it).
        created_at: ISO 8601 time in UTC; empty means now.
    """

    stack: Stack
    metric: str
    text: str
    created_at: str = ""


@dataclass(frozen=True)
class Conflict:
    """Two stable values for one row; the newer one stands."""

    stack: Stack
    subject: Subject
    metric: str
    stands: float
    dropped: float


@dataclass(frozen=True)
class MergeReport:
    """What became of rows that were offered to a LUT.

    Attributes:
        added: rows that were new.
        replaced: rows that took the place of a worse or older one.
        kept: rows that changed nothing, because what was there is the same, newer or better.
        conflicts: pairs of differing stable values among `replaced` and `kept`.
        calibrations: calibration results that were new.
    """

    added: int
    replaced: int
    kept: int
    conflicts: tuple[Conflict, ...] = ()
    calibrations: int = 0


@dataclass(frozen=True)
class Table:
    """The usable values of one metric on one stack, all of one evidence.

    Attributes:
        evidence: of every value; None when the table is empty.
        values: operator -> value in the metric's unit; failures are not in it.
        unstable: operators whose value did not meet the measuring protocol's gate.
    """

    stack: Stack
    metric: str
    evidence: Evidence | None
    values: Mapping[Operator, float]
    unstable: frozenset[Operator]


class Record(NamedTuple):
    """A row as the file has it; the order of the columns is the schema's."""

    stack: str
    subject: str
    key: str
    metric: str
    status: str
    value: float | None
    evidence: str | None
    unstable: int
    details: str
    reason: str
    remedy: str
    taken_at: str
    samples: bytes
    checksum: int


def now() -> str:
    """The present time as rows have it: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def subject_text(subject: Subject) -> str:
    """A subject for people: an operator's signature or a network's name."""
    return subject.signature if isinstance(subject, Operator) else f"network {subject.name!r}"


def rank(record: Record) -> tuple[Any, ...]:
    """The order that decides between two rows of one key: the greater one stands.

    A failure is below an unstable measurement, which is below a stable one; then the newer one stands; the
    content breaks ties. A total order on contents makes merging commutative, associative and idempotent.
    """
    level = 0 if record.status == "failed" else 1 if record.unstable else 2
    content = (record.value or 0.0, record.samples, record.details, record.reason, record.remedy)
    return (level, record.taken_at, *content)


def stands(offered: Record, there: Record) -> bool:
    """True when an offered row takes the place of the one that is there.

    Raises:
        LutError: they are of different evidence.
    """
    if None not in (there.evidence, offered.evidence) and there.evidence != offered.evidence:
        raise LutError(
            f"{offered.metric} of {offered.key!r}: the stack {offered.stack} has it as {there.evidence}, "
            f"the new row is {offered.evidence}",
            remedy="numbers of different evidence belong to different stacks: add what differs to the stack",
        )
    return rank(offered) > rank(there)


def in_conflict(one: Record, other: Record) -> bool:
    """True for two stable measurements of different values."""
    stable = all(r.status == "ok" and not r.unstable for r in (one, other))
    return stable and one.value != other.value


def conflict_of(row: Row, winner: Record, loser: Record) -> Conflict:
    """The note about two stable values, for a report."""
    return Conflict(row.stack, row.subject, row.metric, float(winner.value or 0), float(loser.value or 0))


def encode(row: Row) -> Record:
    """The columns of a row.

    Raises:
        LutError: a value that is NaN, infinite or negative, text that is no Unicode, a time that is none.
    """
    outcome, subject = row.outcome, subject_key(row.subject)
    what = f"{outcome.metric} of {subject_text(row.subject)}"
    if not outcome.metric:
        raise LutError(
            f"a row of {subject_text(row.subject)} has no metric", remedy="name it, e.g. latency_us"
        )
    value: float | None = None
    evidence: str | None = None
    samples, details, reason, remedy = b"", "{}", "", ""
    unstable = 0
    if isinstance(outcome, Failure):
        reason, remedy = _text(outcome.reason, what), _text(outcome.remedy, what)
    else:
        # 0.0 is added because SQLite does not keep the sign of a zero.
        value = _finite(outcome.value, what) + 0.0
        if value < 0:
            raise LutError(f"{what} is {value}; a cost cannot be negative", remedy="measure it again")
        evidence, unstable = Evidence(outcome.evidence).value, int(outcome.unstable)
        numbers = [_finite(s, f"a sample of {what}") for s in outcome.samples]
        samples = struct.pack(f"<{len(numbers)}d", *numbers)
        for text in (*outcome.details.keys(), *outcome.details.values()):
            _text(text, f"details of {what}")
        details = json.dumps(dict(outcome.details), sort_keys=True)
    record = Record(
        row.stack.fingerprint, subject[0], _text(subject[1], what), _text(outcome.metric, what),
        "failed" if value is None else "ok", value, evidence, unstable, details, reason, remedy,
        _time(outcome.taken_at, what), samples, 0,
    )  # fmt: skip
    return record._replace(checksum=checksum(record[:-1]))


def decode_outcome(record: Record) -> Measurement | Failure:
    """The measurement or failure that stands in a row's columns.

    Raises:
        LutError: evidence that this version does not know.
    """
    if record.value is None or record.evidence is None:
        return Failure(record.metric, record.reason, record.remedy, record.taken_at)
    if record.evidence not in list(Evidence):
        raise LutError(
            f"this version of boardfit does not know the evidence {record.evidence!r}",
            remedy="update boardfit",
        )
    return Measurement(
        metric=record.metric,
        value=record.value,
        evidence=Evidence(record.evidence),
        samples=struct.unpack(f"<{len(record.samples) // 8}d", record.samples),
        unstable=bool(record.unstable),
        details=json.loads(record.details),
        taken_at=record.taken_at,
    )


def encode_calibration(row: CalibrationRow) -> tuple[str, str, str, str, int]:
    """The columns of a calibration.

    Raises:
        LutError: the text is not a JSON object, or has NaN or infinities in it.
    """
    what = f"calibration of {row.metric}"
    try:
        valid = isinstance(json.loads(row.text, parse_constant=_refuse_constant), dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise LutError(f"{what} is not JSON: {error}", remedy="store finite numbers and text") from error
    if not valid or not row.metric:
        raise LutError(f"{what} needs a metric and a JSON object, got {row.text[:40]!r}")
    values = (
        row.stack.fingerprint,
        _text(row.metric, what),
        _time(row.created_at, what),
        _text(row.text, what),
    )
    return (*values, checksum(values))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a finite number")


def encode_stack(stack: Stack) -> tuple[str, str]:
    """The columns of a stack.

    Raises:
        LutError: its fields are not sorted, unique Unicode text.
    """
    for text in (part for pair in stack.fields for part in pair):
        _text(text, "a field of the stack")
    if Stack.of(stack.as_dict()) != stack:
        raise LutError(
            f"the stack's fields are not sorted, unique text: {stack.fields!r}", remedy="use Stack.of"
        )
    return stack.fingerprint, json.dumps(stack.as_dict())


def encode_network(network: Network) -> tuple[str, str, str]:
    """The columns of a network."""
    signatures = json.dumps([op.signature for op in network.operators])
    return network.fingerprint, _text(network.name, "the name of a network"), signatures


def subject_key(subject: Subject) -> tuple[SubjectKind, str]:
    """The columns `subject` and `key`."""
    if isinstance(subject, Operator):
        return "operator", subject.signature
    return "network", subject.fingerprint


@lru_cache(maxsize=65536)
def parse_operator(signature: str) -> Operator:
    """The operator of a signature.

    Raises:
        LutError: this version does not know it.
    """
    try:
        return Operator.parse(signature)
    except GraphError as error:
        raise LutError(
            f"this version of boardfit does not know the operator {signature!r}", remedy="update boardfit"
        ) from error


def checksum(columns: Sequence[object]) -> int:
    """CRC-32 over columns, in both tables all but the last, which holds it.

    A flipped bit on a disk must not become a cost. `str` of a float is exact and the same everywhere.
    """
    parts = (v if isinstance(v, bytes) else f"{type(v).__name__} {v}".encode() for v in columns)
    return zlib.crc32(b"\0".join(parts))


def _finite(value: float, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise LutError(f"{what} is {value!r}, which is not a number", remedy="measure it again") from None
    if not math.isfinite(number):
        raise LutError(f"{what} is {number}; a row needs a finite number", remedy="measure it again")
    return number


def _text(text: str, what: str) -> str:
    if not isinstance(text, str):
        raise LutError(f"{what}: {text!r} must be text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LutError(f"{what}: {text!r} is not valid Unicode text: {error.reason}") from error
    return text


def _time(text: str, what: str) -> str:
    """Any ISO 8601 time as UTC with microseconds, so that text sorts as time; empty means now."""
    if not text:
        return now()
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise LutError(
            f"{what}: {text!r} is not a time in ISO 8601", remedy="write 2026-01-31T12:00:00Z"
        ) from error
    return moment.isoformat(timespec="microseconds")
