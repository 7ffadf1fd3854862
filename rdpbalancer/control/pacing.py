"""A share of the event loop for operators' questions, so that no number of them slows the users' logins down.

Logins are decided on the same loop. A list of a million bindings is seconds of work, and eight monitors that
ask in a loop would use the loop up; so the work is done in slices, one asker after the other, and after each
slice the loop belongs to everybody else for a multiple of its time.
"""

import asyncio
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

# One slice: what a login may have to wait at most. A row takes some microseconds.
SLICE_S: Final = 0.001
# The share of the loop's time while somebody logs in, and while nobody does.
BUSY_SHARE: Final = 0.15
IDLE_SHARE: Final = 0.5
# What cannot be cut into slices (to kick ten thousand sessions) is paid for too, but not for ever.
_MAX_PAUSE_S: Final = 0.25

Result = TypeVar("Result")


class Pacer:
    """Hands out turns, first come, first served. `busy`: whether the loop has more important work now."""

    def __init__(
        self, *, busy: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._busy = busy
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._began_at = clock()
        self._free_at = 0.0

    async def turn(self) -> None:
        """Wait until it is the caller's turn, and until what was done before has been paid for."""
        self._charge()
        if not self._waiting and self._clock() >= self._free_at:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._arm()
        await turn
        self._began_at = self._clock()

    async def breathe(self) -> None:
        """Between two steps of a long piece of work: wait for the next turn if the slice is used up."""
        if self._clock() - self._began_at >= SLICE_S:
            await self.turn()

    @types.coroutine
    def run(self, work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
        """Do the work step by step: what is counted is its time on the loop, not what it waits for."""
        step: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            self._began_at = self._clock()
            try:
                waited_for = step(value)
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                self._charge()
            try:
                step, value = work.send, (yield waited_for)
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:  # noqa: BLE001 (a cancellation, too, is the work's to see)
                step, value = work.throw, error

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            delay_s = max(0.0, self._free_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # not cancelled
                turn.set_result(None)
                break
        # After the one that was woken has done its slice, and we know how long it took.
        asyncio.get_running_loop().call_soon(self._arm)

    def _charge(self) -> None:
        now = self._clock()
        spent_s, self._began_at = now - self._began_at, now
        share = BUSY_SHARE if self._busy() else IDLE_SHARE
        self._free_at = max(self._free_at, now + min(_MAX_PAUSE_S, spent_s * (1 / share - 1)))
