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
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from rdpbalancer.core.changes import details
from rdpbalancer.core.farm import Farm, FarmDiff, diff
from rdpbalancer.errors import ChannelError, ConfigurationError, RdpBalancerError
from rdpbalancer.ipc.router_messages import (
    AbandonConfig,
    CommitConfig,
    ConfigCommitted,
    ConfigPrepared,
    PrepareConfig,
)
from rdpbalancer.model import ServerId
from rdpbalancer.runtime import running_config
from rdpbalancer.runtime.listeners import wanted_listeners
from rdpbalancer.runtime.running_config import RunningConfig
from rdpbalancer.settings.farm_builder import farm_of
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.telemetry.users import UserMasking

# The supervisor only opens sockets and starts processes; if it does not answer in this time it never will.
_ANSWER_S = 10.0


class Reloadable(Protocol):
    """What a configuration is applied to: the parts of a router. `apply` and `restore` come in this order."""

    @property
    def farm(self) -> Farm:
        """The farm in use."""

    def refuse(self, fresh: RunningConfig) -> None:
        """Raise ConfigurationError for what cannot change while the service runs."""

    def users(self, fresh: RunningConfig) -> UserMasking:
        """Return how users would be named in the log."""

    def take_settings(self, fresh: RunningConfig, users: UserMasking) -> None:
        """Take all but the farm into use."""

    def stop_removed(self, fresh: RunningConfig) -> None:
        """Accept no more for services that go."""

    async def take_farm(self, farm: Farm) -> None:
        """Take the farm into use."""

    def restore_overrides(self, servers: Collection[ServerId]) -> None:
        """Give servers that were added what an operator has wanted of them before."""

    async def accept(self, fresh: RunningConfig) -> None:
        """Accept where the configuration says."""

    def retire_relays(self, relays: Sequence[int]) -> None:
        """Give these relays no more sessions: there are too many."""

    def take_back_listeners(self, names: Collection[str]) -> None:
        """Close the listeners that were passed on for a reload that has failed."""


class Reloader:
    """Reloads the configuration of a router, whole or not at all. `send` tells the supervisor."""

    def __init__(
        self,
        target: Reloadable,
        *,
        path: Path,
        send: Callable[[msgspec.Struct], None],
        metrics: Metrics,
        events: Events,
    ) -> None:
        self._target = target
        self._send = send
        self._metrics = metrics
        self._events = events
        self._path = path
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
            try:
                changes = await self._reload()
            except RdpBalancerError as error:
                self._metrics.reload_successful.set(0)
                self._events.error("reload_failed", detail=str(error))
                raise
            self._metrics.reload_successful.set(1)
            self._metrics.reload_timestamp.set(time.time())
            self._events.info("reloaded", **changes)
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
        before = self._target.farm
        return _described(changes := diff(before, farm), details(changes, before, farm))

    async def reload_quietly(self) -> None:
        """Reload on a signal: whoever sent it reads the result in the log."""
        try:
            await self.reload()
        except RdpBalancerError:
            return  # reported by reload()

    def prepared(self, answer: ConfigPrepared) -> None:
        """The supervisor has answered."""
        future = self._waiting.pop(answer.number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def committed(self, committed: ConfigCommitted) -> None:
        """The supervisor has carried out what the kept configuration wants."""
        if self._committed is not None and not self._committed.done():
            self._committed.set_result(committed)

    async def _reload(self) -> dict[str, Any]:
        target = self._target
        fresh = await self._read()
        logs.check_file(fresh.settings.global_.log.file)
        users = target.users(fresh)
        farm = farm_of(fresh.settings)
        before = target.farm
        changes = diff(before, farm)
        await self._prepare_and_commit(fresh)
        # From here on nothing can fail: what could, has been tried.
        target.take_settings(fresh, users)
        target.stop_removed(fresh)
        await target.take_farm(farm)
        target.restore_overrides(changes.servers_added)
        await target.accept(fresh)
        await self._finish_at_supervisor()
        return _described(changes, details(changes, before, farm))

    async def _read(self) -> RunningConfig:
        read = partial(running_config.read, self._path, environ=os.environ)
        fresh = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        self._target.refuse(fresh)
        return fresh

    async def _prepare_and_commit(self, fresh: RunningConfig) -> None:
        number = next(self._numbers)
        listeners = wanted_listeners(fresh.settings)
        try:
            await self._prepare(number, listeners)
            try:
                running_config.keep(fresh)
            except OSError as error:
                folder = running_config.kept_file(fresh).parent
                message = f"the new configuration cannot be kept in {folder}: {error}"
                raise ConfigurationError("config-not-kept", message) from error
        except RdpBalancerError:
            self._send(AbandonConfig(number))
            self._target.take_back_listeners(listeners)
            raise

    async def _finish_at_supervisor(self) -> None:
        """Have the supervisor close what is not wanted any more, and retire relays that are too many."""
        self._committed = asyncio.get_running_loop().create_future()
        self._send(CommitConfig())
        try:
            async with asyncio.timeout(_ANSWER_S):
                committed = await self._committed
        except TimeoutError:  # it is stuck; what is to be closed stays open until it is not
            self._events.error("supervisor_silent", detail="the supervisor has not confirmed the reload")
            return
        finally:
            self._committed = None
        self._target.retire_relays(committed.surplus)

    async def _prepare(self, number: int, listeners: dict[str, str]) -> None:
        answer: asyncio.Future[ConfigPrepared] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._send(PrepareConfig(number, listeners))
        try:
            async with asyncio.timeout(_ANSWER_S):
                prepared = await answer
        except TimeoutError:
            raise ChannelError(
                "no-supervisor", "the supervisor did not answer; nothing has changed"
            ) from None
        finally:
            self._waiting.pop(number, None)
        if prepared.problem:
            raise ConfigurationError("listen", prepared.problem)


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
