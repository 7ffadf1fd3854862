"""What the control socket shows: the state of the farm as rows, ready for JSON."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from rdpbalancer.control.rows import (
    AgentSummary,
    BindingRow,
    Check,
    OperatorOverride,
    QueueRow,
    ServerRow,
    ServerState,
    ServiceRow,
    SessionRow,
)
from rdpbalancer.core import status as st
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import RealServer, VirtualService
from rdpbalancer.core.ledger import LiveSession
from rdpbalancer.core.queue import Waiter
from rdpbalancer.core.status import Override, ServerStatus
from rdpbalancer.health.probe import CheckResult
from rdpbalancer.model import Health, Key, ServerId
from rdpbalancer.telemetry.account import Totals
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
        last_checks: Mapping[ServerId, tuple[CheckResult, float]],
        totals: Callable[[ServerId], Totals],
    ) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._checks_failed = checks_failed
        self._bound_names = bound_names
        self._last_checks = last_checks
        self._totals = totals
        # What operators last said of each server, by whom and why. The operator's verbs keep it.
        self._words: Mapping[ServerId, Override] = {}

    def take_words(self, words: Mapping[ServerId, Override]) -> None:
        """Show these words of operators from now on."""
        self._words = words

    def services(self) -> list[ServiceRow]:
        """Return a row for each virtual service."""
        return [self._service(service) for service in self._dispatcher.farm.services.values()]

    def usable(self) -> dict[str, int]:
        """Return for each virtual service how many real servers take new users."""
        statuses = self._dispatcher.servers.statuses
        return {
            service.name: sum(st.takes_new(server, statuses[server.id]) for server in service.servers)
            for service in self._dispatcher.farm.services.values()
        }

    def servers(self, service: str | None = None) -> Iterator[ServerRow]:
        """Yield a row for each real server, of one service or of all. The farm may be changed meanwhile."""
        services = list(self._dispatcher.farm.services.values())
        for of in services:
            if service in (None, of.name):
                for server in of.servers:
                    if server.id in self._dispatcher.servers.statuses:
                        yield self._server(of, server)

    def states(self, servers: Iterable[ServerId]) -> list[ServerState]:
        """Return what is wanted of servers and what comes of it, for an operator who has just changed it."""
        rows = []
        for id_ in servers:
            server, status = self._dispatcher.farm.server(id_), self._dispatcher.servers.statuses.get(id_)
            if status is None:  # removed by a reload while it was written down
                continue
            watched = server is not None and server.agent is not None
            rows.append(
                ServerState(
                    server=str(id_),
                    state=st.wanted(status).value,
                    operator=status.intent.value,
                    agent=status.agent.intent.value if watched else None,
                    health=health_of(status).value,
                    sessions=self._dispatcher.ledger.sessions_on(id_),
                )
            )
        return rows

    def session(self, session_id: str) -> SessionRow | None:
        """Return the row of a live session."""
        session = self._dispatcher.ledger.get(session_id)
        return None if session is None else _session(session)

    def binding(self, service: str, key: Key) -> BindingRow | None:
        """Return the row of a key's binding."""
        now = self._clock()
        entry = self._dispatcher.bindings.of(service).get(key, now=now)
        if entry is None:
            return None
        return BindingRow(
            service=service,
            method=entry.key.method.value,
            key=entry.key.value,
            server=entry.server,
            expires_in=None if entry.expires_at is None else round(entry.expires_at - now, 1),
            sessions=self._dispatcher.ledger.live_of(service, entry.key),
            confirmed=entry.confirmed,
        )

    def waiter(self, service: str, waiter: Waiter) -> QueueRow | None:
        """Return the row of somebody in the queue."""
        if waiter.client is None:
            return None
        return QueueRow(
            service=service,
            server=waiter.server.name if waiter.server else None,
            client=waiter.client.address,
            user=waiter.client.user,
            since=round(time.time() - (self._clock() - waiter.client.since), 3),
        )

    def snapshot(self, *, relays: Mapping[int, int], half_open: int) -> StateSnapshot:
        """Return the gauges for one scrape."""
        services = self._dispatcher.farm.services
        return StateSnapshot(
            servers=tuple(
                self._gauges(service, server) for service in services.values() for server in service.servers
            ),
            queue_lengths={name: self._dispatcher.queues.length(name) for name in services},
            entries={
                (name, method.value): count
                for name in services
                for method, count in self._dispatcher.bindings.of(name).counts().items()
            },
            evictions={name: self._dispatcher.bindings.of(name).evictions for name in services},
            relays=dict(relays),
            half_open=half_open,
        )

    def _service(self, service: VirtualService) -> ServiceRow:
        statuses = [self._dispatcher.servers.statuses[server.id] for server in service.servers]
        usable = sum(
            st.takes_new(server, status) for server, status in zip(service.servers, statuses, strict=True)
        )
        return ServiceRow(
            name=service.name,
            listen=[self._bound_names.get(f"{service.name} {at}", str(at)) for at in service.listen],
            mode=service.mode.value,
            scheduler=service.scheduler,
            sessions=self._dispatcher.ledger.sessions_of(service.name),
            queue=self._dispatcher.queues.length(service.name),
            servers_usable=usable,
            servers_total=len(service.servers),
        )

    def _server(self, service: VirtualService, server: RealServer) -> ServerRow:
        now = self._clock()
        status = self._dispatcher.servers.statuses[server.id]
        weight = st.effective_weight(server, status, slow_start_s=service.slow_start_s, now=now)
        totals = self._totals(server.id)
        return ServerRow(
            service=service.name,
            name=server.id.name,
            address=str(server.address),
            state=st.wanted(status).value,
            strict=status.strict,
            health=health_of(status).value,
            weight=server.weight if status.runtime_weight is None else status.runtime_weight,
            effective_weight=round(weight, 2),
            sessions=self._dispatcher.ledger.sessions_on(server.id),
            max_connections=st.capacity(server, status),
            min_connections=server.min_connections,
            emptying=self._dispatcher.servers.is_emptying(server.id),
            queue=self._dispatcher.queues.length(service.name, server.id),
            backup=server.backup,
            agent=_agent(server, status, now),
            operator=self._word(server.id, status),
            check=self._check(server.id, now),
            checks_failed=self._checks_failed.get(server.id, 0),
            sessions_total=totals.sessions,
            bytes_up=totals.bytes_up,
            bytes_down=totals.bytes_down,
            last_change=round(time.time() - (now - status.changed_at), 3),
            reason=st.why(status),
            resolved=list(status.addresses),
            token_addresses=list(map(str, server.token_addresses)),
        )

    def _word(self, server: ServerId, status: ServerStatus) -> OperatorOverride:
        said = self._words.get(server, Override())
        return OperatorOverride(
            state=status.intent.value,
            strict=status.strict,
            weight=status.runtime_weight,
            reason=said.reason,
            actor=said.actor,
            since=said.since,
        )

    def _check(self, server: ServerId, now: float) -> Check | None:
        if server not in self._last_checks:
            return None
        result, ended_at = self._last_checks[server]
        return Check(
            detail=result.detail,
            ms=round(result.duration_s * 1000, 1),
            ago=round(max(0.0, now - ended_at), 1),
        )

    def _gauges(self, service: VirtualService, server: RealServer) -> ServerGauges:
        status = self._dispatcher.servers.statuses[server.id]
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


def _agent(server: RealServer, status: ServerStatus, now: float) -> AgentSummary | None:
    if server.agent is None:
        return None
    agent = status.agent
    return AgentSummary(
        percent=agent.percent if agent.weight is None else None,
        weight=agent.weight,
        max_connections=agent.max_connections,
        state=agent.intent.value,
        health=agent.health.value,
        reason=agent.reason,
        heard_ago=None if agent.heard_at is None else round(now - agent.heard_at, 1),
        stale=agent.stale,
        failures=agent.failures,
    )


def _session(session: LiveSession) -> SessionRow:
    facts = session.facts
    return SessionRow(
        id=facts.id,
        service=facts.service,
        server=facts.server,
        client=facts.client,
        user=facts.user,
        method=facts.method.value if facts.method else None,
        key=facts.key,
        reason=facts.reason.value,
        started=facts.started_at,
        relay=session.relay,
        bytes_up=session.bytes_up,
        bytes_down=session.bytes_down,
        state="established",
    )
