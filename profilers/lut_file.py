"""The SQLite file of a LUT: its schema, opening it safely, and SQLite's errors as ours."""

from __future__ import annotations

import json
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from toolchain.errors import BoardfitError, LutError

SCHEMA_VERSION: Final = 1  # PRAGMA user_version
APPLICATION_ID: Final = 0x424C5554  # PRAGMA application_id: "BLUT"

# A change of columns needs a new SCHEMA_VERSION; the comments show in sqlite3's `.schema`.
SCHEMA: Final = {
    "stacks": """CREATE TABLE stacks (
  fingerprint TEXT PRIMARY KEY NOT NULL,  -- Stack.fingerprint, 16 hex digits
  fields TEXT NOT NULL                    -- JSON object, text to text
)""",
    "networks": """CREATE TABLE networks (
  fingerprint TEXT PRIMARY KEY NOT NULL,  -- Network.fingerprint, 16 hex digits
  name TEXT NOT NULL,
  operators TEXT NOT NULL                 -- JSON list of operator signatures, in execution order
)""",
    "rows": """CREATE TABLE rows (
  stack TEXT NOT NULL REFERENCES stacks (fingerprint),
  subject TEXT NOT NULL,    -- 'operator' or 'network'
  key TEXT NOT NULL,        -- an operator's signature or a network's fingerprint
  metric TEXT NOT NULL,     -- the name ends in the unit: latency_us, ram_bytes
  status TEXT NOT NULL,     -- 'ok' or 'failed'
  value REAL,               -- in the metric's unit; NULL when failed
  evidence TEXT,            -- NULL when failed
  unstable INTEGER NOT NULL,  -- 1: the measuring protocol's gate was not met
  details TEXT NOT NULL,    -- JSON object, text to text
  reason TEXT NOT NULL,     -- why it failed, else ''
  remedy TEXT NOT NULL,     -- what to do about a failure, else ''
  taken_at TEXT NOT NULL,   -- ISO 8601, UTC, microseconds
  samples BLOB NOT NULL,    -- little-endian float64, in the metric's unit
  checksum INTEGER NOT NULL,  -- CRC-32 of the other columns
  PRIMARY KEY (stack, subject, key, metric)
)""",
    "calibrations": """CREATE TABLE calibrations (
  stack TEXT NOT NULL REFERENCES stacks (fingerprint),
  metric TEXT NOT NULL,
  created_at TEXT NOT NULL,  -- ISO 8601, UTC, microseconds
  result TEXT NOT NULL,      -- JSON object
  checksum INTEGER NOT NULL,  -- CRC-32 of the other columns
  PRIMARY KEY (stack, metric, created_at, result)
)""",
}


def connect(path: Path, *, create: bool, read_only: bool, busy_seconds: float) -> sqlite3.Connection:
    """Open a file, make sure that it is a LUT of this version, and make the tables in an empty one.

    Raises:
        LutError: not a LUT, corrupt, of another schema version, or locked for too long.
        BoardfitError: the file cannot be written.
    """
    mode = "ro" if read_only else "rwc" if create else "rw"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with translated(str(path)):
        connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
        try:
            try:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.OperationalError:
                # WAL needs a writable folder even to read, unless SQLite is told that nobody writes.
                # That is only true when no write-ahead log is lying about.
                if not read_only or path.with_name(path.name + "-wal").exists():
                    raise
                connection.close()
                connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
            prepare(connection, str(path), read_only=read_only, busy_seconds=busy_seconds)
        except BaseException:
            connection.close()
            raise
    return connection


def prepare(connection: sqlite3.Connection, name: str, *, read_only: bool, busy_seconds: float) -> None:
    """Make sure that the file is a LUT of this version, making the tables in an empty file."""
    if not read_only and _is_empty(connection):
        _wal(connection, busy_seconds)
        connection.execute("BEGIN IMMEDIATE")  # somebody else may be making the tables at this moment
        if _is_empty(connection):
            for statement in SCHEMA.values():
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise LutError(f"{name} is an SQLite file, but not a LUT of boardfit", remedy="check the path")
    if version != SCHEMA_VERSION:
        age = "a newer" if version > SCHEMA_VERSION else "an older"
        raise LutError(
            f"{name} has LUT schema {version}, this boardfit reads {SCHEMA_VERSION}",
            remedy=f"it was made by {age} version: export it there as JSON and import it here, or update",
        )
    for table, columns in _expected_columns().items():
        if table_columns(connection, table) != columns:
            raise corrupt(name, f"table {table} is missing or changed")
    if not read_only:
        _wal(connection, busy_seconds)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")


def table_columns(connection: sqlite3.Connection, table: str) -> list[tuple[object, ...]]:
    """Name, type, not null, default and place in the primary key of each column; empty for no such table."""
    return [row[1:] for row in connection.execute(f"PRAGMA table_info({table})")]


@cache
def _expected_columns() -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in SCHEMA.values():
            connection.execute(statement)
        return {table: table_columns(connection, table) for table in SCHEMA}


def _is_empty(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    identity = [connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version")]
    return tables == 0 and identity == [0, 0]


def _wal(connection: sqlite3.Connection, busy_seconds: float) -> None:
    # SQLite does not call its busy handler for this switch, so the waiting is ours.
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            with closing(connection.execute("PRAGMA journal_mode = WAL")) as cursor:
                cursor.fetchone()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def corrupt(name: str, where: str) -> LutError:
    """The error for a damaged file."""
    return LutError(
        f"{name} is damaged: {where}",
        remedy="restore a copy, rescue it with `sqlite3 FILE .recover`, or move it away; then run `boardfit profile`",
    )


@contextmanager
def translated(name: str) -> Iterator[None]:
    """SQLite's errors as ours, with what the user can do."""
    try:
        yield
    except (sqlite3.Error, json.JSONDecodeError, struct.error) as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise BoardfitError(
                f"cannot write {name}: the disk is full",
                remedy="free disk space and run again; every row stored before is kept",
            ) from error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise BoardfitError(
                f"cannot write {name}: {error}", remedy="check the disk, the folder and its permissions"
            ) from error
        if code == sqlite3.SQLITE_CANTOPEN:
            raise LutError(
                f"cannot open {name}: {error}", remedy="check that the folder exists and may be written"
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LutError(
                f"{name} was locked by another program for too long", remedy="wait for it, or end it"
            ) from error
        if code == sqlite3.SQLITE_NOTADB:
            raise LutError(f"{name} is not an SQLite file, so no LUT", remedy="check the path") from error
        if isinstance(error, sqlite3.ProgrammingError):
            raise LutError(f"{name}: {error}", remedy="open it again") from error
        raise corrupt(name, str(error)) from error
