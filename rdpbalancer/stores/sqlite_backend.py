"""The state file: SQLite's side of the durable copy. It knows rows, not stores, and no clock."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rdpbalancer.errors import StoreError
from rdpbalancer.model import Key, Method
from rdpbalancer.stores import schema
from rdpbalancer.stores.records import (
    BindingRecord,
    Changes,
    ConfiguredRecord,
    Contents,
    OverrideRecord,
    pack_value,
)

# How long a write waits for another process's lock before it is put back. The writer has a thread of its own.
_LOCK_TIMEOUT_S: Final = 1.0

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


class SqliteBackend:
    """The state in one SQLite file in WAL mode.

    A crash loses no committed change; a power cut may lose the last ones.

    A damaged file is moved aside and begun afresh, at `open` and also later; so is one that was removed or
    replaced under the running service. `begun_afresh` tells the owner to write everything again.
    """

    durable = True

    def __init__(self, path: Path, *, connect: Connect = connect) -> None:
        self._path = path
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
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

    def read(self, *, wall: float) -> Contents:
        """Return all but the bindings, and how many of these there are. Raises StoreError."""
        try:
            connection = self._usable(wall)
            connection.execute(schema.ONE, ("", "", b""))  # does it have the columns?
            counts: dict[str, dict[Method, int]] = {}
            for service, method, count in connection.execute(schema.COUNTS, (wall,)):
                counts.setdefault(service, {})[Method(method)] = count
            return Contents(
                overrides=[OverrideRecord(*row) for row in connection.execute(schema.OVERRIDES)],
                configured=[ConfiguredRecord(*row) for row in connection.execute(schema.CONFIGURED)],
                counts=counts,
            )
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error

    def find(self, service: str, key: Key) -> BindingRecord | None:
        """Return one binding, or None. Raises StoreError.

        For the loop's thread, beside a write of another one: readers of a file in WAL mode wait for nobody.
        """
        try:
            if self._reader is None:
                self._reader = self._connect(self._path)
                self._reader.execute("PRAGMA busy_timeout = 0")
            found = self._reader.execute(schema.ONE, (service, key.method.value, pack_value(key.value)))
            row = found.fetchone()
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error
        return None if row is None else BindingRecord(*row)

    def bindings(self, service: str, *, wall: float, size: int) -> Iterator[list[BindingRecord]]:
        """Yield a service's bindings that live at `wall`, `size` at a time, the most recently used first.

        All as they are at the first step, whatever is written meanwhile. Each step may block, and all have to
        be made on one thread. Raises StoreError.
        """
        connection: sqlite3.Connection | None = None
        try:
            connection = self._connect(self._path)
            cursor = connection.execute(schema.ALL, (service, wall))
            while rows := cursor.fetchmany(size):
                yield [BindingRecord(*row) for row in rows]
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error
        finally:
            if connection is not None:
                connection.close()

    def write(self, changes: Changes) -> None:
        """Write all of `changes` or nothing. Raises StoreError; the next write then opens the file anew."""
        try:
            schema.write(self._usable(changes.wall), changes)
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise self._translated(error) from error

    def close(self) -> None:
        """Close the file; SQLite folds its log into it. Closing twice does nothing."""
        self._closed = True
        self._disconnect()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

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
    if application != schema.APPLICATION_ID and (tables or application or version):
        raise StoreError(
            "state-foreign", f"{path}: this is another program's database; set global.state_dir elsewhere"
        )
    if version > schema.OLDEST_READER:
        raise StoreError(
            "state-newer",
            f"{path}: written by a newer rdpbalancer (schema {version}; this one knows"
            f" {schema.OLDEST_READER}); run that version, or move the file away and lose the bindings in it",
        )


def _prepare(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        error = sqlite3.DatabaseError(verdict)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    schema.prepare(connection)


def open_file(path: Path, *, wall: float, connect: Connect = connect) -> tuple[SqliteBackend, Contents]:
    """Open a state file and read what is read at once. Blocks: for a worker thread. Raises StoreError."""
    file = SqliteBackend(path, connect=connect)
    try:
        file.open(wall=wall)
        return file, file.read(wall=wall)
    except BaseException:
        file.close()
        raise
