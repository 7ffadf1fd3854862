"""A dispatcher over one service, with its clock in the test's hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rdpbalancer.core.dispatch import Dispatcher, Placed, Token
from rdpbalancer.core.farm import Farm, PersistencePolicy, RealServer, VirtualService
from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.persistence import Binding, Store
from rdpbalancer.core.queue import Waiter
from rdpbalancer.core.route import Decision, Enqueue, Reject, Route
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Key, ServerId
from rdpbalancer.stores.state import DurableState
from tests.unit.core.farms import SERVICE, Dice, facts, real_server, server_status, sid, virtual_service

TTL_S = 3600.0


@dataclass(eq=False)
class Caller:
    """One connection: what it brings, and what has become of it."""

    key: Key | None = None
    token: Token | None = None
    source: str = "192.0.2.1"
    excluded: frozenset[ServerId] = frozenset()
    service: VirtualService | None = None
    slot: ServerSlot | None = None
    go: Route | None = None
    wanted: Enqueue | None = None
    waiter: Waiter | None = None
    ticket: int | None = None
    granted: list[ServerSlot | None] = field(default_factory=list)


class DispatchFixture:
    """One virtual service, all of whose servers are up, and the verbs of a connection's life."""

    def __init__(self, *servers: str | RealServer, **configured: Any) -> None:
        # Kept beside the dispatcher, as the state file is: a service that comes back finds its bindings.
        self.state = DurableState()
        self.dispatcher = Dispatcher(open_store=self.open_store, rng=Dice(0.5))
        self.now = 0.0
        self._sessions = 0
        self.configure(*servers, **configured)

    def open_store(self, service: VirtualService) -> Store:
        """Return the bindings of a service."""
        return self.state.bindings(service.name, max_entries=service.persistence.max_entries)

    # ---- the farm ----------------------------------------------------------------------------------

    def configure(self, *servers: str | RealServer, **configured: Any) -> VirtualService:
        """Apply a farm of one service; servers that are new come up at once."""
        made = [real_server(server) if isinstance(server, str) else server for server in servers]
        known = set(self.dispatcher.servers.statuses)
        service = virtual_service(*made, **configured)
        self.apply(service)
        for server in made:
            if server.id not in known:
                self.status(server.id.name)
        return service

    def apply(self, *services: VirtualService) -> None:
        """Apply a farm of these services."""
        self.dispatcher.apply(Farm({service.name: service for service in services}), now=self.now)

    @property
    def service(self) -> VirtualService:
        """The service as it is configured now."""
        return self.dispatcher.farm.services[SERVICE]

    def status(self, server: str, status: ServerStatus | None = None, **known: Any) -> None:
        """Set a server's status: up and online unless told otherwise."""
        self.dispatcher.servers.set(sid(server), status or server_status(**known), now=self.now)

    # ---- a connection's way ------------------------------------------------------------------------

    def current(self, caller: Caller) -> VirtualService | None:
        """Return a connection's service as it is configured now; None: a reload has removed it."""
        caller.service = caller.service or self.service
        return self.dispatcher.farm.services.get(caller.service.name)

    def place(self, caller: Caller) -> Placed | Enqueue | Reject:
        """Have a connection placed."""
        service = self.current(caller)
        if service is None:
            return Reject("removed")
        return self.dispatcher.place(
            service,
            source=caller.source,
            token=caller.token,
            key=caller.key,
            excluded=caller.excluded,
            now=self.now,
        )[0]

    def decide(self, caller: Caller) -> Decision:
        """Return where a connection would go."""
        decision = self.place(caller)
        if not isinstance(decision, Placed):
            return decision
        self.dispatcher.release(decision.slot, now=self.now)
        return decision.route

    def come(self, caller: Caller | None = None, **brought: Any) -> Caller:
        """Place a connection, or let it join the queue. `go` and `wanted` stay None: nobody can take it."""
        caller = caller or Caller(**brought)
        caller.go = caller.wanted = caller.waiter = None
        match self.place(caller):
            case Placed() as placed:
                caller.slot, caller.go = placed.slot, placed.route
            case Enqueue() as wanted:
                self.join(caller, wanted)
            case _:
                pass
        return caller

    def join(self, caller: Caller, wanted: Enqueue) -> None:
        """Join the queue."""
        caller.wanted = wanted
        caller.waiter = self.dispatcher.queues.join(
            SERVICE, wanted.server, caller.granted.append, ticket=caller.ticket, excluded=caller.excluded
        )
        caller.ticket = caller.waiter.ticket

    def wake(self, caller: Caller) -> None:
        """Let a connection that was granted a place, or told to look again, go on."""
        slot = caller.granted.pop(0)
        if slot is None:
            self.come(caller)
            return
        assert caller.wanted is not None
        service = self.current(caller)
        if service is None:
            self.dispatcher.release(slot, now=self.now)
            self.come(caller)
            return
        placed = self.dispatcher.place_granted(
            service,
            slot,
            waited_for=caller.wanted,
            source=caller.source,
            token=caller.token,
            key=caller.key,
            excluded=caller.excluded,
            now=self.now,
        )
        if placed is None:
            self.come(caller)
            return
        caller.slot, caller.go, caller.wanted, caller.waiter = placed.slot, placed.route, None, None

    def wake_all(self, callers: Sequence[Caller], *, at_most: int = 100) -> None:
        """Let everybody go on until nobody has to; fails if that takes more than `at_most` turns."""
        for _ in range(at_most):
            ready = [caller for caller in callers if caller.granted]
            if not ready:
                return
            self.wake(ready[0])
        message = f"still not quiet after {at_most} turns"
        raise AssertionError(message)

    def fail(self, caller: Caller) -> None:
        """The server has failed the connection."""
        assert caller.slot is not None
        caller.excluded |= {caller.slot.server}
        self.give_back(caller)

    def give_back(self, caller: Caller) -> None:
        """The connection gives its place back."""
        assert caller.slot is not None
        self.dispatcher.release(caller.slot, now=self.now)
        caller.slot = None

    def confirm(self, caller: Caller) -> None:
        """The server has confirmed."""
        assert caller.slot is not None
        self.dispatcher.bindings.confirm(caller.slot, now=self.now)

    def open(self, caller: Caller) -> str:
        """The connection becomes a session; return its id."""
        assert caller.slot is not None
        self._sessions += 1
        session = f"s{self._sessions}"
        slot = caller.slot
        known = facts(session, slot.server.name, key=slot.key, source=caller.source)
        if isinstance(caller.token, int):
            known = msgspec.structs.replace(known, token=f"Cookie: msts={caller.token}", token_kind="number")
        self.dispatcher.open(slot, known, relay=1)
        caller.slot = None
        return session

    def login(self, key: Key | None = None, **brought: Any) -> str:
        """Lead a connection all the way to a session; return its id."""
        caller = self.come(key=key, **brought)
        self.confirm(caller)
        return self.open(caller)

    def close(self, session: str) -> None:
        """The session ends."""
        assert self.dispatcher.close(session, now=self.now) is not None

    # ---- questions ---------------------------------------------------------------------------------

    def binding(self, key: Key) -> Binding | None:
        """Return the key's binding now."""
        return self.dispatcher.bindings.of(SERVICE).get(key, now=self.now)

    def load(self, server: str) -> int:
        """Return the server's slots plus sessions."""
        return self.dispatcher.ledger.load(sid(server))


def policy(**said: Any) -> PersistencePolicy:
    """Return a persistence policy."""
    return PersistencePolicy(timeout_s=said.pop("timeout_s", TTL_S), **said)


def chosen(caller: Caller) -> str | None:
    """Return the name of the server that a connection goes to."""
    return caller.go.server.name if caller.go else None
