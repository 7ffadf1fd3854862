"""The verbs of the control socket that are about the service as a whole: status, reload, upgrade, ping."""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rdpbalancer import __version__
from rdpbalancer.control.rows import Process, WarningRow
from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.relay.service import RelayService
from rdpbalancer.runtime import warnings
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.runtime.lifecycle import Lifecycle
from rdpbalancer.runtime.operator import Operator
from rdpbalancer.runtime.processes import process
from rdpbalancer.runtime.readiness import RouterReadiness
from rdpbalancer.runtime.relay_roster import RelayRoster
from rdpbalancer.runtime.reload import Reloader
from rdpbalancer.runtime.running_config import ConfigInUse
from rdpbalancer.runtime.state_service import StateService
from rdpbalancer.runtime.upgrade_request import UpgradeRequest
from rdpbalancer.runtime.views import Views
from rdpbalancer.runtime.warnings import Warnings


class ServiceVerbs:
    """Answers for the whole service."""

    def __init__(
        self,
        *,
        config: ConfigInUse,
        dispatcher: Dispatcher,
        admission: Admission,
        relays: RelayService,
        roster: RelayRoster,
        frontends: Frontends,
        views: Views,
        operator: Operator,
        reloader: Reloader,
        upgrade: UpgradeRequest,
        lifecycle: Lifecycle,
        readiness: RouterReadiness,
        state: StateService,
        warnings_of_events: Warnings,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._admission = admission
        self._relays = relays
        self._roster = roster
        self._frontends = frontends
        self._views = views
        self._operator = operator
        self._reloader = reloader
        self._upgrade = upgrade
        self._lifecycle = lifecycle
        self._readiness = readiness
        self._state = state
        self._warnings_of_events = warnings_of_events
        self._clock = clock
        self._started_at = time.time()

    def verbs(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        """Return every verb of the control socket by its name."""
        return {
            **self._operator.verbs(),
            "status": self._status,
            "reload": self._reload,
            "upgrade": self._ask_upgrade,
            "ping": self._ping,
        }

    def status_line(self) -> str:
        """Return the one line that the service manager shows."""
        services = self._views.services()
        usable = sum(service.servers_usable for service in services)
        total = sum(service.servers_total for service in services)
        return f"{len(self._dispatcher.ledger)} sessions, {usable} of {total} real servers usable"

    async def _ping(self) -> str:
        return "pong"

    async def _reload(self, *, dry_run: bool = False, reason: str = "", actor: str = "") -> dict[str, Any]:
        if dry_run:
            return await self._reloader.dry_run()
        self._operator.tell("reload", reason=reason, actor=actor)
        return await self._reloader.reload()

    async def _ask_upgrade(self, *, reason: str = "", actor: str = "") -> dict[str, Any]:
        return await self._upgrade.ask(
            requested=lambda: self._operator.tell("upgrade", reason=reason, actor=actor)
        )

    async def _status(self) -> dict[str, Any]:
        servers = await self._operator.questions.servers()
        upgrade = self._upgrade
        return {
            "status": self._state_word(),
            "pid": os.getppid(),
            "router": os.getpid(),
            "router_started": self._started_at,
            "relays": {str(pid): sessions for pid, sessions in self._relays.sessions().items()},
            "version": __version__,
            "generation": upgrade.generation,
            "relays_retiring": self._roster.retiring(),
            "health": self._readiness().value,
            "upgrade_reverted": upgrade.reverted,
            "code_changed": upgrade.code_changed,
            "sessions": len(self._dispatcher.ledger),
            "half_open": self._admission.half_open,
            "queue": sum(map(self._dispatcher.queues.length, self._dispatcher.farm.services)),
            "processes": self._processes(),
            "warnings": self._warnings(),
            "config": str(self._config.path),
            # What a service that drains has closed is not missing.
            "listeners_missing": [] if self._lifecycle.ending else self._missing(),
            "services": self._views.services(),
            "servers": servers,
        }

    def _state_word(self) -> str:
        if self._lifecycle.ending:
            return "stopping"
        return "running" if self._frontends.open else "starting"

    def _missing(self) -> list[str]:
        return self._frontends.missing(self._config.settings)

    def _processes(self) -> list[Process]:
        relays = [process("relay", pid) for pid in self._relays.sessions() if pid != os.getpid()]
        return [process("supervisor", os.getppid()), process("router", os.getpid()), *relays]

    def _warnings(self) -> list[WarningRow]:
        farm, statuses = self._dispatcher.farm, self._dispatcher.servers.statuses
        of_events = self._warnings_of_events.rows(services=farm.services, servers=statuses)
        of_farm = warnings.of_farm(self._dispatcher, now=self._clock(), wall=time.time())
        return [*of_farm, *warnings.of_loading(self._state.loading(), since=self._started_at), *of_events]
