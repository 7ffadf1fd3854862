"""What the supervisor and the router say to each other.

Any change to a message changes `PROTOCOL_VERSION`.
"""

import msgspec

PROTOCOL_VERSION = 1


class Hello(msgspec.Struct, tag="hello", array_like=True):
    """First word of the supervisor. A router that speaks another version refuses with a clear error."""

    version: int


class Listener(msgspec.Struct, tag="listener", array_like=True):
    """Supervisor to router, with a listening socket. `name` is as in `Want.listeners`."""

    name: str


class RelayUp(msgspec.Struct, tag="relay-up", array_like=True):
    """Supervisor to router, with the router's end of a relay's line. `pid`: the relay's process."""

    pid: int


class Begin(msgspec.Struct, tag="begin", array_like=True):
    """Supervisor to router: you have all listeners and relays; start."""


class Ping(msgspec.Struct, tag="ping", array_like=True):
    """Is your event loop turning? Answered from the loop, with `Pong` of the same number."""

    number: int


class Reload(msgspec.Struct, tag="reload", array_like=True):
    """Supervisor to router: SIGHUP came, read the configuration anew."""


class Stop(msgspec.Struct, tag="stop", array_like=True):
    """Supervisor to router: accept no more, let sessions end for `drain_s` seconds, end the rest, exit."""

    drain_s: float


class Granted(msgspec.Struct, tag="granted", array_like=True):
    """Supervisor to router: the answer to `Want`.

    `problem` not empty: nothing was changed, and why. `surplus`: relays that are to end with their sessions.
    """

    number: int
    problem: str
    surplus: list[int]


class Pong(msgspec.Struct, tag="pong", array_like=True):
    """Router to supervisor: the answer to `Ping`."""

    number: int


class Ready(msgspec.Struct, tag="ready", array_like=True):
    """Router to supervisor: connections are being taken. `status`: one line for the service manager."""

    status: str


class Want(msgspec.Struct, tag="want", array_like=True):
    """Router to supervisor: what a new configuration wants of it.

    `listeners`: name to address; what is open under the same name stays as it is, what is not listed is
    closed. `drain_s`: how long sessions may go on after SIGTERM.
    """

    number: int
    listeners: dict[str, str]
    relays: int
    drain_s: float


ToRouter = Hello | Listener | RelayUp | Begin | Ping | Reload | Stop | Granted
FromRouter = Pong | Ready | Want

TO_ROUTER: msgspec.msgpack.Decoder[ToRouter] = msgspec.msgpack.Decoder(ToRouter)
FROM_ROUTER: msgspec.msgpack.Decoder[FromRouter] = msgspec.msgpack.Decoder(FromRouter)
