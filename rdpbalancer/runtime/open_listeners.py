"""The supervisor's listening sockets: opened, tried again, kept by the service manager."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping

from rdpbalancer.ipc.router_messages import AddListener
from rdpbalancer.runtime import socket_activation
from rdpbalancer.runtime.listeners import CONTROL, Listeners, wanted_listeners
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.runtime.router_process import RouterProcess
from rdpbalancer.runtime.upgrade import ListenerState, taken_over
from rdpbalancer.settings.schema import Settings
from rdpbalancer.telemetry.events import Events

# A listener that could not be opened is tried again this often.
_OPEN_AGAIN_S = 5.0


class OpenListeners:
    """What is listened on, as the configuration in use wants it.

    `everything` False: the control socket alone is opened (a trial start).
    """

    def __init__(
        self,
        *,
        phase: Phase,
        router: RouterProcess,
        events: Events,
        notifier: Notifier,
        clock: Callable[[], float],
        everything: bool = True,
    ) -> None:
        self._phase = phase
        self._router = router
        self._events = events
        self._notifier = notifier
        self._clock = clock
        self._everything = everything
        self._listeners = Listeners()
        self._prepared: dict[int, list[str]] = {}
        self._stored: set[str] = set()
        self._missing: dict[str, str] = {}
        self._open_again_at = 0.0

    def __iter__(self) -> Iterator[tuple[str, str, socket.socket]]:
        """Yield name, address and socket of each."""
        return iter(self._listeners)

    def _wanted(self, settings: Settings) -> dict[str, str]:
        wanted = wanted_listeners(settings)
        # At a stop nothing is opened again, whatever is reloaded meanwhile: nobody would be refused any more.
        if self._everything and not self._phase.stopping:
            return wanted
        return {CONTROL: wanted[CONTROL]}

    # ---- begin and end -----------------------------------------------------------------------------

    def open(self, settings: Settings) -> None:
        """Open everything at a start. Raises ConfigurationError: something cannot be opened."""
        wanted = self._wanted(settings)
        self._listeners.activate(wanted, socket_activation.activated(os.environ))
        self._stored.update(address for _, address, _ in self._listeners)  # it has what it passed
        self._listeners.open_missing(wanted, control_mode=_control_mode(settings))
        self._store()

    def take_over(self, inherited: list[ListenerState]) -> None:
        """Go on with what the program before has left."""
        for listener in inherited:
            self._listeners.inherit(listener.name, listener.address, taken_over(listener.descriptor))
            self._stored.add(listener.address)

    def states(self) -> list[ListenerState]:
        """Return what is left to the next program."""
        return [ListenerState(name, address, sock.fileno()) for name, address, sock in self._listeners]

    def stop(self) -> None:
        """Close all but the control socket: refused at once, clients go elsewhere.

        Our copies of the sockets would keep them waiting for nobody.
        """
        addresses = [address for name, address, _ in self._listeners if name != CONTROL]
        self._listeners.close([name for name, _, _ in self._listeners if name != CONTROL])
        self._forget(addresses)

    def close_all(self) -> None:
        """Close every socket."""
        self._listeners.close_all()

    # ---- reload ------------------------------------------------------------------------------------

    def prepare(self, number: int, wanted: Mapping[str, str], settings: Settings) -> None:
        """Open what a new configuration wants; nothing is closed before that one is kept.

        `settings`: those in use. Raises ConfigurationError: something cannot be opened; then nothing is.
        """
        opened = self._listeners.open_missing(wanted, control_mode=_control_mode(settings))
        self._prepared = {number: opened}
        self._give(opened)

    def abandon(self, number: int) -> None:
        """Close what was prepared: the reload has failed."""
        self._listeners.close(self._prepared.pop(number, []))

    def follow(self, settings: Settings) -> None:
        """Open what the kept configuration wants, and close everything else."""
        self._prepared = {}
        self._open_possible(settings)
        self._forget(self._listeners.close_others(self._wanted(settings)))
        try:
            self._listeners.restrict(_control_mode(settings))
        except OSError as error:
            self._events.error("control_socket_mode_not_set", detail=str(error))

    def open_missing(self, settings: Settings, *, now: float) -> bool:
        """Try again what could not be opened; return whether the router has been given something."""
        if not self._missing or self._phase.stopping or now < self._open_again_at:
            return False
        opened = self._open_possible(settings)
        self._give(opened)
        return bool(opened)

    def _open_possible(self, settings: Settings) -> list[str]:
        """Open what is missing; return what could be opened. What cannot be is told once, and tried again."""
        opened, missing = self._listeners.open_possible(
            self._wanted(settings), control_mode=_control_mode(settings)
        )
        self._store()
        for name, problem in missing.items():
            if name not in self._missing:
                self._events.error("listener_missing", listener=name, detail=f"{problem}; it is tried again")
        for name in self._missing:
            if name in opened:
                self._events.info("listener_open", listener=name)
        self._missing = missing
        self._open_again_at = self._clock() + _OPEN_AGAIN_S
        return opened

    # ---- who else has them -------------------------------------------------------------------------

    def _give(self, names: list[str]) -> None:
        for name in names:
            self._router.send(AddListener(name), [self._listeners.sock(name)])

    def _store(self) -> None:
        """Have the service manager keep new listeners over a crash of this very process."""
        for _, address, sock in self._listeners:
            if address not in self._stored and not address.startswith("/"):
                self._stored.add(address)
                self._notifier.store(socket_activation.store_name(address), sock)

    def _forget(self, addresses: list[str]) -> None:
        still_open = {address for _, address, _ in self._listeners}
        for address in addresses:
            if address not in still_open:
                self._stored.discard(address)
                self._notifier.forget(socket_activation.store_name(address))


def _control_mode(settings: Settings) -> int:
    return int(settings.global_.control_socket_mode, 8)
