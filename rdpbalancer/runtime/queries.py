"""What operators ask: the verbs that change nothing."""

from collections.abc import Awaitable, Callable
from typing import Any

from rdpbalancer.control.paging import MAX_ROWS, Listing
from rdpbalancer.control.rows import ServerRow, ServiceRow
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.runtime import listings, select
from rdpbalancer.runtime.binding_verbs import method_of
from rdpbalancer.runtime.views import Views
from rdpbalancer.telemetry.events import Events

# Between two rows of a long answer: give the loop to others if it is their turn.
Breathe = Callable[[], Awaitable[None]]


async def at_once() -> None:
    """Breathe not at all: the work is short, or nobody else is there."""


class Queries:
    """Answers what operators ask; names that are not there are refused with those that are."""

    def __init__(
        self, dispatcher: Dispatcher, views: Views, events: Events, *, breathe: Breathe = at_once
    ) -> None:
        self._dispatcher = dispatcher
        self._views = views
        self._events = events
        self._breathe = breathe

    def verbs(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        """Return every verb of this class by its name on the control socket."""
        return {
            "services": self.services,
            "servers": self.servers,
            "sessions": self._sessions,
            "persistence": self._persistence,
            "events": self._recent,
            "queue": self._queue,
        }

    async def services(self) -> list[ServiceRow]:
        """Return a row for each virtual service."""
        return self._views.services()

    async def servers(self, service: str | None = None) -> list[ServerRow]:
        """Return a row for each real server, of one service or of all."""
        select.check_service(self._dispatcher, service)
        rows = []
        for row in self._views.servers(service):
            rows.append(row)
            await self._breathe()
        return rows

    async def _sessions(
        self,
        service: str | None = None,
        server: str | None = None,
        user: str | None = None,
        source: str | None = None,
        *,
        limit: int = MAX_ROWS,
        after: str | None = None,
    ) -> Listing:
        self._check(service, server)
        matches = select.sessions(service=service, server=server, user=user, source=source)
        return Listing(
            ("sessions", service, server, user, source),
            lambda: listings.sessions(self._dispatcher, self._views, matches),
            limit,
            after,
        )

    async def _persistence(
        self,
        service: str | None = None,
        server: str | None = None,
        key: str | None = None,
        method: str | None = None,
        *,
        limit: int = MAX_ROWS,
        after: str | None = None,
    ) -> Listing:
        self._check(service, server)
        wanted = None if method is None else method_of(method)
        return Listing(
            ("persistence", service, server, key, wanted),
            lambda: listings.persistence(
                self._dispatcher, self._views, service=service, server=server, key=key, method=wanted
            ),
            limit,
            after,
        )

    async def _queue(
        self, service: str | None = None, *, limit: int = MAX_ROWS, after: str | None = None
    ) -> Listing:
        self._check(service)
        return Listing(
            ("queue", service), lambda: listings.queue(self._dispatcher, self._views, service), limit, after
        )

    async def _recent(
        self,
        since: int | None = None,
        service: str | None = None,
        server: str | None = None,
        level: str | None = None,
        *,
        limit: int = MAX_ROWS,
        after: str | None = None,
    ) -> Listing:
        listings.check_level(level)
        recent = self._events.recent()
        # An event outlives the service or server that it tells of.
        if service is not None and all(event.get("service") != service for event in recent):
            self._check(service)
        if server is not None and all(event.get("server") != server for event in recent):
            self._check(None, server)
        return Listing(
            ("events", since, service, server, level),
            lambda: listings.events(recent, since=since, service=service, server=server, level=level),
            limit,
            after,
        )

    def _check(self, service: str | None, server: str | None = None) -> None:
        select.check_service(self._dispatcher, service)
        select.check_server(self._dispatcher, server, service)
