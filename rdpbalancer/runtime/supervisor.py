"""The supervisor: owns the listening sockets and the other processes, and parses nothing of strangers.

It holds what must outlive a router: the listeners (connections wait in the kernel meanwhile) and the router's
end of every relay's line (so do the relays' words).
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.relay import messages as relay_messages
from rdpbalancer.relay.channel import pair
from rdpbalancer.runtime import active as active_file
from rdpbalancer.runtime import messages
from rdpbalancer.runtime.active import Active, relay_count
from rdpbalancer.runtime.children import Child
from rdpbalancer.runtime.listeners import open_listener, wanted_listeners
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.events import Events

# A loop that has not turned for this long is stuck: its process is killed and started anew. A router's death
# costs no session, a relay's only its own, which were frozen anyway.
HANG_S = 10.0
_PING_INTERVAL_S = 1.0
# The first restart is at once; a process that keeps dying is given time, so that the log stays readable.
_RESTART_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
# A process that has lived this long was healthy: its next restart is at once again.
_HEALTHY_S = 60.0
# After the drain the router writes its last records; relays only close sockets.
_STOP_GRACE_S = 8.0


class Supervisor:
    """Runs the service until it is told to stop."""

    def __init__(self, active: Active, *, events: Events, notifier: Notifier) -> None:
        self._active = active
        self._events = events
        self._notifier = notifier
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, tuple[str, socket.socket]] = {}
        self._relays: dict[int, Child] = {}
        self._router_ends: dict[int, socket.socket] = {}
        self._wanted_relays = relay_count(active.settings)
        self._relay_numbers: dict[int, int] = {}
        self._drain_s = active.settings.global_.shutdown_timeout
        self._router: Child | None = None
        self._restarts: dict[str, list[float]] = {"router": [], "relay": []}
        self._stopping = False
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        self._ping_number = 0
        self._ready = False

    # ---- life --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ConfigurationError if a listener cannot be opened."""
        self._open_listeners(wanted_listeners(self._active.settings))
        for number, handler in (
            (signal.SIGTERM, self.stop),
            (signal.SIGINT, self.stop),
            (signal.SIGHUP, self._reload),
        ):
            self._loop.add_signal_handler(number, handler)
        for _ in range(self._wanted_relays):
            self._start_relay()
        self._start_router()
        pinging = spawn(self._ping(), name="ping children")
        try:
            await self._stopped.wait()
            await self._end_relays()
        finally:
            pinging.cancel()
            for child in self._children():
                child.kill()
            self._close_listeners(list(self._listeners))

    def stop(self) -> None:
        """Drain and end; said a second time, end now."""
        drain_s = 0.0 if self._stopping else self._drain_s
        first, self._stopping = not self._stopping, True
        self._notifier.send(STOPPING=1, STATUS="stopping")
        self._events.info("stopping", drain_s=drain_s)
        if self._router is None:
            self._stopped.set()
            return
        self._router.channel.send(messages.Stop(drain_s))
        if first or not drain_s:
            self._loop.call_later(drain_s + _STOP_GRACE_S, self._stopped.set)

    def _reload(self) -> None:
        if self._router is not None:
            self._router.channel.send(messages.Reload())

    async def _end_relays(self) -> None:
        for relay in self._relays.values():
            relay.channel.send(relay_messages.Stop())
        try:
            async with asyncio.timeout(_STOP_GRACE_S):
                while self._relays:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._events.warning("relays_killed", relays=sorted(self._relays))

    def _children(self) -> list[Child]:
        return [*self._relays.values(), *([self._router] if self._router else [])]

    # ---- listeners ---------------------------------------------------------------------------------

    def _open_listeners(self, wanted: dict[str, str]) -> list[str]:
        """Open what is wanted and not open yet; return the names. All or none: raises ConfigurationError."""
        mode = int(self._active.settings.global_.control_socket_mode, 8)
        opened: list[str] = []
        try:
            for name, address in wanted.items():
                if name not in self._listeners:
                    self._listeners[name] = (address, self._open(address, mode))
                    opened.append(name)
        except ConfigurationError:
            self._close_listeners(opened)
            raise
        return opened

    def _open(self, address: str, mode: int) -> socket.socket:
        """Open an address, or share the socket of a service that is giving it up in the same reload."""
        for known_address, sock in self._listeners.values():
            if known_address == address and not address.endswith(":0"):
                return sock.dup()
        return open_listener(address, control_mode=mode)

    def _close_listeners(self, names: list[str]) -> None:
        for name in names:
            address, sock = self._listeners.pop(name)
            sock.close()
            if address.startswith("/"):
                Path(address).unlink(missing_ok=True)

    def _grant(self, want: messages.Want) -> None:
        """Give a router what its new configuration wants, or say why not and change nothing."""
        if self._router is None:
            return
        try:
            opened = self._open_listeners(want.listeners)
        except ConfigurationError as error:
            self._router.channel.send(messages.Granted(want.number, str(error), []))
            return
        for name in opened:
            self._router.channel.send(messages.Listener(name), [self._listeners[name][1].dup()])
        self._close_listeners([name for name in self._listeners if name not in want.listeners])
        self._wanted_relays, self._drain_s = want.relays, want.drain_s
        surplus = self._adjust_relays()
        self._router.channel.send(messages.Granted(want.number, "", surplus))

    # ---- relays ------------------------------------------------------------------------------------

    def _adjust_relays(self) -> list[int]:
        """Start relays that are missing; return those that are too many, which end with their sessions."""
        serving = [pid for pid, relay in self._relays.items() if not relay.retiring]
        for _ in range(self._wanted_relays - len(serving)):
            self._start_relay()
        surplus = serving[self._wanted_relays :]
        for pid in surplus:
            self._relays[pid].retiring = True
        return surplus

    def _start_relay(self) -> None:
        number = min(set(range(1, len(self._relay_numbers) + 2)) - set(self._relay_numbers.values()))
        ours, theirs = pair()
        relay = Child(
            "relay",
            [str(number)],
            sockets=[theirs],
            decoder=relay_messages.FROM_RELAY,
            on_message=self._relay_said,
            on_exit=self._relay_ended,
        )
        theirs.close()
        self._relays[relay.pid] = relay
        self._relay_numbers[relay.pid] = number
        self._router_ends[relay.pid] = ours
        if self._router is not None:
            self._router.channel.send(messages.RelayUp(relay.pid), [ours.dup()])

    def _relay_said(self, relay: Child, message: msgspec.Struct) -> None:
        if isinstance(message, relay_messages.Pong):
            relay.answered_at = self._loop.time()

    def _relay_ended(self, relay: Child, how: str) -> None:
        del self._relays[relay.pid]
        del self._relay_numbers[relay.pid]
        self._router_ends.pop(relay.pid).close()
        self._changed.set()
        if self._stopping or relay.retiring:
            return
        self._events.error("relay_ended", relay=relay.pid, detail=f"{how}; a new one is started")
        self._restart("relay", self._start_missing_relays)

    def _start_missing_relays(self) -> None:
        if not self._stopping:
            self._adjust_relays()

    # ---- the router --------------------------------------------------------------------------------

    def _start_router(self) -> None:
        if self._stopping:
            return
        kept = self._active.settings.global_.runtime_dir / active_file.FILE_NAME
        self._router = Child(
            "router",
            [str(kept), str(self._active.path)],
            sockets=[],
            decoder=messages.FROM_ROUTER,
            on_message=self._router_said,
            on_exit=self._router_ended,
        )
        line = self._router.channel
        line.send(messages.Hello(messages.PROTOCOL_VERSION))
        for name, (_, sock) in self._listeners.items():
            line.send(messages.Listener(name), [sock.dup()])
        for pid, router_end in self._router_ends.items():
            line.send(messages.RelayUp(pid), [router_end.dup()])
        line.send(messages.Begin())

    def _router_said(self, router: Child, message: msgspec.Struct) -> None:
        match message:
            case messages.Pong():
                router.answered_at = self._loop.time()
            case messages.Want():
                self._grant(message)
            case messages.Ready():
                self._notifier.send(READY=1, STATUS=message.status)
                self._ready = True

    def _router_ended(self, router: Child, how: str) -> None:
        del router
        self._router = None
        self._changed.set()
        if self._stopping:
            self._stopped.set()
            return
        detail = f"{how}; a new one is started, live sessions go on"
        self._events.error("router_ended", detail=detail)
        self._restart("router", self._start_router)

    # ---- care --------------------------------------------------------------------------------------

    def _restart(self, role: str, start: Callable[[], None]) -> None:
        now = self._loop.time()
        recent = [at for at in self._restarts[role] if now - at < _HEALTHY_S]
        delay_s = _RESTART_DELAYS_S[min(len(recent), len(_RESTART_DELAYS_S) - 1)]
        self._restarts[role] = [*recent, now]
        self._loop.call_later(delay_s, start)

    async def _ping(self) -> None:
        """Ask every child whether its loop turns; kill what is stuck; answer the service manager's watchdog.

        The watchdog is answered only while every loop turns, this one included.
        """
        while True:
            asked_at = self._loop.time()
            await asyncio.sleep(_PING_INTERVAL_S)
            now = self._loop.time()
            if now - asked_at > 2 * _PING_INTERVAL_S:
                # It was this process that stood still (a suspended machine): nobody else is to blame.
                for child in self._children():
                    child.answered_at = now
            self._ping_number += 1
            for child in self._children():
                silent_s = now - child.answered_at
                if silent_s > HANG_S:
                    self._events.error(
                        "process_stuck", role=child.role, pid=child.pid, silent_s=round(silent_s)
                    )
                    child.kill()
                else:
                    ping = messages.Ping if child.role == "router" else relay_messages.Ping
                    child.channel.send(ping(self._ping_number))
            self._answer_watchdog(now)

    def _answer_watchdog(self, now: float) -> None:
        children = self._children()
        lively = self._router is not None and all(now - child.answered_at < HANG_S for child in children)
        if self._notifier.watchdog_s and (lively or not self._ready or self._stopping):
            self._notifier.send(WATCHDOG=1)


async def serve(path: Path) -> None:
    """Run the service with the configuration at `path`. Raises ConfigurationError, OSError."""
    active = active_file.read(path, environ=os.environ)
    prepare_folders(active)
    active_file.keep(active)
    log = active.settings.global_.log
    logs.configure(log_format=log.format, level=log.level, file=log.file, process="supervisor")
    await Supervisor(active, events=Events(), notifier=Notifier(os.environ)).run()


def prepare_folders(active: Active) -> None:
    """Make the runtime and state folders. Raises ConfigurationError."""
    for name in ("runtime_dir", "state_dir"):
        folder: Path = getattr(active.settings.global_, name)
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "it is not writable for this user")
        except OSError as error:
            message = f"global.{name}: {folder} cannot be used: {error.strerror or error}"
            raise ConfigurationError("folder", message) from error
