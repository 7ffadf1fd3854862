"""The router process: the composition root, where everything that decides is put together.

It takes listening sockets and relays from the supervisor, and connections from the listeners. When it dies
the next one learns every live session from the relays, and the operator's words and bindings from the store.
"""

import asyncio
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import msgspec

from rdpbalancer import __version__
from rdpbalancer.control.pacing import Pacer
from rdpbalancer.control.rows import Process, WarningRow
from rdpbalancer.control.server import ControlServer
from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import Farm
from rdpbalancer.core.readiness import HealthWord, health_word
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.ipc import router_messages
from rdpbalancer.ipc.channel import Channel
from rdpbalancer.model import CloseReason, ServerId
from rdpbalancer.net import descriptors
from rdpbalancer.relay.inline import InlineRelay
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.runtime import warnings
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.runtime.operator import Operator
from rdpbalancer.runtime.processes import process
from rdpbalancer.runtime.reload import Reloader
from rdpbalancer.runtime.running_config import RunningConfig, relay_count
from rdpbalancer.runtime.server_monitor import ServerStatusManager
from rdpbalancer.runtime.session_tracker import SessionTracker
from rdpbalancer.runtime.state_service import FILE_NAME, StateService
from rdpbalancer.runtime.views import Views
from rdpbalancer.runtime.warnings import Warnings
from rdpbalancer.session import ConnectionHandler
from rdpbalancer.settings.farm_builder import farm_of
from rdpbalancer.settings.schema import Settings
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.log_watch import LogWatch
from rdpbalancer.telemetry.metrics import Metrics

_LAG_INTERVAL_S = 0.5
_STATUS_INTERVAL_S = 10.0
# For the first checks of a service's servers. Without them all new users would go to the first one that has
# been checked. Who is slower than this is slow or dead, and takes no new user until its check is through.
_FIRST_CHECK_S = 0.5
_EXPIRE_INTERVAL_S = 1.0
# Between slices of what expires, each of about 2 ms: half of the loop stays with the users.
_EXPIRE_PAUSE_S = 0.002
# At the stop, for the records of all sessions: some seconds for 60,000, more on a busy machine.
_LAST_RECORDS_S = 32.0
# Without a single one for this long no more will come: a relay that hangs has been killed by then (after
# 10 s), and the records of its sessions written.
_NO_RECORD_S = 12.0
# What is half open when the router makes way for the next one: longer than a handshake and a slow server
# together is not worth the wait of everybody who comes meanwhile.
_RETIRE_S = 5.0
# What is said to a relay is in its line at once, unless the relay hangs.
_EMPTY_HANDS_S = 2.0
_EMPTY_HANDS_POLL_S = 0.005


class Router:
    """One router process."""

    def __init__(self, supervisor: socket.socket, active: RunningConfig) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = self._loop.time
        self._active = active
        self._settings = active.settings
        self.events = Events()
        self.warnings = Warnings(wall=time.time)
        self.events.on_event = self.warnings.note
        self._begin_log()
        self._log_lookout = LogWatch(self.events)
        self.metrics = Metrics()
        self._passing_key = os.urandom(32)
        state_dir = self._settings.global_.state_dir
        self.account = Account(self.metrics, self.user_names(self._settings))
        self.durable = StateService(
            state_dir / FILE_NAME,
            events=self.events,
            metrics=self.metrics,
            clock=self._clock,
            max_half_open=self._settings.global_.limits.max_half_open,
            on_overrides=self._take_overrides,
            on_loaded=self._bindings_loaded,
        )
        # S311 below: the scheduler's chance decides who shares a server, it guards nothing.
        self.dispatcher = Dispatcher(open_store=self.durable.store, rng=random.Random())  # noqa: S311
        self.admission = Admission(max_half_open=self._settings.global_.limits.max_half_open)
        keeper = SessionTracker(
            dispatcher=self.dispatcher,
            admission=self.admission,
            account=self.account,
            events=self.events,
            clock=self._clock,
        )
        inline = relay_count(self._settings) == 0
        capacity = descriptors.sessions_of_a_relay(descriptors.limit())
        self.relays: RelayPool | InlineRelay = (
            InlineRelay(keeper) if inline else RelayPool(keeper, capacity=capacity)
        )
        self.watch = ServerStatusManager(
            dispatcher=self.dispatcher,
            metrics=self.metrics,
            events=self.events,
            clock=self._clock,
            kick=self._kick_server,
        )
        self.sessions = ConnectionHandler(
            dispatcher=self.dispatcher,
            admission=self.admission,
            relays=self.relays,
            metrics=self.metrics,
            account=self.account,
            events=self.events,
            dial_failed=self.watch.dial_failed,
            dialled=self.watch.dialled,
        )
        self.doors = Frontends(
            dispatcher=self.dispatcher,
            admission=self.admission,
            sessions=self.sessions,
            metrics=self.metrics,
            events=self.events,
            clock=self._clock,
            relays_full=lambda: self.relays.full,
            readiness=self.health_word,
        )
        self.views = Views(
            self.dispatcher,
            clock=self._clock,
            checks_failed=self.watch.checks_failed,
            bound_names=self.doors.bound_names,
            last_checks=self.watch.last_checks,
            totals=self.account.totals,
        )
        self._pacer = Pacer(busy=lambda: self.admission.half_open > 0)
        self.operator = Operator(
            dispatcher=self.dispatcher,
            watch=self.watch,
            views=self.views,
            events=self.events,
            overrides=self.durable,
            written=self.durable.written,
            kick=self.relays.kick,
            clock=self._clock,
            breathe=self._pacer.breathe,
            user_in_log=self._user_in_log,
        )
        self.reloader = Reloader(self, active)
        self._control: ControlServer | None = None
        self._relays_up: list[tuple[int, socket.socket]] = []
        self._outdated: list[int] = []
        self._previous: list[int] = []
        self._generation = 0
        self._reverted: dict[str, Any] | None = None
        self._code_changed = False
        self._upgrade_answer: asyncio.Future[str] | None = None
        self._retiring = False
        self._farm_taken = False
        self._begun = asyncio.Event()
        self._stop_s: float | None = None
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._started_at = time.time()
        self.supervisor = Channel(
            supervisor, router_messages.TO_ROUTER, on_message=self._heard, on_close=self._orphaned
        )

    # ---- life --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the supervisor says stop, or is gone."""
        await self._begun.wait()
        background = [
            spawn(self._expire(), name="expire bindings"),
            spawn(self._measure_lag(), name="event loop lag"),
            spawn(self._tell_status(), name="status"),
        ]
        try:
            await self._start()
            await self._stopping.wait()
            await (self._retire() if self._retiring else self._drain())
        finally:
            await self.watch.stop()
            await cancel_and_wait(*background)
            self.account.tell_sums(at_all=True)
            await self._empty_hands()
            self.sessions.close()
            await self.durable.close()
            self.relays.close()
            self.supervisor.close()

    async def _start(self) -> None:
        await self.durable.open()
        await self.take_farm(farm_of(self._settings))
        self._take_overrides()
        self._farm_taken = True
        self._add_relays()
        # Whoever lives must be known before anybody new is placed: exact loads, and every user's desktop.
        await self.relays.introduced()
        self.durable.start()
        if isinstance(self.relays, RelayPool):
            self.relays.surrender(self._outdated)
        self.metrics.observe_state(
            lambda: self.views.snapshot(relays=self.relays.sessions(), half_open=self.admission.half_open)
        )
        self.metrics.reload_successful.set(1)
        self.metrics.reload_timestamp.set(time.time())
        await self._start_control()
        await self.doors.serve_metrics(self._settings)
        await asyncio.gather(*(self._open(service) for service in self.dispatcher.farm.services))
        await self.doors.open_all(self._settings)
        self.events.info("router_ready", sessions=len(self.dispatcher.ledger), pid=os.getpid())
        self.supervisor.send(router_messages.RouterReady(self.status_line()))

    async def _open(self, service: str) -> None:
        """Accept for a service as soon as its servers have been checked: no service waits for another's."""
        await self.watch.checked_once(service, timeout_s=_FIRST_CHECK_S)
        self.doors.open_service(service)

    async def take_farm(self, farm: Farm) -> None:
        """Take a farm into use, at start and at each reload."""
        self.metrics.prepare(farm)
        resolve_interval_s = self._settings.global_.resolve_interval
        await self.watch.apply(farm, resolve_interval_s=resolve_interval_s)
        self.durable.configured(farm.servers().keys())

    def _take_overrides(self) -> None:
        self.operator.restore(self.dispatcher.servers.statuses.keys())

    def _bindings_loaded(self, service: str) -> None:
        # Those of sessions that ended while there was no router.
        self.dispatcher.bindings.unpin_unused(service)
        self.dispatcher.bindings.unpin_some(now=self._clock())

    @property
    def runtime_dir(self) -> Path:
        """Where the configuration in use is kept."""
        return self._settings.global_.runtime_dir

    def user_names(self, settings: Settings) -> logs.UserMasking:
        """Return how users are named in the log by these settings."""
        how, key = settings.global_.log.user, self._passing_key
        if how == "hash":
            try:
                key = logs.installation_key(settings.global_.state_dir)
            except OSError as error:
                detail = f"{error}; until a reload finds one, the next start will hash them differently"
                self.events.error("user_hash_key_not_kept", detail=detail)
        return logs.UserMasking(how, key)

    def take_settings(self, active: RunningConfig, users: logs.UserMasking) -> None:
        """Take the settings of a reload into use, all but the farm."""
        self._active = active
        self._settings = active.settings
        self.admission.max_half_open = self._settings.global_.limits.max_half_open
        self.durable.limit_claims(self.admission.max_half_open)
        self.account.users = users
        self._reopen_log()

    async def _drain(self) -> None:
        """Accept no more; let sessions end by themselves for a while, then end them, each with its record."""
        self.doors.shut()
        drain_s = self._stop_s or 0.0
        self.events.info("router_stopping", sessions=len(self.dispatcher.ledger), drain_s=drain_s)
        await self._until_empty(drain_s, give_up=self._stop_now)
        # First those who wait: the places that become free in a moment are nobody's any more.
        self.sessions.give_up()
        for server in self.dispatcher.ledger.servers():
            self.operator.kick_server(server, CloseReason.SHUTDOWN)
        await self._last_records()
        await self._close_servers()

    async def _last_records(self) -> None:
        """Wait until every session that has been ended has its record, as long as they keep coming."""
        until_at = self._clock() + _LAST_RECORDS_S
        left, changed_at = len(self.dispatcher.ledger), self._clock()
        while left and self._clock() < min(until_at, changed_at + _NO_RECORD_S):
            await self._until_empty(0.1, give_up=asyncio.Event())
            if (now_left := len(self.dispatcher.ledger)) != left:
                left, changed_at = now_left, self._clock()
        if left:
            detail = "they have ended, but their relays have not said how"
            self.events.error("records_missing", sessions=left, detail=detail)

    async def _retire(self) -> None:
        """Make way for the next router: finish what is half open, leave the sessions with their relays."""
        self.doors.shut()
        self.events.info("router_retiring", sessions=len(self.dispatcher.ledger))
        await self.reloader.finish()
        await self.sessions.wait_idle(timeout_s=_RETIRE_S)
        await self._close_servers()

    async def _empty_hands(self) -> None:
        """Pass on the last handshakes' sessions, before the lines are closed: they would end with us."""
        deadline_at = self._clock() + _EMPTY_HANDS_S
        relays = self.relays
        while isinstance(relays, RelayPool) and relays.in_hand and self._clock() < deadline_at:  # noqa: ASYNC110
            # Polled: it must be true at the very moment of closing, not when an event was set.
            await asyncio.sleep(_EMPTY_HANDS_POLL_S)

    async def _close_servers(self) -> None:
        if self._control is not None:
            await self._control.stop()
        await self.doors.close()

    async def _until_empty(self, timeout_s: float, *, give_up: asyncio.Event) -> None:
        deadline_at = self._clock() + timeout_s
        while len(self.dispatcher.ledger) and (left_s := deadline_at - self._clock()) > 0:
            try:
                async with asyncio.timeout(min(left_s, 0.1)):
                    await give_up.wait()
            except TimeoutError:
                continue
            return

    # ---- the supervisor's words --------------------------------------------------------------------

    def _heard(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        match message:
            case router_messages.SupervisorHello():
                self._greeted(message)
            case router_messages.AddListener():
                self.doors.give(message.name, sockets[0])
            case router_messages.AddRelay():
                self._relay_up(message, sockets[0])
            case router_messages.StartRouter():
                self._begun.set()
            case router_messages.PingRouter():
                self.supervisor.send(router_messages.PongRouter(message.number))
            case router_messages.ConfigPrepared():
                self.reloader.granted(message)
            case router_messages.SupervisorEvent():
                self.events.remember(message.event)
                self.warnings.note(message.event)
            case _:
                self._ordered(message)

    def _greeted(self, hello: router_messages.SupervisorHello) -> None:
        if hello.version != router_messages.PROTOCOL_VERSION:
            message = f"router: the supervisor speaks version {hello.version} of the private protocol"
            raise SystemExit(message)
        self._generation = hello.generation
        self._reverted, self._code_changed = hello.reverted, hello.code_changed

    def _relay_up(self, message: router_messages.AddRelay, line: socket.socket) -> None:
        self._relays_up.append((message.pid, line))
        if message.outdated:
            self._outdated.append(message.pid)
        if message.previous:
            self._previous.append(message.pid)
        self._add_relays()

    def _replace(self, relays: list[int]) -> None:
        """Relays of this code are there: those of the code before an upgrade give their sessions to them."""
        if isinstance(self.relays, RelayPool):
            self.relays.surrender(relays)
        self._previous = [pid for pid in self._previous if pid not in relays]

    def _relays_retiring(self) -> list[int]:
        """Return the relays that give their sessions away, or will as soon as there are others."""
        if isinstance(self.relays, InlineRelay):
            return []
        living = self.relays.sessions()
        return [*self.relays.retiring(), *(pid for pid in self._previous if pid in living)]

    def _ordered(self, message: msgspec.Struct) -> None:
        match message:
            case router_messages.ReplaceRelays():
                self._replace(message.relays)
            case router_messages.ConfigCommitted():
                self.reloader.committed(message)
            case router_messages.ListenersOpened():
                spawn(self.doors.apply(self._settings), name="accept on what is open now")
            case router_messages.ReopenLog():
                self._reopen_log()
            case router_messages.Reload():
                spawn(self.reloader.reload_quietly(), name="reload")
            case router_messages.UpgradeAnswer():
                if self._upgrade_answer is not None and not self._upgrade_answer.done():
                    self._upgrade_answer.set_result(message.problem)
            case router_messages.RetireRouter():
                self._retiring = True
                self._stopping.set()
            case router_messages.StopRouter():
                self._stop(message.drain_s)

    def _add_relays(self) -> None:
        """Ask the relays for their sessions, but not before there is a farm whose bindings they can pin."""
        if not self._farm_taken or isinstance(self.relays, InlineRelay):
            return
        for pid, sock in self._relays_up:
            self.relays.add(pid, sock)
        self._relays_up.clear()

    def _stop(self, drain_s: float) -> None:
        if self._stop_s is not None or not drain_s:
            self._stop_now.set()
        self._stop_s = drain_s
        if self._upgrade_answer is not None and not self._upgrade_answer.done():
            self._upgrade_answer.set_result("the service is being stopped")
        self._stopping.set()

    def _orphaned(self) -> None:
        self.events.error("supervisor_lost", detail="the supervisor has ended; so does the router")
        self._stop(0.0)

    # ---- listeners ---------------------------------------------------------------------------------

    async def _start_control(self) -> None:
        verbs = {
            **self.operator.verbs(),
            "status": self._status,
            "reload": self._reload,
            "upgrade": self._upgrade,
            "ping": self._ping,
        }
        self._control = ControlServer(verbs, on_error=self._control_failed, pacer=self._pacer)
        await self._control.start(self.doors.control())

    def _control_failed(self, verb: str, error: Exception) -> None:
        self.events.exception("internal_error", error, verb=verb)

    def _user_in_log(self, user: str | None) -> str | None:
        return self.account.users(user)  # which a reload replaces

    async def _ping(self) -> str:
        return "pong"

    async def _reload(self, *, dry_run: bool = False, reason: str = "", actor: str = "") -> dict[str, Any]:
        if dry_run:
            return await self.reloader.dry_run()
        self.operator.tell("reload", reason=reason, actor=actor)
        return await self.reloader.reload()

    async def _upgrade(self, *, reason: str = "", actor: str = "") -> dict[str, Any]:
        """Have the supervisor become the newly installed code; answered once it is known whether it will."""
        if isinstance(self.relays, InlineRelay):
            message = "with relays: 0 an upgrade would end every session; restart the service instead"
            raise ConfigurationError("restart-needed", message)
        if self._retiring:
            raise ConfigurationError("upgrade-refused", "an upgrade is under way already; wait for its end")
        if self._upgrade_answer is None or self._upgrade_answer.done():
            self._upgrade_answer = self._loop.create_future()
            self.operator.tell("upgrade", reason=reason, actor=actor)
            self.supervisor.send(router_messages.Upgrade())
        problem = await self._upgrade_answer
        if problem:
            raise ConfigurationError("upgrade-refused", f"{problem}; the running code goes on")
        return {"generation": self._generation, "version": __version__}

    async def _status(self) -> dict[str, Any]:
        servers = await self.operator.questions.servers()
        return {
            "status": "stopping" if self._stopping.is_set() else "running" if self.doors.open else "starting",
            "pid": os.getppid(),
            "router": os.getpid(),
            "router_started": self._started_at,
            "relays": {str(pid): sessions for pid, sessions in self.relays.sessions().items()},
            "version": __version__,
            "generation": self._generation,
            "relays_retiring": self._relays_retiring(),
            "health": self.health_word().value,
            "upgrade_reverted": self._reverted,
            "code_changed": self._code_changed,
            "sessions": len(self.dispatcher.ledger),
            "half_open": self.admission.half_open,
            "queue": sum(map(self.dispatcher.queues.length, self.dispatcher.farm.services)),
            "processes": self._processes(),
            "warnings": self._warnings(),
            "config": str(self._active.path),
            "listeners_missing": self.doors.missing(self._settings),
            "services": self.views.services(),
            "servers": servers,
        }

    def _processes(self) -> list[Process]:
        relays = [process("relay", pid) for pid in self.relays.sessions() if pid != os.getpid()]
        return [process("supervisor", os.getppid()), process("router", os.getpid()), *relays]

    def _warnings(self) -> list[WarningRow]:
        farm, statuses = self.dispatcher.farm, self.dispatcher.servers.statuses
        told = self.warnings.rows(services=farm.services, servers=statuses)
        farms = warnings.of_farm(self.dispatcher, now=self._clock(), wall=time.time())
        return [*farms, *warnings.of_loading(self.durable.loading(), since=self._started_at), *told]

    def health_word(self, service: str | None = None) -> HealthWord:
        """Say in one word whether a user who comes now can be served; a router that makes way is no stop."""
        stopping = self._stopping.is_set() and not self._retiring
        accepting = self.doors.accepts(service)
        return health_word(self.views.usable(), accepting=accepting, stopping=stopping, service=service)

    def _kick_server(self, server: ServerId, reason: CloseReason) -> int:
        return self.operator.kick_server(server, reason)

    def status_line(self) -> str:
        """Return the one line that the service manager shows."""
        services = self.views.services()
        usable = sum(service.servers_usable for service in services)
        total = sum(service.servers_total for service in services)
        return f"{len(self.dispatcher.ledger)} sessions, {usable} of {total} real servers usable"

    # ---- background --------------------------------------------------------------------------------

    def _configure_logs(self) -> None:
        log = self._settings.global_.log
        logs.configure(log_format=log.format, level=log.level, file=log.file, process="router")

    def _reopen_log(self) -> None:
        try:
            self._configure_logs()
        except ConfigurationError as error:
            self.events.error("log_not_reopened", detail=str(error))

    def _begin_log(self) -> None:
        """Log to the file, or to standard error where it cannot be written: users do not wait for a log."""
        log = self._settings.global_.log
        logs.configure(log_format=log.format, level=log.level, process="router")
        self._reopen_log()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_INTERVAL_S)
            for bindings in [self.dispatcher.bindings.of(name) for name in self.dispatcher.farm.services]:
                bindings.expire(now=self._clock())
                while bindings.more_to_drop(now=self._clock()):
                    await asyncio.sleep(_EXPIRE_PAUSE_S)
                    bindings.expire(now=self._clock())
            while self.dispatcher.bindings.unpin_some(now=self._clock()):  # noqa: ASYNC110 (a pause between slices)
                await asyncio.sleep(_EXPIRE_PAUSE_S)

    async def _tell_status(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_INTERVAL_S)
            if self.doors.open:
                self.supervisor.send(router_messages.StatusLine(self.status_line()))
                self._forget_removed()

    def _forget_removed(self) -> None:
        """Let go of the counters of what a reload has removed, once its last session has ended."""
        farm = self.dispatcher.farm
        servers = {*farm.servers(), *self.dispatcher.ledger.servers()}
        self.account.keep_only({*farm.services, *(server.service for server in servers)}, servers)

    async def _measure_lag(self) -> None:
        while True:
            due_at = self._clock() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self.metrics.loop_lag.observe(max(0.0, self._clock() - due_at))
            self.metrics.log_lines_lost.inc(self._log_lookout.look())
            self.account.tell_sums()

    def refuse_running_changes(self, active: RunningConfig) -> None:
        """Raise ConfigurationError for what cannot change while the service runs."""
        for name in ("state_dir", "runtime_dir"):
            if getattr(active.settings.global_, name) != getattr(self._settings.global_, name):
                message = f"global.{name} cannot change while the service runs: restart it"
                raise ConfigurationError("restart-needed", message)
        if (relay_count(active.settings) == 0) != isinstance(self.relays, InlineRelay):
            message = "global.relays cannot change to or from 0 while the service runs: restart it"
            raise ConfigurationError("restart-needed", message)
