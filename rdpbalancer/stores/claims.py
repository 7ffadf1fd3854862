"""Tentative claims: bounded apart from the bindings, because every stranger can make one."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import msgspec

from rdpbalancer.model import Key

# A claim lives while its connection waits for a Connection Confirm, and no more than `limits.max_half_open`
# connections do so at once: more claims than that cannot have a living owner. This is that option's default.
MAX_TENTATIVE: Final = 4096


class Claim(msgspec.Struct, eq=False):
    """A server reserved for a key until `expires_at` (monotonic), by `holders` connections."""

    server: str
    expires_at: float
    holders: int = 1


class Claims:
    """Claims by key, the oldest first. A renewed claim counts as new."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._claims: OrderedDict[Key, Claim] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._claims)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._claims)

    def get(self, key: Key, *, now: float) -> Claim | None:
        """Return the key's claim unless it has run out."""
        claim = self._claims.get(key)
        return claim if claim is not None and claim.expires_at > now else None

    def put(self, key: Key, server: str, *, now: float, hold_s: float) -> None:
        """Make a claim in the place of whatever claim the key had; beyond the limit the oldest is dropped."""
        self.drop(key)
        self._claims[key] = Claim(server, now + hold_s)
        self._shrink()

    def limit(self, limit: int) -> None:
        """Change the bound; beyond it the oldest claims are dropped."""
        self._limit = limit
        self._shrink()

    def _shrink(self) -> None:
        while len(self._claims) > self._limit:
            self._claims.popitem(last=False)

    def renew(self, key: Key, claim: Claim, *, now: float, hold_s: float) -> None:
        """Let one more connection hold a claim that is there, for as long as the most patient one needs."""
        claim.holders += 1
        claim.expires_at = max(claim.expires_at, now + hold_s)
        self._claims.move_to_end(key)

    def release(self, key: Key, server: str, *, now: float) -> None:
        """Let go of one connection's hold of `server`; the claim ends with the last."""
        claim = self.get(key, now=now)
        if claim is None or claim.server != server:
            return
        claim.holders -= 1
        if not claim.holders:
            self.drop(key)

    def drop(self, key: Key) -> bool:
        """End the key's claim whoever holds it; True if there was one."""
        return self._claims.pop(key, None) is not None

    def expire(self, *, now: float) -> None:
        """Drop claims that have run out, oldest first, up to the first that lives.

        One that was made for a shorter time than its elders stays until its turn comes; `get` hides it.
        """
        while self._claims:
            oldest = next(iter(self._claims))
            if self._claims[oldest].expires_at > now:
                return
            self.drop(oldest)
