"""Buckets that are spent from and fill up again evenly: how often a source may do something.

Apart from its users because both a rate of connections and a share of a table are this, and both must bound
what they remember of sources, of which a stranger can have many.
"""

from collections import OrderedDict

import msgspec

Source = tuple[str, str]  # a service, and the source as it is counted


class _Bucket(msgspec.Struct, eq=False):
    left: float
    at: float


class Buckets:
    """A bucket for each source. Beyond `limit` the source that has been silent longest is forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buckets: OrderedDict[Source, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, source: Source, *, whole: float, refill_s: float, now: float) -> bool:
        """Take one out of the source's bucket; False: there is none.

        A bucket holds `whole`, and an empty one is full again after `refill_s` (0: at once).
        """
        bucket = self._buckets.pop(source, None) or _Bucket(whole, now)
        regained = (now - bucket.at) * whole / refill_s if refill_s else whole
        bucket.left, bucket.at = min(whole, bucket.left + regained), now
        self._buckets[source] = bucket
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True
