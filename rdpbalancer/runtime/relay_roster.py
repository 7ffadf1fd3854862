"""Which relays a router has been given, and which of them are of earlier code and make way."""

import socket

from rdpbalancer.ipc.router_messages import AddRelay
from rdpbalancer.relay.service import RelayService


class RelayRoster:
    """Passes the supervisor's relays on to the pool.

    Not before `serve`: relays tell their sessions at once, and pin bindings of a farm that must be there.
    """

    def __init__(self, relays: RelayService) -> None:
        self._relays = relays
        self._serving = False
        self._given: list[tuple[int, socket.socket]] = []
        self._outdated: list[int] = []
        self._previous: list[int] = []

    def add(self, message: AddRelay, channel: socket.socket) -> None:
        """The supervisor has passed on a relay's channel."""
        self._given.append((message.pid, channel))
        if message.outdated:
            self._outdated.append(message.pid)
        if message.previous:
            self._previous.append(message.pid)
        self._pass_on()

    def serve(self) -> None:
        """Ask the relays for their sessions, from now on."""
        self._serving = True
        self._pass_on()

    def _pass_on(self) -> None:
        if self._serving:
            for pid, channel in self._given:
                self._relays.add(pid, channel)
            self._given.clear()

    def migrate_outdated(self) -> None:
        """Have the relays that are too old or too many give their sessions to the others."""
        self._relays.migrate_out(self._outdated)

    def replace(self, relays: list[int]) -> None:
        """Relays of this code are there: those of the code before an upgrade give their sessions to them."""
        self._relays.migrate_out(relays)
        self._previous = [pid for pid in self._previous if pid not in relays]

    def retiring(self) -> list[int]:
        """Return the relays that give their sessions away, or will as soon as there are others."""
        living = self._relays.sessions()
        return [*self._relays.retiring(), *(pid for pid in self._previous if pid in living)]
