"""The ledger: every live session, and every place that is reserved but not yet a session.

A place is reserved when a server is chosen, not when it is connected: a hundred simultaneous logins would
otherwise all see the same least loaded server. The load of a server is its leases plus its sessions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from rdpbalancer.core.burden import Burdens
from rdpbalancer.core.redirection import RedirectionStep
from rdpbalancer.model import Key, ServerId, SessionFacts


class ServerSlot(msgspec.Struct, eq=False):
    """A reserved place on a server, and the use of a key, until it is released or becomes a session.

    `claimed`: the key's claim in the store is this lease's, and has to be confirmed or released. `renews`:
    the key was bound before, to a server that cannot take it now. `follows`: the session that the
    connection's routing token follows; the key is then that session's, and nothing is claimed.
    """

    server: ServerId
    key: Key | None
    source: str = ""
    held: bool = True
    claimed: bool = False
    renews: bool = False
    follows: RedirectionStep | None = None


class LiveSession(msgspec.Struct, eq=False):
    """A session that a relay holds. Bytes are as last reported, at most a few seconds old.

    `moves`: how often it had moved from relay to relay when it came to this one.
    """

    facts: SessionFacts
    relay: int
    moves: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    place: object = None


class _KeyUse(msgspec.Struct, eq=False):
    """How often a service's key is in use, by how many sessions among that, and their sources."""

    uses: int = 0
    live: int = 0
    sources: dict[str, int] = msgspec.field(default_factory=dict)


class Ledger:
    """Counts places and sessions by server, by key and by service. One per router; never waits."""

    def __init__(self) -> None:
        self._sessions: dict[str, LiveSession] = {}
        self._loads: defaultdict[ServerId, int] = defaultdict(int)
        self._keys: dict[tuple[str, Key], _KeyUse] = {}
        self._by_server: defaultdict[ServerId, set[str]] = defaultdict(set)
        self._by_service: defaultdict[str, int] = defaultdict(int)
        self._leases = 0
        self._burdens = Burdens()
        self.on_free: Callable[[ServerId], None] | None = None

    # ---- places ------------------------------------------------------------------------------------

    def lease(self, server: ServerId, key: Key | None, source: str = "") -> ServerSlot:
        """Reserve a place on `server` for a connection with `key` from `source`."""
        self._loads[server] += 1
        self._leases += 1
        if key is not None:
            self._use(server.service, key).uses += 1
        self._burdens.add(server, key, source)
        return ServerSlot(server, key, source)

    def release(self, lease: ServerSlot) -> None:
        """Give a reserved place back. Releasing twice, or after `open`, does nothing."""
        if not lease.held:
            return
        lease.held = False
        self._leases -= 1
        if lease.key is not None:
            self._unuse(lease.server.service, lease.key)
        self._burdens.remove(lease.server, lease.key, lease.source)
        self._free(lease.server)

    def set_key(self, lease: ServerSlot, key: Key | None, source: str = "") -> None:
        """Give a held lease another key (a place from the queue is granted before the key is claimed)."""
        if not lease.held:
            message = f"{lease} is not held, its key cannot become {key}"
            raise ValueError(message)
        if lease.key == key:
            return
        if key is not None:
            self._use(lease.server.service, key).uses += 1
        if lease.key is not None:
            self._unuse(lease.server.service, lease.key)
        self._burdens.remove(lease.server, lease.key, lease.source)
        lease.key, lease.source = key, source or lease.source
        self._burdens.add(lease.server, lease.key, lease.source)

    # ---- sessions ----------------------------------------------------------------------------------

    def open(
        self, lease: ServerSlot, facts: SessionFacts, *, relay: int, place: object = None
    ) -> LiveSession:
        """Turn a held lease into a live session. The server's load stays what it was."""
        server, key = lease.server, lease.key
        agrees = server == (facts.service, facts.server) and key == facts.binding_key
        if not lease.held or not agrees or facts.id in self._sessions:
            message = f"session {facts.id} cannot be opened on {facts.server_id} with {lease}"
            raise ValueError(message)
        lease.held = False
        self._leases -= 1
        if lease.source != facts.source:
            self._burdens.remove(server, key, lease.source)
            self._burdens.add(server, key, facts.source)
        return self._add(facts, server, key, relay=relay, place=place)

    def restore(self, facts: SessionFacts, *, relay: int, place: object = None) -> LiveSession:
        """Enter a session that a relay already holds: the router has been restarted."""
        if facts.id in self._sessions:
            message = f"session {facts.id} is in the ledger already"
            raise ValueError(message)
        server, key = facts.server_id, facts.binding_key
        self._loads[server] += 1
        if key is not None:
            self._use(facts.service, key).uses += 1
        self._burdens.add(server, key, facts.source)
        return self._add(facts, server, key, relay=relay, place=place)

    def close(self, session_id: str) -> LiveSession | None:
        """Take a session out and free its place; None if it is not (or no longer) in the ledger."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return None
        facts = session.facts
        server = facts.server_id
        on_server = self._by_server[server]
        on_server.discard(session_id)
        if not on_server:
            del self._by_server[server]
        self._by_service[facts.service] -= 1
        if not self._by_service[facts.service]:
            del self._by_service[facts.service]
        if (key := facts.binding_key) is not None:
            use = self._keys[(facts.service, key)]
            use.live -= 1
            sources = use.sources
            left = sources[facts.source] - 1
            if left:
                sources[facts.source] = left
            else:
                del sources[facts.source]
            self._unuse(facts.service, key)
        self._burdens.remove(server, key, facts.source)
        self._free(server)
        return session

    def _add(
        self, facts: SessionFacts, server: ServerId, key: Key | None, *, relay: int, place: object
    ) -> LiveSession:
        session = LiveSession(facts, relay, place=place)
        self._sessions[facts.id] = session
        self._by_server[server].add(facts.id)
        self._by_service[facts.service] += 1
        if key is not None:
            use = self._keys[(facts.service, key)]
            use.live += 1
            use.sources[facts.source] = use.sources.get(facts.source, 0) + 1
        return session

    # ---- questions ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._sessions

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(list(self._sessions.values()))

    def get(self, session_id: str) -> LiveSession | None:
        """Return a live session by its id."""
        return self._sessions.get(session_id)

    @property
    def leases(self) -> int:
        """How many places are reserved and not yet sessions."""
        return self._leases

    def load(self, server: ServerId) -> int:
        """Return the server's leases plus its sessions."""
        return self._loads.get(server, 0)

    def burden(self, server: ServerId) -> int:
        """Return what the server carries, as the schedulers count it (`core.burden`)."""
        return self._burdens.of(server)

    def sessions_on(self, server: ServerId) -> int:
        """Return the server's sessions, without leases."""
        return len(self._by_server.get(server, ()))

    def on(self, server: ServerId) -> list[LiveSession]:
        """Return the server's sessions."""
        return [self._sessions[session_id] for session_id in sorted(self._by_server.get(server, ()))]

    def sessions_of(self, service: str) -> int:
        """Return the service's sessions, without leases."""
        return self._by_service.get(service, 0)

    def uses(self, service: str, key: Key) -> int:
        """Return how many leases and sessions of the service have the key."""
        use = self._keys.get((service, key))
        return use.uses if use else 0

    def live_of(self, service: str, key: Key) -> int:
        """Return how many sessions of the service have the key."""
        use = self._keys.get((service, key))
        return use.live if use else 0

    def sources_of(self, service: str, key: Key) -> int:
        """Return from how many source addresses the key has live sessions."""
        use = self._keys.get((service, key))
        return len(use.sources) if use else 0

    def servers(self) -> Iterable[ServerId]:
        """Return every server that has a session, configured or not."""
        return list(self._by_server)

    # ---- counting ----------------------------------------------------------------------------------

    def _use(self, service: str, key: Key) -> _KeyUse:
        use = self._keys.get((service, key))
        if use is None:
            use = self._keys[(service, key)] = _KeyUse()
        return use

    def _unuse(self, service: str, key: Key) -> None:
        use = self._keys[(service, key)]
        use.uses -= 1
        if not use.uses:
            del self._keys[(service, key)]

    def _free(self, server: ServerId) -> None:
        left = self._loads[server] - 1
        if left:
            self._loads[server] = left
        else:
            del self._loads[server]
        if self.on_free is not None:
            self.on_free(server)
