"""The ledger: every live session, and every slot that is reserved but not yet a session.

A slot is reserved when a server is chosen, not when it is connected: a hundred simultaneous logins would
otherwise all see the same least loaded server. The load of a server is its reserved plus its sessions.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import msgspec

from rdpbalancer.core.redirection import RedirectionStep
from rdpbalancer.core.scheduler_load import SchedulerLoads
from rdpbalancer.model import Key, ServerId, SessionFacts


class ServerSlot(msgspec.Struct, eq=False):
    """A reserved slot on a server, and the use of a key, until it is released or becomes a session.

    `claimed`: the key's claim in the store is this slot's, and has to be confirmed or released. `renews`:
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
    admission_slot: object = None


class _KeyUse(msgspec.Struct, eq=False):
    """How often a service's key is in use, by how many sessions among that, and their sources."""

    uses: int = 0
    live: int = 0
    sources: dict[str, int] = msgspec.field(default_factory=dict)


class Ledger:
    """Counts slots and sessions by server, by key and by service. One per router; never waits."""

    def __init__(self) -> None:
        self._sessions: dict[str, LiveSession] = {}
        self._loads: defaultdict[ServerId, int] = defaultdict(int)
        self._keys: dict[tuple[str, Key], _KeyUse] = {}
        self._by_server: defaultdict[ServerId, set[str]] = defaultdict(set)
        self._by_service: defaultdict[str, int] = defaultdict(int)
        self._reserved = 0
        self._scheduler_loads = SchedulerLoads()
        self.on_free: Callable[[ServerId], None] | None = None

    # ---- slots -------------------------------------------------------------------------------------

    def reserve(self, server: ServerId, key: Key | None, source: str = "") -> ServerSlot:
        """Reserve a slot on `server` for a connection with `key` from `source`."""
        self._loads[server] += 1
        self._reserved += 1
        if key is not None:
            self._use(server.service, key).uses += 1
        self._scheduler_loads.add(server, key, source)
        return ServerSlot(server, key, source)

    def release(self, slot: ServerSlot) -> None:
        """Give a reserved slot back. Releasing twice, or after `open`, does nothing."""
        if not slot.held:
            return
        slot.held = False
        self._reserved -= 1
        if slot.key is not None:
            self._unuse(slot.server.service, slot.key)
        self._scheduler_loads.remove(slot.server, slot.key, slot.source)
        self._free(slot.server)

    def set_key(self, slot: ServerSlot, key: Key | None, source: str = "") -> None:
        """Give a held slot another key (a slot from the queue is granted before the key is claimed)."""
        if not slot.held:
            message = f"{slot} is not held, its key cannot become {key}"
            raise ValueError(message)
        if slot.key == key:
            return
        if key is not None:
            self._use(slot.server.service, key).uses += 1
        if slot.key is not None:
            self._unuse(slot.server.service, slot.key)
        self._scheduler_loads.remove(slot.server, slot.key, slot.source)
        slot.key, slot.source = key, source or slot.source
        self._scheduler_loads.add(slot.server, slot.key, slot.source)

    # ---- sessions ----------------------------------------------------------------------------------

    def open(
        self, slot: ServerSlot, facts: SessionFacts, *, relay: int, admission_slot: object = None
    ) -> LiveSession:
        """Turn a held slot into a live session. The server's load stays what it was."""
        server, key = slot.server, slot.key
        agrees = server == (facts.service, facts.server) and key == facts.binding_key
        if not slot.held or not agrees or facts.id in self._sessions:
            message = f"session {facts.id} cannot be opened on {facts.server_id} with {slot}"
            raise ValueError(message)
        slot.held = False
        self._reserved -= 1
        if slot.source != facts.source:
            self._scheduler_loads.remove(server, key, slot.source)
            self._scheduler_loads.add(server, key, facts.source)
        return self._add(facts, server, key, relay=relay, admission_slot=admission_slot)

    def restore(self, facts: SessionFacts, *, relay: int, admission_slot: object = None) -> LiveSession:
        """Enter a session that a relay already holds: the router has been restarted."""
        if facts.id in self._sessions:
            message = f"session {facts.id} is in the ledger already"
            raise ValueError(message)
        server, key = facts.server_id, facts.binding_key
        self._loads[server] += 1
        if key is not None:
            self._use(facts.service, key).uses += 1
        self._scheduler_loads.add(server, key, facts.source)
        return self._add(facts, server, key, relay=relay, admission_slot=admission_slot)

    def close(self, session_id: str) -> LiveSession | None:
        """Take a session out and free its slot; None if it is not (or no longer) in the ledger."""
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
        self._scheduler_loads.remove(server, key, facts.source)
        self._free(server)
        return session

    def _add(
        self, facts: SessionFacts, server: ServerId, key: Key | None, *, relay: int, admission_slot: object
    ) -> LiveSession:
        session = LiveSession(facts, relay, admission_slot=admission_slot)
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
    def reserved(self) -> int:
        """How many slots are reserved and not yet sessions."""
        return self._reserved

    def load(self, server: ServerId) -> int:
        """Return the server's reserved plus its sessions."""
        return self._loads.get(server, 0)

    def scheduler_load(self, server: ServerId) -> int:
        """Return what the server carries, as the schedulers count it (`core.scheduler_load`)."""
        return self._scheduler_loads.of(server)

    def sessions_on(self, server: ServerId) -> int:
        """Return the server's sessions, without reserved."""
        return len(self._by_server.get(server, ()))

    def on(self, server: ServerId) -> list[LiveSession]:
        """Return the server's sessions."""
        return [self._sessions[session_id] for session_id in sorted(self._by_server.get(server, ()))]

    def sessions_of(self, service: str) -> int:
        """Return the service's sessions, without reserved."""
        return self._by_service.get(service, 0)

    def uses(self, service: str, key: Key) -> int:
        """Return how many reserved and sessions of the service have the key."""
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
