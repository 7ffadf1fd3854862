"""The farm as configured: an immutable snapshot of virtual services and real servers, and what changed.

Everything here is what the configuration says. What is observed (health) and what is wanted at run time
(drain, runtime weight) lives in `core.status`, under the same identities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from rdpbalancer.model import Endpoint, Method, Mode, Security, ServerId

Network = IPv4Network | IPv6Network

DEFAULT_WEIGHT = 100
MAX_WEIGHT = 256


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How a real server is probed. `port` None: the server's own. Times in seconds."""

    type: str = "rdp"
    interval_s: float = 2.0
    fast_interval_s: float = 0.5
    timeout_s: float = 2.0
    rise: int = 2
    fall: int = 3
    observe: bool = True
    port: int | None = None


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """Where and how often the feedback agent on a real server is asked. Times in seconds."""

    port: int = 3333
    interval_s: float = 2.0
    timeout_s: float = 2.0
    stale_after_s: float = 60.0


@dataclass(frozen=True, slots=True)
class RealServer:
    """One terminal server as configured. `token_addresses`: further addresses a routing token may name.

    `max_connections` 0: no limit. `min_connections`: once full, the server takes new users again when it has
    no more sessions than that; 0: as soon as there is a place.
    """

    id: ServerId
    address: Endpoint
    weight: int = DEFAULT_WEIGHT
    max_connections: int = 0
    min_connections: int = 0
    backup: bool = False
    token_addresses: tuple[Endpoint, ...] = ()
    health: HealthPolicy = HealthPolicy()
    agent: AgentPolicy | None = None


@dataclass(frozen=True, slots=True)
class PersistencePolicy:
    """How users are recognised and for how long (seconds, from the end of the last session)."""

    methods: tuple[Method, ...] = (Method.ROUTING_TOKEN, Method.RDP_COOKIE, Method.SOURCE_IP)
    timeout_s: float = 3600.0
    max_entries: int = 100_000
    wait_when_full: bool = True
    strip_domain: bool = False
    min_user_chars: int = 1
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64
    collision_sources: int = 8
    collision_next_method: bool = False


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The deadlines of a connection's stages, in seconds. `idle_s` 0: a silent session is never ended."""

    handshake_s: float = 5.0
    connect_s: float = 5.0
    confirm_s: float = 10.0
    queue_s: float = 30.0
    idle_s: float = 12 * 3600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Admission limits of one service. 0: no limit (half open: half of the total).

    The rate is connections per `source_rate_interval_s`.
    """

    max_sessions: int = 0
    source_sessions: int = 0
    source_half_open: int = 0
    source_rate: int = 0
    source_rate_interval_s: float = 10.0
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualService:
    """One virtual service (VIP) with its real servers, in the order of the configuration."""

    name: str
    listen: tuple[Endpoint, ...]
    servers: tuple[RealServer, ...]
    mode: Mode = Mode.RDP
    scheduler: str = "weighted-least-connections"
    persistence: PersistencePolicy = PersistencePolicy()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    require_security: Security = Security.ANY
    accept_proxy: tuple[Network, ...] = ()
    send_proxy: int = 0  # PROXY protocol version towards the servers, 0: none
    slow_start_s: float = 0.0
    kick_on_down: bool = False
    redispatch: int = 2

    def server(self, name: str) -> RealServer | None:
        """Return the real server of that name."""
        for server in self.servers:
            if server.id.name == name:
                return server
        return None


@dataclass(frozen=True, slots=True)
class Farm:
    """Every virtual service, by name, in the order of the configuration."""

    services: Mapping[str, VirtualService] = field(default_factory=dict)

    def servers(self) -> dict[ServerId, RealServer]:
        """Return every real server of every service."""
        return {server.id: server for service in self.services.values() for server in service.servers}

    def server(self, server_id: ServerId) -> RealServer | None:
        """Return the real server of that identity, or None if it is not configured (any more)."""
        service = self.services.get(server_id.service)
        return service.server(server_id.name) if service else None


@dataclass(frozen=True, slots=True)
class FarmDiff:
    """What a reload changes."""

    services_added: tuple[str, ...]
    services_removed: tuple[str, ...]
    services_changed: tuple[str, ...]
    servers_added: tuple[ServerId, ...]
    servers_removed: tuple[ServerId, ...]
    servers_changed: tuple[ServerId, ...]

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


def diff(old: Farm, new: Farm) -> FarmDiff:
    """Compare two farms by identity (configured names). A service differs if anything of it does."""
    old_servers, new_servers = old.servers(), new.servers()
    return FarmDiff(
        services_added=tuple(name for name in new.services if name not in old.services),
        services_removed=tuple(name for name in old.services if name not in new.services),
        services_changed=tuple(
            name for name in new.services if name in old.services and old.services[name] != new.services[name]
        ),
        servers_added=tuple(server for server in new_servers if server not in old_servers),
        servers_removed=tuple(server for server in old_servers if server not in new_servers),
        servers_changed=tuple(
            server
            for server in new_servers
            if server in old_servers and old_servers[server] != new_servers[server]
        ),
    )
