"""Where a token that only its maker understands is looked for."""

from rdpbalancer.core import redirection
from rdpbalancer.core.redirection import (
    FOLLOWED_S,
    MAX_ENDED,
    MAX_LOOKED_AT,
    SEARCHES,
    SEARCHES_AGAIN_S,
    Redirections,
)
from tests.unit.core.farms import SERVICE, facts

HERE = "192.0.2.1"
NUMBER = 3735928559


def names(known: Redirections, *, token: int = NUMBER, source: str = HERE, now: float = 0.0) -> list[str]:
    """Return the servers in the order in which they are asked."""
    return [step.server for step in known.candidates(SERVICE, source, token, now=now)]


def ended(known: Redirections, session: str, server: str, *, now: float, token: int | None = None) -> None:
    """A session has begun and ended."""
    known.opened(facts(session, server), token=token)
    known.closed(session, now=now)


def test_the_newest_end_is_likeliest_then_live_sessions() -> None:
    known = Redirections()
    known.opened(facts("l", "live"), token=None)
    ended(known, "a", "ts1", now=1)
    ended(known, "b", "ts2", now=2)
    ended(known, "c", "ts1", now=3)
    assert ["ts1", "ts2", "live"] == names(known, now=4)
    assert [] == names(known, source="192.0.2.2", now=4)


def test_each_session_is_followed_once() -> None:
    """One that has been followed is asked last."""
    known = Redirections()
    ended(known, "a", "ts1", now=1)
    ended(known, "b", "ts2", now=2)
    known.candidates(SERVICE, HERE, NUMBER, now=2)[0].followed = True
    assert ["ts1", "ts2"] == names(known, now=2)


def test_a_token_that_was_taken_is_known() -> None:
    """The same number comes back to the same host, while its session lives and a minute after."""
    known = Redirections()
    known.opened(facts("a", "ts1"), token=NUMBER)
    ended(known, "b", "ts2", now=1)
    assert known.knows(SERVICE, NUMBER)
    assert ["ts1", "ts2"] == names(known, now=2)
    assert ["ts1"] == names(known, source="192.0.2.9", now=2)
    known.closed("a", now=100)
    assert ["ts1"] == names(known, now=100 + FOLLOWED_S - 0.1)
    assert [] == names(known, now=100 + FOLLOWED_S)
    assert (False, 0) == (known.knows(SERVICE, NUMBER), len(known))


def test_a_number_that_came_again_is_the_newer_sessions() -> None:
    known = Redirections()
    ended(known, "a", "ts1", now=0, token=NUMBER)
    known.opened(facts("b", "ts2"), token=NUMBER)
    assert ["ts2"] == names(known, source="192.0.2.9", now=FOLLOWED_S)
    assert known.knows(SERVICE, NUMBER)


def test_what_is_remembered_is_bounded() -> None:
    """The oldest end is forgotten first; sessions that were never known are nothing."""
    known = Redirections()
    known.closed("never", now=0)
    for number in range(MAX_ENDED + 5):
        ended(known, str(number), "ts1", now=1)
    assert MAX_ENDED == len(known)
    assert 1 == len(names(known, now=1))


def test_servers_are_asked_for_those_who_have_a_session_and_not_without_end() -> None:
    """A stranger who makes numbers up gets no more connections to servers than anybody."""
    known = Redirections()
    assert not known.may_search(SERVICE, HERE, now=0)
    known.opened(facts("a", "ts1"), token=None)
    assert known.may_search(SERVICE, HERE, now=0)
    assert not known.may_search(SERVICE, "192.0.2.2", now=0)
    assert SEARCHES - 1 == sum(known.may_search(SERVICE, HERE, now=0) for _ in range(2 * SEARCHES))
    some = SEARCHES_AGAIN_S / SEARCHES
    assert [True, False] == [known.may_search(SERVICE, HERE, now=some * 1.5) for _ in range(2)]
    known.closed("a", now=100)
    assert known.may_search(SERVICE, HERE, now=100 + FOLLOWED_S - 1)
    assert not known.may_search(SERVICE, HERE, now=100 + FOLLOWED_S)


def test_a_crowd_behind_one_address_is_not_looked_at_whole() -> None:
    known = Redirections()
    ended(known, "old", "ts2", now=1)
    for number in range(MAX_LOOKED_AT):
        ended(known, str(number), "ts1", now=2)
    assert ["ts1"] == names(known, now=2)
    assert redirection.MAX_ASKED == 16
