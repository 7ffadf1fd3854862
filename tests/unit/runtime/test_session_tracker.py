"""The books of live sessions: one record each, whatever order the relays' words come in."""

from collections.abc import Callable

import pytest

from rdpbalancer.errors import ChannelError
from rdpbalancer.model import CloseReason, Key, Method
from tests.unit.core.farms import ALICE, SERVICE
from tests.unit.runtime.in_process_router import InProcessRouter, ended, facts, service_of, sid, state_of

ONE = facts("s1", "ts1", key=ALICE, source="192.0.2.1")


@pytest.fixture
def router() -> InProcessRouter:
    """Return a farm of two servers."""
    return InProcessRouter(service_of(["ts1", "ts2"]))


def live(router: InProcessRouter, relay: int = 7) -> None:
    """A relay tells of the session."""
    router.keeper.session_live(state_of(ONE, up=10, down=20), relay)


def end(router: InProcessRouter, relay: int = 7) -> None:
    """A relay tells of its end."""
    router.keeper.session_ended(ended(ONE, up=100, down=200), relay)


def lose(router: InProcessRouter, relay: int = 7) -> None:
    """The relay is gone."""
    router.keeper.relay_lost(relay, ChannelError("channel", "the other process has ended"))


def lose_other(router: InProcessRouter) -> None:
    """Another relay is gone."""
    lose(router, relay=8)


def move(router: InProcessRouter) -> None:
    """The session has moved to relay 8."""
    router.keeper.session_live(state_of(ONE, up=50, down=60, moves=1), 8)


Step = Callable[[InProcessRouter], None]


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
    router: InProcessRouter, steps: list[Step], reason: str
) -> None:
    """Live or unknown, ended once or twice, with its relay or before it, at home or moved."""
    for step in steps:
        step(router)
    (record,) = router.logged("session_closed")
    assert ("s1", reason, "ts1") == (record["session"], record["close_reason"], record["server"])
    assert 0 == len(router.dispatcher.ledger)
    assert 0 == router.dispatcher.ledger.load(sid("ts1"))
    assert 0 == router.admission.places(SERVICE)
    binding = router.dispatcher.bindings.of(SERVICE).get(ALICE, now=router.now)
    assert binding is None or binding.expires_at is not None


def test_a_session_that_lives_is_in_every_book(router: InProcessRouter) -> None:
    """Load, binding, admission, relay and bytes: as if this router had led it there itself."""
    live(router)
    session = router.dispatcher.ledger.get("s1")
    assert session is not None
    assert (ONE, 7, 10, 20) == (session.facts, session.relay, session.bytes_up, session.bytes_down)
    assert 1 == router.dispatcher.ledger.load(sid("ts1"))
    assert 1 == router.admission.places(SERVICE)
    binding = router.dispatcher.bindings.of(SERVICE).get(ALICE, now=router.now)
    assert binding is not None
    assert ("ts1", None) == (binding.server, binding.expires_at)


def test_the_record_is_of_the_end_and_what_was_known(router: InProcessRouter) -> None:
    """Bytes, reason, side and time are the relay's; a relay that is gone leaves the last it told."""
    live(router)
    router.keeper.session_moved("s1", 40, 50)
    router.keeper.session_live(state_of(facts("s2", "ts2")), 8)
    lose(router)
    router.keeper.session_ended(ended(facts("s2", "ts2"), up=3, down=4, reason=CloseReason.RESET), 8)
    one, two = router.logged("session_closed")
    assert (40, 50, "relay-lost", "balancer", 7) == tuple(
        one[name] for name in ("bytes_up", "bytes_down", "close_reason", "close_side", "relay")
    )
    assert (3, 4, "reset", "client", 8, 5.0) == tuple(
        two[name] for name in ("bytes_up", "bytes_down", "close_reason", "close_side", "relay", "duration_s")
    )


def moved_bytes(router: InProcessRouter) -> list[float]:
    """Return the counters of bytes up and down."""
    value = router.metrics.registry.get_sample_value
    labels = {"service": SERVICE, "server": "ts1"}
    return [
        value("rdpbalancer_bytes_total", {**labels, "direction": direction}) or 0
        for direction in ("up", "down")
    ]


def test_bytes_are_counted_once(router: InProcessRouter) -> None:
    """Reports are totals; what a restarted router finds was counted by the one before."""
    live(router)
    assert [0, 0] == moved_bytes(router)
    router.keeper.session_moved("s1", 15, 20)
    router.keeper.session_moved("s1", 15, 25)
    assert [5, 5] == moved_bytes(router)
    end(router)
    assert [90, 180] == moved_bytes(router)
    end(router)
    router.keeper.session_moved("s1", 1000, 1000)
    assert [90, 180] == moved_bytes(router)


def test_the_words_of_a_relay_that_gave_it_away_come_late(router: InProcessRouter) -> None:
    """Bytes never go back, and the session is where it moved to last."""
    live(router)
    move(router)
    router.keeper.session_moved("s1", 500, 600)
    router.keeper.session_moved("s1", 40, 700)
    live(router)
    session = router.dispatcher.ledger.get("s1")
    assert session is not None
    assert (8, 500, 700) == (session.relay, session.bytes_up, session.bytes_down)
    assert [490, 680] == moved_bytes(router)


def test_a_session_that_moves_keeps_its_books(router: InProcessRouter) -> None:
    """It is one session, with one place, on the same server."""
    live(router)
    move(router)
    session = router.dispatcher.ledger.get("s1")
    assert session is not None
    assert (8, 50, 60) == (session.relay, session.bytes_up, session.bytes_down)
    assert 1 == router.dispatcher.ledger.load(sid("ts1"))
    assert 1 == router.admission.places(SERVICE)


def test_losing_a_relay_is_told_once_with_its_sessions(router: InProcessRouter) -> None:
    """One event, whoever counts on it; a relay without sessions is no loss."""
    for number in range(3):
        router.keeper.session_live(state_of(facts(f"s{number}", "ts1")), 7)
    lose(router)
    router.keeper.relay_lost(9, None)
    lost, gone = router.events.recent()
    assert ("relay_lost", "error", 7, 3, "the other process has ended") == tuple(
        lost[name] for name in ("event", "level", "relay", "sessions", "detail")
    )
    assert ("relay_gone", "info", 9) == tuple(gone[name] for name in ("event", "level", "relay"))


def test_a_relay_that_ended_without_an_error_says_so(router: InProcessRouter) -> None:
    """`error` None: its line was closed in order."""
    live(router)
    router.keeper.relay_lost(7, None)
    assert "it ended" == router.events.recent()[0]["detail"]


def test_a_session_of_a_removed_service_is_recorded(router: InProcessRouter) -> None:
    """A reload has taken the service away; its sessions go on and end like any other."""
    live(router)
    router.apply()
    end(router)
    assert ["s1"] == [record["session"] for record in router.logged("session_closed")]
    assert 0 == router.admission.places(SERVICE)


def test_many_sessions_are_remembered_for_a_while_only(router: InProcessRouter) -> None:
    """What guards against a second record is bounded; the newest ones are the ones that matter."""
    for number in range(10_050):
        router.keeper.session_ended(ended(facts(str(number), "ts1")), 7)
    before = len(router.logged("session_closed"))
    for number in range(10_000, 10_050):
        router.keeper.session_ended(ended(facts(str(number), "ts1")), 7)
    assert 10_050 == before == len(router.logged("session_closed"))
    assert 10_000 == len(router.keeper._recorded)


def test_keys_of_other_methods_are_restored_too(router: InProcessRouter) -> None:
    """A source binding is pinned by its sessions like a user's."""
    home = Key(Method.SOURCE_IP, "192.0.2.1")
    router.session("s9", "ts2", key=home)
    binding = router.dispatcher.bindings.of(SERVICE).get(home, now=router.now)
    assert binding is not None
    assert ("ts2", None) == (binding.server, binding.expires_at)


def test_a_session_heard_of_while_its_service_is_away_is_pinned_when_it_is_back() -> None:
    """A reload takes a service out, a router restarts, another reload brings it back: the user is bound."""
    vip, other = service_of(["ts1", "ts2"]), service_of(["ts1"], name="other")
    router = InProcessRouter(vip, other)
    router.apply(other)
    router.session("s1", "ts2", key=ALICE)
    router.session("s2", "ts1", key=ALICE, service="other")
    router.session("s3", "ts1")
    router.apply(vip, other)
    bound = router.dispatcher.bindings.of(SERVICE).get(ALICE, now=router.now)
    assert bound is not None
    assert ("ts2", None) == (bound.server, bound.expires_at)
    router.dispatcher.close("s1", now=router.now)
    bound = router.dispatcher.bindings.of(SERVICE).get(ALICE, now=router.now)
    assert bound is not None
    assert bound.expires_at is not None
