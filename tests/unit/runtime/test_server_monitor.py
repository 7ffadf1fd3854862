"""Watching the farm: what monitors find becomes status, and each change is told once."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rdpbalancer.core.farm import AgentPolicy, Farm, HealthPolicy, VirtualService
from rdpbalancer.core.feedback import AgentReport, parse_line
from rdpbalancer.core.status import Override, ServerStatus
from rdpbalancer.errors import ServerError
from rdpbalancer.health.monitor import Monitor
from rdpbalancer.health.probe import CheckResult
from rdpbalancer.model import CloseReason, Endpoint, Health, Intent, ServerId
from rdpbalancer.tasks import spawn
from tests.support.wait import wait_until_async
from tests.unit.core.farms import SERVICE, real_server, server_status, virtual_service
from tests.unit.runtime.in_process_router import InProcessRouter, local_server, service_of, sid

TS1 = sid("ts1")
POLICY = HealthPolicy(rise=2, fall=3, fast_interval_s=0.5)


def house_of(**configured: Any) -> InProcessRouter:
    """Return a farm of one checked server with an agent, whose monitor does not run."""
    server = local_server("ts1", health=configured.pop("health", POLICY), agent=AgentPolicy(stale_after_s=60))
    router = InProcessRouter(service_of([server, "ts2"], **configured))
    router.watch._monitors[TS1] = Monitor(server, router.watch, rng=random.Random(1))
    return router


def check(router: InProcessRouter, *results: bool, detail: str = "why") -> None:
    """Checks have ended so."""
    for ok in results:
        router.watch.checked(TS1, CheckResult(ok=ok, detail=detail, duration_s=0.01))


def status(router: InProcessRouter) -> ServerStatus:
    """Return the server's status."""
    return router.dispatcher.servers.statuses[TS1]


def count(router: InProcessRouter, name: str, **labels: str) -> float:
    """Return a counter's value."""
    labels = {"service": SERVICE, "server": "ts1", **labels}
    return router.metrics.registry.get_sample_value(f"rdpbalancer_{name}", labels) or 0


# ---- checks ----------------------------------------------------------------------------------------


def test_a_server_goes_down_after_fall_and_comes_up_after_rise() -> None:
    """Each is told once, however long it lasts, with what the check found."""
    router = house_of()
    check(router, True, False, False)
    assert (Health.UP, []) == (status(router).health.health, router.happened())
    router.now += 1
    check(router, False, False, False, detail="Connection refused")
    assert (Health.DOWN, router.now) == (status(router).health.health, status(router).changed_at)
    assert "Connection refused" == status(router).reason
    check(router, True, False, True, True, True, detail="confirmed")
    assert Health.UP is status(router).health.health
    down, up = router.events.recent()
    assert ("server_down", "error", "Connection refused", "ts1") == tuple(
        down[name] for name in ("event", "level", "detail", "server")
    )
    assert ("server_up", "info", "confirmed") == tuple(up[name] for name in ("event", "level", "detail"))


def test_every_check_is_counted() -> None:
    """By its result; failures also for `show servers`."""
    router = house_of()
    check(router, True, False, False, True)
    assert (2, 2) == (
        count(router, "health_checks_total", result="ok"),
        count(router, "health_checks_total", result="failed"),
    )
    assert {TS1: 2} == router.watch.checks_failed


def test_the_first_check_decides() -> None:
    """A new server waits for no row of results."""
    router = house_of()
    router.dispatcher.servers.set(TS1, ServerStatus(), now=router.now)
    check(router, False)
    assert (Health.DOWN, ["server_down"]) == (status(router).health.health, router.happened())


def test_slow_start_begins_when_a_server_comes_back() -> None:
    """Not at the first check: the whole farm would begin slowly."""
    router = house_of()
    router.dispatcher.servers.set(TS1, ServerStatus(), now=router.now)
    check(router, True)
    assert None is status(router).ramp_from_at
    check(router, False, False, False)
    assert None is status(router).ramp_from_at
    router.now += 7
    check(router, True, True)
    assert router.now == status(router).ramp_from_at


@pytest.mark.parametrize(("kick_on_down", "expected"), [(True, 1), (False, 0)])
def test_sessions_of_a_server_that_goes_down(*, kick_on_down: bool, expected: int) -> None:
    """`on_down: kick` ends them, once, with their reason; otherwise they are left alone."""
    router = house_of(kick_on_down=kick_on_down)
    router.session("s1")
    router.session("s2", "ts2")
    check(router, False, False, False, False, False)
    assert [(7, ["s1"], CloseReason.SERVER_DOWN)] * expected == router.kicked
    told = [event for event in router.events.recent() if event["event"] == "sessions_kicked"]
    assert [1] * expected == [event["sessions"] for event in told]


def test_an_agents_down_kicks_too() -> None:
    """The agent's word is an observation as good as a check; it comes once."""
    router = house_of(kick_on_down=True)
    router.session("s1")
    for _ in range(3):
        router.watch.agent_answered(TS1, parse_line(b"down #rebooting"))
    check(router, False, False, False)
    assert [(7, ["s1"], CloseReason.SERVER_DOWN)] == router.kicked


def test_nobody_is_told_of_no_session_kicked() -> None:
    """A server that goes down empty has lost nobody."""
    router = house_of(kick_on_down=True)
    check(router, False, False, False)
    assert ["server_down"] == router.happened()


def test_a_check_does_not_look_at_every_server_of_the_farm(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2,000 servers, a table of all of them for each result would be most of a check's cost."""
    router = house_of()

    def all_servers(_: Farm) -> None:
        raise AssertionError("every server was looked at")

    monkeypatch.setattr(Farm, "servers", all_servers)
    check(router, True, False)


# ---- failed dials ----------------------------------------------------------------------------------


def failed(router: InProcessRouter, code: str = "refused") -> None:
    """A session's dial has failed."""
    router.watch.dial_failed(TS1, ServerError(code, "Connection refused"))


def test_failed_dials_take_a_server_down() -> None:
    """Like failed checks, but those of one moment count once: they are one observation."""
    router = house_of()
    for _ in range(3):
        router.now += POLICY.fast_interval_s
        for _ in range(10):
            failed(router)
    assert (Health.DOWN, ["server_down"]) == (status(router).health.health, router.happened())
    assert {TS1: 3} == router.watch.checks_failed
    assert "a session could not connect: Connection refused" == status(router).reason
    assert router.watch._monitors[TS1]._hurried.is_set()
    assert 0 == count(router, "health_checks_total", result="failed")


@pytest.mark.parametrize(
    ("health", "code"),
    [
        (HealthPolicy(observe=False), "refused"),
        (HealthPolicy(type="none"), "refused"),
        (POLICY, "no-local-port"),
        (POLICY, "closed"),
    ],
)
def test_dials_that_say_nothing_about_health(health: HealthPolicy, code: str) -> None:
    """Where it is turned off, and what was our own shortage or a stranger's request."""
    router = house_of(health=health)
    for _ in range(10):
        router.now += 10
        failed(router, code)
    assert (Health.UP, {}) == (status(router).health.health, router.watch.checks_failed)


def test_a_dial_to_a_server_that_was_removed_meanwhile() -> None:
    """Its status is nobody's concern any more."""
    router = house_of()
    router.apply(service_of(["ts2"]))
    failed(router)
    assert TS1 not in router.dispatcher.servers.statuses


def test_the_address_that_has_answered_goes_first() -> None:
    """For users and for checks, until another one answers; what is none of its own does nothing."""
    router = house_of()
    router.watch.names.resolved(TS1, ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    check_at(router, "192.0.2.3")
    assert ("192.0.2.3", "192.0.2.1", "192.0.2.2") == router.watch.addresses_of(TS1)
    router.watch.dialled(TS1, "192.0.2.2")
    router.watch.dialled(TS1, "198.51.100.1")
    router.watch.dialled(sid("removed"), "192.0.2.1")
    assert ("192.0.2.2", "192.0.2.3", "192.0.2.1") == router.watch.addresses_of(TS1)
    router.watch.names.resolved(TS1, ("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    assert "192.0.2.2" == router.watch.addresses_of(TS1)[0]


def check_at(router: InProcessRouter, address: str) -> None:
    """A check has found the server well, at that address."""
    router.watch.checked(TS1, CheckResult(ok=True, detail="confirmed", duration_s=0.1, address=address))


def test_a_check_that_could_not_be_made() -> None:
    """It counts for nothing, is told once, and again after one that could."""
    router = house_of()
    for _ in range(2):
        for _ in range(5):
            shortage = CheckResult(ok=False, detail="Too many open files", duration_s=0.0, made=False)
            router.watch.checked(TS1, shortage)
        check_at(router, "127.0.0.1")
    assert (Health.UP, {}) == (status(router).health.health, router.watch.checks_failed)
    assert ["checks_not_made", "checks_made_again"] * 2 == router.happened()
    assert 10 == count(router, "health_checks_total", result="not-made")


async def test_a_shortage_for_one_server_is_told_once() -> None:
    """Local ports are counted for each server: while one's run out, checks of the others go on being made."""
    router = house_of()
    router.watch.checked(TS1, CheckResult(ok=False, detail="refused", duration_s=0.1))
    shortage = CheckResult(ok=False, detail="no-local-port", duration_s=0.0, made=False)
    for _ in range(3):
        router.watch.checked(TS1, shortage)
        router.watch.checked(sid("ts2"), CheckResult(ok=True, detail="confirmed", duration_s=0.1))
    assert ["checks_not_made"] == router.happened()
    await take(router, service_of(["ts2"]))
    assert ["checks_not_made", "checks_made_again"] == router.happened()
    assert (set(), {sid("ts2")}) == (set(router.watch.checks_failed), set(router.watch.last_checks))
    await router.watch.stop()


# ---- the agent -------------------------------------------------------------------------------------


def says(router: InProcessRouter, line: bytes) -> None:
    """The agent answers."""
    router.now += 2
    router.watch.agent_answered(TS1, parse_line(line))


def test_the_agents_words_become_status() -> None:
    """Weight, limit and state; only a change of state or health is told."""
    router = house_of()
    says(router, b"50%")
    says(router, b"40% maxconn:10")
    assert (40, 10, router.now) == (
        status(router).agent.percent,
        status(router).agent.max_connections,
        status(router).agent.heard_at,
    )
    assert [] == router.happened()
    says(router, b"drain #patching tonight")
    says(router, b"drain #patching tonight")
    assert ["agent_changed"] == router.happened()
    assert (Intent.DRAIN, "agent: drain (patching tonight)") == (
        status(router).agent.intent,
        status(router).reason,
    )
    says(router, b"ready")
    says(router, b"30%")
    assert ["agent_changed", "agent_changed"] == router.happened()
    assert "agent: online" == status(router).reason


def test_words_that_are_not_known_are_counted() -> None:
    """A typing mistake in an agent's script shows in the metrics."""
    router = house_of()
    says(router, b"50% hello world")
    assert 2 == count(router, "agent_ignored_words_total")


def test_an_agent_that_fails_is_told_once() -> None:
    """And again after it has answered; every failure is counted."""
    router = house_of()
    for _ in range(3):
        router.watch.agent_answered(TS1, "Connection refused")
    says(router, b"100%")
    router.watch.agent_answered(TS1, "no line within 2 s")
    assert ["agent_failed", "agent_heard_again", "agent_failed"] == router.happened()
    assert ["Connection refused", "the agent answers again", "no line within 2 s"] == [
        e["detail"] for e in router.events.recent()
    ]
    assert 4 == count(router, "agent_failures_total")


def test_a_silent_agents_weight_grows_stale_and_its_drain_does_not() -> None:
    """Better an even share than one measured long ago; but only the agent takes back its drain."""
    router = house_of()
    says(router, b"10% drain maxconn:3")
    router.now += 59
    router.watch.agent_answered(TS1, "Connection refused")
    assert (10, 3) == (status(router).agent.percent, status(router).agent.max_connections)
    router.now += 2
    router.watch.agent_answered(TS1, "Connection refused")
    assert (100, None, Intent.DRAIN) == (
        status(router).agent.percent,
        status(router).agent.max_connections,
        status(router).agent.intent,
    )
    router.watch.agent_answered(TS1, "Connection refused")
    stale = [event for event in router.events.recent() if event["event"] == "agent_stale"]
    assert ["silent for 60 s: its weight and maxconn count no longer"] == [e["detail"] for e in stale]
    assert True is router.servers()[0]["agent"]["stale"]
    assert None is router.views.snapshot(relays={}, half_open=0).servers[0].agent_percent
    says(router, b"ready 30%")
    assert False is router.servers()[0]["agent"]["stale"]
    assert 30 == router.views.snapshot(relays={}, half_open=0).servers[0].agent_percent


def test_an_agent_that_was_never_heard_asks_for_nothing() -> None:
    """The metric of its percentage begins with its first word."""
    router = house_of()
    router.watch.agent_answered(TS1, "Connection refused")
    agent = router.servers()[0]["agent"]
    assert (None, False) == (agent["heard_ago"], agent["stale"])
    assert None is router.views.snapshot(relays={}, half_open=0).servers[0].agent_percent


def reason(router: InProcessRouter) -> str:
    """Return what `show servers` has under REASON."""
    return str(router.servers()[0]["reason"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"down", "agent: down"),
        (b"fail", "agent: down"),
        (b"stopped #disk full", "agent: down (disk full)"),
        (b"drain down", "agent: drain, down"),
        (b"maint #patch night", "agent: halt (patch night)"),
    ],
)
def test_the_agents_word_says_why(line: bytes, expected: str) -> None:
    """Also without a reason of its own, in the table and in the events."""
    router = house_of()
    says(router, line)
    assert expected == reason(router)
    assert {expected} == {event["detail"] for event in router.events.recent()}


def test_an_agents_down_is_a_server_that_goes_down() -> None:
    """An alert on `server_down` fires for it, and ends with `server_up`; a drain is neither."""
    router = house_of()
    says(router, b"drain")
    assert ["agent_changed"] == router.happened()
    says(router, b"down #rebooting")
    says(router, b"down #rebooting")
    says(router, b"up ready")
    assert [
        "agent_changed",
        "agent_changed",
        "server_down",
        "agent_changed",
        "server_up",
    ] == router.happened()
    down = next(event for event in router.events.recent() if event["event"] == "server_down")
    assert ("error", "agent: drain, down (rebooting)") == (down["level"], down["detail"])


def test_a_server_is_up_when_check_and_agent_agree() -> None:
    """A good check while the agent says down brings nothing up; its `up` while the check fails does not."""
    router = house_of()
    says(router, b"down")
    check(router, False, False, False, True, True)
    assert ["agent_changed", "server_down", "server_down"] == router.happened()
    says(router, b"up")
    assert ["agent_changed", "server_up"] == router.happened()[3:]
    says(router, b"down")
    check(router, False, False, False)
    says(router, b"up")
    assert ["agent_changed", "server_down", "server_down", "agent_changed"] == router.happened()[5:]


def test_check_operator_and_agent_keep_their_reasons() -> None:
    """Whoever says `online` while the agent says drain sees why the server still drains."""
    router = house_of()
    says(router, b"drain #updates tonight")
    router.watch.override(TS1, Override(Intent.DRAIN), reason="operator: drain")
    assert "operator: drain; agent: drain (updates tonight)" == reason(router)
    check(router, False, False, False, detail="Connection refused")
    assert "Connection refused; operator: drain; agent: drain (updates tonight)" == reason(router)
    check(router, True, True, detail="confirmed")
    router.watch.override(TS1, Override(), reason="operator: online")
    assert "agent: drain (updates tonight)" == reason(router)
    says(router, b"ready")
    assert "agent: online" == reason(router)


async def test_removing_an_agent_that_said_down_brings_its_server_up(watched: InProcessRouter) -> None:
    """And tells it."""
    await take(watched, service_of([local_server("ts1", agent=AgentPolicy(interval_s=600))]))
    watched.watch.agent_answered(TS1, parse_line(b"down"))
    await take(watched, service_of(["ts1"]))
    assert "server_up" == watched.happened()[-1]


def test_operator_and_agent_do_not_take_back_each_others_word() -> None:
    """The stricter counts; each has its own."""
    router = house_of()
    router.watch.override(TS1, Override(Intent.DRAIN), reason="operator: drain")
    says(router, b"ready")
    assert Intent.DRAIN is status(router).intent
    says(router, b"maint")
    router.watch.override(TS1, Override(), reason="operator: online")
    assert (Intent.ONLINE, Intent.HALT) == (status(router).intent, status(router).agent.intent)
    assert (router.now, "operator: online") == (status(router).changed_at, status(router).reason)


# ---- taking farms into use -------------------------------------------------------------------------


@pytest.fixture
async def watched() -> AsyncIterator[InProcessRouter]:
    """Return a router whose watch is stopped at the end."""
    router = InProcessRouter()
    yield router
    await router.watch.stop()
    await router.watch.stop()


async def take(router: InProcessRouter, *services: VirtualService) -> None:
    """Take a farm into use."""
    await router.watch.apply(Farm({each.name: each for each in services}), resolve_interval_s=3600)


async def test_servers_that_are_not_checked_are_up_at_once(watched: InProcessRouter) -> None:
    """`type: none`; addresses are known when the farm is in use."""
    await take(watched, service_of(["ts1", real_server("ts2", address=Endpoint("127.0.0.2", 1))]))
    assert (Health.UP, ("127.0.0.1",)) == (status(watched).health.health, status(watched).addresses)
    assert ("127.0.0.2",) == watched.watch.addresses_of(sid("ts2"))
    assert Health.CHECKING is watched.watch.health_of(sid("ts2")).health


async def test_a_reload_renews_only_what_has_changed(watched: InProcessRouter) -> None:
    """Monitors of servers that stay as they are go on; health history outlives a change of weight."""
    await take(watched, service_of(["ts1", "ts2", "ts3"]))
    before = dict(watched.watch._monitors)
    watched.dispatcher.servers.set(sid("ts2"), server_status(Health.DOWN), now=watched.now)
    await take(
        watched,
        service_of(["ts1", local_server("ts2", weight=7, health=HealthPolicy(interval_s=600)), "ts4"]),
    )
    after = watched.watch._monitors
    assert {"ts1", "ts2", "ts4"} == {id_.name for id_ in after}
    assert before[TS1] is after[TS1]
    assert before[sid("ts2")] is not after[sid("ts2")]
    assert Health.DOWN is watched.dispatcher.servers.statuses[sid("ts2")].health.health


async def test_a_change_of_send_proxy_renews_the_monitors(watched: InProcessRouter) -> None:
    """Its checks begin with a PROXY header now, or no more."""
    await take(watched, service_of(["ts1"]))
    assert b"" == watched.watch._monitors[TS1].preamble
    await take(watched, service_of(["ts1"], send_proxy=1))
    assert watched.watch._monitors[TS1].preamble.startswith(b"PROXY ")


async def test_without_an_agent_its_word_is_forgotten(watched: InProcessRouter) -> None:
    """An operator who removes the agent from the configuration ends its drain."""
    await take(watched, service_of([local_server("ts1", agent=AgentPolicy(interval_s=600))]))
    watched.watch.agent_answered(TS1, AgentReport(intent=Intent.DRAIN))
    await take(watched, service_of(["ts1"]))
    assert Intent.ONLINE is status(watched).agent.intent


async def test_a_name_that_does_not_resolve_is_told_and_keeps_its_addresses(watched: InProcessRouter) -> None:
    """An old address is better than none."""
    await take(watched, service_of(["ts1"]))
    for _ in range(3):
        watched.watch.names.resolved(TS1, "the name ts1.example.net cannot be resolved")
    assert ["name_not_resolved"] == [event for event in watched.happened() if "name" in event]
    assert ("127.0.0.1",) == status(watched).addresses
    watched.watch.names.resolved(TS1, ("127.0.0.9", "127.0.0.1"))
    assert ("127.0.0.9", "127.0.0.1") == status(watched).addresses
    watched.watch.names.resolved(sid("removed"), ("127.0.0.1",))
    assert sid("removed") not in watched.dispatcher.servers.statuses


async def test_a_name_that_does_not_resolve_is_tried_again_soon(watched: InProcessRouter) -> None:
    """Its line in /etc/hosts came a moment after the start: nobody waits for resolve_interval."""
    answers: list[tuple[str, ...] | str] = ["not found"]

    async def resolve(host: str) -> tuple[str, ...] | str:
        if host != "ts1.example.net":
            return (host,)
        return answers.pop(0) if answers else ("127.0.0.1",)

    watched.watch.names._resolve = resolve
    farm = service_of([local_server("ts2"), real_server("ts1")])
    await watched.watch.apply(Farm({farm.name: farm}), resolve_interval_s=3600)
    assert () == status(watched).addresses
    await wait_until_async(lambda: status(watched).addresses, 10, "the name to be resolved")
    assert ["name_not_resolved", "name_resolved"] == [each for each in watched.happened() if "name" in each]


async def test_names_are_resolved_again_and_again(watched: InProcessRouter) -> None:
    """A server may move; its name leads there at the next turn."""
    farm = service_of([local_server("ts2"), real_server("ts1", address=Endpoint("localhost", 1))])
    await watched.watch.apply(Farm({farm.name: farm}), resolve_interval_s=0.01)
    watched.watch.names.resolved(TS1, ("192.0.2.1",))
    await wait_until_async(
        lambda: "127.0.0.1" in status(watched).addresses, 5, "localhost to be resolved again"
    )


async def test_waiting_for_the_first_checks(watched: InProcessRouter) -> None:
    """Until every server of the service has been checked once, or the time is over."""
    slow = local_server("ts1", health=HealthPolicy(interval_s=600, timeout_s=600, type="tcp"), port=1)
    await take(watched, service_of(["ts2"]))
    await watched.watch.checked_once(SERVICE, timeout_s=60)
    watched.apply(service_of([slow, "ts2"]))
    watched.dispatcher.servers.set(TS1, ServerStatus(), now=watched.now)
    await watched.watch.checked_once(SERVICE, timeout_s=0.01)
    assert Health.CHECKING is status(watched).health.health
    check(watched, True)
    await watched.watch.checked_once(SERVICE, timeout_s=60)


async def test_no_service_waits_for_the_first_checks_of_another(watched: InProcessRouter) -> None:
    """One with a silent server is still being checked while the others take their users."""
    farm = service_of(["ts1"])
    other = virtual_service(local_server("ts1", id=ServerId("other", "ts1")), name="other")
    watched.dispatcher.apply(Farm({farm.name: farm, other.name: other}), now=watched.now)
    waiting = spawn(watched.watch.checked_once(SERVICE, timeout_s=60), name="waiting")
    await wait_until_async(lambda: SERVICE in watched.watch._first_checks._waiting, 5, "waiting for farm's")
    check(watched, True)
    await waiting
    assert Health.CHECKING is watched.dispatcher.servers.statuses[ServerId("other", "ts1")].health.health


async def test_a_service_that_a_reload_removes_is_waited_for_no_longer(watched: InProcessRouter) -> None:
    await watched.watch.checked_once("gone", timeout_s=60)
