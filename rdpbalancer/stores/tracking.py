"""A service's bindings in memory, and which of them have changed since they were last written."""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

from rdpbalancer.model import Key
from rdpbalancer.stores.loading import Loading
from rdpbalancer.stores.memory import MemoryStore
from rdpbalancer.stores.records import Changes, pack_binding, pack_value

# Changed keys that are remembered while there is no file. A stranger can make new ones all day.
_MAX_SETTLED: Final = 200_000


class TrackedStore:
    """One service's store, and which of its keys have changed since they were last taken, oldest first."""

    def __init__(self, *, max_entries: int, max_tentative: int) -> None:
        self.dirty: dict[Key, None] = {}
        self.store = MemoryStore(max_entries=max_entries, max_tentative=max_tentative, on_change=self._note)
        self.loading: Loading | None = None
        self.bounded = False

    def _note(self, key: Key) -> None:
        if self.bounded and len(self.dirty) >= _MAX_SETTLED:
            return
        self.dirty[key] = None
        if self.loading is not None:
            self.loading.settle(key)

    def load_from(self, loading: Loading | None) -> None:
        """Look there for keys that are not in memory; None: all are."""
        self.loading = self.store.beneath = loading

    def take(self, changes: Changes, service: str, limit: int, *, now: float) -> int:
        """Put at most `limit` of what has changed into `changes`; return how many. `now`: monotonic."""
        keys = changes.keys[service] = list(islice(self.dirty, limit))
        for key in keys:
            del self.dirty[key]
            binding = self.store.confirmed(key)
            if binding is None:
                changes.unbound.append((service, key.method.value, pack_value(key.value)))
            else:
                changes.bound.append(pack_binding(service, binding, now=now, wall=changes.wall))
        if not self.dirty:
            self.dirty = {}  # the old one would be walked over all that was in it
        return len(keys)

    def put_back(self, keys: Iterable[Key]) -> None:
        """Make keys dirty again, before those that have become so since."""
        self.dirty = dict.fromkeys(chain(keys, self.dirty))
