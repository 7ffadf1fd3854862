"""What the control socket's clients may cost: connections, time, memory, and the loop."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.control import connection
from rdpbalancer.control import server as control
from rdpbalancer.control.pacing import SLICE_S, Pacer
from rdpbalancer.control.peer import ControlPeer, UserLookup, peer_of
from rdpbalancer.control.protocol import MAX_REQUEST_BYTES
from rdpbalancer.control.server import MAX_OF_A_PROCESS, ControlServer
from rdpbalancer.net.descriptors import CONTROL_CLIENTS
from tests.support.wait import wait_until_async

PATIENCE_S = 5.0
PING = b'{"verb": "ping"}\n'
LARGE_BYTES = 1024 * 1024


class ControlFixture:
    """A control server whose clock the test moves, and whose clients come from processes as the test says."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.now = 1000.0
        self.pid = 0
        self.begun = 0
        self.go_on = asyncio.Event()
        self.errors: list[Exception] = []
        self.clients: list[Client] = []
        self.server = ControlServer(
            {"ping": self.ping, "large": self.large, "half": self.half, "wait": self.wait, "who": self.who},
            on_error=lambda _, error: self.errors.append(error),
            prefix="test",
            clock=lambda: self.now,
        )
        monkeypatch.setattr(control, "peer_of", lambda _: ControlPeer(self.pid or os.getpid(), os.getuid()))

    async def ping(self) -> str:
        """Answer."""
        return "pong"

    async def large(self) -> str:
        """Answer with more than a socket takes at once."""
        return "x" * LARGE_BYTES

    async def half(self) -> str:
        """Answer with half as much: so many fit into what may wait."""
        return "x" * (LARGE_BYTES // 2)

    async def wait(self) -> str:
        """Take as long as the test likes."""
        self.begun += 1
        await self.go_on.wait()
        return "done"

    async def who(self, *, actor: str = "") -> str:
        """Answer with who asks."""
        return actor

    async def connect(self, sent: bytes = b"", *, pid: int = 0, reads: bool = True) -> "Client":
        """Connect from a process of that number, and send; one that does not read never reads."""
        self.pid = pid
        before = self.server._accepted
        client = Client(*await asyncio.open_unix_connection(str(self.path), limit=2 * LARGE_BYTES))
        self.clients.append(client)
        if not reads:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await wait_until_async(
            lambda: self.server._accepted > before, PATIENCE_S, "the connection's admission"
        )
        client.writer.write(sent)
        await client.writer.drain()
        return client

    async def fill(self, sent: bytes = b"") -> list["Client"]:
        """Take every connection, half of them from each of two processes, the oldest first."""
        made = []
        for number in range(CONTROL_CLIENTS):
            made.append(await self.connect(sent, pid=7 if number < MAX_OF_A_PROCESS else 8))
            self.now += 0.01
        assert CONTROL_CLIENTS == len(self.server._clients)
        return made

    def sweep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.server._sweep()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> dict[str, Any]:
        """Read one answer; empty: the connection was closed."""
        async with asyncio.timeout(PATIENCE_S):
            line = await self.reader.readline()
        answer: dict[str, Any] = json.loads(line) if line else {}
        return answer

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Send a command and read its answer."""
        self.writer.write(line)
        return await self.answer()


@pytest.fixture
async def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ControlFixture]:
    """Return a serving hall."""
    made = ControlFixture(tmp_path / "s", monkeypatch)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(made.path))
    listener.listen()
    await made.server.start(listener)
    yield made
    made.go_on.set()
    await made.server.stop()
    for client in made.clients:
        client.writer.close()
    assert [] == made.errors


# ---- how many --------------------------------------------------------------------------------------


async def test_the_oldest_half_sent_command_makes_room(hall: ControlFixture) -> None:
    """A monitor that hangs, or a stranger's thousand connections, lock nobody out."""
    held = await hall.fill(b'{"verb": "pi')
    newcomer = await hall.connect(pid=9)
    assert "pong" == (await newcomer.ask(PING))["result"]
    answer = await held[0].answer()
    assert "busy" == answer["error"]["code"]
    assert CONTROL_CLIENTS == len(hall.server._clients)
    assert "pong" == (await held[1].ask(b'ng"}\n'))["result"]


async def test_whoever_said_nothing_for_longest_makes_room(hall: ControlFixture) -> None:
    """Of connections between two commands, too; one that has just been used stays."""
    held = await hall.fill()
    assert "pong" == (await held[0].ask(PING))["result"]
    await hall.connect(pid=9)
    assert "busy" == (await held[1].answer())["error"]["code"]
    assert "pong" == (await held[0].ask(PING))["result"]


async def test_a_process_has_its_share(hall: ControlFixture) -> None:
    """One that leaks connections parts with its own, not with the others'."""
    other = await hall.connect(pid=8)
    hall.now += 1
    leaking = []
    for _ in range(MAX_OF_A_PROCESS + 3):
        leaking.append(await hall.connect(pid=7))
        hall.now += 0.01
    assert MAX_OF_A_PROCESS + 1 == len(hall.server._clients)
    assert ["busy"] * 3 == [(await client.answer())["error"]["code"] for client in leaking[:3]]
    assert "pong" == (await other.ask(PING))["result"]


async def test_who_is_being_served_is_not_put_out(hall: ControlFixture) -> None:
    """With nobody idle the newcomer is told to come again, at once, with whose fault it is."""
    held = await hall.fill(b'{"verb": "wait"}\n')
    await wait_until_async(lambda: hall.begun == CONTROL_CLIENTS, PATIENCE_S, "all verbs to begin")
    refused = await hall.connect(pid=9)
    answer = await refused.answer()
    assert {
        "code": "busy",
        "message": f"there are {CONTROL_CLIENTS} connections, all in use; try again",
    } == answer["error"]
    assert {} == await refused.answer()
    own = await hall.connect(pid=7)
    assert f"process 7 has {MAX_OF_A_PROCESS} connections" in (await own.answer())["error"]["message"]
    hall.go_on.set()
    assert ["done"] * CONTROL_CLIENTS == [(await client.answer())["result"] for client in held]


async def test_who_does_not_read_makes_room(hall: ControlFixture) -> None:
    """Not at once: a reader may be slow. After a second it is stuck."""
    for _ in range(MAX_OF_A_PROCESS):
        await hall.connect(b'{"verb": "half"}\n', pid=7, reads=False)
    await wait_until_async(
        lambda: all(client.unsent for client in hall.server._clients), PATIENCE_S, "answers that wait"
    )
    hall.now += control.STUCK_S - 0.1
    early = await hall.connect(pid=7)
    assert "busy" == (await early.answer())["error"]["code"]
    hall.now += 0.1
    newcomer = await hall.connect(pid=7)
    assert "pong" == (await newcomer.ask(PING))["result"]
    assert MAX_OF_A_PROCESS == len(hall.server._clients)


# ---- how long --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b'{"verb": '])
async def test_a_command_has_a_deadline(hall: ControlFixture, sent: bytes) -> None:
    """Also one that never begins."""
    client = await hall.connect(sent)
    await wait_until_async(
        lambda: all(client.received == sent for client in hall.server._clients), PATIENCE_S, "the bytes"
    )
    hall.sweep(connection.COMMAND_S - 0.1)
    assert 1 == len(hall.server._clients)
    hall.sweep(0.1)
    assert "timeout" == (await client.answer())["error"]["code"]
    assert {} == await client.answer()
    assert not hall.server._clients


async def test_a_connection_may_rest_between_commands(hall: ControlFixture) -> None:
    """A console keeps one; but not for ever."""
    client = await hall.connect()
    await client.ask(PING)
    hall.sweep(connection.IDLE_S - 1)
    assert "pong" == (await client.ask(PING))["result"]
    hall.sweep(connection.IDLE_S)
    assert "timeout" == (await client.answer())["error"]["code"]


async def test_a_command_may_last(hall: ControlFixture) -> None:
    """`reload` and `upgrade` take as long as they take: what has a deadline is the client, not the work."""
    client = await hall.connect(b'{"verb": "wait"}\n')
    await wait_until_async(lambda: hall.begun == 1, PATIENCE_S, "the verb to begin")
    hall.sweep(3600)
    hall.go_on.set()
    assert "done" == (await client.answer())["result"]


async def test_an_answer_has_to_be_taken(hall: ControlFixture) -> None:
    """Whoever reads nothing is let go, and its memory with it."""
    await hall.connect(b'{"verb": "large"}\n', reads=False)
    await wait_until_async(
        lambda: any(client.unsent for client in hall.server._clients), PATIENCE_S, "an answer that waits"
    )
    hall.sweep(connection.ANSWER_S - 0.1)
    assert 1 == len(hall.server._clients)
    hall.sweep(0.1)
    assert not hall.server._clients


# ---- how much --------------------------------------------------------------------------------------


async def test_what_waits_is_bounded(hall: ControlFixture) -> None:
    """Answers of a megabyte to 32 clients that do not read: 8 MiB wait, not 32; the oldest are let go."""
    for number in range(CONTROL_CLIENTS):
        await hall.connect(b'{"verb": "large"}\n', pid=7 + number // MAX_OF_A_PROCESS, reads=False)
        await wait_until_async(
            lambda: not any(client.working for client in hall.server._clients), PATIENCE_S, "the answer"
        )
        hall.now += 0.01
        waiting = sum(len(client.unsent or b"") for client in hall.server._clients)
        assert waiting <= control.MAX_UNTAKEN_BYTES
    assert 5 <= len(hall.server._clients) <= 12


async def test_a_line_without_an_end_is_not_kept(
    hall: ControlFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the answer to it cannot be sent yet, because the client has not read the ones before."""
    client = await hall.connect(PING)
    await client.answer()
    (served,) = hall.server._clients
    answers: list[object] = []

    def cannot_be_sent(_: object, answer: object) -> None:
        answers.append(answer)

    monkeypatch.setattr(hall.server, "_send", cannot_be_sent)
    for _ in range(8):
        client.writer.write(b"x" * MAX_REQUEST_BYTES)
        await client.writer.drain()
        assert len(served.received) <= 2 * MAX_REQUEST_BYTES
    await wait_until_async(lambda: served.last, PATIENCE_S, "the end of its patience")
    client.writer.write_eof()
    await wait_until_async(lambda: served.ended, PATIENCE_S, "all of it to be read")
    assert (1, bytearray()) == (len(answers), served.received)


async def test_commands_are_carried_out_one_after_the_other(hall: ControlFixture) -> None:
    """A client that sends a thousand and reads nothing gets one answer made at a time."""
    await hall.connect(b'{"verb": "large"}\n' * 1000, reads=False)
    await wait_until_async(
        lambda: any(client.unsent for client in hall.server._clients), PATIENCE_S, "an answer that waits"
    )
    (held,) = hall.server._clients
    assert len(held.received) <= MAX_REQUEST_BYTES + control._READ_BYTES
    assert len(held.unsent or b"") <= LARGE_BYTES + 100


# ---- who -------------------------------------------------------------------------------------------


async def test_who_asks_is_known_to_the_verb(hall: ControlFixture) -> None:
    """By what the kernel says; a client that names another is refused."""
    client = await hall.connect()
    name = await UserLookup().name(os.getuid())
    assert f"test:{name}" == (await client.ask(b'{"verb": "who"}\n'))["result"]
    answer = await client.ask(b'{"verb": "who", "params": {"actor": "test:somebody"}}\n')
    assert "bad-parameters" == answer["error"]["code"]


def test_the_kernel_says_who_is_there() -> None:
    """Process and user of the other end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert ControlPeer(os.getpid(), os.getuid()) == peer_of(ours)


async def test_a_user_without_a_name_is_a_number() -> None:
    """As in a container whose passwd file does not have it."""
    names = UserLookup()
    assert ("4242424", "4242424") == (await names.name(4242424), await names.name(4242424))


async def test_a_directory_service_that_hangs_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is known at once; the loop goes on, and the next command does not wait again."""
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_: int) -> Any:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(PATIENCE_S)
        raise KeyError

    monkeypatch.setattr("rdpbalancer.control.peer.pwd.getpwuid", hang)
    monkeypatch.setattr("rdpbalancer.control.peer._NAME_S", 0.05)
    names = UserLookup()
    assert ["7", "7"] == [await names.name(7), await names.name(7)]
    release.set()
    await wait_until_async(lambda: not names._asking, PATIENCE_S, "the end of the thread")


# ---- the loop's time -------------------------------------------------------------------------------


class Steps:
    """A clock that moves as the work says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


async def test_turns_are_first_come_first_served() -> None:
    """Two long pieces of work alternate, slice by slice, in the order in which they asked for their turn."""
    clock, order = Steps(), list[str]()
    pacer = Pacer(clock=clock)

    async def work(name: str) -> None:
        await pacer.turn()
        for _ in range(3):
            order.append(name)
            clock.now += 2 * SLICE_S
            await pacer.breathe()

    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(_run(pacer, work(name)))
        for _ in range(100):
            await asyncio.sleep(0.002)
            clock.now += 1
    assert ["a", "a", "b", "a", "b", "b"] == order


async def _run(pacer: Pacer, work: Any) -> Any:
    return await pacer.run(work)


@pytest.mark.parametrize(("busy", "pause_slices"), [(True, 5.667), (False, 1.0)])
async def test_a_slice_is_paid_for(*, busy: bool, pause_slices: float) -> None:
    """While somebody logs in the loop is theirs for most of the time."""
    clock = Steps()
    pacer = Pacer(busy=lambda: busy, clock=clock)

    async def work() -> None:
        clock.now += SLICE_S

    await pacer.run(work())
    assert pacer._free_at == pytest.approx(SLICE_S * (1 + pause_slices), rel=0.01)


async def test_what_a_verb_waits_for_is_not_counted() -> None:
    """A reload that takes a minute has used the loop for a moment."""
    clock = Steps()
    pacer = Pacer(clock=clock)

    async def work() -> str:
        clock.now += SLICE_S
        await asyncio.sleep(0)
        clock.now += SLICE_S
        return "done"

    task = asyncio.get_running_loop().create_task(_run(pacer, work()))
    await asyncio.sleep(0)
    clock.now += 60
    assert "done" == await task
    assert pacer._free_at == pytest.approx(60 + 3 * SLICE_S, rel=0.01)


async def test_a_cancellation_reaches_the_work() -> None:
    """And what was waiting is taken out of the row."""
    pacer, ended = Pacer(), list[str]()

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append("cleaned up")

    task = asyncio.get_running_loop().create_task(_run(pacer, work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ["cleaned up"] == ended
