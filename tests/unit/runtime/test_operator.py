"""The operator's verbs: what they change, what they remember, and what they say to a typing mistake."""

from typing import Any

import pytest

from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.status import Override
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import CloseReason, Intent, Key, Method, ServerId
from tests.unit.core.farms import ALICE, SERVICE
from tests.unit.runtime.in_process_router import (
    WALL,
    InProcessRouter,
    facts,
    local_server,
    service_of,
    sid,
    state_of,
)

OTHER = ServerId("gw", "ts1")


@pytest.fixture
def router() -> InProcessRouter:
    """Return two services, both with a server ts1, one with ts2 beside it."""
    return InProcessRouter(service_of(["ts1", "ts2"]), service_of([local_server("ts1", id=OTHER)], name="gw"))


def intents(router: InProcessRouter) -> dict[str, tuple[Intent, bool]]:
    """Return what is wanted of every server, and whether strictly."""
    return {
        str(id_): (status.intent, status.strict) for id_, status in router.dispatcher.servers.statuses.items()
    }


# ---- servers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"server": "ts1"}, [f"{SERVICE}/ts1", "gw/ts1"]),
        ({"server": "ts1", "service": "gw"}, ["gw/ts1"]),
        ({"server": "gw/ts1"}, ["gw/ts1"]),
        ({"server": "ts2"}, [f"{SERVICE}/ts2"]),
        ({"servers": ["gw/ts1", "ts2"]}, [f"{SERVICE}/ts2", "gw/ts1"]),
        ({"servers": ["ts*"]}, [f"{SERVICE}/ts1", f"{SERVICE}/ts2", "gw/ts1"]),
        ({"servers": ["*/ts[2-9]"]}, [f"{SERVICE}/ts2"]),
        ({"servers": ["*"], "service": "gw"}, ["gw/ts1"]),
        ({"servers": ["gw/ts1"], "service": "gw"}, ["gw/ts1"]),
    ],
)
async def test_a_server_is_named_with_its_service_or_without(
    router: InProcessRouter, named: dict[str, str], expected: list[str]
) -> None:
    """Without, it is meant in every service that has it; `*`, `?` and `[...]` as in a shell."""
    answer = await router.verb("set-state", state="drain", **named)
    assert (expected, 0) == ([row["server"] for row in answer["servers"]], answer["kicked"])
    assert expected == [name for name, (intent, _) in intents(router).items() if intent is Intent.DRAIN]


@pytest.mark.parametrize(
    ("verb", "params"),
    [
        ("set-state", {"server": "ts9", "state": "drain"}),
        ("set-state", {"server": "ts2", "state": "drain", "service": "gw"}),
        ("set-state", {"server": "gw/ts2", "state": "drain"}),
        ("set-weight", {"server": "TS1", "weight": 5}),
        ("kick", {"server": "ts9"}),
        ("persist-move", {"key": "alice", "server": "ts9"}),
    ],
)
async def test_an_unknown_server_is_answered_with_those_there_are(
    router: InProcessRouter, verb: str, params: dict[str, Any]
) -> None:
    """So that the operator sees the slip, and nothing has changed."""
    before = intents(router)
    with pytest.raises(ConfigurationError) as caught:
        await router.verb(verb, **params)
    assert "unknown-server" == caught.value.code
    assert f"there are: gw/ts1, {SERVICE}/ts1, {SERVICE}/ts2" in str(caught.value)
    assert (before, {}, []) == (intents(router), router.state.overrides(), router.kicked)


async def test_a_state_is_taken_and_remembered(router: InProcessRouter) -> None:
    """At once, over a restart, and told with its reason; it is written down before it is answered."""
    router.now += 50
    await router.verb("set-state", server="ts2", state="drain", strict=True)
    assert (Intent.DRAIN, True) == intents(router)[f"{SERVICE}/ts2"]
    assert {sid("ts2"): Override(Intent.DRAIN, strict=True, since=WALL)} == router.state.overrides()
    status = router.dispatcher.servers.statuses[sid("ts2")]
    assert (router.now, "operator: drain --strict") == (status.changed_at, status.reason)
    (event,) = router.events.recent()
    assert ("operator", "ts2", "drain", True) == tuple(
        event[name] for name in ("event", "server", "state", "strict")
    )
    assert 1 == router.written


async def test_online_takes_it_all_back(router: InProcessRouter) -> None:
    """Nothing is left to be remembered."""
    await router.verb("set-state", server="ts2", state="drain", strict=True)
    await router.verb("set-state", server="ts2", state="online")
    assert (Intent.ONLINE, False) == intents(router)[f"{SERVICE}/ts2"]
    assert {} == router.state.overrides()


async def test_state_and_weight_do_not_undo_each_other(router: InProcessRouter) -> None:
    """They are two words about one server."""
    await router.verb("set-weight", server="ts2", weight=30)
    await router.verb("set-state", server="ts2", state="halt")
    assert {sid("ts2"): Override(Intent.HALT, weight=30, since=WALL)} == router.state.overrides()
    answer = await router.verb("set-weight", server="ts2", weight=None)
    assert {"servers": [f"{SERVICE}/ts2"], "weight": None} == answer
    assert {sid("ts2"): Override(Intent.HALT, since=WALL)} == router.state.overrides()
    assert None is router.dispatcher.servers.statuses[sid("ts2")].runtime_weight


@pytest.mark.parametrize("weight", [-1, 257])
async def test_a_weight_has_bounds(router: InProcessRouter, weight: int) -> None:
    """Those of the configuration."""
    with pytest.raises(ConfigurationError, match="a weight is 0 to 256, not"):
        await router.verb("set-weight", server="ts2", weight=weight)


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (100, 100), (1, 1), (0, 0)])
async def test_a_weight_may_be_a_share_of_the_configured_one(
    router: InProcessRouter, percent: int, expected: int
) -> None:
    """As HAProxy takes it: of what is configured, not of what an operator said before."""
    await router.verb("set-weight", server="ts2", weight=7)
    await router.verb("set-weight", server="ts2", percent=percent)
    assert expected == router.dispatcher.servers.statuses[sid("ts2")].runtime_weight


@pytest.mark.parametrize("params", [{"percent": 101}, {"percent": -1}, {"percent": 50, "weight": 50}])
async def test_a_share_is_a_percentage(router: InProcessRouter, params: dict[str, int]) -> None:
    """And it stands in place of a weight."""
    with pytest.raises(ConfigurationError, match="percentage"):
        await router.verb("set-weight", server="ts2", **params)


async def test_a_state_is_one_of_three(router: InProcessRouter) -> None:
    """Whatever another client of the socket makes up."""
    with pytest.raises(ConfigurationError, match="online, drain or halt, not maint") as caught:
        await router.verb("set-state", server="ts2", state="maint")
    assert "unknown-state" == caught.value.code


async def test_what_was_said_is_restored(router: InProcessRouter) -> None:
    """After a restart, and when a reload brings a server back; not for servers that were not asked for."""
    await router.verb("set-state", server="ts2", state="drain")
    await router.verb("set-weight", server="gw/ts1", weight=7)
    again = InProcessRouter(
        service_of(["ts1", "ts2"]), service_of([local_server("ts1", id=OTHER)], name="gw")
    )
    again.state = router.state
    again.operator._overrides = router.state
    again.operator.restore([sid("ts2")])
    assert (Intent.DRAIN, False) == intents(again)[f"{SERVICE}/ts2"]
    assert None is again.dispatcher.servers.statuses[OTHER].runtime_weight
    again.operator.restore(again.dispatcher.servers.statuses.keys())
    assert 7 == again.dispatcher.servers.statuses[OTHER].runtime_weight
    assert "operator: weight 7 (kept over a restart)" == again.dispatcher.servers.statuses[OTHER].reason


async def test_why_a_server_is_out_is_known_after_a_restart(router: InProcessRouter) -> None:
    """The list of servers has the operator's own reason, after an upgrade or a crash too."""
    await router.verb("set-state", server="ts2", state="drain", strict=True, reason="patch night")
    again = InProcessRouter(service_of(["ts1", "ts2"]))
    again.operator._overrides = router.state
    again.operator.restore(again.dispatcher.servers.statuses.keys())
    (row,) = (row for row in again.views.servers() if row.name == "ts2")
    assert "operator: drain --strict: patch night (kept over a restart)" == row.reason


# ---- sessions --------------------------------------------------------------------------------------


@pytest.fixture
def busy(router: InProcessRouter) -> InProcessRouter:
    """Return the router with four sessions, held by two relays."""
    router.session("a", "ts1", relay=7, user="Alice", source="192.0.2.1")
    router.session("b", "ts1", relay=8, user="bert", source="192.0.2.2")
    router.session("c", "ts2", relay=7, user="alice", source="192.0.2.2")
    router.session("d", "ts1", relay=7, service="gw", source="192.0.2.1")
    return router


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ({"session": "a"}, ["a"]),
        ({"user": "ALICE"}, ["a", "c"]),
        ({"server": "ts1"}, ["a", "b", "d"]),
        ({"server": f"{SERVICE}/ts1"}, ["a", "b"]),
        ({"source": "192.0.2.2"}, ["b", "c"]),
        ({"user": "alice", "server": "ts2"}, ["c"]),
        ({"session": "a", "user": "bert"}, []),
        ({"user": "nobody"}, []),
    ],
)
async def test_sessions_are_kicked_by_every_word_that_is_given(
    busy: InProcessRouter, which: dict[str, str], expected: list[str]
) -> None:
    """Each relay is asked for its own; how many is answered."""
    assert {"kicked": len(expected)} == await busy.verb("kick", **which)
    assert expected == sorted(id_ for _, ids, _ in busy.kicked for id_ in ids)
    held = {"a": 7, "b": 8, "c": 7, "d": 7}
    assert all(relay == held[id_] for relay, ids, _ in busy.kicked for id_ in ids)
    assert {CloseReason.KICKED} >= {reason for *_, reason in busy.kicked}


async def test_kicking_nobody_in_particular_kicks_nobody(busy: InProcessRouter) -> None:
    """An empty command must not empty the farm."""
    with pytest.raises(ConfigurationError) as caught:
        await busy.verb("kick")
    assert "nothing-named" == caught.value.code
    assert [] == busy.kicked


async def test_a_session_that_is_not_there(busy: InProcessRouter) -> None:
    """It may have ended while its id was being typed."""
    with pytest.raises(ConfigurationError, match="there is no session z; it may have ended"):
        await busy.verb("kick", session="z")


async def test_sessions_on_a_removed_server_can_be_kicked(busy: InProcessRouter) -> None:
    """It is not configured any more, and that may be why."""
    busy.apply(service_of(["ts1"]))
    assert {"kicked": 1} == await busy.verb("kick", server="ts2")


async def test_drain_and_kick(busy: InProcessRouter) -> None:
    """Those of the server alone."""
    answer = await busy.verb("set-state", server=f"{SERVICE}/ts1", state="drain", kick=True)
    assert 2 == answer["kicked"]
    assert [(7, ["a"], CloseReason.KICKED), (8, ["b"], CloseReason.KICKED)] == sorted(busy.kicked)


def test_a_server_that_is_down_is_kicked_with_its_reason(busy: InProcessRouter) -> None:
    """`on_down: kick` and the end of the service use the same way."""
    assert 1 == busy.operator.kick_server(sid("ts2"), CloseReason.SERVER_DOWN)
    assert [(7, ["c"], CloseReason.SERVER_DOWN)] == busy.kicked


# ---- bindings --------------------------------------------------------------------------------------


def bindings(router: InProcessRouter, service: str = SERVICE) -> dict[str, tuple[str, float | None]]:
    """Return server and remaining seconds of every key."""
    return {
        entry.key.value: (
            entry.server,
            None if entry.expires_at is None else entry.expires_at - router.now,
        )
        for entry in router.dispatcher.bindings.of(service).entries(now=router.now)
    }


async def test_an_idle_user_is_moved(router: InProcessRouter) -> None:
    """For the configured time, from now."""
    router.dispatcher.bindings.of(SERVICE).move(ALICE, "ts1", now=router.now, ttl_s=5)
    answer = await router.verb("persist-move", key="ALICE", server="ts2")
    assert {"moved": 1, "created": 0, "near": [], "server": "ts2"} == answer
    assert {"alice": ("ts2", 3600.0)} == bindings(router)
    assert 1 == router.written


async def test_a_live_user_is_moved_from_the_next_connection_on(router: InProcessRouter) -> None:
    """The session stays, and pins the new binding; its end starts the time."""
    router.session("s1", "ts1", key=ALICE)
    await router.verb("persist-move", key="alice", server="ts2")
    assert {"alice": ("ts2", None)} == bindings(router)
    assert [] == router.kicked
    router.dispatcher.close("s1", now=router.now)
    assert {"alice": ("ts2", 3600.0)} == bindings(router)


async def test_somebody_new_is_bound_before_the_first_connection(router: InProcessRouter) -> None:
    """In every service that has the server, as a user unless it is said otherwise."""
    answer = await router.verb("persist-move", key="Zoë", server="ts1")
    assert {"moved": 0, "created": 2, "near": [], "server": "ts1"} == answer
    assert {"zoë": ("ts1", 3600.0)} == bindings(router) == bindings(router, "gw")
    await router.verb("persist-move", key="bert", server="gw/ts1")
    assert "bert" not in bindings(router)
    assert "bert" in bindings(router, "gw")


async def test_a_user_of_two_services_is_moved_where_the_server_is(router: InProcessRouter) -> None:
    """Whole or not at all: the other service has no such server, and keeps its binding."""
    for service in (SERVICE, "gw"):
        router.dispatcher.bindings.of(service).move(ALICE, "ts1", now=router.now, ttl_s=5)
    answer = await router.verb("persist-move", key="alice", server="ts2")
    assert (1, 0) == (answer["moved"], answer["created"])
    assert {"alice": ("ts2", 3600.0)} == bindings(router)
    assert {"alice": ("ts1", 5)} == bindings(router, "gw")


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("10.1.2.3", "10.1.2.0/24"),
        ("10.1.2.0/24", "10.1.2.0/24"),
        ("2001:DB8::1", "2001:db8::/64"),
        ("::ffff:10.1.2.3", "10.1.2.0/24"),
    ],
)
async def test_an_address_is_the_key_that_its_connections_have(
    router: InProcessRouter, named: str, kept: str
) -> None:
    """Cut to the configured prefix, or as `show persistence` shows it; to move and to delete."""
    router.apply(service_of(["ts1", "ts2"], persistence=PersistencePolicy(ipv4_prefix=24)))
    await router.verb("persist-move", key=named, server="ts2", method="source-ip")
    (entry,) = router.dispatcher.bindings.of(SERVICE).entries(now=router.now)
    assert (Key(Method.SOURCE_IP, kept), "ts2") == (entry.key, entry.server)
    answer = await router.verb("persist-move", key=named, server="ts1")
    assert (1, 0) == (answer["moved"], answer["created"])
    assert {"deleted": 1} == await router.verb("persist-delete", key=named)


async def test_a_user_is_the_key_that_its_connections_have(router: InProcessRouter) -> None:
    """Without the domain, where that is stripped."""
    router.apply(service_of(["ts1"], persistence=PersistencePolicy(strip_domain=True)))
    await router.verb("persist-move", key="EXAMPLE\\Alice", server="ts1")
    assert {"alice": ("ts1", 3600.0)} == bindings(router)
    assert {"deleted": 1} == await router.verb("persist-delete", key="alice@example.net")


@pytest.mark.parametrize("key", ["alice", "10.1.2", "10.1.2.3/24", "10.1.2.0/33"])
async def test_what_is_no_address_is_no_source(router: InProcessRouter, key: str) -> None:
    """It would be kept, and never found."""
    with pytest.raises(ConfigurationError, match="is neither an IP address nor a network") as caught:
        await router.verb("persist-move", key=key, server="ts2", method="source-ip")
    assert "bad-address" == caught.value.code
    assert {} == bindings(router)


@pytest.mark.parametrize(
    ("verb", "params", "code"),
    [
        ("persist-delete", {"key": "nobody"}, "unknown-key"),
        ("persist-delete", {"key": "alice", "service": "gw"}, "unknown-key"),
        ("persist-delete", {"key": "alice", "method": "source-ip"}, "unknown-key"),
        ("persist-delete", {"key": "alice", "service": "nothing"}, "unknown-service"),
        ("persist-delete", {"key": "alice", "method": "routing-token"}, "unknown-method"),
        ("persist-move", {"key": "new", "server": "ts2", "method": "mac"}, "unknown-method"),
    ],
)
async def test_what_there_is_not(
    router: InProcessRouter, verb: str, params: dict[str, str], code: str
) -> None:
    """Each mistake has its code, and changes nothing."""
    router.dispatcher.bindings.of(SERVICE).move(ALICE, "ts1", now=router.now, ttl_s=5)
    with pytest.raises(ConfigurationError) as caught:
        await router.verb(verb, **params)
    assert code == caught.value.code
    assert {"alice": ("ts1", 5)} == bindings(router)


async def test_a_binding_is_deleted(router: InProcessRouter) -> None:
    """In every service, or in one."""
    for service in (SERVICE, "gw"):
        router.dispatcher.bindings.of(service).move(ALICE, "ts1", now=router.now, ttl_s=5)
    assert {"deleted": 1} == await router.verb("persist-delete", key="alice", service="gw")
    assert ({"alice": ("ts1", 5)}, {}) == (bindings(router), bindings(router, "gw"))
    assert {"deleted": 1} == await router.verb("persist-delete", key="alice")
    assert {} == bindings(router)


async def test_what_happened_is_shown(router: InProcessRouter) -> None:
    """Also who changed what."""
    await router.verb("set-weight", server="ts2", weight=30)
    (event,) = await router.rows("events")
    assert ("operator", 30, "weight 30") == (event["event"], event["weight"], event["detail"])


async def test_sessions_are_shown_by_the_same_words(router: InProcessRouter) -> None:
    """The verb passes them on."""
    router.keeper.session_live(state_of(facts("s1", "ts2")), 7)
    assert ["s1"] == [row["id"] for row in (await router.verb("sessions", server="ts2"))["rows"]]
    assert {"rows": [], "next": None, "total": 0} == await router.verb("sessions", server="ts1")
