"""The supervisor's part in a reload: listeners before the commit, relays and the log after it."""

import os

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.ipc import router_messages
from rdpbalancer.runtime import running_config
from rdpbalancer.runtime.open_listeners import OpenListeners
from rdpbalancer.runtime.phase import Phase
from rdpbalancer.runtime.relay_processes import RelayProcesses
from rdpbalancer.runtime.restarts import Restarts
from rdpbalancer.runtime.router_process import RouterProcess
from rdpbalancer.runtime.running_config import ConfigInUse, relay_count
from rdpbalancer.runtime.supervisor_setup import configure_logs
from rdpbalancer.telemetry.events import Events


class ConfigFollower:
    """Has this process, its listeners and relays follow the configuration that is kept."""

    def __init__(
        self,
        *,
        config: ConfigInUse,
        phase: Phase,
        listeners: OpenListeners,
        relays: RelayProcesses,
        router: RouterProcess,
        restarts: Restarts,
        events: Events,
    ) -> None:
        self._config = config
        self._phase = phase
        self._listeners = listeners
        self._relays = relays
        self._router = router
        self._restarts = restarts
        self._events = events

    # ---- a signal ----------------------------------------------------------------------------------

    def reload(self) -> None:
        """Have the router reload, as soon as there is one that can."""
        self.reopen_logs()  # for whoever has rotated the file
        self._phase.reload_later = True
        self.reload_if_ready()

    def reload_if_ready(self) -> None:
        """Pass SIGHUP on, unless there is no router that would carry it out: then the next one will."""
        if self._phase.reload_later and not self._phase.stopping and self._router.serves:
            self._phase.reload_later = False
            self._router.send(router_messages.Reload())

    def reopen_logs(self) -> None:
        """Open the log file anew, here and in the router, for whoever has rotated it."""
        self._reopen_log()
        if self._router.ready:
            self._router.send(router_messages.ReopenLog())

    # ---- what the router asks for ------------------------------------------------------------------

    def prepare(self, asked: router_messages.PrepareConfig) -> None:
        """Open what a new configuration wants, or say why not."""
        problem = "the service is being stopped" if self._phase.stopping else ""
        if not problem:
            try:
                self._listeners.prepare(asked.number, asked.listeners, self._config.settings)
            except ConfigurationError as error:
                problem = str(error)
        self._router.send(router_messages.ConfigPrepared(asked.number, problem))

    def commit(self) -> None:
        """Another configuration is kept: what of it concerns this process."""
        self.follow()
        self._reopen_log()
        self._router.send(router_messages.ConfigCommitted(self.adjust_relays()))

    # ---- what follows ------------------------------------------------------------------------------

    def follow(self) -> None:
        """Take the kept configuration into use."""
        try:
            kept = running_config.kept_file(self._config.running)
            self._config.running = running_config.kept(kept, self._config.path, environ=os.environ)
        except ConfigurationError as error:
            self._events.error("config_not_read", detail=f"{error}; listeners stay as they are")
            return
        settings = self._config.settings
        self._relays.wanted = relay_count(settings)
        self._phase.drain_s = settings.global_.shutdown_timeout
        self._listeners.follow(settings)

    def adjust_relays(self) -> list[int]:
        """Start relays that are missing, later if there is no process or descriptor; return the surplus."""
        try:
            return self._relays.adjust()
        except OSError as error:
            self._restarts.not_started("relay", self._relays.start_missing, error)
            return []

    def _reopen_log(self) -> None:
        try:
            configure_logs(self._config.running)
        except ConfigurationError as error:
            self._events.error("log_not_reopened", detail=str(error))
