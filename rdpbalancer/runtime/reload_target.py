"""What a reload changes in a router: every part that knows of the configuration."""

from collections.abc import Collection, Sequence

from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import Farm
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.model import ServerId
from rdpbalancer.relay.service import RelayService
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.runtime.operator import Operator
from rdpbalancer.runtime.router_logs import RouterLogs
from rdpbalancer.runtime.running_config import ConfigInUse, RunningConfig, relay_count
from rdpbalancer.runtime.server_monitor import ServerStatusManager
from rdpbalancer.runtime.state_service import StateService
from rdpbalancer.telemetry.account import Account
from rdpbalancer.telemetry.metrics import Metrics
from rdpbalancer.telemetry.users import UserMasking


class ReloadTarget:
    """The parts of one router, as `runtime.reload.Reloadable`."""

    def __init__(
        self,
        *,
        config: ConfigInUse,
        dispatcher: Dispatcher,
        admission: Admission,
        monitor: ServerStatusManager,
        state: StateService,
        relays: RelayService,
        frontends: Frontends,
        operator: Operator,
        account: Account,
        metrics: Metrics,
        router_logs: RouterLogs,
    ) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._admission = admission
        self._monitor = monitor
        self._state = state
        self._relays = relays
        self._frontends = frontends
        self._operator = operator
        self._account = account
        self._metrics = metrics
        self._logs = router_logs

    @property
    def farm(self) -> Farm:
        """The farm in use."""
        return self._dispatcher.farm

    def refuse(self, fresh: RunningConfig) -> None:
        """Raise ConfigurationError for what cannot change while the service runs."""
        for name in ("state_dir", "runtime_dir"):
            if getattr(fresh.settings.global_, name) != getattr(self._config.settings.global_, name):
                message = f"global.{name} cannot change while the service runs: restart it"
                raise ConfigurationError("restart-needed", message)
        if (relay_count(fresh.settings) > 0) != self._relays.outlives_router:
            message = "global.relays cannot change to or from 0 while the service runs: restart it"
            raise ConfigurationError("restart-needed", message)

    def users(self, fresh: RunningConfig) -> UserMasking:
        """Return how users would be named in the log."""
        return self._logs.users(fresh.settings)

    def take_settings(self, fresh: RunningConfig, users: UserMasking) -> None:
        """Take all but the farm into use."""
        self._config.running = fresh
        self._admission.max_half_open = fresh.settings.global_.limits.max_half_open
        self._state.limit_claims(self._admission.max_half_open)
        self._account.users = users
        self._logs.reopen(fresh.settings)

    def stop_removed(self, fresh: RunningConfig) -> None:
        """Accept no more for services that go."""
        self._frontends.stop_removed(fresh.settings)

    async def take_farm(self, farm: Farm) -> None:
        """Take a farm into use, at start and at each reload."""
        self._metrics.prepare(farm)
        resolve_interval_s = self._config.settings.global_.resolve_interval
        await self._monitor.apply(farm, resolve_interval_s=resolve_interval_s)
        self._state.configured(farm.servers().keys())

    def restore_overrides(self, servers: Collection[ServerId]) -> None:
        """Give servers that were added what an operator has wanted of them before."""
        self._operator.restore(servers)

    async def accept(self, fresh: RunningConfig) -> None:
        """Accept where the configuration says."""
        await self._frontends.apply(fresh.settings)

    def retire_relays(self, relays: Sequence[int]) -> None:
        """Give these relays no more sessions: there are too many."""
        self._relays.retire(relays)

    def take_back_listeners(self, names: Collection[str]) -> None:
        """Close the listeners that were passed on for a reload that has failed."""
        self._frontends.take_back(names)
