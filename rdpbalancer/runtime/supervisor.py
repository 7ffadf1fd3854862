"""The supervisor: owns the listening sockets and the other processes, and parses nothing of strangers.

It holds what must outlive a router: the listeners (connections wait in the kernel meanwhile) and the router's
end of every relay's channel (so do the relays' messages). What must outlive its own program it leaves to the
next one, at an upgrade.
"""

import asyncio
import signal
from typing import Any

import msgspec

from rdpbalancer.ipc import router_messages
from rdpbalancer.runtime import running_config, upgrade
from rdpbalancer.runtime.children import Child, last_output
from rdpbalancer.runtime.config_follower import ConfigFollower
from rdpbalancer.runtime.liveness import Liveness
from rdpbalancer.runtime.notify import Notifier
from rdpbalancer.runtime.open_listeners import OpenListeners
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.runtime.program import Program
from rdpbalancer.runtime.relay_processes import RelayProcesses
from rdpbalancer.runtime.restarts import Restarts
from rdpbalancer.runtime.router_process import RouterProcess
from rdpbalancer.runtime.running_config import ConfigInUse, RunningConfig, relay_count
from rdpbalancer.runtime.statelock import StateLock
from rdpbalancer.runtime.upgrade import Inherited
from rdpbalancer.runtime.upgrader import Upgrader
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.log_watch import LogWatch

# After the drain the router writes its last records, for at most 32 s, and the last of the state.
ROUTER_GRACE_S = 40.0
# Relays only close sockets.
STOP_GRACE_S = 8.0


class Supervisor:
    """Runs the service until it is told to stop.

    `program`: the code that its processes run. `listening` False: it opens its control socket alone.
    """

    def __init__(
        self,
        running: RunningConfig,
        *,
        events: Events,
        notifier: Notifier,
        program: Program,
        inherited: Inherited | None = None,
        listening: bool = True,
    ) -> None:
        self._config = ConfigInUse(running)
        self._events = events
        self._notifier = notifier
        self._inherited = inherited
        self._loop = loop = asyncio.get_running_loop()
        self._phase = Phase(drain_s=running.settings.global_.shutdown_timeout)
        self._state_lock = StateLock(events)
        restarts = self._restarts = Restarts(clock=loop.time, call_later=loop.call_later, events=events)
        self._router = RouterProcess(
            program=program, on_message=self._router_said, on_ended=self._router_ended
        )
        self._listeners = OpenListeners(
            phase=self._phase,
            router=self._router,
            events=events,
            notifier=notifier,
            clock=loop.time,
            everything=listening,
        )
        self._liveness = Liveness(
            children=self._children,
            has_router=lambda: self._router.child is not None,
            phase=self._phase,
            events=events,
            notifier=notifier,
            clock=loop.time,
            every_turn=self._every_turn,
        )
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        self._relays = self._make_relays(program)
        self._follower = ConfigFollower(
            config=self._config,
            phase=self._phase,
            listeners=self._listeners,
            relays=self._relays,
            router=self._router,
            restarts=restarts,
            events=events,
        )
        self._upgrader = self._make_upgrader(program)
        self._events.on_event = self._tell_router
        self._log_watch = LogWatch(events)

    def _make_relays(self, program: Program) -> RelayProcesses:
        return RelayProcesses(
            program=program,
            wanted=relay_count(self._config.settings),
            phase=self._phase,
            router=self._router,
            restarts=self._restarts,
            events=self._events,
            clock=self._loop.time,
            ping_number=lambda: self._liveness.number,
            on_died=lambda code, how: self._upgrader.died("relay", how, code=code),
            on_gone=self._changed.set,
        )

    def _make_upgrader(self, program: Program) -> Upgrader:
        return Upgrader(
            program=program,
            config=self._config,
            inherited=self._inherited,
            phase=self._phase,
            listeners=self._listeners,
            relays=self._relays,
            router=self._router,
            restarts=self._restarts,
            state_lock=self._state_lock,
            events=self._events,
            clock=self._loop.time,
            start_router=self._start_router,
        )

    @property
    def router_ready(self) -> bool:
        """Whether there is a router that has said that it is ready."""
        return self._router.ready

    # ---- life --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ConfigurationError if a listener cannot be opened."""
        try:
            self._begin()
        except Exception as error:
            self._upgrader.revert_at_once(f"{type(error).__name__}: {error}")
            self._end_everything()
            raise
        pinging = spawn(self._liveness.run(), name="ping children")
        try:
            await self._stopped.wait()
            await self._end_relays()
        finally:
            pinging.cancel()
            self._end_everything()

    def _begin(self) -> None:
        """Take over or open what there is to be listened on, and start the other processes."""
        running = self._config.running
        if self._inherited is not None:
            self._upgrader.take_over(self._inherited)
        else:
            self._state_lock.acquire(running)
            self._listeners.open(running.settings)
            # Not before the control socket is ours: a running service's configuration is not to be replaced.
            running_config.keep(running)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGINT, self.stop)
        self._loop.add_signal_handler(signal.SIGHUP, self._follower.reload)
        self._loop.add_signal_handler(signal.SIGUSR1, self._follower.reopen_logs)
        upgrade.signals_may_come()
        if self._inherited is None:
            self._relays.adjust()
        self._start_router()

    def _end_everything(self) -> None:
        for child in self._children():
            child.kill()
        self._listeners.close_all()
        self._state_lock.release()

    def end_now(self) -> None:
        """End without draining, for there is nobody to be drained."""
        self._phase.stopping = True
        self._stopped.set()

    def stop(self) -> None:
        """Drain and end; said a second time, end now."""
        phase = self._phase
        if self._between_routers and not phase.stopping and not phase.stop_later:
            # Nobody would drain the relays now, nor write their sessions' records: the next router will.
            phase.stop_later = True
            self._events.info("stopping", detail="as soon as the next router is there")
            return
        drain_s = 0.0 if phase.stopping else phase.drain_s
        first, phase.stopping = not phase.stopping, True
        self._notifier.send(STOPPING=1, STATUS="stopping")
        self._events.info("stopping", drain_s=drain_s)
        self._listeners.stop()
        if self._router.child is None:
            self._stopped.set()
            return
        self._router.send(router_messages.StopRouter(drain_s))
        if first or not drain_s:
            self._loop.call_later(drain_s + ROUTER_GRACE_S, self._stopped.set)

    @property
    def _between_routers(self) -> bool:
        """Whether there is no router, or one that is about to make way, while there are sessions."""
        if self._router.child is None:
            return bool(self._relays)
        return self._phase.upgrading and self._router.child.retiring

    async def _end_relays(self) -> None:
        self._relays.stop()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                while self._relays:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self._events.warning("relays_killed", relays=sorted(relay.pid for relay in self._relays))

    def _children(self) -> list[Child]:
        return [*self._relays, *([self._router.child] if self._router.child else [])]

    def _every_turn(self, now: float) -> None:
        if self._listeners.open_missing(self._config.settings, now=now):
            self._router.send(router_messages.ListenersOpened())
        self._upgrader.judge(now)
        self._log_watch.look()

    # ---- the router --------------------------------------------------------------------------------

    def _start_router(self) -> None:
        if not self._phase.starts_processes:
            return
        # One that was killed in the middle of a reload may have left listeners of either configuration.
        self._follower.follow()
        reverted = self._upgrader.reverted
        self._router.start(
            running_config.kept_file(self._config.running),
            self._config.path,
            hello=router_messages.SupervisorHello(
                router_messages.PROTOCOL_VERSION,
                self._upgrader.generation,
                None if reverted is None else msgspec.to_builtins(reverted),
                self._upgrader.code_changed(),
            ),
            listeners=self._listeners,
            relays=self._relays.introductions(),
            events=self._events.recent(),
        )
        if self._phase.stop_later:
            self.stop()

    def _tell_router(self, event: dict[str, Any]) -> None:
        """Have an event of ours shown among the router's."""
        self._router.send(router_messages.SupervisorEvent(event))

    def _router_said(self, router: Child, message: msgspec.Struct) -> None:
        match message:
            case router_messages.PongRouter():
                router.answered_at = self._loop.time()
            case router_messages.PrepareConfig():
                self._follower.prepare(message)
            case router_messages.Upgrade() if not self._phase.upgrading:
                self._phase.upgrading = True
                spawn(self._upgrader.upgrade(router), name="upgrade")
            case router_messages.RouterReady():
                self._notifier.send(READY=1, STATUS=message.status)
                self._phase.ready = self._router.ready = True
                self._now_ready()
                self._follower.reload_if_ready()
            case router_messages.CommitConfig():
                self._follower.commit()
            case router_messages.AbandonConfig():
                self._listeners.abandon(message.number)
            case router_messages.StatusLine():
                self._notifier.send(STATUS=message.text)

    def _now_ready(self) -> None:
        self._upgrader.router_ready()
        if surplus := self._follower.adjust_relays():
            self._router.send(router_messages.ReplaceRelays(surplus))
        self._relays.replace_outdated()

    def _router_ended(self, router: Child, how: str) -> None:
        self._changed.set()
        self._upgrader.router_gone()
        if self._phase.stopping:
            self._stopped.set()
            return
        if self._phase.reverting:
            return
        if self._phase.upgrading and router.retiring:
            self._upgrader.hold_signals(self._loop.call_later)
            return
        self._phase.upgrading = False
        detail = f"{how}; a new one is started, live sessions go on"
        self._events.error("router_ended", detail=detail, **last_output(router.last_words))
        self._upgrader.died("router", how)
        self._restarts.restart("router", self._start_router)
