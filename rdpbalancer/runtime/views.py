"""What the control socket shows: the state of the farm as plain values, ready for JSON."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rdpbalancer.core import status as st
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import RealServer, VirtualService
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.core.persist import Binding
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Health, ServerId
from rdpbalancer.runtime import select
from rdpbalancer.telemetry.metrics import ServerGauges, StateSnapshot


class Views:
    """Reads the dispatcher's state. Changes nothing."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        clock: Callable[[], float],
        checks_failed: Mapping[ServerId, int],
        bound_names: Mapping[str, str],
    ) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._checks_failed = checks_failed
        self._bound_names = bound_names

    def services(self) -> list[dict[str, Any]]:
        """Return a row for each virtual service."""
        return [self._service(service) for service in self._dispatcher.farm.services.values()]

    def usable(self) -> dict[str, int]:
        """Return for each virtual service how many real servers take new users."""
        statuses = self._dispatcher.statuses
        return {
            service.name: sum(st.takes_new(server, statuses[server.id]) for server in service.servers)
            for service in self._dispatcher.farm.services.values()
        }

    def servers(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return a row for each real server, of one service or of all."""
        services = self._dispatcher.farm.services.values()
        return [
            self._server(of, server) for of in services if service in (None, of.name) for server in of.servers
        ]

    def states(self, servers: Iterable[ServerId]) -> list[dict[str, Any]]:
        """Return what is wanted of servers and what comes of it, for an operator who has just changed it."""
        rows = []
        for id_ in servers:
            server, status = self._dispatcher.farm.server(id_), self._dispatcher.statuses[id_]
            watched = server is not None and server.agent is not None
            rows.append(
                {
                    "server": str(id_),
                    "state": st.wanted(status).value,
                    "operator": status.intent.value,
                    "agent": status.agent.intent.value if watched else None,
                    "health": health_of(status).value,
                    "sessions": self._dispatcher.ledger.sessions_on(id_),
                }
            )
        return rows

    def sessions(
        self,
        service: str | None = None,
        server: str | None = None,
        user: str | None = None,
        source: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a row for each live session, the oldest first. Raises ConfigurationError: bad `source`."""
        matches = select.sessions(service=service, server=server, user=user, source=source)
        rows = [_session(session) for session in self._dispatcher.ledger if matches(session)]
        return sorted(rows, key=lambda row: (row["started"], row["id"]))

    def persistence(
        self,
        service: str | None = None,
        server: str | None = None,
        key: str | None = None,
        method: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return a row for each binding; `key` is a part of it, in any case."""
        now = self._clock()
        part = None if key is None else key.lower()
        rows = [
            self._binding(name, entry, now)
            for name in self._dispatcher.farm.services
            if service in (None, name)
            for entry in self._dispatcher.bindings(name).entries(now=now)
            if select.names_server(ServerId(name, entry.server), server)
            and method in (None, entry.key.method)
            and (part is None or part in entry.key.value.lower())
        ]
        return sorted(rows, key=lambda row: (row["service"], row["method"], row["key"]))

    def queue(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return a row for everybody who waits for a place, by service, the first first."""
        behind_s = time.time() - self._clock()
        return [
            {
                "service": name,
                "server": waiter.server.name if waiter.server else None,
                "client": waiter.client.address,
                "user": waiter.client.user,
                "since": round(waiter.client.since + behind_s, 3),
            }
            for name in self._dispatcher.farm.services
            if service in (None, name)
            for waiter in self._dispatcher.queue(name)
            if waiter.client is not None
        ]

    def _binding(self, service: str, entry: Binding, now: float) -> dict[str, Any]:
        return {
            "service": service,
            "method": entry.key.method.value,
            "key": entry.key.value,
            "server": entry.server,
            "expires_in": None if entry.expires_at is None else round(entry.expires_at - now, 1),
            "sessions": self._dispatcher.ledger.live_of(service, entry.key),
            "confirmed": entry.confirmed,
        }

    def snapshot(self, *, relays: Mapping[int, int], half_open: int) -> StateSnapshot:
        """Return the gauges for one scrape."""
        services = self._dispatcher.farm.services
        return StateSnapshot(
            servers=tuple(
                self._gauges(service, server) for service in services.values() for server in service.servers
            ),
            queue_lengths={name: self._dispatcher.queue_length(name) for name in services},
            entries={
                (name, method.value): count
                for name in services
                for method, count in self._dispatcher.bindings(name).counts().items()
            },
            evictions={name: self._dispatcher.bindings(name).evictions for name in services},
            relays=dict(relays),
            half_open=half_open,
        )

    def _service(self, service: VirtualService) -> dict[str, Any]:
        statuses = [self._dispatcher.statuses[server.id] for server in service.servers]
        usable = sum(
            st.takes_new(server, status) for server, status in zip(service.servers, statuses, strict=True)
        )
        return {
            "name": service.name,
            "listen": [self._bound_names.get(f"{service.name} {at}", str(at)) for at in service.listen],
            "mode": service.mode.value,
            "scheduler": service.scheduler,
            "sessions": self._dispatcher.ledger.sessions_of(service.name),
            "queue": self._dispatcher.queue_length(service.name),
            "servers_usable": usable,
            "servers_total": len(service.servers),
        }

    def _server(self, service: VirtualService, server: RealServer) -> dict[str, Any]:
        now = self._clock()
        status = self._dispatcher.statuses[server.id]
        weight = st.effective_weight(server, status, slow_start_s=service.slow_start_s, now=now)
        return {
            "service": service.name,
            "name": server.id.name,
            "address": str(server.address),
            "state": st.wanted(status).value,
            "strict": status.strict,
            "health": health_of(status).value,
            "weight": server.weight if status.runtime_weight is None else status.runtime_weight,
            "effective_weight": round(weight, 2),
            "sessions": self._dispatcher.ledger.sessions_on(server.id),
            "max_connections": st.capacity(server, status),
            "queue": self._dispatcher.queue_length(service.name, server.id),
            "backup": server.backup,
            "agent": _agent(server, status, now),
            "checks_failed": self._checks_failed.get(server.id, 0),
            "last_change": round(time.time() - (now - status.changed_at), 3),
            "reason": st.why(status),
        }

    def _gauges(self, service: VirtualService, server: RealServer) -> ServerGauges:
        status = self._dispatcher.statuses[server.id]
        weight = st.effective_weight(server, status, slow_start_s=service.slow_start_s, now=self._clock())
        return ServerGauges(
            id=server.id,
            up=st.is_up(status),
            state=st.wanted(status),
            sessions=self._dispatcher.ledger.sessions_on(server.id),
            weight=server.weight if status.runtime_weight is None else status.runtime_weight,
            effective_weight=weight,
            agent_percent=_agent_percent(server, status),
        )


def health_of(status: ServerStatus) -> Health:
    """Return health as operators see it: what the checks find, unless the agent says down."""
    if status.health.health is Health.UP and status.agent.health is Health.DOWN:
        return Health.DOWN
    return status.health.health


def _agent_percent(server: RealServer, status: ServerStatus) -> int | None:
    """Return what the agent asks for; None: there is none, or it has not been heard (lately)."""
    agent = status.agent
    return agent.percent if server.agent and agent.heard_at is not None and not agent.stale else None


def _agent(server: RealServer, status: ServerStatus, now: float) -> dict[str, Any] | None:
    if server.agent is None:
        return None
    agent = status.agent
    return {
        "percent": agent.percent if agent.weight is None else None,
        "weight": agent.weight,
        "max_connections": agent.max_connections,
        "state": agent.intent.value,
        "health": agent.health.value,
        "reason": agent.reason,
        "heard_ago": None if agent.heard_at is None else round(now - agent.heard_at, 1),
        "stale": agent.stale,
        "failures": agent.failures,
    }


def _session(session: LiveSession) -> dict[str, Any]:
    facts = session.facts
    return {
        "id": facts.id,
        "service": facts.service,
        "server": facts.server,
        "client": facts.client,
        "user": facts.user,
        "method": facts.method.value if facts.method else None,
        "key": facts.key,
        "reason": facts.reason.value,
        "started": facts.started_at,
        "relay": session.relay,
        "bytes_up": session.bytes_up,
        "bytes_down": session.bytes_down,
        "state": "established",
    }
