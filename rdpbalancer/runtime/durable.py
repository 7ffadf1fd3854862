"""The durable copy of bindings and operators' words: opened if it can be, written behind, waited for."""

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

from rdpbalancer.core.farm import VirtualService
from rdpbalancer.core.persist import Store
from rdpbalancer.core.status import Override
from rdpbalancer.errors import StoreError
from rdpbalancer.model import ServerId
from rdpbalancer.stores.journal import Urgency, run_journal
from rdpbalancer.stores.sqlite import Database
from rdpbalancer.stores.volatile import VolatileState
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics


class Durable:
    """The state file of this installation. If it cannot be used, users can still work: from memory."""

    def __init__(self, path: Path, *, events: Events, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._events = events
        self._metrics = metrics
        self._clock = clock
        self._urgency = Urgency()
        self._journal: asyncio.Task[None] | None = None
        self._recovered_from: Path | None = None
        self._failing = False
        self._state = self._open(path)

    def _open(self, path: Path) -> Database | VolatileState:
        try:
            database = Database.open(path, now=self._clock(), wall=time.time())
        except StoreError as error:
            self._events.error("state_unusable", detail=f"{error}; bindings will not survive a restart")
            return VolatileState()
        self._tell_recovery(database)
        return database

    def store(self, service: VirtualService) -> Store:
        """Return the bindings of a service."""
        return self._state.bindings(service.name, max_entries=service.persistence.max_entries)

    def overrides(self) -> dict[ServerId, Override]:
        """Return what operators have said of which servers."""
        return self._state.overrides()

    def set_override(self, server: ServerId, override: Override | None) -> None:
        """Remember an operator's word; None: as configured again."""
        self._state.set_override(server, override)

    def keep_only(self, services: Collection[str]) -> None:
        """Forget services that are not configured: nobody would ever end their bindings."""
        if isinstance(self._state, Database):
            for name in self._state.services() - set(services):
                self._state.forget_service(name)

    def start(self) -> None:
        """Begin to write behind."""
        if isinstance(self._state, Database):
            self._journal = spawn(self._write(self._state), name="journal")

    async def written(self) -> None:
        """Wait until what has been said is on disk, or the failure to write it is reported."""
        if self._journal is not None and not self._journal.done():
            await self._urgency.written()

    async def close(self) -> None:
        """Write a last time, and close."""
        if self._journal is not None:
            await cancel_and_wait(self._journal)
        self._state.close()

    async def _write(self, database: Database) -> None:
        await run_journal(
            database,
            clock=self._clock,
            wall=time.time,
            on_error=self._write_failed,
            on_success=lambda: self._write_worked(database),
            urgency=self._urgency,
        )

    def _write_failed(self, error: StoreError) -> None:
        self._metrics.store_failures.inc()
        if not self._failing:
            self._failing = True
            self._events.error("state_not_written", detail=str(error))

    def _write_worked(self, database: Database) -> None:
        if self._failing:
            self._failing = False
            self._events.info("state_written_again")
        self._tell_recovery(database)

    def _tell_recovery(self, database: Database) -> None:
        if database.recovered_from != self._recovered_from:
            self._recovered_from = database.recovered_from
            detail = f"the damaged state file was moved to {database.recovered_from} and begun anew"
            self._events.error("state_damaged", detail=detail)
