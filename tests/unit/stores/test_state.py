"""The durable copy: what is taken, written, put back, forgotten, and found again."""

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from rdpbalancer.core.persistence import Binding
from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import Intent, Key, Method, ServerId
from rdpbalancer.stores.absent import ABSENT_MAX_AGE_S
from rdpbalancer.stores.schema import OLDEST_READER
from rdpbalancer.stores.sqlite_backend import open_file
from rdpbalancer.stores.state import MAX_CHANGES, DurableState

ANNA = Key(Method.RDP_COOKIE, "anna")
BERT = Key(Method.RDP_COOKIE, "bert")
TS1 = ServerId("farm", "ts1")
WALL = 1_700_000_000.0


class Disk:
    """One state file, opened as often as a test likes; all is closed at the end."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self._stack = stack

    def open(self, *, now: float = 0.0, wall: float = WALL) -> DurableState:
        """Open the file as a new process would."""
        database = DurableState.open(self.path, now=now, wall=wall)
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


def write_all(database: DurableState, *, now: float = 0.0, wall: float = WALL) -> int:
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
    database = disk.open(now=7, wall=WALL + 600)
    store = database.bindings("farm")
    database.load_all()
    assert [Binding(ANNA, "ts1", confirmed=True, expires_at=7 + 3000)] == list(store.entries(now=7))
    database.sweep()
    write_all(database, wall=WALL + 600)
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
    store = database.bindings("farm", max_entries=1)
    database.load_all()
    assert 1 == store.evictions
    write_all(database)
    assert [(b"anna",)] == disk.rows("SELECT value FROM binding")


def test_the_operators_word_is_kept(disk: Disk) -> None:
    """A drained server is drained after a restart; what was taken back is gone."""
    database = disk.open()
    drained = Override(Intent.DRAIN, strict=True, weight=7, reason="new disks", actor="cli:anna", since=WALL)
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
        connection.execute(f"PRAGMA user_version = {OLDEST_READER + 1}")
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


# ---- loading ---------------------------------------------------------------------------------------


def users(count: int) -> list[Key]:
    return [Key(Method.RDP_COOKIE, f"user{number:03}") for number in range(count)]


def filled(disk: Disk, count: int) -> None:
    """Make a file with bindings of so many users; the higher the number, the later it ends."""
    database = disk.open()
    store = database.bindings("farm")
    for number, key in enumerate(users(count)):
        store.move(key, "ts1", now=0, ttl_s=100 + number)
    write_all(database)
    database.close()


def test_a_key_is_found_before_the_table_is_loaded(disk: Disk) -> None:
    """From the first login on users reach their servers, however large the table is."""
    filled(disk, 10)
    database = disk.open()
    store = database.bindings("farm")
    assert ["farm"] == database.loading()
    bound = store.get(users(10)[3], now=0)
    assert bound is not None
    assert ("ts1", 103) == (bound.server, bound.expires_at)
    assert 10 == store.counts()[Method.RDP_COOKIE]
    assert 1 == len(store)


def test_what_happens_while_the_table_is_loaded_counts(disk: Disk) -> None:
    """A row that is older than what memory says is passed over: moved, deleted, confirmed elsewhere."""
    filled(disk, 6)
    database = disk.open()
    store = database.bindings("farm")
    keys = users(6)
    slices = database.rows_of("farm", size=2)
    database.load("farm", next(slices))  # 5 and 4
    store.move(keys[5], "ts2", now=0, ttl_s=50)
    store.delete(keys[4])
    store.move(keys[1], "ts2", now=0, ttl_s=50)
    store.delete(keys[0])
    for found in slices:
        database.load("farm", found)
    database.load("farm", [])
    assert [] == database.loading()
    servers = {key: bound.server for key in keys if (bound := store.get(key, now=0)) is not None}
    assert {keys[1]: "ts2", keys[2]: "ts1", keys[3]: "ts1", keys[5]: "ts2"} == servers
    assert 4 == store.counts()[Method.RDP_COOKIE] == len(store)
    write_all(database)
    database.close()
    again = disk.open().bindings("farm")
    found_again = {key: bound.server for key in keys if (bound := again.get(key, now=0)) is not None}
    assert servers == found_again


def test_what_was_loaded_gives_way_before_what_is_new(disk: Disk) -> None:
    """The order of use goes on over a restart, whatever order the rows come in."""
    filled(disk, 4)
    database = disk.open()
    store = database.bindings("farm", max_entries=5)
    store.move(ANNA, "ts1", now=0, ttl_s=10)
    database.load_all()
    store.move(BERT, "ts1", now=0, ttl_s=10)
    left = {binding.key for binding in store.entries(now=0)}
    assert {ANNA, BERT, *users(4)[1:]} == left


def test_slices_that_come_again_after_an_error_change_nothing(disk: Disk) -> None:
    """Reading is begun anew after an error of the disk; what is in memory is counted once."""
    filled(disk, 6)
    database = disk.open()
    store = database.bindings("farm")
    database.load("farm", next(database.rows_of("farm", size=4)))
    database.load_all()
    assert 6 == store.counts()[Method.RDP_COOKIE] == len(store)


# ---- what the configuration does not have ----------------------------------------------------------


def test_a_server_that_is_not_configured_keeps_its_override(disk: Disk) -> None:
    """A trial run with another configuration puts no halted server online, and forgets no desktop."""
    halted = Override(Intent.HALT, reason="no memory", actor="cli:anna", since=WALL)
    database = disk.open()
    database.bindings("farm").move(ANNA, "ts1", now=0, ttl_s=1e6)
    database.set_override(TS1, halted)
    database.see_configured([TS1], wall=WALL)
    write_all(database)
    database.close()
    other = disk.open()
    other.bindings("trial")
    other.see_configured([ServerId("trial", "ts9")], wall=WALL + 60)
    assert 0 == other.forget_absent([ServerId("trial", "ts9")], wall=WALL + 60)
    write_all(other, wall=WALL + 60)
    other.close()
    database = disk.open(wall=WALL + 120)
    assert {TS1: halted} == database.overrides()
    bound = database.bindings("farm").get(ANNA, now=0)
    assert bound is not None
    assert "ts1" == bound.server


def test_what_is_absent_for_long_is_forgotten(disk: Disk) -> None:
    """Thirty days after a service or a server was last configured, and not before."""
    gone, stays = ServerId("old", "ts1"), ServerId("farm", "ts2")
    database = disk.open()
    database.bindings("old").confirm(ANNA, "ts1", now=0)
    for server in (gone, stays, TS1):
        database.set_override(server, Override(Intent.HALT))
    database.see_configured([gone, stays, TS1], wall=WALL)
    write_all(database)
    database.close()
    later = WALL + ABSENT_MAX_AGE_S
    database = disk.open(wall=later)
    database.see_configured([TS1], wall=later)
    assert 0 == database.forget_absent([TS1], wall=later)
    assert 3 == database.forget_absent([TS1], wall=later + 1)  # ts1 of old, old itself, ts2 of farm
    assert {TS1} == set(database.overrides())
    write_all(database, wall=later + 1)
    assert [("farm", "ts1")] == disk.rows("SELECT service, server FROM override")
    assert [] == disk.rows("SELECT service FROM binding")
    assert [("farm", ""), ("farm", "ts1")] == disk.rows("SELECT service, server FROM configured")


def test_a_service_that_comes_back_late_is_written_down_again(disk: Disk) -> None:
    """It was absent for longer than thirty days, but its sessions and its store have lived on."""
    database = disk.open()
    store = database.bindings("farm")
    store.confirm(ANNA, "ts1", now=0)
    database.see_configured([TS1], wall=WALL)
    write_all(database)
    later = WALL + ABSENT_MAX_AGE_S + 1
    database.forget_absent([ServerId("other", "ts1")], wall=later)
    write_all(database, wall=later)
    store.confirm(BERT, "ts1", now=0)
    write_all(database, wall=later)
    assert [(b"anna",), (b"bert",)] == disk.rows("SELECT value FROM binding ORDER BY value")


def test_the_longest_absent_gives_way_to_too_many(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that change every day do not fill the disk."""
    monkeypatch.setattr("rdpbalancer.stores.absent.MAX_ABSENT_OVERRIDES", 2)
    database = disk.open()
    for day in range(4):
        server = ServerId("farm", f"ts-{day}")
        database.set_override(server, Override(Intent.HALT))
        database.see_configured([server], wall=WALL + day)
    assert 2 == database.forget_absent([TS1], wall=WALL + 4)
    assert {"ts-2", "ts-3"} == {server.name for server in database.overrides()}


def test_a_file_without_the_time_of_the_last_sight_is_given_its_time(disk: Disk) -> None:
    """Of an earlier version: its thirty days begin now."""
    database = disk.open()
    database.set_override(TS1, Override(Intent.HALT))
    assert 0 == database.forget_absent([], wall=WALL)
    assert 0 == database.forget_absent([], wall=WALL + ABSENT_MAX_AGE_S)
    assert 1 == database.forget_absent([], wall=WALL + ABSENT_MAX_AGE_S + 1)


# ---- a file that comes later -----------------------------------------------------------------------


def test_a_file_that_can_be_opened_later_is_taken_beneath(disk: Disk) -> None:
    """What was decided without it holds; what it alone knows comes back; all is written to it."""
    filled(disk, 3)
    keys = users(3)
    with closing(disk.open()) as before:
        before.set_override(TS1, Override(Intent.HALT))
        before.set_override(ServerId("farm", "ts2"), Override(Intent.DRAIN))
        write_all(before)
    database = DurableState()
    store = database.bindings("farm")
    store.move(keys[0], "ts2", now=0, ttl_s=60)
    store.confirm(ANNA, "ts2", now=0)
    database.set_override(TS1, None)
    assert not database.attached
    file, contents = open_file(disk.path, wall=WALL)
    database.attach(file, contents, now=0, wall=WALL)
    assert database.attached
    assert {ServerId("farm", "ts2"): Override(Intent.DRAIN)} == database.overrides()
    database.load_all()
    servers = {binding.key: binding.server for binding in store.entries(now=0)}
    expected = {keys[0]: "ts2", keys[1]: "ts1", keys[2]: "ts1", ANNA: "ts2"}
    assert expected == servers
    assert 4 == store.counts()[Method.RDP_COOKIE]
    write_all(database)
    database.close()
    again = disk.open()
    store = again.bindings("farm")
    again.load_all()
    assert expected == {binding.key: binding.server for binding in store.entries(now=0)}
    assert [("ts2", "drain")] == disk.rows("SELECT server, intent FROM override")


# ---- other versions --------------------------------------------------------------------------------


def test_a_file_of_the_first_version_gets_its_columns(disk: Disk) -> None:
    """Its bindings and overrides are there, and what is new can be kept."""
    disk.path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(disk.path)) as connection:
        connection.executescript(FIRST_VERSION)
    database = disk.open()
    assert {TS1: Override(Intent.HALT, weight=5)} == database.overrides()
    bound = database.bindings("farm").get(ANNA, now=0)
    assert bound is not None
    assert "ts1" == bound.server
    halted = Override(Intent.HALT, reason="r", actor="cli:anna", since=1.0)
    database.set_override(TS1, halted)
    write_all(database)
    assert {TS1: halted} == disk.open().overrides()


def test_what_a_newer_version_keeps_beside_is_carried(disk: Disk) -> None:
    """Columns and tables that this version does not know survive its writing."""
    database = disk.open()
    database.bindings("farm").confirm(ANNA, "ts1", now=0)
    database.set_override(TS1, Override(Intent.HALT))
    write_all(database)
    with closing(sqlite3.connect(disk.path)) as connection:
        connection.execute("ALTER TABLE override ADD COLUMN deadline REAL")
        connection.execute("ALTER TABLE binding ADD COLUMN node TEXT NOT NULL DEFAULT ''")
        connection.execute("CREATE TABLE act (id TEXT PRIMARY KEY)")
        connection.execute("UPDATE override SET deadline = 7.5")
        connection.execute("UPDATE binding SET node = 'one'")
        connection.execute("INSERT INTO act VALUES ('a:1')")
        connection.commit()
    database = disk.open()
    database.bindings("farm").move(ANNA, "ts2", now=0, ttl_s=60)
    database.set_override(TS1, Override(Intent.DRAIN))
    write_all(database)
    assert [("drain", 7.5)] == disk.rows("SELECT intent, deadline FROM override")
    assert [("ts2", "one")] == disk.rows("SELECT server, node FROM binding")
    assert [("a:1",)] == disk.rows("SELECT id FROM act")


# The file as the first version wrote it.
FIRST_VERSION = """
CREATE TABLE binding (
    service TEXT NOT NULL, method TEXT NOT NULL, value BLOB NOT NULL, server TEXT NOT NULL,
    expires_at REAL, life_s REAL, PRIMARY KEY (service, method, value)) WITHOUT ROWID;
CREATE TABLE override (
    service TEXT NOT NULL, server TEXT NOT NULL, intent TEXT NOT NULL, strict INTEGER NOT NULL,
    weight INTEGER, PRIMARY KEY (service, server)) WITHOUT ROWID;
INSERT INTO binding VALUES ('farm', 'rdp-cookie', CAST('anna' AS BLOB), 'ts1', NULL, NULL);
INSERT INTO override VALUES ('farm', 'ts1', 'halt', 0, 5);
PRAGMA application_id = 1380208706;
PRAGMA user_version = 1;
"""
