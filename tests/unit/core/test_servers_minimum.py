"""`min_connections`: a server that has been full takes new users again when it has fallen to it."""

import pytest

from rdpbalancer.core.farm import PersistencePolicy
from rdpbalancer.core.route import Enqueue, Route
from rdpbalancer.core.status import emptying
from rdpbalancer.model import Key, Method, Reason, ServerId
from tests.unit.core.dispatch_fixture import Caller, DispatchFixture, chosen, policy
from tests.unit.core.farms import SERVICE, facts, real_server, server_status, sid

TS1 = sid("ts1")


def cookie(user: str) -> Key:
    """Return a user's key."""
    return Key(Method.RDP_COOKIE, user)


def threshold(most: int = 3, least: int = 1, name: str = "ts1") -> DispatchFixture:
    """Return a farm whose first server is filled first."""
    servers = [real_server(name, max_connections=most, min_connections=least), real_server("ts2")]
    return DispatchFixture(*servers, scheduler="first-available", persistence=policy())


def filled(scene: DispatchFixture, count: int = 3) -> list[str]:
    """Log so many users in; return their sessions."""
    return [scene.login(cookie(f"user{number}")) for number in range(count)]


@pytest.mark.parametrize(
    ("most", "least", "sessions", "was", "expected"),
    [
        (0, 0, 9, True, False),
        (5, 0, 5, True, False),
        (0, 2, 9, True, False),
        (5, 2, 4, False, False),
        (5, 2, 5, False, True),
        (5, 2, 6, False, True),
        (5, 2, 4, True, True),
        (5, 2, 3, True, True),
        (5, 2, 2, True, False),
        (5, 2, 0, True, False),
    ],
)
def test_between_the_two_it_is_as_it_was(
    most: int, least: int, sessions: int, *, was: bool, expected: bool
) -> None:
    """Full at the upper number, free at the lower one; without both there is nothing in between."""
    server = real_server("ts1", max_connections=most, min_connections=least)
    assert expected is emptying(server, server_status(), sessions=sessions, was=was)


def test_new_users_stay_away_until_it_has_fallen_to_it() -> None:
    """One place is free, then two; the third logout opens it again, and it is filled anew."""
    scene = threshold()
    sessions = filled(scene)
    assert "ts2" == chosen(scene.come(key=cookie("new1")))
    for session in sessions[:1]:
        scene.close(session)
    assert scene.dispatcher.servers.is_emptying(TS1)
    assert "ts2" == chosen(scene.come(key=cookie("new2")))
    scene.close(sessions[1])
    assert not scene.dispatcher.servers.is_emptying(TS1)
    assert ["ts1", "ts1"] == [chosen(scene.come(key=cookie(f"again{number}"))) for number in range(2)]
    assert "ts2" == chosen(scene.come(key=cookie("new3")))


def test_who_is_bound_or_sent_there_still_comes() -> None:
    """The desktop is there, and there is a place."""
    scene = threshold()
    first, *_ = filled(scene)
    scene.close(first)
    assert "ts1" == chosen(scene.come(key=cookie("user0")))
    scene = threshold()
    first, *_ = filled(scene)
    scene.close(first)
    assert Route(TS1, Reason.TOKEN) == scene.decide(Caller(token=real_server("ts1").address))


def test_logins_on_their_way_fill_no_server() -> None:
    """A stranger's handshakes that fail would keep everybody away."""
    scene = threshold()
    callers = [scene.come(key=cookie(f"user{number}")) for number in range(3)]
    assert "ts2" == chosen(scene.come(key=cookie("new")))
    for caller in callers:
        scene.give_back(caller)
    assert "ts1" == chosen(scene.come(key=cookie("new2")))


def test_who_waits_is_let_in_when_it_opens_again() -> None:
    """All of them at once, as far as there are places, in their order; a bound user at the first one."""
    server = real_server("ts1", max_connections=3, min_connections=1)
    scene = DispatchFixture(server, persistence=PersistencePolicy())
    sessions = filled(scene)
    waiting = [scene.come(key=cookie(f"new{number}")) for number in range(3)]
    bound = scene.come(key=cookie("user0"))
    assert [Enqueue(None)] * 3 + [Enqueue(TS1)] == [caller.wanted for caller in (*waiting, bound)]
    scene.close(sessions[2])
    assert [0, 0, 0, 1] == [len(caller.granted) for caller in (*waiting, bound)]
    scene.wake(bound)
    scene.confirm(bound)
    sessions.append(scene.open(bound))
    for session in sessions[:2]:
        scene.close(session)
    assert [1, 1, 0] == [len(caller.granted) for caller in waiting]


def test_a_backup_is_no_way_out() -> None:
    """It is for farms without a usable server; this one is usable, in a moment."""
    servers = [
        real_server("ts1", max_connections=2, min_connections=1),
        real_server("sorry", backup=True),
    ]
    scene = DispatchFixture(*servers)
    filled(scene, 2)
    assert Enqueue(None) == scene.decide(Caller(key=cookie("new")))


def test_a_larger_maximum_ends_it_and_a_smaller_one_does_not() -> None:
    """It was full by another measure."""
    scene = threshold()
    sessions = filled(scene)
    scene.close(sessions[0])
    scene.configure(real_server("ts1", max_connections=3, min_connections=1), "ts2")
    assert scene.dispatcher.servers.is_emptying(TS1)
    scene.configure(real_server("ts1", max_connections=4, min_connections=1), "ts2")
    assert not scene.dispatcher.servers.is_emptying(TS1)
    scene.configure(real_server("ts1", max_connections=2, min_connections=1), "ts2")
    assert scene.dispatcher.servers.is_emptying(TS1)
    scene.configure(real_server("ts1", max_connections=2, min_connections=0), "ts2")
    assert not scene.dispatcher.servers.is_emptying(TS1)
    scene.configure("ts2")
    assert not scene.dispatcher.servers.is_emptying(TS1)


def test_the_agents_maximum_counts() -> None:
    """It goes before ours, and may come and go while the server empties."""
    scene = threshold(most=10)
    filled(scene)
    scene.status("ts1", agent={"max_connections": 3})
    assert scene.dispatcher.servers.is_emptying(TS1)
    scene.status("ts1", agent={"max_connections": 4})
    assert scene.dispatcher.servers.is_emptying(TS1)
    scene.status("ts1", agent={"max_connections": 0})
    assert not scene.dispatcher.servers.is_emptying(TS1)


def test_a_full_server_is_full_for_the_next_router_too() -> None:
    """What was between the two is not known any more."""
    scene = threshold(most=2)
    for number in range(2):
        session = facts(f"old{number}", "ts1", key=cookie(f"user{number}"))
        scene.dispatcher.restore(session, relay=7, admission_slot=None, now=0)
    assert scene.dispatcher.servers.is_emptying(ServerId(SERVICE, "ts1"))
