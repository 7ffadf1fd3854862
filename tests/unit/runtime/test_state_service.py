"""The durable copy as the router has it: opened, loaded, written and told of, on a real disk."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import Intent, Key, Method, ServerId
from rdpbalancer.runtime import state_service as module
from rdpbalancer.runtime.state_service import StateService
from rdpbalancer.stores.sqlite_backend import open_file
from rdpbalancer.stores.state import DurableState
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics
from tests.support.wait import wait_until_async
from tests.unit.runtime.in_process_router import service_of

ALICE = Key(Method.RDP_COOKIE, "alice")
TS1 = ServerId("farm", "ts1")
HALTED = Override(Intent.HALT, reason="disk full", actor="cli:ann", since=5.0)


class Life:
    """One run of the durable copy, and what it has told."""

    def __init__(self, path: Path) -> None:
        self.told: list[dict[str, Any]] = []
        self.loaded: list[str] = []
        self.overrides_came = 0
        events = Events()
        events.on_event = self.told.append
        self.durable = StateService(
            path,
            events=events,
            metrics=Metrics(),
            clock=time.monotonic,
            max_half_open=10,
            on_overrides=self._count,
            on_loaded=self.loaded.append,
        )
        self.service = service_of(["ts1"], name="farm")

    def _count(self) -> None:
        self.overrides_came += 1

    def events(self) -> list[str]:
        """The names of what was told."""
        return [event["event"] for event in self.told]


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Callable[[], Life]]:
    """Begin a run on the test's state file; closed at the end."""
    lives: list[Life] = []

    def begin() -> Life:
        lives.append(Life(tmp_path / "state.db"))
        return lives[-1]

    yield begin
    for one in lives:
        await one.durable.close()


def leave(path: Path, count: int) -> None:
    """Leave so many bindings, and a halted server, of an earlier run."""
    with closing(DurableState.open(path, now=0.0, wall=time.time())) as database:
        store = database.bindings("farm", max_entries=count)
        for number in range(count):
            store.move(Key(Method.RDP_COOKIE, f"user{number}"), "ts1", now=0.0, ttl_s=600.0)
        database.set_override(TS1, HALTED)
        while (changes := database.take_changes(now=0.0, wall=time.time())) is not None:
            database.write(changes)


async def test_what_was_left_is_there_at_once_and_loaded_by_and_by(
    live: Callable[[], Life], tmp_path: Path
) -> None:
    """Before `start` a key is found in the file; after it all of them come, and that is told."""
    leave(tmp_path / "state.db", 1200)
    life = live()
    await life.durable.open()
    assert {TS1: HALTED} == life.durable.overrides()
    store = life.durable.store(life.service)
    assert "ts1" == getattr(store.get(Key(Method.RDP_COOKIE, "user7"), now=time.monotonic()), "server", None)
    assert ["farm"] == life.durable.loading()
    life.durable.start()
    await wait_until_async(lambda: life.loaded == ["farm"], 5, "all loaded")
    assert [] == life.durable.loading()
    assert 1200 == len(store.keys())
    assert [("bindings_loaded", 1200)] == [(event["event"], event["count"]) for event in life.told]


async def test_what_is_said_is_on_disk_when_it_is_said_to_be(
    live: Callable[[], Life], tmp_path: Path
) -> None:
    """`written` returns after the write of what came before it."""
    life = live()
    await life.durable.open()
    life.durable.start()
    life.durable.set_override(TS1, HALTED)
    life.durable.store(life.service).confirm(ALICE, "ts1", now=time.monotonic())
    await life.durable.written()
    with closing(sqlite3.connect(tmp_path / "state.db")) as other:
        assert [("halt",)] == other.execute("SELECT intent FROM override").fetchall()
        assert [(b"alice",)] == other.execute("SELECT value FROM binding").fetchall()


async def test_a_file_that_cannot_be_opened_at_first(
    live: Callable[[], Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything works from memory; when it can be opened, its words count beneath what was said since."""
    monkeypatch.setattr(module, "_OPEN_AGAIN_S", (0.01,))
    path = tmp_path / "state.db"
    leave(path, 3)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    life = live()
    await life.durable.open()
    assert ["state_unusable"] == life.events()
    store = life.durable.store(life.service)
    life.durable.start()
    store.confirm(ALICE, "ts2", now=time.monotonic())
    store.confirm(Key(Method.RDP_COOKIE, "user1"), "ts2", now=time.monotonic())
    await life.durable.written()
    assert {} == life.durable.overrides()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 2")
    await wait_until_async(lambda: bool(life.loaded), 5, "loaded after all")
    assert {TS1: HALTED} == life.durable.overrides()
    assert 1 == life.overrides_came
    assert ["state_unusable", "state_usable_again", "bindings_loaded"] == life.events()
    await life.durable.written()
    with closing(sqlite3.connect(path)) as other:
        rows = dict(other.execute("SELECT value, server FROM binding").fetchall())
    assert {b"user0": "ts1", b"user1": "ts2", b"user2": "ts1", b"alice": "ts2"} == rows


async def test_a_disk_that_hangs_at_the_start(
    live: Callable[[], Life], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The service does not wait for it for long, and takes its state up when it answers."""
    leave(tmp_path / "state.db", 1)
    go_on = threading.Event()

    def slowly(path: Path, *, wall: float) -> Any:
        go_on.wait(10)
        return open_file(path, wall=wall)

    monkeypatch.setattr(module, "open_file", slowly)
    monkeypatch.setattr(module, "_OPEN_S", 0.01)
    monkeypatch.setattr(module, "_OPEN_AGAIN_S", (0.01,))
    life = live()
    await life.durable.open()
    assert ["state_unusable"] == life.events()
    assert "has not answered for 0.01 s" in life.told[0]["detail"]
    life.durable.start()
    go_on.set()
    await wait_until_async(lambda: life.overrides_came == 1, 5, "the words of before")
    assert {TS1: HALTED} == life.durable.overrides()


async def test_it_is_closed_while_it_is_being_opened(
    live: Callable[[], Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop does not wait for a disk that hangs, and the file is closed when it is there after all."""
    go_on, opened = threading.Event(), []

    def slowly(path: Path, *, wall: float) -> Any:
        go_on.wait(10)
        found = open_file(path, wall=wall)
        opened.append(found[0])
        return found

    monkeypatch.setattr(module, "open_file", slowly)
    life = live()
    opening = asyncio.ensure_future(life.durable.open())  # noqa: TID251 (to be cancelled)
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    go_on.set()
    await wait_until_async(lambda: bool(opened), 5, "opened")

    def closed() -> bool:
        try:
            opened[0].read(wall=0.0)
        except StoreError as error:
            return error.code == "state-closed"
        return False

    await wait_until_async(closed, 5, "closed")


async def test_bindings_that_cannot_be_read_are_tried_again(
    live: Callable[[], Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has a bad moment."""
    monkeypatch.setattr(module, "_LOAD_AGAIN_S", 0.01)
    leave(tmp_path / "state.db", 3)
    life = live()
    await life.durable.open()
    life.durable.store(life.service)
    trouble = [StoreError("state-disk", "the disk reports errors")]
    rows_of = DurableState.rows_of

    def now_and_then(self: DurableState, service: str, *, size: int) -> Any:
        if trouble:
            raise trouble.pop()
        return rows_of(self, service, size=size)

    monkeypatch.setattr(DurableState, "rows_of", now_and_then)
    life.durable.start()
    await wait_until_async(lambda: bool(life.loaded), 5, "loaded")
    assert ["bindings_not_loaded", "bindings_loaded"] == life.events()


async def test_absent_for_too_long(live: Callable[[], Life], tmp_path: Path) -> None:
    """Servers that no configuration has had for 30 days are forgotten, and it is told how many."""
    path = tmp_path / "state.db"
    leave(path, 3)
    long_ago = time.time() - 31 * 24 * 3600
    with closing(sqlite3.connect(path)) as other, other:
        other.executemany("INSERT INTO configured VALUES ('farm', ?, ?)", [("", long_ago), ("ts1", long_ago)])
    life = live()
    await life.durable.open()
    life.durable.configured([ServerId("other", "ts9")])
    assert [("absent_forgotten", 2)] == [(event["event"], event["count"]) for event in life.told]
    assert {} == life.durable.overrides()
    life.durable.start()
    await life.durable.written()
    with closing(sqlite3.connect(path)) as other:
        assert [(0,)] == other.execute("SELECT count(*) FROM binding").fetchall()


async def test_claims_follow_the_bound_on_handshakes(live: Callable[[], Life]) -> None:
    """At the start and at a reload: a user's second connection follows the first among that many others."""
    life = live()
    store = life.durable.store(life.service)
    life.durable.limit_claims(5000)
    assert "ts1" == store.claim(ALICE, "ts1", now=0.0, hold_s=15.0)
    for number in range(4999):
        store.claim(Key(Method.RDP_COOKIE, f"user{number}"), "ts2", now=0.1, hold_s=15.0)
    assert "ts1" == store.claim(ALICE, "ts2", now=0.2, hold_s=15.0)
    life.durable.limit_claims(100)
    assert 100 == len(store.keys())
