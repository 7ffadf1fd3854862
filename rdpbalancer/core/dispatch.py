"""Dispatch: farm, statuses, ledger, bindings and queues put together, as the verbs of a connection's life.

This is the whole state that decides. It is changed only by these verbs, each of which is atomic because none
of them waits; time is an argument everywhere.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rdpbalancer.core import status as st
from rdpbalancer.core.admission import source_network
from rdpbalancer.core.farm import Farm, PersistencePolicy, RealServer, VirtualService
from rdpbalancer.core.ledger import Ledger, LiveSession, ServerSlot
from rdpbalancer.core.persistence import Derived, Store, derive
from rdpbalancer.core.queue import AdmissionQueue, QueuedClient, Waiter
from rdpbalancer.core.redirection import Redirections
from rdpbalancer.core.route import (
    Decision,
    Enqueue,
    Reject,
    Route,
    RouteRequest,
    SchedulerState,
    ServerView,
    goes_before,
    names_server,
    route,
)
from rdpbalancer.core.schedule import Random
from rdpbalancer.core.share import Shares
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Endpoint, Key, Method, Mode, Reason, ServerId, SessionFacts
from rdpbalancer.wire.token import msts_number

# A routing token: the address that it names, or the number that only its maker understands.
Token = Endpoint | int


@dataclass(slots=True)
class _ServiceState:
    """What a virtual service keeps over a reload, also one that removes it: it may come back.

    `away`: the farm does not have it now. Its connections and sessions live on, and bind and give back as
    always, by the last `policy` that there was; bindings whose time would begin stay pinned until it is back.
    """

    policy: PersistencePolicy
    bindings: Store
    scheduler: SchedulerState
    line: AdmissionQueue = field(default_factory=AdmissionQueue)
    views: list[ServerView] | None = None
    away: bool = False
    collisions_told: set[Key] = field(default_factory=set)
    to_unpin: list[Key] = field(default_factory=list)


# Keys whose collision has been reported. Forgetting them all at once only repeats some warnings.
_MAX_TOLD = 10_000
# Bindings whose time begins at once after a restart, where their sessions are gone: 1 to 2 ms.
_UNPINNED_AT_ONCE = 500


class Dispatcher:
    """Where every connection asks for its server, and tells what became of it."""

    def __init__(self, *, open_store: Callable[[VirtualService], Store], rng: Random) -> None:
        self.farm = Farm()
        self.ledger = Ledger()
        self.ledger.on_free = self._place_freed
        self.statuses: dict[ServerId, ServerStatus] = {}
        self._services: dict[str, _ServiceState] = {}
        self._shares = Shares()
        self._redirections = Redirections()
        self._with_minimum: set[ServerId] = set()
        self._emptying: set[ServerId] = set()
        self._open_store = open_store
        self._rng = rng
        self._now = 0.0

    # ---- the farm ----------------------------------------------------------------------------------

    def apply(self, farm: Farm, *, now: float) -> None:
        """Take a new farm into use. What is known of servers and services that stay is kept."""
        before, self.farm = self.farm, farm
        self._apply_services(now)
        servers = farm.servers()
        for server in [server for server in self.statuses if server not in servers]:
            del self.statuses[server]
        for server in servers:
            self.statuses.setdefault(server, ServerStatus(changed_at=now))
        for state in self._services.values():
            for kept in (state.scheduler.wheel, state.scheduler.turns):
                for gone in [server for server in kept if server not in servers]:
                    del kept[gone]
        for state in self._services.values():
            state.views = None
        self._apply_minimums(before)
        self.look_again(farm.services, now=now)

    def _apply_minimums(self, before: Farm) -> None:
        servers, earlier = self.farm.servers(), before.servers()
        self._with_minimum = {server.id for server in servers.values() if server.min_connections}
        self._emptying &= self._with_minimum
        for server in self._with_minimum:
            if server in earlier and earlier[server].max_connections < servers[server].max_connections:
                self._emptying.discard(server)  # it was full by another measure
            self._judge_filling(server)

    def _apply_services(self, now: float) -> None:
        for name, service in self.farm.services.items():
            policy = service.persistence
            state = self._services.get(name)
            if state is None:
                store = self._open_store(service)
                self._services[name] = _ServiceState(policy, store, SchedulerState(self._rng))
                continue
            state.policy = policy
            state.bindings.resize(policy.max_entries)
            state.collisions_told.clear()  # what the new configuration does not help against is told again
            if state.away:
                state.away = False
                self.unpin_unused(name)
                self.unpin_some(now=now)
        for name, state in self._services.items():
            if name not in self.farm.services:
                state.away = True
                self.all_look_again(name)

    def set_status(self, server: ServerId, status: ServerStatus, *, now: float) -> None:
        """Record a server's new status, and let the queue look again: it may matter to it."""
        before = self.statuses[server]
        self.note_status(server, status)
        configured = self.farm.server(server)
        if configured is not None and _standing(configured, before) != _standing(configured, status):
            self.look_again((server.service,), now=now)

    def note_status(self, server: ServerId, status: ServerStatus) -> None:
        """Record a status that changes no decision (a count, a reason in words)."""
        self.statuses[server] = status
        self._services[server.service].views = None
        if server in self._with_minimum:
            self._judge_filling(server)

    def _judge_filling(self, server_id: ServerId) -> None:
        """Note whether a server with a `min_connections` takes new users, before anybody asks."""
        server, was = self.farm.server(server_id), server_id in self._emptying
        if server is None:
            return
        sessions = self.ledger.sessions_on(server_id)
        if st.emptying(server, self.statuses[server_id], sessions=sessions, was=was) is not was:
            self._emptying ^= {server_id}
            self._services[server_id.service].views = None

    def is_emptying(self, server: ServerId) -> bool:
        """Whether the server has been full and waits for its sessions to fall to `min_connections`."""
        return server in self._emptying

    def look_again(self, services: Iterable[str], *, now: float) -> None:
        """The farm has changed: give free places to who waits, and let those ask again who wait in vain."""
        self._now = now
        for name in services:
            line = self._services[name].line
            if not len(line):
                continue
            service = self.farm.services[name]
            for server in service.servers:
                self._place_freed(server.id)
            views = {view.server.id: view for view in self.views(service, now=now)}
            for waiter in line.take_out(lambda waiter: _in_vain(waiter, views)):  # noqa: B023 (called here)
                waiter.grant(None)

    def all_look_again(self, service: str) -> None:
        """Let everybody in the service's queue ask again: its bindings have been moved, or it is no more."""
        for waiter in self._services[service].line.drain():
            waiter.grant(None)

    def bindings(self, service: str) -> Store:
        """Return the service's store of bindings."""
        return self._services[service].bindings

    def queue_length(self, service: str, server: ServerId | None = None) -> int:
        """Return how many wait in the service's queue, or of these for that very server."""
        line = self._services[service].line
        return len(line) if server is None else line.waiting_for(server)

    def queue(self, service: str) -> Iterator[Waiter]:
        """Yield who waits in the service's queue, the first first."""
        return iter(self._services[service].line)

    def views(self, service: VirtualService, *, now: float) -> list[ServerView]:
        """Return every server of the service as it is now, in the configuration's order.

        They are the dispatcher's own, good until the next verb.
        """
        state = self._services[service.name]
        if state.views is None:
            state.views = [self._view(service, server, now) for server in service.servers]
        load, burden = self.ledger.load, self.ledger.burden
        for view in state.views:
            view.load, view.burden = load(view.server.id), burden(view.server.id)
        if service.slow_start_s:
            for view in state.views:
                view.weight = self._weight(service, view.server, now)
        return state.views

    def _view(self, service: VirtualService, server: RealServer, now: float) -> ServerView:
        weight = self._weight(service, server, now)
        ledger = self.ledger
        return ServerView(
            server,
            self.statuses[server.id],
            ledger.load(server.id),
            weight,
            ledger.burden(server.id),
            emptying=server.id in self._emptying,
        )

    def _weight(self, service: VirtualService, server: RealServer, now: float) -> float:
        status = self.statuses[server.id]
        return st.effective_weight(server, status, slow_start_s=service.slow_start_s, now=now)

    # ---- a connection's way ------------------------------------------------------------------------

    def derive(self, service: VirtualService, *, cookie: str | None, source: str) -> Derived:
        """Return the connection's persistence key."""
        return derive(
            service.persistence,
            cookie=cookie,
            source=source,
            collides=lambda key: self.collides(service, key),
        )

    def collides(self, service: VirtualService, key: Key) -> bool:
        """Whether a key is no one person's: a cookie from many addresses, an address with many sessions.

        In mode tcp an address says less: one browser opens more connections than that.
        """
        at_most = service.persistence.collision_sources
        if key.method is Method.RDP_COOKIE:
            return self.ledger.sources_of(service.name, key) > at_most
        return service.mode is Mode.RDP and self.ledger.live_of(service.name, key) > at_most

    def first_collision(self, service: str, key: Key) -> bool:
        """Whether this key's collision is reported for the first time."""
        told = self._services[service].collisions_told
        if key in told:
            return False
        if len(told) >= _MAX_TOLD:
            told.clear()
        told.add(key)
        return True

    def decide(
        self,
        service: VirtualService,
        *,
        source: str,
        token: Token | None,
        key: Key | None,
        tried: frozenset[ServerId],
        now: float,
    ) -> tuple[Decision, bool]:
        """Return where the connection goes now, and whether its routing token could not be followed.

        A connection may have waited over a reload: what counts is the service as it is now. One whose token
        is a number makes no binding, wherever it goes.
        """
        self._now = now
        current = self.farm.services.get(service.name)
        if current is None:
            return Reject("service-removed"), False
        service = current
        if isinstance(token, int):
            query = self._following(service, source=source, token=token, key=key, tried=tried, now=now)
        else:
            query = RouteRequest(source, token, key, self._bound(service, key, now), tried)
        state = self._services[service.name].scheduler
        return route(query, service, self.views(service, now=now), state)

    def _following(
        self,
        service: VirtualService,
        *,
        source: str,
        token: int,
        key: Key | None,
        tried: frozenset[ServerId],
        now: float,
    ) -> RouteRequest:
        steps = self._redirections.candidates(service.name, source, token, now=now)
        follows = [step.server for step in steps]
        bound = self._bound(service, key, now)
        if bound is not None and bound not in follows:
            follows.append(bound)
        known = self._redirections.knows(service.name, token)
        return RouteRequest(source, tried=tried, follows=follows, maker_known=known)

    def may_search(self, service: str, source: str, *, now: float) -> bool:
        """Whether one more server than `redispatch` allows may be asked whether a token is its own."""
        return self._redirections.may_search(service, source, now=now)

    def take(
        self,
        service: VirtualService,
        go: Route,
        key: Key | None,
        *,
        source: str = "",
        token: Token | None = None,
        now: float,
    ) -> ServerSlot | None:
        """Reserve a place for the decision and claim the key for it.

        None: the key is somebody else's claim by now (a shared store); decide again.
        """
        self._now = now
        if isinstance(token, int):
            lease = self.ledger.lease(go.server, None, source)
            self._follow(lease, source, token, now)
            return lease
        bound_key = key if go.binds else None
        lease = self.ledger.lease(go.server, bound_key, source)
        return lease if self._claim(service, go, lease, now) else None

    def _follow(self, lease: ServerSlot, source: str, token: int, now: float) -> None:
        """Let the connection follow a session of its source to its server, and keep that one's binding alive.

        It is the same user's, and would otherwise end an hour after a login that may last the day.
        """
        service, name = lease.server
        steps = self._redirections.candidates(service, source, token, now=now)
        step = next((step for step in steps if step.server == name), None)
        if step is None:
            return
        step.followed = True
        lease.follows = step
        if step.key is not None and self._holds(service, step.key, name):
            self.ledger.set_key(lease, step.key, source)

    def _holds(self, service: str, key: Key, server: str) -> bool:
        bound = self._services[service].bindings.confirmed(key)
        return bound is not None and bound.server == server

    def settle(
        self,
        service: VirtualService,
        lease: ServerSlot,
        *,
        wanted: Enqueue,
        token: Token | None,
        key: Key | None,
        tried: frozenset[ServerId],
        source: str = "",
        now: float,
    ) -> Route | None:
        """Make a granted place the connection's own.

        None: its key has been bound elsewhere while it waited, or the server is no longer configured; the
        place is given back, decide again.
        """
        self._now = now
        current = self.farm.services.get(service.name)
        server = current.server(lease.server.name) if current else None
        if current is None or server is None:
            self.ledger.release(lease)
            return None
        service = current
        bound = self._bound(service, key, now)
        view = self._view(service, server, now)
        if isinstance(token, int):
            self._follow(lease, source, token, now)
            guessed = Reason.REDISPATCH if tried else Reason.SCHEDULED
            return Route(lease.server, guessed if wanted.server is None else Reason.TOKEN)
        if wanted.server is not None and token is not None and names_server(view, token):
            return Route(lease.server, Reason.TOKEN)
        if bound is not None and bound != server.id.name and self._goes_back(service, bound, tried, now):
            self.ledger.release(lease)
            return None
        if bound == server.id.name:
            reason = Reason.SOURCE_IP if key and key.method is Method.SOURCE_IP else Reason.COOKIE
        elif server.backup:
            reason = Reason.BACKUP
        else:
            reason = Reason.REDISPATCH if bound is not None or tried else Reason.SCHEDULED
        go = Route(lease.server, reason, binds=key is not None, replacing=bound)
        self.ledger.set_key(lease, key, source)
        return go if self._claim(service, go, lease, now) else None

    def _claim(self, service: VirtualService, go: Route, lease: ServerSlot, now: float) -> bool:
        if lease.key is None:
            return True
        hold_s = service.timeouts.connect_s + service.timeouts.confirm_s
        bindings = self._services[service.name].bindings
        holder = bindings.claim(lease.key, go.server.name, now=now, hold_s=hold_s, replacing=go.replacing)
        if holder == go.server.name:
            lease.claimed = True
            lease.renews = go.replacing is not None
            return True
        self.ledger.release(lease)
        return False

    def give_back(self, lease: ServerSlot, *, now: float) -> None:
        """The server failed, or the client left: free the place and the claim.

        If the server had confirmed already, its desktop is there: the binding stays, and its time starts.
        """
        self._now = now
        if not lease.held:
            return
        self.ledger.release(lease)
        if lease.follows is not None:
            lease.follows.followed = False
        if lease.claimed:
            self._release_claim(lease, now)
        self._unpin_if_unused(lease.server.service, lease.key, now)

    def confirm(self, lease: ServerSlot, *, now: float) -> bool:
        """The server has answered with a Connection Confirm: the claim becomes a binding.

        False: it does not, because the source has had its share of a table that fills up (`core.share`).
        """
        if lease.key is None:
            return True
        bindings = self._services[lease.server.service].bindings
        if lease.follows is not None and not self._holds(lease.server.service, lease.key, lease.server.name):
            self.ledger.set_key(lease, None)  # the binding was moved meanwhile, and is not ours to move back
            return True
        if not self._may_bind(lease, now):
            self._release_claim(lease, now)
            return False
        lease.claimed = False
        bindings.confirm(lease.key, lease.server.name, now=now)
        return True

    def _may_bind(self, lease: ServerSlot, now: float) -> bool:
        """Whether a new binding is within its source's share; one that is there already is renewed anyway."""
        service = lease.server.service
        bindings, policy = self._services[service].bindings, self._services[service].policy
        bound = bindings.get(lease.key, now=now) if lease.key is not None else None
        if (bound is not None and bound.confirmed) or lease.renews or not lease.source:
            return True
        return self._shares.take(
            service,
            source_network(lease.source),
            entries=sum(bindings.counts().values()),
            max_entries=policy.max_entries,
            window_s=policy.timeout_s,
            now=now,
        )

    def disclaim(self, lease: ServerSlot, *, now: float) -> None:
        """The server has answered, but not with a Connection Confirm: the place stays, the claim goes."""
        if lease.claimed:
            self._release_claim(lease, now)
        key = lease.key
        self.ledger.set_key(lease, None)
        self._unpin_if_unused(lease.server.service, key, now)

    def _release_claim(self, lease: ServerSlot, now: float) -> None:
        lease.claimed = False
        if lease.key is not None:
            bindings = self._services[lease.server.service].bindings
            bindings.release(lease.key, lease.server.name, now=now)

    def open(
        self, lease: ServerSlot, facts: SessionFacts, *, relay: int, place: object = None
    ) -> LiveSession:
        """A relay takes the session: its place is a session's from now on."""
        session = self.ledger.open(lease, facts, relay=relay, place=place)
        if lease.server in self._with_minimum:
            self._judge_filling(lease.server)
        self._remember(facts)
        return session

    def _remember(self, facts: SessionFacts) -> None:
        """Remember a session for a token that may follow it, where tokens are followed."""
        state = self._services.get(facts.service)
        if state is not None and Method.ROUTING_TOKEN in state.policy.methods:
            token = msts_number(facts.token.encode()) if facts.token else None
            self._redirections.opened(facts, token=token)

    def close(self, session_id: str, *, now: float) -> LiveSession | None:
        """A session has ended: free its place; its binding's time starts if it was the key's last."""
        self._now = now
        self._redirections.closed(session_id, now=now)
        session = self.ledger.close(session_id)
        if session is None:
            return None
        key, service = session.facts.binding_key, session.facts.service
        state = self._services.get(service)
        if key is None or state is None or state.away or self.ledger.live_of(service, key):
            return session
        state.collisions_told.discard(key)
        # A connection on its way may have confirmed the binding already: it stays pinned for its session.
        if not self.ledger.uses(service, key):
            state.bindings.touch(key, now=now, ttl_s=state.policy.timeout_s)
        return session

    def _unpin_if_unused(self, service: str, key: Key | None, now: float) -> None:
        """Start the time of a binding that was pinned for a connection which has become no session.

        Of no other: a stranger's failed attempts would renew a binding for ever.
        """
        state = self._services[service]
        if key is None or state.away or self.ledger.uses(service, key):
            return
        bound = state.bindings.get(key, now=now)
        if bound is not None and bound.confirmed and bound.expires_at is None:
            state.bindings.touch(key, now=now, ttl_s=state.policy.timeout_s)

    def restore(self, facts: SessionFacts, *, relay: int, place: object, now: float) -> LiveSession:
        """A relay holds this session already: enter it, and pin its binding."""
        session = self.ledger.restore(facts, relay=relay, place=place)
        if facts.server_id in self._with_minimum:
            self._judge_filling(facts.server_id)
        self._remember(facts)
        state = self._services.get(facts.service)
        if state is not None and (key := facts.binding_key) is not None:
            # Whatever its user's next attempt claims: that one may fail, and the desktop is here.
            bound = state.bindings.confirmed(key)
            if bound is None or not bound.alive(now) or bound.server == facts.server:
                state.bindings.confirm(key, facts.server, now=now)
        return session

    def recall(self, facts: SessionFacts, *, now: float) -> None:
        """A session has ended that this router never knew: its binding may be younger than the last write."""
        self._remember(facts)
        self._redirections.closed(facts.id, now=now)
        state = self._services.get(facts.service)
        if state is None or (key := facts.binding_key) is None:
            return
        if state.bindings.get(key, now=now) is None:
            state.bindings.confirm(key, facts.server, now=now)
            self._unpin_if_unused(facts.service, key, now)

    def unpin_unused(self, service: str) -> None:
        """Start the time of bindings that were pinned by sessions which no longer live, by `unpin_some`.

        After a restart, once the service's bindings are in memory; sessions may be many.
        """
        state = self._services.get(service)
        if state is not None:
            state.to_unpin = state.bindings.pinned_keys()

    def unpin_some(self, *, now: float) -> bool:
        """Do a slice of what `unpin_unused` has asked for; True: there is more to do."""
        room = _UNPINNED_AT_ONCE
        for name, state in self._services.items():
            while state.to_unpin:
                if not room:
                    return True
                room -= 1
                self._unpin_if_unused(name, state.to_unpin.pop(), now)
        return False

    # ---- the queue ---------------------------------------------------------------------------------

    def wait(
        self,
        service: str,
        server: ServerId | None,
        grant: Callable[[ServerSlot | None], None],
        *,
        ticket: int | None,
        refused: Collection[ServerId] = (),
        client: QueuedClient | None = None,
    ) -> Waiter:
        """Join the service's queue."""
        line = self._services[service].line
        return line.join(server, grant, ticket=ticket, refused=refused, client=client)

    def leave(self, service: str, waiter: Waiter) -> None:
        """Leave the queue."""
        self._services[service].line.leave(waiter)

    def _place_freed(self, server_id: ServerId) -> None:
        """Give a freed place to the first in the queue whom it suits."""
        if server_id in self._with_minimum:
            self._judge_filling(server_id)
        state = self._services.get(server_id.service)
        if state is None or not len(state.line):
            return
        service = self.farm.services.get(server_id.service)
        server = service.server(server_id.name) if service else None
        if service is None or server is None:
            return
        line = state.line
        while len(line):
            views = self.views(service, now=self._now)
            view = next(view for view in views if view.server is server)
            if view.full or not view.takes_token:
                return
            after = goes_before(view, views)
            takes_new = view.takes_new and view.has_room
            waiter = line.next_for(server_id, takes_new=takes_new, after=after)
            if waiter is None:
                return
            waiter.grant(self.ledger.lease(server_id, None))

    # ---- small questions ---------------------------------------------------------------------------

    def _bound(self, service: VirtualService, key: Key | None, now: float) -> str | None:
        if key is None:
            return None
        binding = self._services[service.name].bindings.get(key, now=now)
        return binding.server if binding else None

    def _goes_back(self, service: VirtualService, name: str, tried: frozenset[ServerId], now: float) -> bool:
        """Whether a connection with a place elsewhere would decide for its bound server now.

        If it would not, it keeps its place: two such would hand it to each other for ever.
        """
        server = service.server(name)
        if server is None or server.id in tried:
            return False
        view = self._view(service, server, now)
        return view.takes_bound and (service.persistence.wait_when_full or not view.full)


def _standing(server: RealServer, status: ServerStatus) -> tuple[bool, bool, bool, int]:
    """Return what of a server's status matters to those who wait for a place."""
    return (
        st.takes_new(server, status),
        st.takes_bound(status),
        st.takes_token(status),
        st.capacity(server, status),
    )


def _in_vain(waiter: Waiter, views: Mapping[ServerId, ServerView]) -> bool:
    """Whether the place that somebody waits for can no longer come."""
    if waiter.server is not None:
        view = views.get(waiter.server)
        return view is None or not view.takes_bound
    if any(view.checking for view in views.values()):
        return False
    return not any(view.takes_new and id_ not in waiter.refused for id_, view in views.items())
