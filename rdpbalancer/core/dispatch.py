"""Dispatch: servers, ledger, bindings and queues put together, as the verbs of a connection's life.

This is the whole state that decides. It is changed only by these verbs, each of which is atomic because none
of them waits; time is an argument everywhere. A connection enters once to be placed, and once for each thing
that becomes of it.
"""

from collections.abc import Callable, Collection

import msgspec

from rdpbalancer.core.agreement import Agreement, AlwaysAgreed, Answer
from rdpbalancer.core.bindings import Bindings
from rdpbalancer.core.farm import Farm, VirtualService
from rdpbalancer.core.ledger import Ledger, LiveSession, ServerSlot
from rdpbalancer.core.persistence import Store
from rdpbalancer.core.queue import Queues
from rdpbalancer.core.redirection import Redirections
from rdpbalancer.core.route import (
    Enqueue,
    Reject,
    Route,
    RouteRequest,
    SchedulerState,
    route,
    route_granted,
)
from rdpbalancer.core.schedule import Random
from rdpbalancer.core.servers import ServerTable
from rdpbalancer.model import Endpoint, Key, Method, ServerId, SessionFacts
from rdpbalancer.wire.token import msts_number

# A routing token: the address that it names, or the number that only its maker understands.
Token = Endpoint | int


class Placed(msgspec.Struct, frozen=True):
    """A connection's slot on a server, its key claimed for it. `answer`: it has to be agreed on first."""

    slot: ServerSlot
    route: Route
    answer: Answer | None = None


class Dispatcher:
    """Where every connection asks for its server, and tells what became of it."""

    def __init__(
        self,
        *,
        open_store: Callable[[VirtualService], Store],
        rng: Random,
        agreement: Agreement | None = None,
    ) -> None:
        self.ledger = Ledger()
        self.ledger.on_free = self._slot_freed
        self.servers = ServerTable(self.ledger)
        self.bindings = Bindings(self.ledger, open_store=open_store)
        self.queues = Queues(self.servers, self.ledger)
        self.servers.subscribe(self.queues.status_changed)
        self._agreement = agreement or AlwaysAgreed()
        self._redirections = Redirections()
        self._schedulers: dict[str, SchedulerState] = {}
        self._routing_tokens: set[str] = set()
        self._rng = rng
        self._now = 0.0

    @property
    def farm(self) -> Farm:
        """The farm in use."""
        return self.servers.farm

    def apply(self, farm: Farm, *, now: float) -> None:
        """Take a new farm into use. What is known of servers and services that stay is kept.

        Also of a service that is removed: its connections and sessions live on, and it may come back.
        """
        self.bindings.apply(farm, now=now)
        self.servers.apply(farm, now=now)
        servers = farm.servers()
        for name, service in farm.services.items():
            self._schedulers.setdefault(name, SchedulerState(self._rng))
            if Method.ROUTING_TOKEN in service.persistence.methods:
                self._routing_tokens.add(name)
            else:
                self._routing_tokens.discard(name)
        for state in self._schedulers.values():
            for kept in (state.wheel, state.turns):
                for gone in [server for server in kept if server not in servers]:
                    del kept[gone]
        self._now = now
        self.queues.apply(farm)
        self.queues.rescan(farm.services, now=now)

    # ---- a connection ------------------------------------------------------------------------------

    def place(
        self,
        service: VirtualService,
        *,
        source: str,
        token: Token | None,
        key: Key | None,
        excluded: Collection[ServerId],
        now: float,
    ) -> tuple[Placed | Enqueue | Reject, bool]:
        """Decide where a connection goes, reserve a slot there and claim its key for that server.

        `service`: as it is configured now. `source`: the client's address. `excluded`: the servers that have
        failed the connection. One whose token is a number makes no binding, wherever it goes. Returned beside
        the decision: whether there was a routing token that could not be followed.
        """
        self._now = now
        request = self._request(service, source=source, token=token, key=key, excluded=excluded, now=now)
        views = self.servers.views(service, now=now)
        decision, token_missed = route(request, service, views, self._schedulers[service.name])
        if not isinstance(decision, Route):
            return decision, token_missed
        if isinstance(token, int):
            slot = self.ledger.reserve(decision.server, None, source)
            self._follow(slot, source, token, now)
            return Placed(slot, decision), token_missed
        slot = self.ledger.reserve(decision.server, key if decision.binds else None, source)
        return self._claimed(service, slot, decision, now), token_missed

    def place_granted(
        self,
        service: VirtualService,
        slot: ServerSlot,
        *,
        waited_for: Enqueue,
        source: str,
        token: Token | None,
        key: Key | None,
        excluded: Collection[ServerId],
        now: float,
    ) -> Placed | None:
        """Make the slot that a connection was granted from the queue its own.

        None: its desktop is elsewhere by now, or the server is no longer configured; the slot is released,
        and the connection is to be placed again.
        """
        self._now = now
        views = self.servers.views(service, now=now)
        view = next((view for view in views if view.server.id == slot.server), None)
        if view is None:
            self.ledger.release(slot)
            return None
        request = self._request(service, source=source, token=token, key=key, excluded=excluded, now=now)
        decision = route_granted(request, service, views, view, waited_for=waited_for.server)
        if decision is None:
            self.ledger.release(slot)
            return None
        if isinstance(token, int):
            self._follow(slot, source, token, now)
            return Placed(slot, decision)
        if decision.binds:
            self.ledger.set_key(slot, key, source)
        return self._claimed(service, slot, decision, now)

    def _request(
        self,
        service: VirtualService,
        *,
        source: str,
        token: Token | None,
        key: Key | None,
        excluded: Collection[ServerId],
        now: float,
    ) -> RouteRequest:
        bound_server = self.bindings.server_of(service.name, key, now=now)
        if not isinstance(token, int):
            return RouteRequest(source, token, key, bound_server, excluded)
        steps = self._redirections.candidates(service.name, source, token, now=now)
        follows = [step.server for step in steps]
        if bound_server is not None and bound_server not in follows:
            follows.append(bound_server)
        known = self._redirections.knows(service.name, token)
        return RouteRequest(source, excluded=excluded, follows=follows, maker_known=known)

    def _follow(self, slot: ServerSlot, source: str, token: int, now: float) -> None:
        """Let the connection follow a session of its source to its server, and keep that one's binding alive.

        It is the same user's, and would otherwise end an hour after a login that may last the day.
        """
        steps = self._redirections.candidates(slot.server.service, source, token, now=now)
        step = next((step for step in steps if step.server == slot.server.name), None)
        if step is None:
            return
        step.followed = True
        slot.follows = step
        if step.key is not None and self.bindings.holds(slot.server, step.key):
            self.ledger.set_key(slot, step.key, source)

    def _claimed(self, service: VirtualService, slot: ServerSlot, decision: Route, now: float) -> Placed:
        if slot.key is None:
            return Placed(slot, decision)
        self.bindings.claim(service, decision, slot, now=now)
        answer = self._agreement.ask(service.name, slot.key, slot.server, replacing=decision.replacing)
        return Placed(slot, decision, answer)

    def may_search(self, service: str, source: str, *, now: float) -> bool:
        """Whether one more server than `redispatch` allows may be asked whether a token is its own."""
        return self._redirections.may_search(service, source, now=now)

    def release(self, slot: ServerSlot, *, now: float) -> None:
        """The server failed, or the client left: free the slot and the claim.

        If the server had confirmed already, its desktop is there: the binding stays, and its time starts.
        """
        self._now = now
        if not slot.held:
            return
        self.ledger.release(slot)
        if slot.follows is not None:
            slot.follows.followed = False
        self.bindings.released(slot, now=now)

    # ---- a session ---------------------------------------------------------------------------------

    def open(
        self, slot: ServerSlot, facts: SessionFacts, *, relay: int, admission_slot: object = None
    ) -> LiveSession:
        """A relay takes the session: its slot is a session's from now on."""
        session = self.ledger.open(slot, facts, relay=relay, admission_slot=admission_slot)
        self.servers.sessions_changed(slot.server)
        self._remember(facts)
        return session

    def restore(self, facts: SessionFacts, *, relay: int, admission_slot: object, now: float) -> LiveSession:
        """A relay holds this session already: enter it, and pin its binding."""
        session = self.ledger.restore(facts, relay=relay, admission_slot=admission_slot)
        self.servers.sessions_changed(facts.server_id)
        self._remember(facts)
        self.bindings.session_restored(facts, now=now)
        return session

    def close(self, session_id: str, *, now: float) -> LiveSession | None:
        """A session has ended: free its slot; its binding's time starts if it was the key's last."""
        self._now = now
        self._redirections.closed(session_id, now=now)
        session = self.ledger.close(session_id)
        if session is not None:
            self.bindings.session_ended(session.facts, now=now)
        return session

    def record_unknown_end(self, facts: SessionFacts, *, now: float) -> None:
        """A session has ended that this router never knew: its binding may be younger than the last write."""
        self._remember(facts)
        self._redirections.closed(facts.id, now=now)
        self.bindings.unknown_session_ended(facts, now=now)

    def _remember(self, facts: SessionFacts) -> None:
        """Remember a session for a token that may follow it, where tokens are followed."""
        if facts.service in self._routing_tokens:
            token = msts_number(facts.token.encode()) if facts.token else None
            self._redirections.opened(facts, token=token)

    def _slot_freed(self, server: ServerId) -> None:
        self.servers.sessions_changed(server)
        self.queues.slot_freed(server, now=self._now)
