"""The books of live sessions: one record each, whatever order the relays' words come in."""

from collections.abc import Callable

import pytest

from rdpbalancer.errors import ChannelError
from rdpbalancer.model import CloseReason, Key, Method
from tests.unit.core.farms import ALICE, SERVICE
from tests.unit.runtime.farmhouse import Farmhouse, ended, facts, service_of, sid, state_of

ONE = facts("s1", "ts1", key=ALICE, source="192.0.2.1")


@pytest.fixture
def house() -> Farmhouse:
    """Return a farm of two servers."""
    return Farmhouse(service_of(["ts1", "ts2"]))


def live(house: Farmhouse, relay: int = 7) -> None:
    """A relay tells of the session."""
    house.keeper.session_live(state_of(ONE, up=10, down=20), relay)


def end(house: Farmhouse, relay: int = 7) -> None:
    """A relay tells of its end."""
    house.keeper.session_ended(ended(ONE, up=100, down=200), relay)


def lose(house: Farmhouse, relay: int = 7) -> None:
    """The relay is gone."""
    house.keeper.relay_lost(relay, ChannelError("channel", "the other process has ended"))


def lose_other(house: Farmhouse) -> None:
    """Another relay is gone."""
    lose(house, relay=8)


def move(house: Farmhouse) -> None:
    """The session has moved to relay 8."""
    house.keeper.session_live(state_of(ONE, up=50, down=60, moves=1), 8)


Step = Callable[[Farmhouse], None]


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([live, end], "eof"),
        ([end], "eof"),
        ([live, live, end], "eof"),
        ([live, end, end], "eof"),
        ([end, end], "eof"),
        ([live, lose], "relay-lost"),
        ([live, lose, end], "relay-lost"),
        ([live, lose, lose], "relay-lost"),
        ([live, end, lose], "eof"),
        ([end, lose], "eof"),
        ([live, lose_other, end], "eof"),
        ([live, move, lose, end], "eof"),
        ([live, move, lose_other], "relay-lost"),
        ([move, end], "eof"),
        ([move, lose_other, end], "relay-lost"),
        ([move, live, lose, end], "eof"),
        ([live, end, move], "eof"),
        ([live, lose, move], "relay-lost"),
    ],
    ids=lambda value: "-".join(step.__name__ for step in value) if isinstance(value, list) else None,
)
def test_a_session_has_one_record_and_leaves_nothing(
    house: Farmhouse, steps: list[Step], reason: str
) -> None:
    """Live or unknown, ended once or twice, with its relay or before it, at home or moved."""
    for step in steps:
        step(house)
    (record,) = house.logged("session_closed")
    assert ("s1", reason, "ts1") == (record["session"], record["close_reason"], record["server"])
    assert 0 == len(house.dispatcher.ledger)
    assert 0 == house.dispatcher.ledger.load(sid("ts1"))
    assert 0 == house.admission.places(SERVICE)
    binding = house.dispatcher.bindings(SERVICE).get(ALICE, now=house.now)
    assert binding is None or binding.expires_at is not None


def test_a_session_that_lives_is_in_every_book(house: Farmhouse) -> None:
    """Load, binding, admission, relay and bytes: as if this router had led it there itself."""
    live(house)
    session = house.dispatcher.ledger.get("s1")
    assert session is not None
    assert (ONE, 7, 10, 20) == (session.facts, session.relay, session.bytes_up, session.bytes_down)
    assert 1 == house.dispatcher.ledger.load(sid("ts1"))
    assert 1 == house.admission.places(SERVICE)
    binding = house.dispatcher.bindings(SERVICE).get(ALICE, now=house.now)
    assert binding is not None
    assert ("ts1", None) == (binding.server, binding.expires_at)


def test_the_record_is_of_the_end_and_what_was_known(house: Farmhouse) -> None:
    """Bytes, reason, side and time are the relay's; a relay that is gone leaves the last it told."""
    live(house)
    house.keeper.session_moved("s1", 40, 50)
    house.keeper.session_live(state_of(facts("s2", "ts2")), 8)
    lose(house)
    house.keeper.session_ended(ended(facts("s2", "ts2"), up=3, down=4, reason=CloseReason.RESET), 8)
    one, two = house.logged("session_closed")
    assert (40, 50, "relay-lost", "balancer", 7) == tuple(
        one[name] for name in ("bytes_up", "bytes_down", "close_reason", "close_side", "relay")
    )
    assert (3, 4, "reset", "client", 8, 5.0) == tuple(
        two[name] for name in ("bytes_up", "bytes_down", "close_reason", "close_side", "relay", "duration_s")
    )


def moved_bytes(house: Farmhouse) -> list[float]:
    """Return the counters of bytes up and down."""
    value = house.metrics.registry.get_sample_value
    labels = {"service": SERVICE, "server": "ts1"}
    return [
        value("rdpbalancer_bytes_total", {**labels, "direction": direction}) or 0
        for direction in ("up", "down")
    ]


def test_bytes_are_counted_once(house: Farmhouse) -> None:
    """Reports are totals; what a restarted router finds was counted by the one before."""
    live(house)
    assert [0, 0] == moved_bytes(house)
    house.keeper.session_moved("s1", 15, 20)
    house.keeper.session_moved("s1", 15, 25)
    assert [5, 5] == moved_bytes(house)
    end(house)
    assert [90, 180] == moved_bytes(house)
    end(house)
    house.keeper.session_moved("s1", 1000, 1000)
    assert [90, 180] == moved_bytes(house)


def test_the_words_of_a_relay_that_gave_it_away_come_late(house: Farmhouse) -> None:
    """Bytes never go back, and the session is where it moved to last."""
    live(house)
    move(house)
    house.keeper.session_moved("s1", 500, 600)
    house.keeper.session_moved("s1", 40, 700)
    live(house)
    session = house.dispatcher.ledger.get("s1")
    assert session is not None
    assert (8, 500, 700) == (session.relay, session.bytes_up, session.bytes_down)
    assert [490, 680] == moved_bytes(house)


def test_a_session_that_moves_keeps_its_books(house: Farmhouse) -> None:
    """It is one session, with one place, on the same server."""
    live(house)
    move(house)
    session = house.dispatcher.ledger.get("s1")
    assert session is not None
    assert (8, 50, 60) == (session.relay, session.bytes_up, session.bytes_down)
    assert 1 == house.dispatcher.ledger.load(sid("ts1"))
    assert 1 == house.admission.places(SERVICE)


def test_losing_a_relay_is_told_once_with_its_sessions(house: Farmhouse) -> None:
    """One event, whoever counts on it; a relay without sessions is no loss."""
    for number in range(3):
        house.keeper.session_live(state_of(facts(f"s{number}", "ts1")), 7)
    lose(house)
    house.keeper.relay_lost(9, None)
    lost, gone = house.events.recent()
    assert ("relay_lost", "error", 7, 3, "the other process has ended") == tuple(
        lost[name] for name in ("event", "level", "relay", "sessions", "detail")
    )
    assert ("relay_gone", "info", 9) == tuple(gone[name] for name in ("event", "level", "relay"))


def test_a_relay_that_ended_without_an_error_says_so(house: Farmhouse) -> None:
    """`error` None: its line was closed in order."""
    live(house)
    house.keeper.relay_lost(7, None)
    assert "it ended" == house.events.recent()[0]["detail"]


def test_a_session_of_a_removed_service_is_recorded(house: Farmhouse) -> None:
    """A reload has taken the service away; its sessions go on and end like any other."""
    live(house)
    house.apply()
    end(house)
    assert ["s1"] == [record["session"] for record in house.logged("session_closed")]
    assert 0 == house.admission.places(SERVICE)


def test_many_sessions_are_remembered_for_a_while_only(house: Farmhouse) -> None:
    """What guards against a second record is bounded; the newest ones are the ones that matter."""
    for number in range(10_050):
        house.keeper.session_ended(ended(facts(str(number), "ts1")), 7)
    before = len(house.logged("session_closed"))
    for number in range(10_000, 10_050):
        house.keeper.session_ended(ended(facts(str(number), "ts1")), 7)
    assert 10_050 == before == len(house.logged("session_closed"))
    assert 10_000 == len(house.keeper._recorded)


def test_keys_of_other_methods_are_restored_too(house: Farmhouse) -> None:
    """A source binding is pinned by its sessions like a user's."""
    home = Key(Method.SOURCE_IP, "192.0.2.1")
    house.session("s9", "ts2", key=home)
    binding = house.dispatcher.bindings(SERVICE).get(home, now=house.now)
    assert binding is not None
    assert ("ts2", None) == (binding.server, binding.expires_at)


def test_a_session_heard_of_while_its_service_is_away_is_pinned_when_it_is_back() -> None:
    """A reload takes a service out, a router restarts, another reload brings it back: the user is bound."""
    vip, other = service_of(["ts1", "ts2"]), service_of(["ts1"], name="other")
    house = Farmhouse(vip, other)
    house.apply(other)
    house.session("s1", "ts2", key=ALICE)
    house.session("s2", "ts1", key=ALICE, service="other")
    house.session("s3", "ts1")
    house.apply(vip, other)
    bound = house.dispatcher.bindings(SERVICE).get(ALICE, now=house.now)
    assert bound is not None
    assert ("ts2", None) == (bound.server, bound.expires_at)
    house.dispatcher.close("s1", now=house.now)
    bound = house.dispatcher.bindings(SERVICE).get(ALICE, now=house.now)
    assert bound is not None
    assert bound.expires_at is not None
