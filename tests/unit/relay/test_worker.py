"""A relay and the router's side of it, over a real line, in one loop."""

import array
import asyncio
import contextlib
import fcntl
import random
import socket
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from rdpbalancer.ipc.channel import Channel, pair
from rdpbalancer.ipc.relay_messages import (
    FROM_RELAY,
    MIGRATION_MESSAGES,
    PROTOCOL_VERSION,
    TO_RELAY,
    LiveSessions,
    MigratedSession,
    MigrateOut,
    PingRelay,
    PongRelay,
    RelayHello,
    RetireRelay,
    SessionState,
    StopRelay,
)
from rdpbalancer.model import CloseReason, SessionFacts
from rdpbalancer.relay.inline import InlineRelay
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.relay.worker import Relay
from rdpbalancer.tasks import spawn
from tests.support.running_balancer import open_descriptors
from tests.support.wait import wait_until_async
from tests.unit.conftest import Run
from tests.unit.relay.test_pump import read, tcp_pair, write
from tests.unit.relay.told import Books


class Held:
    """A relay, the supervisor's line to it, and the router's end of the other, kept as a supervisor does."""

    def __init__(self) -> None:
        self.router_end, theirs = pair()
        line, relays_line = pair()
        self.answers: list[msgspec.Struct] = []
        self.supervisor = Channel(
            line, FROM_RELAY, on_message=lambda word, _: self.answers.append(word), on_close=lambda: None
        )
        self.relay = Relay(theirs, relays_line)
        self.task = spawn(self.relay.run(), name="relay")

    async def stop(self) -> None:
        """End it as a supervisor does."""
        self.supervisor.send(StopRelay())
        async with asyncio.timeout(5):
            await self.task
        self.supervisor.close()
        self.router_end.close()


@asynccontextmanager
async def held() -> AsyncIterator[Held]:
    """Run a relay; no descriptor is left of it."""
    made = Held()
    try:
        yield made
    finally:
        await made.stop()


def facts(number: int) -> SessionFacts:
    """Return the facts of a session."""
    return SessionFacts(f"s{number}", "vip", "ts1", "192.0.2.1:5", "192.0.2.1", user="x" * 500)


Ends = tuple[socket.socket, socket.socket]


async def adopted(relays: RelayPool | InlineRelay, number: int) -> Ends:
    """Hand a session over and return its far ends: client, server."""
    (client, near_client), (server, near_server) = tcp_pair(), tcp_pair()
    chosen = await relays.choose()
    relays.adopt(chosen, facts(number), (near_client, near_server), first=(b"", b"hi"), idle_s=0)
    assert b"hi" == await read(client, 2)
    return client, server


def close(ends: list[Ends]) -> None:
    """Close far ends."""
    for client, server in ends:
        client.close()
        server.close()


def test_sessions_outlive_the_router(run: Run) -> None:
    """A new router hears of every session, of every byte, and of each end exactly once."""

    async def scene() -> None:
        before = open_descriptors()
        async with held() as h:
            first, second = Books(), Books()
            pool = RelayPool(first)
            pool.add(1, h.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, number) for number in range(100)]
            assert {1: 100} == pool.sessions()
            pool.close()
            for client, server in ends[:40]:  # they end while there is no router
                client.close()
                server.close()
            target = RelayPool(second)
            target.add(1, h.router_end.dup())
            await target.introduced()
            await wait_until_async(lambda: len(second.ended) == 40, 5, "40 ends")
            assert {f"s{number}" for number in range(40)} == {ended.id for ended in second.ended}
            assert {f"s{number}" for number in range(40, 100)} <= set(second.live)
            data = random.Random(1).randbytes(10_000)
            for client, server in ends[40:]:
                await write(client, data)
                assert data == await read(server, 10_000)
            target.kick(1, [f"s{number}" for number in range(40, 100)], CloseReason.KICKED)
            await wait_until_async(lambda: len(second.ended) == 100, 5, "100 ends")
            assert {(10_000, 2)} == {(end.bytes_up, end.bytes_down) for end in second.ended[40:]}
            assert facts(99) == msgspec.msgpack.decode(second.ended[-1].facts, type=SessionFacts)
            close(ends)
            target.close()
        assert before == open_descriptors()

    run(scene())


def test_the_supervisor_is_answered_and_obeyed(run: Run) -> None:
    """Ping is answered from the loop; Stop ends every session; so does the supervisor's own end."""

    async def scene() -> None:
        async with held() as h:
            h.supervisor.send(PingRelay(7))
            await wait_until_async(lambda: h.answers, 5, "the answer")
            assert [PongRelay(7)] == h.answers
            books = Books()
            pool = RelayPool(books)
            pool.add(1, h.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, 1)]
            h.supervisor.send(StopRelay())
            await wait_until_async(h.task.done, 5, "the relay's end")
            assert b"" == await read(ends[0][0], 1)
            close(ends)
            await wait_until_async(lambda: books.ended, 5, "the record")
            assert CloseReason.SHUTDOWN == books.ended[0].close_reason
            pool.close()
        orphan = Held()
        orphan.supervisor.close()
        await wait_until_async(orphan.task.done, 5, "the relay's end")
        orphan.router_end.close()

    run(scene())


def test_a_relay_that_is_lost(run: Run) -> None:
    """It is told once and gets no session any more; without any relay a session waits for the next one."""

    async def scene() -> None:
        books = Books()
        pool = RelayPool(books)
        async with held() as h:
            pool.add(1, h.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, 1)]
        await wait_until_async(lambda: books.lost, 5, "the loss")
        assert ([1], {}) == (books.lost, pool.sessions())
        waiting = spawn(adopted(pool, 2), name="waits for a relay")
        await asyncio.sleep(0)
        assert not waiting.done()
        async with held() as h:
            pool.add(2, h.router_end.dup())
            ends.append(await waiting)
            assert {2: 1} == pool.sessions()
            close(ends)
            pool.close()

    run(scene())


@pytest.mark.parametrize("version", [PROTOCOL_VERSION + 1, 0])
def test_a_relay_of_another_version_gets_nothing_new(run: Run, version: int) -> None:
    """Its sessions are known, new ones go elsewhere."""

    async def scene() -> None:
        books = Books()
        pool = RelayPool(books)
        ours, theirs = pair()
        stranger = Channel(theirs, TO_RELAY, on_message=lambda *_: None, on_close=lambda: None)
        pool.add(1, ours)
        stranger.send(RelayHello(version, 1))
        stranger.send(LiveSessions([SessionState("old", b"", 1, 2)], last=True))
        await pool.introduced()
        assert ({"old": 1}, {1: 1}) == (books.live, pool.sessions())
        async with held() as h:
            pool.add(2, h.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, number) for number in range(3)]
            assert {1: 1, 2: 3} == pool.sessions()
            close(ends)
            stranger.close()
            pool.close()

    run(scene())


def test_a_retired_relay_ends_when_it_is_empty(run: Run) -> None:
    """It keeps what it has, gets nothing new, and exits after its last session."""

    async def scene() -> None:
        books = Books()
        pool = RelayPool(books)
        async with held() as one, held() as two:
            pool.add(1, one.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, 1)]
            pool.add(2, two.router_end.dup())
            await pool.introduced()
            pool.retire([1])
            ends += [await adopted(pool, number) for number in (2, 3)]
            assert {1: 1, 2: 2} == pool.sessions()
            assert not one.task.done()
            close(ends[:1])
            await wait_until_async(one.task.done, 5, "the retired relay's end")
            assert ["s1"] == [ended.id for ended in books.ended]
            close(ends)
            pool.close()

    run(scene())


def test_sessions_move_to_another_relay(run: Run) -> None:
    """A relay that makes way gives every session away while its bytes are on the way, and exits."""

    async def scene() -> None:
        books = Books()
        pool = RelayPool(books)
        async with held() as one, held() as two:
            pool.add(1, one.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, number) for number in range(20)]
            data = [random.Random(number).randbytes(1_000_000) for number in range(20)]
            writing = [
                spawn(write(client, bytes_), name="writes")
                for (client, _), bytes_ in zip(ends, data, strict=True)
            ]
            reading = [
                spawn(read(server, len(bytes_)), name="reads")
                for (_, server), bytes_ in zip(ends, data, strict=True)
            ]
            pool.add(2, two.router_end.dup())
            await pool.introduced()
            pool.migrate_out([1])
            assert data == await asyncio.gather(*reading)
            await asyncio.gather(*writing)
            await wait_until_async(one.task.done, 5, "the first relay's end")
            await wait_until_async(lambda: books.lost, 5, "the word of it")
            assert dict.fromkeys((f"s{number}" for number in range(20)), 2) == books.live
            assert {2: 20} == pool.sessions()
            close(ends)
            await wait_until_async(lambda: len(books.ended) == 20, 5, "20 ends")
            assert {1_000_000} == {ended.bytes_up for ended in books.ended}
            pool.close()

    run(scene())


@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5, 6, 8, 12, 20, 40])
def test_no_router_has_a_session_in_its_hands(run: Run, turns: int) -> None:
    """It ends at any moment of a move: every session is at one of the relays, and the next router goes on."""

    async def scene() -> None:
        before = open_descriptors()
        async with held() as one, held() as two:
            first = RelayPool(Books())
            first.add(1, one.router_end.dup())
            await first.introduced()
            ends = [await adopted(first, number) for number in range(100)]
            first.close()

            pool = RelayPool(Books())
            pool.add(1, one.router_end.dup())
            pool.add(2, two.router_end.dup())
            await pool.introduced()
            pool.migrate_out([1])
            for _ in range(turns):
                await asyncio.sleep(0)
            pool.close()

            books = Books()
            target = RelayPool(books)
            target.add(1, one.router_end.dup())
            target.add(2, two.router_end.dup())
            await target.introduced()
            target.migrate_out([1])
            await wait_until_async(lambda: books.lost, 5, "the first relay's end")
            assert dict.fromkeys((f"s{number}" for number in range(100)), 2) == books.live
            assert {1} == set(books.moves.values())
            assert ({2: 100}, []) == (target.sessions(), books.ended)
            for client, server in ends:
                client.send(b"still here")
                assert b"still here" == await read(server, 10)
            close(ends)
            await wait_until_async(lambda: len(books.ended) == 100, 5, "100 ends")
            target.close()
        assert before == open_descriptors()

    run(scene())


def _unread(line: socket.socket) -> int:
    """Return how many bytes lie in a line."""
    (size,) = struct.unpack("i", fcntl.ioctl(line, termios.FIONREAD, bytes(4)))
    return int(size)


async def fill(line: socket.socket, relay: Held, sessions: int) -> socket.socket:
    """Have a relay give its sessions away until the line takes no more; return the target's end."""
    sending, receiving = pair()
    line.sendmsg(
        [msgspec.msgpack.encode(MigrateOut(sessions))],
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sending.fileno()]))],
    )
    sending.close()
    seen = [0]

    def full() -> bool:
        seen.append(_unread(receiving))
        return seen[-1] == seen[-2] > 0

    await wait_until_async(full, 5, "a full line")
    assert not relay.task.done()
    return receiving


def moved_over(line: socket.socket) -> list[str]:
    """Return the sessions that lie in a line, and close it."""
    ids = []
    with contextlib.suppress(BlockingIOError):
        while data := line.recv(100_000):
            moved = MIGRATION_MESSAGES.decode(data)
            assert isinstance(moved, MigratedSession)
            ids.append(moved.id)
    line.close()
    return ids


def test_a_router_hears_of_the_session_that_waits_for_a_line(run: Run) -> None:
    """Its target may die: then it is back at work, and nobody would know it."""

    async def scene() -> None:
        books = Books()
        pool, target = RelayPool(Books()), RelayPool(books)
        async with held() as one:
            pool.add(1, one.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, number) for number in range(300)]
            receiving = await fill(one.router_end, one, 300)
            pool.close()
            target.add(1, one.router_end.dup())
            await target.introduced()
            told = set(books.live)
            said = moved_over(receiving)
            assert (300, set()) == (len(told) + len(said), told & set(said))
            assert {0} == set(books.moves.values()), "the one that waits has not moved"
            target.kick(1, sorted(told), CloseReason.KICKED)
            await wait_until_async(lambda: {ended.id for ended in books.ended} == told, 5, "all ends")
            close(ends)
            target.close()

    run(scene())


def test_a_stop_in_the_middle_of_a_move(run: Run) -> None:
    """What has not left is ended and reported, the one that waited for the line included."""

    async def scene() -> None:
        before = open_descriptors()
        books = Books()
        pool = RelayPool(books)
        async with held() as one:
            pool.add(1, one.router_end.dup())
            await pool.introduced()
            ends = [await adopted(pool, number) for number in range(300)]
            receiving = await fill(one.router_end, one, 300)
        await wait_until_async(lambda: books.lost, 5, "the relay's end")
        said = moved_over(receiving)
        assert said
        assert {CloseReason.SHUTDOWN} == {ended.close_reason for ended in books.ended}
        assert sorted(f"s{number}" for number in range(300)) == sorted(
            said + [ended.id for ended in books.ended]
        )
        close(ends)
        pool.close()
        assert before == open_descriptors()

    run(scene())


def test_without_relay_processes(run: Run) -> None:
    """`relays: 0`: the same verbs, in this process; closing ends every session."""

    async def scene() -> None:
        books = Books()
        inline = InlineRelay(books, report_interval_s=0.02)
        await inline.introduced()
        ends = [await adopted(inline, number) for number in range(3)]
        assert [3] == list(inline.sessions().values())
        await write(ends[0][0], b"abc")
        await wait_until_async(lambda: books.moved.get("s0") == (3, 2), 5, "byte counts")
        inline.kick(0, ["s1", "unknown"], CloseReason.KICKED)
        assert ["s1"] == [ended.id for ended in books.ended]
        inline.close()
        reasons = [ended.close_reason for ended in books.ended]
        assert [CloseReason.KICKED, CloseReason.SHUTDOWN, CloseReason.SHUTDOWN] == reasons
        close(ends)

    run(scene())


def test_a_retired_relay_stays_until_it_has_been_heard(run: Run) -> None:
    """What lies unread in the line would be lost with it, if the router died just now."""

    async def scene() -> None:
        made = Held()
        encode = msgspec.msgpack.encode
        made.router_end.send(encode(RelayHello(PROTOCOL_VERSION, 1)))
        made.router_end.send(encode(RetireRelay()))
        made.supervisor.send(PingRelay(1))
        made.supervisor.send(PingRelay(2))
        await wait_until_async(lambda: len(made.answers) == 2, 5, "a relay that lives")
        assert not made.task.done()
        for _ in range(2):
            assert made.router_end.recv(4096)
        async with asyncio.timeout(5):
            await made.task
        made.supervisor.close()
        made.router_end.close()

    run(scene())
