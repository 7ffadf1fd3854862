"""The pump: two sockets of a session, and bytes from each to the other.

This is the hot path, written for few operations per byte rather than for looks: raw non-blocking sockets, one
512 KiB read buffer for the whole process (it is what makes bulk cheap; see docs/decisions), `send` straight
from it, and at most one pending chunk per direction. While a chunk is pending its source is not read: that is
all the memory a reader that stops reading can cost.

A session that moves bytes has readers in the event loop; an idle one is watched by `relay.idle_poll`.
"""

import asyncio
import contextlib
import errno
import mmap
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Final

from rdpbalancer.ipc.relay_messages import SessionState, SessionTransfer
from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay import peers
from rdpbalancer.relay.idle_poll import IdlePoller

READ_BUFFER_BYTES: Final = 512 * 1024
# After one side has closed, the other may finish what it has to say; silence this long means that it never
# will (a server that hangs would otherwise hold a place for the whole idle timeout, and the next user wait).
HALF_CLOSED_IDLE_S: Final = 15.0
# The same while a chunk waits to be taken: it would be lost, and a line may stand still for longer.
HALF_CLOSED_UNSENT_S: Final = 60.0

# In one huge page where the system gives any: how fast a buffer is depends on where its pages happen to lie,
# and a process keeps its luck for life.
_PAGE: Final = mmap.mmap(-1, 2 * 1024 * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with contextlib.suppress(OSError):  # a kernel without huge pages
    _PAGE.madvise(mmap.MADV_HUGEPAGE)
_BUFFER: Final = memoryview(_PAGE)[:READ_BUFFER_BYTES]
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST
_NOTHING: Final = memoryview(b"")


class _Flow:
    """One direction of a session: read from `source`, send to `sink`."""

    __slots__ = (
        "_loop",
        "acknowledged",
        "count",
        "done",
        "patient",
        "pending",
        "session",
        "sink",
        "sink_side",
        "source",
        "source_side",
    )

    def __init__(
        self,
        session: "PumpedSession",
        source: socket.socket,
        sink: socket.socket,
        sides: tuple[CloseSide, CloseSide],
    ) -> None:
        self.session = session
        self.source = source
        self.sink = sink
        self.source_side, self.sink_side = sides
        self._loop = session.pump.loop
        self.pending: memoryview = _NOTHING
        self.count = 0
        self.done = False
        # The count at which the sink had acknowledged everything, and whether it may take its time (for it
        # has stopped reading; None: unknown): what `look` has found.
        self.acknowledged = 0
        self.patient: bool | None = False

    def fileno(self) -> int:
        """Return the descriptor that is read from."""
        return self.source.fileno()

    def start(self, first: bytes = b"") -> None:
        """Send `first`, then begin to read."""
        if first:
            self.pending = memoryview(first)
            self._loop.add_writer(self.sink, self.on_writable)
        else:
            self._loop.add_reader(self.source, self.on_readable)

    def on_readable(self) -> None:
        try:
            size = self.source.recv_into(_BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.session.broken(error, self.source_side)
            return
        if not size:
            self._source_ended()
            return
        try:
            sent = self.sink.send(_BUFFER[:size])
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self.session.broken(error, self.sink_side)
            return
        self.count += sent
        if sent != size:
            self.session.wake()
            self.pending = memoryview(bytes(_BUFFER[sent:size]))
            self._loop.remove_reader(self.source)
            self._loop.add_writer(self.sink, self.on_writable)

    def on_writable(self) -> None:
        try:
            sent = self.sink.send(self.pending)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.session.broken(error, self.sink_side)
            return
        self.count += sent
        if sent < len(self.pending):
            self.pending = self.pending[sent:]
            return
        self.pending = _NOTHING
        self._loop.remove_writer(self.sink)
        self._loop.add_reader(self.source, self.on_readable)

    def look(self, user_timeout_ms: int) -> None:
        """See what became of the data that the sink was sent: it may have stopped reading, or be gone."""
        if self.count == self.acknowledged and self.patient is False:
            return
        state = peers.send_state(self.sink)
        if state is None:
            return
        peer = peers.judge(state, user_timeout_ms=user_timeout_ms)
        if peer is peers.PeerState.GONE:
            self.session.broken(OSError(errno.ETIMEDOUT, "no answer to window probes"), self.sink_side)
            return
        if peer is peers.PeerState.HAS_ALL:
            self.acknowledged = self.count
        patient = peer is peers.PeerState.STOPPED_READING
        if patient is not self.patient:
            self.patient = patient
            peers.set_user_timeout(self.sink, 0 if patient else user_timeout_ms)

    def _source_ended(self) -> None:
        """The source will send no more: tell the sink so, and end the session if both have finished."""
        self.session.wake()
        self._loop.remove_reader(self.source)
        self.done = True
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.session.broken(error, self.sink_side)
            return
        self.session.half_closed(self.source_side)


class PumpedSession:
    """A session in the pump: its two sockets, two flows, and what the relay carries for the router."""

    __slots__ = (
        "active_at",
        "client",
        "closed_first",
        "down",
        "facts",
        "id",
        "idle_s",
        "look_at",
        "moves",
        "pump",
        "reported",
        "resting",
        "server",
        "up",
    )

    def __init__(
        self,
        pump: "Pump",
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
        self.active_at = pump.loop.time()
        self.look_at = self.active_at + pump.look_s
        self.reported = 0
        self.moves = 0
        self.resting = False
        self.closed_first: CloseSide | None = None
        self.up = _Flow(self, self.client, self.server, (CloseSide.CLIENT, CloseSide.SERVER))
        self.down = _Flow(self, self.server, self.client, (CloseSide.SERVER, CloseSide.CLIENT))

    def begin_rest(self) -> bool:
        """Rest, without being in the loop; False: the kernel watches no more sockets for us there."""
        try:
            self.pump.resting.add(self.up, self.down)
        except OSError:
            return False
        self.resting = True
        return True

    def rest(self) -> None:
        """Nothing moves: leave the loop."""
        if self.begin_rest():
            for flow in (self.up, self.down):
                self.pump.loop.remove_reader(flow.source)

    def wake(self) -> None:
        """Bytes move: have readers in the loop. Does nothing for a session that is awake."""
        if self.resting:
            self.resting = False
            self.pump.resting.remove(self.up, self.down)
            self.up.start()
            self.down.start()

    def stir(self, flow: _Flow) -> None:
        """A flow of this session, which rests, can be read."""
        before = flow.count
        flow.on_readable()
        if flow.count != before:
            self.wake()

    def unwatch(self) -> None:
        """Have nobody look at its sockets any more."""
        if self.resting:
            self.resting = False
            self.pump.resting.remove(self.up, self.down)
            return
        for sock in (self.client, self.server):
            self.pump.loop.remove_reader(sock)
            self.pump.loop.remove_writer(sock)

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
    def quiet(self) -> bool:
        """Whether it is awake and only waits to be read."""
        up, down = self.up, self.down
        return not (self.resting or up.done or down.done or up.pending or down.pending)

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


class Pump:
    """All sessions of one process.

    `on_end(session, reason, side)` is called once for each, after its sockets are closed. `user_timeout_ms`:
    how long data may stay unacknowledged, which is looked at every `look_s`.
    """

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
        self.resting = IdlePoller[_Flow](loop, lambda flow: flow.session.stir(flow))
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
        if session.quiet and not (carried.to_server or carried.to_client) and session.begin_rest():
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
        self.resting.close()

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
                    session.rest()
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
