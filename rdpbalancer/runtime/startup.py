"""How a router begins: its state is read, its relays have told their sessions; only then clients come in."""

import asyncio
import os
import time

from rdpbalancer.control.server import ControlServer
from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.relay.service import RelayService
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.runtime.relay_roster import RelayRoster
from rdpbalancer.runtime.reload_target import ReloadTarget
from rdpbalancer.runtime.running_config import ConfigInUse
from rdpbalancer.runtime.server_monitor import ServerStatusManager
from rdpbalancer.runtime.state_service import StateService
from rdpbalancer.runtime.views import Views
from rdpbalancer.settings.farm_builder import farm_of
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics

# For the first checks of a service's servers. Without them all new users would go to the first one that has
# been checked. Who is slower than this is slow or dead, and takes no new user until its check is through.
_FIRST_CHECK_S = 0.5


class Startup:
    """Takes a router's parts into use, in the order that loses nothing."""

    def __init__(
        self,
        *,
        config: ConfigInUse,
        target: ReloadTarget,
        dispatcher: Dispatcher,
        state: StateService,
        relays: RelayService,
        roster: RelayRoster,
        monitor: ServerStatusManager,
        frontends: Frontends,
        control: ControlServer,
        views: Views,
        admission: Admission,
        events: Events,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._target = target
        self._dispatcher = dispatcher
        self._state = state
        self._relays = relays
        self._roster = roster
        self._monitor = monitor
        self._frontends = frontends
        self._control = control
        self._views = views
        self._admission = admission
        self._events = events
        self._metrics = metrics

    async def run(self) -> None:
        """Begin to serve."""
        await self._state.open()
        await self._target.take_farm(farm_of(self._config.settings))
        self._target.restore_overrides(self._dispatcher.servers.statuses.keys())
        self._roster.serve()
        # Whoever lives must be known before anybody new is placed: exact loads, and every user's desktop.
        await self._relays.introduced()
        self._state.start()
        self._roster.migrate_outdated()
        self._metrics.observe_state(
            lambda: self._views.snapshot(relays=self._relays.sessions(), half_open=self._admission.half_open)
        )
        self._metrics.reload_successful.set(1)
        self._metrics.reload_timestamp.set(time.time())
        await self._control.start(self._frontends.control())
        await self._frontends.serve_metrics(self._config.settings)
        await asyncio.gather(*(self._open(service) for service in self._dispatcher.farm.services))
        await self._frontends.open_all(self._config.settings)
        self._events.info("router_ready", sessions=len(self._dispatcher.ledger), pid=os.getpid())

    async def _open(self, service: str) -> None:
        """Accept for a service as soon as its servers have been checked: no service waits for another's."""
        await self._monitor.checked_once(service, timeout_s=_FIRST_CHECK_S)
        self._frontends.open_service(service)
