"""What `status` warns of: from which event, until which, and what of the farm itself."""

import re
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.core.farm import AgentPolicy
from rdpbalancer.model import Health, Intent
from rdpbalancer.runtime import warnings
from rdpbalancer.runtime.warnings import MAX_WARNINGS, RULES, Rule, Warnings
from tests.unit.core.farms import SERVICE, server_status
from tests.unit.runtime.in_process_router import InProcessRouter, local_server, service_of, sid

BEGAN = 1_750_000_000.0


class Clock:
    """Unix time, moved by the test."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands."""
    return Clock()


@pytest.fixture
def told(clock: Clock) -> Warnings:
    """Return warnings of the real table."""
    return Warnings(wall=clock)


def note(told: Warnings, clock: Clock, event: str, **fields: Any) -> None:
    """Let an event happen now."""
    told.note({"event": event, "time": clock.now, "level": "error", **fields})


def shown(told: Warnings) -> list[tuple[str, str, float]]:
    """Return code, text and since, of a farm with one server."""
    rows = told.rows(services={SERVICE}, servers={(SERVICE, "ts1")})
    return [(row.code, row.text, row.since) for row in rows]


def test_a_state_that_is_not_written(told: Warnings, clock: Clock) -> None:
    """From the first failure until it is written again, however long that is."""
    note(told, clock, "state_not_written", detail="the disk is full")
    clock.now += 86_400
    ((code, text, since),) = shown(told)
    assert ("state-not-written", BEGAN) == (code, since)
    assert text.endswith("would be lost by a restart: the disk is full")
    note(told, clock, "state_written_again")
    assert [] == shown(told)


def test_a_reload_that_failed(told: Warnings, clock: Clock) -> None:
    """The first failure says since when, the last one why; a reload that works ends it."""
    note(told, clock, "reload_failed", detail="line 3")
    clock.now += 60
    note(told, clock, "reload_failed", detail="line 5")
    ((_, text, since),) = shown(told)
    assert BEGAN == since
    assert text.endswith("line 5")
    note(told, clock, "reloaded")
    assert [] == shown(told)


@pytest.mark.parametrize(
    ("event", "lasts_s"),
    [("relay_ended", 600), ("router_ended", 600), ("process_stuck", 600), ("accept_paused", 60)],
)
def test_what_happened_lately(told: Warnings, clock: Clock, event: str, lasts_s: float) -> None:
    """It is over by itself, and begins anew if it happens after that."""
    note(told, clock, event, detail="signal 9", service=SERVICE)
    clock.now += lasts_s - 1
    assert [event.replace("_", "-")] == [code for code, *_ in shown(told)]
    clock.now += 1
    assert [] == shown(told)
    note(told, clock, event, detail="signal 9", service=SERVICE)
    assert [clock.now] == [since for *_, since in shown(told)]


def test_each_server_for_itself(told: Warnings, clock: Clock) -> None:
    """One agent's silence ends with that agent's answer; a removed server's is nobody's concern."""
    for server in ("ts1", "ts2"):
        note(told, clock, "agent_failed", service=SERVICE, server=server, detail="refused")
    assert [f"the agent of {SERVICE}/ts1 does not answer: refused"] == [text for _, text, _ in shown(told)]
    note(told, clock, "agent_heard_again", service=SERVICE, server="ts2")
    assert 1 == len(shown(told))
    note(told, clock, "agent_heard_again", service=SERVICE, server="ts1")
    assert [] == shown(told)


def test_checks_that_cannot_be_made(told: Warnings, clock: Clock) -> None:
    """Whichever server it was that could not be asked first: until one can be asked again."""
    note(told, clock, "checks_not_made", service=SERVICE, server="ts1", detail="Too many open files")
    ((code, text, _),) = shown(told)
    assert "checks-not-made" == code
    assert text.endswith("not noticed: Too many open files")
    note(told, clock, "checks_made_again", service=SERVICE, server="ts2")
    assert [] == shown(told)


def test_warnings_are_bounded(told: Warnings, clock: Clock) -> None:
    """A thousand servers whose names do not resolve are no thousand lines, and no memory."""
    for number in range(10 * MAX_WARNINGS):
        note(told, clock, "name_not_resolved", service=SERVICE, server=f"ts{number}", detail="no")
    servers = {(SERVICE, f"ts{number}") for number in range(10 * MAX_WARNINGS)}
    assert MAX_WARNINGS == len(told.rows(services={SERVICE}, servers=servers))


def test_an_event_that_says_less_is_no_error(told: Warnings, clock: Clock) -> None:
    """An older supervisor's events have other fields."""
    note(told, clock, "relay_lost")
    assert ["a relay was lost, and ? sessions with it"] == [text for _, text, _ in shown(told)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_every_rule_is_of_a_documented_event(rule: Rule) -> None:
    """An event by another name would never be warned of: the logs' reference has them all."""
    reference = Path("docs/reference/logs.md").read_text()
    documented = set(re.findall(r"`([a-z_]+)`", reference))
    assert {rule.event, *rule.until} <= documented
    assert rule.until or rule.for_s, "a warning that never ends"


def test_a_service_that_nobody_can_use() -> None:
    """Not while its servers are being checked for the first time."""
    router = InProcessRouter(service_of(["ts1", "ts2"]))

    def codes() -> list[str]:
        return [row.code for row in warnings.of_farm(router.dispatcher, now=router.now, wall=BEGAN)]

    assert [] == codes()
    router.dispatcher.servers.set(sid("ts1"), server_status(Health.DOWN), now=router.now)
    assert [] == codes()
    router.dispatcher.servers.set(sid("ts2"), server_status(Health.CHECKING), now=router.now)
    assert [] == codes()
    down = server_status(Health.DOWN, changed_at=router.now - 30)
    router.dispatcher.servers.set(sid("ts2"), down, now=router.now)
    (row,) = warnings.of_farm(router.dispatcher, now=router.now, wall=BEGAN)
    assert ("no-servers", BEGAN - 30) == (row.code, row.since)


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ({"intent": Intent.DRAIN}, "its feedback agent says drain"),
        ({"intent": Intent.HALT}, "its feedback agent says halt"),
        ({"health": Health.DOWN}, "its feedback agent says down"),
        ({}, None),
    ],
)
def test_an_agent_that_disagrees(agent: dict[str, Any], expected: str | None) -> None:
    """The operator says online; whoever looks for the missing server reads who keeps it away."""
    router = InProcessRouter(service_of([local_server("ts1", agent=AgentPolicy()), "ts2"]))
    router.dispatcher.servers.set(sid("ts1"), server_status(agent=agent), now=router.now)
    rows = warnings.of_farm(router.dispatcher, now=router.now, wall=BEGAN)
    assert (1 if expected else 0) == len(rows)
    if expected:
        assert "agent-disagrees" == rows[0].code
        assert f"{SERVICE}/ts1: {expected}" in rows[0].text
    router.dispatcher.servers.set(sid("ts1"), server_status(intent=Intent.DRAIN, agent=agent), now=router.now)
    assert [] == warnings.of_farm(router.dispatcher, now=router.now, wall=BEGAN)


def test_a_warning_is_one_line(told: Warnings) -> None:
    """A file with two mistakes is told of with a line each; `status` would print the line end as a code."""
    told.note(
        {"event": "reload_failed", "time": BEGAN, "detail": "f.yaml:2:5: is missing\nf.yaml:4:5: unknown"}
    )
    (row,) = told.rows(services=(), servers=())
    assert row.text.endswith("is in use: f.yaml:2:5: is missing; f.yaml:4:5: unknown")
