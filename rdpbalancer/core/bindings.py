"""Which key belongs to which server: the stores of all virtual services, and the life of a binding in them.

A binding begins as a claim when a slot is reserved, is confirmed by the server's Connection Confirm, is
pinned while a connection or a session uses its key, and ages from the end of the last one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from rdpbalancer.core.admission import source_network
from rdpbalancer.core.farm import Farm, PersistencePolicy, VirtualService
from rdpbalancer.core.ledger import Ledger, ServerSlot
from rdpbalancer.core.persistence import Derived, Store, derive
from rdpbalancer.core.route import Route
from rdpbalancer.core.share import Shares
from rdpbalancer.model import Key, Method, Mode, ServerId, SessionFacts

# Keys whose collision has been reported. Forgetting them all at once only repeats some warnings.
_MAX_REPORTED = 10_000
# Bindings whose time begins at once after a restart, where their sessions are gone: 1 to 2 ms.
_UNPINNED_AT_ONCE = 500


@dataclass(slots=True)
class _ServiceBindings:
    """What is kept of a virtual service's bindings, also after a reload that removes it: it may come back.

    `removed`: the farm does not have it now. Its connections and sessions live on, and bind and release as
    always, by the last `policy` that there was; bindings whose time would begin stay pinned until it is back.
    """

    policy: PersistencePolicy
    store: Store
    removed: bool = False
    collisions_reported: set[Key] = field(default_factory=set)
    to_unpin: list[Key] = field(default_factory=list)


class Bindings:
    """The bindings of every virtual service. One per router; never waits."""

    def __init__(self, ledger: Ledger, *, open_store: Callable[[VirtualService], Store]) -> None:
        self._ledger = ledger
        self._open_store = open_store
        self._services: dict[str, _ServiceBindings] = {}
        self._shares = Shares()

    def apply(self, farm: Farm, *, now: float) -> None:
        """Take a new farm into use: open stores of new services, go on with those of services that return."""
        for name, service in farm.services.items():
            policy = service.persistence
            known = self._services.get(name)
            if known is None:
                self._services[name] = _ServiceBindings(policy, self._open_store(service))
                continue
            known.policy = policy
            known.store.resize(policy.max_entries)
            # What the new configuration does not help against is reported again.
            known.collisions_reported.clear()
            if known.removed:
                known.removed = False
                self.unpin_unused(name)
                self.unpin_some(now=now)
        for name, known in self._services.items():
            known.removed = name not in farm.services

    def of(self, service: str) -> Store:
        """Return the service's store of bindings."""
        return self._services[service].store

    def server_of(self, service: str, key: Key | None, *, now: float) -> str | None:
        """Return the name of the server that the key is bound to, or claimed for."""
        if key is None:
            return None
        binding = self._services[service].store.get(key, now=now)
        return binding.server if binding else None

    # ---- keys --------------------------------------------------------------------------------------

    def derive(self, service: VirtualService, *, cookie: str | None, source: str) -> Derived:
        """Return a connection's persistence key."""
        return derive(
            service.persistence,
            cookie=cookie,
            source=source,
            collides=lambda key: self.collides(service, key),
        )

    def collides(self, service: VirtualService, key: Key) -> bool:
        """Whether a key is no one person's: a cookie from many addresses, an address with many sessions.

        In mode tcp an address says less: one browser opens more connections than that.
        """
        at_most = service.persistence.collision_sources
        if key.method is Method.RDP_COOKIE:
            return self._ledger.sources_of(service.name, key) > at_most
        return service.mode is Mode.RDP and self._ledger.live_of(service.name, key) > at_most

    def first_collision(self, service: str, key: Key) -> bool:
        """Whether this key's collision is reported for the first time."""
        reported = self._services[service].collisions_reported
        if key in reported:
            return False
        if len(reported) >= _MAX_REPORTED:
            reported.clear()
        reported.add(key)
        return True

    # ---- a connection ------------------------------------------------------------------------------

    def claim(self, service: VirtualService, route: Route, slot: ServerSlot, *, now: float) -> None:
        """Claim the slot's key for the route's server.

        The caller has decided by what `server_of` said at `now`, so nobody else's claim is in the way.
        """
        if slot.key is None:
            return
        hold_s = service.timeouts.connect_s + service.timeouts.confirm_s
        store = self._services[service.name].store
        store.claim(slot.key, route.server.name, now=now, hold_s=hold_s, replacing=route.replacing)
        slot.claimed = True
        slot.renews = route.replacing is not None

    def holds(self, server: ServerId, key: Key) -> bool:
        """Whether the key's confirmed binding is to this server."""
        bound = self._services[server.service].store.confirmed(key)
        return bound is not None and bound.server == server.name

    def confirm(self, slot: ServerSlot, *, now: float) -> bool:
        """Make the slot's claim a binding: the server has answered with a Connection Confirm.

        False: it is none, because the source has had its share of a table that fills up (`core.share`).
        """
        if slot.key is None:
            return True
        if slot.follows is not None and not self.holds(slot.server, slot.key):
            self._ledger.set_key(slot, None)  # the binding was moved meanwhile, and is not ours to move back
            return True
        if not self._may_bind(slot, slot.key, now):
            self._drop(slot, now)
            return False
        slot.claimed = False
        self._services[slot.server.service].store.confirm(slot.key, slot.server.name, now=now)
        return True

    def _may_bind(self, slot: ServerSlot, key: Key, now: float) -> bool:
        """Whether a new binding is within its source's share; one that is there already is renewed anyway."""
        known = self._services[slot.server.service]
        bound = known.store.get(key, now=now)
        if (bound is not None and bound.confirmed) or slot.renews or not slot.source:
            return True
        return self._shares.take(
            slot.server.service,
            source_network(slot.source),
            entries=sum(known.store.counts().values()),
            max_entries=known.policy.max_entries,
            window_s=known.policy.timeout_s,
            now=now,
        )

    def drop_claim(self, slot: ServerSlot, *, now: float) -> None:
        """The server has answered, but not with a Connection Confirm: the slot stays, the claim goes."""
        if slot.claimed:
            self._drop(slot, now)
        key = slot.key
        self._ledger.set_key(slot, None)
        self._unpin_if_unused(slot.server.service, key, now)

    def released(self, slot: ServerSlot, *, now: float) -> None:
        """The slot has been released. A binding that the server had confirmed stays, and its time starts."""
        if slot.claimed:
            self._drop(slot, now)
        self._unpin_if_unused(slot.server.service, slot.key, now)

    def _drop(self, slot: ServerSlot, now: float) -> None:
        slot.claimed = False
        if slot.key is not None:
            self._services[slot.server.service].store.release(slot.key, slot.server.name, now=now)

    # ---- a session ---------------------------------------------------------------------------------

    def session_restored(self, facts: SessionFacts, *, now: float) -> None:
        """A relay holds this session already: pin its binding."""
        known, key = self._services.get(facts.service), facts.binding_key
        if known is None or key is None:
            return
        # Whatever its user's next attempt claims: that one may fail, and the desktop is here.
        bound = known.store.confirmed(key)
        if bound is None or not bound.alive(now) or bound.server == facts.server:
            known.store.confirm(key, facts.server, now=now)

    def session_ended(self, facts: SessionFacts, *, now: float) -> None:
        """A session has been taken out of the ledger: its binding's time starts if it was the key's last."""
        key, known = facts.binding_key, self._services.get(facts.service)
        if key is None or known is None or known.removed or self._ledger.live_of(facts.service, key):
            return
        known.collisions_reported.discard(key)
        # A connection on its way may have confirmed the binding already: it stays pinned for its session.
        if not self._ledger.uses(facts.service, key):
            known.store.touch(key, now=now, ttl_s=known.policy.timeout_s)

    def unknown_session_ended(self, facts: SessionFacts, *, now: float) -> None:
        """A session has ended that this router never knew: its binding may be younger than the last write."""
        known, key = self._services.get(facts.service), facts.binding_key
        if known is not None and key is not None and known.store.get(key, now=now) is None:
            known.store.confirm(key, facts.server, now=now)
            self._unpin_if_unused(facts.service, key, now)

    # ---- pins --------------------------------------------------------------------------------------

    def unpin_unused(self, service: str) -> None:
        """Start the time of bindings that were pinned by sessions which no longer live, by `unpin_some`.

        After a restart, once the service's bindings are in memory; sessions may be many.
        """
        known = self._services.get(service)
        if known is not None:
            known.to_unpin = known.store.pinned_keys()

    def unpin_some(self, *, now: float) -> bool:
        """Do a slice of what `unpin_unused` has asked for; True: there is more to do."""
        room = _UNPINNED_AT_ONCE
        for name, known in self._services.items():
            while known.to_unpin:
                if not room:
                    return True
                room -= 1
                self._unpin_if_unused(name, known.to_unpin.pop(), now)
        return False

    def _unpin_if_unused(self, service: str, key: Key | None, now: float) -> None:
        """Start the time of a binding that was pinned for a connection which has become no session.

        Of no other: a stranger's failed attempts would renew a binding for ever.
        """
        known = self._services[service]
        if key is None or known.removed or self._ledger.uses(service, key):
            return
        bound = known.store.get(key, now=now)
        if bound is not None and bound.confirmed and bound.expires_at is None:
            known.store.touch(key, now=now, ttl_s=known.policy.timeout_s)
