"""The parts of a router, put together: everything that decides, moves, watches and shows.

What begins and ends it, and what it says to the supervisor, is `runtime.router`.
"""

import asyncio
import random
import time

from rdpbalancer.control.pacing import Pacer
from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.model import CloseReason, ServerId
from rdpbalancer.net import descriptors
from rdpbalancer.relay.inline import InlineRelay
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.relay.service import RelayService
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.runtime.operator import Operator
from rdpbalancer.runtime.relay_roster import RelayRoster
from rdpbalancer.runtime.reload_target import ReloadTarget
from rdpbalancer.runtime.router_logs import RouterLogs
from rdpbalancer.runtime.running_config import ConfigInUse, RunningConfig, relay_count
from rdpbalancer.runtime.server_monitor import ServerStatusManager
from rdpbalancer.runtime.session_tracker import SessionTracker
from rdpbalancer.runtime.state_service import FILE_NAME, StateService
from rdpbalancer.runtime.views import Views
from rdpbalancer.runtime.warnings import Warnings
from rdpbalancer.session import ConnectionHandler
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.exporter import Readiness
from rdpbalancer.telemetry.metrics import Metrics


class RouterParts:
    """All parts of one router. `readiness(service)`: see `runtime.readiness`."""

    def __init__(self, running: RunningConfig, *, readiness: Readiness) -> None:
        self.clock = asyncio.get_running_loop().time
        self.config = ConfigInUse(running)
        self.events = Events()
        self.warnings = Warnings(wall=time.time)
        self.events.on_event = self.warnings.note
        self.logs = RouterLogs(running.settings, self.events)
        self.metrics = Metrics()
        self.account = Account(self.metrics, self.logs.users(running.settings))
        limits = running.settings.global_.limits
        self.state = StateService(
            running.settings.global_.state_dir / FILE_NAME,
            events=self.events,
            metrics=self.metrics,
            clock=self.clock,
            max_half_open=limits.max_half_open,
            on_overrides=self._restore_overrides,
            on_loaded=self._bindings_loaded,
        )
        # S311 below: the scheduler's chance decides who shares a server, it guards nothing.
        self.dispatcher = Dispatcher(open_store=self.state.store, rng=random.Random())  # noqa: S311
        self.admission = Admission(max_half_open=limits.max_half_open)
        self.relays = self._make_relays(running)
        self.roster = RelayRoster(self.relays)
        self.monitor = ServerStatusManager(
            dispatcher=self.dispatcher,
            metrics=self.metrics,
            events=self.events,
            clock=self.clock,
            kick=self.kick_server,
        )
        self.sessions = self._make_connection_handler()
        self.frontends = self._make_frontends(readiness)
        self.pacer = Pacer(busy=lambda: self.admission.half_open > 0)
        self.views = self._make_views()
        self.operator = self._make_operator()
        self.target = self._make_reload_target()

    def _make_relays(self, running: RunningConfig) -> RelayService:
        tracker = SessionTracker(
            dispatcher=self.dispatcher,
            admission=self.admission,
            account=self.account,
            events=self.events,
            clock=self.clock,
        )
        if relay_count(running.settings) == 0:
            return InlineRelay(tracker)
        return RelayPool(tracker, capacity=descriptors.sessions_of_a_relay(descriptors.limit()))

    def _make_connection_handler(self) -> ConnectionHandler:
        return ConnectionHandler(
            dispatcher=self.dispatcher,
            admission=self.admission,
            relays=self.relays,
            metrics=self.metrics,
            account=self.account,
            events=self.events,
            dial_failed=self.monitor.dial_failed,
            dialled=self.monitor.dialled,
        )

    def _make_frontends(self, readiness: Readiness) -> Frontends:
        return Frontends(
            dispatcher=self.dispatcher,
            admission=self.admission,
            sessions=self.sessions,
            metrics=self.metrics,
            events=self.events,
            clock=self.clock,
            relays_full=lambda: self.relays.full,
            readiness=readiness,
        )

    def _make_views(self) -> Views:
        return Views(
            self.dispatcher,
            clock=self.clock,
            checks_failed=self.monitor.checks_failed,
            bound_names=self.frontends.bound_names,
            last_checks=self.monitor.last_checks,
            totals=self.account.totals,
        )

    def _make_operator(self) -> Operator:
        return Operator(
            dispatcher=self.dispatcher,
            watch=self.monitor,
            views=self.views,
            events=self.events,
            overrides=self.state,
            written=self.state.written,
            kick=self.relays.kick,
            clock=self.clock,
            breathe=self.pacer.breathe,
            user_in_log=self._user_in_log,
        )

    def _make_reload_target(self) -> ReloadTarget:
        return ReloadTarget(
            config=self.config,
            dispatcher=self.dispatcher,
            admission=self.admission,
            monitor=self.monitor,
            state=self.state,
            relays=self.relays,
            frontends=self.frontends,
            operator=self.operator,
            account=self.account,
            metrics=self.metrics,
            router_logs=self.logs,
        )

    # ---- what parts ask of each other --------------------------------------------------------------

    def kick_server(self, server: ServerId, reason: CloseReason) -> int:
        """End a server's sessions; return how many."""
        return self.operator.kick_server(server, reason)

    def _restore_overrides(self) -> None:
        self.operator.restore(self.dispatcher.servers.statuses.keys())

    def _bindings_loaded(self, service: str) -> None:
        # Those of sessions that ended while there was no router.
        self.dispatcher.bindings.unpin_unused(service)
        self.dispatcher.bindings.unpin_some(now=self.clock())

    def _user_in_log(self, user: str | None) -> str | None:
        return self.account.users(user)  # which a reload replaces
