"""Types that all packages share. They hold no behaviour beyond showing themselves."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import msgspec


class ServerId(NamedTuple):
    """A real server's identity: its configured names. A changed weight or address changes nothing here."""

    service: str
    name: str

    def __str__(self) -> str:
        return f"{self.service}/{self.name}"


class Endpoint(NamedTuple):
    """A TCP address: `host` is an IP literal (IPv6 without brackets) or a name, `port` is 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Mode(StrEnum):
    """What a virtual service speaks."""

    RDP = "rdp"
    TCP = "tcp"


class Method(StrEnum):
    """How a returning user is recognised. Each method has bindings of its own."""

    ROUTING_TOKEN = "routing-token"
    RDP_COOKIE = "rdp-cookie"
    SOURCE_IP = "source-ip"


class Key(msgspec.Struct, frozen=True, order=True, gc=False, array_like=True):
    """What a binding is kept under: the method that gave it and its value. Unique within one service.

    A million of them are no business of the garbage collector, which would stop the loop to look at each.
    """

    method: Method
    value: str

    def __iter__(self) -> Iterator[str]:
        """Yield its parts, as what orders rows by keys takes them."""
        yield self.method
        yield self.value


class Reason(StrEnum):
    """Why a connection went to its server."""

    TOKEN = "token"
    COOKIE = "cookie"
    SOURCE_IP = "source-ip"
    SCHEDULED = "scheduled"
    BACKUP = "backup"
    REDISPATCH = "redispatch"


class Health(StrEnum):
    """What is observed of a real server."""

    CHECKING = "checking"
    UP = "up"
    DOWN = "down"


class Intent(StrEnum):
    """What the operator, or the feedback agent, wants of a real server."""

    ONLINE = "online"
    DRAIN = "drain"
    HALT = "halt"


class Security(StrEnum):
    """The least security a client has to offer (`require_security`)."""

    ANY = "any"
    TLS = "tls"
    NLA = "nla"


class CloseSide(StrEnum):
    """Who ended a session."""

    CLIENT = "client"
    SERVER = "server"
    BALANCER = "balancer"


class CloseReason(StrEnum):
    """How a session ended."""

    EOF = "eof"  # both directions were closed in order; the side is who closed first
    RESET = "reset"  # one side reset the connection
    TIMEOUT = "timeout"  # the peer stopped acknowledging (keepalive, TCP_USER_TIMEOUT)
    IDLE = "idle"  # no byte either way for timeouts.idle
    KICKED = "kicked"  # by the operator
    SERVER_DOWN = "server-down"  # on_down: kick
    RELAY_LOST = "relay-lost"  # the relay process that held it ended
    SHUTDOWN = "shutdown"  # the service was stopped
    ERROR = "error"  # an error of ours; there is an `internal_error` record beside it


class SessionFacts(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a session when it is handed to its relay.

    The relay carries it as opaque bytes and gives it back, so that a new router knows every live session.
    `client` is `ip:port`; `user` is the cookie as sent, decoded; `key` is the persistence key's value;
    `started_at` is Unix time; `*_ms` are milliseconds; protocols are the RDP_NEG numbers, None: not given.
    `token_kind` is what the token says: an `address`, a `number` that only its maker knows, or `opaque`.
    Relays give facts of an older or newer version back: fields are only ever added, at the end.
    """

    id: str
    service: str
    server: str
    client: str
    source: str
    user: str | None = None
    method: Method | None = None
    key: str | None = None
    reason: Reason = Reason.SCHEDULED
    attempts: int = 1
    token: str | None = None
    requested_protocols: int | None = None
    selected_protocol: int | None = None
    negotiation_failure: int | None = None
    correlation_id: str | None = None
    preconnection: str | None = None
    handshake_ms: float = 0.0
    queue_ms: float = 0.0
    connect_ms: float = 0.0
    started_at: float = 0.0
    token_kind: str | None = None

    @property
    def server_id(self) -> ServerId:
        """The real server that has the session."""
        return ServerId(self.service, self.server)

    @property
    def binding_key(self) -> Key | None:
        """The binding that the session keeps alive, if it has one."""
        if self.method is None or self.key is None:
            return None
        return Key(self.method, self.key)


class SessionEnd(msgspec.Struct, frozen=True, array_like=True):
    """How and when a session ended. `ended_at` is Unix time."""

    close_reason: CloseReason
    close_side: CloseSide
    bytes_up: int
    bytes_down: int
    ended_at: float


class SessionRecord(msgspec.Struct, frozen=True):
    """The one record of a session, made at its end. `relay` is a process id; 0: it reached no relay."""

    facts: SessionFacts
    end: SessionEnd
    relay: int

    @property
    def duration_s(self) -> float:
        """How long the session lived, never negative even if the wall clock was set back."""
        return max(0.0, self.end.ended_at - self.facts.started_at)
