"""Bindings of one virtual service in memory. The durable store is this one, with its changes noted."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from rdpbalancer.core.persistence import Binding
from rdpbalancer.model import Key, Method
from rdpbalancer.stores.claims import MAX_TENTATIVE, Claims
from rdpbalancer.stores.idle import IdleTable

MAX_ENTRIES: Final = 100_000
# Bindings that one verb drops at most, expired ones and those that give way: 2 ms. A bound that has been made
# much smaller, or a thousand users whose time ends in one moment, are worked off by `expire`.
SLICE: Final = 1000


def _nobody_listens(_key: Key) -> None:
    pass


class Beneath(Protocol):
    """Where bindings of an earlier run lie that are not in memory yet."""

    @property
    def counts(self) -> Mapping[Method, int]:
        """How many lie there still, by method."""
        ...

    def take(self, key: Key) -> Binding | None:
        """Take the key's binding out, if it lies there."""
        ...


class MemoryStore:
    """`core.persistence.Store` in memory. One thread only; no verb waits, none walks the table but `entries`.

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

    With `beneath` set, a key that is not in memory is looked for there first, at whatever verb: from then on
    memory says what holds for it.
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
        self.beneath: Beneath | None = None
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
        return self._found(key)

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
        if self.beneath is not None:
            self._found(key)
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
        """Drop what has expired; return the number of confirmed bindings dropped so since the last call.

        At most `SLICE` at once: whoever gets as many calls again.
        """
        self._claims.expire(now=now)
        self._sweep(now)
        self._evict()
        dropped, self._expired = self._expired, 0
        return dropped

    def more_to_drop(self, *, now: float) -> bool:
        """Whether `expire` has left something to drop."""
        return self._idle.due(now) or (len(self) > self._max_entries and len(self._idle) > 0)

    def limit_claims(self, max_tentative: int) -> None:
        """Change the bound on tentative claims; the oldest are dropped at once."""
        self._claims.limit(max_tentative)

    def resize(self, max_entries: int) -> None:
        """Change the bound on confirmed bindings. What gives way counts as evicted.

        At most `SLICE` give way at once, the others at the next verbs and `expire`.
        """
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

    def pinned_keys(self) -> list[Key]:
        """Return the keys of bindings that are pinned by live sessions, at once, in no order."""
        return list(self._pinned)

    def counts(self) -> dict[Method, int]:
        """Return the number of confirmed bindings of every method, 0 included."""
        if self.beneath is None:
            return dict(self._counts)
        return {method: count + self.beneath.counts.get(method, 0) for method, count in self._counts.items()}

    @property
    def evictions(self) -> int:
        """How many idle bindings have given way since the start."""
        return self._evictions

    # ---- for the durable copy ----------------------------------------------------------------------

    def confirmed_keys(self) -> Iterator[Key]:
        """Yield the keys of all confirmed bindings. The store may not be changed meanwhile."""
        yield from self._pinned
        yield from self._idle

    def holds(self, key: Key) -> bool:
        """Whether a confirmed binding of the key is in memory, expired or not."""
        return key in self._pinned or self._idle.get(key) is not None

    def restore(self, binding: Binding) -> None:
        """Take in a confirmed binding of an earlier run, as less recently used than all that are here.

        That is no change. Where the bound leaves no room for it, it gives way, which is one.
        """
        if binding.expires_at is not None and len(self) >= self._max_entries:
            self._evictions += 1
            self._on_change(binding.key)
        else:
            self._put(binding, oldest=True)

    # ---- the tables --------------------------------------------------------------------------------

    def _found(self, key: Key) -> Binding | None:
        bound = self._pinned.get(key) or self._idle.get(key)
        if bound is None and self.beneath is not None:
            bound = self.beneath.take(key)
            if bound is not None:
                self._put(bound, oldest=True)
        return bound

    def _living(self, key: Key, now: float) -> Binding | None:
        bound = self._found(key)
        return bound if bound is not None and bound.alive(now) else None

    def _bind(self, binding: Binding, now: float) -> None:
        if self.beneath is not None:
            self._found(binding.key)
        self._take(binding.key)
        self._put(binding)
        self._on_change(binding.key)
        if len(self) > self._max_entries:
            self._sweep(now)  # what has expired goes before anything that lives
            self._evict()

    def _unbind(self, key: Key) -> bool:
        self._found(key)
        if self._take(key) is None:
            return False
        self._on_change(key)
        return True

    def _put(self, binding: Binding, *, oldest: bool = False) -> None:
        self._counts[binding.key.method] += 1
        if binding.expires_at is None:
            self._pinned[binding.key] = binding
        else:
            self._idle.add(binding, expires_at=binding.expires_at, oldest=oldest)

    def _take(self, key: Key) -> Binding | None:
        bound = self._pinned.pop(key, None) or self._idle.pop(key)
        if bound is not None:
            self._counts[key.method] -= 1
        return bound

    def _sweep(self, now: float) -> None:
        for _ in range(SLICE):
            key = self._idle.next_expired(now)
            if key is None:
                return
            self._unbind(key)
            self._expired += 1

    def _evict(self) -> None:
        for _ in range(min(SLICE, len(self) - self._max_entries)):
            key = self._idle.least_recently_used()
            if key is None:
                return
            self._unbind(key)
            self._evictions += 1
