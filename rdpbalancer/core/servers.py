"""The real servers as they are now: statuses, and what follows from them for decisions.

One writer (the server monitor) sets statuses; whoever has to know of a change subscribes: the queue, whose
clients may have a server now.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rdpbalancer.core import status as st
from rdpbalancer.core.farm import Farm, RealServer, VirtualService
from rdpbalancer.core.ledger import Ledger
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import ServerId

# Told of each change: the server, its status before and after, and when (monotonic).
Subscriber = Callable[[ServerId, ServerStatus, ServerStatus, float], None]


@dataclass(slots=True)
class ServerView:
    """One real server for decisions: configuration, status, load and effective weight now.

    What follows from configuration and status is worked out once, when the view is made: a farm has tens of
    servers and thousands of decisions a second, and statuses change now and then. `load`, `scheduler_load`
    and `weight` (during slow start) are set anew for each decision. `load` counts connections, for the limit;
    `scheduler_load` is what schedulers count (`core.scheduler_load`), None: the same. `emptying`:
    `core.status.emptying`.
    """

    server: RealServer
    status: ServerStatus
    load: int
    weight: float
    scheduler_load: int | None = None
    emptying: bool = False
    takes_new: bool = field(init=False)
    takes_bound: bool = field(init=False)
    takes_token: bool = field(init=False)
    capacity: int = field(init=False)
    checking: bool = field(init=False)

    def __post_init__(self) -> None:
        self.takes_new = st.takes_new(self.server, self.status)
        self.takes_bound = st.takes_bound(self.status)
        self.takes_token = st.takes_token(self.status)
        self.checking = st.may_come_up(self.server, self.status)
        self.capacity = st.capacity(self.server, self.status)

    @property
    def full(self) -> bool:
        """Whether every slot is taken or reserved."""
        return bool(self.capacity) and self.load >= self.capacity

    @property
    def has_room(self) -> bool:
        """Whether there is a slot for a new user: not for those who are bound, or named by a token."""
        return not self.emptying and not self.full


class ServerTable:
    """The status of every configured real server, and the views that decisions are made from."""

    def __init__(self, ledger: Ledger) -> None:
        self.farm = Farm()
        self._ledger = ledger
        self._statuses: dict[ServerId, ServerStatus] = {}
        self._views: dict[str, list[ServerView]] = {}
        self._with_minimum: set[ServerId] = set()
        self._emptying: set[ServerId] = set()
        self._subscribers: list[Subscriber] = []

    @property
    def statuses(self) -> Mapping[ServerId, ServerStatus]:
        """Every configured server's status. Changed by `set` and `apply` only."""
        return self._statuses

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have every change of a status told, in the turn in which it is set."""
        self._subscribers.append(subscriber)

    # ---- changes -----------------------------------------------------------------------------------

    def apply(self, farm: Farm, *, now: float) -> None:
        """Take a new farm into use. The statuses of servers that stay are kept."""
        before, self.farm = self.farm, farm
        servers = farm.servers()
        for server in [server for server in self._statuses if server not in servers]:
            del self._statuses[server]
        for server in servers:
            self._statuses.setdefault(server, ServerStatus(changed_at=now))
        self._apply_minimums(before)
        self._views.clear()

    def _apply_minimums(self, before: Farm) -> None:
        servers, earlier = self.farm.servers(), before.servers()
        self._with_minimum = {server.id for server in servers.values() if server.min_connections}
        self._emptying &= self._with_minimum
        for server in self._with_minimum:
            if server in earlier and earlier[server].max_connections < servers[server].max_connections:
                self._emptying.discard(server)  # it was full by another measure
            self._judge_emptying(server)

    def set(self, server: ServerId, status: ServerStatus, *, now: float) -> None:
        """Record a configured server's new status, and tell the subscribers."""
        before, self._statuses[server] = self._statuses[server], status
        self._views.pop(server.service, None)
        self.sessions_changed(server)
        for subscriber in self._subscribers:
            subscriber(server, before, status, now)

    def sessions_changed(self, server: ServerId) -> None:
        """Note that the server has got or lost a session, which counts for its `min_connections`."""
        if server in self._with_minimum:
            self._judge_emptying(server)

    def _judge_emptying(self, server_id: ServerId) -> None:
        server, was = self.farm.server(server_id), server_id in self._emptying
        if server is None:
            return
        sessions = self._ledger.sessions_on(server_id)
        if st.emptying(server, self._statuses[server_id], sessions=sessions, was=was) is not was:
            self._emptying ^= {server_id}
            self._views.pop(server_id.service, None)

    # ---- questions ---------------------------------------------------------------------------------

    def get(self, server: ServerId) -> ServerStatus | None:
        """Return a server's status, None: it is not configured."""
        return self._statuses.get(server)

    def is_emptying(self, server: ServerId) -> bool:
        """Whether the server has been full and waits for its sessions to fall to `min_connections`."""
        return server in self._emptying

    def views(self, service: VirtualService, *, now: float) -> list[ServerView]:
        """Return every server of the service as it is now, in the configuration's order.

        They are the table's own, good until something changes.
        """
        views = self._views.get(service.name)
        if views is None:
            views = self._views[service.name] = [self._view(service, each, now) for each in service.servers]
            return views
        load, scheduler_load = self._ledger.load, self._ledger.scheduler_load
        for view in views:
            view.load, view.scheduler_load = load(view.server.id), scheduler_load(view.server.id)
        if service.slow_start_s:
            for view in views:
                view.weight = self._weight(service, view.server, now)
        return views

    def _view(self, service: VirtualService, server: RealServer, now: float) -> ServerView:
        ledger = self._ledger
        return ServerView(
            server,
            self._statuses[server.id],
            ledger.load(server.id),
            self._weight(service, server, now),
            ledger.scheduler_load(server.id),
            emptying=server.id in self._emptying,
        )

    def _weight(self, service: VirtualService, server: RealServer, now: float) -> float:
        status = self._statuses[server.id]
        return st.effective_weight(server, status, slow_start_s=service.slow_start_s, now=now)
