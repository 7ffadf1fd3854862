"""The tables of the state file, and every statement on them.

Additive only, so that an older version can use the file after a newer one: a table may get columns, never
lose or change one, and every statement names the columns that it knows. What a newer version keeps in other
columns is carried along, for a row that is there is updated in place.
"""

import sqlite3
from typing import Final

from rdpbalancer.stores.records import Changes

# The oldest schema whose readers can use a file as this version writes it. It rises only when they cannot.
OLDEST_READER: Final = 2
APPLICATION_ID: Final = 0x52445042  # "RDPB", so that another program's database is never written to

# Name, type and meaning of every column; those without NOT NULL or with a default may be added to a table.
_TABLES: Final = {
    "binding": """
        service TEXT NOT NULL, method TEXT NOT NULL, value BLOB NOT NULL, server TEXT NOT NULL,
        expires_at REAL,  -- Unix seconds; NULL: pinned by a live session
        life_s REAL,      -- what was left of its life when it was written
        PRIMARY KEY (service, method, value)""",
    "override": """
        service TEXT NOT NULL, server TEXT NOT NULL,
        intent TEXT NOT NULL, strict INTEGER NOT NULL, weight INTEGER,
        PRIMARY KEY (service, server)""",
    "configured": """
        service TEXT NOT NULL, server TEXT NOT NULL,  -- empty: the service itself
        seen_at REAL NOT NULL,  -- Unix seconds
        PRIMARY KEY (service, server)""",
}
_ADDED: Final = {
    "override": {
        "reason": "TEXT NOT NULL DEFAULT ''",
        "actor": "TEXT NOT NULL DEFAULT ''",
        "since": "REAL NOT NULL DEFAULT 0",
    },
}

OVERRIDES: Final = "SELECT service, server, intent, strict, weight, reason, actor, since FROM override"
CONFIGURED: Final = "SELECT service, server, seen_at FROM configured"
COUNTS: Final = (
    "SELECT service, method, count(*) FROM binding WHERE expires_at IS NULL OR expires_at > ?"
    " GROUP BY service, method"
)
ONE: Final = (
    "SELECT service, method, value, server, expires_at, life_s FROM binding"
    " WHERE service = ? AND method = ? AND value = ?"
)
# Pinned ones first, then the most recently used: where a smaller bound leaves no room, the others give way.
ALL: Final = (
    "SELECT service, method, value, server, expires_at, life_s FROM binding"
    " WHERE service = ? AND (expires_at IS NULL OR expires_at > ?)"
    " ORDER BY expires_at IS NOT NULL, expires_at DESC, method DESC, value DESC"
)
# Rows that one sweep deletes: a third of a second of the writer's time, in which nobody waits but operators.
_SWEPT: Final = 100_000
_SWEEP: Final = (
    "DELETE FROM binding WHERE (service, method, value) IN"
    " (SELECT service, method, value FROM binding WHERE expires_at <= ? LIMIT ?)"
)
_BIND: Final = (
    "INSERT INTO binding (service, method, value, server, expires_at, life_s) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (service, method, value) DO UPDATE SET"
    " server = excluded.server, expires_at = excluded.expires_at, life_s = excluded.life_s"
)
_UNBIND: Final = "DELETE FROM binding WHERE service = ? AND method = ? AND value = ?"
_OVERRIDE: Final = (
    "INSERT INTO override (service, server, intent, strict, weight, reason, actor, since)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (service, server) DO UPDATE SET"
    " intent = excluded.intent, strict = excluded.strict, weight = excluded.weight,"
    " reason = excluded.reason, actor = excluded.actor, since = excluded.since"
)
_TAKE_BACK: Final = "DELETE FROM override WHERE service = ? AND server = ?"
_SEE: Final = (
    "INSERT INTO configured (service, server, seen_at) VALUES (?, ?, ?)"
    " ON CONFLICT (service, server) DO UPDATE SET seen_at = excluded.seen_at"
)
_UNSEE: Final = "DELETE FROM configured WHERE service = ? AND server = ?"


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables and columns that are missing, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for table, columns in _TABLES.items():
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) WITHOUT ROWID")
        there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for name, kind in _ADDED.get(table, {}).items():
            if name not in there:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {OLDEST_READER}")
    connection.execute("COMMIT")


def write(connection: sqlite3.Connection, changes: Changes) -> None:
    """Write in one transaction. What it leaves open on an error is rolled back by closing the connection."""
    connection.execute("BEGIN IMMEDIATE")
    forgotten = [(name,) for name in changes.forgotten]
    for table in _TABLES:
        connection.executemany(f"DELETE FROM {table} WHERE service = ?", forgotten)  # noqa: S608 (our names)
    connection.executemany(_UNBIND, changes.unbound)
    connection.executemany(_BIND, changes.bound)
    connection.executemany(_TAKE_BACK, changes.taken_back)
    connection.executemany(_OVERRIDE, changes.overridden)
    connection.executemany(_UNSEE, changes.unseen)
    connection.executemany(_SEE, changes.seen)
    if changes.sweep:
        connection.execute(_SWEEP, (changes.wall, _SWEPT))
    connection.execute("COMMIT")
