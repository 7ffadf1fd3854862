"""Rise and fall: what a row of check results says about a real server.

Health is observed and nothing else. What the operator or the agent wants is kept apart, in `core.status`.
"""

from dataclasses import dataclass

from rdpbalancer.core.farm import HealthPolicy
from rdpbalancer.model import Health


@dataclass(frozen=True, slots=True)
class HealthState:
    """Observed health, the results in a row that speak against it, and since when it holds (monotonic)."""

    health: Health = Health.CHECKING
    contrary: int = 0
    since_at: float = 0.0


def observe(state: HealthState, *, ok: bool, policy: HealthPolicy, now: float) -> HealthState:
    """Return the state after one more result.

    While `checking` the first result decides. Later `policy.rise` good results in a row bring a server up
    and `policy.fall` bad ones bring it down; one result that agrees with the present health starts over.
    """
    verdict = Health.UP if ok else Health.DOWN
    if state.health is verdict:
        return state if state.contrary == 0 else HealthState(state.health, 0, state.since_at)
    needed = 1 if state.health is Health.CHECKING else policy.rise if ok else policy.fall
    contrary = state.contrary + 1
    if contrary >= needed:
        return HealthState(verdict, 0, now)
    return HealthState(state.health, contrary, state.since_at)


def next_check_s(state: HealthState, policy: HealthPolicy, *, jitter: float) -> float:
    """Return the pause before the next check, in seconds.

    In doubt (results against the present health) checks come at the fast interval, so that a dead server is
    noticed soon and a returned one is used soon. `jitter` in [0, 1) spreads the probes of many servers over
    the interval by up to a tenth either way.
    """
    interval_s = policy.fast_interval_s if state.contrary else policy.interval_s
    return interval_s * (0.9 + 0.2 * jitter)
