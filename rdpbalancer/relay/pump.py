"""The pump: the sessions of one process, and bytes from each socket to its other one.

Moving them is `relay.flow`'s. Here sessions come, go to another process, are ended where nothing has moved
for too long, and counted.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from rdpbalancer.ipc.relay_messages import SessionTransfer
from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay import peers
from rdpbalancer.relay.flow import Flow
from rdpbalancer.relay.idle_poll import IdlePoller
from rdpbalancer.relay.pumped_session import PumpedSession

# After one side has closed, the other may finish what it has to say; silence this long means that it never
# will (a server that hangs would otherwise hold a place for the whole idle timeout, and the next user wait).
HALF_CLOSED_IDLE_S: Final = 15.0
# The same while a chunk waits to be taken: it would be lost, and a line may stand still for longer.
HALF_CLOSED_UNSENT_S: Final = 60.0
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST


class Pump:
    """All sessions of one process: the mover that copies bytes (`relay.mover.Mover`).

    `on_end(session, reason, side)` is called once for each, after its sockets are closed. `user_timeout_ms`:
    how long data may stay unacknowledged, which is looked at every `look_s`.
    """

    can_migrate = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[PumpedSession, CloseReason, CloseSide], None],
        *,
        user_timeout_ms: int = peers.USER_TIMEOUT_MS,
        look_s: float = peers.LOOK_S,
    ) -> None:
        self.loop = loop
        self.user_timeout_ms = user_timeout_ms
        self.look_s = look_s
        self.idle = IdlePoller[Flow](loop, lambda flow: flow.session.on_readable(flow))
        self._on_end = on_end
        self._sessions: dict[str, PumpedSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[PumpedSession]:
        return iter(list(self._sessions.values()))

    def adopt(
        self,
        session_id: str,
        facts: bytes,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
    ) -> PumpedSession:
        """Take a session over. `sockets`: client, server. `first`: bytes to send to server, to client."""
        return self.resume(SessionTransfer(session_id, facts, first[0], first[1], idle_s), sockets)

    def resume(self, carried: SessionTransfer, sockets: tuple[socket.socket, socket.socket]) -> PumpedSession:
        """Take over a session that another process had, with all that it has been through."""
        session = PumpedSession(self, carried.id, carried.facts, sockets, carried.idle_s)
        session.closed_first = carried.closed_first
        session.moves = carried.moves
        session.active_at -= carried.silent_s
        session.reported = carried.bytes_up + carried.bytes_down
        self._sessions[carried.id] = session
        flows = (
            (session.up, carried.bytes_up, carried.up_done, carried.to_server),
            (session.down, carried.bytes_down, carried.down_done, carried.to_client),
        )
        for flow, count, done, _ in flows:
            flow.count, flow.done = count, done
            if count:
                flow.patient = None  # another process may have given the sink time without end
        if session.quiet and not (carried.to_server or carried.to_client) and session.go_idle():
            return session
        for flow, _, done, first in flows:
            if not done:
                flow.start(first)
        return session

    def migrate_out(self, session: PumpedSession) -> SessionTransfer:
        """Let go of a session, between any two of its events, and return what another process needs.

        Its sockets stay open and are the caller's; its end is not reported.
        """
        del self._sessions[session.id]
        session.unwatch()
        return SessionTransfer(
            session.id,
            session.facts,
            bytes(session.up.pending),
            bytes(session.down.pending),
            session.idle_s,
            session.up.count,
            session.down.count,
            self.loop.time() - session.active_at,
            session.closed_first,
            session.up.done,
            session.down.done,
            session.moves,
        )

    def close(self) -> None:
        """Watch nothing any more; all sessions have ended, or been given away."""
        self.idle.close()

    def kick(self, session_id: str, reason: CloseReason) -> None:
        """End a session on the balancer's own account. Unknown ids are sessions that ended meanwhile."""
        session = self._sessions.get(session_id)
        if session is not None:
            self.end(session, reason, CloseSide.BALANCER)

    def end(
        self, session: PumpedSession, reason: CloseReason, side: CloseSide, *, reset: bool = False
    ) -> None:
        """Close both sockets and report the end. Twice does nothing. `reset`: close with RST."""
        if self._sessions.pop(session.id, None) is None:
            return
        session.unwatch()
        for sock in (session.client, session.server):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()
        self._on_end(session, reason, side)

    def tick(self, now: float) -> list[tuple[str, int, int]]:
        """End what has been idle too long; return (id, bytes up, bytes down) of what moved since last time.

        Called every few seconds. Activity is seen here, by comparing counts, so that moving bytes needs no
        look at the clock.
        """
        moved = []
        for session in list(self._sessions.values()):
            up, down = session.up.count, session.down.count
            if up + down != session.reported:
                session.reported = up + down
                session.active_at = now
                moved.append((session.id, up, down))
            else:
                if session.quiet:
                    session.leave_loop()
                self._end_if_idle(session, now - session.active_at)
            session.look(now)
        return moved

    def _end_if_idle(self, session: PumpedSession, silent_s: float) -> None:
        unsent = session.up.pending or session.down.pending
        half_closed_s = HALF_CLOSED_UNSENT_S if unsent else HALF_CLOSED_IDLE_S
        if session.closed_first is not None and silent_s >= half_closed_s:
            self.end(session, CloseReason.EOF, session.closed_first)
        elif session.idle_s and silent_s >= session.idle_s:
            self.end(session, CloseReason.IDLE, CloseSide.BALANCER)
