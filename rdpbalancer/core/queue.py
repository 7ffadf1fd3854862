"""The queues of the virtual services: who waits for a slot on a server, and whose turn it is.

First come first served among those who could use the slot that became free. A waiter whose desktop is on one
server waits for that server; any other takes the first slot that suits.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from rdpbalancer.core import status as st
from rdpbalancer.core.farm import Farm
from rdpbalancer.core.ledger import Ledger, ServerSlot
from rdpbalancer.core.route import preferred_servers
from rdpbalancer.core.servers import ServerTable, ServerView
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import ServerId


@dataclass(frozen=True, slots=True)
class QueuedClient:
    """Who waits, for operators to see: `ip:port`, the user as sent, and since when (monotonic)."""

    address: str
    user: str | None
    since: float


@dataclass(slots=True, eq=False)
class Waiter:
    """One connection in the queue.

    `server` None: any server will do. `grant` is called once, with a slot, or with None when the farm has
    changed and the connection should ask again (it keeps its `ticket`, its position in the queue).
    `excluded`: servers that failed this connection, whose slots do not suit it.
    """

    ticket: int
    server: ServerId | None
    grant: Callable[[ServerSlot | None], None]
    excluded: Collection[ServerId] = ()
    client: QueuedClient | None = None

    def takes(self, server: ServerId, *, takes_new: bool, preferred: Collection[ServerId] = ()) -> bool:
        """Whether a slot on `server` suits; `takes_new`: it is one for users without a binding, too.

        `preferred`: servers that a new user gets before this one (it is a backup); only a connection that all
        of them have failed takes it.
        """
        if self.server is not None:
            return self.server == server
        return takes_new and server not in self.excluded and all(each in self.excluded for each in preferred)


class AdmissionQueue:
    """The waiters of one virtual service, in the order of their tickets."""

    def __init__(self) -> None:
        self._next_ticket = 0
        self._waiters: OrderedDict[int, Waiter] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def join(
        self,
        server: ServerId | None,
        grant: Callable[[ServerSlot | None], None],
        *,
        ticket: int | None = None,
        excluded: Collection[ServerId] = (),
        client: QueuedClient | None = None,
    ) -> Waiter:
        """Enter the queue: at its end, or at the position of an earlier `ticket`."""
        if ticket is None:
            ticket = self._next_ticket
            self._next_ticket += 1
        waiter = Waiter(ticket, server, grant, excluded, client)
        # Whoever was drained comes back in order, and is at the end again: sorting each time would make the
        # return of a long queue quadratic.
        overtakes = bool(self._waiters) and ticket < next(reversed(self._waiters))
        self._waiters[ticket] = waiter
        if overtakes:
            self._waiters = OrderedDict(sorted(self._waiters.items()))
        return waiter

    def __iter__(self) -> Iterator[Waiter]:
        """Yield who waits, the first first. The queue may be changed meanwhile."""
        return iter(list(self._waiters.values()))

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue. Leaving twice does nothing."""
        if self._waiters.get(waiter.ticket) is waiter:
            del self._waiters[waiter.ticket]

    def waiting_for(self, server: ServerId) -> int:
        """Return how many wait for that very server."""
        return sum(waiter.server == server for waiter in self._waiters.values())

    def next_for(
        self, server: ServerId, *, takes_new: bool, preferred: Collection[ServerId] = ()
    ) -> Waiter | None:
        """Take the first waiter for a slot on `server` out of the queue.

        `takes_new`: whether the server takes users without a binding; if not, only who waits for that very
        server gets its slot. `preferred`: see `Waiter.takes`.
        """
        waiter = self._first_for(server, takes_new=takes_new, preferred=preferred)
        if waiter is not None:
            del self._waiters[waiter.ticket]
        return waiter

    def take_out(self, hopeless: Callable[[Waiter], bool]) -> list[Waiter]:
        """Take those out, in order, of whom `hopeless` is true."""
        waiters = [waiter for waiter in self._waiters.values() if hopeless(waiter)]
        for waiter in waiters:
            del self._waiters[waiter.ticket]
        return waiters

    def drain(self) -> list[Waiter]:
        """Take everybody out, in order: the farm has changed and all should ask again."""
        waiters = list(self._waiters.values())
        self._waiters.clear()
        return waiters

    def _first_for(
        self, server: ServerId, *, takes_new: bool, preferred: Collection[ServerId]
    ) -> Waiter | None:
        for waiter in self._waiters.values():
            if waiter.takes(server, takes_new=takes_new, preferred=preferred):
                return waiter
        return None


class Queues:
    """The queues of all virtual services, and who gets a slot that becomes free."""

    def __init__(self, servers: ServerTable, ledger: Ledger) -> None:
        self._servers = servers
        self._ledger = ledger
        self._queues: dict[str, AdmissionQueue] = {}

    def apply(self, farm: Farm) -> None:
        """Take a new farm into use. Whoever waits for a service that it does not have asks again."""
        for name in farm.services:
            self._queues.setdefault(name, AdmissionQueue())
        for name in self._queues:
            if name not in farm.services:
                self.wake_all(name)

    def join(
        self,
        service: str,
        server: ServerId | None,
        grant: Callable[[ServerSlot | None], None],
        *,
        ticket: int | None,
        excluded: Collection[ServerId] = (),
        client: QueuedClient | None = None,
    ) -> Waiter:
        """Join the service's queue; see `AdmissionQueue.join`."""
        queue = self._queues[service]
        return queue.join(server, grant, ticket=ticket, excluded=excluded, client=client)

    def leave(self, service: str, waiter: Waiter) -> None:
        """Leave the service's queue."""
        self._queues[service].leave(waiter)

    def length(self, service: str, server: ServerId | None = None) -> int:
        """Return how many wait in the service's queue, or of these for that very server."""
        queue = self._queues[service]
        return len(queue) if server is None else queue.waiting_for(server)

    def waiting(self, service: str) -> Iterator[Waiter]:
        """Yield who waits in the service's queue, the first first."""
        return iter(self._queues[service])

    def wake_all(self, service: str) -> None:
        """Let everybody in the service's queue ask again: its bindings have been moved, or it is no more."""
        for waiter in self._queues[service].drain():
            waiter.grant(None)

    def slot_freed(self, server_id: ServerId, *, now: float) -> None:
        """Give the free slots of a server to the first in the queue whom they suit."""
        queue = self._queues.get(server_id.service)
        if queue is None or not len(queue):
            return
        service = self._servers.farm.services.get(server_id.service)
        server = service.server(server_id.name) if service else None
        if service is None or server is None:
            return
        while len(queue):
            views = self._servers.views(service, now=now)
            view = next(view for view in views if view.server is server)
            if view.full or not view.takes_token:
                return
            takes_new = view.takes_new and view.has_room
            preferred = preferred_servers(view, views)
            waiter = queue.next_for(server_id, takes_new=takes_new, preferred=preferred)
            if waiter is None:
                return
            waiter.grant(self._ledger.reserve(server_id, None))

    def status_changed(self, server: ServerId, before: ServerStatus, after: ServerStatus, now: float) -> None:
        """Be a subscriber of the server table: a server that takes others now may suit somebody who waits."""
        configured = self._servers.farm.server(server)
        if configured is not None and st.standing(configured, before) != st.standing(configured, after):
            self.rescan((server.service,), now=now)

    def rescan(self, services: Iterable[str], *, now: float) -> None:
        """The farm has changed: grant free slots, and let those ask again who wait for what cannot come."""
        for name in services:
            queue = self._queues[name]
            if not len(queue):
                continue
            service = self._servers.farm.services[name]
            for server in service.servers:
                self.slot_freed(server.id, now=now)
            views = {view.server.id: view for view in self._servers.views(service, now=now)}
            for waiter in queue.take_out(lambda waiter: _hopeless(waiter, views)):  # noqa: B023 (called here)
                waiter.grant(None)


def _hopeless(waiter: Waiter, views: Mapping[ServerId, ServerView]) -> bool:
    """Whether the slot that somebody waits for can no longer come."""
    if waiter.server is not None:
        view = views.get(waiter.server)
        return view is None or not view.takes_bound
    if any(view.checking for view in views.values()):
        return False
    return not any(view.takes_new and id_ not in waiter.excluded for id_, view in views.items())
