"""The metrics as Prometheus sees them: names, labels and values are a contract with dashboards."""

from collections.abc import Iterable

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from rdpbalancer.core.admission import Refusal
from rdpbalancer.core.farm import Farm
from rdpbalancer.errors import NoServerError, ServerError
from rdpbalancer.model import CloseReason, Intent, Reason, ServerId, SessionRecord
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.metrics import Metrics, ServerGauges, StateSnapshot
from rdpbalancer.telemetry.users import UserMasking
from tests.unit.core.farms import SERVICE, real_server, virtual_service
from tests.unit.telemetry.samples import END, FACTS, RECORD, facts

TS1 = ServerId("ts-cluster", "ts1")
OF_SERVICE, SERVER = {"service"}, {"service", "server"}

# As documented in docs/reference/metrics.md: metric name without the prefix, and its labels.
CONTRACT: dict[str, set[str]] = {
    "build_info": {"version", "python"},
    "sessions_current": SERVER,
    "sessions_total": SERVER,
    "sessions_closed_total": SERVER | {"reason"},
    "session_duration_seconds": SERVER,
    "bytes_total": SERVER | {"direction"},
    "handshakes_total": OF_SERVICE | {"result"},
    "handshake_failures_total": OF_SERVICE | {"reason"},
    "routing_decisions_total": OF_SERVICE | {"reason"},
    "persistence_entries": OF_SERVICE | {"method"},
    "persistence_evictions_total": OF_SERVICE,
    "persistence_ambiguous_cookies_total": OF_SERVICE,
    "server_up": SERVER,
    "server_state": SERVER | {"state"},
    "server_weight": SERVER,
    "server_effective_weight": SERVER,
    "server_connect_duration_seconds": SERVER,
    "server_connect_failures_total": SERVER | {"reason"},
    "server_redispatches_total": SERVER,
    "health_checks_total": SERVER | {"result"},
    "agent_percent": SERVER,
    "agent_failures_total": SERVER,
    "queue_length": OF_SERVICE,
    "queue_wait_seconds": OF_SERVICE,
    "rejected_total": OF_SERVICE | {"reason"},
    "relay_up": {"relay"},
    "relay_sessions": {"relay"},
    "event_loop_lag_seconds": set(),
    "config_last_reload_successful": set(),
    "config_last_reload_timestamp_seconds": set(),
}


def gauges(name: str = "ts1", **known: object) -> ServerGauges:
    """Return a server for a scrape."""
    given = {
        "id": ServerId("ts-cluster", name),
        "up": True,
        "state": Intent.ONLINE,
        "sessions": 3,
        "weight": 100,
        "effective_weight": 50.0,
        "agent_percent": 50,
        **known,
    }
    return ServerGauges(**given)  # type: ignore[arg-type]


STATE = StateSnapshot(
    servers=(gauges(), gauges("ts2", up=False, state=Intent.DRAIN, agent_percent=None)),
    queue_lengths={"ts-cluster": 4},
    entries={("ts-cluster", "rdp-cookie"): 12, ("ts-cluster", "source-ip"): 0},
    evictions={"ts-cluster": 9},
    relays={4711: 2, 4712: 1},
    half_open=6,
)


def samples(metrics: Metrics) -> list[Sample]:
    """Return what a scrape gives."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return [sample for family in families for sample in family.samples]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return the one sample with these labels."""
    found = [
        sample.value
        for sample in samples(metrics)
        if sample.name == f"rdpbalancer_{name}" and sample.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics after one of everything has happened."""
    metrics = Metrics()
    metrics.observe_state(lambda: STATE)
    account = Account(metrics, UserMasking("plain", b""))
    account.opened(FACTS)
    account.moved(FACTS, 1000, 200_000)
    account.closed(RECORD)
    account.failed("ts-cluster", ServerError("refused", "no"), client="192.0.2.7:1", user="alice")
    for counter in (metrics.ambiguous_cookies, metrics.connections, metrics.collisions):
        counter.labels("ts-cluster").inc()
    for counter in (metrics.redispatches, metrics.agent_failures, metrics.agent_ignored_words):
        counter.labels(*TS1).inc()
    metrics.connect_failures.labels(*TS1, "refused").inc()
    metrics.health_checks.labels(*TS1, "ok").inc()
    metrics.rejected.labels("ts-cluster", "denied").inc()
    metrics.tokens_missed.labels("ts-cluster").inc()
    metrics.accept_pauses.labels("ts-cluster").inc()
    metrics.store_failures.inc()
    metrics.loop_lag.observe(0.002)
    metrics.reload_successful.set(1)
    metrics.reload_timestamp.set(1_700_000_000)
    return metrics


def base(name: str) -> str:
    """Return the metric's name of a sample's, without the prefix."""
    for ending in ("_bucket", "_sum", "_count"):
        if name.endswith(ending):
            name = name.removesuffix(ending)
    return name.removeprefix("rdpbalancer_")


@pytest.mark.parametrize("name", CONTRACT)
def test_every_metric_of_the_contract_is_there(metrics: Metrics, name: str) -> None:
    """With exactly these labels, at every one of its samples."""
    found = [sample for sample in samples(metrics) if base(sample.name) == name]
    assert found, f"no sample of {name}"
    assert [CONTRACT[name]] * len(found) == [set(sample.labels) - {"le"} for sample in found]


def test_everything_has_the_prefix_and_nothing_is_said_twice(metrics: Metrics) -> None:
    """No `_created` series beside every counter, and no series twice."""
    found = samples(metrics)
    assert all(sample.name.startswith("rdpbalancer_") for sample in found)
    assert [] == [sample.name for sample in found if sample.name.endswith("_created")]
    series = [(sample.name, *sorted(sample.labels.items())) for sample in found]
    assert len(series) == len(set(series))


def words(found: Iterable[Sample]) -> set[str]:
    """Return every label's value."""
    return {value for sample in found for value in sample.labels.values()}


def test_no_label_names_a_user_or_an_address(metrics: Metrics) -> None:
    """Only services, servers, relays, buckets and fixed words: what strangers bring makes no series."""
    strangers = ("alice", "192.0.2.7", "50123", "tsv", "virtual machine", "5ca1ab1e", "abab")
    for word in words(samples(metrics)):
        assert not any(stranger in word.lower() for stranger in strangers), word


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("sessions_total", {"server": "ts1"}, 1),
        ("handshakes_total", {"result": "ok"}, 1),
        ("handshakes_total", {"result": "failed"}, 1),
        ("handshake_failures_total", {"reason": "refused"}, 1),
        ("routing_decisions_total", {"reason": "cookie"}, 1),
        ("sessions_closed_total", {"server": "ts1", "reason": "eof"}, 1),
        ("bytes_total", {"server": "ts1", "direction": "up"}, 1000),
        ("bytes_total", {"server": "ts1", "direction": "down"}, 200_000),
        ("session_duration_seconds_sum", {"server": "ts1"}, 3600.5),
        ("session_duration_seconds_bucket", {"server": "ts1", "le": "3600.0"}, 0),
        ("session_duration_seconds_bucket", {"server": "ts1", "le": "43200.0"}, 1),
        ("server_connect_duration_seconds_bucket", {"server": "ts1", "le": "0.005"}, 0),
        ("server_connect_duration_seconds_bucket", {"server": "ts1", "le": "0.01"}, 1),
        ("queue_wait_seconds_sum", {}, 2.5),
        ("server_negotiation_failures_total", {"server": "ts1", "code": "5"}, 1),
        ("sessions_current", {"server": "ts1"}, 3),
        ("server_up", {"server": "ts1"}, 1),
        ("server_up", {"server": "ts2"}, 0),
        ("server_state", {"server": "ts2", "state": "drain"}, 1),
        ("server_state", {"server": "ts2", "state": "online"}, 0),
        ("server_state", {"server": "ts2", "state": "halt"}, 0),
        ("server_weight", {"server": "ts1"}, 100),
        ("server_effective_weight", {"server": "ts1"}, 50),
        ("agent_percent", {"server": "ts1"}, 50),
        ("agent_percent", {"server": "ts2"}, None),
        ("queue_length", {}, 4),
        ("persistence_entries", {"method": "rdp-cookie"}, 12),
        ("persistence_evictions_total", {}, 9),
    ],
)
def test_values_are_what_happened(
    metrics: Metrics, name: str, labels: dict[str, str], expected: float | None
) -> None:
    """In base units: seconds and bytes."""
    assert expected == value(metrics, name, **{"service": "ts-cluster", **labels})


def test_relays_and_half_open_connections_are_gauged(metrics: Metrics) -> None:
    """Each relay by its process id."""
    assert [1, 2, 1, 1] == [
        value(metrics, name, relay=relay)
        for name, relay in (
            ("relay_up", "4711"),
            ("relay_sessions", "4711"),
            ("relay_up", "4712"),
            ("relay_sessions", "4712"),
        )
    ]
    assert 6 == value(metrics, "half_open")


def test_the_state_is_read_at_every_scrape_and_not_before() -> None:
    """Registering takes no snapshot (there may be no state yet), and a scrape sees the present one."""
    metrics, taken = Metrics(), [0]

    def snapshot() -> StateSnapshot:
        taken[0] += 1
        return StateSnapshot(half_open=taken[0])

    metrics.observe_state(snapshot)
    assert 0 == taken[0]
    assert [1, 2] == [value(metrics, "half_open") for _ in range(2)]


def test_two_routers_in_one_process_do_not_share_metrics() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.store_failures.inc()
    assert [1, 0] == [value(metrics, "store_failures_total") for metrics in (one, other)]


def test_sessions_are_counted_by_their_own_words() -> None:
    """Reasons and servers are kept apart, whatever was counted before them."""
    metrics = Metrics()
    account = Account(metrics, UserMasking("off", b""))
    came = [
        (Reason.COOKIE, "ts1"),
        (Reason.SCHEDULED, "ts1"),
        (Reason.SCHEDULED, "ts2"),
        (Reason.COOKIE, "ts1"),
    ]
    for reason, server in came:
        account.opened(facts(reason=reason, server=server, queue_ms=0, negotiation_failure=None))
    for end in (CloseReason.EOF, CloseReason.KICKED, CloseReason.EOF):
        account.closed(record_with(end))
    count = [
        value(metrics, "routing_decisions_total", service="ts-cluster", reason=reason)
        for reason in ("cookie", "scheduled")
    ]
    assert [2, 2] == count
    closed = [
        value(metrics, "sessions_closed_total", service="ts-cluster", server="ts1", reason=reason)
        for reason in ("eof", "kicked")
    ]
    assert [2, 1] == closed
    assert None is value(metrics, "queue_wait_seconds_count", service="ts-cluster")


def record_with(reason: CloseReason) -> SessionRecord:
    """Return a record of a session that ended so."""
    return SessionRecord(FACTS, msgspec.structs.replace(END, close_reason=reason), 4711)


def test_nothing_moved_makes_no_series() -> None:
    """An idle session's reports cost nothing."""
    metrics = Metrics()
    Account(metrics, UserMasking("off", b"")).moved(FACTS, 0, 0)
    assert 0 == (value(metrics, "bytes_total", service="ts-cluster", server="ts1", direction="up") or 0)


def test_a_failure_is_counted_by_its_code() -> None:
    """`reason` is the error's stable code, never its text."""
    metrics = Metrics()
    account = Account(metrics, UserMasking("off", b""))
    account.failed("ts-cluster", NoServerError("queue-timeout", "text of 192.0.2.1"), client="c", user=None)
    assert 1 == value(metrics, "handshake_failures_total", service="ts-cluster", reason="queue-timeout")


def test_counters_begin_at_0() -> None:
    """The first event of a service or server is an increase: `rate()` sees none in a series that appears."""
    metrics = Metrics()
    metrics.prepare(Farm({SERVICE: virtual_service(real_server("ts1"), real_server("ts2"))}))
    for name, labels in (
        ("connections_total", {}),
        ("routing_tokens_missed_total", {}),
        ("handshakes_total", {"result": "ok"}),
        ("handshakes_total", {"result": "failed"}),
        *(("rejected_total", {"reason": refusal.value}) for refusal in Refusal),
    ):
        assert 0 == value(metrics, name, service=SERVICE, **labels)
    for server in ("ts1", "ts2"):
        for name, labels in (
            ("sessions_total", {}),
            ("server_redispatches_total", {}),
            *(("sessions_closed_total", {"reason": reason.value}) for reason in CloseReason),
            *(("health_checks_total", {"result": result}) for result in ("ok", "failed")),
            ("server_connect_failures_total", {"reason": "refused"}),
        ):
            assert 0 == value(metrics, name, service=SERVICE, server=server, **labels)


def test_series_of_what_is_removed_go() -> None:
    """Those of services and servers that stay keep their counts; what comes back begins at 0 again."""
    metrics = Metrics()
    account = Account(metrics, UserMasking("off", b""))
    metrics.prepare(Farm({SERVICE: virtual_service(real_server("ts1"), real_server("ts2"))}))
    for server in ("ts1", "ts2"):
        account.opened(facts(server=server))
        account.closed(msgspec.structs.replace(RECORD, facts=facts(server=server)))
    account.connected(SERVICE)
    account.connected("gone")
    account.failed("gone", NoServerError("all-down", "no"), client="192.0.2.7:1", user=None)
    metrics.prepare(Farm({"gone": virtual_service(real_server("ts1"), name="gone")}))

    account.keep_only({SERVICE}, {(SERVICE, "ts1")})
    left = [sample.labels for sample in samples(metrics) if "service" in sample.labels]
    assert {SERVICE} == {labels["service"] for labels in left}
    assert {"ts1"} == {labels["server"] for labels in left if "server" in labels}
    assert 1 == value(metrics, "sessions_total", service=SERVICE, server="ts1")
    assert 1 == value(metrics, "connections_total", service=SERVICE)
    assert 0 == account.totals(ServerId(SERVICE, "ts2")).sessions

    account.connected("gone")
    account.opened(facts(server="ts2"))
    assert 1 == value(metrics, "connections_total", service="gone")
    assert 1 == value(metrics, "sessions_total", service=SERVICE, server="ts2")
