"""The durable copy: what is taken, written, put back, forgotten, and found again."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from rdpbalancer.core.persist import Binding
from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import Intent, Key, Method, ServerId
from rdpbalancer.stores.sqlite import MAX_CHANGES, Database

ANNA = Key(Method.RDP_COOKIE, "anna")
BERT = Key(Method.RDP_COOKIE, "bert")
TS1 = ServerId("farm", "ts1")
WALL = 1_700_000_000.0


class Disk:
    """One state file, opened as often as a test likes; all is closed at the end."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self._stack = stack

    def open(self, *, now: float = 0.0, wall: float = WALL) -> Database:
        """Open the file as a new process would."""
        database = Database.open(self.path, now=now, wall=wall)
        self._stack.callback(database.close)
        return database

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Ask the file itself."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with ExitStack() as stack:
        yield Disk(tmp_path / "state" / "of" / "state.db", stack)


def write_all(database: Database, *, now: float = 0.0, wall: float = WALL) -> int:
    """Write until nothing is left; return the number of transactions."""
    count = 0
    while (changes := database.take_changes(now=now, wall=wall)) is not None:
        database.write(changes)
        count += 1
    return count


def test_the_file_and_its_folder_are_made_and_private(disk: Disk) -> None:
    """User names are in it: nobody but the service's user reads it, not its log either."""
    database = disk.open()
    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    write_all(database)
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in disk.path.parent.iterdir()}
    assert {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600} == names
    assert 0o700 == stat.S_IMODE(disk.path.parent.stat().st_mode)


def test_a_file_that_everybody_may_read_is_made_private(disk: Disk) -> None:
    """A restored backup with loose rights is put right."""
    disk.open().close()
    disk.path.chmod(0o644)
    disk.open()
    assert 0o600 == stat.S_IMODE(disk.path.stat().st_mode)


def test_nothing_changed_is_nothing_to_write(disk: Disk) -> None:
    """An idle service leaves its disk alone."""
    database = disk.open()
    store = database.bindings("farm")
    store.claim(ANNA, "ts1", now=0, hold_s=15)
    assert not database.dirty
    assert None is database.take_changes(now=0, wall=WALL)


def test_services_are_kept_apart(disk: Disk) -> None:
    """The same key in two services is two bindings."""
    database = disk.open()
    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    database.bindings("gateway").confirm(ANNA, "gw1", now=0)
    write_all(database)
    database = disk.open()
    assert {"farm", "gateway"} == database.services()
    found = {name: database.bindings(name).get(ANNA, now=0) for name in ("farm", "gateway", "other")}
    assert {"farm": "ts1", "gateway": "gw1", "other": None} == {
        name: binding and binding.server for name, binding in found.items()
    }


def test_the_store_of_a_service_is_one(disk: Disk) -> None:
    """Asking again, at a reload, gives the same bindings, under the new bound."""
    database = disk.open()
    store = database.bindings("farm", max_entries=2)
    for key in (ANNA, BERT):
        store.move(key, "ts1", now=0, ttl_s=60)
    assert store is database.bindings("farm", max_entries=1)
    assert {BERT} == {binding.key for binding in store.entries(now=0)}


def test_life_goes_on_while_the_service_is_away(disk: Disk) -> None:
    """A binding's time runs by the wall clock between two runs, whatever their monotonic clocks say."""
    database = disk.open(now=5000)
    store = database.bindings("farm")
    store.move(ANNA, "ts1", now=5000, ttl_s=3600)
    store.move(BERT, "ts1", now=5000, ttl_s=60)
    write_all(database, now=5010, wall=WALL + 10)
    database.close()
    store = disk.open(now=7, wall=WALL + 600).bindings("farm")
    assert [Binding(ANNA, "ts1", confirmed=True, expires_at=7 + 3000)] == list(store.entries(now=7))
    assert [(b"anna",)] == disk.rows("SELECT value FROM binding")


def test_pinned_bindings_come_back_pinned(disk: Disk) -> None:
    """Sessions live on in the relays while the router is away, however long."""
    database = disk.open()
    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    write_all(database)
    database.close()
    store = disk.open(wall=WALL + 1e8).bindings("farm")
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=0)


def test_a_smaller_bound_at_the_next_start_holds_in_the_file_too(disk: Disk) -> None:
    """Those that expire first give way."""
    database = disk.open()
    store = database.bindings("farm")
    store.move(ANNA, "ts1", now=0, ttl_s=60)
    store.move(BERT, "ts1", now=0, ttl_s=30)
    write_all(database)
    database.close()
    database = disk.open()
    assert 1 == database.bindings("farm", max_entries=1).evictions
    write_all(database)
    assert [(b"anna",)] == disk.rows("SELECT value FROM binding")


def test_the_operators_word_is_kept(disk: Disk) -> None:
    """A drained server is drained after a restart; what was taken back is gone."""
    database = disk.open()
    drained = Override(Intent.DRAIN, strict=True, weight=7)
    for name in ("ts1", "ts2", "ts3"):
        database.set_override(ServerId("farm", name), drained)
    write_all(database)
    database.set_override(ServerId("farm", "ts2"), None)
    database.set_override(ServerId("farm", "ts3"), Override(Intent.HALT))
    write_all(database)
    expected = {TS1: drained, ServerId("farm", "ts3"): Override(Intent.HALT)}
    assert expected == database.overrides()
    database = disk.open()
    assert expected == database.overrides()
    assert {"farm"} == database.services()


def test_a_forgotten_service_leaves_nothing(disk: Disk) -> None:
    """Its bindings and overrides go from the file, whether it had been asked for or not; others stay."""
    database = disk.open()
    for name in ("farm", "old", "older"):
        database.bindings(name).confirm(ANNA, "ts1", now=0)
        database.set_override(ServerId(name, "ts1"), Override(Intent.DRAIN))
    write_all(database)
    database = disk.open()
    store = database.bindings("old")
    database.set_override(ServerId("old", "ts2"), Override(Intent.HALT))
    for name in ("old", "older"):
        database.forget_service(name)
    store.confirm(BERT, "ts1", now=0)  # a session that was still under way
    write_all(database)
    assert {"farm"} == database.services()
    assert [("farm",)] == disk.rows("SELECT service FROM binding")
    assert [("farm",)] == disk.rows("SELECT service FROM override")


def test_a_service_that_comes_back_begins_empty(disk: Disk) -> None:
    """What it got since it was forgotten is kept, in the same transaction as the forgetting."""
    database = disk.open()
    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    write_all(database)
    database.forget_service("farm")
    store = database.bindings("farm")
    assert None is store.get(ANNA, now=0)
    store.confirm(BERT, "ts2", now=0)
    database.set_override(TS1, Override(Intent.DRAIN))
    assert 1 == write_all(database)
    assert [(b"bert", "ts2")] == disk.rows("SELECT value, server FROM binding")
    assert [("ts1", "drain")] == disk.rows("SELECT server, intent FROM override")


def test_what_is_put_back_is_taken_again(disk: Disk) -> None:
    """A failed write loses nothing: bindings, deletions, overrides, forgotten services."""
    database = disk.open()
    database.bindings("old").confirm(ANNA, "ts1", now=0)
    store = database.bindings("farm")
    store.confirm(ANNA, "ts1", now=0)
    write_all(database)
    store.delete(ANNA)
    store.confirm(BERT, "ts1", now=0)
    database.set_override(TS1, Override(Intent.DRAIN))
    database.forget_service("old")
    changes = database.take_changes(now=0, wall=WALL)
    assert changes is not None
    assert not database.dirty
    database.put_back(changes)
    assert changes == database.take_changes(now=0, wall=WALL)
    database.write(changes)
    assert [("farm", b"bert")] == disk.rows("SELECT service, value FROM binding")
    assert [("ts1", "drain")] == disk.rows("SELECT server, intent FROM override")


def test_what_changed_while_a_write_failed_is_written_as_it_is_then(disk: Disk) -> None:
    """Putting back never overwrites anything newer."""
    database = disk.open()
    store = database.bindings("farm")
    store.confirm(ANNA, "ts1", now=0)
    store.confirm(BERT, "ts1", now=0)
    database.set_override(TS1, Override(Intent.DRAIN))
    changes = database.take_changes(now=0, wall=WALL)
    assert changes is not None
    store.confirm(ANNA, "ts2", now=1)
    store.delete(BERT)
    database.set_override(TS1, None)
    database.put_back(changes)
    write_all(database)
    assert [(b"anna", "ts2")] == disk.rows("SELECT value, server FROM binding")
    assert [] == disk.rows("SELECT server FROM override")


def test_putting_back_does_not_revive_a_forgotten_service(disk: Disk) -> None:
    """A service that was removed while its last write failed stays removed."""
    database = disk.open()
    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    database.set_override(TS1, Override(Intent.DRAIN))
    changes = database.take_changes(now=0, wall=WALL)
    assert changes is not None
    database.forget_service("farm")
    database.put_back(changes)
    write_all(database)
    assert set() == database.services()
    assert [] == disk.rows("SELECT service FROM binding UNION SELECT service FROM override")


def test_a_mass_change_is_written_in_parts_the_oldest_first(disk: Disk) -> None:
    """The loop's thread never pays for more than one part at once, and none is forgotten."""
    database = disk.open()
    names = ("farm", "gateway")
    for name in names:
        store = database.bindings(name)
        for number in range(MAX_CHANGES):
            store.confirm(Key(Method.RDP_COOKIE, f"user{number:05}"), "ts1", now=0)
    farm = database.bindings("farm")
    farm.confirm(ANNA, "ts1", now=0)
    changes = database.take_changes(now=0, wall=WALL)
    assert changes is not None
    assert MAX_CHANGES == len(changes.bound)
    assert b"user00000" == changes.bound[0].value
    assert b"anna" not in {row.value for row in changes.bound}
    database.put_back(changes)
    assert 3 == write_all(database)
    assert [("farm", MAX_CHANGES + 1), ("gateway", MAX_CHANGES)] == disk.rows(
        "SELECT service, count(*) FROM binding GROUP BY service"
    )


def test_a_newer_schema_is_left_alone(disk: Disk) -> None:
    """After a downgrade the operator decides, and is told what there is to decide."""
    disk.open().close()
    with closing(sqlite3.connect(disk.path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = disk.path.read_bytes()
    with pytest.raises(StoreError, match=r"newer rdpbalancer .*run that version, or move the file") as caught:
        disk.open()
    assert "state-newer" == caught.value.code
    assert before == disk.path.read_bytes()


def test_another_programs_database_is_left_alone(disk: Disk) -> None:
    """A wrong path in the configuration destroys nothing."""
    disk.path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(disk.path)) as connection:
        connection.execute("CREATE TABLE binding (sheets INTEGER)")
    before = disk.path.read_bytes()
    with pytest.raises(StoreError, match=r"another program's database; set global\.state_dir") as caught:
        disk.open()
    assert "state-foreign" == caught.value.code
    assert before == disk.path.read_bytes()


def test_an_impossible_folder_is_said_to_be_so(disk: Disk, tmp_path: Path) -> None:
    """The error names the file and what to look at."""
    (tmp_path / "state").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"state\.db: .*check the folder and its rights") as caught:
        disk.open()
    assert "state-unreachable" == caught.value.code


def test_writing_after_closing_is_refused(disk: Disk) -> None:
    """A defect of ours does not silently open the file again."""
    database = disk.open()
    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    changes = database.take_changes(now=0, wall=WALL)
    assert changes is not None
    database.close()
    database.close()
    with pytest.raises(StoreError, match="after it was closed"):
        database.write(changes)


def test_a_file_with_other_columns_is_said_to_be_unusable(disk: Disk) -> None:
    """What somebody has altered by hand is neither guessed at nor overwritten."""
    disk.open().close()
    with closing(sqlite3.connect(disk.path)) as connection:
        connection.execute("ALTER TABLE binding RENAME COLUMN server TO host")
    with pytest.raises(StoreError, match="no such column: server") as caught:
        disk.open()
    assert "state-failed" == caught.value.code
