"""Confirmed bindings without a live session, in two orders: least recently used, and soonest expired.

Kept apart from the store because each order has its own structure and the two must agree. A table of a
million must not hold up the loop, so nothing here is put in order, copied or made larger all at once (an
OrderedDict of that size takes 70 ms to grow).
"""

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Final

from rdpbalancer.core.persistence import Binding
from rdpbalancer.model import Key

# Ends are sorted into buckets of this many seconds. Only the bucket whose time has come is put in order, so
# the longest step is that of the bindings which end within one bucket, not that of the whole table.
_BUCKET_S: Final = 16.0
# Buckets that come and go leave stale numbers in their heap. It is rebuilt when it holds more than twice what
# is there; the slack keeps small tables from being rebuilt at every turn.
_STALE_SLACK: Final = 1024
# What every addition does for the order of use while that is being cleared of stale entries. Clearing begins
# when a third are stale, and ends before a quarter of the table has been used again.
_STEPS: Final = 4
_STALE_SHARE: Final = 0.5


class _Uses:
    """Bindings in the order of their use. Those that are no longer in the table are passed over, stale."""

    def __init__(self, table: dict[Key, Binding]) -> None:
        self._table = table
        self._order: deque[Binding] = deque()
        self._cleared: deque[Binding] | None = None  # what goes before `_order` while that is being cleared

    def append(self, binding: Binding) -> None:
        """Add the most recently used."""
        self._order.append(binding)
        self._clear_some()

    def append_oldest(self, binding: Binding) -> None:
        """Add the least recently used."""
        (self._order if self._cleared is None else self._cleared).appendleft(binding)
        self._clear_some()

    def oldest(self) -> Binding | None:
        """Return the least recently used."""
        for order in (self._cleared, self._order):
            while order:
                if self._lives(order[0]):
                    return order[0]
                order.popleft()
        return None

    def __iter__(self) -> Iterator[Binding]:
        for order in (self._cleared or (), self._order):
            yield from filter(self._lives, order)

    def _lives(self, binding: Binding) -> bool:
        return self._table.get(binding.key) is binding

    def _clear_some(self) -> None:
        if self._cleared is None:
            if len(self._order) <= (1 + _STALE_SHARE) * len(self._table) + _STALE_SLACK:
                return
            self._cleared = deque()
        for _ in range(_STEPS):
            if not self._order:
                self._order, self._cleared = self._cleared, None
                return
            binding = self._order.popleft()
            if self._lives(binding):
                self._cleared.append(binding)


class IdleTable:
    """Idle bindings by key. Adding counts as use. No verb walks the table."""

    def __init__(self) -> None:
        self._bindings: dict[Key, Binding] = {}
        self._uses = _Uses(self._bindings)
        self._buckets: dict[int, dict[Key, None]] = {}  # by the number of the bucket, none of them empty
        self._numbers: list[int] = []  # a heap; numbers of buckets that are gone are stale
        self._due: list[tuple[float, Key]] = []  # a heap, of buckets whose time has come; may be stale too

    def __len__(self) -> int:
        return len(self._bindings)

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys, the least recently used first."""
        return (binding.key for binding in self._uses)

    def keys(self) -> list[Key]:
        """Return the keys in any order, at once: 17 ms for a million."""
        return list(self._bindings)

    def get(self, key: Key) -> Binding | None:
        """Return the key's binding, expired or not."""
        return self._bindings.get(key)

    def add(self, binding: Binding, *, expires_at: float, oldest: bool = False) -> None:
        """Add a binding as the most recently used, or the least; its key must not be there.

        `expires_at` is the binding's own, monotonic.
        """
        self._bindings[binding.key] = binding
        if oldest:
            self._uses.append_oldest(binding)
        else:
            self._uses.append(binding)
        number = int(expires_at // _BUCKET_S)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heapq.heappush(self._numbers, number)
            if len(self._numbers) > 2 * len(self._buckets) + _STALE_SLACK:
                self._numbers = list(self._buckets)
                heapq.heapify(self._numbers)
        bucket[binding.key] = None

    def pop(self, key: Key) -> Binding | None:
        """Remove the key and return its binding."""
        binding = self._bindings.pop(key, None)
        if binding is None or binding.expires_at is None:
            return binding
        number = int(binding.expires_at // _BUCKET_S)
        bucket = self._buckets.get(number)
        if bucket is not None:
            bucket.pop(key, None)
            if not bucket:
                del self._buckets[number]
        return binding

    def least_recently_used(self) -> Key | None:
        """Return the key that gives way next."""
        oldest = self._uses.oldest()
        return None if oldest is None else oldest.key

    def due(self, now: float) -> bool:
        """Whether a binding may have expired at `now`, for `next_expired` to say."""
        first_due = bool(self._due) and self._due[0][0] <= now
        return first_due or (bool(self._numbers) and self._numbers[0] <= now // _BUCKET_S)

    def next_expired(self, now: float) -> Key | None:
        """Return a key whose binding has expired at `now`, or None. The caller pops it, then asks again."""
        while True:
            while self._due and self._due[0][0] <= now:
                expires_at, key = heapq.heappop(self._due)
                binding = self._bindings.get(key)
                if binding is not None and binding.expires_at == expires_at:
                    return key
            if not self._numbers or self._numbers[0] > now // _BUCKET_S:
                return None
            self._put_in_order(heapq.heappop(self._numbers))

    def _put_in_order(self, number: int) -> None:
        """Have the ends of a bucket come one after the other."""
        for key in self._buckets.pop(number, ()):
            expires_at = self._bindings[key].expires_at
            if expires_at is not None:
                heapq.heappush(self._due, (expires_at, key))
