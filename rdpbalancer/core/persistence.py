"""Persistence: which key a connection has, what a binding is, and what a store of bindings must do."""

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Protocol

import msgspec

from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.source import client_address
from rdpbalancer.model import Key, Method

# mstsc cuts "DOMAIN\user" after nine characters (it was a NetBIOS habit); only a cookie of exactly that
# length can have lost something.
_MSTSC_COOKIE_CHARS = 9


class Binding(msgspec.Struct, frozen=True, gc=False):
    """A key's server.

    `confirmed`: the server has answered with a Connection Confirm; until then the claim is tentative and ends
    by itself. `expires_at` (monotonic seconds) None: pinned by a live session. `server` is the configured
    name within the virtual service.
    """

    key: Key
    server: str
    confirmed: bool
    expires_at: float | None

    def alive(self, now: float) -> bool:
        """Whether the binding still counts at `now`."""
        return self.expires_at is None or self.expires_at > now


class Store(Protocol):
    """Where the bindings of one virtual service are kept. Every verb is atomic; none is get-then-set.

    Times are monotonic seconds and given by the caller. Tentative claims are bounded in number apart from
    confirmed bindings, so that connections that never get a Connection Confirm push nobody out.
    """

    def get(self, key: Key, *, now: float) -> Binding | None:
        """Return the key's binding, tentative or confirmed, unless it has expired."""
        ...

    def confirmed(self, key: Key) -> Binding | None:
        """Return the key's confirmed binding, expired or not, whatever is claimed over it."""
        ...

    def claim(self, key: Key, server: str, *, now: float, hold_s: float, replacing: str | None = None) -> str:
        """Bind `key` to `server` tentatively, for `hold_s`, and return the server that holds it now.

        A living binding to another server wins, and its server is returned, unless that server is
        `replacing`: the caller has found it unusable. A confirmed binding that is replaced comes back if the
        claim is released or runs out.
        """
        ...

    def confirm(self, key: Key, server: str, *, now: float) -> None:
        """Make the claim of `server` a binding, pinned until `touch`. Other servers' claims lose to it."""
        ...

    def release(self, key: Key, server: str, *, now: float) -> None:
        """Take back the tentative claim of `server`; what it replaced, if anything, holds again."""
        ...

    def touch(self, key: Key, *, now: float, ttl_s: float) -> None:
        """Let the key's confirmed binding live `ttl_s` from now: its last session has ended."""
        ...

    def move(self, key: Key, server: str, *, now: float, ttl_s: float | None) -> None:
        """Bind `key` to `server` whatever held it, confirmed; `ttl_s` None: pinned (the operator's verb)."""
        ...

    def delete(self, key: Key) -> bool:
        """Forget the key; True if there was a binding."""
        ...

    def expire(self, *, now: float) -> int:
        """Drop what has expired; return the number of confirmed bindings dropped since the last call.

        It never walks a large table in one go: call it again while there is `more_to_drop`.
        """
        ...

    def more_to_drop(self, *, now: float) -> bool:
        """Whether `expire` has left something to drop."""
        ...

    def pinned_keys(self) -> list[Key]:
        """Return the keys of bindings that are pinned, at once, in no order."""
        ...

    def resize(self, max_entries: int) -> None:
        """Change the bound on confirmed bindings. Of many that have to give way, `expire` drops the rest."""
        ...

    def limit_claims(self, max_tentative: int) -> None:
        """Change the bound on tentative claims; the oldest are dropped."""
        ...

    def entries(self, *, now: float) -> Iterator[Binding]:
        """Yield every living binding, in no particular order."""
        ...

    def keys(self) -> list[Key]:
        """Return every key that may have a binding, quickly: in no order, some twice, some that expired."""
        ...

    def counts(self) -> dict[Method, int]:
        """Return the number of confirmed bindings by method."""
        ...

    @property
    def evictions(self) -> int:
        """How many idle bindings have given way to newer ones since the start."""
        ...


class Derived(msgspec.Struct, frozen=True):
    """A connection's persistence key, and what was found on the way to it.

    `ambiguous`: the cookie may have lost its user part. `colliding_keys`: the keys that were passed over,
    because they are no one person's.
    """

    key: Key | None
    ambiguous: bool = False
    colliding_keys: tuple[Key, ...] = ()


def derive(
    policy: PersistencePolicy, *, cookie: str | None, source: str, collides: Callable[[Key], bool]
) -> Derived:
    """Return the key that the first method with an answer gives.

    `source` is the client's IP address. `collides` tells whether a key is in use by more than one person; it
    is asked only where the policy would act on it. Behind an address that collides nothing is left to tell
    people apart by: with no further method each of them goes where there is room.
    """
    ambiguous = False
    colliding_keys: tuple[Key, ...] = ()
    for method in policy.methods:
        key: Key | None = None
        if method is Method.SOURCE_IP:
            key = source_key(policy, source)
        elif method is Method.RDP_COOKIE and cookie:
            key = cookie_key(policy, cookie)
            ambiguous = key is None
        if key is None:
            continue
        if not (policy.collision_next_method and collides(key)):
            return Derived(key, ambiguous, colliding_keys)
        colliding_keys = (*colliding_keys, key)
    return Derived(None, ambiguous, colliding_keys)


def cookie_key(policy: PersistencePolicy, cookie: str) -> Key | None:
    r"""Return the key of an ``mstshash`` cookie, or None if it does not say who the user is.

    Windows logins are case-insensitive, so the key is lower-cased. ``LONGDOMAIN\anyone`` cut to nine
    characters is the same for everybody: with fewer than `min_user_chars` left of the user it is no key.
    """
    domain, backslash, user = cookie.partition("\\")
    if backslash and len(cookie) == _MSTSC_COOKIE_CHARS and len(user) < policy.min_user_chars:
        return None
    # A domain of nine characters and more leaves no backslash and cannot be told from a user's name: that is
    # what collisions are watched for.
    name = cookie
    if policy.strip_domain:
        name = user if backslash else domain.partition("@")[0]
    return Key(Method.RDP_COOKIE, name.lower()) if name else None


def source_key(policy: PersistencePolicy, source: str) -> Key:
    """Return the key of a source address: its network by the configured prefix length, or the address."""
    address = client_address(source)
    prefix = policy.ipv4_prefix if address.version == 4 else policy.ipv6_prefix
    if prefix == address.max_prefixlen:
        return Key(Method.SOURCE_IP, str(address))
    network = ip_network((address, prefix), strict=False)
    return Key(Method.SOURCE_IP, str(network))
