"""Idle sessions: watched by one epoll for all of them, until bytes move.

A reader in the event loop is the fastest way to move bytes, but it takes a kilobyte of memory and as much
time to set up and take down as all else that a relay does for a session. Most sessions of a farm are idle at
any moment, and a login may end before it has moved a byte: they wait here, for a registration in the kernel
and an entry in a dictionary. Apart from the pump because it knows nothing of bytes.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

# Idle sessions that become readable: so many are handled in one turn of the loop, the rest in the next turns.
_READABLE_PER_TURN = 64


class IdleFlow(Protocol):
    """One direction of a session."""

    def fileno(self) -> int:
        """Return the descriptor that it reads from."""
        ...


Flow = TypeVar("Flow", bound=IdleFlow)


class IdlePoller(Generic[Flow]):
    """Watches idle flows. `on_readable(flow)` is called when one can be read, again and again until it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[Flow], None]) -> None:
        self._loop = loop
        self._on_readable = on_readable
        self._epoll = select.epoll()
        self._flows: dict[int, Flow] = {}
        loop.add_reader(self._epoll.fileno(), self._readable)

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, *flows: Flow) -> None:
        """Watch flows that the loop does not watch. Raises OSError: the kernel refuses; none is watched."""
        added: list[Flow] = []
        try:
            for flow in flows:
                self._epoll.register(flow.fileno(), select.EPOLLIN)
                self._flows[flow.fileno()] = flow
                added.append(flow)
        except OSError:
            self.remove(*added)
            raise

    def remove(self, *flows: Flow) -> None:
        """Watch flows no longer. To be called before their sockets are closed or given away."""
        for flow in flows:
            del self._flows[flow.fileno()]
            self._epoll.unregister(flow.fileno())

    def close(self) -> None:
        """Watch nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._flows.clear()

    def _readable(self) -> None:
        for fd, _events in self._epoll.poll(0, _READABLE_PER_TURN):
            # The other direction, before this one in the same turn, may have ended the session.
            flow = self._flows.get(fd)
            if flow is not None:
                self._on_readable(flow)
