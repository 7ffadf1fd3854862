"""Accounting: what is written down of every connection, once, at its end."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Counter

from rdpbalancer.errors import RdpBalancerError
from rdpbalancer.model import CloseReason, CloseSide, Method, Reason, ServerId, SessionFacts, SessionRecord
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.log_output import Line
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.telemetry.sums import WINDOW_S, Sum, Sums
from rdpbalancer.telemetry.users import UserMasking

# Failures of one kind in one window that are told one by one. A farm that fails at eight o'clock tells of its
# first users by name; what a flood makes fail is a sum.
_FAILURES_TOLD: Final = 20


class SessionClosed(Line, kw_only=True):
    """The log line of a session, in the order of docs/reference/logs.md."""

    event: str = "session_closed"
    session: str
    service: str
    client: str
    user: str | None
    method: Method | None
    reason: Reason
    server: str
    attempts: int
    token: str | None
    token_kind: str | None
    requested_protocols: int | None
    selected_protocol: int | None
    negotiation_failure: int | None
    correlation_id: str | None
    preconnection: str | None
    handshake_ms: float
    queue_ms: float
    connect_ms: float
    duration_s: float
    bytes_up: int
    bytes_down: int
    close_reason: CloseReason
    close_side: CloseSide
    relay: int


@dataclass(slots=True)
class Totals:
    """What a server has had since this process began."""

    sessions: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class _ServerMetrics:
    """One server's own children of the metrics that every session touches.

    Looking a child up by its labels takes a lock and a microsecond or two; eight times a session, that is
    seen in the cost of a connection.
    """

    def __init__(self, metrics: Metrics, server: ServerId) -> None:
        self._metrics = metrics
        self._server = server
        self.totals = Totals()
        self.opened = metrics.sessions.labels(*server)
        self.connect_duration = metrics.connect_duration.labels(*server)
        self.duration = metrics.session_duration.labels(*server)
        self.bytes_up = metrics.bytes_moved.labels(*server, "up")
        self.bytes_down = metrics.bytes_moved.labels(*server, "down")
        self.handshake_ok = metrics.handshakes.labels(server.service, "ok")
        self._decisions: dict[Reason, Counter] = {}
        self._closed: dict[CloseReason, Counter] = {}

    def decided(self, reason: Reason) -> Counter:
        """Return the counter of sessions that came for this reason."""
        if reason not in self._decisions:
            labels = (self._server.service, reason.value)
            self._decisions[reason] = self._metrics.routing_decisions.labels(*labels)
        return self._decisions[reason]

    def closed(self, reason: CloseReason) -> Counter:
        """Return the counter of sessions that ended so."""
        if reason not in self._closed:
            self._closed[reason] = self._metrics.sessions_closed.labels(*self._server, reason.value)
        return self._closed[reason]


class Account:
    """Turns records into metrics and log lines. `clock` counts seconds; `tell_sums` is to be called often."""

    def __init__(
        self, metrics: Metrics, users: UserMasking, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self.users = users
        self._log = logs.get()
        self._rejections = Sums(at_once=0, clock=clock)
        self._failures = Sums(at_once=_FAILURES_TOLD, clock=clock)
        self._server_failures = Sums(at_once=_FAILURES_TOLD, clock=clock)
        self._connections: dict[str, Counter] = {}
        self._servers: dict[tuple[str, str], _ServerMetrics] = {}

    def _of(self, facts: SessionFacts) -> _ServerMetrics:
        found = self._servers.get((facts.service, facts.server))
        if found is None:
            found = self._servers[facts.server_id] = _ServerMetrics(self._metrics, facts.server_id)
        return found

    def keep_only(self, services: Collection[str], servers: Collection[tuple[str, str]]) -> None:
        """Forget every other service and server, in the metrics, too."""
        for service in self._connections.keys() - set(services):
            del self._connections[service]
        for server in self._servers.keys() - set(servers):
            del self._servers[server]
        self._metrics.keep_only(services, servers)

    def connected(self, service: str) -> None:
        """A client has connected, and may yet be turned away."""
        connections = self._connections.get(service)
        if connections is None:
            connections = self._connections[service] = self._metrics.connections.labels(service)
        connections.inc()

    def opened(self, facts: SessionFacts) -> None:
        """A session has been handed to its relay."""
        server = self._of(facts)
        server.handshake_ok.inc()
        server.opened.inc()
        server.totals.sessions += 1
        server.decided(facts.reason).inc()
        server.connect_duration.observe(facts.connect_ms / 1000)
        if facts.queue_ms:
            self._metrics.queue_wait.labels(facts.service).observe(facts.queue_ms / 1000)
        if facts.negotiation_failure is not None:
            code = str(facts.negotiation_failure)
            self._metrics.negotiation_failures.labels(facts.service, facts.server, code).inc()
        if logs.wanted("debug"):
            self._log.debug("session_opened", session=facts.id, service=facts.service, server=facts.server)

    def moved(self, facts: SessionFacts, up: int, down: int) -> None:
        """Bytes have moved since the last report."""
        server = self._of(facts)
        if up:
            server.bytes_up.inc(up)
            server.totals.bytes_up += up
        if down:
            server.bytes_down.inc(down)
            server.totals.bytes_down += down

    def totals(self, server: ServerId) -> Totals:
        """Return what a server has had since this process began."""
        found = self._servers.get(server)
        return found.totals if found is not None else Totals()

    def closed(self, record: SessionRecord) -> None:
        """A session has ended."""
        server = self._of(record.facts)
        server.closed(record.end.close_reason).inc()
        server.duration.observe(record.duration_s)
        logs.write(self.line(record))

    def failed(self, service: str, error: RdpBalancerError, *, client: str, user: str | None) -> None:
        """A connection did not become a session."""
        self._metrics.handshakes.labels(service, "failed").inc()
        self._metrics.handshake_failures.labels(service, error.code).inc()
        # Scanners fail all day long; a known user who failed is likely to call support.
        notable = user is not None or error.try_another_server
        if notable and not self._failures.tells((service, error.code), _host(client)):
            return
        level = self._log.warning if notable else self._log.debug
        level(
            "connection_failed",
            service=service,
            client=client,
            user=self.users(user),
            reason=error.code,
            fault=error.fault.value,
            detail=str(error),
        )

    def rejected(self, service: str, reason: str, *, source: str) -> None:
        """A client was turned away at the door."""
        self._metrics.rejected.labels(service, reason).inc()
        self._rejections.tells((service, reason), source)

    def server_failed(
        self, server: ServerId, error: RdpBalancerError, *, source: str, user: str | None
    ) -> None:
        """A server has not taken a connection."""
        self._metrics.connect_failures.labels(*server, error.code).inc()
        if self._server_failures.tells((*server, error.code), source):
            self._log.warning(
                "server_failed",
                service=server.service,
                server=server.name,
                reason=error.code,
                detail=str(error),
                user=self.users(user),
            )

    def tell_sums(self, *, at_all: bool = False) -> None:
        """Log what was not told one by one, once its window is over, or (`at_all`) now."""
        for each in self._rejections.due(at_all=at_all):
            self._log.warning("connections_rejected", **_summed_up(each))
        for each in self._failures.due(at_all=at_all):
            self._log.warning("connections_failed", **_summed_up(each))
        for each in self._server_failures.due(at_all=at_all):
            service, server, reason = each.about
            self._log.warning(
                "server_failures",
                service=service,
                server=server,
                reason=reason,
                count=each.count,
                within_s=WINDOW_S,
            )

    def line(self, record: SessionRecord) -> SessionClosed:
        """Return the record as its log line."""
        facts, end = record.facts, record.end
        return SessionClosed(
            session=facts.id,
            service=facts.service,
            client=facts.client,
            user=self.users(facts.user),
            method=facts.method,
            reason=facts.reason,
            server=facts.server,
            attempts=facts.attempts,
            token=facts.token,
            token_kind=facts.token_kind,
            requested_protocols=facts.requested_protocols,
            selected_protocol=facts.selected_protocol,
            negotiation_failure=facts.negotiation_failure,
            correlation_id=facts.correlation_id,
            preconnection=facts.preconnection,
            handshake_ms=round(facts.handshake_ms, 3),
            queue_ms=round(facts.queue_ms, 3),
            connect_ms=round(facts.connect_ms, 3),
            duration_s=round(record.duration_s, 3),
            bytes_up=end.bytes_up,
            bytes_down=end.bytes_down,
            close_reason=end.close_reason,
            close_side=end.close_side,
            relay=record.relay,
        )


def _host(client: str) -> str:
    """Return the address of `ip:port`."""
    return client.rpartition(":")[0]


def _summed_up(told: Sum) -> dict[str, Any]:
    """Return the fields of a sum about a service's connections and one reason."""
    service, reason = told.about
    return {
        "service": service,
        "reason": reason,
        "count": told.count,
        "sources": told.sources,
        "most_from": told.most_from,
        "within_s": WINDOW_S,
    }
