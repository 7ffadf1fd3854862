"""Stand-ins for the processes and sockets that a supervisor's parts work with."""

import socket
from collections.abc import Mapping, Sequence

import msgspec

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.settings.schema import Settings


class FakeRouterProcess:
    """A router that notes what it is sent."""

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = ready
        self.serves = ready
        self.child: object | None = object()
        self.sent: list[msgspec.Struct] = []
        self.killed = False

    def send(self, message: msgspec.Struct, sockets: Sequence[socket.socket] = ()) -> None:
        """Note a message."""
        del sockets
        self.sent.append(message)

    def kill(self) -> None:
        """Be gone."""
        self.killed, self.child = True, None

    def types(self) -> list[type]:
        """Return the types of the messages so far."""
        return [type(message) for message in self.sent]


class FakeListeners:
    """Listeners that open all but `impossible`, and note what is asked of them."""

    def __init__(self, impossible: str = "") -> None:
        self.impossible = impossible
        self.prepared: dict[int, list[str]] = {}
        self.followed: list[Settings] = []

    def prepare(self, number: int, wanted: Mapping[str, str], settings: Settings) -> None:
        """Open what a new configuration wants."""
        del settings
        if self.impossible in wanted.values():
            raise ConfigurationError("listen", f"{self.impossible} is in use")
        self.prepared[number] = list(wanted)

    def follow(self, settings: Settings) -> None:
        """Follow a configuration."""
        self.followed.append(settings)

    def states(self) -> list[object]:
        """Leave nothing to the next program."""
        return []


class FakeRelays:
    """Relay processes of which `surplus` are too many; `failing`: none can be started."""

    def __init__(self, *, surplus: Sequence[int] = (), failing: bool = False) -> None:
        self.surplus = list(surplus)
        self.failing = failing
        self.wanted = 0
        self.adjusted = 0
        self.missing_started = 0

    def adjust(self) -> list[int]:
        """Start what is missing."""
        self.adjusted += 1
        if self.failing:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return self.surplus

    def start_missing(self) -> None:
        """Start what is missing, later."""
        self.missing_started += 1

    def states(self) -> list[object]:
        """Leave nothing to the next program."""
        return []

    def outdated(self) -> list[int]:
        """There is none of other code."""
        return []
