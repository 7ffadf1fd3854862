"""Sessions between two relays: every message fits the line, and bytes that are missing are never skipped."""

import asyncio
import socket
import time
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


def _ended(session_id: str) -> Ended:
    return Ended(session_id, b"", CloseReason.EOF, CloseSide.CLIENT, 0, 0, 0.0)


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

    def __init__(self, pool: RelayPool, pid: int, sessions: int, *, silent: bool = False) -> None:
        self.silent = silent
        ours, theirs = pair()
        pool.add(pid, ours)
        self.told: list[msgspec.Struct] = []
        self.sockets: list[socket.socket] = []
        self.line = Channel(theirs, messages.TO_RELAY, on_message=self._heard, on_close=lambda: None)
        self.pid = pid
        self.states = [SessionState(f"r{pid}s{number}", b"", 0, 0) for number in range(sessions)]

    def _heard(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        self.told.append(message)
        self.sockets += sockets
        if isinstance(message, messages.Hello) and not self.silent:
            self.answer(message.router)

    def answer(self, router: str) -> None:
        """Tell its sessions to whom that word is of."""
        self.line.send(messages.Hello(messages.PROTOCOL_VERSION, self.pid, router=router))
        self.line.send(messages.Live(self.states, last=True))

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
    pool.surrender([1])
    for heir in (first, second):
        await heir.inherits()
    await wait_until_async(lambda: len(old.all_of(Surrender)) == 2, 5, "two lines")
    assert [messages.Retire()] == old.all_of(messages.Retire)
    assert [5, 2] == [told.sessions for told in old.all_of(Surrender)]
    second.line.send(Ends([_ended("r3s0")]))
    await wait_until_async(lambda: len(second.all_of(Inherit)) == 2, 5, "a place")
    second.arrived(second.all_of(Inherit)[-1].move)
    await wait_until_async(lambda: len(old.all_of(Surrender)) == 3, 5, "a third line")
    assert 1 == old.all_of(Surrender)[-1].sessions
    assert {1: 10, 2: 3, 3: 7} == pool.sessions()
    for relay in (old, first, second):
        relay.close()
    pool.close()


async def test_old_relays_are_not_each_other_s_heirs() -> None:
    """Else half of the sessions would move twice."""
    pool = RelayPool(_Books())
    relays = [_Relay(pool, pid, 10) for pid in (1, 2)] + [_Relay(pool, pid, 0) for pid in (3, 4)]
    await pool.introduced()
    pool.surrender([1, 2])
    await wait_until_async(
        lambda: [2, 2] == [len(relay.all_of(Inherit)) for relay in relays[2:]], 5, "four lines"
    )
    assert [[], []] == [relay.all_of(Inherit) for relay in relays[:2]]
    for relay in relays:
        relay.close()
    pool.close()


async def test_a_slow_relay_surrenders_when_it_has_answered() -> None:
    """Whoever waited for its introduction has given up; it is not left behind."""
    pool = RelayPool(_Books())
    old, heir = _Relay(pool, 1, 4, silent=True), _Relay(pool, 2, 0)
    await wait_until_async(lambda: old.all_of(messages.Hello), 5, "the greeting")
    pool.surrender([1])
    old.answer(old.all_of(messages.Hello)[0].router)
    await heir.inherits()
    await wait_until_async(lambda: old.all_of(Surrender), 5, "the word to surrender")
    assert [4] == [told.sessions for told in old.all_of(Surrender)]
    old.close()
    heir.close()
    pool.close()


async def test_the_answer_to_an_earlier_router_is_not_ours() -> None:
    """Where sessions were then is nothing to go by; that one has ended is true whoever hears it."""
    books = _Books()
    pool = RelayPool(books)
    relay = _Relay(pool, 1, 2, silent=True)
    await wait_until_async(lambda: relay.all_of(messages.Hello), 5, "the greeting")
    relay.answer("an earlier router's word")
    relay.arrived("an earlier router's move", "x")
    relay.line.send(Ends([_ended("r1s0")]))
    await wait_until_async(lambda: books.ended, 5, "an end")
    assert ({}, {1: -1}) == (books.live, pool.sessions())
    relay.states = relay.states[1:]
    relay.answer(relay.all_of(messages.Hello)[0].router)
    await pool.introduced()
    assert ({"r1s1": 1}, {1: 1}) == (books.live, pool.sessions())
    relay.close()
    pool.close()


async def test_a_move_in_vain_is_not_repeated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever made it fail may last: there is a pause, and then another try."""
    monkeypatch.setattr("rdpbalancer.relay.pool._MOVE_AGAIN_S", 0.2)
    pool = RelayPool(_Books())
    old, heir = _Relay(pool, 1, 4), _Relay(pool, 2, 0)
    await pool.introduced()
    pool.surrender([1])
    move = await heir.inherits()
    began = time.monotonic()
    heir.arrived(move, last=True)
    await wait_until_async(lambda: len(heir.all_of(Inherit)) == 2, 5, "another try")
    assert time.monotonic() - began >= 0.2
    old.close()
    heir.close()
    pool.close()


async def test_nobody_gives_before_the_heir_is_there() -> None:
    """What is said into a line whose other end lies in a dying router would be lost."""
    pool = RelayPool(_Books())
    old, heir = _Relay(pool, 1, 4), _Relay(pool, 2, 0)
    await pool.introduced()
    pool.surrender([1])
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
    pool.surrender([1])
    move = await heir.inherits()
    await wait_until_async(lambda: old.all_of(Surrender), 5, "the word to surrender")
    old.close()
    await wait_until_async(lambda: pool.sessions() == {2: 0}, 5, "the end of its line")
    assert ([], 1) == (books.lost, pool.in_hand)
    heir.arrived(move, "r1s0", "r1s1")
    heir.arrived(move, last=True)
    await wait_until_async(lambda: books.lost, 5, "the loss")
    assert {"r1s0": 2, "r1s1": 2, "r1s2": 1} == books.live
    assert ([1], {2: 2}, 0) == (books.lost, pool.sessions(), pool.in_hand)
    heir.close()
    pool.close()


async def test_an_heir_dies() -> None:
    """Another one gets the rest, and its own loss is told at once."""
    books = _Books()
    pool = RelayPool(books)
    old, heir = _Relay(pool, 1, 4), _Relay(pool, 2, 0)
    await pool.introduced()
    pool.surrender([1])
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
    pool.surrender([1])
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
    relay = _Relay(pool, 1, 0)
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
    await wait_until_async(lambda: len(relay.sockets) == 2 * len(sizes), 5, "all sessions")
    sessions = [carried for message in relay.all_of(Adopt) for carried in message.sessions]
    assert [(f"s{number}", size) for number, size in enumerate(sizes)] == [
        (carried.id, len(carried.to_client)) for carried in sessions
    ]
    assert len(relay.all_of(Adopt)) <= 100 // 32 + 1 + 5
    assert 0 == pool.in_hand
    for number, (end, got) in enumerate(zip(far, relay.sockets, strict=True)):
        end.send(b"%d" % number)
        assert b"%d" % number == got.recv(10)
    for sock in far:
        sock.close()
    relay.close()
    pool.close()


async def test_an_end_that_fails_costs_the_others_nothing() -> None:
    """The owner's error at one of several ends is told to the loop; the other ends are heard."""

    class Failing(_Books):
        def session_ended(self, ended: Ended, relay: int) -> None:
            if ended.id == "r1s1":
                message = "no space left"
                raise OSError(message)
            super().session_ended(ended, relay)

    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["message"])))
    books = Failing()
    pool = RelayPool(books)
    relay = _Relay(pool, 1, 3)
    await pool.introduced()
    relay.line.send(Ends([_ended(f"r1s{number}") for number in range(3)]))
    await wait_until_async(lambda: len(books.ended) == 2, 5, "two ends")
    assert ["r1s0", "r1s2"] == [ended.id for ended in books.ended]
    assert ["the end of session r1s1"] == told
    assert {1: 0} == pool.sessions()
    relay.close()
    pool.close()
