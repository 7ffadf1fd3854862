"""Sessions between two relays: every message fits the line, and bytes that are missing are never skipped."""

import asyncio
import socket
from collections.abc import Iterator

import msgspec
import pytest

from rdpbalancer.errors import ChannelError
from rdpbalancer.model import CloseReason, CloseSide, SessionFacts
from rdpbalancer.relay import messages
from rdpbalancer.relay.channel import MAX_MESSAGE_BYTES, Channel, pair
from rdpbalancer.relay.messages import Adopt, Carried, Ended, Ends, Part, SessionState, Surrendered
from rdpbalancer.relay.parts import PART_BYTES, Parts, packed
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.relay.pump import READ_BUFFER_BYTES
from tests.support.wait import wait_until_async

_FACTS = bytes(4096)


def _carried(up: int, down: int) -> Carried:
    return Carried("s1", _FACTS, b"u" * up, b"d" * down, 0.0)


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
    carried, parts = _carried(*sizes), Parts()
    *before, last = list(packed(carried))
    for part in before:
        assert isinstance(part, Part)
        assert len(msgspec.msgpack.encode(part)) <= MAX_MESSAGE_BYTES
        parts.add(part)
    assert isinstance(last, Surrendered)
    assert len(msgspec.msgpack.encode(Adopt([last]))) <= MAX_MESSAGE_BYTES
    assert len(before) == last.parts
    whole = parts.complete(last)
    assert (carried.to_server, carried.to_client) == (whole.to_server, whole.to_client)


def test_parts_of_a_router_that_died_are_forgotten() -> None:
    """What came before the next router's greeting belongs to a session that will never come."""
    parts = Parts()
    parts.add(Part("s1", True, b"old"))
    parts.clear()
    assert b"new" == parts.complete(Carried("s1", b"", b"new", b"", 0.0)).to_server


class _Books:
    """What the pool tells its owner."""

    def __init__(self) -> None:
        self.rehomed: list[tuple[str, int]] = []
        self.ended: list[Ended] = []
        self.enders: list[int] = []

    def session_live(self, state: SessionState, relay: int) -> None:
        """Not of interest here."""

    def session_moved(self, session_id: str, bytes_up: int, bytes_down: int) -> None:
        """Not of interest here."""

    def session_ended(self, ended: Ended, relay: int) -> None:
        """Note an end."""
        self.enders.append(relay)
        self.ended.append(ended)

    def session_rehomed(self, state: SessionState, relay: int) -> None:
        """Note a move."""
        self.rehomed.append((state.id, relay))

    def relay_lost(self, relay: int, error: ChannelError | None) -> None:
        """Not of interest here."""


@pytest.fixture
def ends() -> Iterator[list[socket.socket]]:
    """Two connections: the relay's socket and the other end of each."""
    pairs = [socket.socketpair() for _ in range(2)]
    socks = [sock for both in pairs for sock in both]
    yield socks
    for sock in socks:
        sock.close()


async def test_a_session_with_a_part_missing_is_broken_off(ends: list[socket.socket]) -> None:
    """The router before this one took a part to its grave: both sides see an end, and there is a record."""
    books = _Books()
    pool = RelayPool(books)
    ours, theirs = pair()
    pool.add(1, ours)
    relay = Channel(theirs, messages.TO_RELAY, on_message=lambda *_: None, on_close=lambda: None)
    relay.send(Part("s1", True, b"second of two"))
    gone = Surrendered("s1", _FACTS, b"", b"", 0.0, bytes_up=7, bytes_down=8, parts=2)
    relay.send(gone, [ends[0], ends[2]])
    await wait_until_async(lambda: books.ended, 5, "the end")
    (ended,) = books.ended
    assert [1] == books.enders
    assert (CloseReason.RELAY_LOST, CloseSide.BALANCER, 7, 8) == (
        ended.close_reason,
        ended.close_side,
        ended.bytes_up,
        ended.bytes_down,
    )
    assert [] == books.rehomed
    for other in (ends[1], ends[3]):
        assert b"" == await asyncio.to_thread(other.recv, 1)
    relay.close()
    pool.close()


async def test_a_full_relay_gets_no_more(ends: list[socket.socket]) -> None:
    """A session that comes back while all are full stays in hand until somebody leaves."""
    books = _Books()
    pool = RelayPool(books, capacity=1)
    lines = {1: pair(), 2: pair()}
    got: list[Carried] = []

    def heard(message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        if isinstance(message, Adopt):
            got.extend(message.sessions)
        for sock in sockets:
            sock.close()

    relays = {}
    for pid, (ours, theirs) in lines.items():
        pool.add(pid, ours)
        relays[pid] = Channel(theirs, messages.TO_RELAY, on_message=heard, on_close=lambda: None)
        relays[pid].send(messages.Hello(messages.PROTOCOL_VERSION, pid))
        relays[pid].send(messages.Live([SessionState(f"old{pid}", b"", 0, 0)], last=True))
    await pool.introduced()
    assert pool.full
    pool.surrender(1)
    relays[1].send(Surrendered("old1", _FACTS, b"x", b"", 0.0), [ends[0], ends[2]])
    await wait_until_async(lambda: pool.in_hand == 1, 5, "a session in hand")
    assert [] == got
    ended = Ended("old2", b"", CloseReason.EOF, CloseSide.CLIENT, bytes_up=0, bytes_down=0, ended_at=0.0)
    relays[2].send(Ends([ended]))
    await wait_until_async(lambda: got, 5, "the session's new place")
    assert ["old1"] == [carried.id for carried in got]
    assert ("old1", 2) == books.rehomed[-1]
    assert 0 == pool.in_hand
    for relay in relays.values():
        relay.close()
    pool.close()


async def test_sessions_of_one_turn_share_messages_that_fit() -> None:
    """Small ones go together, large ones by themselves, all in order and each with its own sockets."""
    pool = RelayPool(_Books())
    ours, theirs = pair()
    pool.add(1, ours)
    messages_got: list[Adopt] = []
    sockets_got: list[socket.socket] = []

    def heard(message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        if isinstance(message, Adopt):
            messages_got.append(message)
            sockets_got.extend(sockets)

    relay = Channel(theirs, messages.TO_RELAY, on_message=heard, on_close=lambda: None)
    relay.send(messages.Hello(messages.PROTOCOL_VERSION, 1))
    relay.send(messages.Live([], last=True))
    await pool.introduced()
    sizes = [10] * 100 + [2 * PART_BYTES - 1, 10, PART_BYTES, PART_BYTES, 2 * PART_BYTES - 1]
    far = []
    for number, size in enumerate(sizes):
        facts = SessionFacts(f"s{number}", "vip", "ts1", "192.0.2.1:5", "192.0.2.1")
        (client, near_client), (server, near_server) = socket.socketpair(), socket.socketpair()
        far += [client, server]
        first = (b"", bytes(size))
        await pool.adopt(facts, (near_client, near_server), first=first, idle_s=0, before=lambda _pid: None)
    assert pool.in_hand
    await wait_until_async(lambda: len(sockets_got) == 2 * len(sizes), 5, "all sessions")
    sessions = [carried for message in messages_got for carried in message.sessions]
    assert [(f"s{number}", size) for number, size in enumerate(sizes)] == [
        (carried.id, len(carried.to_client)) for carried in sessions
    ]
    assert len(messages_got) <= 100 // 32 + 1 + 5
    assert 0 == pool.in_hand
    for number, (end, got) in enumerate(zip(far, sockets_got, strict=True)):
        end.send(b"%d" % number)
        assert b"%d" % number == got.recv(10)
    for sock in (*far, *sockets_got):
        sock.close()
    relay.close()
    pool.close()


async def test_an_end_that_fails_costs_the_others_nothing() -> None:
    """The owner's error at one of several ends is told to the loop; the other ends are heard."""

    class Failing(_Books):
        def session_ended(self, ended: Ended, relay: int) -> None:
            if ended.id == "s1":
                message = "no space left"
                raise OSError(message)
            super().session_ended(ended, relay)

    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["message"])))
    books = Failing()
    pool = RelayPool(books)
    ours, theirs = pair()
    pool.add(1, ours)
    relay = Channel(theirs, messages.TO_RELAY, on_message=lambda *_: None, on_close=lambda: None)
    relay.send(messages.Hello(messages.PROTOCOL_VERSION, 1))
    relay.send(messages.Live([SessionState(f"s{number}", b"", 0, 0) for number in range(3)], last=True))
    await pool.introduced()
    ends = [Ended(f"s{number}", b"", CloseReason.EOF, CloseSide.CLIENT, 0, 0, 0.0) for number in range(3)]
    relay.send(Ends(ends))
    await wait_until_async(lambda: len(books.ended) == 2, 5, "two ends")
    assert ["s0", "s2"] == [ended.id for ended in books.ended]
    assert ["the end of session s1"] == told
    assert {1: 0} == pool.sessions()
    relay.close()
    pool.close()
