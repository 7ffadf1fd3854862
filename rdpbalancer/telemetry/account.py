"""Accounting: what is written down of every connection, once, at its end."""

from rdpbalancer.errors import RdpBalancerError
from rdpbalancer.model import SessionFacts, SessionRecord
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.logs import UserNames
from rdpbalancer.telemetry.metrics import Metrics


class Account:
    """Turns records into metrics and log lines."""

    def __init__(self, metrics: Metrics, users: UserNames) -> None:
        self._metrics = metrics
        self.users = users
        self._log = logs.get()

    def opened(self, facts: SessionFacts) -> None:
        """A session has been handed to its relay."""
        self._metrics.handshakes.labels(facts.service, "ok").inc()
        self._metrics.sessions.labels(facts.service, facts.server).inc()
        self._metrics.routing_decisions.labels(facts.service, facts.reason.value).inc()
        self._metrics.connect_duration.labels(facts.service, facts.server).observe(facts.connect_ms / 1000)
        if facts.queue_ms:
            self._metrics.queue_wait.labels(facts.service).observe(facts.queue_ms / 1000)
        if facts.negotiation_failure is not None:
            code = str(facts.negotiation_failure)
            self._metrics.negotiation_failures.labels(facts.service, facts.server, code).inc()
        self._log.debug("session_opened", session=facts.id, service=facts.service, server=facts.server)

    def moved(self, facts: SessionFacts, up: int, down: int) -> None:
        """Bytes have moved since the last report."""
        if up:
            self._metrics.bytes_moved.labels(facts.service, facts.server, "up").inc(up)
        if down:
            self._metrics.bytes_moved.labels(facts.service, facts.server, "down").inc(down)

    def closed(self, record: SessionRecord) -> None:
        """A session has ended."""
        facts, end = record.facts, record.end
        reason = end.close_reason.value
        self._metrics.sessions_closed.labels(facts.service, facts.server, reason).inc()
        self._metrics.session_duration.labels(facts.service, facts.server).observe(record.duration_s)
        self._log.info("session_closed", **self.fields(record))

    def failed(self, service: str, error: RdpBalancerError, *, client: str, user: str | None) -> None:
        """A connection did not become a session."""
        self._metrics.handshakes.labels(service, "failed").inc()
        self._metrics.handshake_failures.labels(service, error.code).inc()
        # Scanners fail all day long; a user who is known by name and failed is somebody on the phone.
        level = self._log.warning if user is not None or error.try_another_server else self._log.debug
        level(
            "connection_failed",
            service=service,
            client=client,
            user=self.users(user),
            reason=error.code,
            fault=error.fault.value,
            detail=str(error),
        )

    def fields(self, record: SessionRecord) -> dict[str, object]:
        """Return the record as the fields of its log line (the contract of `session_closed`)."""
        facts, end = record.facts, record.end
        return {
            "session": facts.id,
            "service": facts.service,
            "client": facts.client,
            "user": self.users(facts.user),
            "method": facts.method.value if facts.method else None,
            "reason": facts.reason.value,
            "server": facts.server,
            "attempts": facts.attempts,
            "token": facts.token,
            "requested_protocols": facts.requested_protocols,
            "selected_protocol": facts.selected_protocol,
            "negotiation_failure": facts.negotiation_failure,
            "correlation_id": facts.correlation_id,
            "preconnection": facts.preconnection,
            "handshake_ms": round(facts.handshake_ms, 3),
            "queue_ms": round(facts.queue_ms, 3),
            "connect_ms": round(facts.connect_ms, 3),
            "duration_s": round(record.duration_s, 3),
            "bytes_up": end.bytes_up,
            "bytes_down": end.bytes_down,
            "close_reason": end.close_reason.value,
            "close_side": end.close_side.value,
            "relay": record.relay,
        }
