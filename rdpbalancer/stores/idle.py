"""Confirmed bindings without a live session, in two orders: least recently used, and soonest expired.

Kept apart from the store because each order has its own structure and the two must agree.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from rdpbalancer.core.persist import Binding
from rdpbalancer.model import Key

# A key that comes and goes leaves a stale heap entry each time, and a stranger can come and go as often as he
# likes. The heap is rebuilt when it holds more than twice what lives; the slack keeps small tables from being
# rebuilt at every turn.
_STALE_SLACK: Final = 1024


class IdleTable:
    """Idle bindings by key. Adding counts as use. Verbs are O(1), those that order by expiry O(log n)."""

    def __init__(self) -> None:
        self._bindings: OrderedDict[Key, Binding] = OrderedDict()  # least recently used first
        self._due: list[tuple[float, Key]] = []  # a heap; entries that no longer match a binding are stale

    def __len__(self) -> int:
        return len(self._bindings)

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys, the least recently used first."""
        return iter(self._bindings)

    def keys(self) -> list[Key]:
        """Return the keys in any order, at once: 17 ms for a million."""
        # With the OrderedDict's own iterator, which keeps to its order, it is fifteen times as long.
        return list(dict.__iter__(self._bindings))

    def get(self, key: Key) -> Binding | None:
        """Return the key's binding, expired or not."""
        return self._bindings.get(key)

    def add(self, binding: Binding, *, expires_at: float) -> None:
        """Add a binding as the most recently used; its key must not be there. `expires_at` is monotonic."""
        self._bindings[binding.key] = binding
        heapq.heappush(self._due, (expires_at, binding.key))
        if len(self._due) > 2 * len(self._bindings) + _STALE_SLACK:
            self._rebuild()

    def pop(self, key: Key) -> Binding | None:
        """Remove the key and return its binding. The heap forgets it when its time comes."""
        return self._bindings.pop(key, None)

    def least_recently_used(self) -> Key | None:
        """Return the key that gives way next."""
        return next(iter(self._bindings), None)

    def next_expired(self, now: float) -> Key | None:
        """Return a key whose binding has expired at `now`, or None. The caller pops it, then asks again."""
        while self._due and self._due[0][0] <= now:
            expires_at, key = heapq.heappop(self._due)
            binding = self._bindings.get(key)
            if binding is not None and binding.expires_at == expires_at:
                return key
        return None

    def _rebuild(self) -> None:
        self._due = [
            (binding.expires_at, key)
            for key, binding in self._bindings.items()
            if binding.expires_at is not None
        ]
        heapq.heapify(self._due)
