"""The share of the table of bindings that one source may take.

Whoever gets as far as a server's Connection Confirm makes a binding, and can do so with a new cookie each
time. While the table has room nobody is harmed. Once it is half full, a source's new bindings are counted, so
that it cannot fill the other half and push out users of other sources; its sessions are served all the same.
"""

from rdpbalancer.core.bucket import Buckets

# Of the table, the part that one source may add beyond the half, at once and again within one timeout.
SHARE = 8
# Sources that are remembered; one beyond it pushes out the one that has been silent longest.
MAX_SOURCES = 65_536


class Shares:
    """What each source may still add to the tables, by service and source network."""

    def __init__(self) -> None:
        self._allowances = Buckets(MAX_SOURCES)

    def take(
        self, service: str, source: str, *, entries: int, max_entries: int, window_s: float, now: float
    ) -> bool:
        """Whether `source` may add a binding to a table that holds `entries` of at most `max_entries`.

        `window_s`: how long a binding lives, in which an exhausted allowance fills up again.
        """
        if entries * 2 < max_entries:
            return True
        whole = max(1.0, max_entries / SHARE)
        return self._allowances.spend((service, source), whole=whole, refill_s=window_s, now=now)
