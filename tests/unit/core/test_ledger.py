"""The ledger's edges. What it counts is held against a model in the property tests."""

from dataclasses import dataclass

import msgspec
import pytest

from rdpbalancer.core.ledger import Ledger
from rdpbalancer.model import Key, Method, ServerId
from tests.unit.core.farms import ALICE, SERVICE, facts, sid

BOB = Key(Method.RDP_COOKIE, "bob")
TS1, TS2 = sid("ts1"), sid("ts2")


def test_a_lease_counts_at_once() -> None:
    """Reserved when chosen: the next login already sees this one."""
    ledger = Ledger()
    slot = ledger.reserve(TS1, ALICE)
    assert (1, 1, 0, 1) == (
        ledger.load(TS1),
        ledger.reserved,
        ledger.sessions_on(TS1),
        ledger.uses(SERVICE, ALICE),
    )
    assert slot.held


def test_a_lease_becomes_a_session_without_a_gap() -> None:
    ledger = Ledger()
    session = ledger.open(ledger.reserve(TS1, ALICE), facts("s1", key=ALICE), relay=3, admission_slot="door")
    assert (1, 0, 1, 1) == (
        ledger.load(TS1),
        ledger.reserved,
        ledger.sessions_on(TS1),
        ledger.uses(SERVICE, ALICE),
    )
    assert ("s1", 3, "door", 0, 0) == (
        session.facts.id, session.relay, session.admission_slot, session.bytes_up, session.bytes_down
    )  # fmt: skip
    assert session is ledger.get("s1")
    assert "s1" in ledger
    assert [session] == list(ledger)


def test_a_released_lease_does_nothing_twice() -> None:
    ledger = Ledger()
    slot = ledger.reserve(TS1, ALICE)
    ledger.reserve(TS1, ALICE)
    ledger.release(slot)
    ledger.release(slot)
    assert (1, 1, 1) == (ledger.load(TS1), ledger.reserved, ledger.uses(SERVICE, ALICE))


def test_a_lease_that_became_a_session_cannot_be_released() -> None:
    """A `finally` may release what was opened: the session keeps its place."""
    ledger = Ledger()
    slot = ledger.reserve(TS1, None)
    ledger.open(slot, facts("s1"), relay=0)
    ledger.release(slot)
    assert (1, 0, 1) == (ledger.load(TS1), ledger.reserved, ledger.sessions_on(TS1))


def test_what_does_not_agree_is_not_opened() -> None:
    """Another server, another key, a slot that is gone, an id that lives: nothing is counted then."""
    ledger = Ledger()
    gone, slot = ledger.reserve(TS1, ALICE), ledger.reserve(TS1, ALICE)
    ledger.release(gone)
    ledger.open(ledger.reserve(TS1, ALICE), facts("s1", key=ALICE), relay=0)
    for held, what in [
        (gone, facts("s2", key=ALICE)),
        (slot, facts("s2", "ts2", key=ALICE)),
        (slot, facts("s2", key=BOB)),
        (slot, facts("s2")),
        (slot, facts("s1", key=ALICE)),
    ]:
        with pytest.raises(ValueError, match="cannot be opened"):
            ledger.open(held, what, relay=0)
    assert slot.held
    assert (2, 1, 1, 2) == (ledger.load(TS1), ledger.reserved, len(ledger), ledger.uses(SERVICE, ALICE))


def test_a_granted_place_gets_its_key_later() -> None:
    ledger = Ledger()
    slot = ledger.reserve(TS1, None)
    ledger.set_key(slot, ALICE)
    assert (ALICE, 1) == (slot.key, ledger.uses(SERVICE, ALICE))
    ledger.set_key(slot, ALICE)
    assert 1 == ledger.uses(SERVICE, ALICE)
    ledger.set_key(slot, BOB)
    assert (0, 1) == (ledger.uses(SERVICE, ALICE), ledger.uses(SERVICE, BOB))
    ledger.set_key(slot, None)
    assert (None, 0) == (slot.key, ledger.uses(SERVICE, BOB))


def test_a_lease_that_is_gone_gets_no_key() -> None:
    """Its use of the key would never end, and the binding never expire."""
    ledger = Ledger()
    slot = ledger.reserve(TS1, None)
    ledger.release(slot)
    with pytest.raises(ValueError, match="is not held"):
        ledger.set_key(slot, ALICE)
    assert 0 == ledger.uses(SERVICE, ALICE)


def test_a_restored_session_counts_as_one_that_was_opened() -> None:
    ledger = Ledger()
    ledger.restore(facts("s1", key=ALICE), relay=2, admission_slot="door")
    ledger.restore(facts("s2"), relay=2)
    assert (2, 0, 2, 1, 1) == (
        ledger.load(TS1), ledger.reserved, ledger.sessions_of(SERVICE),
        ledger.uses(SERVICE, ALICE), ledger.sources_of(SERVICE, ALICE),
    )  # fmt: skip


def test_a_session_is_restored_once() -> None:
    """Two relays that report one session are told apart; the first is not counted out of the ledger."""
    ledger = Ledger()
    session = ledger.restore(facts("s1", key=ALICE), relay=1)
    with pytest.raises(ValueError, match="already"):
        ledger.restore(facts("s1", "ts2", key=ALICE), relay=2)
    assert (session, 1, 0, 1) == (
        ledger.get("s1"),
        ledger.load(TS1),
        ledger.load(TS2),
        ledger.uses(SERVICE, ALICE),
    )


def test_closing_gives_the_session_back_once() -> None:
    ledger = Ledger()
    session = ledger.restore(facts("s1", key=ALICE), relay=1)
    assert session is ledger.close("s1")
    assert ledger.close("s1") is None
    assert ledger.get("s1") is None
    assert (0, 0, 0) == (len(ledger), ledger.load(TS1), ledger.uses(SERVICE, ALICE))


def test_sources_are_counted_while_they_have_a_session() -> None:
    """Two sessions of one address are one source, and it stays until the last has ended."""
    ledger = Ledger()
    ledger.restore(facts("s1", key=ALICE, source="192.0.2.1"), relay=1)
    ledger.restore(facts("s2", key=ALICE, source="192.0.2.1"), relay=1)
    ledger.restore(facts("s3", key=ALICE, source="192.0.2.2"), relay=1)
    ledger.reserve(TS1, ALICE)
    assert (2, 3, 4) == (
        ledger.sources_of(SERVICE, ALICE), ledger.live_of(SERVICE, ALICE), ledger.uses(SERVICE, ALICE)
    )  # fmt: skip
    ledger.close("s1")
    assert 2 == ledger.sources_of(SERVICE, ALICE)
    ledger.close("s2")
    assert 1 == ledger.sources_of(SERVICE, ALICE)


def test_one_key_in_two_services_is_two_keys() -> None:
    ledger = Ledger()
    ledger.restore(facts("s1", key=ALICE), relay=1)
    ledger.restore(msgspec.structs.replace(facts("s2", key=ALICE), service="other"), relay=1)
    assert (1, 1) == (ledger.uses(SERVICE, ALICE), ledger.uses("other", ALICE))
    ledger.close("s1")
    assert (0, 1) == (ledger.live_of(SERVICE, ALICE), ledger.live_of("other", ALICE))


def test_sessions_are_listed_by_server_and_may_end_while_listed() -> None:
    ledger = Ledger()
    for number in range(3):
        ledger.restore(facts(f"s{number}", "ts1" if number else "ts2"), relay=1)
    assert ["s1", "s2"] == [session.facts.id for session in ledger.on(TS1)]
    assert {TS1, TS2} == set(ledger.servers())
    for session in ledger:
        ledger.close(session.facts.id)
    assert ([], []) == (list(ledger.servers()), ledger.on(TS1))


@dataclass
class Freed:
    """What a queue would see at the moment a place becomes free."""

    ledger: Ledger
    seen: list[tuple[ServerId, int]]

    def __call__(self, server: ServerId) -> None:
        """Note the server and its load."""
        self.seen.append((server, self.ledger.load(server)))


def test_every_freed_place_is_told_when_it_is_free() -> None:
    """After a release and after a close, with the count already taken back; not when a slot is opened."""
    ledger = Ledger()
    freed = Freed(ledger, [])
    ledger.on_free = freed
    ledger.open(ledger.reserve(TS1, None), facts("s1"), relay=0)
    slot = ledger.reserve(TS2, None)
    assert [] == freed.seen
    ledger.release(slot)
    ledger.close("s1")
    assert [(TS2, 0), (TS1, 0)] == freed.seen


def test_a_freed_place_may_be_taken_at_once() -> None:
    """The queue does: nobody comes between."""
    ledger = Ledger()
    ledger.on_free = lambda server: None if ledger.reserved else void(ledger.reserve(server, ALICE))
    ledger.release(ledger.reserve(TS1, None))
    assert (1, 1, 1) == (ledger.load(TS1), ledger.reserved, ledger.uses(SERVICE, ALICE))


def void(_: object) -> None:
    """Let an expression be a statement."""
