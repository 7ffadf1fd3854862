"""The oracle of the store contract: the same promises, kept by lists and full scans."""

from dataclasses import dataclass, field

from rdpbalancer.core.persistence import Binding
from rdpbalancer.model import Key, Method


@dataclass
class ModelClaim:
    """A tentative claim."""

    key: Key
    server: str
    ends_at: float
    holders: int


@dataclass
class ModelBinding:
    """A confirmed binding; `ends_at` None: pinned."""

    key: Key
    server: str
    ends_at: float | None


@dataclass
class StoreModel:
    """Two lists, the least recently used first. A hold time is the same for all claims of a service."""

    max_entries: int
    max_tentative: int
    claims: list[ModelClaim] = field(default_factory=list)
    bound: list[ModelBinding] = field(default_factory=list)
    evictions: int = 0
    expired: int = 0

    def get(self, key: Key, now: float) -> Binding | None:
        """Return what counts for the key."""
        for claim in self.claims:
            if claim.key == key and claim.ends_at > now:
                return Binding(key, claim.server, confirmed=False, expires_at=claim.ends_at)
        for entry in self.bound:
            if entry.key == key and (entry.ends_at is None or entry.ends_at > now):
                return Binding(key, entry.server, confirmed=True, expires_at=entry.ends_at)
        return None

    def claim(self, key: Key, server: str, now: float, hold_s: float, replacing: str | None) -> str:
        """Claim as the protocol says."""
        holder = self.get(key, now)
        if holder is not None and holder.server not in {server, replacing}:
            return holder.server
        if holder is not None and holder.server == server:
            if not holder.confirmed:
                self._renew(key, now + hold_s)
            return server
        self._drop_claim(key)
        beneath = self.get(key, now)
        if beneath is None or beneath.server != server:
            self.claims = [claim for claim in self.claims if claim.ends_at > now]
            self.claims.append(ModelClaim(key, server, now + hold_s, 1))
            self.claims = self.claims[-self.max_tentative :]
        return server

    def confirm(self, key: Key, server: str, now: float) -> None:
        """Bind and pin."""
        self._drop_claim(key)
        for entry in self.bound:
            if entry.key == key and entry.server == server and entry.ends_at is None:
                return
        self._bind(ModelBinding(key, server, None), now)

    def release(self, key: Key, server: str, now: float) -> None:
        """Take one hold back."""
        for claim in self.claims:
            if claim.key == key and claim.server == server and claim.ends_at > now:
                claim.holders -= 1
        self.claims = [claim for claim in self.claims if claim.holders > 0]

    def touch(self, key: Key, now: float, ttl_s: float) -> None:
        """Un-pin, or renew."""
        for entry in list(self.bound):
            if entry.key == key and (entry.ends_at is None or entry.ends_at > now):
                self._bind(ModelBinding(key, entry.server, now + ttl_s), now)

    def move(self, key: Key, server: str, now: float, ttl_s: float | None) -> None:
        """Bind whatever was."""
        self._drop_claim(key)
        self._bind(ModelBinding(key, server, None if ttl_s is None else now + ttl_s), now)

    def delete(self, key: Key) -> bool:
        """Forget."""
        before = len(self.claims) + len(self.bound)
        self._drop_claim(key)
        self._unbind(key)
        return len(self.claims) + len(self.bound) < before

    def expire(self, now: float) -> int:
        """Drop what is over; the number counts what had to go since the last call."""
        self._expire_bound(now)
        self.claims = [claim for claim in self.claims if claim.ends_at > now]
        expired, self.expired = self.expired, 0
        return expired

    def resize(self, max_entries: int) -> None:
        """Set another bound."""
        self.max_entries = max_entries
        self._evict()

    def entries(self, keys: list[Key], now: float) -> set[Binding]:
        """Return what counts for each of `keys`."""
        return {binding for key in keys if (binding := self.get(key, now)) is not None}

    def counts(self) -> dict[Method, int]:
        """Count by method."""
        return {method: sum(entry.key.method is method for entry in self.bound) for method in Method}

    def restart(self, now: float) -> None:
        """Begin a new process with what is on disk: no claims, nothing expired, soonest expiry first."""
        self.claims = []
        self.evictions = self.expired = 0
        self.bound = [entry for entry in self.bound if entry.ends_at is None or entry.ends_at > now]
        self.bound.sort(key=lambda entry: (entry.ends_at or 0.0, entry.key.method.value, entry.key.value))

    def _renew(self, key: Key, ends_at: float) -> None:
        claim = next(claim for claim in self.claims if claim.key == key)
        claim.holders += 1
        claim.ends_at = ends_at
        self.claims.remove(claim)
        self.claims.append(claim)

    def _bind(self, entry: ModelBinding, now: float) -> None:
        self._unbind(entry.key)
        self.bound.append(entry)
        if len(self.bound) > self.max_entries:
            self._expire_bound(now)
            self._evict()

    def _expire_bound(self, now: float) -> None:
        living = [entry for entry in self.bound if entry.ends_at is None or entry.ends_at > now]
        self.expired += len(self.bound) - len(living)
        self.bound = living

    def _evict(self) -> None:
        idle = [entry for entry in self.bound if entry.ends_at is not None]
        surplus = max(0, len(self.bound) - self.max_entries)
        for entry in idle[:surplus]:
            self.bound.remove(entry)
            self.evictions += 1

    def _drop_claim(self, key: Key) -> None:
        self.claims = [claim for claim in self.claims if claim.key != key]

    def _unbind(self, key: Key) -> None:
        self.bound = [entry for entry in self.bound if entry.key != key]
