"""Waiting for raw sockets, cheaply: what a connection on its way to a server spends its life with.

asyncio's way (a task, and for each wait a future, a timer, a reader that is added and removed) cost more than
all decisions together. Here all sockets share one epoll, which the loop watches as it would a single socket;
all deadlines share one timer; and a connection's coroutine goes on within the very callback that ends its
wait. docs/performance.md has the figures.

A session's sockets never belong to a transport, so that they can be handed to a relay at any quiet point.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

# Edge-triggered: registered once for its whole way, a socket reports each change. Whoever waits has therefore
# tried before, and tries again afterwards.
_CHANGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_ROOM = select.EPOLLOUT
# No more than the peer's end: nobody reads from or writes to this socket for now.
_END_ONLY = select.EPOLLRDHUP | select.EPOLLET
_RESET = select.EPOLLHUP | select.EPOLLERR
_HANG_UP = select.EPOLLRDHUP | _RESET
# Silent strangers' deadlines run out one by one; they are looked for together, and noticed this much late, or
# more where a great many are allowed (`max_half_open`): looking at one takes 0.2 us.
_LATE_S = 0.02
_LATE_PER_WATCH_S = 5e-6
# The loop's timers count whole milliseconds and may be early by one.
_EARLY_S = 0.001
_NEVER = float("inf")

T = TypeVar("T")


def hung_up(sock: socket.socket) -> bool | None:
    """Return whether the peer has gone, as `FdWaiter.gone` says it."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    events = poll.poll(0)
    return bool(events[0][1] & (select.POLLHUP | select.POLLERR)) if events else None


class FdWaiter:
    """One socket that is watched, until `end`. At most one coroutine waits for it at a time."""

    __slots__ = ("_fd", "_late", "_resume", "_waits", "deadline_at", "gone", "on_hang_up", "readable")

    def __init__(self, waits: "Poller", fd: int) -> None:
        self._waits = waits
        self._fd = fd
        self._late = False
        self._resume: Callable[[Any], None] | None = None
        self.deadline_at = _NEVER
        # Whether there has been anything but room to write since somebody last set this to False.
        self.readable = False
        # Whether the peer has gone: None, it is there; False, it has closed its half, and may or may not read
        # on; True, the connection has been reset.
        self.gone: bool | None = None
        # Told so at once, in place of ending a wait.
        self.on_hang_up: Callable[[bool], None] | None = None

    def ready(self, deadline_at: float) -> "FdWaiter":
        """Await this to wait until the socket has something to say: data, room, its end, an error.

        It may have nothing to say after all; try, and wait again. Raises TimeoutError at `deadline_at`
        (monotonic seconds, to the millisecond). Awaitable within `StepRunner` only.
        """
        self.deadline_at = deadline_at
        self._waits.expect(deadline_at)
        return self

    def end(self) -> None:
        """Watch no longer. To be called before the socket is closed or given away; twice does nothing."""
        if self._fd >= 0:
            self._waits.forget(self._fd)
            self._fd = -1
        self._resume = self.on_hang_up = None
        self.deadline_at = _NEVER

    def __await__(self) -> Generator["FdWaiter", None, None]:
        yield self
        self.deadline_at = _NEVER
        if self._late:
            self._late = False
            raise TimeoutError

    def add_done_callback(self, resume: Callable[[Any], None]) -> None:
        """Have `resume(self)` called when the wait is over; as of an asyncio future."""
        self._resume = resume

    def over(self, *, late: bool = False) -> None:
        """The wait is over, if there is one."""
        resume, self._resume = self._resume, None
        if resume is not None:
            self._late = late
            resume(self)


class Poller:
    """All watched sockets of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._watches: dict[int, FdWaiter] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = _NEVER
        self._loop.add_reader(self._epoll.fileno(), self._changed)

    def __len__(self) -> int:
        return len(self._watches)

    def watch(self, sock: socket.socket, *, only_hang_up: bool = False) -> FdWaiter:
        """Begin to watch a non-blocking socket; with `only_hang_up` only for `FdWaiter.on_hang_up`."""
        fd = sock.fileno()
        self._epoll.register(fd, _END_ONLY if only_hang_up else _CHANGES)
        watch = self._watches[fd] = FdWaiter(self, fd)
        return watch

    def close(self) -> None:
        """Watch nothing any more. Nobody waits by then."""
        self._loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._epoll.close()

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor."""
        del self._watches[fd]
        self._epoll.unregister(fd)

    def expect(self, deadline_at: float) -> None:
        """Look for waits that are too late at this time, at the latest."""
        if deadline_at < self._look_at:
            self._look(deadline_at)

    def _changed(self) -> None:
        for fd, events in self._epoll.poll(0):
            # Whoever went on before in this turn may have ended this one's watch.
            watch = self._watches.get(fd)
            if watch is not None:
                if events != _ROOM:
                    watch.readable = True
                    if events & _HANG_UP:
                        watch.gone = bool(events & _RESET)
                self._tell(watch)

    def _tell(self, watch: FdWaiter, *, late: bool = False) -> None:
        try:
            # A hang-up is this very socket's. Its number may have passed to another since the kernel spoke,
            # but only to one opened within this turn: those are dials, which do not ask for hang-ups.
            if watch.on_hang_up is not None and watch.gone is not None and not late:
                watch.on_hang_up(watch.gone)
            else:
                watch.over(late=late)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (others' changes come only once)
            self._loop.call_exception_handler({"message": "a connection failed", "exception": error})

    def _look(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = at
        self._timer = self._loop.call_at(at, self._too_late)

    def _too_late(self) -> None:
        self._timer, self._look_at = None, _NEVER
        now = time.monotonic() + _EARLY_S
        for watch in [watch for watch in self._watches.values() if watch.deadline_at <= now]:
            self._tell(watch, late=True)
        following_at = min((watch.deadline_at for watch in self._watches.values()), default=_NEVER)
        if following_at != _NEVER:
            late_s = max(_LATE_S, len(self._watches) * _LATE_PER_WATCH_S)
            self.expect(max(following_at, now + late_s))


class StepRunner:
    """Runs a coroutine without a task: from one wait to the next, within the callback that ends the wait.

    What it awaits are watches, and asyncio's plain futures; what needs a task (`asyncio.timeout`, say) fails.
    It begins at once, before this returns. `on_done(self)` is called at its end; the coroutine itself must
    deal with its errors. One that comes out of it goes to the loop's exception handler.
    """

    __slots__ = ("_coroutine", "_on_done", "done")

    def __init__(
        self, coroutine: Coroutine[Any, None, None], on_done: Callable[["StepRunner"], None]
    ) -> None:
        self._coroutine = coroutine
        self._on_done = on_done
        self.done = False
        self._go_on(None)

    def cancel(self) -> None:
        """Raise CancelledError where it waits. Its clean-up must not wait again."""
        self.throw(asyncio.CancelledError())

    def throw(self, error: BaseException) -> None:
        """Raise `error` where it waits: it is not to wait any longer, nor again. Does nothing at its end."""
        if not self.done:
            self._step(self._coroutine.throw, error)

    def _go_on(self, _awaited: object) -> None:
        if not self.done:  # it may have been cancelled meanwhile
            self._step(self._coroutine.send, None)

    def _step(self, resume: Callable[[Any], Any], value: object) -> None:
        try:
            awaited = resume(value)
            if type(awaited) is not FdWaiter:
                awaited._asyncio_future_blocking = False  # noqa: SLF001 (the protocol of asyncio's futures)
            awaited.add_done_callback(self._go_on)
        except (StopIteration, asyncio.CancelledError):
            self._finish()
        except Exception as error:  # noqa: BLE001 (it is told, and ends nothing but this)
            self._coroutine.close()
            self._finish()
            context = {"message": "a connection failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _finish(self) -> None:
        self.done = True
        self._on_done(self)


async def run_in_steps(lead: Callable[[Poller], Coroutine[Any, Any, T]], waits: Poller | None = None) -> T:
    """Run `lead(waits)` in a `StepRunner` for a task: return its result, or raise its error.

    Cancelled with the task. Without `waits` it has some of its own, which cost a descriptor.
    """
    own = Poller() if waits is None else waits
    ended: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    steps = StepRunner(_into(ended, lead(own)), lambda _: None)
    try:
        return await ended
    finally:
        steps.cancel()
        if waits is None:
            own.close()


async def _into(ended: asyncio.Future[T], coroutine: Coroutine[Any, Any, T]) -> None:
    try:
        result = await coroutine
    except Exception as error:  # noqa: BLE001 (it is who waits for it that has it)
        if not ended.done():
            ended.set_exception(error)
    else:
        if not ended.done():
            ended.set_result(result)
