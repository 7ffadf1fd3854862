"""Whether users can be served now, in one word: for `status`, health probes and balancers in front."""

from rdpbalancer.core.readiness import HealthWord, health_word
from rdpbalancer.runtime.frontends import Frontends
from rdpbalancer.runtime.lifecycle import Lifecycle
from rdpbalancer.runtime.views import Views


class RouterReadiness:
    """Whether users can be served now, in one word."""

    def __init__(self, *, views: Views, frontends: Frontends, lifecycle: Lifecycle) -> None:
        self._views = views
        self._frontends = frontends
        self._lifecycle = lifecycle

    def __call__(self, service: str | None = None) -> HealthWord:
        """Return the word for a service, None: for all. A router that makes way is no stop."""
        accepting = self._frontends.accepts(service)
        stopping = self._lifecycle.stopping
        return health_word(self._views.usable(), accepting=accepting, stopping=stopping, service=service)
