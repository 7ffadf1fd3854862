"""Bindings of an earlier run on their way into memory: by slices, and at once for a key that is asked for."""

from collections.abc import Iterable
from typing import Protocol

from rdpbalancer.core.persistence import Binding
from rdpbalancer.errors import StoreError
from rdpbalancer.model import Key, Method
from rdpbalancer.stores import records
from rdpbalancer.stores.memory import MemoryStore
from rdpbalancer.stores.records import BindingRecord


class Lookup(Protocol):
    """Reads one binding off the disk. Raises StoreError."""

    def __call__(self, service: str, key: Key) -> BindingRecord | None:
        """Return the row of the key, or None."""
        ...


class Loading:
    """What a service's store looks at before it says that a key has no binding (`memory.Beneath`).

    A key that was looked for, or has changed since the start, is *settled*: memory says what holds for it,
    and its row, which may be older than that, is passed over.

    Args:
        counts: how many bindings lie in the file, by method.
        settled: keys that have changed in memory before there was a file to look at.
        now, wall: the moment at which the file was opened, monotonic and Unix.
    """

    def __init__(
        self,
        service: str,
        lookup: Lookup,
        *,
        counts: dict[Method, int],
        settled: Iterable[Key],
        now: float,
        wall: float,
    ) -> None:
        self.counts = counts
        self._service = service
        self._lookup = lookup
        self._settled = set(settled)
        self._taken: set[Key] = set()
        self._now = now
        self._wall = wall

    def take(self, key: Key) -> Binding | None:
        """Return the key's binding the first time that it is asked for, if it has one."""
        if key in self._settled:
            return None
        try:
            row = self._lookup(self._service, key)
        except StoreError:
            # The writer finds out and says what is wrong with the file. Until then the slices may still bring
            # it, so the key is not settled.
            return None
        self._settled.add(key)
        binding = None if row is None else self._binding(row)
        if binding is None or not self._lived_at_start(binding):
            return None
        self._taken.add(key)
        self.counts[key.method] -= 1
        return binding

    def settle(self, key: Key) -> None:
        """Memory says from now on what holds for this key."""
        self._settled.add(key)

    def load(self, store: MemoryStore, found: Iterable[BindingRecord]) -> None:
        """Take a slice of rows into the store, the most recently used first over all slices."""
        for row in found:
            binding = self._binding(row)
            key = binding.key
            if key in self._taken or store.holds(key):
                continue  # its number has gone from the counts already
            self.counts[key.method] -= 1
            if key not in self._settled:
                store.restore(binding)

    def _binding(self, row: BindingRecord) -> Binding:
        return records.unpack_binding(row, now=self._now, wall=self._wall)

    def _lived_at_start(self, binding: Binding) -> bool:
        return binding.expires_at is None or binding.expires_at > self._now
