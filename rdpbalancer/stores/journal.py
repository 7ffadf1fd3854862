"""The journal: writes the durable copy's changes as they come, and once more at the end."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from rdpbalancer.errors import StoreError
from rdpbalancer.stores.state import MAX_CHANGES, DurableState
from rdpbalancer.tasks import spawn

# Half of the second of changes that a kill -9 may cost: the other half is for the write itself.
INTERVAL_S: Final = 0.5


class Urgency:
    """Lets somebody who is about to say "done" wait until it has been written down."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    async def written(self) -> None:
        """Return when everything noted until now has been written, or its failure reported."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._asked.set()
        await future

    def wake(self) -> None:
        """Have the journal look now."""
        self._asked.set()

    async def asked(self) -> None:
        """Wait until somebody waits."""
        await self._asked.wait()

    def take(self) -> list[asyncio.Future[None]]:
        """Return who waits now, for the write that begins."""
        self._asked.clear()
        waiting, self._waiting = self._waiting, []
        return waiting


@dataclass(frozen=True, slots=True)
class _Journal:
    database: DurableState
    clock: Callable[[], float]
    wall: Callable[[], float]
    on_error: Callable[[StoreError], None]
    on_success: Callable[[], None]
    urgency: Urgency

    async def write_until(self, stop: asyncio.Event, *, interval_s: float) -> None:
        # A thread of its own: the loop's default ones may all be waiting for a name server.
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rdpbalancer-journal") as executor:
            while not stop.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(interval_s):
                        await self.urgency.asked()
                await self._write_for_who_waits(executor)
            await self._write_for_who_waits(executor)  # what was noted while the write above was under way

    async def _write_for_who_waits(self, executor: ThreadPoolExecutor) -> None:
        waiting = self.urgency.take()
        await self._write_all(executor)
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _write_all(self, executor: ThreadPoolExecutor) -> None:
        while await self._write_some(executor):
            pass

    async def _write_some(self, executor: ThreadPoolExecutor) -> bool:
        """Write one transaction; True if it went well and was full, so that there is more to write now."""
        changes = self.database.take_changes(now=self.clock(), wall=self.wall())
        if changes is None:
            return False
        try:
            await asyncio.get_running_loop().run_in_executor(executor, self.database.write, changes)
        except StoreError as error:
            self.database.put_back(changes)
            self.on_error(error)
            return False
        self.on_success()
        return len(changes.bound) + len(changes.unbound) >= MAX_CHANGES


async def run_journal(
    database: DurableState,
    *,
    interval_s: float = INTERVAL_S,
    clock: Callable[[], float],
    wall: Callable[[], float],
    on_error: Callable[[StoreError], None],
    on_success: Callable[[], None],
    urgency: Urgency | None = None,
) -> None:
    """Write the changes of `database` every `interval_s` until cancelled, and then a last time.

    A failed write is reported to `on_error` and tried again at the next interval; after each successful one
    `on_success` is called, so that the caller can tell when the trouble is over. However often it is
    cancelled, this ends only after the last write, which is tried once: everything noted before has then been
    written, or its failure reported.

    Args:
        database: closed by the caller, afterwards.
        interval_s: the most that a kill may cost, beside the time of a write.
        clock: monotonic seconds.
        wall: Unix seconds.
        on_error: told of each failed write.
        on_success: told of each successful one.
        urgency: where somebody can wait for what was noted to be written, at once.
    """
    stop = asyncio.Event()
    urgency = urgency or Urgency()
    journal = _Journal(database, clock, wall, on_error, on_success, urgency)
    # The writer is never cancelled, for a thread cannot be: it would go on writing while its changes count
    # as not written. It is asked to stop, and waited for.
    writer = spawn(
        journal.write_until(stop, interval_s=interval_s), name="journal", on_error=_raised_by_result
    )
    try:
        await asyncio.wait([writer])
    finally:
        stop.set()
        urgency.wake()
        while not writer.done():
            with suppress(asyncio.CancelledError):  # impatience; the first cancellation goes on below
                await asyncio.wait([writer])
        writer.result()


def _raised_by_result(_error: BaseException) -> None:
    """Report nothing here: the writer's defect comes out of `run_journal` itself."""
