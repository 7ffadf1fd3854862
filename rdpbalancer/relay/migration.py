"""Sessions on their way from one relay to another, over a channel between the two.

No third process ever has them in hand: what the sending end has not sent is still its own, and what it has
sent lies in the kernel until the other relay takes it, whatever becomes of the router meanwhile.
"""

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable
from typing import Any

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
from rdpbalancer.relay.mover import MovedSession, Mover

# Sessions that go over a channel at once, when a relay gives its own away; and when to go on: the others are
# served meanwhile.
_SENT_AT_ONCE = 32
_PAUSE_S = 0.001
# As many states as `Live` has in a message.
_ARRIVALS_PER_MESSAGE = 32

Pair = tuple[socket.socket, socket.socket]
Take = Callable[[SessionTransfer, Pair], object]


class Migrations:
    """All channels of a relay to others, with its pump at this end.

    `tell(arrived)` is called to let the router know, `sent(session)` for each session that has left, and
    `changed()` when a channel has ended.
    """

    def __init__(
        self,
        mover: Mover[Any],
        *,
        tell: Callable[[SessionsArrived], None],
        sent: Callable[[MovedSession], object],
        changed: Callable[[], None],
    ) -> None:
        self._mover = mover
        self._tell = tell
        self._sent = sent
        self._changed = changed
        self._senders: list[MigrationSender] = []
        self._again: asyncio.TimerHandle | None = None
        self._receivers: dict[str, MigrationReceiver] = {}
        self._arrivals: defaultdict[str, list[SessionState]] = defaultdict(list)

    @property
    def going_on(self) -> bool:
        """Whether there is a channel to another relay."""
        return bool(self._senders or self._receivers)

    def migrate_out(self, sessions: int, sock: socket.socket) -> None:
        """Give so many sessions to the relay at the other end, or as many as there are."""
        self._senders.append(MigrationSender(sock, sessions, take_back=self._mover.resume))
        self._send_some()

    def send_no_more(self) -> None:
        """Keep what is not on its way: who wanted it elsewhere is no more."""
        for sender in self._senders:
            sender.left = 0

    def waiting(self) -> list[SessionState]:
        """Return the sessions that have left the pump and not gone: they may be back in it any moment."""
        return [state for sender in self._senders if (state := sender.waiting) is not None]

    def migrate_in(self, move: str, sock: socket.socket) -> None:
        """Take what the relay at the other end gives."""

        def take(session: SessionTransfer, sockets: Pair) -> None:
            self._arrived(move, self._mover.resume(session, sockets))

        self._receivers[move] = MigrationReceiver(sock, take=take, on_end=lambda: self._received(move))
        self._tell(SessionsArrived(move, [], last=False))

    def report(self) -> None:
        """Tell the router what has arrived."""
        arrivals, self._arrivals = self._arrivals, defaultdict(list)
        for move, states in arrivals.items():
            self._tell(SessionsArrived(move, states, last=False))

    def close(self) -> None:
        """Close all channels. What has not left is in the pump again; what lies in them unread ends."""
        if self._again is not None:
            self._again.cancel()
        for sending in self._senders:
            sending.close()
        for receiving in self._receivers.values():
            receiving.close()

    def _send_some(self) -> None:
        """Give sessions away while the channels take them: each stands still only while it is on its way."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        sessions = iter(self._mover)
        for sender in self._senders:
            for _ in range(_SENT_AT_ONCE):
                if not sender.ready or (session := next(sessions, None)) is None:
                    break
                self._sent(session)
                sender.send(self._mover.migrate_out(session), (session.client, session.server))
        self._end_senders()
        if self._senders:
            self._again = asyncio.get_running_loop().call_later(_PAUSE_S, self._send_some)
        else:
            self._changed()

    def _end_senders(self) -> None:
        for sender in self._senders:
            if not len(self._mover):
                sender.left = 0
            if sender.done:
                sender.close()
        self._senders = [sender for sender in self._senders if not sender.done]

    def _arrived(self, move: str, session: MovedSession) -> None:
        if not self._arrivals:
            asyncio.get_running_loop().call_soon(self.report)
        arrivals = self._arrivals[move]
        arrivals.append(session.state)
        if len(arrivals) == _ARRIVALS_PER_MESSAGE:
            self.report()

    def _received(self, move: str) -> None:
        del self._receivers[move]
        self.report()
        self._tell(SessionsArrived(move, [], last=True))
        self._changed()


class MigrationSender:
    """The sending end of a channel: at most `left` more sessions go over it.

    `take_back(session, sockets)` is called for the one that has not gone when the channel breaks.
    """

    def __init__(self, sock: socket.socket, left: int, *, take_back: Take) -> None:
        self.left = left
        self._take_back = take_back
        self._last: SessionTransfer | None = None
        self._channel = Channel(sock, NO_MESSAGES, on_message=lambda *_: None, on_close=self._broken)

    @property
    def ready(self) -> bool:
        """Whether it takes a session now: while the target is slow, at most one session is queued unsent."""
        return self.left > 0 and not (self._channel.closed or self._channel.backlog)

    @property
    def done(self) -> bool:
        """Whether nothing more goes over it, and all that was to go has gone."""
        return self._channel.closed or not (self.left or self._channel.backlog)

    @property
    def waiting(self) -> SessionState | None:
        """The session that waits for the channel to take it, as it was here."""
        last = self._last
        if last is None or not self._channel.backlog:
            return None
        return SessionState(last.id, last.facts, last.bytes_up, last.bytes_down, last.moves)

    def send(self, session: SessionTransfer, sockets: Pair) -> None:
        """Send a session. The sockets are the target's from then on."""
        self.left -= 1
        self._last = session
        for message in packed(msgspec.structs.replace(session, moves=session.moves + 1)):
            self._channel.send(message, sockets if isinstance(message, MigratedSession) else ())

    def close(self) -> None:
        """Close the channel, and take back what has not gone."""
        self._broken()
        self._channel.close()

    def _broken(self) -> None:
        self.left = 0
        for sockets in self._channel.take_back():
            if sockets and self._last is not None:  # parts have none
                self._take_back(self._last, (sockets[0], sockets[1]))


class MigrationReceiver:
    """The other end. `take(session, sockets)` is called for each; `on_end()` once, when no more will come."""

    def __init__(self, sock: socket.socket, *, take: Take, on_end: Callable[[], None]) -> None:
        self._take = take
        self._parts = ChunkCollector()
        self._channel = Channel(sock, MIGRATION_MESSAGES, on_message=self._heard, on_close=on_end)

    def close(self) -> None:
        """Close the channel. Sessions that lie in it end."""
        self._channel.close()

    def _heard(self, message: SessionChunk | MigratedSession, sockets: list[socket.socket]) -> None:
        if isinstance(message, SessionChunk):
            self._parts.add(message)
        else:
            client, server = sockets
            self._take(self._parts.complete(message), (client, server))
