"""Waiting for the first checks of a service's servers, before its clients are let in."""

import asyncio

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.model import Health


class FirstChecks:
    """Who waits for which service's first checks."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._waiting: dict[str, asyncio.Event] = {}

    async def wait(self, service: str, *, timeout_s: float) -> None:
        """Wait until no server of the service is being checked for the first time, or for `timeout_s`."""
        self._waiting[service] = asyncio.Event()
        self.look(service)
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiting[service].wait()
        except TimeoutError:
            return
        finally:
            del self._waiting[service]

    def look(self, service: str) -> None:
        """A server of the service has been checked: it may have been the last one."""
        waiting, configured = self._waiting.get(service), self._dispatcher.farm.services.get(service)
        if waiting is None:
            return
        statuses = self._dispatcher.servers.statuses
        servers = configured.servers if configured is not None else ()
        if not any(statuses[server.id].health.health is Health.CHECKING for server in servers):
            waiting.set()
