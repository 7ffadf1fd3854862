"""Prometheus metrics. Labels are services, servers and fixed words; never a user or an address.

Counters are kept here; everything that can be read off the state (sessions, loads, weights, queues) is read
at scrape time, so that the hot path pays nothing for it.
"""

import platform
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rdpbalancer import __version__
from rdpbalancer.core.admission import Refusal
from rdpbalancer.core.farm import Farm
from rdpbalancer.model import CloseReason, Intent, ServerId

_PREFIX = "rdpbalancer"
_SERVER = ("service", "server")

# A login that works takes milliseconds; 10 s is the default wait for a server's Connection Confirm.
_CONNECT_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a mistyped password to a working day.
_SESSION_BUCKETS_S = (1, 10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200)
_QUEUE_BUCKETS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
_LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

# Failures that somebody has to do something about: an alert watches them, and must see the first one.
_FAILURES_WATCHED = (
    "all-down",
    "all-draining-or-halted",
    "all-failed",
    "queue-timeout",
    "no-relay",
    "no-descriptor",
    "no-memory",
    "internal",
)


class Metrics:
    """Every counter and histogram, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a `_created` series beside every counter, which nobody reads
        self.registry = CollectorRegistry()
        self._of_services: list[tuple[Counter | Histogram, tuple[str, ...]]] = []
        self.connections = self._counter("connections", "Connections accepted", ("service",))
        self.rejected = self._counter(
            "rejected", "Connections turned away before a byte was read", ("service", "reason")
        )
        self.handshakes = self._counter("handshakes", "Connections by outcome", ("service", "result"))
        self.handshake_failures = self._counter(
            "handshake_failures", "Connections that did not become sessions", ("service", "reason")
        )
        self.sessions = self._counter("sessions", "Sessions handed to a relay", _SERVER)
        self.sessions_closed = self._counter("sessions_closed", "Sessions ended", (*_SERVER, "reason"))
        self.routing_decisions = self._counter(
            "routing_decisions", "Why sessions went to their server", ("service", "reason")
        )
        self.ambiguous_cookies = self._counter(
            "persistence_ambiguous_cookies", "Cookies that may have lost their user part", ("service",)
        )
        self.collisions = self._counter(
            "persistence_collisions", "Cookie keys used from more sources than a person has", ("service",)
        )
        self.address_collisions = self._counter(
            "persistence_address_collisions",
            "Address keys with more sessions at once than a person has",
            ("service",),
        )
        self.shares_exceeded = self._counter(
            "persistence_share_exceeded",
            "Bindings not made because one source fills the table",
            ("service",),
        )
        self.tokens_missed = self._counter(
            "routing_tokens_missed", "Routing tokens whose server is unknown or cannot be used", ("service",)
        )
        self.tokens_searched = self._counter(
            "routing_tokens_searched",
            "Servers that closed on a routing token they had not made; the next one was asked",
            ("service",),
        )
        self.connect_failures = self._counter(
            "server_connect_failures", "Dials and confirms that failed", (*_SERVER, "reason")
        )
        self.redispatches = self._counter(
            "server_redispatches", "Connections that left this server for another", _SERVER
        )
        self.negotiation_failures = self._counter(
            "server_negotiation_failures", "RDP_NEG_FAILURE answers passed on", (*_SERVER, "code")
        )
        self.health_checks = self._counter("health_checks", "Health checks", (*_SERVER, "result"))
        self.agent_failures = self._counter("agent_failures", "Agent checks without an answer", _SERVER)
        self.agent_ignored_words = self._counter(
            "agent_ignored_words", "Words of the agent that are not of the grammar", _SERVER
        )
        self.accept_pauses = self._counter(
            "accept_pauses", "Times accepting paused for want of descriptors or memory", ("service",)
        )
        self.store_failures = self._counter("store_failures", "Writes of the durable copy that failed", ())
        self.log_lines_lost = self._counter("log_lines_lost", "Lines of the log that nobody could write", ())
        self.bytes_moved = self._counter("bytes", "Bytes moved", ("service", "server", "direction"))
        self.session_duration = self._histogram(
            "session_duration_seconds", "Length of sessions", _SERVER, _SESSION_BUCKETS_S
        )
        self.connect_duration = self._histogram(
            "server_connect_duration_seconds",
            "From dialling a server to its Connection Confirm",
            _SERVER,
            _CONNECT_BUCKETS_S,
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "Time spent in the queue", ("service",), _QUEUE_BUCKETS_S
        )
        self.loop_lag = self._histogram(
            "event_loop_lag_seconds", "How late the router's event loop runs", (), _LAG_BUCKETS_S
        )
        self.reload_successful = self._gauge(
            "config_last_reload_successful", "Whether the last reload worked"
        )
        self.reload_timestamp = self._gauge(
            "config_last_reload_timestamp_seconds", "When the configuration in use was loaded"
        )
        build = Gauge(f"{_PREFIX}_build_info", "Version", ("version", "python"), registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)

    def prepare(self, farm: Farm) -> None:
        """Begin the counters of services and servers at 0, so that the first event is an increase."""
        for service in farm.services.values():
            for counter in (
                self.connections,
                self.tokens_missed,
                self.tokens_searched,
                self.shares_exceeded,
                self.collisions,
                self.address_collisions,
                self.accept_pauses,
            ):
                counter.labels(service.name)
            for failure in _FAILURES_WATCHED:
                self.handshake_failures.labels(service.name, failure)
            for result in ("ok", "failed"):
                self.handshakes.labels(service.name, result)
            for refusal in Refusal:
                self.rejected.labels(service.name, refusal.value)
            for server in service.servers:
                self._prepare_server(server.id)

    def _prepare_server(self, server: ServerId) -> None:
        self.sessions.labels(*server)
        self.redispatches.labels(*server)
        for reason in CloseReason:
            self.sessions_closed.labels(*server, reason.value)
        for result in ("ok", "failed", "not-made"):
            self.health_checks.labels(*server, result)
        for failure in ("refused", "timeout", "closed", "silent"):
            self.connect_failures.labels(*server, failure)

    def keep_only(self, services: Collection[str], servers: Collection[tuple[str, str]]) -> None:
        """Drop the series of every other service and server: they would stay, and grow, with each reload."""
        for metric, labels in self._of_services:
            named = len(_SERVER) if labels[: len(_SERVER)] == _SERVER else 1
            # Its keys: collecting the samples to read their labels would cost a scrape.
            for values in list(metric._metrics):  # noqa: SLF001
                about = values[:named]
                if about not in servers if named > 1 else about[0] not in services:
                    metric.remove(*values)

    def observe_state(self, snapshot: Callable[[], "StateSnapshot"]) -> None:
        """Read the gauges off `snapshot()` at every scrape."""
        self.registry.register(_StateCollector(snapshot))

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        counter = Counter(f"{_PREFIX}_{name}", text, labels, registry=self.registry)
        if labels:
            self._of_services.append((counter, labels))
        return counter

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        histogram = Histogram(f"{_PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)
        if labels:
            self._of_services.append((histogram, labels))
        return histogram


@dataclass(frozen=True, slots=True)
class ServerGauges:
    """A real server, for one scrape. `agent_percent` None: it has no agent."""

    id: ServerId
    up: bool
    state: Intent
    sessions: int
    weight: float
    effective_weight: float
    agent_percent: int | None


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """Everything that is read off the state, for one scrape."""

    servers: tuple[ServerGauges, ...] = ()
    queue_lengths: dict[str, int] = field(default_factory=dict)
    entries: dict[tuple[str, ...], int] = field(default_factory=dict)
    evictions: dict[str, int] = field(default_factory=dict)
    relays: dict[int, int] = field(default_factory=dict)
    half_open: int = 0


class _StateCollector(Collector):
    def __init__(self, snapshot: Callable[[], StateSnapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not take a snapshot before the state is complete."""
        return ()

    def collect(self) -> Iterable[Metric]:
        state = self._snapshot()
        yield from _server_families(state)
        yield _family(
            "queue_length",
            "Connections waiting for a place",
            ("service",),
            {(name,): length for name, length in state.queue_lengths.items()},
        )
        yield _family("persistence_entries", "Confirmed bindings", ("service", "method"), state.entries)
        yield _family(
            "relay_up", "Relay processes in use", ("relay",), {(str(relay),): 1 for relay in state.relays}
        )
        yield _family(
            "relay_sessions",
            "Sessions by relay process",
            ("relay",),
            {(str(relay),): sessions for relay, sessions in state.relays.items()},
        )
        yield _family("half_open", "Connections that are not sessions yet", (), {(): state.half_open})
        evictions = CounterMetricFamily(
            f"{_PREFIX}_persistence_evictions",
            "Idle bindings that gave way to newer ones",
            labels=("service",),
        )
        for service, count in state.evictions.items():
            evictions.add_metric((service,), count)
        yield evictions


def _server_families(state: StateSnapshot) -> Iterable[Metric]:
    servers = state.servers
    yield _family("sessions_current", "Live sessions", _SERVER, {s.id: s.sessions for s in servers})
    yield _family("server_up", "Whether the server is up", _SERVER, {s.id: int(s.up) for s in servers})
    yield _family(
        "server_state",
        "Administrative state of the server: 1 for the state it is in",
        (*_SERVER, "state"),
        {(*s.id, intent.value): int(s.state is intent) for s in servers for intent in Intent},
    )
    yield _family("server_weight", "Weight as wanted", _SERVER, {s.id: s.weight for s in servers})
    yield _family(
        "server_effective_weight",
        "Weight with the agent's percentage and slow start",
        _SERVER,
        {s.id: s.effective_weight for s in servers},
    )
    yield _family(
        "agent_percent",
        "What the feedback agent asks for",
        _SERVER,
        {s.id: s.agent_percent for s in servers if s.agent_percent is not None},
    )


def _family(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], int | float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
