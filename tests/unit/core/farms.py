"""Small farms: servers, statuses and views with only what a test is about spelled out."""

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from rdpbalancer.core import status as st
from rdpbalancer.core.farm import Limits, PersistencePolicy, RealServer, VirtualService
from rdpbalancer.core.feedback import AgentState
from rdpbalancer.core.health import HealthState
from rdpbalancer.core.schedule import Candidate
from rdpbalancer.core.servers import ServerView
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Endpoint, Health, Intent, Key, Method, Mode, ServerId, SessionFacts

SERVICE = "ts-cluster"
ALICE = Key(Method.RDP_COOKIE, "alice")


def sid(name: str) -> ServerId:
    """Return the identity of the server of that name."""
    return ServerId(SERVICE, name)


def real_server(name: str, **configured: Any) -> RealServer:
    """Return a configured server; its address is its own name's unless given."""
    configured.setdefault("address", Endpoint(f"{name}.example.net", 3389))
    return RealServer(configured.pop("id", sid(name)), **configured)


def virtual_service(*servers: RealServer, limits: Limits | None = None, **configured: Any) -> VirtualService:
    """Return a virtual service over these servers."""
    return VirtualService(
        name=configured.pop("name", SERVICE),
        listen=(Endpoint("0.0.0.0", 3389),),
        servers=servers,
        mode=Mode.RDP,
        limits=limits or Limits(),
        persistence=configured.pop("persistence", PersistencePolicy()),
        **configured,
    )


def server_status(health: Health = Health.UP, **known: Any) -> ServerStatus:
    """Return the status of a server that is up and online unless told otherwise."""
    agent = AgentState(**known.pop("agent", {}))
    return ServerStatus(health=HealthState(health), agent=agent, **known)


# What can be the matter with a server, by the name the tests give it.
STATUSES: dict[str, ServerStatus] = {
    "online": server_status(),
    "draining": server_status(intent=Intent.DRAIN),
    "strictly-draining": server_status(intent=Intent.DRAIN, strict=True),
    "halted": server_status(intent=Intent.HALT),
    "down": server_status(Health.DOWN),
    "unknown": server_status(Health.CHECKING),
    "weight-0": server_status(runtime_weight=0),
    "agent-draining": server_status(agent={"intent": Intent.DRAIN}),
    "agent-halted": server_status(agent={"intent": Intent.HALT}),
    "agent-down": server_status(agent={"health": Health.DOWN}),
    "agent-0-percent": server_status(agent={"percent": 0}),
}


def view(server: RealServer | str, status: ServerStatus | str = "online", *, load: int = 0) -> ServerView:
    """Return one server for one decision."""
    configured = real_server(server) if isinstance(server, str) else server
    now_status = STATUSES[status] if isinstance(status, str) else status
    weight = st.effective_weight(configured, now_status, slow_start_s=0, now=0)
    return ServerView(configured, now_status, load, weight)


def service_of(views: list[ServerView], **configured: Any) -> VirtualService:
    """Return a virtual service over the servers of these views."""
    return virtual_service(*(each.server for each in views), **configured)


def choice(name: str, weight: float = 100, load: int = 0) -> Candidate:
    """Return a server that a scheduler may choose."""
    return Candidate(sid(name), weight, load)


def facts(
    session: str, server: str = "ts1", *, key: Key | None = None, source: str = "192.0.2.1"
) -> SessionFacts:
    """Return what is known of a session."""
    return SessionFacts(
        id=session,
        service=SERVICE,
        server=server,
        client=f"{source}:50000",
        source=source,
        method=key.method if key else None,
        key=key.value if key else None,
    )


class Dice:
    """Chance as the test wants it: these numbers, over and over."""

    def __init__(self, *numbers: float) -> None:
        self._numbers: Iterator[float] = cycle(numbers)

    def random(self) -> float:
        """Return the next number."""
        return next(self._numbers)
