"""One direction of a session: bytes from one socket to the other.

This is the hot path, written for few operations per byte rather than for looks: raw non-blocking sockets, one
512 KiB read buffer for the whole process (it is what makes bulk cheap; see docs/decisions), `send` straight
from it, and at most one pending chunk. While a chunk is pending the source is not read: that is all the
memory a reader that stops reading can cost.
"""

import asyncio
import contextlib
import errno
import mmap
import socket
from typing import Final, Protocol

from rdpbalancer.model import CloseSide
from rdpbalancer.relay import peers

READ_BUFFER_BYTES: Final = 512 * 1024
# In one huge page where the system gives any: how fast a buffer is depends on where its pages happen to lie,
# and a process keeps its luck for life.
_PAGE: Final = mmap.mmap(-1, 2 * 1024 * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with contextlib.suppress(OSError):  # a kernel without huge pages
    _PAGE.madvise(mmap.MADV_HUGEPAGE)
_BUFFER: Final = memoryview(_PAGE)[:READ_BUFFER_BYTES]
_NOTHING: Final = memoryview(b"")


class FlowSession(Protocol):
    """The session that a flow is one half of."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""

    def on_readable(self, flow: "Flow") -> None:
        """A flow that is watched outside the loop can be read."""

    def activate(self) -> None:
        """Bytes move: have readers in the loop."""

    def half_closed(self, side: CloseSide) -> None:
        """One side has finished."""

    def broken(self, error: OSError, side: CloseSide) -> None:
        """A socket of `side` has failed."""


class Flow:
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
        session: FlowSession,
        source: socket.socket,
        sink: socket.socket,
        sides: tuple[CloseSide, CloseSide],
    ) -> None:
        self.session = session
        self.source = source
        self.sink = sink
        self.source_side, self.sink_side = sides
        self._loop = session.loop
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
        """Read what there is, and send as much as the sink takes."""
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
            self.session.activate()
            self.pending = memoryview(bytes(_BUFFER[sent:size]))
            self._loop.remove_reader(self.source)
            self._loop.add_writer(self.sink, self.on_writable)

    def on_writable(self) -> None:
        """Send more of what is pending, and read again once there is nothing left."""
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
        self.session.activate()
        self._loop.remove_reader(self.source)
        self.done = True
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.session.broken(error, self.sink_side)
            return
        self.session.half_closed(self.source_side)
