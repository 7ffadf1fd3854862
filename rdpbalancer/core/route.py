"""Routing: a request, the farm as it is, and a binding, to the server that should get the connection.

The order is that of docs/explanation/how-a-connection-is-placed.md: routing token, binding, scheduler, backup
servers, queue. Nothing here waits or remembers; a connection whose server fails asks again, with that server
among `excluded`.
"""

from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass, field

import msgspec

from rdpbalancer.core import status as st
from rdpbalancer.core.farm import VirtualService
from rdpbalancer.core.schedule import SCHEDULERS, Candidate, Random, ScheduleInput
from rdpbalancer.core.servers import ServerView
from rdpbalancer.model import Endpoint, Key, Method, Reason, ServerId


class RouteRequest(msgspec.Struct, frozen=True):
    """What a connection brings to the decision.

    `token`: the address in its routing token, already decoded and only where the method is configured.
    `key` and `bound_server`: its persistence key and the server that the key is bound to. `excluded`: servers
    that failed this connection. `source`: the client's IP address. `follows`: the servers that may have made
    its routing token, where that names no address (`core.redirection`), the likeliest first; `maker_known`:
    the first of them is no guess.
    """

    source: str
    token: Endpoint | None = None
    key: Key | None = None
    bound_server: str | None = None
    excluded: Collection[ServerId] = ()
    follows: Sequence[str] = ()
    maker_known: bool = False


class Route(msgspec.Struct, frozen=True):
    """Connect to `server`. `binds`: the key is to be claimed for it, `replacing` its unusable holder."""

    server: ServerId
    reason: Reason
    binds: bool = False
    replacing: str | None = None


class Enqueue(msgspec.Struct, frozen=True):
    """Every slot is taken: wait for one on `server`, None: on any."""

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
    request: RouteRequest, service: VirtualService, views: Sequence[ServerView], state: SchedulerState
) -> tuple[Decision, bool]:
    """Return the decision, and whether a routing token was there but could not be followed."""
    token_missed = False
    if request.token is not None:
        decision = _by_token(request, service, views)
        if decision is not None:
            return decision, False
        token_missed = True
    if request.follows:
        decision = _by_redirection(request, service, views)
        if decision is not None:
            return decision, False
        token_missed = True
    decision = _by_binding(request, service, views) or _by_scheduler(request, service, views, state)
    return decision, token_missed


def names_server(view: ServerView, endpoint: Endpoint) -> bool:
    """Whether a routing token's address is this configured server's."""
    if endpoint in view.server.token_addresses:
        return True
    if endpoint.port != view.server.address.port:
        return False
    return endpoint.host == view.server.address.host or endpoint.host in view.status.addresses


def _by_token(request: RouteRequest, service: VirtualService, views: Sequence[ServerView]) -> Decision | None:
    for view in views:
        if request.token is not None and names_server(view, request.token):
            if not view.takes_token or view.server.id in request.excluded:
                return None
            if not view.full:
                return Route(view.server.id, Reason.TOKEN)
            return Enqueue(view.server.id) if service.persistence.wait_when_full else None
    return None


def _by_redirection(
    request: RouteRequest, service: VirtualService, views: Sequence[ServerView]
) -> Route | Enqueue | None:
    """Return the likeliest maker of a token that can take it now; wait only where all that can are full."""
    full: ServerView | None = None
    for name in request.follows:
        view = _named(name, views)
        if view is None or not view.takes_token or view.server.id in request.excluded:
            continue
        if not view.full:
            return Route(view.server.id, Reason.TOKEN)
        full = full or view
        if request.maker_known and name == request.follows[0]:
            break  # no other server would take it
    if full is None or not service.persistence.wait_when_full:
        return None
    return Enqueue(full.server.id)


def route_granted(
    request: RouteRequest,
    service: VirtualService,
    views: Sequence[ServerView],
    granted: ServerView,
    *,
    waited_for: ServerId | None,
) -> Route | None:
    """Return why a connection goes to the server whose slot it was granted after a wait in the queue.

    `waited_for`: the server that it waited for, None: any. None is returned where another server is known by
    now to be the connection's own (its key has been bound to it, or it made the routing token) and would take
    it, or have it wait; the slot is to be given back. If that one would not, the slot is kept: two such
    connections would hand it to each other for ever.
    """
    server = granted.server
    if waited_for is not None and _led_by_token(request, granted):
        return Route(server.id, Reason.TOKEN)
    if request.maker_known and (maker := _by_redirection(request, service, views)) is not None:
        return Route(server.id, Reason.TOKEN) if maker.server == server.id else None
    if request.bound_server == server.id.name:
        return Route(server.id, _bound_reason(request.key), binds=True)
    if _by_binding(request, service, views) is not None:
        return None
    return _new_route(request, server.id, backup=server.backup)


def _led_by_token(request: RouteRequest, view: ServerView) -> bool:
    """Whether it is the routing token that has had a connection wait for this server."""
    if request.token is not None:
        return names_server(view, request.token)
    return request.key is None  # what else could be known of it is a token whose maker is looked for


def _by_binding(
    request: RouteRequest, service: VirtualService, views: Sequence[ServerView]
) -> Route | Enqueue | None:
    """Return what the key's binding decides; None: nothing, its server cannot take the connection."""
    bound = _named(request.bound_server, views) if request.bound_server is not None else None
    if bound is None or not bound.takes_bound or bound.server.id in request.excluded:
        return None
    if not bound.full:
        return Route(bound.server.id, _bound_reason(request.key), binds=True)
    return Enqueue(bound.server.id) if service.persistence.wait_when_full else None


def _named(name: str, views: Sequence[ServerView]) -> ServerView | None:
    for view in views:
        if view.server.id.name == name:
            return view
    return None


def _bound_reason(key: Key | None) -> Reason:
    return Reason.SOURCE_IP if key is not None and key.method is Method.SOURCE_IP else Reason.COOKIE


def _new_route(request: RouteRequest, server: ServerId, *, backup: bool) -> Route:
    """Return the route of a connection that neither its token nor its binding leads to the server."""
    moved = request.bound_server is not None or bool(request.excluded)
    reason = Reason.BACKUP if backup else Reason.REDISPATCH if moved else Reason.SCHEDULED
    return Route(server, reason, binds=request.key is not None, replacing=request.bound_server)


def _by_scheduler(
    request: RouteRequest, service: VirtualService, views: Sequence[ServerView], state: SchedulerState
) -> Decision:
    usable = [view for view in views if view.takes_new]
    for backup in (False, True):
        rank = [view for view in usable if view.server.backup is backup]
        if not rank:
            continue
        excluded = request.excluded
        rest = [view for view in rank if view.server.id not in excluded] if excluded else rank
        if not rest:
            continue
        ask = ScheduleInput(request.source, state.rng, state.wheel, state.turns)
        # `has_room`, written out: two calls for each server would be a fifth of a login's decision.
        free = [
            Candidate(
                view.server.id, view.weight, view.load if view.scheduler_load is None else view.scheduler_load
            )
            for view in rest
            if not view.emptying and (not view.capacity or view.load < view.capacity)
        ]
        chosen = SCHEDULERS[service.scheduler](free, ask)
        if chosen is None:
            return Enqueue(None)
        return _new_route(request, chosen.server, backup=backup)
    if any(view.checking for view in views):
        return Enqueue(None)  # a first check takes no longer than a login does anyway
    return Reject("all-failed" if request.excluded else _why_nobody(views))


def _why_nobody(views: Sequence[ServerView]) -> str:
    if any(st.is_up(view.status) for view in views):
        return "all-draining-or-halted"
    return "all-down"


def preferred_servers(view: ServerView, views: Sequence[ServerView]) -> list[ServerId]:
    """Return the servers that a user without a binding gets before this one: a backup is a last resort."""
    if not view.server.backup:
        return []
    return [other.server.id for other in views if other.takes_new and not other.server.backup]
