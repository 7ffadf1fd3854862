"""Where the state is kept when the durable copy cannot be used: in memory alone.

Users go on working; what is lost is only what a restart would have wanted back.
"""

from rdpbalancer.core.persist import Store
from rdpbalancer.core.status import Override
from rdpbalancer.model import ServerId
from rdpbalancer.stores.memory import MemoryStore


class VolatileState:
    """Bindings and overrides for the life of this process; the verbs of `sqlite.Database` that are read."""

    def __init__(self) -> None:
        self._stores: dict[str, MemoryStore] = {}
        self._overrides: dict[ServerId, Override] = {}

    def bindings(self, service: str, *, max_entries: int) -> Store:
        """Return the service's store; the same store each time."""
        store = self._stores.get(service)
        if store is None:
            store = self._stores[service] = MemoryStore(max_entries=max_entries)
        store.resize(max_entries)
        return store

    def overrides(self) -> dict[ServerId, Override]:
        """Return what the operator has said of which servers."""
        return dict(self._overrides)

    def set_override(self, server: ServerId, override: Override | None) -> None:
        """Remember what the operator says; None: as configured again."""
        if override is None:
            self._overrides.pop(server, None)
        else:
            self._overrides[server] = override

    def close(self) -> None:
        """Nothing is open."""
