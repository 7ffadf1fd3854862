"""Sessions between two relays: every message fits the line, and bytes that are missing are never skipped."""

import asyncio
import socket
from collections.abc import Iterator
from typing import TypeVar

import msgspec
import pytest

from rdpbalancer.errors import ChannelError
from rdpbalancer.model import CloseReason, CloseSide, SessionFacts
from rdpbalancer.relay import messages
from rdpbalancer.relay.channel import MAX_MESSAGE_BYTES, Channel, pair
from rdpbalancer.relay.messages import (
    Adopt,
    Arrived,
    Carried,
    Ended,
    Ends,
    Inherit,
    Moved,
    Part,
    SessionState,
    Surrender,
)
from rdpbalancer.relay.moving import Giving, Pair
from rdpbalancer.relay.parts import PART_BYTES, Parts, packed
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.relay.pump import READ_BUFFER_BYTES
from tests.support.wait import wait_until_async

_FACTS = bytes(4096)
Told = TypeVar("Told", bound=msgspec.Struct)


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
    assert isinstance(last, Moved)
    assert len(msgspec.msgpack.encode(last)) <= MAX_MESSAGE_BYTES
    whole = parts.complete(last)
    assert (carried.to_server, carried.to_client) == (whole.to_server, whole.to_client)
    following = Carried("s2", b"", b"x", b"", 0.0)
    assert following is parts.complete(following)


class _Books:
    """What the pool tells its owner."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.lost: list[int] = []
        self.ended: list[Ended] = []

    def session_live(self, state: SessionState, relay: int) -> None:
        """Note where a session is."""
        self.live[state.id] = relay

    def session_moved(self, session_id: str, bytes_up: int, bytes_down: int) -> None:
        """Not of interest here."""

    def session_ended(self, ended: Ended, relay: int) -> None:
        """Note an end."""
        del relay
        self.ended.append(ended)

    def relay_lost(self, relay: int, error: ChannelError | None) -> None:
        """Note a loss."""
        del error
        self.lost.append(relay)


class _Relay:
    """A relay as the pool sees it, which does what the test says."""

    def __init__(self, pool: RelayPool, pid: int, sessions: int) -> None:
        ours, theirs = pair()
        pool.add(pid, ours)
        self.told: list[msgspec.Struct] = []
        self.sockets: list[socket.socket] = []
        self.line = Channel(theirs, messages.TO_RELAY, on_message=self._heard, on_close=lambda: None)
        self.line.send(messages.Hello(messages.PROTOCOL_VERSION, pid))
        states = [SessionState(f"r{pid}s{number}", b"", 0, 0) for number in range(sessions)]
        self.line.send(messages.Live(states, last=True))

    def _heard(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        self.told.append(message)
        self.sockets += sockets

    def all_of(self, kind: type[Told]) -> list[Told]:
        """Return what it was told of a kind."""
        return [message for message in self.told if isinstance(message, kind)]

    def arrived(self, move: str, *ids: str, last: bool = False) -> None:
        """Say that these have come."""
        states = [SessionState(session_id, b"", 0, 0, moves=1) for session_id in ids]
        self.line.send(Arrived(move, states, last))

    async def inherits(self) -> str:
        """Wait until it is to inherit something more, say that it is there, and return the move."""
        known = len(self.all_of(Arrived))
        await wait_until_async(lambda: len(self.all_of(Inherit)) > known, 5, "an inheritance")
        move = self.all_of(Inherit)[-1].move
        self.arrived(move)
        return move

    def close(self) -> None:
        """End."""
        self.line.close()
        for sock in self.sockets:
            sock.close()


async def test_heirs_get_even_shares_and_no_more_than_they_have_room_for() -> None:
    """What finds no room stays with its relay, at work, and moves when somebody leaves."""
    books = _Books()
    pool = RelayPool(books, capacity=10)
    old, first, second = _Relay(pool, 1, 10), _Relay(pool, 2, 3), _Relay(pool, 3, 8)
    await pool.introduced()
    pool.surrender(1)
    for heir in (first, second):
        await heir.inherits()
    await wait_until_async(lambda: len(old.all_of(Surrender)) == 2, 5, "two lines")
    assert [messages.Retire()] == old.all_of(messages.Retire)
    assert [5, 2] == [told.sessions for told in old.all_of(Surrender)]
    ended = Ended("r3s0", b"", CloseReason.EOF, CloseSide.CLIENT, bytes_up=0, bytes_down=0, ended_at=0.0)
    second.line.send(Ends([ended]))
    await wait_until_async(lambda: len(second.all_of(Inherit)) == 2, 5, "a place")
    second.arrived(second.all_of(Inherit)[-1].move)
    await wait_until_async(lambda: len(old.all_of(Surrender)) == 3, 5, "a third line")
    assert 1 == old.all_of(Surrender)[-1].sessions
    assert {1: 10, 2: 3, 3: 7} == pool.sessions()
    for relay in (old, first, second):
        relay.close()
    pool.close()


async def test_nobody_gives_before_the_heir_is_there() -> None:
    """What is said into a line whose other end lies in a dying router would be lost."""
    pool = RelayPool(_Books())
    old, heir = _Relay(pool, 1, 4), _Relay(pool, 2, 0)
    await pool.introduced()
    pool.surrender(1)
    await wait_until_async(lambda: heir.all_of(Inherit), 5, "an inheritance")
    await wait_until_async(lambda: old.all_of(messages.Retire), 5, "the word to retire")
    assert [] == old.all_of(Surrender)
    heir.arrived(heir.all_of(Inherit)[0].move)
    await wait_until_async(lambda: old.all_of(Surrender), 5, "the word to surrender")
    (giving,), (inheriting,) = old.sockets, heir.sockets
    giving.send(b"hello")
    assert b"hello" == inheriting.recv(10)
    old.close()
    heir.close()
    pool.close()


async def test_a_relay_is_lost_when_nothing_of_it_can_arrive_any_more() -> None:
    """The end of its line may be heard before what it gave away has been told by its heir."""
    books = _Books()
    pool = RelayPool(books)
    old, heir = _Relay(pool, 1, 3), _Relay(pool, 2, 0)
    await pool.introduced()
    pool.surrender(1)
    move = await heir.inherits()
    await wait_until_async(lambda: old.all_of(Surrender), 5, "the word to surrender")
    old.close()
    await wait_until_async(lambda: pool.sessions() == {2: 0}, 5, "the end of its line")
    assert [] == books.lost
    heir.arrived(move, "r1s0", "r1s1")
    heir.arrived(move, last=True)
    await wait_until_async(lambda: books.lost, 5, "the loss")
    assert {"r1s0": 2, "r1s1": 2, "r1s2": 1} == books.live
    assert ([1], {2: 2}) == (books.lost, pool.sessions())
    heir.close()
    pool.close()


async def test_an_heir_dies() -> None:
    """Another one gets the rest, and its own loss is told at once."""
    books = _Books()
    pool = RelayPool(books)
    old, heir = _Relay(pool, 1, 4), _Relay(pool, 2, 0)
    await pool.introduced()
    pool.surrender(1)
    move = await heir.inherits()
    heir.arrived(move, "r1s0")
    await wait_until_async(lambda: books.live.get("r1s0") == 2, 5, "an arrival")
    heir.close()
    await wait_until_async(lambda: books.lost == [2], 5, "the loss")
    other = _Relay(pool, 3, 0)
    await pool.introduced()
    await other.inherits()
    await wait_until_async(lambda: len(old.all_of(Surrender)) == 2, 5, "the second heir")
    assert [4, 3] == [told.sessions for told in old.all_of(Surrender)]
    old.close()
    other.close()
    pool.close()


async def test_the_last_router_s_moves_go_on() -> None:
    """A router that does not know a move takes what arrives by it, and takes nothing from anybody's count."""
    books = _Books()
    pool = RelayPool(books)
    old, heir = _Relay(pool, 1, 2), _Relay(pool, 2, 0)
    await pool.introduced()
    heir.arrived("of-another-router", "x", "y")
    heir.arrived("of-another-router", last=True)
    await wait_until_async(lambda: len(books.live) == 4, 5, "two arrivals")
    assert {1: 2, 2: 2} == pool.sessions()
    assert {"x": 2, "y": 2} == {name: books.live[name] for name in ("x", "y")}
    old.close()
    heir.close()
    pool.close()


async def test_a_session_that_is_kicked_on_its_way_ends_where_it_arrives() -> None:
    """The relay that had it has no more; the one that gets it is told."""
    books = _Books()
    pool = RelayPool(books)
    old, heir = _Relay(pool, 1, 2), _Relay(pool, 2, 0)
    await pool.introduced()
    pool.surrender(1)
    move = await heir.inherits()
    pool.kick(1, ["r1s0"], CloseReason.KICKED)
    heir.arrived(move, "r1s0", "r1s1")
    await wait_until_async(lambda: heir.all_of(messages.Kick), 5, "the kick")
    assert [messages.Kick(["r1s0"], CloseReason.KICKED)] == heir.all_of(messages.Kick)
    old.close()
    heir.close()
    pool.close()


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
    """The heir dies before the kernel has taken a session: it is whole, with all its parts, and goes on."""
    near, far = (sockets[0], sockets[2]), (sockets[1], sockets[3])
    back: list[tuple[Carried, Pair]] = []
    ours, theirs = pair()
    giving = Giving(ours, 5, take_back=lambda session, pair: back.append((session, pair)))
    session = _carried(size, size)
    theirs.close()
    giving.give(session, near)
    assert not giving.ready
    await wait_until_async(lambda: back, 5, "the session")
    assert [(session, near)] == back
    assert giving.done
    for one, other in zip(near, far, strict=True):
        one.send(b"x")
        assert b"x" == other.recv(1)


async def test_an_heir_that_is_slow_gets_one_session_too_many_at_most() -> None:
    """The line takes what it takes, one session waits for it, and that one can be taken back."""
    back: list[Carried] = []

    def take_back(session: Carried, sockets: Pair) -> None:
        back.append(session)
        for sock in sockets:
            sock.close()

    ours, theirs = pair()
    giving = Giving(ours, 1000, take_back=take_back)
    given = 0
    while giving.ready:
        giving.give(Carried(f"s{given}", _FACTS, b"", b"", 0.0), socket.socketpair())
        given += 1
    assert 10 < given < 1000
    assert not giving.done
    giving.close()
    assert [f"s{given - 1}"] == [session.id for session in back]
    theirs.close()
    await asyncio.sleep(0)


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
