"""Sessions between two relays: every message fits the line, and bytes that are missing are never skipped."""

import asyncio
import socket
from collections.abc import Iterator

import msgspec
import pytest

from rdpbalancer.ipc.channel import MAX_MESSAGE_BYTES, pair
from rdpbalancer.ipc.relay_messages import (
    Adopt,
    MigratedSession,
    SessionChunk,
    SessionEnded,
    SessionsEnded,
    SessionTransfer,
)
from rdpbalancer.model import SessionFacts
from rdpbalancer.relay.chunking import PART_BYTES, ChunkCollector, packed
from rdpbalancer.relay.flow import READ_BUFFER_BYTES
from rdpbalancer.relay.migration import MigrationSender, Pair
from tests.support.wait import wait_until_async
from tests.unit.relay.told import Books, ended, party

_FACTS = bytes(4096)


def _carried(up: int, down: int) -> SessionTransfer:
    return SessionTransfer("s1", _FACTS, b"u" * up, b"d" * down, 0.0)


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 0),
        (PART_BYTES, PART_BYTES),
        (PART_BYTES + 1, 1),
        (65_536, 65_536),
        (2 * PART_BYTES - 1, 2 * PART_BYTES - 1),
        (READ_BUFFER_BYTES, READ_BUFFER_BYTES),
    ],
)
def test_whatever_is_pending_fits_and_comes_back(sizes: tuple[int, int]) -> None:
    """No message is larger than the line takes, and put together it is what it was."""
    carried, parts = _carried(*sizes), ChunkCollector()
    *before, last = list(packed(carried))
    for part in before:
        assert isinstance(part, SessionChunk)
        assert len(msgspec.msgpack.encode(part)) <= MAX_MESSAGE_BYTES
        parts.add(part)
    assert isinstance(last, MigratedSession)
    assert len(msgspec.msgpack.encode(last)) <= MAX_MESSAGE_BYTES
    whole = parts.complete(last)
    assert (carried.to_server, carried.to_client) == (whole.to_server, whole.to_client)
    following = SessionTransfer("s2", b"", b"x", b"", 0.0)
    assert following is parts.complete(following)


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Two connections: near and far socket of the client, near and far socket of the server."""
    socks = [sock for _ in range(2) for sock in socket.socketpair()]
    for sock in socks:
        sock.setblocking(False)
    yield socks
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("size", [10, 3 * PART_BYTES])
async def test_what_has_not_gone_is_taken_back(sockets: list[socket.socket], size: int) -> None:
    """The target dies before the kernel has taken a session: it is whole, with all its parts, and goes on."""
    near, far = (sockets[0], sockets[2]), (sockets[1], sockets[3])
    back: list[tuple[SessionTransfer, Pair]] = []
    ours, theirs = pair()
    sending = MigrationSender(ours, 5, take_back=lambda session, pair: back.append((session, pair)))
    session = _carried(size, size)
    theirs.close()
    sending.send(session, near)
    assert not sending.ready
    await wait_until_async(lambda: back, 5, "the session")
    assert [(session, near)] == back
    assert sending.done
    for one, other in zip(near, far, strict=True):
        one.send(b"x")
        assert b"x" == other.recv(1)


async def test_an_heir_that_is_slow_gets_one_session_too_many_at_most() -> None:
    """The line takes what it takes, one session waits for it, and that one can be taken back."""
    back: list[SessionTransfer] = []

    def take_back(session: SessionTransfer, sockets: Pair) -> None:
        back.append(session)
        for sock in sockets:
            sock.close()

    ours, theirs = pair()
    sending = MigrationSender(ours, 1000, take_back=take_back)
    given = 0
    while sending.ready:
        sending.send(SessionTransfer(f"s{given}", _FACTS, b"", b"", 0.0), socket.socketpair())
        given += 1
    assert 10 < given < 1000
    assert not sending.done
    sending.close()
    assert [f"s{given - 1}"] == [session.id for session in back]
    theirs.close()
    await asyncio.sleep(0)


async def test_sessions_of_one_turn_share_messages_that_fit() -> None:
    """Small ones go together, large ones by themselves, all in order and each with its own sockets."""
    async with party(0) as p:
        pool, (relay,) = p.pool, p.relays
        sizes = [10] * 100 + [2 * PART_BYTES - 1, 10, PART_BYTES, PART_BYTES, 2 * PART_BYTES - 1]
        far = []
        for number, size in enumerate(sizes):
            facts = SessionFacts(f"s{number}", "vip", "ts1", "192.0.2.1:5", "192.0.2.1")
            (client, near_client), (server, near_server) = socket.socketpair(), socket.socketpair()
            far += [client, server]
            first = (b"", bytes(size))
            chosen = await pool.choose()
            pool.adopt(chosen, facts, (near_client, near_server), first=first, idle_s=0)
        assert pool.pending
        await wait_until_async(lambda: len(relay.sockets) == 2 * len(sizes), 5, "all sessions")
        sessions = [carried for message in relay.all_of(Adopt) for carried in message.sessions]
        assert [(f"s{number}", size) for number, size in enumerate(sizes)] == [
            (carried.id, len(carried.to_client)) for carried in sessions
        ]
        assert len(relay.all_of(Adopt)) <= 100 // 32 + 1 + 5
        assert 0 == pool.pending
        for number, (end, got) in enumerate(zip(far, relay.sockets, strict=True)):
            end.send(b"%d" % number)
            assert b"%d" % number == got.recv(10)
        for sock in far:
            sock.close()


async def test_an_end_that_fails_costs_the_others_nothing() -> None:
    """The owner's error at one of several ends is told to the loop; the other ends are heard."""

    class Failing(Books):
        def session_ended(self, end: SessionEnded, relay: int) -> None:
            if end.id == "r1s1":
                message = "no space left"
                raise OSError(message)
            super().session_ended(end, relay)

    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["message"])))
    async with party(3, books=Failing()) as p:
        (relay,) = p.relays
        relay.line.send(SessionsEnded([ended(f"r1s{number}") for number in range(3)]))
        await wait_until_async(lambda: len(p.books.ended) == 2, 5, "two ends")
        assert ["r1s0", "r1s2"] == [end.id for end in p.books.ended]
        assert ["the end of session r1s1"] == told
        assert {1: 0} == p.pool.sessions()
