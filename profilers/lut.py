"""The lookup table (LUT): what was measured, on which stack, with its evidence. One SQLite file.

A row belongs to (stack, subject, metric), where the subject is one operator or one whole network. It is a
measurement or a failure with its reason. Whatever is put, imported or merged goes through one rule
(`lut_rows.rank`), so that the order of writers, runs and merges never matters. Schema, rules and file formats:
docs/lut.md.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from profilers.lut_file import connect, corrupt, prepare, translated
from profilers.lut_rows import (
    CalibrationRow,
    Failure,
    MergeReport,
    Network,
    Record,
    Row,
    Subject,
    SubjectKind,
    Table,
    checksum,
    conflict_of,
    decode_outcome,
    encode,
    encode_calibration,
    encode_network,
    encode_stack,
    in_conflict,
    parse_operator,
    stands,
    subject_key,
)
from toolchain.errors import LutError
from toolchain.graph.operator import Operator
from toolchain.measurement import Measurement, Stack

__all__ = [
    "CalibrationRow", "Failure", "Lut", "MergeReport", "Network", "Row", "Subject", "SubjectKind", "Table",
]  # fmt: skip


class Lut:
    """A LUT in one SQLite file. Several processes may write at once; one object serves one thread.

    WAL lets readers and a writer work side by side. `synchronous` is FULL: an fsync per commit costs about a
    millisecond, the measurement behind a row costs seconds, and a committed row then survives a power cut
    too (NORMAL survives a killed process only).

    Use as a context manager, or call `close`.
    """

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        """Not for callers: use `open` or `in_memory`."""
        self._connection = connection
        self.name = name
        self._stacks: dict[str, Stack] = {}
        self._networks: dict[str, Network] = {}

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        create: bool = True,
        read_only: bool = False,
        busy_seconds: float = 30.0,
    ) -> Lut:
        """Open a LUT, or make a new one.

        Args:
            path: the file; its folder must exist.
            create: make the file where there is none.
            read_only: never change the file (implies `create=False`); works on read-only media.
            busy_seconds: how long to wait for other writers.

        Raises:
            LutError: not a LUT, corrupt, of another schema version, missing, or locked for too long.
            BoardfitError: the file cannot be written.
        """
        path = Path(path)
        if not path.exists() and (read_only or not create):
            raise LutError(f"there is no LUT at {path}", remedy="run `boardfit profile`, or check the path")
        connection = connect(path, create=create, read_only=read_only, busy_seconds=busy_seconds)
        return cls(connection, str(path))

    @classmethod
    def in_memory(cls) -> Lut:
        """An empty LUT that is never written to a disk."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        prepare(connection, ":memory:", read_only=False, busy_seconds=0.0)
        return cls(connection, ":memory:")

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._connection.close()

    def __enter__(self) -> Lut:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of rows, failures included."""
        with translated(self.name):
            return int(self._connection.execute("SELECT count(*) FROM rows").fetchone()[0])

    # Writing

    def put(self, stack: Stack, operator: Operator, measurement: Measurement) -> bool:
        """Store one measurement; committed when this returns.

        An empty `taken_at` becomes the present time.

        Returns:
            False when the row that was there is better or newer and stays (docs/lut.md, "Which row stands").

        Raises:
            LutError: a value that is NaN, infinite or negative; other evidence than the row that is there.
            BoardfitError: the disk is full. Nothing that was committed before is lost.
        """
        return self.put_many([Row(stack, operator, measurement)]) == 1

    def put_failure(
        self, stack: Stack, operator: Operator, metric: str, reason: str, remedy: str = ""
    ) -> bool:
        """Store that a metric could not be measured. It never takes the place of a measurement.

        Returns, Raises: as `put`.
        """
        return self.put_many([Row(stack, operator, Failure(metric, reason, remedy))]) == 1

    def put_network(self, stack: Stack, network: Network, measurement: Measurement) -> bool:
        """Store one measurement of a whole network. Returns, Raises: as `put`."""
        return self.put_many([Row(stack, network, measurement)]) == 1

    def put_many(self, rows: Iterable[Row]) -> int:
        """Store rows in one transaction: all of them or none. Returns how many were added or replaced.

        Raises: as `put`; nothing is stored then.
        """
        report = self.absorb(rows)
        return report.added + report.replaced

    def put_calibration(self, stack: Stack, metric: str, text: str) -> None:
        """Append one calibration result, dated now. What was there stays, as history.

        Args:
            text: a JSON object without NaN and infinities; kept as it is.

        Raises:
            LutError: the text is not such an object.
        """
        self.absorb((), [CalibrationRow(stack, metric, text)])

    def absorb(self, rows: Iterable[Row], calibrations: Iterable[CalibrationRow] = ()) -> MergeReport:
        """Offer rows and calibrations in one transaction: all or nothing. `put`, imports and merges end here.

        Raises: as `put`.
        """
        # Encoded before the transaction begins: `rows` may be a slow generator, and a wrong value must not
        # hold the lock.
        encoded = [(encode(row), row) for row in rows]
        results = [(encode_calibration(c), c.stack) for c in calibrations]
        added = replaced = kept = fresh = 0
        conflicts = []
        with self._transaction():
            execute = self._connection.execute
            for stack in dict.fromkeys([*(row.stack for _, row in encoded), *(s for _, s in results)]):
                execute("INSERT OR IGNORE INTO stacks VALUES (?, ?)", encode_stack(stack))
            for network in dict.fromkeys(r.subject for _, r in encoded if isinstance(r.subject, Network)):
                execute("INSERT OR IGNORE INTO networks VALUES (?, ?, ?)", encode_network(network))
            for record, row in encoded:
                there = self._record(record.stack, record.subject, record.key, record.metric)
                wins = there is None or stands(record, there)
                if wins:
                    execute(f"INSERT OR REPLACE INTO rows VALUES ({','.join('?' * len(record))})", record)
                if there is None:
                    added += 1
                    continue
                replaced, kept = replaced + wins, kept + (not wins)
                if in_conflict(there, record):
                    conflicts.append(conflict_of(row, *((record, there) if wins else (there, record))))
            for values, _ in results:
                fresh += execute("INSERT OR IGNORE INTO calibrations VALUES (?, ?, ?, ?, ?)", values).rowcount
        return MergeReport(added, replaced, kept, tuple(conflicts), fresh)

    # Reading

    def get(self, stack: Stack, subject: Subject, metric: str) -> Row | None:
        """The row of one operator or network, a failure included; None when there is none."""
        with translated(self.name):
            record = self._record(stack.fingerprint, *subject_key(subject), metric)
            return None if record is None else self._decode(record)

    def rows(
        self,
        stack: Stack | None = None,
        metric: str | None = None,
        *,
        subject: SubjectKind | None = None,
    ) -> list[Row]:
        """Rows in a fixed order (stack, subject, key, metric), failures included.

        Args:
            stack, metric, subject: only these; None means all.

        Raises:
            LutError: a row is corrupt, or of an operator that this version does not know.
        """
        wanted = {"stack": stack and stack.fingerprint, "metric": metric, "subject": subject}
        filters = {column: value for column, value in wanted.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in filters) or "1"
        query = f"SELECT * FROM rows WHERE {where} ORDER BY stack, subject, key, metric"
        with translated(self.name):
            records = self._connection.execute(query, tuple(filters.values())).fetchall()
            return [self._decode(self._verified(Record(*record))) for record in records]

    def missing(
        self,
        stack: Stack,
        subjects: Iterable[Operator],
        metric: str,
        *,
        retry_failures: bool = False,
        retry_unstable: bool = False,
    ) -> list[Operator]:
        """Distinct operators that have no row yet, in the order given.

        Args:
            retry_failures: count failures as missing.
            retry_unstable: count unstable measurements as missing.
        """
        done = self.known(
            stack, metric, "operator", retry_failures=retry_failures, retry_unstable=retry_unstable
        )
        return [op for op in dict.fromkeys(subjects) if op.signature not in done]

    def known(
        self,
        stack: Stack,
        metric: str,
        subject: SubjectKind,
        *,
        retry_failures: bool = False,
        retry_unstable: bool = False,
    ) -> set[str]:
        """Keys (signatures, or fingerprints of networks) that need no measuring. Arguments as `missing`."""
        query = "SELECT key, status, unstable FROM rows WHERE stack = ? AND metric = ? AND subject = ?"
        with translated(self.name):
            found = self._connection.execute(query, (stack.fingerprint, metric, subject)).fetchall()
        return {
            key
            for key, status, unstable in found
            if not (retry_failures and status == "failed") and not (retry_unstable and unstable)
        }

    def table(self, stack: Stack, metric: str) -> Table:
        """The values of all operators for one metric on one stack, failures left out.

        Raises:
            LutError: the rows are of different evidence, which never share a table.
        """
        measured = [row for row in self.rows(stack, metric, subject="operator") if not row.failed]
        evidence = sorted({row.measurement.evidence for row in measured})
        if len(evidence) > 1:
            raise LutError(
                f"{self.name}: rows of {metric} on {stack.label} are of different evidence: "
                f"{', '.join(evidence)}",
                remedy="the stack must tell them apart; export, drop the wrong rows and import again",
            )
        values = {row.subject: row.value for row in measured if isinstance(row.subject, Operator)}
        unstable = frozenset(r.subject for r in measured if r.unstable and isinstance(r.subject, Operator))
        return Table(stack, metric, evidence[0] if evidence else None, values, unstable)

    def networks(self, stack: Stack, metric: str) -> list[tuple[Network, Measurement]]:
        """Whole networks that were measured, with their measurements; failures left out."""
        return [
            (row.subject, row.measurement)
            for row in self.rows(stack, metric, subject="network")
            if not row.failed and isinstance(row.subject, Network)
        ]

    def calibration(self, stack: Stack, metric: str) -> CalibrationRow | None:
        """The newest calibration, or None."""
        history = self.calibration_history(stack, metric)
        return history[-1] if history else None

    def calibration_history(
        self, stack: Stack | None = None, metric: str | None = None
    ) -> list[CalibrationRow]:
        """Calibrations, oldest first within a stack and metric; None means all."""
        query = """SELECT * FROM calibrations WHERE stack = ifnull(?, stack) AND metric = ifnull(?, metric)
                   ORDER BY stack, metric, created_at, result"""
        with translated(self.name):
            found = self._connection.execute(
                query, (None if stack is None else stack.fingerprint, metric)
            ).fetchall()
            for values in found:
                if checksum(values[:-1]) != values[-1]:
                    raise corrupt(self.name, f"calibration of {values[1]} from {values[2]}")
            return [CalibrationRow(self._stack(s), m, text, at) for s, m, at, text, _ in found]

    def stacks(self) -> list[Stack]:
        """Every stack that has a row or a calibration."""
        with translated(self.name):
            found = self._connection.execute("SELECT fingerprint FROM stacks ORDER BY fingerprint").fetchall()
            return [self._stack(fingerprint) for (fingerprint,) in found]

    def contents(self) -> tuple[list[Row], list[CalibrationRow]]:
        """All rows and calibrations, as of one moment also while others write."""
        with translated(self.name):
            self._connection.execute("BEGIN")
            try:
                return self.rows(), self.calibration_history()
            finally:
                self._connection.execute("ROLLBACK")

    def check(self) -> None:
        """Read everything: SQLite's own integrity check, then every row's checksum.

        Raises:
            LutError: the file is damaged; the message says where.
        """
        with translated(self.name):
            verdict = [str(v) for (v,) in self._connection.execute("PRAGMA integrity_check").fetchall()]
            if verdict != ["ok"]:
                raise corrupt(self.name, "; ".join(verdict[:3]))
            orphans = self._connection.execute("PRAGMA foreign_key_check").fetchall()
            if orphans:
                raise corrupt(self.name, f"{len(orphans)} rows of a stack that is not there")
        self.stacks()
        self.contents()

    # Inside

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with translated(self.name):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors (disk full); the cause matters more.
                with suppress(sqlite3.Error):
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                raise

    def _record(self, stack: str, subject: str, key: str, metric: str) -> Record | None:
        query = "SELECT * FROM rows WHERE stack = ? AND subject = ? AND key = ? AND metric = ?"
        found = self._connection.execute(query, (stack, subject, key, metric)).fetchone()
        return None if found is None else self._verified(Record(*found))

    def _verified(self, record: Record) -> Record:
        if checksum(record[:-1]) != record.checksum:
            raise corrupt(self.name, f"row {record.key!r} {record.metric}")
        return record

    def _stack(self, fingerprint: str) -> Stack:
        if fingerprint not in self._stacks:
            query = "SELECT fields FROM stacks WHERE fingerprint = ?"
            found = self._connection.execute(query, (fingerprint,)).fetchone()
            try:
                stack = Stack.of(json.loads(found[0]))
            except (TypeError, ValueError, AttributeError):
                stack = Stack(())
            if stack.fingerprint != fingerprint:
                raise corrupt(self.name, f"stack {fingerprint}")
            self._stacks[fingerprint] = stack
        return self._stacks[fingerprint]

    def _network(self, fingerprint: str) -> Network:
        if fingerprint not in self._networks:
            query = "SELECT name, operators FROM networks WHERE fingerprint = ?"
            found = self._connection.execute(query, (fingerprint,)).fetchone()
            try:
                network = Network(found[0], tuple(parse_operator(text) for text in json.loads(found[1])))
            except (TypeError, ValueError, AttributeError):
                network = Network("", ())
            if network.fingerprint != fingerprint:
                raise corrupt(self.name, f"network {fingerprint}")
            self._networks[fingerprint] = network
        return self._networks[fingerprint]

    def _decode(self, record: Record) -> Row:
        subject = parse_operator(record.key) if record.subject == "operator" else self._network(record.key)
        return Row(self._stack(record.stack), subject, decode_outcome(record))
