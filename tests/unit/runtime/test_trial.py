"""When a new version has shown that it works, and when it is to be left again."""

import pytest

from rdpbalancer.runtime.trial import MAX_DEATHS, READY_S, TRIAL_S, Trial


@pytest.fixture
def trial() -> Trial:
    """Return the trial of a version that has begun at 100 s."""
    return Trial(began_at=100.0)


def test_a_router_that_is_never_ready(trial: Trial) -> None:
    """It has its time, and not a moment more."""
    assert "" == trial.failed(100.0 + READY_S - 0.1)
    assert "was not ready within 20 s" in trial.failed(100.0 + READY_S)
    trial.died("router", "exit status 1: boom")
    assert "exit status 1: boom" in trial.failed(100.0 + READY_S)


def test_a_version_that_works_for_a_minute_stays(trial: Trial) -> None:
    """Counted from READY on; a death or two do not matter."""
    assert not trial.passed(100.0 + TRIAL_S)
    trial.router_ready(110.0)
    for _ in range(MAX_DEATHS - 1):
        trial.died("router", "killed by SIGKILL")
    trial.router_ready(150.0)
    assert ("", False) == (trial.failed(110.0 + TRIAL_S - 0.1), trial.passed(110.0 + TRIAL_S - 0.1))
    assert ("", True) == (trial.failed(110.0 + TRIAL_S), trial.passed(110.0 + TRIAL_S))


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("role", ["router", "relay"])
def test_a_process_that_dies_again_and_again(trial: Trial, role: str, *, ready: bool) -> None:
    """Before READY or after it, a router or a relay: three times is a defect, and the last one is told."""
    if ready:
        trial.router_ready(101.0)
    for number in range(MAX_DEATHS):
        assert "" == trial.failed(102.0)
        trial.died(role, f"exit status {number}")
    assert f"its {role} ended: exit status {MAX_DEATHS - 1}" == trial.failed(102.0)
    assert not trial.passed(102.0 + TRIAL_S)


def test_deaths_of_routers_and_relays_are_counted_apart(trial: Trial) -> None:
    """Two and two are chance twice."""
    trial.router_ready(101.0)
    for role in ("router", "relay") * (MAX_DEATHS - 1):  # each as often as chance may have it
        trial.died(role, "killed by SIGKILL")
    assert "" == trial.failed(102.0)
