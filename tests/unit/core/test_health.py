"""Rise and fall."""

import pytest

from rdpbalancer.core.farm import HealthPolicy
from rdpbalancer.core.health import HealthState, next_check_s, observe
from rdpbalancer.model import Health

POLICY = HealthPolicy(rise=2, fall=3, interval_s=2.0, fast_interval_s=0.5)
UP = HealthState(Health.UP, 0, 10.0)
DOWN = HealthState(Health.DOWN, 0, 10.0)


def after(state: HealthState, results: str, policy: HealthPolicy = POLICY) -> HealthState:
    """Return the state after these results, '+' good and '-' bad, one a second from 100 s on."""
    for second, result in enumerate(results):
        state = observe(state, ok=result == "+", policy=policy, now=100.0 + second)
    return state


def test_a_server_starts_unknown() -> None:
    assert HealthState(Health.CHECKING, 0, 0.0) == HealthState()


@pytest.mark.parametrize(("result", "health"), [("+", Health.UP), ("-", Health.DOWN)])
def test_the_first_result_decides(result: str, health: Health) -> None:
    """Whatever rise and fall say: nobody waits for a second opinion at the start."""
    assert HealthState(health, 0, 100.0) == after(HealthState(), result)


@pytest.mark.parametrize(
    ("start", "results", "expected"),
    [
        (UP, "-", HealthState(Health.UP, 1, 10.0)),
        (UP, "--", HealthState(Health.UP, 2, 10.0)),
        (UP, "---", HealthState(Health.DOWN, 0, 102.0)),
        (UP, "--+", HealthState(Health.UP, 0, 10.0)),
        (UP, "--+--", HealthState(Health.UP, 2, 10.0)),
        (UP, "--+---", HealthState(Health.DOWN, 0, 105.0)),
        (UP, "+++", UP),
        (DOWN, "+", HealthState(Health.DOWN, 1, 10.0)),
        (DOWN, "++", HealthState(Health.UP, 0, 101.0)),
        (DOWN, "+-+", HealthState(Health.DOWN, 1, 10.0)),
        (DOWN, "---", DOWN),
        (UP, "---++", HealthState(Health.UP, 0, 104.0)),
    ],
)
def test_rise_and_fall_count_results_in_a_row(
    start: HealthState, results: str, expected: HealthState
) -> None:
    """Exactly `fall` bad ones bring a server down, exactly `rise` good ones up, one between starts over."""
    assert expected == after(start, results)


def test_rise_and_fall_of_one_change_at_once() -> None:
    policy = HealthPolicy(rise=1, fall=1)
    assert HealthState(Health.DOWN, 0, 100.0) == after(UP, "-", policy)
    assert HealthState(Health.UP, 0, 100.0) == after(DOWN, "+", policy)


@pytest.mark.parametrize(
    ("results", "interval_s"),
    [("", 2.0), ("-", 0.5), ("--", 0.5), ("---", 2.0), ("---+", 0.5), ("---++", 2.0), ("-+", 2.0)],
)
def test_checks_come_fast_while_in_doubt(results: str, interval_s: float) -> None:
    """Results against the present health call for the next one soon, either way."""
    assert interval_s == pytest.approx(next_check_s(after(UP, results), POLICY, jitter=0.5))


def test_an_unknown_server_is_checked_at_the_normal_interval() -> None:
    assert pytest.approx(2.0) == next_check_s(HealthState(), POLICY, jitter=0.5)


@pytest.mark.parametrize(("jitter", "pause_s"), [(0.0, 1.8), (0.25, 1.9), (0.75, 2.1), (0.999999, 2.2)])
def test_jitter_moves_a_check_by_up_to_a_tenth(jitter: float, pause_s: float) -> None:
    assert pause_s == pytest.approx(next_check_s(UP, POLICY, jitter=jitter), abs=1e-5)
