"""Bindings of one virtual service in memory. The durable store is this one, with its changes noted."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from rdpbalancer.core.persist import Binding
from rdpbalancer.model import Key, Method
from rdpbalancer.stores.claims import MAX_TENTATIVE, Claims
from rdpbalancer.stores.idle import IdleTable

MAX_ENTRIES: Final = 100_000


def _nobody_listens(_key: Key) -> None:
    pass


class MemoryStore:
    """`core.persist.Store` in memory. One thread only; no verb waits, none walks the table but `entries`.

    A key may have a confirmed binding and, over it, a tentative claim of another server. The claim is what
    counts while it lives; the confirmed binding lies beneath untouched and counts again if the claim is
    released or runs out.

    Args:
        max_entries: bound on confirmed bindings. Beyond it the least recently used idle one gives way, where
            use is a session's end, a `move`, and nothing that a stranger can bring about without a
            Connection Confirm. Pinned bindings never give way, so with nothing idle left the table exceeds
            its bound: it holds at most one binding per live session then, and those are bounded elsewhere
            (`limits.max_sessions`, file descriptors).
        max_tentative: bound on tentative claims; beyond it the oldest is dropped.
        on_change: called with the key of every confirmed binding that came, changed or went.
    """

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_tentative: int = MAX_TENTATIVE,
        on_change: Callable[[Key], None] = _nobody_listens,
    ) -> None:
        self._max_entries = max_entries
        self._on_change = on_change
        self._claims = Claims(max_tentative)
        self._pinned: dict[Key, Binding] = {}
        self._idle = IdleTable()
        self._counts = dict.fromkeys(Method, 0)
        self._expired = 0
        self._evictions = 0

    def __len__(self) -> int:
        """Return the number of confirmed bindings, those included that expired since the last `expire`."""
        return len(self._pinned) + len(self._idle)

    # ---- the Store protocol ------------------------------------------------------------------------

    def get(self, key: Key, *, now: float) -> Binding | None:
        """Return the key's binding, tentative or confirmed, unless it has expired."""
        if self._claims and (claim := self._claims.get(key, now=now)) is not None:
            return Binding(key, claim.server, confirmed=False, expires_at=claim.expires_at)
        return self._living(key, now)

    def confirmed(self, key: Key) -> Binding | None:
        """Return the key's confirmed binding, expired or not, whatever is claimed over it."""
        return self._pinned.get(key) or self._idle.get(key)

    def claim(self, key: Key, server: str, *, now: float, hold_s: float, replacing: str | None = None) -> str:
        """Bind `key` to `server` tentatively and return the server that holds it now.

        Connections that claim the same server share one claim; each takes its own share back with `release`,
        so that one user's failed attempt does not free the key under the other attempt.
        """
        claim = self._claims.get(key, now=now)
        bound = self._living(key, now)
        holder = claim or bound
        if holder is not None and holder.server not in {server, replacing}:
            return holder.server
        if bound is not None and bound.server == server:
            self._claims.drop(key)  # of a server that the caller replaces: what is confirmed counts again
        elif claim is not None and claim.server == server:
            self._claims.renew(key, claim, now=now, hold_s=hold_s)
        else:
            self._claims.put(key, server, now=now, hold_s=hold_s)
        return server

    def confirm(self, key: Key, server: str, *, now: float) -> None:
        """Make the claim of `server` a binding, pinned until `touch`. Other servers' claims lose to it.

        Without a claim (it ran out, was dropped, or lost to another) the key is bound all the same, whatever
        it was bound to: the session exists on `server` and is the user's newest, so that is where the user
        has to return to. An older binding, or an operator's `move` made while the connection was under way,
        would lead away from that desktop.
        """
        self._claims.drop(key)
        pinned = self._pinned.get(key)
        if pinned is None or pinned.server != server:
            self._bind(Binding(key, server, confirmed=True, expires_at=None), now)

    def release(self, key: Key, server: str, *, now: float) -> None:
        """Take back one tentative claim of `server`; after the last, what it replaced holds again."""
        self._claims.release(key, server, now=now)

    def touch(self, key: Key, *, now: float, ttl_s: float) -> None:
        """Let the key's confirmed binding live `ttl_s` from now; without one there is nothing to do."""
        bound = self._living(key, now)
        if bound is not None:
            self._bind(Binding(key, bound.server, confirmed=True, expires_at=now + ttl_s), now)

    def move(self, key: Key, server: str, *, now: float, ttl_s: float | None) -> None:
        """Bind `key` to `server` whatever held it, confirmed; `ttl_s` None: pinned."""
        self._claims.drop(key)
        expires_at = None if ttl_s is None else now + ttl_s
        self._bind(Binding(key, server, confirmed=True, expires_at=expires_at), now)

    def delete(self, key: Key) -> bool:
        """Forget the key; True if there was a binding (one that expired since the last `expire` counts)."""
        claimed = self._claims.drop(key)
        return self._unbind(key) or claimed

    def expire(self, *, now: float) -> int:
        """Drop what has expired; return the number of confirmed bindings dropped so since the last call."""
        self._claims.expire(now=now)
        self._sweep(now)
        dropped, self._expired = self._expired, 0
        return dropped

    def resize(self, max_entries: int) -> None:
        """Change the bound on confirmed bindings, at once. What gives way counts as evicted."""
        self._max_entries = max_entries
        self._evict()

    def entries(self, *, now: float) -> Iterator[Binding]:
        """Yield, for every key, what `get` returns. The store may be changed meanwhile."""
        keys = dict.fromkeys((*self._pinned, *self._idle, *self._claims))
        for key in keys:
            binding = self.get(key, now=now)
            if binding is not None:
                yield binding

    def keys(self) -> list[Key]:
        """Return every key that may have a binding: at once, in no order, some twice, some that expired."""
        keys = self._idle.keys()  # the long one is copied only once
        keys += self._pinned
        keys += self._claims
        return keys

    def counts(self) -> dict[Method, int]:
        """Return the number of confirmed bindings of every method, 0 included."""
        return dict(self._counts)

    @property
    def evictions(self) -> int:
        """How many idle bindings have given way since the start."""
        return self._evictions

    # ---- for the durable copy ----------------------------------------------------------------------

    def confirmed_keys(self) -> Iterator[Key]:
        """Yield the keys of all confirmed bindings. The store may not be changed meanwhile."""
        yield from self._pinned
        yield from self._idle

    def restore(self, bindings: Iterable[Binding]) -> None:
        """Take in confirmed bindings of an earlier run, least recently used first, into an empty store.

        That is no change; what exceeds the bound gives way, which is one.
        """
        for binding in bindings:
            self._put(binding)
        self._evict()

    # ---- the tables --------------------------------------------------------------------------------

    def _living(self, key: Key, now: float) -> Binding | None:
        bound = self._pinned.get(key) or self._idle.get(key)
        return bound if bound is not None and bound.alive(now) else None

    def _bind(self, binding: Binding, now: float) -> None:
        self._take(binding.key)
        self._put(binding)
        self._on_change(binding.key)
        if len(self) > self._max_entries:
            self._sweep(now)  # what has expired goes before anything that lives
            self._evict()

    def _unbind(self, key: Key) -> bool:
        if self._take(key) is None:
            return False
        self._on_change(key)
        return True

    def _put(self, binding: Binding) -> None:
        self._counts[binding.key.method] += 1
        if binding.expires_at is None:
            self._pinned[binding.key] = binding
        else:
            self._idle.add(binding, expires_at=binding.expires_at)

    def _take(self, key: Key) -> Binding | None:
        bound = self._pinned.pop(key, None) or self._idle.pop(key)
        if bound is not None:
            self._counts[key.method] -= 1
        return bound

    def _sweep(self, now: float) -> None:
        while (key := self._idle.next_expired(now)) is not None:
            self._unbind(key)
            self._expired += 1

    def _evict(self) -> None:
        while len(self) > self._max_entries and (key := self._idle.least_recently_used()) is not None:
            self._unbind(key)
            self._evictions += 1
