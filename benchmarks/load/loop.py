"""A bare event loop: an epoll and a table of handlers.

asyncio's streams cost more per message than the proxies that are measured; the generator would measure
itself. Level-triggered, so a handler may take one piece per call and leave the rest for the next.
"""

import select
from collections.abc import Callable
from time import perf_counter
from typing import Final

Handler = Callable[[int], None]

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
_TURN_S: Final = 0.05  # how late the end of a wait may be noticed when nothing happens


class LoadError(Exception):
    """The measurement did not do what it says, so it has no result."""


class Loop:
    """Calls `handler(events)` for each descriptor that is ready."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}

    def watch(self, fd: int, handler: Handler, events: int = READ) -> None:
        """Begin to watch a descriptor. Closing it ends that; call `forget` first."""
        self.handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Watch for other events."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Call no handler for this descriptor any more; the caller closes it."""
        self.handlers.pop(fd, None)

    def turn(self, timeout_s: float) -> None:
        """Wait at most so long for something to happen, and handle what did."""
        handlers = self.handlers
        for fd, events in self._epoll.poll(timeout_s):
            # A handler earlier in this batch may have closed the descriptor.
            handler = handlers.get(fd)
            if handler is not None:
                handler(events)

    def run(self, duration_s: float) -> None:
        """Handle events for a while."""
        end = perf_counter() + duration_s
        while (left := end - perf_counter()) > 0:
            self.turn(min(left, _TURN_S))

    def run_until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Handle events until the condition holds.

        Raises:
            LoadError: it did not come to hold in time; `what` says it in words.
        """
        end = perf_counter() + timeout_s
        while not condition():
            if perf_counter() > end:
                raise LoadError(f"not within {timeout_s:g} s: {what}")
            self.turn(_TURN_S)

    def close(self) -> None:
        """Give the epoll back."""
        self._epoll.close()
