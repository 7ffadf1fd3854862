"""Relays as a pool sees them, which do what a test says, and the books that the pool keeps."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from rdpbalancer.errors import ChannelError
from rdpbalancer.ipc import relay_messages
from rdpbalancer.ipc.channel import Channel, pair
from rdpbalancer.ipc.relay_messages import MigrateIn, SessionEnded, SessionsArrived, SessionState
from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay.pool import DEFAULT_CAPACITY, RelayPool
from tests.support.wait import wait_until_async

Told = TypeVar("Told", bound=msgspec.Struct)


def ended(session_id: str) -> SessionEnded:
    """Return what a relay tells of a session's end."""
    return SessionEnded(session_id, b"", CloseReason.EOF, CloseSide.CLIENT, 0, 0, 0.0)


class Books:
    """What the pool tells its owner."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.moves: dict[str, int] = {}
        self.moved: dict[str, tuple[int, int]] = {}
        self.lost: list[int] = []
        self.ended: list[SessionEnded] = []

    def session_live(self, state: SessionState, relay: int) -> None:
        """Note where a session is, and how often it has moved."""
        self.live[state.id] = relay
        self.moves[state.id] = state.moves

    def session_moved(self, session_id: str, bytes_up: int, bytes_down: int) -> None:
        """Note byte counts."""
        self.moved[session_id] = (bytes_up, bytes_down)

    def session_ended(self, end: SessionEnded, relay: int) -> None:
        """Note an end."""
        del relay
        self.ended.append(end)

    def relay_lost(self, relay: int, error: ChannelError | None) -> None:
        """Note a loss."""
        del error
        self.lost.append(relay)


class ToldRelay:
    """A relay as the pool sees it, which does what the test says."""

    def __init__(self, pool: RelayPool, pid: int, sessions: int, *, silent: bool = False) -> None:
        self.silent = silent
        ours, theirs = pair()
        pool.add(pid, ours)
        self.told: list[msgspec.Struct] = []
        self.moves = 0
        self.sockets: list[socket.socket] = []
        self.line = Channel(theirs, relay_messages.TO_RELAY, on_message=self._heard, on_close=lambda: None)
        self.pid = pid
        self.states = [SessionState(f"r{pid}s{number}", b"", 0, 0) for number in range(sessions)]

    def _heard(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        self.told.append(message)
        self.sockets += sockets
        if isinstance(message, relay_messages.RelayHello) and not self.silent:
            self.answer(message.router)

    def answer(self, router: str) -> None:
        """Tell its sessions to whom that word is of."""
        self.line.send(relay_messages.RelayHello(relay_messages.PROTOCOL_VERSION, self.pid, router=router))
        self.line.send(relay_messages.LiveSessions(self.states, last=True))

    def all_of(self, kind: type[Told]) -> list[Told]:
        """Return what it was told of a kind."""
        return [message for message in self.told if isinstance(message, kind)]

    def arrived(self, move: str, *ids: str, last: bool = False) -> None:
        """Say that these have come."""
        states = [SessionState(session_id, b"", 0, 0, moves=1) for session_id in ids]
        self.line.send(SessionsArrived(move, states, last))

    async def told_to_receive(self) -> str:
        """Wait until it is to receive something more, say that it is there, and return the move."""
        await wait_until_async(lambda: len(self.all_of(MigrateIn)) > self.moves, 5, "an inheritance")
        move = self.all_of(MigrateIn)[self.moves].move
        self.moves += 1
        self.arrived(move)
        return move

    async def is_told(self, kind: type[Told], *, times: int = 1) -> list[Told]:
        """Wait until it has been told so often, and return what."""
        await wait_until_async(lambda: len(self.all_of(kind)) >= times, 5, f"{times} {kind.__name__}")
        return self.all_of(kind)

    def close(self) -> None:
        """End. Twice does nothing."""
        self.line.close()
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()


class Party:
    """A pool, its books, and its relays: 1, 2, 3 and so on, with so many sessions each."""

    def __init__(
        self, sessions: Sequence[int], *, capacity: int, silent: Sequence[int], books: Books
    ) -> None:
        self.books = books
        self.pool = RelayPool(self.books, capacity=capacity)
        self.relays: list[ToldRelay] = []
        for number, count in enumerate(sessions, 1):
            self.come(count, silent=number in silent)

    def come(self, sessions: int, *, silent: bool = False) -> ToldRelay:
        """Have another relay come."""
        relay = ToldRelay(self.pool, len(self.relays) + 1, sessions, silent=silent)
        self.relays.append(relay)
        return relay


@asynccontextmanager
async def party(
    *sessions: int,
    migrate_out: Sequence[int] = (),
    capacity: int = DEFAULT_CAPACITY,
    silent: Sequence[int] = (),
    books: Books | None = None,
) -> AsyncIterator[Party]:
    """Bring a pool and relays together; some of these do not answer, some are to migrate_out."""
    made = Party(sessions, capacity=capacity, silent=silent, books=books or Books())
    try:
        if silent:
            await asyncio.gather(*(relay.is_told(relay_messages.RelayHello) for relay in made.relays))
        else:
            await made.pool.introduced()
        made.pool.migrate_out(migrate_out)
        yield made
    finally:
        for relay in made.relays:
            relay.close()
        made.pool.close()
