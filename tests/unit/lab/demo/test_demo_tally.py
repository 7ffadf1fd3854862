"""The books of the demonstration: what counts as a return to the own desktop, and what the verdict says."""

import pytest

from rdpbalancer.lab.client import Landing
from rdpbalancer.lab.demo.tally import Cause, Outcome, Tally, verdict
from rdpbalancer.lab.population import Visit


def visit(user: str, desktop: str) -> Visit:
    """A visit that reached `desktop`."""
    return Visit(user, Landing(desktop.partition("-")[0], desktop, returned=False, visit=1, redirects=0))


def book(tally: Tally, *desktops: str, user: str = "alice") -> list[Outcome]:
    """Let the user come and leave once for each of `desktops`."""
    outcomes = []
    for at, desktop in enumerate(desktops):
        outcomes.append(tally.arrived(visit(user, desktop), source="127.64.0.1", now=float(at)))
        tally.left(user, now=at + 0.5)
    return outcomes


def test_only_the_desktop_that_was_left_is_the_own() -> None:
    """Neither another on the same server nor one elsewhere; the own one stays the first."""
    tally = Tally()
    outcomes = book(tally, "ts1-1", "ts1-1", "ts1-2", "ts2-1", "ts1-1")
    assert [Outcome.NEW, Outcome.OWN, Outcome.WRONG, Outcome.WRONG, Outcome.OWN] == outcomes
    assert (1, 5, 4, 2) == (tally.users, tally.visits, tally.returns, tally.wrong)
    assert ["alice was on ts1-2, not on ts1-1", "alice was on ts2-1, not on ts1-1"] == tally.problems


def test_a_desktop_that_died_may_be_replaced_and_then_counts() -> None:
    """After a server failed a new desktop is right, once; from then on that is the own one."""
    tally = Tally()
    book(tally, "ts1-1")
    tally.lose("ts1-1")
    assert [Outcome.MOVED, Outcome.OWN, Outcome.WRONG] == book(tally, "ts2-1", "ts2-1", "ts1-2")
    assert ("ts2-1", "ts2") == (tally.person("alice").desktop, tally.person("alice").server)


def test_a_failed_login_is_a_problem_unless_it_was_brought_about() -> None:
    """Failed logins count as no visit."""
    tally = Tally()
    failed = Visit("alice", error="refused")
    assert Outcome.EXCUSED is tally.arrived(failed, source="", now=0.0, excuse=True)
    assert [] == tally.problems
    assert Outcome.FAILED is tally.arrived(failed, source="", now=0.0)
    assert ["alice could not log in (refused)"] == tally.problems
    assert (0, 0) == (tally.visits, tally.returns)


def test_a_broken_session_is_a_problem_unless_it_was_brought_about() -> None:
    """A wrong byte never is."""
    tally = Tally()
    book(tally, "ts1-1")
    tally.broke("alice", "reset", Cause.RELAY)
    assert ([], Cause.RELAY) == (tally.problems, tally.person("alice").cut)
    tally.broke("alice", "corrupted", Cause.RELAY)
    tally.broke("alice", "closed", Cause.NONE)
    assert {Cause.RELAY: 1, Cause.NONE: 2} == tally.broken
    assert ["a session of alice broke (corrupted)", "a session of alice broke (closed)"] == tally.problems


def test_who_is_there_and_who_retired() -> None:
    """The books know who is connected, and keep the counts of those who will not come any more."""
    tally = Tally()
    tally.arrived(visit("alice", "ts1-1"), source="127.64.0.1", now=5.0)
    assert (True, 5.0, "127.64.0.1") == (
        tally.person("alice").here,
        tally.person("alice").changed_at,
        tally.person("alice").source,
    )
    assert ["alice"] == [person.name for person in tally.at_home("ts1")]
    tally.left("alice", now=6.0)
    assert not tally.person("alice").here
    tally.retire("alice")
    assert ([], 1, 1) == (list(tally), tally.users, tally.visits)


def test_a_good_verdict_counts() -> None:
    """It says what was proved, and about whom it says nothing."""
    tally = Tally()
    book(tally, "ts1-1", "ts1-1", "ts1-1")
    good = "verdict: 1 users, 3 visits, every return reached the user's own desktop"
    assert good == verdict(tally, [])
    tally.lose("ts1-1")
    book(tally, "ts2-1")
    expected = good.replace("3", "4") + ", but for 1 whose desktop died with its server"
    assert expected == verdict(tally, [])


@pytest.mark.parametrize(
    ("problems", "expected"),
    [
        (["a"], "something went wrong: a"),
        (["a", "b"], "2 things went wrong: a; b"),
        (["a", "b", "c", "d", "e"], "5 things went wrong: a; b; c; and 2 more"),
    ],
)
def test_a_bad_verdict_names_the_first_problems(problems: list[str], expected: str) -> None:
    """A few of them, in one line."""
    assert f"verdict: FAILED: {expected}" == verdict(Tally(), problems)


def test_a_bad_verdict_counts_the_wrong_returns() -> None:
    """They are what the balancer is there to prevent."""
    tally = Tally()
    book(tally, "ts1-1", "ts2-1", "ts1-1")
    expected = "1 of 2 returns did not reach the user's own desktop: alice was on ts2-1, not on ts1-1"
    assert f"verdict: FAILED: {expected}" == verdict(tally, tally.problems)
