"""A simulated terminal server as its conversations see it: settings, counters, desktops, live sessions."""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from rdpbalancer.lab.channel import LabChannel, LabError, Traffic
from rdpbalancer.lab.desktops import Broker, Desktop, Desktops
from rdpbalancer.lab.handover import Handover, Handovers
from rdpbalancer.model import Endpoint
from rdpbalancer.wire.request import ConnectionRequest
from rdpbalancer.wire.token import encode_msts

# Tests look at the last requests; a benchmark makes millions.
KEPT_REQUESTS: Final = 1000

# One process with 2,000 sessions is the aim; ten times as many hold no surprise for its memory.
MAX_CONNECTIONS: Final = 20_000


@dataclass(slots=True)
class Counters(Traffic):
    """What has happened to a server since it was made. Bytes include probes and broken requests."""

    accepted: int = 0
    requests: int = 0  # complete requests that are not probes
    probes: int = 0  # requests equal to the PROBE of `rdpbalancer.wire.confirm` that nothing followed
    malformed: int = 0  # connections that began with something else
    unfinished: int = 0  # connections that ended before a complete request
    confirms: int = 0  # whole answers sent, of any kind
    logins: int = 0
    redirects: int = 0
    tokens: int = 0  # requests that carried a routing token
    unknown_tokens: int = 0  # of these, closed without a word (`gnome`)
    resets: int = 0  # connections that we reset, as a fault demanded
    resets_received: int = 0
    turned_away: int = 0  # beyond MAX_CONNECTIONS


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request with its bytes (preconnection included, nothing behind) and where it came from."""

    request: ConnectionRequest
    raw: bytes
    client: Endpoint


@dataclass(slots=True, eq=False)
class Session:
    """A connection that has been confirmed. `user` is who logged in, before that the cookie.

    `handover`: it came by a token that its host had made (`lab.handover`).
    """

    channel: LabChannel
    received: ReceivedRequest
    user: str | None
    desktop: Desktop | None = None

    handover: Handover | None = None

    @property
    def carries_token(self) -> bool:
        """Whether the client was sent here by a routing token."""
        return self.received.request.token is not None


@dataclass(kw_only=True, eq=False)
class TerminalServer:
    """Settings may be changed while it runs; connections accepted later follow them.

    `security` and `behaviour` are the keys of `SECURITY` and `BEHAVIOURS`. `advertised` is the address that
    the broker puts in tokens, where it is not the one listened on. With `certificate` and `key`, programs
    that begin TLS after the confirm get it. `handovers`: how `gnome` redirects; made if need be.
    """

    name: str = "ts1"
    host: str = "127.0.0.1"
    port: int = 0
    security: str = "rdp"
    behaviour: str = "desktop-login"
    stream_bytes: int = 1_000_000
    after_stream: Literal["half-close", "stay"] = "half-close"
    updates_per_s: float = 10.0
    update_bytes: int = 4096  # the largest screen update
    after_token: Literal["hold", "close"] = "hold"
    broker: Broker | None = None
    handovers: Handovers | None = None
    advertised: Endpoint | None = None
    certificate: Path | None = None
    key: Path | None = None
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    clock: Callable[[], float] = time.time

    counters: Counters = field(init=False, default_factory=Counters)
    requests: deque[ReceivedRequest] = field(init=False, default_factory=lambda: deque(maxlen=KEPT_REQUESTS))
    desktops: Desktops = field(init=False)
    live: dict[Session, None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or any(character.isspace() for character in self.name):
            raise LabError("bad-option", f"a server's name is one word, not {self.name!r}")
        if self.broker is not None and ":" in self.home.host:
            raise LabError("bad-option", "a routing token cannot name an IPv6 address: advertise an IPv4 one")
        self.desktops = Desktops(self.name)
        if self.behaviour == "gnome" and self.handovers is None:
            self.handovers = Handovers(self.clock)

    @property
    def sessions(self) -> list[Session]:
        """The live sessions, oldest first. Probes are none."""
        return list(self.live)

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint(self.host, self.port)

    @property
    def home(self) -> Endpoint:
        """The address by which the broker knows it."""
        return self.advertised or self.endpoint

    def redirection(self, session: Session, user: str) -> bytes | None:
        """Return the routing token by which `user` is sent elsewhere, None: in."""
        if self.handovers is not None:
            came = session.handover
            return self.handovers.begin(user) if came is None else self.handovers.go_on(came)
        home = self._home_elsewhere(session, user)
        return None if home is None else encode_msts(home)

    def admits(self, received: ReceivedRequest) -> tuple[bool, Handover | None]:
        """Say whether a request is answered at all, and who has come by a token of this host's own."""
        token = received.request.token
        if self.handovers is None or token is None:
            return True, None
        came = self.handovers.take(token)
        self.counters.unknown_tokens += came is None
        return came is not None, came

    def _home_elsewhere(self, session: Session, user: str) -> Endpoint | None:
        """Return where to send `user`, None: in. Who was sent by a token stays, as in a real farm."""
        if self.broker is None or session.carries_token:
            return None
        home = self.broker.home(user)
        return None if home == self.home else home

    def begin(self, session: Session) -> None:
        """The session has its confirm."""
        self.live[session] = None

    def log_in(self, session: Session, user: str) -> tuple[Desktop, bool]:
        """Connect the session to the desktop of `user`. True: it was there already."""
        desktop, returned = self.desktops.arrive(user, now=self.clock())
        session.user, session.desktop = user, desktop
        self.counters.logins += 1
        if self.broker is not None:
            self.broker.assign(user, self.home)
        return desktop, returned

    def end(self, session: Session) -> None:
        """The session is over; its desktop stays."""
        self.live.pop(session, None)
        if session.desktop is not None:
            self.desktops.leave(session.desktop)
            session.desktop = None
