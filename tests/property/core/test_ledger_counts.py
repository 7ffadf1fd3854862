"""The ledger against a list of everything that is held, counted anew each time."""

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from rdpbalancer.core.ledger import Ledger, ServerSlot
from rdpbalancer.model import Key, Method, ServerId, SessionFacts
from tests.unit.core.farms import SERVICE, facts, sid

SERVERS = ["ts1", "ts2", "ts3"]
KEYS: list[Key | None] = [
    None,
    Key(Method.RDP_COOKIE, "alice"),
    Key(Method.SOURCE_IP, "alice"),
    Key(Method.RDP_COOKIE, "bob"),
]

servers, keys = st.sampled_from(SERVERS), st.sampled_from(KEYS)
sources = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"])


class LedgerCounts(RuleBasedStateMachine):
    """Everything that a router does with its ledger, in any order."""

    leases: Bundle[ServerSlot] = Bundle("leases")
    spent: Bundle[ServerSlot] = Bundle("spent")
    sessions: Bundle[str] = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.held: list[ServerSlot] = []
        self.live: dict[str, SessionFacts] = {}
        self.freed: list[ServerId] = []
        self.expected_freed: list[ServerId] = []
        self.ledger.on_free = self.freed.append
        self.opened = 0

    def _facts(self, server: str, key: Key | None, source: str) -> SessionFacts:
        self.opened += 1
        made = facts(f"s{self.opened}", server, key=key, source=source)
        self.live[made.id] = made
        return made

    @rule(target=leases, server=servers, key=keys)
    def lease(self, server: str, key: Key | None) -> ServerSlot:
        """Choose a server."""
        lease = self.ledger.lease(sid(server), key)
        self.held.append(lease)
        return lease

    @rule(target=spent, lease=consumes(leases))
    def release(self, lease: ServerSlot) -> ServerSlot:
        """Fail."""
        self.held.remove(lease)
        self.expected_freed.append(lease.server)
        self.ledger.release(lease)
        return lease

    @rule(lease=spent)
    def release_again(self, lease: ServerSlot) -> None:
        """Clean up once too often."""
        self.ledger.release(lease)

    @rule(lease=leases, key=keys)
    def set_key(self, lease: ServerSlot, key: Key | None) -> None:
        """Claim a key for a granted place."""
        self.ledger.set_key(lease, key)

    @rule(target=sessions, lease=consumes(leases), source=sources)
    def open(self, lease: ServerSlot, source: str) -> str:
        """Hand over."""
        self.held.remove(lease)
        made = self._facts(lease.server.name, lease.key, source)
        self.ledger.open(lease, made, relay=1)
        self.ledger.release(lease)
        return made.id

    @rule(lease=spent, source=sources)
    def open_what_is_spent(self, lease: ServerSlot, source: str) -> None:
        """Hand over what was given back."""
        made = facts("never", lease.server.name, key=lease.key, source=source)
        try:
            self.ledger.open(lease, made, relay=1)
        except ValueError:
            return
        raise AssertionError(made)

    @rule(target=sessions, server=servers, key=keys, source=sources)
    def restore(self, server: str, key: Key | None, source: str) -> str:
        """Start anew with what the relays hold."""
        made = self._facts(server, key, source)
        self.ledger.restore(made, relay=1)
        return made.id

    @rule(session=sessions)
    def close(self, session: str) -> None:
        """End a session, perhaps a second time."""
        was = self.live.pop(session, None)
        closed = self.ledger.close(session)
        assert was == (closed.facts if closed else None)
        if was is not None:
            self.expected_freed.append(was.server_id)

    @invariant()
    def counts_agree(self) -> None:
        """Every question has the answer that counting gives."""
        live = list(self.live.values())
        assert len(live) == len(self.ledger)
        assert set(self.live) == {session.facts.id for session in self.ledger}
        assert len(self.held) == self.ledger.leases
        assert len(live) == self.ledger.sessions_of(SERVICE)
        assert {made.server_id for made in live} == set(self.ledger.servers())
        for server in map(sid, SERVERS):
            on_server = {made.id for made in live if made.server_id == server}
            leased = sum(lease.server == server for lease in self.held)
            assert len(on_server) + leased == self.ledger.load(server)
            assert len(on_server) == self.ledger.sessions_on(server)
            assert on_server == {session.facts.id for session in self.ledger.on(server)}
        for key in KEYS:
            if key is not None:
                with_key = [made for made in live if made.binding_key == key]
                leased = sum(lease.key == key for lease in self.held)
                assert len(with_key) + leased == self.ledger.uses(SERVICE, key)
                assert len(with_key) == self.ledger.live_of(SERVICE, key)
                assert len({made.source for made in with_key}) == self.ledger.sources_of(SERVICE, key)

    @invariant()
    def every_freed_place_was_told(self) -> None:
        """Once each, in order: the queue waits for nothing else."""
        assert self.expected_freed == self.freed

    def teardown(self) -> None:
        """End everything: nothing may be left, in no count and no index."""
        for lease in self.held:
            self.ledger.release(lease)
        for session in self.live:
            self.ledger.close(session)
        kept = {name: value for name, value in vars(self.ledger).items() if value and name != "on_free"}
        assert {} == kept


TestLedgerCounts = LedgerCounts.TestCase
