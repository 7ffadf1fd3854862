"""A real server as it is now: observed health, what is wanted of it, and what follows for new connections."""

from dataclasses import dataclass

from rdpbalancer.core.farm import MAX_WEIGHT, RealServer
from rdpbalancer.core.feedback import AgentState
from rdpbalancer.core.health import HealthState
from rdpbalancer.model import Health, Intent

# A server whose ramp has just begun gets a hundredth of its share, not nothing: with no share at all it would
# stay idle until a tick of the clock and then be the least loaded by far.
_RAMP_START = 0.01

_STRICTNESS = (Intent.ONLINE, Intent.DRAIN, Intent.HALT)


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What is known and wanted of one real server.

    `intent`, `strict`, `runtime_weight` are the operator's; `agent` is the feedback agent's; `health` is
    observed. `addresses` are the server's resolved IP addresses. `ramp_from_at`: when slow start began
    (monotonic), None: not ramping. `reason` says in words why the last change came about; `check_reason` and
    `operator_reason` why health and intent are what they are, for one must not hide the other (`why`).
    """

    health: HealthState = HealthState()
    intent: Intent = Intent.ONLINE
    strict: bool = False
    runtime_weight: int | None = None
    agent: AgentState = AgentState()
    addresses: tuple[str, ...] = ()
    ramp_from_at: float | None = None
    changed_at: float = 0.0
    reason: str = ""
    check_reason: str = ""
    operator_reason: str = ""


@dataclass(frozen=True, slots=True)
class Override:
    """What the operator has said of a server at run time. It outlives restarts. None: as configured.

    `reason` is the operator's own, `actor` who it was, `since` when (Unix time).
    """

    intent: Intent = Intent.ONLINE
    strict: bool = False
    weight: int | None = None
    reason: str = ""
    actor: str = ""
    since: float = 0.0


def is_up(status: ServerStatus) -> bool:
    """Whether the server can be reached, by all that is observed (probes and the agent's own word)."""
    return status.health.health is Health.UP and status.agent.health is not Health.DOWN


def may_be_up(status: ServerStatus) -> bool:
    """Whether nothing says that the server is down: it is up, or its first check has not ended yet."""
    return status.health.health is not Health.DOWN and status.agent.health is not Health.DOWN


def why(status: ServerStatus) -> str:
    """Return in words what keeps users away from the server, or else why it last changed.

    Check, operator and agent may each have a reason; whoever is told one of them alone looks in the wrong
    place (`online` does not help while the agent says drain).
    """
    agent = status.agent
    reasons = [
        status.check_reason if status.health.health is Health.DOWN else "",
        status.operator_reason if status.intent is not Intent.ONLINE else "",
        agent.said if agent.health is Health.DOWN or agent.intent is not Intent.ONLINE else "",
    ]
    return "; ".join(reason for reason in reasons if reason) or status.reason


def wanted(status: ServerStatus) -> Intent:
    """Return the stricter of what the operator and the agent want."""
    if status.intent is status.agent.intent:  # nearly always, and asked for every server at every connection
        return status.intent
    return max(status.intent, status.agent.intent, key=_STRICTNESS.index)


def takes_new(server: RealServer, status: ServerStatus) -> bool:
    """Whether a user without a binding may be sent there. Weight 0 counts as draining."""
    return is_up(status) and wanted(status) is Intent.ONLINE and base_weight(server, status) > 0


def may_come_up(server: RealServer, status: ServerStatus) -> bool:
    """Whether the server is being checked for the first time, and will take new users if it is found up."""
    if status.health.health is not Health.CHECKING or status.agent.health is Health.DOWN:
        return False
    return wanted(status) is Intent.ONLINE and base_weight(server, status) > 0


def takes_bound(status: ServerStatus) -> bool:
    """Whether a returning user may be sent there: also while draining, unless strictly.

    And while the first check has not ended: the desktop is there or nowhere. Whether the server is up is then
    found out by the dial, within the connect and confirm timeouts. Elsewhere users would get a new desktop,
    and be bound to it, only because a check is slow when the balancer starts.
    """
    if not may_be_up(status):
        return False
    intent = wanted(status)
    return intent is Intent.ONLINE or (intent is Intent.DRAIN and not _strictly(status))


def takes_token(status: ServerStatus) -> bool:
    """Whether a broker's routing token is honoured: by every server that may be up and is not halted.

    A strict drain honours tokens too: the broker would answer a connection elsewhere with the same
    redirection, for ever.
    """
    return may_be_up(status) and wanted(status) is not Intent.HALT


def _strictly(status: ServerStatus) -> bool:
    return status.strict and status.intent is Intent.DRAIN


def base_weight(server: RealServer, status: ServerStatus) -> float:
    """Return the weight wanted by configuration, operator and agent, before slow start."""
    configured = server.weight if status.runtime_weight is None else status.runtime_weight
    if status.agent.weight is not None:
        return float(min(status.agent.weight, MAX_WEIGHT)) if configured else 0.0
    return min(configured * status.agent.percent / 100, float(MAX_WEIGHT))


def effective_weight(server: RealServer, status: ServerStatus, *, slow_start_s: float, now: float) -> float:
    """Return the share the server gets now: the base weight times the slow-start ramp."""
    weight = base_weight(server, status)
    if not slow_start_s or status.ramp_from_at is None:
        return weight
    ramp = (now - status.ramp_from_at) / slow_start_s
    return weight * min(1.0, max(_RAMP_START, ramp))


def capacity(server: RealServer, status: ServerStatus) -> int:
    """Return how many sessions the server may have, 0: no limit. The agent's word goes before ours."""
    if status.agent.max_connections is not None:
        return status.agent.max_connections
    return server.max_connections


def standing(server: RealServer, status: ServerStatus) -> tuple[bool, bool, bool, int]:
    """Return what of a server's status matters to those who wait for a slot: whom it takes, and how many."""
    return takes_new(server, status), takes_bound(status), takes_token(status), capacity(server, status)


def emptying(server: RealServer, status: ServerStatus, *, sessions: int, was: bool) -> bool:
    """Whether the server has been full and takes no new users before it has fallen to `min_connections`.

    `sessions` that it has, without places that are reserved: a login that fails fills no server. `was`: the
    answer of before.
    """
    most = capacity(server, status)
    if not server.min_connections or not most:
        return False
    return sessions >= most or (was and sessions > server.min_connections)
