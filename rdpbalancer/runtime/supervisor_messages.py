"""What the supervisor says to the router: each message to the part that it concerns."""

import socket
from collections.abc import Callable

import msgspec

from rdpbalancer.ipc import router_messages
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.runtime.lifecycle import Lifecycle
from rdpbalancer.runtime.relay_roster import RelayRoster
from rdpbalancer.runtime.reload import Reloader
from rdpbalancer.runtime.upgrade_request import UpgradeRequest
from rdpbalancer.runtime.warnings import Warnings
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry.events import Events


class SupervisorMessages:
    """Gives each message of the supervisor to the part of the router that it concerns.

    `send` answers it. `start()`: every listener and relay has been passed on. `reopen_log()`: the log has
    been rotated. `accept_opened()`: listeners that were missing are open now.
    """

    def __init__(
        self,
        *,
        send: Callable[[msgspec.Struct], None],
        frontends: Frontends,
        roster: RelayRoster,
        reloader: Reloader,
        upgrade: UpgradeRequest,
        lifecycle: Lifecycle,
        events: Events,
        warnings: Warnings,
        start: Callable[[], None],
        reopen_log: Callable[[], None],
        accept_opened: Callable[[], None],
    ) -> None:
        self._send = send
        self._frontends = frontends
        self._roster = roster
        self._reloader = reloader
        self._upgrade = upgrade
        self._lifecycle = lifecycle
        self._events = events
        self._warnings = warnings
        self._start = start
        self._reopen_log = reopen_log
        self._accept_opened = accept_opened

    def received(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        """Pass on what comes at a start, and at any time."""
        match message:
            case router_messages.SupervisorHello():
                self._upgrade.greeted(message)
            case router_messages.AddListener():
                self._frontends.add_listener(message.name, sockets[0])
            case router_messages.AddRelay():
                self._roster.add(message, sockets[0])
            case router_messages.StartRouter():
                self._start()
            case router_messages.PingRouter():
                self._send(router_messages.PongRouter(message.number))
            case router_messages.SupervisorEvent():
                self._events.remember(message.event)
                self._warnings.note(message.event)
            case router_messages.ReopenLog():
                self._reopen_log()
            case _:
                self._ordered(message)

    def _ordered(self, message: msgspec.Struct) -> None:
        """Pass on what changes the service."""
        match message:
            case router_messages.Reload():
                spawn(self._reloader.reload_quietly(), name="reload")
            case router_messages.ConfigPrepared():
                self._reloader.prepared(message)
            case router_messages.ConfigCommitted():
                self._reloader.committed(message)
            case router_messages.ListenersOpened():
                self._accept_opened()
            case router_messages.ReplaceRelays():
                self._roster.replace(message.relays)
            case router_messages.UpgradeAnswer():
                self._upgrade.answered(message.problem)
            case router_messages.RetireRouter():
                self._lifecycle.retire()
            case router_messages.StopRouter():
                self._stop(message.drain_s)

    def supervisor_lost(self) -> None:
        """The supervisor has ended; so does the router."""
        self._events.error("supervisor_lost", detail="the supervisor has ended; so does the router")
        self._stop(0.0)

    def _stop(self, drain_s: float) -> None:
        self._lifecycle.stop(drain_s)
        self._upgrade.answered("the service is being stopped")
