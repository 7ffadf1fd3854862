"""A session in the pump: two sockets, two flows.

A session that moves bytes has readers in the event loop; an idle one is watched by `relay.idle_poll`.
"""

import asyncio
import errno
import socket
from typing import Protocol

from rdpbalancer.ipc.relay_messages import SessionState
from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay.flow import Flow
from rdpbalancer.relay.idle_poll import IdlePoller


class SessionPump(Protocol):
    """The pump that a session is in."""

    loop: asyncio.AbstractEventLoop
    idle: IdlePoller[Flow]
    user_timeout_ms: int
    look_s: float

    def end(
        self, session: "PumpedSession", reason: CloseReason, side: CloseSide, *, reset: bool = False
    ) -> None:
        """Close both sockets and report the end."""


class PumpedSession:
    """A session in the pump: its two sockets, two flows, and what the relay carries for the router."""

    __slots__ = (
        "active_at",
        "client",
        "closed_first",
        "down",
        "facts",
        "id",
        "idle",
        "idle_s",
        "look_at",
        "moves",
        "pump",
        "reported",
        "server",
        "up",
    )

    def __init__(
        self,
        pump: SessionPump,
        session_id: str,
        facts: bytes,
        sockets: tuple[socket.socket, socket.socket],
        idle_s: float,
    ) -> None:
        self.pump = pump
        self.id = session_id
        self.facts = facts
        self.client, self.server = sockets
        self.idle_s = idle_s
        self.active_at = self.loop.time()
        self.look_at = self.active_at + pump.look_s
        self.reported = 0
        self.moves = 0
        self.idle = False
        self.closed_first: CloseSide | None = None
        self.up = Flow(self, self.client, self.server, (CloseSide.CLIENT, CloseSide.SERVER))
        self.down = Flow(self, self.server, self.client, (CloseSide.SERVER, CloseSide.CLIENT))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The pump's event loop."""
        return self.pump.loop

    def go_idle(self) -> bool:
        """Be watched outside the loop; False: the kernel watches no more sockets for us there."""
        try:
            self.pump.idle.add(self.up, self.down)
        except OSError:
            return False
        self.idle = True
        return True

    def leave_loop(self) -> None:
        """Nothing moves: leave the loop."""
        if self.go_idle():
            for flow in (self.up, self.down):
                self.loop.remove_reader(flow.source)

    def activate(self) -> None:
        """Bytes move: have readers in the loop. Does nothing for a session that is active."""
        if self.idle:
            self.idle = False
            self.pump.idle.remove(self.up, self.down)
            self.up.start()
            self.down.start()

    def on_readable(self, flow: Flow) -> None:
        """A flow of this session, which is idle, can be read."""
        before = flow.count
        flow.on_readable()
        if flow.count != before:
            self.activate()

    def unwatch(self) -> None:
        """Have nobody look at its sockets any more."""
        if self.idle:
            self.idle = False
            self.pump.idle.remove(self.up, self.down)
            return
        for sock in (self.client, self.server):
            self.loop.remove_reader(sock)
            self.loop.remove_writer(sock)

    def look(self, now: float) -> None:
        """See whether its peers still take what they were sent, from time to time."""
        if now >= self.look_at:
            self.look_at = now + self.pump.look_s
            self.up.look(self.pump.user_timeout_ms)
            self.down.look(self.pump.user_timeout_ms)

    @property
    def state(self) -> SessionState:
        """The session as the router is told of it."""
        return SessionState(self.id, self.facts, self.up.count, self.down.count, self.moves)

    @property
    def counts(self) -> tuple[int, int]:
        """Bytes moved so far: to the server, to the client."""
        return self.up.count, self.down.count

    @property
    def quiet(self) -> bool:
        """Whether it is active and only waits to be read."""
        up, down = self.up, self.down
        return not (self.idle or up.done or down.done or up.pending or down.pending)

    def half_closed(self, side: CloseSide) -> None:
        """One side has finished. Called by its flow."""
        if self.closed_first is None:
            self.closed_first = side
        if self.up.done and self.down.done:
            self.pump.end(self, CloseReason.EOF, self.closed_first)

    def broken(self, error: OSError, side: CloseSide) -> None:
        """A socket of `side` has failed: the other side is reset, as it would have been without us."""
        reason = CloseReason.TIMEOUT if error.errno == errno.ETIMEDOUT else CloseReason.RESET
        if self.closed_first is not None and side is self.closed_first:
            # Whoever closed in order and is then found gone was simply done.
            reason = CloseReason.EOF
        self.pump.end(self, reason, self.closed_first or side, reset=True)
