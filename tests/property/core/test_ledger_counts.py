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

    slots: Bundle[ServerSlot] = Bundle("slots")
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

    @rule(target=slots, server=servers, key=keys)
    def slot(self, server: str, key: Key | None) -> ServerSlot:
        """Choose a server."""
        slot = self.ledger.reserve(sid(server), key)
        self.held.append(slot)
        return slot

    @rule(target=spent, slot=consumes(slots))
    def release(self, slot: ServerSlot) -> ServerSlot:
        """Fail."""
        self.held.remove(slot)
        self.expected_freed.append(slot.server)
        self.ledger.release(slot)
        return slot

    @rule(slot=spent)
    def release_again(self, slot: ServerSlot) -> None:
        """Clean up once too often."""
        self.ledger.release(slot)

    @rule(slot=slots, key=keys)
    def set_key(self, slot: ServerSlot, key: Key | None) -> None:
        """Claim a key for a granted place."""
        self.ledger.set_key(slot, key)

    @rule(target=sessions, slot=consumes(slots), source=sources)
    def open(self, slot: ServerSlot, source: str) -> str:
        """Hand over."""
        self.held.remove(slot)
        made = self._facts(slot.server.name, slot.key, source)
        self.ledger.open(slot, made, relay=1)
        self.ledger.release(slot)
        return made.id

    @rule(slot=spent, source=sources)
    def open_what_is_spent(self, slot: ServerSlot, source: str) -> None:
        """Hand over what was given back."""
        made = facts("never", slot.server.name, key=slot.key, source=source)
        try:
            self.ledger.open(slot, made, relay=1)
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
        assert len(self.held) == self.ledger.reserved
        assert len(live) == self.ledger.sessions_of(SERVICE)
        assert {made.server_id for made in live} == set(self.ledger.servers())
        for server in map(sid, SERVERS):
            on_server = {made.id for made in live if made.server_id == server}
            reserved = sum(slot.server == server for slot in self.held)
            assert len(on_server) + reserved == self.ledger.load(server)
            assert len(on_server) == self.ledger.sessions_on(server)
            assert on_server == {session.facts.id for session in self.ledger.on(server)}
        for key in KEYS:
            if key is not None:
                with_key = [made for made in live if made.binding_key == key]
                reserved = sum(slot.key == key for slot in self.held)
                assert len(with_key) + reserved == self.ledger.uses(SERVICE, key)
                assert len(with_key) == self.ledger.live_of(SERVICE, key)
                assert len({made.source for made in with_key}) == self.ledger.sources_of(SERVICE, key)

    @invariant()
    def every_freed_place_was_told(self) -> None:
        """Once each, in order: the queue waits for nothing else."""
        assert self.expected_freed == self.freed

    def teardown(self) -> None:
        """End everything: nothing may be left, in no count and no index."""
        for slot in self.held:
            self.ledger.release(slot)
        for session in self.live:
            self.ledger.close(session)
        kept = {name: value for name, value in vars(self.ledger).items() if value and name != "on_free"}
        assert {} == kept


TestLedgerCounts = LedgerCounts.TestCase
