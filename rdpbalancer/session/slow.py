"""Connections that are not through at once, for which it pays to watch the client.

Most connections are through within milliseconds. To register each one's client in the epoll, and take it out
again, was a tenth of all that the router asks of the kernel. Apart from the pipeline: this is about time.
"""

import asyncio
from collections.abc import Callable

from rdpbalancer.session.connection import Connection

# A connection is slow after this long, or up to twice as long: longer than a login takes on a busy farm, and
# short against all timeouts.
SLOW_AFTER_S = 0.1


class SlowConnections:
    """Calls `on_slow(conn)` for each connection that is not taken out in time."""

    def __init__(self, on_slow: Callable[[Connection], None]) -> None:
        self._on_slow = on_slow
        self._new: set[Connection] = set()
        self._seen: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, conn: Connection) -> None:
        """Begin to count a connection's time."""
        self._new.add(conn)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SLOW_AFTER_S, self._look)

    def discard(self, conn: Connection) -> None:
        """The connection is through, or watched already."""
        self._new.discard(conn)
        self._seen.discard(conn)

    def close(self) -> None:
        """Count nobody's time any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        slow, self._seen, self._new = self._seen, self._new, set()
        again = bool(self._seen)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SLOW_AFTER_S, self._look) if again else None
        for conn in slow:
            self._on_slow(conn)
