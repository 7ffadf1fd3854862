"""A dispatcher over one service, with its clock in the test's hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rdpbalancer.core.dispatch import Dispatcher, Token
from rdpbalancer.core.farm import Farm, PersistencePolicy, RealServer, VirtualService
from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.persistence import Binding
from rdpbalancer.core.queue import Waiter
from rdpbalancer.core.route import Decision, Enqueue, Route
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Key, ServerId
from rdpbalancer.stores.sqlite import Database
from tests.unit.core.farms import SERVICE, Dice, facts, real_server, server_status, sid, virtual_service

TTL_S = 3600.0


@dataclass(eq=False)
class Caller:
    """One connection: what it brings, and what has become of it."""

    key: Key | None = None
    token: Token | None = None
    source: str = "192.0.2.1"
    tried: frozenset[ServerId] = frozenset()
    service: VirtualService | None = None
    lease: ServerSlot | None = None
    go: Route | None = None
    wanted: Enqueue | None = None
    waiter: Waiter | None = None
    ticket: int | None = None
    granted: list[ServerSlot | None] = field(default_factory=list)


class Scene:
    """One virtual service, all of whose servers are up, and the verbs of a connection's life."""

    def __init__(self, *servers: str | RealServer, **configured: Any) -> None:
        # Kept beside the dispatcher, as the state file is: a service that comes back finds its bindings.
        self.state = Database()
        self.dispatcher = Dispatcher(
            open_store=lambda service: self.state.bindings(
                service.name, max_entries=service.persistence.max_entries
            ),
            rng=Dice(0.5),
        )
        self.now = 0.0
        self._sessions = 0
        self.configure(*servers, **configured)

    # ---- the farm ----------------------------------------------------------------------------------

    def configure(self, *servers: str | RealServer, **configured: Any) -> VirtualService:
        """Apply a farm of one service; servers that are new come up at once."""
        made = [real_server(server) if isinstance(server, str) else server for server in servers]
        known = set(self.dispatcher.statuses)
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
        self.dispatcher.set_status(sid(server), status or server_status(**known), now=self.now)

    # ---- a connection's way ------------------------------------------------------------------------

    def decide(self, caller: Caller) -> Decision:
        """Ask where a connection goes."""
        if caller.service is None:
            caller.service = self.service
        return self.dispatcher.decide(
            caller.service,
            source=caller.source,
            token=caller.token,
            key=caller.key,
            tried=caller.tried,
            now=self.now,
        )[0]

    def come(self, caller: Caller | None = None, **brought: Any) -> Caller:
        """Decide, and take the place or join the queue. `go` and `wanted` stay None: nobody can take it."""
        caller = caller or Caller(**brought)
        caller.go = caller.wanted = caller.waiter = None
        match self.decide(caller):
            case Route() as go:
                assert caller.service is not None
                caller.go = go
                caller.lease = self.dispatcher.take(
                    caller.service, go, caller.key, source=caller.source, token=caller.token, now=self.now
                )
            case Enqueue() as wanted:
                self.join(caller, wanted)
            case _:
                pass
        return caller

    def join(self, caller: Caller, wanted: Enqueue) -> None:
        """Join the queue."""
        caller.wanted = wanted
        caller.waiter = self.dispatcher.wait(
            SERVICE, wanted.server, caller.granted.append, ticket=caller.ticket, refused=caller.tried
        )
        caller.ticket = caller.waiter.ticket

    def wake(self, caller: Caller) -> None:
        """Let a connection that was granted a place, or told to look again, go on."""
        lease = caller.granted.pop(0)
        if lease is None:
            self.come(caller)
            return
        assert caller.service is not None
        assert caller.wanted is not None
        go = self.dispatcher.settle(
            caller.service,
            lease,
            wanted=caller.wanted,
            token=caller.token,
            key=caller.key,
            tried=caller.tried,
            source=caller.source,
            now=self.now,
        )
        if go is None:
            self.come(caller)
            return
        caller.lease, caller.go, caller.wanted, caller.waiter = lease, go, None, None

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
        assert caller.lease is not None
        caller.tried |= {caller.lease.server}
        self.give_back(caller)

    def give_back(self, caller: Caller) -> None:
        """The connection gives its place back."""
        assert caller.lease is not None
        self.dispatcher.give_back(caller.lease, now=self.now)
        caller.lease = None

    def confirm(self, caller: Caller) -> None:
        """The server has confirmed."""
        assert caller.lease is not None
        self.dispatcher.confirm(caller.lease, now=self.now)

    def open(self, caller: Caller) -> str:
        """The connection becomes a session; return its id."""
        assert caller.lease is not None
        self._sessions += 1
        session = f"s{self._sessions}"
        lease = caller.lease
        known = facts(session, lease.server.name, key=lease.key, source=caller.source)
        if isinstance(caller.token, int):
            known = msgspec.structs.replace(known, token=f"Cookie: msts={caller.token}", token_kind="number")
        self.dispatcher.open(lease, known, relay=1)
        caller.lease = None
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
        return self.dispatcher.bindings(SERVICE).get(key, now=self.now)

    def load(self, server: str) -> int:
        """Return the server's leases plus sessions."""
        return self.dispatcher.ledger.load(sid(server))


def policy(**said: Any) -> PersistencePolicy:
    """Return a persistence policy."""
    return PersistencePolicy(timeout_s=said.pop("timeout_s", TTL_S), **said)


def chosen(caller: Caller) -> str | None:
    """Return the name of the server that a connection goes to."""
    return caller.go.server.name if caller.go else None
