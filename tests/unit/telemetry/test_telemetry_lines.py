"""Events with fixed fields: logged as all others are, those of one turn of the loop in one write."""

import asyncio
import hashlib
import hmac
import io
import itertools
import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.account import Account, SessionClosed
from rdpbalancer.telemetry.log_output import Line
from rdpbalancer.telemetry.logs import configure
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.telemetry.users import UserMasking
from tests.unit.telemetry.samples import RECORD, facts

FORMATS = ["json", "logfmt", "console"]
LEVELS = ["debug", "info", "warning", "error"]
HOSTILE = "a\x1b]0;owned\x07\nlevel=error event=fake\r\x9b31m\x7f\x85"


class Happened(Line, kw_only=True):
    """An event with a few fields of each kind."""

    event: str = "happened"
    number: int
    user: str | None = None
    share: float = 0.5


class Writes(io.StringIO):
    """A stream that remembers what came in one write, and what of it was handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.flushed = 0

    def write(self, text: str) -> int:
        """Remember it."""
        self.writes.append(text)
        return super().write(text)

    def flush(self) -> None:
        """Count what needs no other flush."""
        self.flushed = len(self.writes)


class RawWrites(io.RawIOBase):
    """What a file that is appended to line by line hands to the operating system."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Remember it."""
        self.writes.append(bytes(data))
        return len(data)


def to(log_format: str = "json", level: str = "info") -> Writes:
    """Log to a stream that counts, and return it."""
    stream = Writes()
    configure(log_format=log_format, level=level, process="router", stream=stream)
    return stream


def events(text: str) -> list[dict[str, Any]]:
    """Return the objects of a text of whole lines."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def numbers(text: str) -> list[Any]:
    """Return the number, or else the event, of each line."""
    return [event.get("number", event["event"]) for event in events(text)]


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a few lines in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


# ---- one line --------------------------------------------------------------------------------------


def test_a_line_is_one_object() -> None:
    """When, how grave, what and which process come first, then the fields as the event declares them."""
    text = to_text("json", lambda: logs.write(Happened(number=7, user="alice")))
    (event,) = events(text)
    assert ["timestamp", "level", "event", "process", "number", "user", "share"] == list(event)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", event.pop("timestamp"))
    assert {
        "level": "info",
        "event": "happened",
        "process": "router",
        "number": 7,
        "user": "alice",
        "share": 0.5,
    } == event


def to_text(log_format: str, log: Callable[[], None]) -> str:
    """Return what was logged, without a loop."""
    stream = to(log_format)
    log()
    return stream.getvalue()


def without_time(text: str) -> str:
    """Return the lines, the time taken out."""
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME", text)


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("level", ["info", "warning", "error"])
@pytest.mark.parametrize("user", ["alice", None, "", "two words", 'a"b\\c', "ä🙂", HOSTILE])
def test_a_line_looks_like_any_other_event(log_format: str, level: str, user: str | None) -> None:
    """In every format the same fields, escaped in the same way: nobody sees how it was logged."""
    line = to_text(log_format, lambda: logs.write(Happened(level=level, number=7, user=user)))
    event = to_text(
        log_format, lambda: getattr(logs.get(), level)("happened", number=7, user=user, share=0.5)
    )
    assert without_time(event) == without_time(line)


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_strangers_bytes_stay_within_their_field(log_format: str) -> None:
    """A name can neither steer the terminal nor forge a line."""
    text = to_text(log_format, lambda: logs.write(Happened(number=1, user=HOSTILE)))
    assert (1, True) == (text.count("\n"), text.endswith("\n"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_json_escapes_every_control_character_and_keeps_it() -> None:
    """C1 and DEL too, which JSON would let stand, alone or among others; a reader gets them back."""
    every = "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0xA0, 0x2028, 0x1F600)))
    stream = to()
    for user in (*every, every):
        logs.write(Happened(number=1, user=user))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", stream.getvalue())
    assert [*every, every] == [event["user"] for event in events(stream.getvalue())]


def test_whose_line_it_is_and_when_is_not_the_callers_to_say() -> None:
    """Two lines of one event differ in time only, and carry the process that writes them."""
    stream, line = to(), Happened(number=1, process="somebody else")
    logs.write(line)
    logs.write(line)
    first, second = events(stream.getvalue())
    assert ["router", "router"] == [first["process"], second["process"]]
    assert "2000" < first["timestamp"] <= second["timestamp"]


# ---- one write -------------------------------------------------------------------------------------


def test_the_lines_of_a_turn_are_one_write() -> None:
    """Whole lines, handed on at once: other processes write to the same file."""

    async def scene() -> None:
        stream = to()
        for turn in range(3):
            for number in range(5):
                logs.write(Happened(number=number))
            assert (turn, turn) == (len(stream.writes), stream.flushed)
            await asyncio.sleep(0)
            assert (turn + 1, turn + 1) == (len(stream.writes), stream.flushed)
            assert [0, 1, 2, 3, 4] == numbers(stream.writes[-1])
        await asyncio.sleep(0)
        assert 3 == len(stream.writes)

    asyncio.run(scene())


def test_one_write_is_one_for_the_operating_system() -> None:
    """However long the turn was: a file's own buffers do not cut it into pieces."""

    async def scene() -> None:
        raw = RawWrites()
        stream = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", line_buffering=True)
        configure(log_format="json", level="info", process="router", stream=stream)
        for number in range(2000):
            logs.write(Happened(number=number, user="ä" * 50))
        await asyncio.sleep(0)
        (written,) = raw.writes
        assert list(range(2000)) == numbers(written.decode())

    asyncio.run(scene())


def test_in_a_pipe_each_write_stays_in_one_piece() -> None:
    """What is longer than PIPE_BUF could be mixed with lines of other processes (pipe(7))."""
    reading, writing = os.pipe()
    sizes: list[int] = []
    taken = b""

    class Counted(io.TextIOWrapper):
        def write(self, text: str) -> int:
            sizes.append(len(text.encode()))
            return super().write(text)

    async def turn() -> None:
        for number in range(60):
            logs.write(Happened(number=number, user="é" * 300))
        await asyncio.sleep(0)

    with os.fdopen(reading, "rb", buffering=0) as pipe, Counted(os.fdopen(writing, "wb"), "utf-8") as stream:
        configure(log_format="json", level="info", process="p", stream=stream)
        asyncio.run(turn())
        while len(taken) < sum(sizes):
            taken += pipe.read(65536) or b""
        configure(log_format="json", level="info", process="p", stream=Writes())
    assert list(range(60)) == numbers(taken.decode())
    assert max(sizes) <= select.PIPE_BUF
    assert len(sizes) < 60


def test_without_a_loop_a_line_is_written_at_once() -> None:
    """There is no turn to wait for."""
    stream = to()
    for number in range(3):
        logs.write(Happened(number=number))
        assert (number + 1, number + 1) == (len(stream.writes), stream.flushed)
    assert [0, 1, 2] == numbers(stream.getvalue())


def test_lines_come_before_what_is_logged_after_them() -> None:
    """Any other event of the turn writes what waits first: the log's order is the order of events."""

    async def scene() -> None:
        stream = to()
        logs.get().info("before")
        logs.write(Happened(number=1))
        logs.write(Happened(number=2))
        logs.get(service="ts").warning("between")
        logs.write(Happened(number=3))
        await asyncio.sleep(0)
        expected = [["before"], [1, 2], ["between"], [3]]
        assert expected == [numbers(text) for text in stream.writes]
        times = [event["timestamp"] for event in events(stream.getvalue())]
        assert sorted(times) == times

    asyncio.run(scene())


@pytest.mark.parametrize("log_format", ["logfmt", "console"])
def test_in_other_formats_order_holds_too(log_format: str) -> None:
    """There a line is an event like any other, and waits for nothing."""

    async def scene() -> None:
        stream = to(log_format)
        logs.write(Happened(number=1))
        logs.get().info("between")
        logs.write(Happened(number=2))
        found = re.findall(r"number=\d|between", stream.getvalue())
        assert ["number=1", "between", "number=2"] == found
        before = stream.getvalue()
        await asyncio.sleep(0)
        assert before == stream.getvalue()

    asyncio.run(scene())


def test_the_last_turn_is_written_too() -> None:
    """A loop that ends, in order or by an error, takes no line with it."""

    async def scene(stream: Writes, number: int) -> None:
        logs.write(Happened(number=number))
        assert number == len(stream.writes)
        if number:
            raise ValueError

    stream = to()
    asyncio.run(scene(stream, 0))
    with pytest.raises(ValueError):  # noqa: PT011 (our own)
        asyncio.run(scene(stream, 1))
    assert [0, 1] == numbers(stream.getvalue())


_ENDS_AT_ONCE = """
import asyncio
from tests.unit.telemetry.test_telemetry_lines import Happened
from rdpbalancer.telemetry import logs

logs.write(Happened(number=0))
assert logs.wanted("debug")
logs.configure(log_format="json", level="info", process="router")

async def main():
    logs.write(Happened(number=1))
    logs.write(Happened(number=2))
    raise SystemExit(3)

loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(main())
finally:
    loop.close()
"""


def test_a_process_that_ends_writes_what_waits() -> None:
    """Its loop may never turn again. What was logged before there was a log is nobody's."""
    done = python(_ENDS_AT_ONCE)
    assert (3, [1, 2]) == (done.returncode, numbers(done.stderr))


# ---- levels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_level_is_the_least_that_is_written(log_format: str, level: str) -> None:
    """As for all events; `wanted` says so before the fields are gathered."""
    stream = to(log_format, level)
    for name in LEVELS:
        logs.write(Happened(level=name, number=1))
    expected = LEVELS[LEVELS.index(level) :]
    assert expected == [name for name in LEVELS if logs.wanted(name)]
    assert expected == re.findall("debug|info|warning|error", stream.getvalue())


def test_the_opening_of_a_session_is_told_where_it_is_wanted() -> None:
    """At debug it is, above it is not."""
    for level, expected in (("debug", ["session_opened"]), ("info", [])):
        stream = to(level=level)
        Account(Metrics(), UserMasking("plain", b"key")).opened(facts())
        assert expected == re.findall("session_opened", stream.getvalue())


# ---- configured anew -------------------------------------------------------------------------------


def file_log(path: Path, level: str = "info") -> None:
    """Log to a file from now on."""
    configure(log_format="json", level=level, process="router", file=path)


def test_configured_anew_what_waits_goes_where_it_was_meant_to(tmp_path: Path) -> None:
    """First to the old file, which is then closed; what is logged later goes to the new one."""
    old, new = tmp_path / "old", tmp_path / "new"

    async def scene() -> None:
        file_log(old)
        logs.write(Happened(number=1))
        file_log(new)
        assert [1] == numbers(old.read_text())
        logs.write(Happened(number=2))
        logs.get().info("event")
        logs.write(Happened(number=3))
        await asyncio.sleep(0)
        logs.flush()
        assert ([1], [2, "event", 3]) == (numbers(old.read_text()), numbers(new.read_text()))

    asyncio.run(scene())


def test_configured_anew_with_the_same_file_the_order_stays(tmp_path: Path) -> None:
    """A reload that changes nothing loses nothing, writes nothing twice; a changed level counts at once."""
    path = tmp_path / "log"

    async def scene() -> None:
        for number in range(3):
            file_log(path)
            logs.write(Happened(number=number))
        file_log(path, "warning")
        logs.write(Happened(number=3))
        logs.write(Happened(number=4, level="error"))
        await asyncio.sleep(0)
        logs.flush()
        assert [0, 1, 2, 4] == numbers(path.read_text())

    asyncio.run(scene())


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    """What waits, and what comes, goes where it went."""

    async def scene() -> None:
        stream = to()
        logs.write(Happened(number=1))
        with pytest.raises(ConfigurationError):
            file_log(tmp_path / "missing" / "log")
        logs.write(Happened(number=2))
        await asyncio.sleep(0)
        assert [[1, 2]] == [numbers(text) for text in stream.writes]

    asyncio.run(scene())


_LEAVES_A_FULL_DISK = """
import asyncio
import sys
import time
from pathlib import Path
from tests.unit.telemetry.test_telemetry_lines import Happened, file_log
from rdpbalancer.telemetry import logs

async def main():
    asyncio.get_running_loop().set_exception_handler(lambda *_: sys.exit("the loop was told"))
    file_log(Path("/dev/full"))
    logs.write(Happened(number=1))
    logs.get().info("event")
    while not logs.trouble():
        await asyncio.sleep(0.001)
    print(logs.trouble())
    logs.write(Happened(number=2))
    file_log(Path(sys.argv[1]))
    logs.write(Happened(number=3))
    logs.get().info("event")
    while logs.lost() < 3:
        await asyncio.sleep(0.001)
    print(logs.trouble(), logs.lost())

asyncio.run(main())
"""


def test_from_a_full_disk_one_can_move_to_another(tmp_path: Path) -> None:
    """What could not be written is lost and counted; the new file is in use for all events at once.

    Nobody who logs is told by an error: it would end what has nothing to do with the log.
    """
    done = python(_LEAVES_A_FULL_DISK, str(tmp_path / "new"))
    assert (0, "") == (done.returncode, done.stderr)
    assert ["No space left on device", " 3"] == done.stdout.splitlines()
    assert [3, "event"] == numbers((tmp_path / "new").read_text())


# ---- records of sessions ---------------------------------------------------------------------------


def test_records_of_a_turn_are_one_write() -> None:
    """In the documented order, each a whole line."""

    async def scene() -> None:
        stream = to()
        account = Account(Metrics(), UserMasking("plain", b"key"))
        for number in range(3):
            account.closed(msgspec.structs.replace(RECORD, facts=facts(id=f"s{number}")))
        assert [] == stream.writes
        await asyncio.sleep(0)
        (text,) = stream.writes
        assert ["s0", "s1", "s2"] == [event["session"] for event in events(text)]
        fields = [name for name in SessionClosed.__struct_fields__ if name not in Line.__struct_fields__]
        for event in events(text):
            assert ["timestamp", "level", "event", "process", *fields] == list(event)

    asyncio.run(scene())


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_record_is_the_same_in_every_format(log_format: str) -> None:
    """The words of reasons and methods, not their names in the code; a stranger's name escaped."""
    account = Account(Metrics(), UserMasking("plain", b"key"))
    record = msgspec.structs.replace(RECORD, facts=facts(user=HOSTILE, token=None))
    told = json.loads(msgspec.json.encode(account.line(record)))
    for name in Line.__struct_fields__:
        del told[name]
    event = to_text(log_format, lambda: logs.get().info("session_closed", **told))
    line = to_text(log_format, lambda: account.closed(record))
    assert without_time(event) == without_time(line)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", line)


# ---- users -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["Alice", "EXAMPLE\\alice", "ä" * 60, "", HOSTILE])
def test_a_users_hash_is_what_it_was(user: str) -> None:
    """HMAC-SHA-256 of the name in lower case, 16 digits: old logs and new ones tell of the same user."""
    key = bytes(range(32))
    expected = hmac.new(key, user.lower().encode(), hashlib.sha256).hexdigest()[:16]
    names = UserMasking("hash", key)
    assert [expected] * 3 == [names(user), names(user), names(user.upper().lower())]


def test_a_known_hash() -> None:
    """As OpenSSL has it, so that nobody changes it and its test together."""
    assert "6664a42048c6d6d7" == UserMasking("hash", b"k" * 32)("Alice")


def test_the_memory_for_hashes_is_bounded() -> None:
    """Strangers bring a new name each time; who was forgotten meanwhile has the same hash again."""
    names = UserMasking("hash", b"k" * 32)
    before = names("alice")
    hashes = {names(f"stranger {number}") for number in range(10_000)}
    assert 10_000 == len(hashes)
    assert names._hash.cache_info().currsize <= 4096
    assert before == names("alice")


def test_two_installations_share_no_memory_of_hashes() -> None:
    """Each has its own key, whatever the order in which they are asked."""
    one, other = (UserMasking("hash", key * 32) for key in (b"1", b"2"))
    for first, second in itertools.permutations((one, other)):
        assert first("alice") != second("alice")
