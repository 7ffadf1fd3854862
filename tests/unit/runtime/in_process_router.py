"""A router's parts without its processes: a dispatcher, what watches it, and what the operator may do."""

import io
import json
from collections.abc import Sequence
from typing import Any

import msgspec

from rdpbalancer.control.pacing import Pacer
from rdpbalancer.control.paging import Listing, Pager
from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import Farm, HealthPolicy, RealServer, VirtualService
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.ipc.relay_messages import SessionEnded, SessionState
from rdpbalancer.model import CloseReason, CloseSide, Endpoint, Health, Key, ServerId, SessionFacts
from rdpbalancer.runtime.operator import Operator
from rdpbalancer.runtime.server_monitor import ServerStatusManager
from rdpbalancer.runtime.session_tracker import SessionTracker
from rdpbalancer.runtime.views import Views
from rdpbalancer.stores.state import DurableState
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.telemetry.users import UserMasking
from tests.unit.core.farms import SERVICE, Dice, facts, real_server, server_status, sid, virtual_service

# When an operator has spoken (Unix time).
WALL = 1_750_000_000.0
UNCHECKED = HealthPolicy(type="none")


class InProcessRouter:
    """All but the sockets. Its clock stands until the test moves it; its log is kept."""

    def __init__(self, *services: VirtualService) -> None:
        self.log = io.StringIO()
        logs.configure(log_format="json", level="debug", process="router", stream=self.log)
        self.now = 1000.0
        self.state = DurableState()
        self.kicked: list[tuple[int, list[str], CloseReason]] = []
        self.written = 0
        self.events = Events()
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(
            open_store=lambda service: self.state.bindings(
                service.name, max_entries=service.persistence.max_entries
            ),
            rng=Dice(0.5),
        )
        self.admission = Admission(max_half_open=100)
        self.account = Account(self.metrics, UserMasking("plain", b""))
        self.keeper = SessionTracker(
            dispatcher=self.dispatcher,
            admission=self.admission,
            account=self.account,
            events=self.events,
            clock=self.clock,
        )
        self.watch = ServerStatusManager(
            dispatcher=self.dispatcher,
            metrics=self.metrics,
            events=self.events,
            clock=self.clock,
            kick=self._kick_server,
        )
        self.views = Views(
            self.dispatcher,
            clock=self.clock,
            checks_failed=self.watch.checks_failed,
            bound_names={},
            last_checks=self.watch.last_checks,
            totals=self.account.totals,
        )
        self.operator = Operator(
            dispatcher=self.dispatcher,
            watch=self.watch,
            views=self.views,
            events=self.events,
            overrides=self.state,
            kick=lambda relay, ids, reason: self.kicked.append((relay, list(ids), reason)),
            clock=self.clock,
            written=self._write,
            wall=lambda: WALL,
        )
        self._pager = Pager(Pacer())
        if services:
            self.apply(*services)

    def clock(self) -> float:
        """Return the time."""
        return self.now

    def _kick_server(self, server: ServerId, reason: CloseReason) -> int:
        return self.operator.kick_server(server, reason)

    async def _write(self) -> None:
        self.written += 1

    def apply(self, *services: VirtualService) -> None:
        """Take services into use, past the watch: no monitor is started. New servers are up."""
        known = set(self.dispatcher.servers.statuses)
        self.dispatcher.apply(Farm({service.name: service for service in services}), now=self.now)
        for server in self.dispatcher.servers.statuses.keys() - known:
            self.dispatcher.servers.set(server, server_status(Health.UP, changed_at=self.now), now=self.now)

    async def verb(self, name: str, **params: Any) -> Any:
        """Carry out a verb of the operator; return its answer as a client has it."""
        answer = await self.operator.verbs()[name](**params)
        if isinstance(answer, Listing):
            answer = await self._pager.page(answer)
        return msgspec.json.decode(msgspec.json.encode(answer))

    async def rows(self, name: str, **params: Any) -> list[dict[str, Any]]:
        """Return the rows of a list verb's first page."""
        answer = await self.verb(name, **params)
        rows: list[dict[str, Any]] = answer["rows"]
        return rows

    def servers(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return the servers' rows."""
        return [msgspec.to_builtins(row) for row in self.views.servers(service)]

    def services(self) -> list[dict[str, Any]]:
        """Return the services' rows."""
        return [msgspec.to_builtins(row) for row in self.views.services()]

    def session(
        self,
        session: str,
        server: str = "ts1",
        *,
        key: Key | None = None,
        relay: int = 7,
        source: str = "192.0.2.1",
        user: str | None = None,
        service: str = SERVICE,
    ) -> LiveSession:
        """Enter a session that a relay holds."""
        known = msgspec.structs.replace(
            facts(session, server, key=key, source=source), user=user, service=service
        )
        self.keeper.session_live(state_of(known), relay)
        live = self.dispatcher.ledger.get(session)
        assert live is not None
        return live

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log's lines of that event."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def happened(self) -> list[str]:
        """Return the names of the events so far."""
        return [event["event"] for event in self.events.recent()]


def state_of(known: SessionFacts, *, up: int = 0, down: int = 0, moves: int = 0) -> SessionState:
    """Return what a relay tells of a live session."""
    return SessionState(known.id, msgspec.msgpack.encode(known), up, down, moves)


def ended(known: SessionFacts, *, up: int = 0, down: int = 0, **said: Any) -> SessionEnded:
    """Return what a relay tells of a session's end."""
    return SessionEnded(
        known.id,
        msgspec.msgpack.encode(known),
        said.pop("reason", CloseReason.EOF),
        said.pop("side", CloseSide.CLIENT),
        up,
        down,
        said.pop("ended_at", 5.0),
    )


def local_server(name: str, port: int = 1, **configured: Any) -> RealServer:
    """Return a configured server on loopback."""
    configured.setdefault("health", UNCHECKED)
    return real_server(name, address=Endpoint("127.0.0.1", port), **configured)


def service_of(servers: Sequence[str | RealServer], **configured: Any) -> VirtualService:
    """Return a virtual service over these servers."""
    made = [local_server(server) if isinstance(server, str) else server for server in servers]
    return virtual_service(*made, **configured)


__all__ = ["InProcessRouter", "ended", "facts", "local_server", "service_of", "sid", "state_of"]
