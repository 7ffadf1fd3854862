"""Sessions on their way from one relay to another, over a line between the two.

No third process ever has them in hand: what the sending end has not sent is still its own, and what it has
sent lies in the kernel until the other relay takes it, whatever becomes of the router meanwhile.
"""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable

import msgspec

from rdpbalancer.ipc.channel import Channel
from rdpbalancer.ipc.relay_messages import (
    MIGRATION_MESSAGES,
    NO_MESSAGES,
    MigratedSession,
    SessionChunk,
    SessionsArrived,
    SessionState,
    SessionTransfer,
)
from rdpbalancer.relay.chunking import ChunkCollector, packed
from rdpbalancer.relay.pump import Pump, PumpedSession

# Sessions that go over a line at once, when a relay gives its own away; and when to go on: the others are
# served meanwhile.
_GIVEN_AT_ONCE = 32
_PAUSE_S = 0.001
# As many states as `Live` has in a message.
_ARRIVALS_PER_MESSAGE = 32

Pair = tuple[socket.socket, socket.socket]
Take = Callable[[SessionTransfer, Pair], object]


class Migrations:
    """All lines of a relay to others, with its pump at this end.

    `tell(arrived)` is called to let the router know, `given(session)` for each session that has left, and
    `changed()` when a line has ended.
    """

    def __init__(
        self,
        pump: Pump,
        *,
        tell: Callable[[SessionsArrived], None],
        given: Callable[[PumpedSession], object],
        changed: Callable[[], None],
    ) -> None:
        self._pump = pump
        self._tell = tell
        self._given = given
        self._changed = changed
        self._giving: list[MigrationSender] = []
        self._again: asyncio.TimerHandle | None = None
        self._inheriting: dict[str, MigrationReceiver] = {}
        self._arrivals: defaultdict[str, list[SessionState]] = defaultdict(list)

    @property
    def going_on(self) -> bool:
        """Whether there is a line to another relay."""
        return bool(self._giving or self._inheriting)

    def migrate_out(self, sessions: int, sock: socket.socket) -> None:
        """Give so many sessions to the relay at the other end, or as many as there are."""
        self._giving.append(MigrationSender(sock, sessions, take_back=self._pump.resume))
        self._give_some()

    def give_no_more(self) -> None:
        """Keep what is not on its way: who wanted it elsewhere is no more."""
        for line in self._giving:
            line.left = 0

    def waiting(self) -> list[SessionState]:
        """Return the sessions that have left the pump and not gone: they may be back in it any moment."""
        return [state for line in self._giving if (state := line.waiting) is not None]

    def migrate_in(self, move: str, sock: socket.socket) -> None:
        """Take what the relay at the other end gives."""

        def take(session: SessionTransfer, sockets: Pair) -> None:
            self._arrived(move, self._pump.resume(session, sockets))

        self._inheriting[move] = MigrationReceiver(sock, take=take, on_end=lambda: self._inherited(move))
        self._tell(SessionsArrived(move, [], last=False))

    def report(self) -> None:
        """Tell the router what has arrived."""
        arrivals, self._arrivals = self._arrivals, defaultdict(list)
        for move, states in arrivals.items():
            self._tell(SessionsArrived(move, states, last=False))

    def close(self) -> None:
        """Close all lines. What has not left is in the pump again; what lies in them unread ends."""
        if self._again is not None:
            self._again.cancel()
        for sending in self._giving:
            sending.close()
        for receiving in self._inheriting.values():
            receiving.close()

    def _give_some(self) -> None:
        """Give sessions away while the lines take them: each stands still only while it is on its way."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        sessions = iter(self._pump)
        for line in self._giving:
            for _ in range(_GIVEN_AT_ONCE):
                if not line.ready or (session := next(sessions, None)) is None:
                    break
                self._given(session)
                line.give(self._pump.migrate_out(session), (session.client, session.server))
        self._end_giving()
        if self._giving:
            self._again = asyncio.get_running_loop().call_later(_PAUSE_S, self._give_some)
        else:
            self._changed()

    def _end_giving(self) -> None:
        for line in self._giving:
            if not len(self._pump):
                line.left = 0
            if line.done:
                line.close()
        self._giving = [line for line in self._giving if not line.done]

    def _arrived(self, move: str, session: PumpedSession) -> None:
        if not self._arrivals:
            asyncio.get_running_loop().call_soon(self.report)
        arrivals = self._arrivals[move]
        arrivals.append(session.state)
        if len(arrivals) == _ARRIVALS_PER_MESSAGE:
            self.report()

    def _inherited(self, move: str) -> None:
        del self._inheriting[move]
        self.report()
        self._tell(SessionsArrived(move, [], last=True))
        self._changed()


class MigrationSender:
    """The sending end of a line: at most `left` more sessions go over it.

    `take_back(session, sockets)` is called for the one that has not gone when the line breaks.
    """

    def __init__(self, sock: socket.socket, left: int, *, take_back: Take) -> None:
        self.left = left
        self._take_back = take_back
        self._last: SessionTransfer | None = None
        self._line = Channel(sock, NO_MESSAGES, on_message=lambda *_: None, on_close=self._broken)

    @property
    def ready(self) -> bool:
        """Whether it takes a session now: while the target is slow, at most one session is queued unsent."""
        return self.left > 0 and not (self._line.closed or self._line.backlog)

    @property
    def done(self) -> bool:
        """Whether nothing more goes over it, and all that was to go has gone."""
        return self._line.closed or not (self.left or self._line.backlog)

    @property
    def waiting(self) -> SessionState | None:
        """The session that waits for the line to take it, as it was here."""
        last = self._last
        if last is None or not self._line.backlog:
            return None
        return SessionState(last.id, last.facts, last.bytes_up, last.bytes_down, last.moves)

    def give(self, session: SessionTransfer, sockets: Pair) -> None:
        """Send a session. The sockets are the target's from then on."""
        self.left -= 1
        self._last = session
        for message in packed(msgspec.structs.replace(session, moves=session.moves + 1)):
            self._line.send(message, sockets if isinstance(message, MigratedSession) else ())

    def close(self) -> None:
        """Close the line, and take back what has not gone."""
        self._broken()
        self._line.close()

    def _broken(self) -> None:
        self.left = 0
        for sockets in self._line.take_back():
            if sockets and self._last is not None:  # parts have none
                self._take_back(self._last, (sockets[0], sockets[1]))


class MigrationReceiver:
    """The other end. `take(session, sockets)` is called for each; `on_end()` once, when no more will come."""

    def __init__(self, sock: socket.socket, *, take: Take, on_end: Callable[[], None]) -> None:
        self._take = take
        self._parts = ChunkCollector()
        self._line = Channel(sock, MIGRATION_MESSAGES, on_message=self._heard, on_close=on_end)

    def close(self) -> None:
        """Close the line. Sessions that lie in it end."""
        self._line.close()

    def _heard(self, message: SessionChunk | MigratedSession, sockets: list[socket.socket]) -> None:
        if isinstance(message, SessionChunk):
            self._parts.add(message)
        else:
            client, server = sockets
            self._take(self._parts.complete(message), (client, server))
