"""Routing: a request, the farm as it is, and a binding, to the server that should get the connection.

The order is that of docs/explanation/how-a-connection-is-placed.md: routing token, binding, scheduler, backup
servers, queue. Nothing here waits or remembers; a connection whose server fails asks again, with that server
among `tried`.
"""

from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass, field

import msgspec

from rdpbalancer.core import status as st
from rdpbalancer.core.farm import RealServer, VirtualService
from rdpbalancer.core.schedule import SCHEDULERS, Candidate, Random, ScheduleInput
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Endpoint, Key, Method, Reason, ServerId


@dataclass(slots=True)
class ServerView:
    """One real server for decisions: configuration, status, load and effective weight now.

    What follows from configuration and status is worked out once, when the view is made: a farm has tens of
    servers and thousands of decisions a second, and statuses change now and then. `load`, `burden` and
    `weight` (during slow start) are set anew for each decision. `load` counts connections, for the limit;
    `burden` is what schedulers count (`core.burden`), None: the same. `emptying`: `core.status.emptying`.
    """

    server: RealServer
    status: ServerStatus
    load: int
    weight: float
    burden: int | None = None
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
        """Whether every place is taken or reserved."""
        return bool(self.capacity) and self.load >= self.capacity

    @property
    def has_room(self) -> bool:
        """Whether there is a place for a new user: not for those who are bound, or named by a token."""
        return not self.emptying and not self.full


class RouteRequest(msgspec.Struct, frozen=True):
    """What a connection brings to the decision.

    `token`: the address in its routing token, already decoded and only where the method is configured.
    `key` and `bound`: its persistence key and the server that the key is bound to. `tried`: servers that
    failed this connection. `source`: the client's IP address. `follows`: the servers that may have made its
    routing token, where that names no address (`core.redirection`), the likeliest first; `maker_known`: the
    first of them is no guess.
    """

    source: str
    token: Endpoint | None = None
    key: Key | None = None
    bound: str | None = None
    tried: Collection[ServerId] = ()
    follows: Sequence[str] = ()
    maker_known: bool = False


class Route(msgspec.Struct, frozen=True):
    """Connect to `server`. `binds`: the key is to be claimed for it, `replacing` its unusable holder."""

    server: ServerId
    reason: Reason
    binds: bool = False
    replacing: str | None = None


class Enqueue(msgspec.Struct, frozen=True):
    """Every place is taken: wait for one on `server`, None: on any."""

    server: ServerId | None


class Reject(msgspec.Struct, frozen=True):
    """No server can take the connection, and `why` in one stable word."""

    why: str


Decision = Route | Enqueue | Reject


@dataclass(slots=True)
class SchedulerState:
    """What a service's scheduler keeps between decisions."""

    rng: Random
    wheel: MutableMapping[ServerId, float] = field(default_factory=dict)
    turns: MutableMapping[ServerId, int] = field(default_factory=dict)


def route(
    query: RouteRequest, service: VirtualService, views: Sequence[ServerView], state: SchedulerState
) -> tuple[Decision, bool]:
    """Return the decision, and whether a routing token was there but could not be followed."""
    token_missed = False
    if query.token is not None:
        decision = _by_token(query, service, views)
        if decision is not None:
            return decision, False
        token_missed = True
    if query.follows:
        decision = _by_redirection(query, service, views)
        if decision is not None:
            return decision, False
        token_missed = True
    return _by_binding(query, service, views, state), token_missed


def names_server(view: ServerView, endpoint: Endpoint) -> bool:
    """Whether a routing token's address is this configured server's."""
    if endpoint in view.server.token_addresses:
        return True
    if endpoint.port != view.server.address.port:
        return False
    return endpoint.host == view.server.address.host or endpoint.host in view.status.addresses


def _by_token(query: RouteRequest, service: VirtualService, views: Sequence[ServerView]) -> Decision | None:
    for view in views:
        if query.token is not None and names_server(view, query.token):
            if not view.takes_token or view.server.id in query.tried:
                return None
            if not view.full:
                return Route(view.server.id, Reason.TOKEN)
            return Enqueue(view.server.id) if service.persistence.wait_when_full else None
    return None


def _by_redirection(
    query: RouteRequest, service: VirtualService, views: Sequence[ServerView]
) -> Decision | None:
    """Return the likeliest maker of a token that can take it now; wait only where all that can are full."""
    full: ServerView | None = None
    for name in query.follows:
        view = _named(name, views)
        if view is None or not view.takes_token or view.server.id in query.tried:
            continue
        if not view.full:
            return Route(view.server.id, Reason.TOKEN)
        full = full or view
        if query.maker_known and name == query.follows[0]:
            break  # no other server would take it
    waits = full is not None and service.persistence.wait_when_full
    return Enqueue(full.server.id) if full is not None and waits else None


def _by_binding(
    query: RouteRequest, service: VirtualService, views: Sequence[ServerView], state: SchedulerState
) -> Decision:
    bound = _named(query.bound, views) if query.bound is not None else None
    if bound is not None and bound.takes_bound and bound.server.id not in query.tried:
        if not bound.full:
            return Route(bound.server.id, _bound_reason(query.key), binds=True)
        if service.persistence.wait_when_full:
            return Enqueue(bound.server.id)
    moved = query.bound is not None or bool(query.tried)
    return _by_scheduler(query, service, views, state, moved=moved)


def _named(name: str, views: Sequence[ServerView]) -> ServerView | None:
    for view in views:
        if view.server.id.name == name:
            return view
    return None


def _bound_reason(key: Key | None) -> Reason:
    return Reason.SOURCE_IP if key is not None and key.method is Method.SOURCE_IP else Reason.COOKIE


def _by_scheduler(
    query: RouteRequest,
    service: VirtualService,
    views: Sequence[ServerView],
    state: SchedulerState,
    *,
    moved: bool,
) -> Decision:
    usable = [view for view in views if view.takes_new]
    for backup in (False, True):
        rank = [view for view in usable if view.server.backup is backup]
        if not rank:
            continue
        tried = query.tried
        untried = [view for view in rank if view.server.id not in tried] if tried else rank
        if not untried:
            continue
        ask = ScheduleInput(query.source, state.rng, state.wheel, state.turns)
        # `has_room`, written out: two calls for each server would be a fifth of a login's decision.
        free = [
            Candidate(view.server.id, view.weight, view.load if view.burden is None else view.burden)
            for view in untried
            if not view.emptying and (not view.capacity or view.load < view.capacity)
        ]
        chosen = SCHEDULERS[service.scheduler](free, ask)
        if chosen is None:
            return Enqueue(None)
        reason = Reason.BACKUP if backup else Reason.REDISPATCH if moved else Reason.SCHEDULED
        return Route(chosen.server, reason, binds=query.key is not None, replacing=query.bound)
    if any(view.checking for view in views):
        return Enqueue(None)  # a first check takes no longer than a login does anyway
    return Reject("all-failed" if query.tried else _why_nobody(views))


def _why_nobody(views: Sequence[ServerView]) -> str:
    if any(st.is_up(view.status) for view in views):
        return "all-draining-or-halted"
    return "all-down"


def goes_before(view: ServerView, views: Sequence[ServerView]) -> list[ServerId]:
    """Return the servers that a user without a binding gets before this one (backups are a last resort)."""
    if not view.server.backup:
        return []
    return [other.server.id for other in views if other.takes_new and not other.server.backup]
