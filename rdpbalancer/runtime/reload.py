"""Reloading: read, compare, ask the supervisor for what only it can open, then change everything at once."""

import asyncio
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

from rdpbalancer.core.farm import FarmDiff, diff
from rdpbalancer.errors import ChannelError, ConfigurationError, RdpBalancerError
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.runtime import active as active_file
from rdpbalancer.runtime.active import Active, relay_count
from rdpbalancer.runtime.listeners import wanted_listeners
from rdpbalancer.runtime.messages import Granted, Reloaded, Want
from rdpbalancer.settings.build import farm_of
from rdpbalancer.telemetry import logs

if TYPE_CHECKING:
    from rdpbalancer.runtime.router import Router

# The supervisor only opens sockets and starts processes; if it does not answer in this time it never will.
_GRANT_S = 10.0


class Reloader:
    """Reloads the configuration of a router, whole or not at all."""

    def __init__(self, router: "Router", active: Active) -> None:
        self._router = router
        self._path = active.path
        self._one_at_a_time = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Granted]] = {}
        self._finished = False

    async def reload(self) -> dict[str, Any]:
        """Read the configuration anew and apply it. Raises ConfigurationError; then nothing has changed."""
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

    async def reload_quietly(self) -> None:
        """Reload on a signal: whoever sent it reads the result in the log."""
        try:
            await self.reload()
        except RdpBalancerError:
            return  # reported by reload()

    def granted(self, granted: Granted) -> None:
        """The supervisor has answered."""
        future = self._waiting.pop(granted.number, None)
        if future is not None and not future.done():
            future.set_result(granted)

    async def _reload(self) -> dict[str, Any]:
        router = self._router
        fresh = await asyncio.to_thread(active_file.read, self._path, environ=os.environ)
        router.refuse_running_changes(fresh)
        logs.check_file(fresh.settings.global_.log.file)
        farm = farm_of(fresh.settings)
        changes = diff(router.dispatcher.farm, farm)
        await self._ask(fresh)
        # From here on nothing can fail: what could, has been tried.
        try:
            active_file.keep(fresh)
        except OSError as error:
            router.events.error(
                "config_not_kept", detail=f"{error}: a restarted router would use the old one"
            )
        router.take_settings(fresh)
        await router.take_farm(farm)
        router.operator.restore(changes.servers_added)
        await router.doors.apply(fresh.settings)
        router.supervisor.send(Reloaded())
        return _described(changes)

    async def _ask(self, fresh: Active) -> None:
        number = next(self._numbers)
        answer: asyncio.Future[Granted] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        drain_s = fresh.settings.global_.shutdown_timeout
        want = Want(number, wanted_listeners(fresh.settings), relay_count(fresh.settings), drain_s)
        self._router.supervisor.send(want)
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
        if isinstance(self._router.relays, RelayPool):
            self._router.relays.retire(granted.surplus)


def _described(changes: FarmDiff) -> dict[str, Any]:
    return {
        "services_added": list(changes.services_added),
        "services_removed": list(changes.services_removed),
        "services_changed": list(changes.services_changed),
        "servers_added": [str(server) for server in changes.servers_added],
        "servers_removed": [str(server) for server in changes.servers_removed],
        "servers_changed": [str(server) for server in changes.servers_changed],
    }
