"""The journal: writes by itself, tells of failures, and leaves nothing behind when it is stopped."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import Intent, Key, Method, ServerId
from rdpbalancer.stores import sqlite_backend
from rdpbalancer.stores.journal import Urgency, run_journal
from rdpbalancer.stores.state import MAX_CHANGES, DurableState
from rdpbalancer.tasks import cancel_and_wait, spawn
from tests.support.wait import wait_until_async

ANNA = Key(Method.RDP_COOKIE, "anna")
BERT = Key(Method.RDP_COOKIE, "bert")
NEVER_S = 3600.0


@dataclass
class Gate:
    """Opens SQLite connections whose commits wait until the gate is open, and tell that they do."""

    opened: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.opened.set()

    def shut(self) -> None:
        """Let the next commit wait."""
        self.opened.clear()
        self.reached.clear()

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open SQLite on `path`."""
        gate = self

        class Gated(sqlite3.Connection):
            def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
                if sql == "COMMIT":
                    gate.reached.set()
                    assert gate.opened.wait(30)
                return super().execute(sql, parameters)  # type: ignore[arg-type]

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Gated)


@dataclass
class Told:
    """What a journal has reported."""

    errors: list[StoreError] = field(default_factory=list)
    successes: int = 0

    def succeeded(self) -> None:
        """Count a success."""
        self.successes += 1


@asynccontextmanager
async def journal(
    database: DurableState, told: Told, *, interval_s: float
) -> AsyncIterator[asyncio.Task[None]]:
    """Run the journal while the block runs, and stop it as the router does."""
    task = spawn(
        run_journal(
            database,
            interval_s=interval_s,
            clock=time.monotonic,
            wall=time.time,
            on_error=told.errors.append,
            on_success=told.succeeded,
        ),
        name="journal under test",
    )
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        await cancel_and_wait(task)


def stored(path: Path) -> set[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return {value for (value,) in connection.execute("SELECT value FROM binding")}


Open = Callable[..., DurableState]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def open_database(path: Path) -> Iterator[Open]:
    opened: list[DurableState] = []

    def open_it(connect: sqlite_backend.Connect = sqlite_backend.connect) -> DurableState:
        database = DurableState.open(path, now=time.monotonic(), wall=time.time(), connect=connect)
        opened.append(database)
        return database

    yield open_it
    for database in opened:
        database.close()


async def test_changes_reach_the_file_by_themselves(open_database: Open, path: Path) -> None:
    """Nobody has to ask for a write, and one interval is one transaction."""
    database, told = open_database(), Told()
    store = database.bindings("farm")
    async with journal(database, told, interval_s=0.01):
        store.confirm(ANNA, "ts1", now=0)
        store.confirm(BERT, "ts1", now=0)
        await wait_until_async(lambda: stored(path) == {b"anna", b"bert"}, 10, "both bindings in the file")
    assert [] == told.errors
    assert 1 == told.successes


async def test_a_clean_stop_loses_nothing(open_database: Open, path: Path) -> None:
    """What was noted a moment before the stop is written, however long the interval."""
    database, told = open_database(), Told()
    store = database.bindings("farm")
    async with journal(database, told, interval_s=NEVER_S) as task:
        store.confirm(ANNA, "ts1", now=0)
    assert task.cancelled()
    assert {b"anna"} == stored(path)


async def test_a_stop_during_a_write_waits_for_it_and_writes_the_rest(
    path: Path, open_database: Open
) -> None:
    """Neither what is being written nor what came meanwhile is lost, however often it is cancelled."""
    gate, told = Gate(), Told()
    database = open_database(gate.connect)
    gate.shut()
    store = database.bindings("farm")
    async with journal(database, told, interval_s=0.01) as task:
        store.confirm(ANNA, "ts1", now=0)
        await wait_until_async(gate.reached.is_set, 10, "a write under way")
        store.confirm(BERT, "ts1", now=0)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        gate.opened.set()
    assert {b"anna", b"bert"} == stored(path)
    assert 2 == told.successes


async def test_the_loop_is_free_while_the_disk_is_slow(open_database: Open) -> None:
    """A write that hangs holds up no connection: verbs and the loop go on."""
    gate, told = Gate(), Told()
    database = open_database(gate.connect)
    gate.shut()
    store = database.bindings("farm")
    async with journal(database, told, interval_s=0.01):
        store.confirm(ANNA, "ts1", now=0)
        await wait_until_async(gate.reached.is_set, 10, "a write under way")
        assert "ts1" == store.claim(ANNA, "ts2", now=0, hold_s=15)
        assert 0 == told.successes
        gate.opened.set()


async def test_a_mass_change_does_not_wait_for_intervals(open_database: Open, path: Path) -> None:
    """Parts follow one another at once: a storm of logins is on disk within a second too."""
    database, told = open_database(), Told()
    store = database.bindings("farm")
    for number in range(2 * MAX_CHANGES + 1):
        store.confirm(Key(Method.RDP_COOKIE, f"user{number}"), "ts1", now=0)
    async with journal(database, told, interval_s=NEVER_S):
        pass
    assert 2 * MAX_CHANGES + 1 == len(stored(path))
    assert 3 == told.successes


async def test_a_defect_in_the_journal_is_not_swallowed(open_database: Open) -> None:
    """What is no StoreError comes out of run_journal, for the router to end with."""
    database = open_database()

    def broken_clock() -> float:
        raise ZeroDivisionError

    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    with pytest.raises(ZeroDivisionError):
        await run_journal(
            database,
            interval_s=0.01,
            clock=broken_clock,
            wall=time.time,
            on_error=lambda _: None,
            on_success=lambda: None,
        )


async def test_who_waits_is_told_when_all_noted_before_is_written(tmp_path: Path) -> None:
    """An operator who has read "done" finds it done after a kill -9 in the very next moment."""
    database = DurableState.open(tmp_path / "state.db", now=0.0, wall=0.0)
    urgency = Urgency()
    writer = spawn(
        run_journal(
            database,
            interval_s=NEVER_S,
            clock=lambda: 0.0,
            wall=lambda: 0.0,
            on_error=lambda error: pytest.fail(str(error)),
            on_success=lambda: None,
            urgency=urgency,
        ),
        name="journal under test",
    )
    server = ServerId("ts", "ts1")
    database.set_override(server, Override(intent=Intent.DRAIN))
    async with asyncio.timeout(10):
        await urgency.written()
    other = DurableState.open(tmp_path / "state.db", now=0.0, wall=0.0)
    assert {server: Override(intent=Intent.DRAIN)} == other.overrides()
    other.close()
    await cancel_and_wait(writer)
    database.close()
