"""Damaged state files are moved aside, never overwritten, and never stop the service."""

import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import Intent, Key, Method, ServerId
from rdpbalancer.stores.state import DurableState

pytestmark = pytest.mark.faults

WALL = 1_700_000_000.0
COUNT = 500


def open_database(path: Path, *, wall: float = WALL) -> DurableState:
    return DurableState.open(path, now=0.0, wall=wall)


def write_all(database: DurableState) -> None:
    while (changes := database.take_changes(now=0.0, wall=WALL)) is not None:
        database.write(changes)


def stored(path: Path) -> set[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return {value for (value,) in connection.execute("SELECT value FROM binding")}


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file with bindings, closed."""
    path = tmp_path / "state.db"
    with closing(open_database(path)) as database:
        store = database.bindings("farm")
        for number in range(COUNT):
            store.confirm(Key(Method.RDP_COOKIE, f"user{number}"), "ts1", now=0)
        write_all(database)
    return path


def no_database(path: Path) -> None:
    path.write_bytes(b"Lorem ipsum dolor sit amet. " * 1000)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def torn_pages(path: Path) -> None:
    for offset in range(4096, path.stat().st_size, 4096):
        overwrite(path, offset, b"\xa5" * 600)


@pytest.mark.parametrize("damage", [no_database, cut_off, torn_pages])
def test_a_damaged_file_is_moved_aside(path: Path, damage: Callable[[Path], None]) -> None:
    """The service starts with an empty table and says where the damaged file is, byte for byte."""
    damage(path)
    damaged = path.read_bytes()
    with closing(open_database(path)) as database:
        aside = path.with_name("state.db.corrupt-1700000000")
        assert aside == database.recovered_from
        assert damaged == aside.read_bytes()
        store = database.bindings("farm")
        assert [] == list(store.entries(now=0))
        store.confirm(Key(Method.RDP_COOKIE, "anna"), "ts1", now=0)
        write_all(database)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    with closing(open_database(path, wall=WALL + 1)) as database:
        assert None is database.recovered_from
        store = database.bindings("farm")
        database.load_all()
        assert ["anna"] == [binding.key.value for binding in store.entries(now=0)]


def test_an_empty_file_is_a_fresh_one(tmp_path: Path) -> None:
    """What a power cut just after creation leaves is no damage."""
    path = tmp_path / "state.db"
    path.touch()
    with closing(open_database(path)) as database:
        assert None is database.recovered_from
        assert set() == database.services()


def test_a_file_damaged_under_the_service_is_begun_afresh_with_everything(path: Path) -> None:
    """Memory is whole: after the failed write all of it is on disk again, and the damage is kept aside."""
    server = ServerId("farm", "ts1")
    with closing(open_database(path)) as database:
        store = database.bindings("farm")
        database.load_all()
        database.set_override(server, Override(Intent.DRAIN))
        write_all(database)
        with closing(
            sqlite3.connect(path)
        ) as other:  # fold the log into the file, so that the damage is seen
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(path, 0, b"\xa5" * path.stat().st_size)
        store.confirm(Key(Method.RDP_COOKIE, "anna"), "ts1", now=0)
        failures = 0
        while (changes := database.take_changes(now=0.0, wall=WALL)) is not None:
            try:
                database.write(changes)
            except StoreError:
                database.put_back(changes)
                failures += 1
                assert failures < 3
        assert database.recovered_from is not None
    with closing(open_database(path)) as database:
        assert {server: Override(Intent.DRAIN)} == database.overrides()
    assert COUNT + 1 == len(stored(path))
