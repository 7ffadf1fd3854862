"""`relays: 0`: the router's own process moves the bytes."""

import asyncio
import os
import socket
import time
from collections.abc import Sequence

import msgspec

from rdpbalancer.ipc.relay_messages import SessionEnded, SessionTransfer
from rdpbalancer.model import CloseReason, CloseSide, SessionFacts
from rdpbalancer.relay.link import RelayEvents
from rdpbalancer.relay.mover import MakeMover, MovedSession
from rdpbalancer.relay.pool import REPORT_INTERVAL_S
from rdpbalancer.relay.pump import Pump


class InlineRelay:
    """The verbs of `RelayPool`, without a relay: sessions end with this process."""

    outlives_router = False

    def __init__(
        self,
        events: RelayEvents,
        *,
        report_interval_s: float = REPORT_INTERVAL_S,
        mover: MakeMover = Pump,
    ) -> None:
        self.events = events
        self._report_interval_s = report_interval_s
        self._mover = mover(asyncio.get_running_loop(), self._ended)
        self._ticker = asyncio.get_running_loop().call_later(report_interval_s, self._tick)

    @property
    def full(self) -> bool:
        """Whether there is no room for a session: the sockets stay in this process, which counts them."""
        return False

    @property
    def pending(self) -> int:
        """Nothing is on its way to anybody."""
        return 0

    def add(self, pid: int, sock: socket.socket) -> None:
        """There is no relay to be used: close its channel."""
        del pid
        sock.close()

    def retire(self, relays: Sequence[int]) -> None:
        """There is no relay to retire."""

    def migrate_out(self, relays: Sequence[int]) -> None:
        """There is no relay to move sessions from."""

    def retiring(self) -> list[int]:
        """Return nothing: there is no relay."""
        return []

    async def introduced(self) -> None:
        """Nothing to wait for: the sessions ended with the router that held them."""

    async def choose(self) -> int:
        """Return this process's id."""
        return os.getpid()

    def adopt(
        self,
        relay: int,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
    ) -> None:
        """Have a session moved in this process."""
        del relay
        carried = SessionTransfer(facts.id, msgspec.msgpack.encode(facts), first[0], first[1], idle_s)
        self._mover.resume(carried, sockets)

    def kick(self, relay: int, session_ids: Sequence[str], reason: CloseReason) -> None:
        """End sessions."""
        del relay
        for session_id in session_ids:
            self._mover.kick(session_id, reason)

    def sessions(self) -> dict[int, int]:
        """Return this process's id and its number of sessions."""
        return {os.getpid(): len(self._mover)}

    def close(self) -> None:
        """End every session and stop reporting."""
        self._ticker.cancel()
        for session in self._mover:
            self._mover.kick(session.id, CloseReason.SHUTDOWN)
        self._mover.close()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        for session_id, bytes_up, bytes_down in self._mover.tick(loop.time()):
            self.events.session_moved(session_id, bytes_up, bytes_down)
        self._ticker = loop.call_later(self._report_interval_s, self._tick)

    def _ended(self, session: MovedSession, reason: CloseReason, side: CloseSide) -> None:
        counts = session.counts
        self.events.session_ended(
            SessionEnded(session.id, session.facts, reason, side, *counts, time.time()), os.getpid()
        )
