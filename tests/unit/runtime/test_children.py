"""Child processes: real ones, however they end."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rdpbalancer.ipc import relay_messages
from rdpbalancer.ipc.channel import pair
from rdpbalancer.runtime import children, program
from rdpbalancer.runtime.children import Child
from rdpbalancer.runtime.signals import HARMLESS
from tests.support.wait import wait_until_async

PATIENCE_S = 20.0


class Watcher:
    """Hears what a child says and how it ends."""

    def __init__(self, pid: int, line: socket.socket, failures: int | None = None) -> None:
        self.said: list[msgspec.Struct] = []
        self.ends: list[str] = []
        self.child = Child(
            "relay",
            pid,
            line,
            failures=failures,
            decoder=relay_messages.FROM_RELAY,
            on_message=lambda _, message: self.said.append(message),
            on_exit=lambda _, how: self.ends.append(how),
        )

    async def end(self) -> str:
        """Wait for the child's end, and return how it came."""
        await wait_until_async(lambda: bool(self.ends), PATIENCE_S, "the end of the child")
        assert 1 == len(self.ends)
        return self.ends[0]


def tiny(code: str) -> tuple[int, socket.socket]:
    """Start a tiny process, as `children.start` does; return its pid and our end of a line to it."""
    ours, theirs = pair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
    process.returncode = 0  # reaped by `Child`
    return process.pid, ours


@pytest.fixture
async def watch() -> AsyncIterator[Callable[[str], Watcher]]:
    """Return what starts and watches tiny processes; none outlives the test."""
    watchers: list[Watcher] = []

    def started(code: str) -> Watcher:
        watchers.append(Watcher(*tiny(code)))
        return watchers[-1]

    yield started
    for watcher in watchers:
        if not watcher.ends:
            watcher.child.kill()
            await watcher.end()


Watch = Callable[[str], Watcher]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("pass", "exit status 0"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 15)", "killed by SIGTERM"),
    ],
)
async def test_how_a_child_ended_is_said_once(watch: Watch, code: str, how: str) -> None:
    """In words for the log; it is reaped, and its line is closed."""
    watcher = watch(code)
    assert how == await watcher.end()
    assert watcher.child.channel.closed
    with pytest.raises(ProcessLookupError):
        os.kill(watcher.child.pid, 0)


async def test_a_child_that_will_not_end_is_killed(watch: Watch) -> None:
    """Twice does no harm, also when it has ended already."""
    watcher = watch("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)")
    watcher.child.kill()
    watcher.child.kill()
    assert "killed by SIGKILL" == await watcher.end()


async def test_what_a_child_says_is_heard(watch: Watch) -> None:
    """In order, before its end."""
    watcher = watch(
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1]));"
        " [s.send(bytes([0x92, 0xa4]) + b'pong' + bytes([n])) for n in (1, 2, 3)]"
    )
    await wait_until_async(lambda: len(watcher.said) == 3, PATIENCE_S, "three words")
    assert [relay_messages.PongRelay(number) for number in (1, 2, 3)] == watcher.said
    assert "exit status 0" == await watcher.end()


async def test_a_child_that_speaks_nonsense_is_still_watched(watch: Watch) -> None:
    """Its line is closed; its end is told by the kernel."""
    watcher = watch(
        "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1]));"
        " s.send(b'nonsense'); time.sleep(600)"
    )
    await wait_until_async(lambda: watcher.child.channel.closed, PATIENCE_S, "the line to be closed")
    assert ([], []) == (watcher.said, watcher.ends)
    watcher.child.kill()
    assert "killed by SIGKILL" == await watcher.end()


def descriptors() -> set[str]:
    """Return this process's open descriptors."""
    return {link.name for link in Path("/proc/self/fd").iterdir()}


def title(pid: int) -> bytes:
    """Return what `ps` shows of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_relay_as_the_supervisor_starts_it() -> None:
    """It answers over its line, ignores signals of a terminal, ends when told, and leaves no descriptor."""
    before = descriptors()
    router_end, relay_end = pair()
    archive = program.own()
    started = children.start(archive, "relay", ["1"], [relay_end])
    relay_end.close()
    pid = started.pid
    watcher = Watcher(pid, started.channel, started.failures)
    watcher.child.channel.send(relay_messages.PingRelay(7))
    await wait_until_async(lambda: bool(watcher.said), PATIENCE_S, "an answer")
    assert [relay_messages.PongRelay(7)] == watcher.said
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *HARMLESS):
        os.kill(pid, number)
    assert title(pid).startswith(b"rdpbalancer: relay 1")
    watcher.child.channel.send(relay_messages.StopRelay())
    assert "exit status 0" == await watcher.end()
    router_end.close()
    os.close(archive.code)
    await wait_until_async(lambda: descriptors() <= before, PATIENCE_S, "all descriptors to be closed")


@pytest.mark.parametrize("arguments", [["butler"], []])
def test_an_unknown_role_is_refused(arguments: list[str]) -> None:
    """Only the supervisor starts these."""
    done = subprocess.run(
        [sys.executable, "-m", "rdpbalancer.runtime.child", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0


async def test_why_a_child_ended_is_said_too() -> None:
    """The last line of what it said, and the lines before it for the log; of one that never ran, too."""
    archive = program.own()
    started = children.start(archive, "relay", ["not-a-descriptor"], [])
    watcher = Watcher(started.pid, started.channel, started.failures)
    how = await watcher.end()
    assert "exit status 1: ValueError: not enough values to unpack (expected 3, got 2)" == how
    assert "Traceback (most recent call last):" == watcher.child.last_words[0]
    started = children.start(program.Program(sys.executable, ""), "butler", [], [])
    watcher = Watcher(started.pid, started.channel, started.failures)
    assert "there is no role 'butler'" in await watcher.end()
    os.close(archive.code)


async def test_much_said_at_the_end_is_bounded() -> None:
    """A process that fills the pipe neither hangs nor fills our memory; its last line is what counts."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    code = "import sys; print('x\\n' * 500_000, file=sys.stderr); raise SystemExit('why')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=write)  # noqa: ASYNC220 (not waited for)
    process.returncode = 0
    os.close(write)
    ours, theirs = pair()
    theirs.close()
    watcher = Watcher(process.pid, ours, read)
    assert "exit status 1: why" == await watcher.end()
    assert sum(map(len, watcher.child.last_words)) <= 8192


async def test_what_a_child_tells_is_an_event_and_the_rest_is_its_last_words() -> None:
    """A relay has no log of its own; a line that only looks like an event is kept as said."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    told: list[tuple[str, str, dict[str, Any]]] = []
    words = children.LastWords(reader, lambda level, event, fields: told.append((level, event, fields)))
    event = (
        b'{"timestamp":"2026-01-01","level":"error","event":"internal_error","process":"relay","where":"x"}'
    )
    os.write(writer, event[:20])
    await asyncio.sleep(0)
    os.write(writer, event[20:] + b'\nTraceback:\n{"level": 1}\n{broken\n  at the end')
    await wait_until_async(lambda: bool(told), 5, "the event")
    os.close(writer)
    assert ["Traceback:", '{"level": 1}', "{broken", "  at the end"] == words.close()
    assert [("error", "internal_error", {"where": "x"})] == told
