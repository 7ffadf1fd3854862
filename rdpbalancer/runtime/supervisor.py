"""The supervisor: owns the listening sockets and the other processes, and parses nothing of strangers.

It holds what must outlive a router: the listeners (connections wait in the kernel meanwhile) and the router's
end of every relay's line (so do the relays' words). What must outlive its own program it leaves to the next
one, at an upgrade.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from rdpbalancer import __version__
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.ipc import relay_messages, router_messages
from rdpbalancer.ipc.channel import pair
from rdpbalancer.runtime import children, signals, socket_activation, statelock, upgrade
from rdpbalancer.runtime import program as programs
from rdpbalancer.runtime import running_config as active_file
from rdpbalancer.runtime.children import Child
from rdpbalancer.runtime.listeners import CONTROL, Listeners, wanted_listeners
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.program import Program
from rdpbalancer.runtime.running_config import RunningConfig, relay_count
from rdpbalancer.runtime.trial import Trial
from rdpbalancer.runtime.upgrade import Inherited, ListenerState, RelayState, Reverted
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry import defects, logs
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.log_watch import LogWatch

# A loop that has not turned for this long is stuck: its process is killed and started anew. A router's death
# costs no session, a relay's only its own, which were frozen anyway.
HANG_S = 10.0
_PING_INTERVAL_S = 1.0
# The first restart is at once; a process that keeps dying is given time, so that the log stays readable.
_RESTART_DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
# A process that has lived this long was healthy: its next restart is at once again.
_HEALTHY_S = 60.0
# After the drain the router writes its last records, for at most 32 s, and the last of the state.
_ROUTER_GRACE_S = 40.0
# Relays only close sockets.
_STOP_GRACE_S = 8.0
# A listener that could not be opened is tried again this often.
_OPEN_AGAIN_S = 5.0
# Turns of the loop that a signal needs from the kernel to its handler.
_LAST_SIGNALS_S = 0.02
# The frames of a traceback that matter, and the error.
_OUTPUT_LINES = 20
# Events of ours that a new router is told of, so that `show events` says why there is a new one.
_EVENTS_TOLD = 100


class Supervisor:
    """Runs the service until it is told to stop.

    `program`: the code that its processes run. `listening` False: it opens its control socket alone.
    """

    def __init__(
        self,
        active: RunningConfig,
        *,
        events: Events,
        notifier: Notifier,
        program: Program,
        inherited: Inherited | None = None,
        listening: bool = True,
    ) -> None:
        self._active = active
        self._program = program
        self._listening = listening
        self._events = events
        self._notifier = notifier
        self._inherited = inherited
        self._loop = asyncio.get_running_loop()
        self._listeners = Listeners()
        self._relays: dict[int, Child] = {}
        self._router_ends: dict[int, socket.socket] = {}
        self._relay_numbers: dict[int, int] = {}
        self._relay_code: dict[int, str] = {}
        self._trial: Trial | None = None
        self._before = inherited.before if inherited is not None else None
        self._going_back = False
        self._reverted: Reverted | None = None
        self._code_change_told = False
        self._wanted_relays = relay_count(active.settings)
        self._drain_s = active.settings.global_.shutdown_timeout
        self._router: Child | None = None
        self._restarts: dict[str, list[float]] = {"router": [], "relay": []}
        self._stopping = False
        self._upgrading = False
        self._stop_later = False
        self._reload_later = False
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        self._ping_number = 0
        self._prepared: dict[int, list[str]] = {}
        self._stored: set[str] = set()
        self._state_lock: int | None = None
        self._missing: dict[str, str] = {}
        self._open_again_at = 0.0
        self._ready = False
        self.router_ready = False
        self._events.on_event = self._tell_router
        self._log_lookout = LogWatch(events)

    # ---- life --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ConfigurationError if a listener cannot be opened."""
        try:
            self._begin()
        except Exception as error:
            if self._before is not None and self._inherited is not None:
                self._go_back_at_once(self._inherited, self._before, f"{type(error).__name__}: {error}")
            self._end_everything()
            raise
        pinging = spawn(self._ping(), name="ping children")
        try:
            await self._stopped.wait()
            await self._end_relays()
        finally:
            pinging.cancel()
            self._end_everything()

    def _begin(self) -> None:
        """Take over or open what there is to be listened on, and start the other processes."""
        if self._inherited is not None:
            self._take_over(self._inherited)
        else:
            self._lock_state()
            mode = int(self._active.settings.global_.control_socket_mode, 8)
            wanted = self._wanted_listeners()
            self._listeners.activate(wanted, socket_activation.activated(os.environ))
            self._stored.update(address for _, address, _ in self._listeners)  # it has what it passed
            self._listeners.open_missing(wanted, control_mode=mode)
            self._store()
            # Not before the control socket is ours: a running service's configuration is not to be replaced.
            active_file.keep(self._active)
        for number, handler in (
            (signal.SIGTERM, self.stop),
            (signal.SIGINT, self.stop),
            (signal.SIGHUP, self._reload),
            (signal.SIGUSR1, self._reopen_logs),
        ):
            self._loop.add_signal_handler(number, handler)
        upgrade.signals_may_come()
        if self._inherited is None:
            self._adjust_relays()
        self._start_router()

    def _lock_state(self) -> None:
        """Keep other services off the state folder. Raises ConfigurationError: one is using it."""
        state_dir = self._active.settings.global_.state_dir
        try:
            self._state_lock = statelock.acquire(state_dir, config=self._active.path, wall=time.time())
        except OSError as error:
            detail = f"{state_dir} cannot be locked ({error}): see to it that no second service uses it"
            self._events.warning("state_not_locked", detail=detail)

    def _end_everything(self) -> None:
        for child in self._children():
            child.kill()
        self._listeners.close_all()
        if self._state_lock is not None:
            os.close(self._state_lock)
            self._state_lock = None

    def _wanted_listeners(self) -> dict[str, str]:
        wanted = wanted_listeners(self._active.settings)
        # At a stop nothing is opened again, whatever is reloaded meanwhile: nobody would be refused any more.
        return wanted if self._listening and not self._stopping else {CONTROL: wanted[CONTROL]}

    def end_now(self) -> None:
        """End without draining, for there is nobody to be drained."""
        self._stopping = True
        self._stopped.set()

    def stop(self) -> None:
        """Drain and end; said a second time, end now."""
        if self._between_routers and not self._stopping and not self._stop_later:
            # Nobody would drain the relays now, nor write their sessions' records: the next router will.
            self._stop_later = True
            self._events.info("stopping", detail="as soon as the next router is there")
            return
        drain_s = 0.0 if self._stopping else self._drain_s
        first, self._stopping = not self._stopping, True
        self._notifier.send(STOPPING=1, STATUS="stopping")
        self._events.info("stopping", drain_s=drain_s)
        # Refused at once, clients go elsewhere; our copies of the sockets would keep them waiting for nobody.
        addresses = [address for name, address, _ in self._listeners if name != CONTROL]
        self._listeners.close([name for name, _, _ in self._listeners if name != CONTROL])
        self._forget(addresses)
        if self._router is None:
            self._stopped.set()
            return
        self._router.channel.send(router_messages.StopRouter(drain_s))
        if first or not drain_s:
            self._loop.call_later(drain_s + _ROUTER_GRACE_S, self._stopped.set)

    @property
    def _between_routers(self) -> bool:
        """Whether there is no router, or one that is about to make way, while there are sessions."""
        if self._router is None:
            return bool(self._relays)
        return self._upgrading and self._router.retiring

    def _reload(self) -> None:
        self._reopen_logs()  # for whoever has rotated the file
        self._reload_later = True
        self._reload_if_ready()

    def _reload_if_ready(self) -> None:
        """Pass SIGHUP on, unless there is no router that would carry it out: then the next one will."""
        if (
            self._reload_later
            and not self._stopping
            and self._router is not None
            and self.router_ready
            and not self._router.retiring
        ):
            self._reload_later = False
            self._router.channel.send(router_messages.Reload())

    async def _end_relays(self) -> None:
        for relay in self._relays.values():
            relay.channel.send(relay_messages.StopRelay())
        try:
            async with asyncio.timeout(_STOP_GRACE_S):
                while self._relays:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._events.warning("relays_killed", relays=sorted(self._relays))

    def _children(self) -> list[Child]:
        return [*self._relays.values(), *([self._router] if self._router else [])]

    # ---- upgrade -----------------------------------------------------------------------------------

    async def _upgrade(self, router: Child) -> None:
        """Become the newly installed code, if it shows that it can take over; if not, go on as we are."""
        if self._trial is not None and not self._trial.ready:
            problem = "the upgrade before is not through; wait for its end"
        else:
            kept = active_file.kept_file(self._active)
            problem = await upgrade.preflight(programs.newest(), kept, self._active.path)
        if not problem and (self._router is not router or self._stopping):
            problem = "the service has been stopped or its router restarted meanwhile"
        if problem:
            self._upgrading = False
            self._events.error("upgrade_refused", detail=problem)
        if self._router is router:
            router.channel.send(router_messages.UpgradeAnswer(problem))
        if not problem:
            self._events.info("upgrading", detail=f"from version {__version__}")
            router.retiring = True
            router.channel.send(router_messages.RetireRouter())  # its end brings us to _leave_to_new_code

    def _leave_to_new_code(self) -> None:
        left = self._left_behind()
        # Without an archive of its own code the program before cannot come back.
        left.before = self._program if self._program.code >= 0 else None
        try:
            upgrade.become(programs.newest(), left, self._active.path, then=self._signals_to_come())
        except OSError as error:
            self._upgrading = False
            self._events.error("upgrade_failed", detail=f"{error}: going on with the old code")
            self._restart("router", self._start_router)

    def _signals_to_come(self) -> list[signal.Signals]:
        later = {signal.SIGTERM: self._stop_later, signal.SIGHUP: self._reload_later}
        return [number for number in later if later[number]]

    # ---- the way back ------------------------------------------------------------------------------

    def _judge_trial(self, now: float) -> None:
        """Go back to the program before if this one does not work; forget that one if this one does."""
        if self._trial is None or self._going_back or self._stopping:
            return
        if why := self._trial.failed(now):
            self._going_back = True
            spawn(self._go_back(why), name="way back")
        elif self._trial.passed(now):
            self._end_trial()
            self._events.info("upgrade_confirmed", detail=f"version {__version__} has worked for a minute")

    def _end_trial(self) -> None:
        self._trial = None
        if self._before is not None:
            for descriptor in self._before.descriptors:
                os.close(descriptor)
            self._before = None

    async def _go_back(self, why: str) -> None:
        """Become the program before this one again. Relays and their sessions stay as they are."""
        before = self._before
        if before is None:
            return
        self._events.error("upgrade_reverting", detail=f"version {__version__} is left again: {why}")
        kept = active_file.kept_file(self._active)
        problem = await upgrade.preflight(before, kept, self._active.path, rehearse=False)
        if self._stopping:
            return
        if problem:  # what it needs has been replaced, too
            self._going_back = False
            self._end_trial()
            detail = f"version {before.version} cannot come back: {problem}; going on with {__version__}"
            self._events.error("upgrade_not_reverted", detail=detail)
            if self._router is None:
                self._restart("router", self._start_router)
            # Those that died while the way back was tried were not started again.
            self._restart("relay", self._start_missing_relays)
            return
        upgrade.hold_signals()
        if self._router is not None:
            self._router.kill()
            while self._router is not None:
                self._changed.clear()
                await self._changed.wait()
        # A signal that has come is still on its way through the loop; the next program would not see it.
        await asyncio.sleep(_LAST_SIGNALS_S)
        left = self._left_behind()
        left.reverted = Reverted(__version__, why, time.time())
        try:
            upgrade.become(before, left, self._active.path, then=self._signals_to_come())
        except OSError as error:
            self._going_back = False
            self._end_trial()
            self._events.error("upgrade_not_reverted", detail=f"{error}; going on with {__version__}")
            self._restart("router", self._start_router)
            self._restart("relay", self._start_missing_relays)

    def _go_back_at_once(self, inherited: Inherited, before: Program, why: str) -> None:
        """The new supervisor itself does not start: leave what was inherited to the program before."""
        self._events.error("upgrade_reverting", detail=f"version {__version__} is left again: {why}")
        if self._router is not None:
            self._router.kill()
            os.waitpid(self._router.pid, 0)
        try:
            upgrade.go_back(before, inherited, self._active.path, why)
        except OSError as error:
            self._events.error("upgrade_not_reverted", detail=str(error))

    def _left_behind(self) -> Inherited:
        return Inherited(
            generation=self._generation + 1,
            kept=str(active_file.kept_file(self._active)),
            listeners=[
                ListenerState(name, address, sock.fileno()) for name, address, sock in self._listeners
            ],
            relays=[
                RelayState(
                    pid,
                    self._relay_numbers[pid],
                    relay.line.fileno(),
                    self._router_ends[pid].fileno(),
                    self._relay_code[pid],
                    relay.retiring,
                )
                for pid, relay in self._relays.items()
            ],
            drain_s=self._drain_s,
            state_lock=self._state_lock,
        )

    @property
    def _generation(self) -> int:
        return self._inherited.generation if self._inherited is not None else 0

    def _take_over(self, inherited: Inherited) -> None:
        """Go on with what the program before this one has left.

        Its relays serve until this one's router is ready and has relays of its own.
        """
        for listener in inherited.listeners:
            sock = upgrade.taken_over(listener.descriptor)
            self._listeners.inherit(listener.name, listener.address, sock)
            self._stored.add(listener.address)
        self._drain_s = inherited.drain_s
        if inherited.state_lock is not None:
            self._state_lock = inherited.state_lock
            os.set_inheritable(self._state_lock, False)
        else:  # by a version that did not know of it
            try:
                self._lock_state()
            except ConfigurationError as error:
                self._events.error("state_not_locked", detail=str(error))
        for left in inherited.relays:
            relay = self._watch_relay(left.pid, upgrade.taken_over(left.line), left.number, left.code)
            relay.retiring = left.retired
            self._router_ends[left.pid] = upgrade.taken_over(left.router_end)
        if inherited.before is not None:
            for descriptor in inherited.before.descriptors:
                os.set_inheritable(descriptor, False)
            self._trial = Trial(began_at=self._loop.time())
        self._reverted = inherited.reverted
        if self._reverted is None:
            outdated = len(self._outdated())
            self._events.info("upgraded", detail=f"to version {__version__}", relays_to_move=outdated)
        else:
            detail = f"back to version {__version__} from {self._reverted.version}: {self._reverted.detail}"
            self._events.error("upgrade_reverted", detail=detail, version=self._reverted.version)

    # ---- reload ------------------------------------------------------------------------------------

    def _grant(self, want: router_messages.PrepareConfig) -> None:
        """Open what a new configuration wants, or say why not; nothing is closed before it is kept."""
        if self._router is None:
            return
        if self._stopping:
            self._router.channel.send(
                router_messages.ConfigPrepared(want.number, "the service is being stopped")
            )
            return
        mode = int(self._active.settings.global_.control_socket_mode, 8)
        try:
            opened = self._listeners.open_missing(want.listeners, control_mode=mode)
        except ConfigurationError as error:
            self._router.channel.send(router_messages.ConfigPrepared(want.number, str(error)))
            return
        self._prepared = {want.number: opened}
        self._give(opened)
        self._router.channel.send(router_messages.ConfigPrepared(want.number, ""))

    def _abandon(self, number: int) -> None:
        """A reload has failed after its preparation."""
        self._listeners.close(self._prepared.pop(number, []))

    def _commit(self) -> None:
        """Another configuration is kept: what of it concerns this process."""
        self._follow_kept()
        self._reopen_log()
        surplus = self._adjust_relays()
        if self._router is not None:
            self._router.channel.send(router_messages.ConfigCommitted(surplus))

    def _follow_kept(self) -> None:
        """Open what the kept configuration wants, and close everything else."""
        self._prepared = {}
        try:
            kept = active_file.kept_file(self._active)
            self._active = active_file.kept(kept, self._active.path, environ=os.environ)
        except ConfigurationError as error:
            self._events.error("config_not_read", detail=f"{error}; listeners stay as they are")
            return
        settings = self._active.settings
        self._wanted_relays, self._drain_s = relay_count(settings), settings.global_.shutdown_timeout
        self._open_possible()
        self._forget(self._listeners.close_others(self._wanted_listeners()))
        try:
            self._listeners.restrict(int(settings.global_.control_socket_mode, 8))
        except OSError as error:
            self._events.error("control_socket_mode_not_set", detail=str(error))

    def _open_possible(self) -> list[str]:
        """Open what is missing; return what could be opened. What cannot be is told once, and tried again."""
        wanted = self._wanted_listeners()
        mode = int(self._active.settings.global_.control_socket_mode, 8)
        opened, missing = self._listeners.open_possible(wanted, control_mode=mode)
        self._store()
        for name, problem in missing.items():
            if name not in self._missing:
                self._events.error("listener_missing", listener=name, detail=f"{problem}; it is tried again")
        for name in self._missing:
            if name in opened:
                self._events.info("listener_open", listener=name)
        self._missing = missing
        self._open_again_at = self._loop.time() + _OPEN_AGAIN_S
        return opened

    def _open_missing(self, now: float) -> None:
        """Try again what could not be opened."""
        if self._missing and not self._stopping and now >= self._open_again_at:
            opened = self._open_possible()
            if opened and self._router is not None:
                self._give(opened)
                self._router.channel.send(router_messages.ListenersOpened())

    def _give(self, names: list[str]) -> None:
        if self._router is not None:
            for name in names:
                self._router.channel.send(
                    router_messages.AddListener(name), [self._listeners.sock(name).dup()]
                )

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

    def _reopen_logs(self) -> None:
        """Open the log file anew, here and in the router, for whoever has rotated it."""
        self._reopen_log()
        if self._router is not None and self.router_ready:
            self._router.channel.send(router_messages.ReopenLog())

    def _reopen_log(self) -> None:
        try:
            _configure_logs(self._active)
        except ConfigurationError as error:
            self._events.error("log_not_reopened", detail=str(error))

    # ---- relays ------------------------------------------------------------------------------------

    def _adjust_relays(self) -> list[int]:
        """Start relays that are missing; return those that are too many, which end with their sessions."""
        if self._inherited is not None and not self._ready:
            return []  # what is there serves until this code has shown that it works
        outdated = self._outdated()
        serving = [pid for pid, relay in self._relays.items() if not relay.retiring and pid not in outdated]
        for _ in range(self._wanted_relays - len(serving)):
            self._start_relay()
        surplus = serving[self._wanted_relays :]
        for pid in surplus:
            self._relays[pid].retiring = True
        return surplus

    def _start_relay(self) -> None:
        number = min(set(range(1, len(self._relay_numbers) + 2)) - set(self._relay_numbers.values()))
        ours, theirs = pair()
        try:
            started = children.start(self._program, "relay", [str(number)], [theirs])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        pid = started.pid
        relay = self._watch_relay(pid, started.line, number, self._program.mark, started.failures)
        relay.channel.send(relay_messages.PingRelay(self._ping_number))
        self._router_ends[pid] = ours
        if self._router is not None:
            self._router.channel.send(router_messages.AddRelay(pid), [ours.dup()])

    def _outdated(self) -> list[int]:
        """Return the relays that run other code than this, and still take sessions."""
        return [
            pid
            for pid, relay in self._relays.items()
            if self._relay_code[pid] != self._program.mark and not relay.retiring
        ]

    def _replace_outdated(self) -> None:
        """Have the sessions of earlier code's relays moved, once all relays of this code are there."""
        outdated = self._outdated()
        serving = [relay for pid, relay in self._relays.items() if not relay.retiring and pid not in outdated]
        if not outdated or not self._ready or len(serving) < self._wanted_relays:
            return
        if self._router is not None and all(relay.answered for relay in serving):
            for pid in outdated:
                self._relays[pid].retiring = True
            self._router.channel.send(router_messages.ReplaceRelays(outdated))

    def _watch_relay(
        self, pid: int, line: socket.socket, number: int, code: str, failures: int | None = None
    ) -> Child:
        relay = Child(
            "relay",
            pid,
            line,
            failures=failures,
            decoder=relay_messages.FROM_RELAY,
            on_message=self._relay_said,
            on_exit=self._relay_ended,
            on_event=self._relay_told,
        )
        self._relays[pid] = relay
        self._relay_numbers[pid] = number
        self._relay_code[pid] = code
        return relay

    def _relay_said(self, relay: Child, message: msgspec.Struct) -> None:
        if isinstance(message, relay_messages.PongRelay):
            relay.answered_at, first = self._loop.time(), not relay.answered
            relay.answered = True
            if first:
                self._replace_outdated()

    def _relay_told(self, relay: Child, level: str, event: str, fields: dict[str, Any]) -> None:
        """A relay has no log of its own: what it tells stands in ours, under its name."""
        self._events.pass_on(level, event, **fields, process="relay", relay=relay.pid)

    def _relay_ended(self, relay: Child, how: str) -> None:
        del self._relays[relay.pid]
        del self._relay_numbers[relay.pid]
        code = self._relay_code.pop(relay.pid)
        self._router_ends.pop(relay.pid).close()
        self._changed.set()
        if self._stopping or relay.retiring:
            return
        self._events.error(
            "relay_ended",
            relay=relay.pid,
            detail=f"{how}; a new one is started",
            **_output(relay.last_words),
        )
        if self._trial is not None and code == self._program.mark:
            self._trial.died("relay", how)
            self._judge_trial(self._loop.time())
        self._restart("relay", self._start_missing_relays)

    def _start_missing_relays(self) -> None:
        if not self._stopping and not self._going_back:
            self._adjust_relays()

    # ---- the router --------------------------------------------------------------------------------

    def _start_router(self) -> None:
        if self._stopping or self._going_back:
            return
        self.router_ready = False
        # One that was killed in the middle of a reload may have left listeners of either configuration.
        self._follow_kept()
        kept = active_file.kept_file(self._active)
        started = children.start(self._program, "router", [str(kept), str(self._active.path)], [])
        self._router = Child(
            "router",
            started.pid,
            started.line,
            failures=started.failures,
            decoder=router_messages.FROM_ROUTER,
            on_message=self._router_said,
            on_exit=self._router_ended,
        )
        channel = self._router.channel
        reverted = None if self._reverted is None else msgspec.to_builtins(self._reverted)
        channel.send(
            router_messages.SupervisorHello(
                router_messages.PROTOCOL_VERSION, self._generation, reverted, self._code_changed()
            )
        )
        for name, _, sock in self._listeners:
            channel.send(router_messages.AddListener(name), [sock.dup()])
        previous = self._outdated()
        for relay, router_end in self._router_ends.items():
            outdated = self._relays[relay].retiring  # also those that a reload made too many
            channel.send(router_messages.AddRelay(relay, outdated, relay in previous), [router_end.dup()])
        for event in self._events.recent()[-_EVENTS_TOLD:]:
            channel.send(router_messages.SupervisorEvent(event))
        channel.send(router_messages.StartRouter())
        if self._stop_later:
            self.stop()

    def _code_changed(self) -> bool:
        """Whether other code is installed than this; told once. Processes are started from this one still."""
        changed = bool(self._program.installed) and programs.fingerprint() != self._program.installed
        if changed and not self._code_change_told and self._ready:
            detail = (
                f"version {__version__} goes on from memory; `rdpbalancer upgrade` runs what is installed"
            )
            self._events.warning("code_changed", detail=detail)
        self._code_change_told |= changed
        return changed

    def _tell_router(self, event: dict[str, Any]) -> None:
        """Have an event of ours shown among the router's."""
        if self._router is not None:
            self._router.channel.send(router_messages.SupervisorEvent(event))

    def _router_said(self, router: Child, message: msgspec.Struct) -> None:
        match message:
            case router_messages.PongRouter():
                router.answered_at = self._loop.time()
            case router_messages.PrepareConfig():
                self._grant(message)
            case router_messages.Upgrade() if not self._upgrading:
                self._upgrading = True
                spawn(self._upgrade(router), name="upgrade")
            case router_messages.RouterReady():
                self._notifier.send(READY=1, STATUS=message.status)
                self._ready = self.router_ready = True
                self._now_ready()
                self._reload_if_ready()
            case router_messages.CommitConfig():
                self._commit()
            case router_messages.AbandonConfig():
                self._abandon(message.number)
            case router_messages.StatusLine():
                self._notifier.send(STATUS=message.text)

    def _now_ready(self) -> None:
        if self._trial is not None:
            self._trial.router_ready(self._loop.time())
        try:
            surplus = self._adjust_relays()
        except OSError as error:  # no process or descriptor left: for now
            self._events.error("process_not_started", role="relay", detail=str(error))
            self._restart("relay", self._start_missing_relays)
            return
        if surplus and self._router is not None:
            self._router.channel.send(router_messages.ReplaceRelays(surplus))
        self._replace_outdated()

    def _router_ended(self, router: Child, how: str) -> None:
        self._router = None
        self.router_ready = False
        self._changed.set()
        if self._stopping:
            self._stopped.set()
            return
        if self._going_back:
            return
        if self._upgrading and router.retiring:
            # A signal that has come is still on its way through the loop; the new program would not see it.
            upgrade.hold_signals()
            self._loop.call_later(_LAST_SIGNALS_S, self._leave_to_new_code)
            return
        self._upgrading = False
        detail = f"{how}; a new one is started, live sessions go on"
        self._events.error("router_ended", detail=detail, **_output(router.last_words))
        if self._trial is not None:
            self._trial.died("router", how)
            self._judge_trial(self._loop.time())
        self._restart("router", self._start_router)

    # ---- care --------------------------------------------------------------------------------------

    def _restart(self, role: str, start: Callable[[], None]) -> None:
        now = self._loop.time()
        recent = [at for at in self._restarts[role] if now - at < _HEALTHY_S]
        delay_s = _RESTART_DELAYS_S[min(len(recent), len(_RESTART_DELAYS_S) - 1)]
        self._restarts[role] = [*recent, now]
        self._loop.call_later(delay_s, partial(self._start_again, role, start))

    def _start_again(self, role: str, start: Callable[[], None]) -> None:
        try:
            start()
        except OSError as error:  # no process or descriptor left: for now
            self._events.error("process_not_started", role=role, detail=str(error))
            self._restart(role, start)

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
                self._ping_one(child, now)
            self._open_missing(now)
            self._judge_trial(now)
            self._log_lookout.look()
            self._answer_watchdog(now)

    def _ping_one(self, child: Child, now: float) -> None:
        silent_s = now - child.answered_at
        if silent_s > HANG_S:
            detail = f"the {child.role} {child.pid} did not answer for {round(silent_s)} s"
            self._events.error(
                "process_stuck", role=child.role, pid=child.pid, silent_s=round(silent_s), detail=detail
            )
            child.kill()
        else:
            ping = router_messages.PingRouter if child.role == "router" else relay_messages.PingRelay
            child.channel.send(ping(self._ping_number))

    def _answer_watchdog(self, now: float) -> None:
        children_ = self._children()
        lively = self._router is not None and all(now - child.answered_at < HANG_S for child in children_)
        if self._notifier.watchdog_s and (lively or not self._ready or self._stopping):
            self._notifier.send(WATCHDOG=1)


async def serve(path: Path) -> None:
    """Run the service with the configuration at `path`. Raises ConfigurationError, ChannelError, OSError."""
    signals.ignore_harmless()
    program = programs.own()
    inherited = upgrade.inherited_state()
    try:
        supervisor = _supervisor(path, program, inherited)
    except Exception as error:
        if inherited is not None and inherited.before is not None:
            upgrade.go_back(inherited.before, inherited, path, f"{type(error).__name__}: {error}")
        raise
    await supervisor.run()


def _supervisor(path: Path, program: Program, inherited: Inherited | None) -> Supervisor:
    if inherited is None:
        active = active_file.read(path, environ=os.environ)
        prepare_folders(active)
    else:
        active = active_file.kept(Path(inherited.kept), path, environ=os.environ)
    notifier, events = Notifier(os.environ), Events()
    try:
        _configure_logs(active)
    except ConfigurationError as error:
        if inherited is None:
            raise
        # Not for the want of a log is a service to end whose sessions have been taken over.
        _configure_logs(active, to_file=False)
        events.error("log_not_reopened", detail=str(error))
    defects.report(events, ends=True)
    return Supervisor(active, events=events, notifier=notifier, program=program, inherited=inherited)


def _output(lines: list[str]) -> dict[str, list[str]]:
    """Return what a process said at its end as a field of its event, if it said more than its reason."""
    return {"output": lines[-_OUTPUT_LINES:]} if len(lines) > 1 else {}


def _configure_logs(active: RunningConfig, *, to_file: bool = True) -> None:
    log = active.settings.global_.log
    file = log.file if to_file else None
    logs.configure(log_format=log.format, level=log.level, file=file, process="supervisor")


def prepare_folders(active: RunningConfig) -> None:
    """Make the runtime and state folders. Raises ConfigurationError."""
    for name in ("runtime_dir", "state_dir"):
        folder: Path = getattr(active.settings.global_, name)
        try:
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(13, "it is not writable for this user")
        except OSError as error:
            why = f"{folder} cannot be used: {error.strerror or error}"
            message = f"global.{name}: {why}; it has to be a folder that the service's user may write to"
            raise ConfigurationError("folder", message) from error
