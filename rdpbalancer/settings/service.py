"""The schema of a virtual service and of its real servers."""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from rdpbalancer.model import Endpoint, Method, Mode, Security
from rdpbalancer.settings.fields import (
    ALLOW_FALSE,
    FALSE_AS_NONE,
    MANY,
    Count,
    Deadline,
    Duration,
    Interval,
    IpAddress,
    ListenAddresses,
    Name,
    Networks,
    RateLimit,
    ServerAddress,
    Switch,
    Whole,
)
from rdpbalancer.settings.units import Rate

SchedulerName = Literal[
    "weighted-least-connections",
    "weighted-round-robin",
    "source-hash",
    "random-two-choices",
    "first-available",
]
WhenFull = Literal["wait", "redispatch"]
OnCollision = Literal["keep", "next-method"]
CheckType = Literal["rdp", "tcp", "none"]
SendProxy = Literal["off", "v1", "v2"]
OnDown = Literal["keep", "kick"]

RDP_METHODS: Final = (Method.ROUTING_TOKEN, Method.RDP_COOKIE, Method.SOURCE_IP)
# A binding takes about half a kilobyte. This many are what loading, listing and expiring are measured with.
MAX_BINDINGS: Final = 1_000_000


class Model(BaseModel):
    """A mapping of the file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class PersistenceSettings(Model):
    """How a returning user is brought back to the server that has their desktop."""

    methods: tuple[Method, ...] = Field(
        default=RDP_METHODS,
        description="How a returning user is recognised, in this order. In mode tcp the default is an empty"
        " list (no persistence) and only source-ip is possible.",
    )
    timeout: Duration = Field(
        default=3600.0, description="How long a binding is kept after the last session that used it ended."
    )
    max_entries: Whole = Field(
        default=100_000,
        ge=1,
        le=MAX_BINDINGS,
        description="How many bindings are kept; beyond it the least recently used idle one gives way.",
    )
    when_full: WhenFull = Field(
        default="wait",
        description="What happens when the bound server is at max_connections: wait in the queue for that"
        " server, or redispatch to another one.",
    )
    strip_domain: Switch = Field(
        default=False, description="Ignore the domain in a user name: DOMAIN\\user and user are one key."
    )
    min_user_chars: Whole = Field(
        default=1,
        ge=0,
        le=9,
        description="How many characters of the user must be left in a cookie that mstsc cut to 9"
        " characters of DOMAIN\\user; with fewer it identifies nobody and the next method is used.",
    )
    ipv4_prefix: Whole = Field(
        default=32, ge=1, le=32, description="The bits of an IPv4 source address that make the source-ip key."
    )
    ipv6_prefix: Whole = Field(
        default=64,
        ge=1,
        le=128,
        description="The bits of an IPv6 source address that make the source-ip key.",
    )
    collision_sources: Whole = Field(
        default=8,
        ge=1,
        le=MANY,
        description="A cookie from more addresses than this at once is taken for a cut domain name rather"
        " than a person, an address with more sessions than this for a gateway, and a warning is logged.",
    )
    on_collision: OnCollision = Field(
        default="keep",
        description="What new connections with such a key do: keep its binding, or use the next-method.",
    )


class HealthCheckSettings(Model):
    """How the balancer finds out whether a real server is up."""

    type: CheckType = Field(
        default="rdp",
        description="rdp sends a connection request and expects an answer, tcp only connects, none takes the"
        " server for up. In mode tcp the default is tcp, and rdp is not possible.",
    )
    interval: Interval = Field(default=2.0, description="The time between two checks of one server.")
    fast_interval: Interval = Field(
        default=0.5, description="The time between two checks after a first failure, until it is settled."
    )
    timeout: Deadline = Field(default=2.0, description="How long one check may take.")
    rise: Whole = Field(
        default=2, ge=1, le=100, description="How many checks in a row must succeed for a server to come up."
    )
    fall: Whole = Field(
        default=3, ge=1, le=100, description="How many checks in a row must fail for a server to go down."
    )
    observe: Switch = Field(
        default=True, description="Count failed connections of users as failed checks, too."
    )
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = Field(
        default=None, description="The port that is checked; null: the port of the server's address."
    )


class FeedbackAgentSettings(Model):
    """The agent on the real servers that reports how much load they can take."""

    port: Whole = Field(default=3333, ge=1, le=65535, description="The agent's port on the real server.")
    interval: Interval = Field(default=2.0, description="The time between two questions to one agent.")
    timeout: Deadline = Field(default=2.0, description="How long the agent may take to answer.")
    stale_after: Duration = Field(
        default=60.0, description="After how long without an answer the server counts 100 % again."
    )


class TimeoutSettings(Model):
    """How long each stage of a connection may take."""

    handshake: Deadline = Field(
        default=5.0, description="How long a client may take to send its complete connection request."
    )
    connect: Deadline = Field(
        default=5.0, description="How long a real server may take to accept the connection."
    )
    confirm: Deadline = Field(
        default=10.0, description="How long a real server may take to answer the connection request."
    )
    queue: Duration = Field(
        default=30.0, description="How long a client waits for a place on a full server; 0: not at all."
    )
    idle: Deadline = Field(
        default=12 * 3600.0, description="How long a session may go without a byte in either direction."
    )


class PerSource(Model):
    """What a single source address may do."""

    sessions: Count = Field(default=0, description="Sessions at once; 0: no limit.")
    half_open: Count = Field(
        default=0,
        description="Connections at once that have not reached a server yet; 0: half of all, which are"
        " global.limits.max_half_open.",
    )
    rate: RateLimit = Field(
        default=Rate(0, 10.0), description="New connections in an interval, as in 20/10s; 0/10s: no limit."
    )


class LimitSettings(Model):
    """Who may connect to a virtual service, and how many."""

    max_sessions: Count = Field(default=0, description="Sessions of the service at once; 0: no limit.")
    per_source: PerSource = Field(
        default=PerSource(), description="Bounds that hold for each source address."
    )
    allow: Networks = Field(
        default=(), description="The networks that may connect; an empty list: everybody who is not denied."
    )
    deny: Networks = Field(default=(), description="The networks that may not connect, even if also allowed.")


class ServiceDefaults(Model):
    """What virtual services have in common, and `defaults` may hold."""

    mode: Mode = Field(
        default=Mode.RDP,
        description="rdp reads the connection request; tcp passes every byte unread (RD Gateway on 443).",
    )
    scheduler: SchedulerName = Field(
        default="weighted-least-connections",
        description="How the server is chosen for a user who is not bound to one.",
    )
    persistence: PersistenceSettings = Field(
        default=PersistenceSettings(),
        description="Persistence: the bindings between users and servers.",
    )
    health_check: HealthCheckSettings = Field(
        default=HealthCheckSettings(), description="Health checks of the real servers."
    )
    feedback_agent: Annotated[FeedbackAgentSettings | None, FALSE_AS_NONE] = Field(
        default=None,
        description="The agent on the real servers that reports their load; null or false: there is none,"
        " {}: there is one, with the defaults below.",
        json_schema_extra=ALLOW_FALSE,
    )
    timeouts: TimeoutSettings = Field(
        default=TimeoutSettings(), description="The deadlines of a connection, stage by stage."
    )
    limits: LimitSettings = Field(
        default=LimitSettings(), description="Access lists, and bounds on sessions and connections."
    )
    require_security: Security = Field(
        default=Security.ANY,
        description="The least security that a client has to offer. In mode tcp only any is possible.",
    )
    accept_proxy: Networks = Field(
        default=(),
        description="The networks (other balancers) from which the PROXY protocol, v1 or v2, is required.",
    )
    send_proxy: SendProxy = Field(
        default="off",
        description="Tell the real servers the client's address with the PROXY protocol. Windows does not"
        " understand it.",
    )
    slow_start: Duration = Field(
        default=0.0, description="Over how long a server's weight rises after it came up; 0: at once."
    )
    on_down: OnDown = Field(
        default="keep", description="What happens to the live sessions of a server that goes down."
    )
    redispatch: Whole = Field(
        default=2,
        ge=0,
        le=16,
        description="How many more servers are tried when one does not take the connection.",
    )


class RealServerSettings(Model):
    """A terminal server. Once loaded, `health_check` and `feedback_agent` are complete: nothing to merge."""

    name: Name = Field(
        description="The server's name, unique within its service. Bindings and health belong to the name."
    )
    address: ServerAddress = Field(
        description="Where the server is reached: an IP address or a host name, and the port."
    )
    weight: Whole = Field(
        default=100,
        ge=0,
        le=256,
        description="The server's share, relative to the others; 0: only users who are bound to it.",
    )
    max_connections: Count = Field(default=0, description="Sessions at once; 0: no limit.")
    min_connections: Count = Field(
        default=0,
        description="Once the server is full it takes new users again when it has no more sessions than this;"
        " 0: as soon as there is a place. Those who are bound to it still come.",
    )
    backup: Switch = Field(default=False, description="Used only when no ordinary server is usable.")
    token_addresses: tuple[IpAddress, ...] = Field(
        default=(),
        description="Other addresses under which the server names itself in routing tokens, with the port.",
    )
    health_check: HealthCheckSettings = Field(
        default=HealthCheckSettings(),
        description="What differs from the service's health_check; what is not given is taken from there.",
    )
    feedback_agent: Annotated[FeedbackAgentSettings | None, FALSE_AS_NONE] = Field(
        default=None,
        description="What differs from the service's feedback_agent; false: no agent on this server.",
        json_schema_extra=ALLOW_FALSE,
    )

    @property
    def token_targets(self) -> tuple[Endpoint, ...]:
        """Every address by which a routing token may select this server."""
        return (self.address, *self.token_addresses)


class VirtualServiceSettings(ServiceDefaults):
    """An address that clients connect to, and the servers behind it."""

    name: Name = Field(description="The service's name, unique in the configuration.")
    listen: ListenAddresses = Field(
        description="The address and port that clients connect to; one, or a list of them."
    )
    real_servers: tuple[RealServerSettings, ...] = Field(
        min_length=1, description="The terminal servers behind the service; at least one."
    )
