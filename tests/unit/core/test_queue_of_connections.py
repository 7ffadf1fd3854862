"""Places and who gets them: capacity, the queue, and what the farm's changes do to those who wait."""

import pytest

from rdpbalancer.core.route import Enqueue, Reject
from rdpbalancer.core.status import ServerStatus
from rdpbalancer.model import Health, Intent, Key, Method, Reason
from tests.unit.core.dispatch_fixture import Caller, DispatchFixture, chosen, policy
from tests.unit.core.farms import ALICE, SERVICE, real_server, server_status, sid, virtual_service

BERT = Key(Method.RDP_COOKIE, "bert")


def small(name: str, places: int = 1, **configured: object) -> DispatchFixture:
    """Return a scene of one server with few places."""
    return DispatchFixture(real_server(name, max_connections=places), **configured)


def pair(**configured: object) -> DispatchFixture:
    """Return a scene of two servers with a place each."""
    return DispatchFixture(*(real_server(name, max_connections=1) for name in ("ts1", "ts2")), **configured)


def test_a_place_is_taken_when_it_is_chosen() -> None:
    """A burst of logins sees what the others have reserved, and spreads."""
    scene = DispatchFixture("ts1", "ts2")
    assert ["ts1", "ts2", "ts1", "ts2"] == [chosen(scene.come()) for _ in range(4)]
    assert (2, 2) == (scene.load("ts1"), scene.load("ts2"))


def test_who_finds_no_place_waits_and_is_served_first_come_first_served() -> None:
    """A freed place goes to the first in the line, and to nobody else."""
    scene = small("ts1")
    session = scene.login()
    first, second = scene.come(), scene.come()
    assert [Enqueue(None), Enqueue(None)] == [first.wanted, second.wanted]
    assert 2 == scene.dispatcher.queues.length(SERVICE)
    scene.close(session)
    assert (1, 0) == (len(first.granted), len(second.granted))
    scene.wake(first)
    assert "ts1" == chosen(first)
    scene.give_back(first)
    scene.wake(second)
    assert "ts1" == chosen(second)
    assert 0 == scene.dispatcher.queues.length(SERVICE)


def test_a_granted_place_is_reserved_at_once() -> None:
    """Between the grant and its taking, nobody who comes by gets the place."""
    scene = small("ts1")
    session = scene.login()
    waiting = scene.come()
    scene.close(session)
    assert Enqueue(None) == scene.come().wanted
    scene.wake(waiting)
    assert 1 == scene.load("ts1")


def test_a_user_waits_for_the_server_with_the_desktop() -> None:
    """Another server's place is not what a returning user waits for; others take it."""
    scene = pair()
    scene.login(ALICE)
    scene.login()
    alice, other = scene.come(key=ALICE), scene.come()
    assert (Enqueue(sid("ts1")), Enqueue(None)) == (alice.wanted, other.wanted)
    assert (1, 0) == tuple(scene.dispatcher.queues.length(SERVICE, sid(name)) for name in ("ts1", "ts2"))
    scene.close("s2")
    assert (0, 1) == (len(alice.granted), len(other.granted))
    scene.close("s1")
    scene.wake_all([alice, other])
    assert (Reason.COOKIE, "ts1") == (alice.go and alice.go.reason, chosen(alice))
    assert "ts2" == chosen(other)


def test_a_token_waits_for_its_server() -> None:
    """The broker has said which server; its user is served there and nowhere else, and binds no key."""
    ts1 = real_server("ts1", max_connections=1)
    scene = DispatchFixture(ts1, "ts2")
    session = scene.login(token=ts1.address)
    caller = scene.come(token=ts1.address, key=ALICE)
    assert Enqueue(sid("ts1")) == caller.wanted
    scene.close(session)
    scene.wake(caller)
    assert caller.go is not None
    assert (Reason.TOKEN, False) == (caller.go.reason, caller.go.binds)
    assert scene.binding(ALICE) is None


def test_a_waiter_claims_its_key_with_the_place() -> None:
    """Those of one user who come after it follow it."""
    scene = pair()
    sessions = [scene.login(), scene.login()]
    caller = scene.come(key=ALICE)
    scene.close(sessions[1])
    scene.wake(caller)
    assert (Reason.SCHEDULED, "ts2") == (caller.go and caller.go.reason, chosen(caller))
    assert Enqueue(sid("ts2")) == scene.come(key=ALICE).wanted


def test_a_source_key_that_was_bound_meanwhile_says_so() -> None:
    """The reason tells by which method the user came back, after waiting too."""
    home = Key(Method.SOURCE_IP, "192.0.2.1")
    scene = small("ts1")
    session = scene.login(home)
    caller = scene.come(key=home)
    scene.close(session)
    scene.wake(caller)
    assert Reason.SOURCE_IP == (caller.go and caller.go.reason)


def test_a_place_elsewhere_is_given_back_when_the_key_was_bound_meanwhile() -> None:
    """Two connections of one user wait for any place: the second waits on, for the first one's server."""
    scene = pair()
    sessions = [scene.login(), scene.login()]
    first, second, other = scene.come(key=ALICE), scene.come(key=ALICE), scene.come()
    scene.close(sessions[0])
    scene.close(sessions[1])
    scene.wake(first)
    scene.wake(second)
    assert ("ts1", Enqueue(sid("ts1"))) == (chosen(first), second.wanted)
    scene.wake_all([other])
    assert "ts2" == chosen(other)


@pytest.mark.parametrize("wait_when_full", [True, False])
def test_two_who_cannot_have_their_own_server_do_not_pass_a_place_round(*, wait_when_full: bool) -> None:
    """A place elsewhere is kept by whoever gets it, or two users would hand it to each other for ever."""
    servers = [real_server("ts1", max_connections=2), real_server("ts2", max_connections=1)]
    scene = DispatchFixture(*servers, persistence=policy(wait_when_full=wait_when_full))
    for key in (ALICE, BERT):
        scene.dispatcher.bindings.of(SERVICE).move(key, "ts1", now=0, ttl_s=None)
        scene.login(key)
    session = scene.login()
    excluded = frozenset([sid("ts1")]) if wait_when_full else frozenset()
    callers = [scene.come(key=key, excluded=excluded) for key in (ALICE, BERT)]
    assert [Enqueue(None), Enqueue(None)] == [caller.wanted for caller in callers]
    scene.close(session)
    scene.wake_all(callers)
    assert ["ts2", None] == [chosen(caller) for caller in callers]
    assert Reason.REDISPATCH == (callers[0].go and callers[0].go.reason)


def test_with_redispatch_a_place_at_home_is_preferred() -> None:
    """It came free while another server's was being granted."""
    scene = pair(persistence=policy(wait_when_full=False))
    home, away = scene.login(ALICE), scene.login()
    alice = scene.come(key=ALICE)
    assert Enqueue(None) == alice.wanted
    scene.close(away)
    scene.close(home)
    scene.wake(alice)
    assert ("ts1", 0) == (chosen(alice), scene.load("ts2"))


def test_a_server_that_failed_the_connection_does_not_serve_its_wait() -> None:
    """Its place goes to others; it would fail again, in a circle."""
    scene = pair()
    session = scene.login()
    caller = scene.come()
    assert "ts2" == chosen(caller)
    scene.fail(caller)
    scene.come(caller)
    assert Enqueue(None) == caller.wanted
    taken = scene.login()
    scene.close(taken)
    assert [] == caller.granted
    scene.close(session)
    scene.wake(caller)
    assert ("ts1", Reason.REDISPATCH) == (chosen(caller), caller.go and caller.go.reason)


def test_a_backup_server_serves_those_who_wait_only_as_the_last_resort() -> None:
    """Its free places stay free while an ordinary server is usable, and are used when none is."""
    scene = DispatchFixture(
        real_server("ts1", max_connections=1), real_server("sorry", max_connections=1, backup=True)
    )
    scene.login()
    caller = scene.come()
    assert Enqueue(None) == caller.wanted
    scene.status("ts1", health=Health.DOWN)
    scene.wake_all([caller])
    assert ("sorry", Reason.BACKUP) == (chosen(caller), caller.go and caller.go.reason)


def test_leaving_the_queue_gives_up_the_turn() -> None:
    """Twice is as good as once, and a place goes to the next."""
    scene = small("ts1")
    session = scene.login()
    first, second = scene.come(), scene.come()
    assert first.waiter is not None
    scene.dispatcher.queues.leave(SERVICE, first.waiter)
    scene.dispatcher.queues.leave(SERVICE, first.waiter)
    scene.close(session)
    assert ([], 1) == (first.granted, len(second.granted))


def test_one_who_looks_again_keeps_the_turn() -> None:
    """The ticket outlives a look at a changed farm."""
    scene = pair()
    scene.login(ALICE)
    scene.login()
    alice, other = scene.come(key=ALICE), scene.come()
    scene.status("ts1", health=Health.DOWN)
    assert [None] == alice.granted
    scene.wake(alice)
    assert Enqueue(None) == alice.wanted
    scene.close("s2")
    assert (1, 0) == (len(alice.granted), len(other.granted))


# ---- the farm changes ------------------------------------------------------------------------------


def places(count: int) -> ServerStatus:
    """Return the status of a server whose agent allows so many sessions."""
    return server_status(agent={"max_connections": count})


def test_new_places_go_to_those_who_wait() -> None:
    """The agent allows more, a server comes online, a reload raises the limit."""
    scene = small("ts1")
    scene.login()
    callers = [scene.come() for _ in range(4)]
    scene.status("ts1", places(2))
    scene.wake_all(callers)
    assert ["ts1", None, None, None] == [chosen(caller) for caller in callers]
    scene.configure(real_server("ts1", max_connections=2), "ts2")
    scene.wake_all(callers)
    assert ["ts1", "ts2", "ts2", "ts2"] == [chosen(caller) for caller in callers]


def test_a_status_that_says_nothing_new_wakes_nobody() -> None:
    """An agent repeats itself every two seconds; thousands who wait need not look at that."""
    scene = small("ts1")
    scene.login()
    caller = scene.come()
    scene.status("ts1", agent={"percent": 50, "heard_at": 12.0})
    scene.dispatcher.servers.set(sid("ts1"), server_status(reason="in words"), now=scene.now)
    assert [] == caller.granted


def test_who_waits_in_vain_is_told_to_look_again() -> None:
    """The last usable server goes: those who wait hear it at once, not after the queue's timeout."""
    scene = small("ts1")
    scene.login()
    caller = scene.come()
    scene.status("ts1", intent=Intent.HALT)
    assert [None] == caller.granted
    assert Reject("all-draining-or-halted") == scene.decide(caller)


def test_a_strict_drain_sends_bound_users_who_wait_elsewhere() -> None:
    """And a plain one keeps them waiting for their desktop."""
    scene = DispatchFixture(real_server("ts1", max_connections=1), "ts2")
    scene.login(ALICE)
    caller = scene.come(key=ALICE)
    scene.status("ts1", intent=Intent.DRAIN)
    assert [] == caller.granted
    scene.status("ts1", intent=Intent.DRAIN, strict=True)
    scene.wake(caller)
    assert "ts2" == chosen(caller)


def test_places_of_a_draining_server_are_for_its_own_users() -> None:
    """A place that comes free there is not given to a new one."""
    scene = pair()
    session = scene.login()
    scene.login()
    caller = scene.come()
    scene.status("ts1", intent=Intent.DRAIN)
    scene.close(session)
    assert [] == caller.granted


def test_a_removed_server_is_forgotten() -> None:
    """Its status, its credit in round robin, its waiters; its sessions go on and are counted."""
    scene = DispatchFixture(real_server("ts1", max_connections=1), "ts2", scheduler="weighted-round-robin")
    scene.dispatcher.bindings.of(SERVICE).move(ALICE, "ts1", now=0, ttl_s=None)
    session = scene.login()
    caller = scene.come(key=ALICE)
    assert Enqueue(sid("ts1")) == caller.wanted
    scene.configure("ts3", scheduler="weighted-round-robin")
    assert {sid("ts3")} == set(scene.dispatcher.servers.statuses)
    scene.wake(caller)
    assert "ts3" == chosen(caller)
    scene.close(session)
    assert 0 == scene.load("ts1")
    # ts1 had paid for its session; were that remembered, ts2 would have the first turn now.
    scene.configure("ts1", "ts2", scheduler="weighted-round-robin")
    assert "ts1" == chosen(scene.come())


def test_a_place_granted_on_a_server_that_a_reload_removed_is_given_back() -> None:
    """The grant and the reload fell into the same moment."""
    scene = small("ts1")
    session = scene.login()
    caller = scene.come()
    scene.close(session)
    scene.configure("ts2")
    scene.wake(caller)
    assert "ts2" == chosen(caller)
    assert 0 == scene.load("ts1")


def test_a_removed_service_sends_its_waiters_away() -> None:
    """They are told at once, and leaving a line that is gone is nothing; so is a place that comes free."""
    scene = small("ts1")
    session = scene.login()
    callers = [scene.come(), scene.come()]
    scene.apply()
    assert [[None], [None]] == [caller.granted for caller in callers]
    assert scene.current(callers[0]) is None
    assert callers[1].waiter is not None
    scene.dispatcher.queues.leave(SERVICE, callers[1].waiter)
    scene.close(session)
    assert 0 == scene.load("ts1")


def test_who_waits_again_when_a_service_is_back_takes_nobody_s_place_in_the_line() -> None:
    """Tickets are never given twice: of two with the same one, one would wait for ever."""
    scene = small("ts1")
    session = scene.login()
    service = scene.service
    early = scene.come()
    scene.apply()
    scene.apply(service)
    scene.status("ts1")
    late = scene.come()
    scene.wake(early)
    assert 2 == scene.dispatcher.queues.length(SERVICE)
    scene.close(session)
    assert ([True], []) == ([slot is not None for slot in early.granted], late.granted)


def test_a_place_granted_just_before_its_service_went_is_given_back() -> None:
    """The ledger ends empty whatever the order."""
    scene = small("ts1")
    session = scene.login()
    caller = scene.come()
    scene.close(session)
    scene.apply()
    scene.wake(caller)
    assert (None, None) == (caller.go, caller.wanted)
    assert (0, 0) == (scene.load("ts1"), scene.dispatcher.ledger.reserved)


def test_a_connection_that_waited_over_a_reload_is_decided_by_the_new_farm() -> None:
    """It still holds the service as it was; neither its own nor later decisions go by that."""
    scene = small("ts1")
    scene.login()
    caller = scene.come()
    old = caller.service
    scene.configure(real_server("ts1", max_connections=1), real_server("ts3", max_connections=2))
    scene.wake(caller)
    assert old is caller.service
    assert "ts3" == chosen(caller)
    assert "ts3" == chosen(scene.come())
    assert Enqueue(None) == scene.come().wanted


def test_services_do_not_share_places_or_names() -> None:
    """Two services may have a server of the same name: they are two servers."""
    scene = DispatchFixture()
    one = virtual_service(real_server("ts1", max_connections=1))
    other_id = sid("ts1")._replace(service="other")
    other = virtual_service(real_server("ts1", id=other_id, max_connections=1), name="other")
    scene.apply(one, other)
    for server in (sid("ts1"), other_id):
        scene.dispatcher.servers.set(server, server_status(), now=0)
    assert "ts1" == chosen(scene.come(Caller(service=one)))
    assert Enqueue(None) == scene.come(Caller(service=one)).wanted
    assert "ts1" == chosen(scene.come(Caller(service=other)))


def test_slow_start_is_seen_in_every_decision() -> None:
    """The weight rises between decisions, without any other change of the farm."""
    scene = DispatchFixture("ts1", "ts2", slow_start_s=100.0)
    scene.status("ts2", server_status(ramp_from_at=0.0))

    def weights() -> list[float]:
        return [view.weight for view in scene.dispatcher.servers.views(scene.service, now=scene.now)]

    assert [100, 1] == weights()
    scene.now = 50.0
    assert [100, 50] == weights()
