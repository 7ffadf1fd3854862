"""Disks that are full, read-only, failing or locked: nothing is lost, and it is said what to do."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import Intent, Key, Method, ServerId
from rdpbalancer.stores.journal import run_journal
from rdpbalancer.stores.state import MAX_CHANGES, DurableState
from rdpbalancer.tasks import cancel_and_wait, spawn
from tests.support.programs import require_root
from tests.support.wait import wait_until, wait_until_async

pytestmark = pytest.mark.faults

TS1 = ServerId("farm", "ts1")
WALL = 1_700_000_000.0
MANY = MAX_CHANGES  # what one transaction takes


@dataclass
class Disk:
    """Opens SQLite for the store. `trouble` is SQL that brings a real error of SQLite's about, while set."""

    path: Path
    trouble: str = ""
    connections: list[sqlite3.Connection] = field(default_factory=list)

    def connect(self, path: Path) -> sqlite3.Connection:
        """Open SQLite on `path`, in trouble or not."""
        connection = sqlite3.connect(path, timeout=0.05, isolation_level=None, check_same_thread=False)
        self.connections.append(connection)
        if self.trouble:
            connection.execute(self.trouble)
        return connection

    def open(self) -> DurableState:
        """Open the durable copy over this disk."""
        return DurableState.open(self.path, now=0.0, wall=WALL, connect=self.connect)

    def begin_trouble(self, sql: str) -> None:
        """Let the connections that are open, and later ones, be in trouble."""
        self.trouble = sql
        self.connections[-1].execute(sql)

    def stored(self) -> set[bytes]:
        """What is in the file."""
        with closing(sqlite3.connect(self.path)) as connection:
            return {value for (value,) in connection.execute("SELECT value FROM binding")}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "state.db")


def names(count: int) -> list[str]:
    return [f"user{number:05}" for number in range(count)]


def fill_up(path: Path) -> None:
    with path.open("wb", buffering=0) as output:
        while True:
            output.write(bytes(4096))


def write(database: DurableState) -> None:
    """Take, write, put back on failure: what the journal does."""
    changes = database.take_changes(now=0.0, wall=WALL)
    assert changes is not None
    try:
        database.write(changes)
    except StoreError:
        database.put_back(changes)
        raise


@pytest.mark.parametrize(
    ("trouble", "code", "advice"),
    [
        ("PRAGMA max_page_count = 1", "state-full", "free some space"),
        ("PRAGMA query_only = ON", "state-read-only", "rights"),
    ],
)
def test_a_disk_in_trouble_loses_nothing(disk: Disk, trouble: str, code: str, advice: str) -> None:
    """Writes fail with the reason and what to do; once the trouble is over, all of it is written."""
    with closing(disk.open()) as database:
        store = database.bindings("farm")
        disk.begin_trouble(trouble)
        for name in names(MANY):
            store.confirm(Key(Method.RDP_COOKIE, name), "ts1", now=0)
        database.set_override(TS1, Override(Intent.DRAIN))
        for _ in range(3):
            with pytest.raises(StoreError, match=advice) as caught:
                write(database)
            assert code == caught.value.code
            assert str(disk.path) in str(caught.value)
        assert set() == disk.stored()
        disk.trouble = ""
        write(database)
        assert not database.dirty
        assert {name.encode() for name in names(MANY)} == disk.stored()
    with closing(disk.open()) as database:
        assert {TS1: Override(Intent.DRAIN)} == database.overrides()


def test_a_read_only_disk_stops_the_start(disk: Disk) -> None:
    """A service that could not keep its bindings does not begin as if it could."""
    disk.trouble = "PRAGMA query_only = ON"
    with pytest.raises(StoreError, match="rights") as caught:
        disk.open()
    assert "state-read-only" == caught.value.code


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    require_root()
    mount = shutil.which("mount")
    folder = tmp_path / "small"
    folder.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk_loses_nothing(small_disk: Path) -> None:
    """The same with the kernel's own refusal, which also strikes SQLite's log and index."""
    disk = Disk(small_disk / "state.db")
    filler = small_disk / "filler"
    with closing(disk.open()) as database:
        store = database.bindings("farm")
        store.confirm(Key(Method.RDP_COOKIE, "before"), "ts1", now=0)
        write(database)
        with pytest.raises(OSError, match="No space left"):
            fill_up(filler)
        for name in names(MANY):
            store.confirm(Key(Method.RDP_COOKIE, name), "ts1", now=0)
        for _ in range(3):
            with pytest.raises(StoreError) as caught:
                write(database)
            assert caught.value.code in {"state-full", "state-disk", "state-unreachable"}
        filler.unlink()
        write(database)
    assert {b"before", *(name.encode() for name in names(MANY))} == disk.stored()


_LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""

Lock = Callable[[Path], subprocess.Popen[bytes]]


@pytest.fixture
def lock() -> Iterator[Lock]:
    """Start another process that holds the file's lock until its standard input is closed."""
    started: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _LOCKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert b"locked\n" == process.stdout.readline()
        return process

    yield start
    for process in started:
        process.communicate(timeout=10)


def unlock(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    assert 0 == process.wait(10)


async def test_a_locked_file_is_written_once_it_is_free(disk: Disk, lock: Lock) -> None:
    """While another process holds the lock, changes wait, errors are told, and sessions go on."""
    errors: list[StoreError] = []
    with closing(disk.open()) as database:
        store = database.bindings("farm")
        other = lock(disk.path)
        journal = spawn(
            run_journal(
                database,
                interval_s=0.01,
                clock=time.monotonic,
                wall=time.time,
                on_error=errors.append,
                on_success=lambda: None,
            ),
            name="journal",
        )
        store.confirm(Key(Method.RDP_COOKIE, "anna"), "ts1", now=0)
        await wait_until_async(lambda: len(errors) >= 2, 10, "two failed writes")
        assert {"state-locked"} == {error.code for error in errors}
        store.confirm(Key(Method.RDP_COOKIE, "bert"), "ts1", now=0)
        unlock(other)
        await wait_until_async(lambda: disk.stored() == {b"anna", b"bert"}, 10, "both bindings in the file")
        await cancel_and_wait(journal)


async def test_a_last_write_that_fails_is_told(disk: Disk, lock: Lock) -> None:
    """A stop is not held up for ever by a lock, and the operator hears what was not written."""
    errors: list[StoreError] = []
    started = asyncio.Event()
    with closing(disk.open()) as database:
        store = database.bindings("farm")
        store.confirm(Key(Method.RDP_COOKIE, "anna"), "ts1", now=0)
        journal = spawn(
            run_journal(
                database,
                interval_s=0.01,
                clock=time.monotonic,
                wall=time.time,
                on_error=errors.append,
                on_success=started.set,
            ),
            name="journal",
        )
        await started.wait()
        lock(disk.path)
        store.confirm(Key(Method.RDP_COOKIE, "bert"), "ts1", now=0)
        await cancel_and_wait(journal)
        assert {"state-locked"} == {error.code for error in errors}
        assert database.dirty


def test_a_file_locked_at_the_start_is_said_to_be_so(disk: Disk, lock: Lock) -> None:
    """Two services on one state file: the second does not start, and says why."""
    disk.open().close()
    lock(disk.path)
    with pytest.raises(StoreError, match="second service") as caught:
        disk.open()
    assert "state-locked" == caught.value.code


def test_a_file_that_is_removed_under_the_service_is_written_anew(disk: Disk) -> None:
    """An operator's `rm` costs nothing: with the next change, everything is on disk again."""
    with closing(disk.open()) as database:
        store = database.bindings("farm")
        database.set_override(TS1, Override(Intent.HALT))
        for name in names(3):
            store.confirm(Key(Method.RDP_COOKIE, name), "ts1", now=0)
        write(database)
        for path in disk.path.parent.iterdir():
            path.unlink()
        store.confirm(Key(Method.RDP_COOKIE, "later"), "ts1", now=0)
        write(database)
        write(database)
        assert {b"later", *(name.encode() for name in names(3))} == disk.stored()
        assert not database.dirty
    with closing(disk.open()) as database:
        assert {TS1: Override(Intent.HALT)} == database.overrides()


def test_a_process_that_only_reads_hinders_nothing(disk: Disk) -> None:
    """A backup, or a curious administrator, may have the file open."""
    with closing(disk.open()) as database:
        with closing(sqlite3.connect(disk.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert [] == reader.execute("SELECT * FROM binding").fetchall()
            database.bindings("farm").confirm(Key(Method.RDP_COOKIE, "anna"), "ts1", now=0)
            write(database)
        wait_until(lambda: disk.stored() == {b"anna"}, 1, "the binding in the file")
