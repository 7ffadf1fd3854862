"""What the supervisor and the router say to each other.

Any change to a message changes `PROTOCOL_VERSION`.
"""

from typing import Any

import msgspec

PROTOCOL_VERSION = 2


class SupervisorHello(msgspec.Struct, tag="hello", array_like=True):
    """First word of the supervisor. A router that speaks another version refuses with a clear error.

    `generation`: how often the service has been upgraded since its start. `reverted`: the version that was
    left again and why, if this is the code from before an upgrade. `code_changed`: other code is installed.
    """

    version: int
    generation: int
    reverted: dict[str, Any] | None = None
    code_changed: bool = False


class AddListener(msgspec.Struct, tag="listener", array_like=True):
    """Supervisor to router, with a listening socket. `name` is as in `PrepareConfig.listeners`."""

    name: str


class AddRelay(msgspec.Struct, tag="relay-up", array_like=True):
    """Supervisor to router, with the router's end of a relay's line. `pid`: the relay's process.

    `outdated`: its sessions are to move to the others: a reload has made it one too many, or an upgrade has
    replaced it. `previous`: it runs the code from before an upgrade, and serves until `ReplaceRelays`.
    """

    pid: int
    outdated: bool = False
    previous: bool = False


class ReplaceRelays(msgspec.Struct, tag="replace", array_like=True):
    """Supervisor to router: relays of this code are there; have these earlier ones move their sessions."""

    relays: list[int]


class StartRouter(msgspec.Struct, tag="begin", array_like=True):
    """Supervisor to router: you have all listeners and relays; start."""


class PingRouter(msgspec.Struct, tag="ping", array_like=True):
    """Is your event loop turning? Answered from the loop, with `PongRouter` of the same number."""

    number: int


class Reload(msgspec.Struct, tag="reload", array_like=True):
    """Supervisor to router: SIGHUP came, read the configuration anew."""


class SupervisorEvent(msgspec.Struct, tag="happened", array_like=True):
    """Supervisor to router: an event of its own, for `show events` (it is in the log already)."""

    event: dict[str, Any]


class StopRouter(msgspec.Struct, tag="stop", array_like=True):
    """Supervisor to router: accept no more, let sessions end for `drain_s` seconds, end the rest, exit."""

    drain_s: float


class UpgradeAnswer(msgspec.Struct, tag="upgrade-answer", array_like=True):
    """Supervisor to router: the answer to `Upgrade`. `problem` not empty: nothing has changed, and why."""

    problem: str


class RetireRouter(msgspec.Struct, tag="retire", array_like=True):
    """Supervisor to router: accept no more, finish what is half open, write everything down, exit.

    Sessions stay with their relays; connections wait in the kernel for the next router.
    """


class ConfigPrepared(msgspec.Struct, tag="granted", array_like=True):
    """Supervisor to router: answers `PrepareConfig`. `problem` not empty: nothing was changed, and why."""

    number: int
    problem: str


class ConfigCommitted(msgspec.Struct, tag="committed", array_like=True):
    """Supervisor to router: answers `CommitConfig`: what it wants is so. `surplus`: relays to retire."""

    surplus: list[int]


class ListenersOpened(msgspec.Struct, tag="opened", array_like=True):
    """Supervisor to router, after `AddListener`: what could not be opened before is open now."""


class ReopenLog(msgspec.Struct, tag="reopen-log", array_like=True):
    """Supervisor to router: SIGUSR1 came, the log file may have been rotated."""


class PongRouter(msgspec.Struct, tag="pong", array_like=True):
    """Router to supervisor: the answer to `PingRouter`."""

    number: int


class RouterReady(msgspec.Struct, tag="ready", array_like=True):
    """Router to supervisor: connections are being taken. `status`: one line for the service manager."""

    status: str


class CommitConfig(msgspec.Struct, tag="reloaded", array_like=True):
    """Router to supervisor: another configuration is in use now; it is kept where the last one was.

    The second half of a reload: what the kept configuration does not name is closed. Answered by
    `ConfigCommitted`.
    """


class AbandonConfig(msgspec.Struct, tag="abandon", array_like=True):
    """Router to supervisor: the reload of this `PrepareConfig` has failed; close what was opened for it."""

    number: int


class Upgrade(msgspec.Struct, tag="upgrade", array_like=True):
    """Router to supervisor: the operator wants the newly installed code to run."""


class StatusLine(msgspec.Struct, tag="status", array_like=True):
    """Router to supervisor, every now and then: the one line that the service manager shows."""

    text: str


class PrepareConfig(msgspec.Struct, tag="want", array_like=True):
    """Router to supervisor, the first half of a reload: open these, and close nothing yet.

    `listeners`: name to address; what is open under the same name stays as it is.
    """

    number: int
    listeners: dict[str, str]


ToRouter = (
    SupervisorHello
    | AddListener
    | AddRelay
    | ReplaceRelays
    | StartRouter
    | PingRouter
    | Reload
    | StopRouter
    | RetireRouter
    | ConfigPrepared
    | ConfigCommitted
    | ListenersOpened
    | ReopenLog
    | UpgradeAnswer
    | SupervisorEvent
)
FromRouter = PongRouter | RouterReady | StatusLine | PrepareConfig | CommitConfig | AbandonConfig | Upgrade

TO_ROUTER: msgspec.msgpack.Decoder[ToRouter] = msgspec.msgpack.Decoder(ToRouter)
FROM_ROUTER: msgspec.msgpack.Decoder[FromRouter] = msgspec.msgpack.Decoder(FromRouter)
