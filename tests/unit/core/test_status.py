"""A server as it is now, and what follows."""

from itertools import product
from typing import Any

import pytest

from rdpbalancer.core import status as st
from rdpbalancer.core.farm import MAX_WEIGHT
from rdpbalancer.core.status import Override, ServerStatus
from rdpbalancer.model import Health, Intent
from tests.unit.core.farms import real_server, server_status

ONLINE, DRAIN, HALT = Intent.ONLINE, Intent.DRAIN, Intent.HALT

# What the operator and the agent want, together: (new users, returning users, routing tokens).
ACCEPTS = {
    (ONLINE, False, ONLINE): (True, True, True),
    (ONLINE, False, DRAIN): (False, True, True),
    (ONLINE, False, HALT): (False, False, False),
    (ONLINE, True, ONLINE): (True, True, True),  # strict belongs to a drain, alone it means nothing
    (ONLINE, True, DRAIN): (False, True, True),
    (ONLINE, True, HALT): (False, False, False),
    (DRAIN, False, ONLINE): (False, True, True),
    (DRAIN, False, DRAIN): (False, True, True),
    (DRAIN, False, HALT): (False, False, False),
    (DRAIN, True, ONLINE): (False, False, True),
    (DRAIN, True, DRAIN): (False, False, True),
    (DRAIN, True, HALT): (False, False, False),
    (HALT, False, ONLINE): (False, False, False),
    (HALT, False, DRAIN): (False, False, False),
    (HALT, False, HALT): (False, False, False),
    (HALT, True, ONLINE): (False, False, False),
    (HALT, True, DRAIN): (False, False, False),
    (HALT, True, HALT): (False, False, False),
}


@pytest.mark.parametrize(
    ("health", "agent_health", "intent", "strict", "agent_intent"),
    list(product(Health, (Health.UP, Health.DOWN), Intent, (False, True), Intent)),
)
def test_who_may_come(
    *,
    health: Health,
    agent_health: Health,
    intent: Intent,
    strict: bool,
    agent_intent: Intent,
) -> None:
    """Up by probe and by agent, and wanted by operator and agent: the stricter word holds each time.

    Before its first check has ended, a server takes who is at home there, and nobody new.
    """
    status = server_status(
        health, intent=intent, strict=strict, agent={"health": agent_health, "intent": agent_intent}
    )
    up = health is Health.UP and agent_health is Health.UP
    expected = ACCEPTS[intent, strict, agent_intent]
    if health is Health.CHECKING:
        expected = (False, *expected[1:])
    if health is Health.DOWN or agent_health is Health.DOWN:
        expected = (False, False, False)
    actual = (st.takes_new(real_server("ts1"), status), st.takes_bound(status), st.takes_token(status))
    assert up == st.is_up(status)
    assert expected == actual


@pytest.mark.parametrize(("intent", "agent"), list(product(Intent, Intent)))
def test_the_stricter_wish_holds(intent: Intent, agent: Intent) -> None:
    strictness = [ONLINE, DRAIN, HALT]
    expected = max(intent, agent, key=strictness.index)
    assert expected == st.wanted(server_status(intent=intent, agent={"intent": agent}))


@pytest.mark.parametrize(
    ("configured", "known"),
    [
        (0, {}),
        (100, {"runtime_weight": 0}),
        (100, {"agent": {"percent": 0}}),
        (100, {"agent": {"weight": 0}}),
        (0, {"agent": {"weight": 50}}),
        (100, {"runtime_weight": 0, "agent": {"weight": 50}}),
    ],
)
def test_weight_0_is_a_drain(configured: int, known: dict[str, Any]) -> None:
    """Whoever said 0: no new users, but those who are at home there return."""
    server, status = real_server("ts1", weight=configured), server_status(**known)
    assert 0 == st.base_weight(server, status)
    assert not st.takes_new(server, status)
    assert st.takes_bound(status)
    assert st.takes_token(status)


@pytest.mark.parametrize(
    ("configured", "runtime", "agent", "expected"),
    [
        (100, None, {}, 100),
        (100, 40, {}, 40),
        (0, 40, {}, 40),
        (100, None, {"percent": 50}, 50),
        (100, 40, {"percent": 50}, 20),
        (1, None, {"percent": 1}, 0.01),
        (200, None, {"percent": 200}, MAX_WEIGHT),
        (100, None, {"percent": 9_999_999}, MAX_WEIGHT),
        (100, None, {"weight": 7}, 7),
        (100, 40, {"weight": 7}, 7),
        (100, None, {"weight": 999}, MAX_WEIGHT),
    ],
)
def test_weights_are_the_product_of_what_is_wanted(
    configured: int, runtime: int | None, agent: dict[str, Any], expected: float
) -> None:
    """The operator's weight stands in for the configured one; the agent scales either, within the bound."""
    status = server_status(runtime_weight=runtime, agent=agent)
    assert expected == pytest.approx(st.base_weight(real_server("ts1", weight=configured), status))


@pytest.mark.parametrize(
    ("slow_start_s", "ramp_from_at", "now", "expected"),
    [
        (0, None, 1000, 50),
        (0, 1000.0, 1000, 50),
        (60, None, 1000, 50),
        (60, 1000.0, 999, 0.5),
        (60, 1000.0, 1000, 0.5),
        (60, 1000.0, 1006, 5),
        (60, 1000.0, 1030, 25),
        (60, 1000.0, 1060, 50),
        (60, 1000.0, 9999, 50),
    ],
)
def test_slow_start_raises_the_weight_in_a_line(
    slow_start_s: float, ramp_from_at: float | None, now: float, expected: float
) -> None:
    """From a hundredth of the share, not from nothing, up to all of it."""
    server, status = real_server("ts1", weight=50), server_status(ramp_from_at=ramp_from_at)
    assert expected == pytest.approx(st.effective_weight(server, status, slow_start_s=slow_start_s, now=now))


@pytest.mark.parametrize(
    ("configured", "agent", "expected"),
    [(0, {}, 0), (20, {}, 20), (20, {"max_connections": 5}, 5), (20, {"max_connections": 0}, 0)],
)
def test_the_agent_knows_best_how_many_it_can_take(
    configured: int, agent: dict[str, Any], expected: int
) -> None:
    server = real_server("ts1", max_connections=configured)
    assert expected == st.capacity(server, server_status(agent=agent))


def test_an_override_that_says_nothing_leaves_the_configuration() -> None:
    assert Override(Intent.ONLINE, strict=False, weight=None) == Override()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (server_status(reason="confirmed"), "confirmed"),
        (server_status(Health.DOWN, check_reason="refused", reason="operator: weight 5"), "refused"),
        (server_status(intent=Intent.HALT, operator_reason="operator: halt", reason="x"), "operator: halt"),
        (server_status(agent={"intent": Intent.DRAIN, "reason": "patches"}), "agent: drain (patches)"),
        (server_status(agent={"health": Health.DOWN}, reason="operator: online"), "agent: down"),
        (
            server_status(
                Health.DOWN,
                intent=Intent.DRAIN,
                check_reason="refused",
                operator_reason="operator: drain",
                agent={"intent": Intent.HALT},
            ),
            "refused; operator: drain; agent: halt",
        ),
        (server_status(Health.DOWN, reason="first check"), "first check"),
    ],
)
def test_why(status: ServerStatus, expected: str) -> None:
    """All who keep users away are named; if nobody does, what the last change came from."""
    assert expected == st.why(status)
