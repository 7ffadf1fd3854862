"""Reloading: prepare, commit, apply.

Prepare: read, compare, have the supervisor open what is missing; nothing is closed or changed yet. Commit:
keep the new configuration, by the rename of one file. Apply: use it, and have the supervisor close what it
does not name. A router that is killed before the commit leaves the old farm with its listeners, after it the
new one: the supervisor starts the next router with what the kept configuration wants.
"""

import asyncio
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from rdpbalancer.core.changes import details
from rdpbalancer.core.farm import FarmDiff, diff
from rdpbalancer.errors import ChannelError, ConfigurationError, RdpBalancerError
from rdpbalancer.ipc.router_messages import (
    AbandonConfig,
    CommitConfig,
    ConfigCommitted,
    ConfigPrepared,
    PrepareConfig,
)
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.runtime import running_config as active_file
from rdpbalancer.runtime.listeners import wanted_listeners
from rdpbalancer.runtime.running_config import RunningConfig
from rdpbalancer.settings.farm_builder import farm_of
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry import logs

if TYPE_CHECKING:
    from rdpbalancer.runtime.router import Router

# The supervisor only opens sockets and starts processes; if it does not answer in this time it never will.
_GRANT_S = 10.0


class Reloader:
    """Reloads the configuration of a router, whole or not at all."""

    def __init__(self, router: "Router", active: RunningConfig) -> None:
        self._router = router
        self._path = active.path
        self._one_at_a_time = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[ConfigPrepared]] = {}
        self._committed: asyncio.Future[ConfigCommitted] | None = None
        self._finished = False
        # Of its own: the loop's default threads may all be waiting for a name server.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rdpbalancer-reload")

    async def reload(self) -> dict[str, Any]:
        """Read the configuration anew and apply it. Raises ConfigurationError; then nothing has changed.

        Once begun it comes to its end, whoever has asked for it may leave.
        """
        return await asyncio.shield(spawn(self._reload_once(), name="reload", on_error=_raised_to_caller))

    async def _reload_once(self) -> dict[str, Any]:
        async with self._one_at_a_time:
            if self._finished:
                message = "an upgrade is under way; reload again when it is through"
                raise ConfigurationError("upgrading", message)
            metrics = self._router.metrics
            try:
                changes = await self._reload()
            except RdpBalancerError as error:
                metrics.reload_successful.set(0)
                self._router.events.error("reload_failed", detail=str(error))
                raise
            metrics.reload_successful.set(1)
            metrics.reload_timestamp.set(time.time())
            self._router.events.info("reloaded", **changes)
            return changes

    async def finish(self) -> None:
        """Let a reload that is under way come to its end, and allow no other: this router makes way.

        Half of one would leave the supervisor with listeners that the kept configuration does not name.
        """
        self._finished = True
        async with self._one_at_a_time:
            return

    async def dry_run(self) -> dict[str, Any]:
        """Return what a reload would change. Raises ConfigurationError where it would; changes nothing.

        New addresses are not tried: to listen, even for a moment, would take connections that nobody serves.
        """
        farm = farm_of((await self._read()).settings)
        before = self._router.dispatcher.farm
        changes = diff(before, farm)
        return _described(changes=changes, said=details(changes, before, farm))

    async def reload_quietly(self) -> None:
        """Reload on a signal: whoever sent it reads the result in the log."""
        try:
            await self.reload()
        except RdpBalancerError:
            return  # reported by reload()

    def granted(self, granted: ConfigPrepared) -> None:
        """The supervisor has answered."""
        future = self._waiting.pop(granted.number, None)
        if future is not None and not future.done():
            future.set_result(granted)

    def committed(self, committed: ConfigCommitted) -> None:
        """The supervisor has carried out what the kept configuration wants."""
        if self._committed is not None and not self._committed.done():
            self._committed.set_result(committed)

    async def _reload(self) -> dict[str, Any]:
        router = self._router
        fresh = await self._read()
        logs.check_file(fresh.settings.global_.log.file)
        users = router.user_names(fresh.settings)
        farm = farm_of(fresh.settings)
        before = router.dispatcher.farm
        changes = diff(before, farm)
        await self._prepare_and_commit(fresh)
        # From here on nothing can fail: what could, has been tried.
        router.take_settings(fresh, users)
        router.doors.stop_removed(fresh.settings)
        await router.take_farm(farm)
        router.operator.restore(changes.servers_added)
        await router.doors.apply(fresh.settings)
        await self._settle()
        return _described(changes, details(changes, before, farm))

    async def _read(self) -> RunningConfig:
        read = partial(active_file.read, self._path, environ=os.environ)
        fresh = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        self._router.refuse_running_changes(fresh)
        return fresh

    async def _prepare_and_commit(self, fresh: RunningConfig) -> None:
        number = next(self._numbers)
        listeners = wanted_listeners(fresh.settings)
        try:
            await self._prepare(number, listeners)
            try:
                active_file.keep(fresh)
            except OSError as error:
                message = f"the new configuration cannot be kept in {self._router.runtime_dir}: {error}"
                raise ConfigurationError("config-not-kept", message) from error
        except RdpBalancerError:
            self._router.supervisor.send(AbandonConfig(number))
            self._router.doors.take_back(listeners)
            raise

    async def _settle(self) -> None:
        """Have the supervisor close what is not wanted any more, and retire relays that are too many."""
        router = self._router
        self._committed = asyncio.get_running_loop().create_future()
        router.supervisor.send(CommitConfig())
        try:
            async with asyncio.timeout(_GRANT_S):
                committed = await self._committed
        except TimeoutError:  # it is stuck; what is to be closed stays open until it is not
            router.events.error("supervisor_silent", detail="the supervisor has not confirmed the reload")
            return
        finally:
            self._committed = None
        if isinstance(router.relays, RelayPool):
            router.relays.retire(committed.surplus)

    async def _prepare(self, number: int, listeners: dict[str, str]) -> None:
        answer: asyncio.Future[ConfigPrepared] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._router.supervisor.send(PrepareConfig(number, listeners))
        try:
            async with asyncio.timeout(_GRANT_S):
                granted = await answer
        except TimeoutError:
            raise ChannelError(
                "no-supervisor", "the supervisor did not answer; nothing has changed"
            ) from None
        finally:
            self._waiting.pop(number, None)
        if granted.problem:
            raise ConfigurationError("listen", granted.problem)


def _raised_to_caller(_error: BaseException) -> None:
    """Report nothing here: whoever waits for the reload gets its error."""


def _described(changes: FarmDiff, said: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "services_added": list(changes.services_added),
        "services_removed": list(changes.services_removed),
        "services_changed": list(changes.services_changed),
        "servers_added": [str(server) for server in changes.servers_added],
        "servers_removed": [str(server) for server in changes.servers_removed],
        "servers_changed": [str(server) for server in changes.servers_changed],
        "details": said,
    }
