"""The addresses behind the servers' names: resolved at a reload, and again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from rdpbalancer.core.farm import RealServer
from rdpbalancer.model import ServerId
from rdpbalancer.net.resolve import literal, resolve, retry_s
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.telemetry.events import Events

# Returns a name's addresses, or why it has none.
Resolve = Callable[[str], Awaitable[tuple[str, ...] | str]]


class ServerNames:
    """Resolves the names of the servers that are configured.

    `servers()` returns those, `addresses(server)` what is in use now, None: it is not configured any more;
    `changed(server, addresses)` is called where they are others.
    """

    def __init__(
        self,
        *,
        servers: Callable[[], Iterable[RealServer]],
        addresses: Callable[[ServerId], Sequence[str] | None],
        changed: Callable[[ServerId, tuple[str, ...]], None],
        events: Events,
        resolve: Resolve = resolve,
    ) -> None:
        self._servers = servers
        self._addresses = addresses
        self._changed = changed
        self._events = events
        self._resolve = resolve
        self._unresolved: set[ServerId] = set()
        self._again: asyncio.Task[None] | None = None

    async def resolve(self, servers: Sequence[RealServer]) -> list[tuple[str, ...] | str]:
        """Return the addresses of each server, or why there are none."""
        return await asyncio.gather(*(self._resolve(server.address.host) for server in servers))

    def resolved(self, server: ServerId, found: tuple[str, ...] | str) -> None:
        """Take over what a name has been resolved to."""
        addresses = self._addresses(server)
        if addresses is None:
            return  # removed by a reload meanwhile
        fields = {"service": server.service, "server": server.name}
        if isinstance(found, str):
            # What was resolved before stays in use: an old address is better than none.
            if server not in self._unresolved:
                self._events.warning("name_not_resolved", **fields, detail=found)
            self._unresolved.add(server)
            return
        if server in self._unresolved:
            self._unresolved.discard(server)
            self._events.info("name_resolved", **fields, detail=", ".join(found))
        if set(found) != set(addresses):
            self._changed(server, found)

    def keep_only(self, servers: Collection[ServerId]) -> None:
        """Forget servers that are not configured any more."""
        self._unresolved &= set(servers)

    async def restart(self, interval_s: float) -> None:
        """Resolve all names every `interval_s` from now on."""
        await self.stop()
        self._again = spawn(self._resolve_again(interval_s), name="resolve names")

    async def stop(self) -> None:
        """Resolve no more."""
        if self._again is not None:
            await cancel_and_wait(self._again)
            self._again = None

    async def _resolve_again(self, interval_s: float) -> None:
        """Resolve all names every `interval_s`, and sooner, less and less so, those that could not be."""
        left_s, failures = interval_s, 1
        while True:
            retry_after_s = retry_s(failures, interval_s=interval_s) if self._unresolved else left_s
            pause_s = min(left_s, retry_after_s)
            await asyncio.sleep(pause_s)
            left_s -= pause_s
            everything = left_s <= 0
            if everything:
                left_s = interval_s
            names = [
                server
                for server in self._servers()
                if literal(server.address.host) is None and (everything or server.id in self._unresolved)
            ]
            for server, addresses in zip(names, await self.resolve(names), strict=True):
                self.resolved(server.id, addresses)
            failures = failures + 1 if self._unresolved else 1
