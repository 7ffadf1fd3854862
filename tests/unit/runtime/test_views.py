"""What the control socket shows: every key of the command line's contract, with the values of the farm."""

import json
import time
from typing import Any

import msgspec
import pytest

from rdpbalancer.core.farm import AgentPolicy
from rdpbalancer.core.queue import QueuedClient
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import Health, Intent, Key, Method
from rdpbalancer.runtime.views import Views
from rdpbalancer.telemetry.metrics import ServerGauges
from tests.unit.core.farms import ALICE, SERVICE, server_status
from tests.unit.runtime.in_process_router import InProcessRouter, local_server, service_of, sid

# As documented in docs/reference/control-protocol.md; more keys may follow.
CONTRACT = {
    "servers": {
        *("service", "name", "address", "state", "health", "weight", "effective_weight", "sessions"),
        *("max_connections", "queue", "agent", "checks_failed", "last_change", "reason"),
    },
    "sessions": {
        *("id", "service", "server", "client", "user", "method", "key", "reason", "started", "relay"),
        *("bytes_up", "bytes_down", "state"),
    },
    "persistence": {"service", "method", "key", "server", "expires_in", "sessions"},
    "services": {
        *("name", "listen", "mode", "scheduler", "sessions", "queue", "servers_usable", "servers_total"),
    },
}


@pytest.fixture
def router() -> InProcessRouter:
    """Return two services; Alice has a session on ts1 of the first."""
    first = service_of([local_server("ts1", 3389, max_connections=5), local_server("ts2", 3390, backup=True)])
    other_server = local_server("gw1", 443, id=sid("gw1")._replace(service="gw"))
    router = InProcessRouter(first, service_of([other_server], name="gw"))
    router.session("s1", key=ALICE, user="Alice")
    return router


@pytest.mark.parametrize("what", CONTRACT)
async def test_every_key_of_the_contract_is_there(router: InProcessRouter, what: str) -> None:
    """And all of it goes through JSON."""
    answer = await router.verb(what)
    rows = answer["rows"] if isinstance(answer, dict) else answer
    assert rows
    for row in rows:
        assert CONTRACT[what] <= row.keys()
    assert rows == json.loads(json.dumps(rows))


def server(router: InProcessRouter, name: str = "ts1") -> dict[str, Any]:
    """Return a server's row."""
    return next(row for row in router.servers() if row["name"] == name)


def test_a_server_that_is_well(router: InProcessRouter) -> None:
    """Where it is, how it is, what it carries."""
    router.now += 100
    router.watch.checks_failed[sid("ts1")] = 3
    row = server(router)
    assert abs(time.time() - 100 - row.pop("last_change")) < 5
    assert {
        "service": SERVICE,
        "name": "ts1",
        "address": "127.0.0.1:3389",
        "state": "online",
        "strict": False,
        "health": "up",
        "weight": 100,
        "effective_weight": 100,
        "sessions": 1,
        "max_connections": 5,
        "min_connections": 0,
        "emptying": False,
        "queue": 0,
        "backup": False,
        "agent": None,
        "checks_failed": 3,
        "operator": {
            "state": "online",
            "strict": False,
            "weight": None,
            "reason": "",
            "actor": "",
            "since": 0.0,
        },
        "check": None,
        "sessions_total": 0,
        "bytes_up": 0,
        "bytes_down": 0,
        "reason": "",
        "resolved": [],
        "token_addresses": [],
    } == row
    assert server(router, "ts2")["backup"]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"health": Health.DOWN}, {"health": "down"}),
        ({"health": Health.CHECKING}, {"health": "checking"}),
        ({"agent": {"health": Health.DOWN}}, {"health": "down"}),
        ({"health": Health.CHECKING, "agent": {"health": Health.DOWN}}, {"health": "checking"}),
        ({"intent": Intent.DRAIN, "strict": True}, {"state": "drain", "strict": True}),
        ({"intent": Intent.HALT}, {"state": "halt"}),
        ({"agent": {"intent": Intent.DRAIN}}, {"state": "drain"}),
        ({"intent": Intent.DRAIN, "agent": {"intent": Intent.HALT}}, {"state": "halt"}),
        ({"runtime_weight": 30}, {"weight": 30, "effective_weight": 30}),
        ({"agent": {"percent": 33}}, {"weight": 100, "effective_weight": 33}),
        ({"agent": {"weight": 7}}, {"weight": 100, "effective_weight": 7}),
        ({"agent": {"max_connections": 2}}, {"max_connections": 2}),
        ({"reason": "no answer within 2 s"}, {"reason": "no answer within 2 s"}),
    ],
)
def test_a_server_as_checks_operator_and_agent_have_it(
    router: InProcessRouter, known: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Health is what is found, state what is wanted; the stricter word counts."""
    router.dispatcher.servers.set(sid("ts1"), server_status(**known), now=router.now)
    row = server(router)
    assert expected == {name: row[name] for name in expected}


def test_slow_start_shows_in_the_effective_weight(router: InProcessRouter) -> None:
    """Half way through, half the weight."""
    router.apply(service_of(["ts1"], slow_start_s=10.0))
    router.dispatcher.servers.set(sid("ts1"), server_status(ramp_from_at=router.now), now=router.now)
    router.now += 5
    assert (100, 50) == (server(router)["weight"], server(router)["effective_weight"])


def test_an_agent(router: InProcessRouter) -> None:
    """What it last said, and how long ago."""
    router.apply(service_of([local_server("ts1", agent=AgentPolicy())]))
    assert None is server(router)["agent"]["heard_ago"]
    router.dispatcher.servers.set(
        sid("ts1"),
        server_status(agent={"percent": 40, "heard_at": router.now - 1.5, "reason": "busy", "failures": 2}),
        now=router.now,
    )
    assert {
        "percent": 40,
        "weight": None,
        "max_connections": None,
        "state": "online",
        "health": "up",
        "reason": "busy",
        "heard_ago": 1.5,
        "stale": False,
        "failures": 2,
    } == server(router)["agent"]
    router.dispatcher.servers.set(sid("ts1"), server_status(agent={"weight": 90}), now=router.now)
    assert (None, 90) == (server(router)["agent"]["percent"], server(router)["agent"]["weight"])


def test_who_waits_is_shown(router: InProcessRouter) -> None:
    """In all, and for the very server."""
    router.dispatcher.queues.join(SERVICE, sid("ts1"), lambda _: None, ticket=None)
    router.dispatcher.queues.join(SERVICE, None, lambda _: None, ticket=None)
    assert (1, 0) == (server(router)["queue"], server(router, "ts2")["queue"])
    assert [2, 0] == [row["queue"] for row in router.services()]


def test_services(router: InProcessRouter) -> None:
    """Usable is what takes a new user; where it listens is as it was bound."""
    router.dispatcher.servers.set(sid("ts2"), server_status(intent=Intent.DRAIN), now=router.now)
    views = Views(
        router.dispatcher,
        clock=router.clock,
        checks_failed={},
        bound_names={f"{SERVICE} 0.0.0.0:3389": "0.0.0.0:50123"},
        last_checks={},
        totals=router.account.totals,
    )
    first, other = map(msgspec.to_builtins, views.services())
    assert {
        "name": SERVICE,
        "listen": ["0.0.0.0:50123"],
        "mode": "rdp",
        "scheduler": "weighted-least-connections",
        "sessions": 1,
        "queue": 0,
        "servers_usable": 1,
        "servers_total": 2,
    } == first
    assert ("gw", ["0.0.0.0:3389"], 0, 1) == (
        other["name"],
        other["listen"],
        other["sessions"],
        other["servers_usable"],
    )


async def test_a_session(router: InProcessRouter) -> None:
    """All that was known of it, and the bytes so far."""
    router.keeper.session_moved("s1", 10, 20)
    assert [
        {
            "id": "s1",
            "service": SERVICE,
            "server": "ts1",
            "client": "192.0.2.1:50000",
            "user": "Alice",
            "method": "rdp-cookie",
            "key": "alice",
            "reason": "scheduled",
            "started": 0.0,
            "relay": 7,
            "bytes_up": 10,
            "bytes_down": 20,
            "state": "established",
        }
    ] == await router.rows("sessions")


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({}, ["s1", "s2", "s3"]),
        ({"service": SERVICE}, ["s1", "s2"]),
        ({"service": "gw"}, ["s3"]),
        ({"server": "ts2"}, ["s2"]),
        ({"server": f"{SERVICE}/ts2"}, ["s2"]),
        ({"user": "ALICE"}, ["s1"]),
        ({"user": "alice", "server": "ts2"}, []),
        ({"user": "nobody"}, []),
        ({"source": "198.51.100.7"}, ["s2"]),
        ({"source": "198.51.100.0/24"}, ["s2"]),
        ({"source": "192.0.2.0/24", "service": "gw"}, ["s3"]),
        ({"source": "2001:db8::/32"}, []),
    ],
)
async def test_sessions_are_found_by_what_they_are(
    router: InProcessRouter, which: dict[str, str], expected: list[str]
) -> None:
    """By service, server (with its service or without), user, in any case, and source; the oldest first."""
    router.session("s2", "ts2", source="198.51.100.7")
    router.session("s3", "gw1", service="gw")
    assert expected == [row["id"] for row in await router.rows("sessions", **which)]


@pytest.mark.parametrize(
    ("verb", "params", "code"),
    [
        ("servers", {"service": "nothing"}, "unknown-service"),
        ("sessions", {"service": "nothing"}, "unknown-service"),
        ("sessions", {"server": "ts9"}, "unknown-server"),
        ("sessions", {"server": "ts1", "service": "gw"}, "unknown-server"),
        ("sessions", {"source": "10.0.0"}, "bad-address"),
        ("sessions", {"source": "10.0.0.1/8"}, "bad-address"),
        ("persistence", {"service": "nothing"}, "unknown-service"),
        ("persistence", {"server": "ts9"}, "unknown-server"),
        ("persistence", {"method": "mac"}, "unknown-method"),
        ("queue", {"service": "nothing"}, "unknown-service"),
        ("events", {"service": "nothing"}, "unknown-service"),
        ("events", {"server": "ts9"}, "unknown-server"),
        ("events", {"level": "loud"}, "bad-parameters"),
        ("kick", {"service": "nothing"}, "unknown-service"),
        ("kick", {"source": "10.0.0.0/33"}, "bad-address"),
        ("set-state", {"servers": ["ts1"], "service": "nothing", "state": "drain"}, "unknown-service"),
        ("set-state", {"servers": ["x*"], "state": "drain"}, "unknown-server"),
        ("set-state", {"servers": ["ts1", "ts9"], "state": "drain"}, "unknown-server"),
        ("set-state", {"servers": [], "state": "drain"}, "bad-parameters"),
    ],
)
async def test_what_is_not_there_is_refused(
    router: InProcessRouter, verb: str, params: dict[str, Any], code: str
) -> None:
    """An empty table, or "0 sessions ended", would read as "there are none": a typing mistake is neither."""
    before = dict(router.dispatcher.servers.statuses)
    with pytest.raises(ConfigurationError) as caught:
        await router.verb(verb, **params)
    assert code == caught.value.code
    assert (before, []) == (router.dispatcher.servers.statuses, router.kicked)


async def test_what_is_left_of_a_removed_server_is_found(router: InProcessRouter) -> None:
    """Its sessions go on: they are shown, and events tell of it still."""
    router.session("s2", "ts2")
    router.events.error("server_down", service=SERVICE, server="ts2")
    router.apply(service_of(["ts1"], name="other"))
    assert ["s2"] == [row["id"] for row in await router.rows("sessions", server="ts2", service=SERVICE)]
    (event,) = await router.rows("events", service=SERVICE, server="ts2")
    assert "server_down" == event["event"]


async def test_events_by_level_and_since(router: InProcessRouter) -> None:
    """A level is the least one; `since` is the id of the last event that is known."""
    router.events.info("reloaded")
    router.events.warning("agent_failed", service=SERVICE, server="ts1")
    router.events.error("server_down", service=SERVICE, server="ts1")
    rows = await router.rows("events", level="warning")
    assert ["agent_failed", "server_down"] == [row["event"] for row in rows]
    rows = await router.rows("events", since=rows[0]["id"])
    assert ["server_down"] == [row["event"] for row in rows]
    assert [] == await router.rows("events", since=rows[0]["id"])


async def test_bindings(router: InProcessRouter) -> None:
    """In use, ageing and claimed, of one service or of all, in order."""
    bindings = router.dispatcher.bindings.of(SERVICE)
    bert, home = Key(Method.RDP_COOKIE, "bert"), Key(Method.SOURCE_IP, "192.0.2.1")
    bindings.move(bert, "ts2", now=router.now, ttl_s=60.04)
    bindings.claim(home, "ts1", now=router.now, hold_s=15)
    router.dispatcher.bindings.of("gw").move(bert, "gw1", now=router.now, ttl_s=None)
    rows = [
        (row["service"], row["method"], row["key"], row["server"], row["expires_in"], row["sessions"])
        for row in await router.rows("persistence")
    ]
    assert [
        ("gw", "rdp-cookie", "bert", "gw1", None, 0),
        (SERVICE, "rdp-cookie", "alice", "ts1", None, 1),
        (SERVICE, "rdp-cookie", "bert", "ts2", 60.0, 0),
        (SERVICE, "source-ip", "192.0.2.1", "ts1", 15, 0),
    ] == rows
    assert ["gw1"] == [row["server"] for row in await router.rows("persistence", service="gw")]
    confirmed = [row["confirmed"] for row in await router.rows("persistence", service=SERVICE)]
    assert [True, True, False] == confirmed


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({"server": "ts2"}, ["bert"]),
        ({"server": f"{SERVICE}/ts1"}, ["alice", "192.0.2.1"]),
        ({"key": "ER"}, ["bert"]),
        ({"key": "e"}, ["alice", "bert"]),
        ({"method": "source-ip"}, ["192.0.2.1"]),
        ({"method": "source-ip", "server": "ts2"}, []),
        ({"service": "gw"}, []),
    ],
)
async def test_bindings_are_found_by_what_they_are(
    router: InProcessRouter, which: dict[str, str], expected: list[str]
) -> None:
    """Who is bound to the server that is being drained? By server, a part of the key, and method."""
    bindings = router.dispatcher.bindings.of(SERVICE)
    bindings.move(Key(Method.RDP_COOKIE, "bert"), "ts2", now=router.now, ttl_s=60)
    bindings.claim(Key(Method.SOURCE_IP, "192.0.2.1"), "ts1", now=router.now, hold_s=15)
    assert expected == [row["key"] for row in await router.rows("persistence", **which)]


async def test_who_waits(router: InProcessRouter) -> None:
    """For which server, since when, the first first; by service."""
    since = router.now
    for number, server in enumerate((None, sid("ts2"))):
        who = QueuedClient(f"192.0.2.{number}:5000", None if number else "alice", since + number)
        router.dispatcher.queues.join(SERVICE, server, lambda _: None, ticket=None, client=who)
    router.now += 10
    first, second = await router.rows("queue")
    assert abs(time.time() - 10 - first.pop("since")) < 5
    assert abs(time.time() - 9 - second.pop("since")) < 5
    assert {"service": SERVICE, "server": None, "client": "192.0.2.0:5000", "user": "alice"} == first
    assert {"service": SERVICE, "server": "ts2", "client": "192.0.2.1:5000", "user": None} == second
    assert [] == await router.rows("queue", service="gw")


def test_servers_of_one_service(router: InProcessRouter) -> None:
    """`--service`."""
    assert ["gw1"] == [row["name"] for row in router.servers("gw")]
    assert ["ts1", "ts2", "gw1"] == [row["name"] for row in router.servers()]


def test_a_scrape(router: InProcessRouter) -> None:
    """The gauges, from the same state."""
    router.apply(service_of([local_server("ts1", agent=AgentPolicy()), "ts2"]))
    router.dispatcher.servers.set(
        sid("ts1"), server_status(runtime_weight=80, agent={"percent": 50, "heard_at": 1.0}), now=router.now
    )
    router.dispatcher.servers.set(sid("ts2"), server_status(Health.DOWN), now=router.now)
    router.dispatcher.queues.join(SERVICE, None, lambda _: None, ticket=None)
    snapshot = router.views.snapshot(relays={7: 1}, half_open=4)
    assert (
        ServerGauges(sid("ts1"), up=True, state=Intent.ONLINE, sessions=1, weight=80, effective_weight=40,
                     agent_percent=50),
        ServerGauges(sid("ts2"), up=False, state=Intent.ONLINE, sessions=0, weight=100, effective_weight=100,
                     agent_percent=None),
    ) == snapshot.servers  # fmt: skip
    assert ({SERVICE: 1}, {SERVICE: 0}, {7: 1}, 4) == (
        snapshot.queue_lengths,
        snapshot.evictions,
        snapshot.relays,
        snapshot.half_open,
    )
    assert 1 == snapshot.entries[SERVICE, "rdp-cookie"]
