"""What the router and a relay say to each other, and what two relays between which sessions move.

Any change to a message changes `PROTOCOL_VERSION`; the tags are what goes over the wire, whatever the
classes are called. Both directions of the router's channel begin with `RelayHello`. A process that is
greeted in another version refuses with a clear error and goes on with what it has: a relay keeps its
sessions, a router uses other relays.
"""

import msgspec

from rdpbalancer.model import CloseReason, CloseSide

PROTOCOL_VERSION = 3


class RelayHello(msgspec.Struct, tag="hello", array_like=True):
    """First word, both ways. The relay answers with its sessions, in `LiveSessions` messages.

    `report_interval_s`: how often the relay reports byte counts. `router`: a word of the router's own, given
    back in the answer: what a relay has said to an earlier router is in the line, too, and not for this one.
    """

    version: int
    pid: int
    report_interval_s: float = 5.0
    router: str = ""


class SessionTransfer(msgspec.Struct, array_like=True):
    """A session between two processes, beside its two sockets (the client's and the server's).

    `facts` is opaque to the relay. `to_server` and `to_client` are bytes already read that come first
    (after those of `SessionChunk`). `idle_s` 0: no idle limit. The rest is the past of a session that
    migrates: bytes delivered, seconds since the last one, who has closed, which directions are done, and
    how often it moved.
    """

    id: str
    facts: bytes
    to_server: bytes
    to_client: bytes
    idle_s: float
    bytes_up: int = 0
    bytes_down: int = 0
    silent_s: float = 0.0
    closed_first: CloseSide | None = None
    up_done: bool = False
    down_done: bool = False
    moves: int = 0


class SessionChunk(msgspec.Struct, tag="part", array_like=True):
    """Relay to relay: bytes of the session that comes next, more than fit into its own message. In order."""

    up: bool
    data: bytes


class Adopt(msgspec.Struct, tag="adopt", array_like=True):
    """Router to relay, with the client's and the server's socket of each: these sessions are yours.

    Several at once, for most of what a session costs its relay is being woken up for it.
    """

    sessions: list[SessionTransfer]


class MigrateOut(msgspec.Struct, tag="surrender", array_like=True):
    """Router to a relay that has been told to retire, with one end of a line to another one.

    Give it up to this number of your sessions, then close the line.
    """

    sessions: int


class MigrateIn(msgspec.Struct, tag="inherit", array_like=True):
    """Router to relay, with the other end of the line: sessions of another relay come over it.

    Answered at once with an empty `SessionsArrived`: nothing is sent before somebody is there to take it.
    `move` is the router's name for it, unique for as long as any line lives.
    """

    move: str


class MigratedSession(SessionTransfer, tag="moved", array_like=True):
    """Relay to relay, with both sockets: this session is yours."""


class NoMessages(msgspec.Struct, tag="unheard", array_like=True):
    """The giving end of a line between two relays hears nothing."""


class Kick(msgspec.Struct, tag="kick", array_like=True):
    """Router to relay: end these sessions."""

    ids: list[str]
    reason: CloseReason


class RetireRelay(msgspec.Struct, tag="retire", array_like=True):
    """Router to relay: exit when your last session has ended. No `Adopt` follows."""


class SessionState(msgspec.Struct, array_like=True):
    """A live session as its relay knows it.

    `moves`: how often it has moved. Two relays' words may come in either order; more moves are newer.
    """

    id: str
    facts: bytes
    bytes_up: int
    bytes_down: int
    moves: int = 0


class LiveSessions(msgspec.Struct, tag="live", array_like=True):
    """Relay to router after `RelayHello`: the sessions it holds, in parts. `last`: there are no more."""

    sessions: list[SessionState]
    last: bool


class SessionsArrived(msgspec.Struct, tag="arrived", array_like=True):
    """Relay to router: these sessions have come to it. `last`: no more will come by this move."""

    move: str
    sessions: list[SessionState]
    last: bool


class ByteCounts(msgspec.Struct, tag="counts", array_like=True):
    """Relay to router, at the report interval: (id, bytes up, bytes down) of sessions that moved."""

    counts: list[tuple[str, int, int]]


class SessionEnded(msgspec.Struct, array_like=True):
    """A session's end. Carries the facts, for a router that never knew the session."""

    id: str
    facts: bytes
    close_reason: CloseReason
    close_side: CloseSide
    bytes_up: int
    bytes_down: int
    ended_at: float


class SessionsEnded(msgspec.Struct, tag="ends", array_like=True):
    """Relay to router: sessions that have ended."""

    sessions: list[SessionEnded]


class PingRelay(msgspec.Struct, tag="ping", array_like=True):
    """Is your event loop turning? Answered with `PongRelay` of the same number, from the loop."""

    number: int


class PongRelay(msgspec.Struct, tag="pong", array_like=True):
    """The answer to `PingRelay`."""

    number: int


class StopRelay(msgspec.Struct, tag="stop", array_like=True):
    """Supervisor to relay: end all sessions and exit."""


ToRelay = RelayHello | Adopt | Kick | RetireRelay | MigrateOut | MigrateIn | PingRelay | StopRelay
FromRelay = RelayHello | LiveSessions | SessionsArrived | ByteCounts | SessionsEnded | PongRelay
MigrationMessage = SessionChunk | MigratedSession

TO_RELAY: msgspec.msgpack.Decoder[ToRelay] = msgspec.msgpack.Decoder(ToRelay)
FROM_RELAY: msgspec.msgpack.Decoder[FromRelay] = msgspec.msgpack.Decoder(FromRelay)
MIGRATION_MESSAGES: msgspec.msgpack.Decoder[MigrationMessage] = msgspec.msgpack.Decoder(MigrationMessage)
NO_MESSAGES: msgspec.msgpack.Decoder[NoMessages] = msgspec.msgpack.Decoder(NoMessages)
