"""The durable copy of bindings and overrides: opened if it can be, read in slices, written behind."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from rdpbalancer.core.farm import VirtualService
from rdpbalancer.core.persistence import Store
from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import ServerId
from rdpbalancer.stores.journal import Urgency, run_journal
from rdpbalancer.stores.records import BindingRecord, Contents
from rdpbalancer.stores.sqlite_backend import SqliteBackend, open_file
from rdpbalancer.stores.state import DurableState
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics

FILE_NAME: Final = "state.db"  # in state_dir
# Another process may hold the file's lock for a moment (a backup); a disk may be full for a night.
_OPEN_AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# A disk that hangs must not keep everybody out. Without the file halted servers are online, so it is given
# time: a million bindings on a slow disk take two seconds.
_OPEN_S: Final = 5.0
# Rows that the loop takes in at once: 2 to 4 ms. After each slice the loop is left alone for as long.
_ROWS_PER_SLICE: Final = 500
_LOAD_AGAIN_S: Final = 5.0
# When it is noted what is configured, what has been absent for too long is forgotten, and expired rows of
# services that nobody asks for are deleted.
_HOUSEKEEPING_S: Final = 3600.0


_Result = TypeVar("_Result")


def _nothing_to_do() -> None:
    pass


def _nobody_waits(_service: str) -> None:
    pass


class StateService:
    """The state of this installation, and its file. If that cannot be used, users can still work from memory.

    `on_overrides` is called when the file could be opened after all and has brought overrides; `on_loaded`
    with the name of each service whose bindings are all in memory. `max_half_open` bounds tentative claims.
    """

    def __init__(
        self,
        path: Path,
        *,
        events: Events,
        metrics: Metrics,
        clock: Callable[[], float],
        max_half_open: int,
        on_overrides: Callable[[], None] = _nothing_to_do,
        on_loaded: Callable[[str], None] = _nobody_waits,
    ) -> None:
        self._path = path
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._max_half_open = max_half_open
        self._on_overrides = on_overrides
        self._on_loaded = on_loaded
        self._urgency = Urgency()
        self._journal: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._recovered_from: Path | None = None
        self._failing = False
        self._servers: Collection[ServerId] = ()
        self._to_load = asyncio.Event()
        self._state = DurableState()
        # Of its own, for the loop's default ones may all be waiting for a name server.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rdpbalancer-state")

    # ---- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the state file. Bindings are found by key at once, and loaded once `start` is called."""
        try:
            async with asyncio.timeout(_OPEN_S):
                await self._open()
        except (StoreError, TimeoutError) as error:
            why = str(error) or f"{self._path} has not answered for {_OPEN_S:g} s"
            detail = f"{why}; bindings are kept in memory alone until it can be used"
            self._events.error("state_unusable", detail=detail)

    async def _open(self) -> None:
        now, wall = self._clock(), time.time()
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(self._thread, partial(open_file, self._path, wall=wall))
        try:
            file, contents = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)  # a thread is not cancelled with us
            raise
        self._state.attach(file, contents, now=now, wall=wall)
        self._tell_recovery()

    def start(self) -> None:
        """Begin to write behind, and to load what the file holds of the configured services."""
        self._tasks = [
            spawn(self._load(), name="load bindings"),
            spawn(self._keep_house(), name="forget absent services"),
        ]
        if self._state.attached:
            self._write_behind()
        else:
            self._tasks.append(spawn(self._open_again(), name="open the state file"))

    async def _open_again(self) -> None:
        tries = 0
        while not self._state.attached:
            await asyncio.sleep(_OPEN_AGAIN_S[min(tries, len(_OPEN_AGAIN_S) - 1)])
            tries += 1
            with suppress(StoreError):
                await self._open()
        self._write_behind()
        self._to_load.set()
        self._on_overrides()
        self._events.info("state_usable_again", detail=f"bindings and overrides are kept in {self._path}")

    async def close(self) -> None:
        """Write a last time, and close."""
        await cancel_and_wait(*self._tasks)
        if self._journal is not None:
            await cancel_and_wait(self._journal)
        self._state.close()
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # ---- what is kept ------------------------------------------------------------------------------

    def store(self, service: VirtualService) -> Store:
        """Return the bindings of a service."""
        self._to_load.set()
        return self._state.bindings(
            service.name, max_entries=service.persistence.max_entries, max_tentative=self._max_half_open
        )

    def limit_claims(self, max_half_open: int) -> None:
        """Let as many connections at once claim a server as may be half open."""
        self._max_half_open = max_half_open
        self._state.limit_claims(max_half_open)

    def overrides(self) -> dict[ServerId, Override]:
        """Return what operators have said of which servers, also of those that are not configured."""
        return self._state.overrides()

    def set_override(self, server: ServerId, override: Override | None) -> None:
        """Remember an operator's word; None: as configured again."""
        self._state.set_override(server, override)

    def configured(self, servers: Collection[ServerId]) -> None:
        """Note which servers the configuration has. What is kept of others is kept for a while longer."""
        wall = time.time()
        # Those that go now were configured up to this moment.
        self._state.see_configured({*self._servers, *servers}, wall=wall)
        self._servers = servers
        if forgotten := self._state.forget_absent(servers, wall=wall):
            self._events.info("absent_forgotten", count=forgotten)

    def loading(self) -> list[str]:
        """Return the services whose bindings of an earlier run are still being read into memory."""
        return self._state.loading()

    async def written(self) -> None:
        """Wait until what has been said is on disk, or the failure to write it is reported."""
        if self._journal is not None and not self._journal.done():
            await self._urgency.written()

    # ---- loading -----------------------------------------------------------------------------------

    async def _load(self) -> None:
        while True:
            await self._to_load.wait()
            self._to_load.clear()
            try:
                for service in self._state.loading():
                    await self._load_service(service)
            except StoreError as error:
                self._events.error("bindings_not_loaded", detail=f"{error}; trying again")
                await asyncio.sleep(_LOAD_AGAIN_S)
                self._to_load.set()

    async def _load_service(self, service: str) -> None:
        began_at = self._clock()
        slices = self._state.rows_of(service, size=_ROWS_PER_SLICE)
        count = 0
        while found := await self._in_thread(partial(_next, slices)):
            began_slice_at = self._clock()
            self._state.load(service, found)
            count += len(found)
            await asyncio.sleep(self._clock() - began_slice_at)
        self._state.load(service, [])
        self._on_loaded(service)
        seconds = round(self._clock() - began_at, 1)
        if count:
            self._events.info("bindings_loaded", service=service, count=count, seconds=seconds)

    # ---- writing -----------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_S)
            self.configured(self._servers)
            self._state.sweep()

    def _write_behind(self) -> None:
        self._journal = spawn(self._write(), name="journal")

    async def _write(self) -> None:
        await run_journal(
            self._state,
            clock=self._clock,
            wall=time.time,
            on_error=self._write_failed,
            on_success=self._write_worked,
            urgency=self._urgency,
        )

    def _write_failed(self, error: StoreError) -> None:
        self._metrics.store_failures.inc()
        if not self._failing:
            self._failing = True
            self._events.error("state_not_written", detail=str(error))

    def _write_worked(self) -> None:
        if self._failing:
            self._failing = False
            self._events.info("state_written_again")
        self._tell_recovery()

    def _tell_recovery(self) -> None:
        if self._state.recovered_from != self._recovered_from:
            self._recovered_from = self._state.recovered_from
            detail = f"the damaged state file was moved to {self._recovered_from} and begun anew"
            self._events.error("state_damaged", detail=detail)


def _next(slices: Iterator[list[BindingRecord]]) -> list[BindingRecord]:
    return next(slices, [])


def _close_opened(opening: "asyncio.Future[tuple[SqliteBackend, Contents]]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].close()
