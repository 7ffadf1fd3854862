"""The state file: SQLite's side of the durable copy. It knows rows, not stores, and no clock."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rdpbalancer.errors import StoreError
from rdpbalancer.stores.rows import BindingRow, Changes, OverrideRow

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x52445042  # "RDPB", so that another program's database is never written to

# How long a write waits for another process's lock before it is put back. The writer has a thread of its own.
_LOCK_TIMEOUT_S: Final = 1.0

_SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS binding (
        service TEXT NOT NULL, method TEXT NOT NULL, value BLOB NOT NULL, server TEXT NOT NULL,
        expires_at REAL,  -- Unix seconds; NULL: pinned by a live session
        life_s REAL,      -- what was left of its life when it was written
        PRIMARY KEY (service, method, value)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS override (
        service TEXT NOT NULL, server TEXT NOT NULL,
        intent TEXT NOT NULL, strict INTEGER NOT NULL, weight INTEGER,
        PRIMARY KEY (service, server)) WITHOUT ROWID""",
)

# What a failure means for whoever has to act on it, by SQLite's primary result code.
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: ("state-full", "the disk is full; free some space on it"),
    sqlite3.SQLITE_BUSY: (
        "state-locked",
        "another process holds its lock; is a second service running on it?",
    ),
    sqlite3.SQLITE_READONLY: ("state-read-only", "it is read-only; check the file's and the mount's rights"),
    sqlite3.SQLITE_CANTOPEN: ("state-unreachable", "it cannot be opened; check the folder and its rights"),
    sqlite3.SQLITE_IOERR: ("state-disk", "the disk reports errors; check the system log"),
}
_CORRUPT: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

Connect = Callable[[Path], sqlite3.Connection]


def connect(path: Path) -> sqlite3.Connection:
    """Open SQLite on `path`: explicit transactions, used by one thread at a time but not always the same."""
    return sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)


class StateFile:
    """One SQLite file in WAL mode. A crash loses no committed change; a power cut may lose the last ones.

    A damaged file is moved aside and begun afresh, at `open` and also later; so is one that was removed or
    replaced under the running service. `begun_afresh` tells the owner to write everything again.
    """

    def __init__(self, path: Path, *, connect: Connect = connect) -> None:
        self._path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._closed = False
        self.recovered_from: Path | None = None
        self.begun_afresh = False

    def open(self, *, wall: float) -> None:
        """Open the file, creating it and its folder where missing. Raises StoreError."""
        try:
            self._open(wall)
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error

    def read(self, *, wall: float) -> tuple[list[BindingRow], list[OverrideRow]]:
        """Drop the bindings that have expired at `wall` and return the rest, soonest expired first."""
        try:
            connection = self._usable(wall)
            connection.execute("DELETE FROM binding WHERE expires_at <= ?", (wall,))
            bound = connection.execute(
                "SELECT service, method, value, server, expires_at, life_s FROM binding"
                " ORDER BY expires_at, service, method, value"
            )
            bindings = [BindingRow(*row) for row in bound]
            overridden = connection.execute("SELECT service, server, intent, strict, weight FROM override")
            return bindings, [OverrideRow(*row) for row in overridden]
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error

    def write(self, changes: Changes) -> None:
        """Write all of `changes` or nothing. Raises StoreError; the next write then opens the file anew."""
        try:
            _write(self._usable(changes.wall), changes)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the file; SQLite folds its log into it. Closing twice does nothing."""
        self._closed = True
        self._disconnect()

    def _usable(self, wall: float) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(
                "state-closed", f"{self._path}: written to after it was closed: a defect of ours"
            )
        if self._connection is not None and _identity(self._path) != self._identity:
            self._disconnect()  # removed or replaced: SQLite would go on writing to a file without a name
        return self._connection or self._open(wall)

    def _open(self, wall: float) -> sqlite3.Connection:
        fresh = _create_private(self._path)
        try:
            connection = self._prepared()
        except sqlite3.DatabaseError as error:
            if _code(error) not in _CORRUPT:
                raise
            self.recovered_from = _move_aside(self._path, wall)
            fresh = _create_private(self._path)
            connection = self._prepared()
        self._connection = connection
        self._identity = _identity(self._path)
        self.begun_afresh = self.begun_afresh or fresh
        return connection

    def _prepared(self) -> sqlite3.Connection:
        connection = self._connect(self._path)
        try:
            _check_ours(connection, self._path)
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _translated(self, error: sqlite3.Error | OSError) -> StoreError:
        code, advice = _ADVICE.get(_code(error), ("state-failed", "see the error"))
        return StoreError(
            code, f"{self._path}: bindings and overrides are not kept on disk: {advice} ({error})"
        )


def _code(error: Exception) -> int:
    """Return SQLite's primary result code (the low byte), 0 where the error has none."""
    if isinstance(error, OSError):
        return sqlite3.SQLITE_CANTOPEN
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _create_private(path: Path) -> bool:
    """Create the file where missing, readable by its owner only: it names users. True if it is empty.

    SQLite gives its `-wal` and `-shm` files the same mode.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        return os.fstat(descriptor).st_size == 0
    finally:
        os.close(descriptor)


def _move_aside(path: Path, wall: float) -> Path:
    """Rename a damaged file, and its log, so that it can be looked at; return its new name."""
    aside = path.with_name(f"{path.name}.corrupt-{wall:.0f}")
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.replace(aside.with_name(aside.name + suffix))
    return aside


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreError unless the file is empty or of a schema that this version knows."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if application != _APPLICATION_ID and (tables or application or version):
        raise StoreError(
            "state-foreign", f"{path}: this is another program's database; set global.state_dir elsewhere"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            "state-newer",
            f"{path}: written by a newer rdpbalancer (schema {version}, this one knows {SCHEMA_VERSION});"
            " run that version, or move the file away and lose the bindings in it",
        )


def _prepare(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        error = sqlite3.DatabaseError(verdict)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    for table in _SCHEMA:
        connection.execute(table)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _write(connection: sqlite3.Connection, changes: Changes) -> None:
    """Write in one transaction. What it leaves open on an error is rolled back by closing the connection."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("DELETE FROM binding WHERE service = ?", [(name,) for name in changes.forgotten])
    connection.executemany("DELETE FROM override WHERE service = ?", [(name,) for name in changes.forgotten])
    connection.executemany(
        "DELETE FROM binding WHERE service = ? AND method = ? AND value = ?", changes.unbound
    )
    connection.executemany("INSERT OR REPLACE INTO binding VALUES (?, ?, ?, ?, ?, ?)", changes.bound)
    connection.executemany("DELETE FROM override WHERE service = ? AND server = ?", changes.servers)
    connection.executemany("INSERT OR REPLACE INTO override VALUES (?, ?, ?, ?, ?)", changes.overridden)
    connection.execute("COMMIT")
