"""Keys and their servers over a connection's life: claimed, confirmed, pinned, aged, taken back."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from rdpbalancer.core.agreement import Answer
from rdpbalancer.core.dispatch import Dispatcher, Placed
from rdpbalancer.core.persistence import Binding
from rdpbalancer.core.route import Route
from rdpbalancer.model import Health, Intent, Key, Method, Mode, Reason, ServerId
from tests.unit.core.dispatch_fixture import TTL_S, Caller, DispatchFixture, chosen, policy
from tests.unit.core.farms import ALICE, SERVICE, Dice, facts, real_server, sid, virtual_service

HOME = Key(Method.SOURCE_IP, "192.0.2.1")


def bound(server: str, *, expires_at: float | None = None) -> Binding:
    """Return a confirmed binding of Alice's."""
    return Binding(ALICE, server, confirmed=True, expires_at=expires_at)


def test_simultaneous_first_connections_of_one_user_get_one_server() -> None:
    """The first claims the key before it dials; all that come meanwhile follow it."""
    scene = DispatchFixture("ts1", "ts2", "ts3")
    callers = [scene.come(key=ALICE) for _ in range(5)]
    assert {chosen(callers[0])} == {chosen(caller) for caller in callers}
    reasons = [caller.go.reason for caller in callers if caller.go]
    assert [Reason.SCHEDULED, *[Reason.COOKIE] * 4] == reasons


def test_a_session_pins_its_binding_and_its_end_starts_the_time() -> None:
    """A live session keeps its binding however long it lasts; the timeout counts from its end."""
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    session = scene.login(ALICE)
    scene.now = 100 * TTL_S
    assert bound("ts1") == scene.binding(ALICE)
    scene.close(session)
    assert bound("ts1", expires_at=101 * TTL_S) == scene.binding(ALICE)
    scene.now = 101 * TTL_S
    assert scene.binding(ALICE) is None


def test_the_last_of_several_sessions_starts_the_time() -> None:
    """As long as one session of the key lives, its binding does."""
    scene = DispatchFixture("ts1", persistence=policy())
    first, second = scene.login(ALICE), scene.login(ALICE)
    scene.close(first)
    assert bound("ts1") == scene.binding(ALICE)
    scene.now = 10.0
    scene.close(second)
    assert bound("ts1", expires_at=10 + TTL_S) == scene.binding(ALICE)


def test_a_confirmed_connection_keeps_the_binding_for_its_session() -> None:
    """The old session may end between the new one's confirm and its hand-over; the binding stays pinned."""
    scene = DispatchFixture("ts1", persistence=policy())
    first = scene.login(ALICE)
    caller = scene.come(key=ALICE)
    scene.confirm(caller)
    scene.close(first)
    assert bound("ts1") == scene.binding(ALICE)
    second = scene.open(caller)
    scene.now = 2 * TTL_S
    assert bound("ts1") == scene.binding(ALICE)
    scene.close(second)
    assert bound("ts1", expires_at=3 * TTL_S) == scene.binding(ALICE)


def test_a_confirmed_connection_that_no_relay_takes_pins_nothing() -> None:
    """Its desktop exists, so it stays bound; but the time starts, for nobody else will start it."""
    scene = DispatchFixture("ts1", persistence=policy())
    caller = scene.come(key=ALICE)
    scene.confirm(caller)
    scene.give_back(caller)
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_the_last_user_of_a_binding_starts_its_time_whoever_it_is() -> None:
    """A session ends while another attempt is under way, which then fails: the time starts with that."""
    scene = DispatchFixture("ts1", persistence=policy())
    session = scene.login(ALICE)
    caller = scene.come(key=ALICE)
    scene.close(session)
    scene.now = 5.0
    scene.fail(caller)
    assert bound("ts1", expires_at=5 + TTL_S) == scene.binding(ALICE)


def test_failed_attempts_do_not_renew_a_binding() -> None:
    """The time counts from the end of the last session, not from a stranger's attempts with the name."""
    scene = DispatchFixture("ts1", persistence=policy())
    scene.close(scene.login(ALICE))
    scene.now = TTL_S / 2
    scene.fail(scene.come(key=ALICE))
    scene.give_back(scene.come(key=ALICE))
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_a_failed_first_connection_leaves_nothing() -> None:
    """A claim without a Connection Confirm is taken back, and the key is free."""
    scene = DispatchFixture("ts1")
    scene.give_back(scene.come(key=ALICE))
    assert scene.binding(ALICE) is None


def test_every_failed_connection_takes_back_its_own_share_of_the_claim() -> None:
    """One of two fails: the other's claim holds. Both fail: the key is free at once."""
    scene = DispatchFixture("ts1", "ts2")
    first, second = scene.come(key=ALICE), scene.come(key=ALICE)
    scene.give_back(first)
    assert Binding(ALICE, "ts1", confirmed=False, expires_at=15) == scene.binding(ALICE)
    scene.give_back(second)
    assert scene.binding(ALICE) is None


def test_giving_back_twice_does_nothing() -> None:
    """A connection that fails while it is being cancelled frees one place, not two."""
    scene = DispatchFixture("ts1")
    slot = scene.come(key=ALICE).slot
    scene.come(key=ALICE)
    assert slot is not None
    scene.dispatcher.release(slot, now=0)
    scene.dispatcher.release(slot, now=0)
    assert 1 == scene.load("ts1")


def test_a_user_whose_server_went_down_is_bound_anew() -> None:
    """The key goes to the server that gets the session, for good: the old one's return changes nothing."""
    scene = DispatchFixture("ts1", "ts2")
    scene.close(scene.login(ALICE))
    scene.status("ts1", health=Health.DOWN)
    caller = scene.come(key=ALICE)
    assert Route(sid("ts2"), Reason.REDISPATCH, binds=True, replacing="ts1") == caller.go
    scene.confirm(caller)
    scene.open(caller)
    scene.status("ts1")
    assert "ts2" == chosen(scene.come(key=ALICE))
    assert bound("ts2") == scene.binding(ALICE)


@pytest.mark.parametrize("live", [False, True], ids=["idle", "live"])
def test_a_failed_claim_over_a_binding_restores_it(*, live: bool) -> None:
    """An attempt elsewhere that fails costs nobody a desktop, also while a session of the key lives."""
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    session = scene.login(ALICE)
    if not live:
        scene.close(session)
    before = scene.binding(ALICE)
    scene.status("ts1", health=Health.DOWN)
    caller = scene.come(key=ALICE)
    assert Binding(ALICE, "ts2", confirmed=False, expires_at=15) == scene.binding(ALICE)
    scene.fail(caller)
    assert before == scene.binding(ALICE)


def test_an_answer_that_is_no_confirm_binds_nobody() -> None:
    """A negotiation failure is passed on and keeps its place, but the user has no desktop there."""
    scene = DispatchFixture("ts1", persistence=policy())
    caller = scene.come(key=ALICE)
    assert caller.slot is not None
    scene.dispatcher.bindings.drop_claim(caller.slot, now=0)
    assert scene.binding(ALICE) is None
    session = scene.open(caller)
    assert 1 == scene.load("ts1")
    scene.close(session)
    assert scene.binding(ALICE) is None


def test_an_answer_that_is_no_confirm_does_not_keep_a_binding_pinned() -> None:
    """The session before it has ended meanwhile: the binding's time starts."""
    scene = DispatchFixture("ts1", persistence=policy())
    session, caller = scene.login(ALICE), scene.come(key=ALICE)
    scene.close(session)
    assert caller.slot is not None
    scene.dispatcher.bindings.drop_claim(caller.slot, now=0)
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_a_connection_without_a_key_confirms_and_disclaims_nothing() -> None:
    """`methods: []`, or a client that gives none."""
    scene = DispatchFixture("ts1")
    confirmed, dropped = scene.come(), scene.come()
    scene.confirm(confirmed)
    assert dropped.slot is not None
    scene.dispatcher.bindings.drop_claim(dropped.slot, now=0)
    scene.close(scene.open(confirmed))
    scene.close(scene.open(dropped))
    assert [] == list(scene.dispatcher.bindings.of(SERVICE).entries(now=0))


def test_a_token_creates_and_renews_no_binding() -> None:
    """A connection placed by a routing token leaves the user's cookie binding alone."""
    ts1 = real_server("ts1")
    scene = DispatchFixture(ts1, "ts2", persistence=policy())
    caller = scene.come(key=ALICE, token=ts1.address)
    assert Route(sid("ts1"), Reason.TOKEN) == caller.go
    scene.confirm(caller)
    scene.close(scene.open(caller))
    assert scene.binding(ALICE) is None


def test_draining_keeps_its_users_and_strict_draining_does_not() -> None:
    """Users return to their desktops while a server drains, unless it drains strictly."""
    scene = DispatchFixture("ts1", "ts2")
    scene.close(scene.login(ALICE))
    scene.status("ts1", intent=Intent.DRAIN)
    kept = scene.come(key=ALICE)
    assert Route(sid("ts1"), Reason.COOKIE, binds=True) == kept.go
    scene.give_back(kept)
    scene.status("ts1", intent=Intent.DRAIN, strict=True)
    assert "ts2" == chosen(scene.come(key=ALICE))


def test_a_source_binding_says_so() -> None:
    """The record tells by which method a user came back."""
    scene = DispatchFixture("ts1")
    scene.close(scene.login(HOME))
    assert Route(sid("ts1"), Reason.SOURCE_IP, binds=True) == scene.come(key=HOME).go


def test_ending_an_unknown_session_is_nothing() -> None:
    """A session may end before this router learns of it."""
    assert DispatchFixture("ts1").dispatcher.close("never", now=0) is None


# ---- collisions ------------------------------------------------------------------------------------


def test_a_cookie_from_too_many_addresses_collides() -> None:
    """Nine characters of a long domain are everybody's: it shows as many sources at once."""
    scene = DispatchFixture("ts1", persistence=policy(collision_sources=2))
    assert not scene.dispatcher.bindings.collides(scene.service, ALICE)
    sessions = [scene.login(ALICE, source=f"192.0.2.{n}") for n in (1, 2, 3)]
    assert scene.dispatcher.bindings.collides(scene.service, ALICE)
    assert not scene.dispatcher.bindings.collides(scene.service, HOME)
    scene.close(sessions[0])
    assert not scene.dispatcher.bindings.collides(scene.service, ALICE)


def test_with_next_method_a_colliding_cookie_is_passed_over() -> None:
    """New connections use the next method, and the key that was passed over is told."""
    methods = (Method.RDP_COOKIE, Method.SOURCE_IP)
    scene = DispatchFixture(
        "ts1", persistence=policy(methods=methods, collision_sources=1, collision_next_method=True)
    )
    sessions = [scene.login(ALICE, source=f"192.0.2.{n}") for n in (1, 2)]
    derived = scene.dispatcher.bindings.derive(scene.service, cookie="Alice", source="192.0.2.1")
    assert (HOME, (ALICE,)) == (derived.key, derived.colliding_keys)
    scene.close(sessions[0])
    assert ALICE == scene.dispatcher.bindings.derive(scene.service, cookie="Alice", source="192.0.2.1").key


def test_an_address_with_too_many_sessions_collides() -> None:
    """A gateway sends everybody from one address: more sessions at once than one person has."""
    scene = DispatchFixture("ts1", persistence=policy(collision_sources=2))
    sessions = [scene.login(HOME) for _ in range(2)]
    scene.come(key=HOME)  # not a session yet
    assert not scene.dispatcher.bindings.collides(scene.service, HOME)
    sessions.append(scene.login(HOME))
    assert scene.dispatcher.bindings.collides(scene.service, HOME)
    assert not scene.dispatcher.bindings.collides(replace(scene.service, mode=Mode.TCP), HOME)
    assert HOME == scene.dispatcher.bindings.derive(scene.service, cookie=None, source="192.0.2.1").key
    scene.close(sessions[0])
    assert not scene.dispatcher.bindings.collides(scene.service, HOME)


def test_with_next_method_a_colliding_address_is_no_key() -> None:
    """People behind a gateway are placed one by one, instead of all on one server."""
    scene = DispatchFixture("ts1", persistence=policy(collision_sources=1, collision_next_method=True))
    for _ in range(2):
        scene.login(HOME)
    derived = scene.dispatcher.bindings.derive(scene.service, cookie=None, source="192.0.2.1")
    assert (None, (HOME,)) == (derived.key, derived.colliding_keys)


def test_a_collision_is_told_once_for_each_time_it_happens() -> None:
    """One warning per key, and again after all its sessions had ended."""
    scene = DispatchFixture("ts1")
    session = scene.login(ALICE)
    first = scene.dispatcher.bindings.first_collision
    assert [True, False, True] == [first(SERVICE, key) for key in (ALICE, ALICE, HOME)]
    scene.close(session)
    assert [True, False] == [first(SERVICE, key) for key in (ALICE, HOME)]
    scene.configure("ts1")
    assert [True, False] == [first(SERVICE, HOME) for _ in range(2)], "a reload did not help"


def test_what_was_told_is_bounded() -> None:
    """Strangers can invent names; beyond ten thousand of them, warnings may repeat."""
    scene = DispatchFixture("ts1")
    names = [Key(Method.RDP_COOKIE, str(number)) for number in range(10_000)]
    assert all(scene.dispatcher.bindings.first_collision(SERVICE, name) for name in names)
    assert not scene.dispatcher.bindings.first_collision(SERVICE, names[0])
    assert scene.dispatcher.bindings.first_collision(SERVICE, ALICE)
    assert scene.dispatcher.bindings.first_collision(SERVICE, names[0])


# ---- restarts and reloads --------------------------------------------------------------------------


def test_a_restored_session_pins_its_binding() -> None:
    """After a restart the relays tell who lives; bindings of others begin to age."""
    bert = Key(Method.RDP_COOKIE, "bert")
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    for key in (ALICE, bert):
        scene.dispatcher.bindings.of(SERVICE).move(key, "ts1", now=0, ttl_s=None)
    session = scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, admission_slot="place", now=0)
    assert (7, "place") == (session.relay, session.admission_slot)
    scene.dispatcher.bindings.unpin_unused(SERVICE)
    assert not scene.dispatcher.bindings.unpin_some(now=1)
    assert bound("ts1") == scene.binding(ALICE)
    assert Binding(bert, "ts1", confirmed=True, expires_at=1 + TTL_S) == scene.binding(bert)
    assert 1 == scene.load("ts1")
    scene.close("old")
    assert 0 == scene.load("ts1")


def test_many_bindings_begin_to_age_a_slice_at_a_time() -> None:
    """A relay with thousands of sessions was lost: the loop is not held up for all of them at once."""
    scene = DispatchFixture("ts1", persistence=policy())
    keys = [Key(Method.RDP_COOKIE, f"user{number}") for number in range(1200)]
    for key in keys:
        scene.dispatcher.bindings.of(SERVICE).move(key, "ts1", now=0, ttl_s=None)
    scene.dispatcher.bindings.unpin_unused(SERVICE)
    left = []
    while scene.dispatcher.bindings.unpin_some(now=1):
        left.append(len(scene.dispatcher.bindings.of(SERVICE).pinned_keys()))
    assert [700, 200] == left
    assert not scene.dispatcher.bindings.of(SERVICE).pinned_keys()


def test_a_restored_session_without_a_binding_makes_one() -> None:
    """The state file was lost; the sessions know where their users are."""
    scene = DispatchFixture("ts1")
    scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, admission_slot=None, now=0)
    assert bound("ts1") == scene.binding(ALICE)


def test_a_restored_session_does_not_overrule_a_newer_binding() -> None:
    """The user has a newer session elsewhere, or the operator has moved the key."""
    scene = DispatchFixture("ts1", "ts2")
    scene.dispatcher.bindings.of(SERVICE).move(ALICE, "ts2", now=0, ttl_s=None)
    scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, admission_slot=None, now=0)
    scene.dispatcher.bindings.unpin_unused(SERVICE)
    assert not scene.dispatcher.bindings.unpin_some(now=1)
    assert bound("ts2") == scene.binding(ALICE)


def test_sessions_without_a_key_or_a_service_are_restored_too() -> None:
    """A reload may have removed the service; its sessions live on and are counted."""
    scene = DispatchFixture("ts1")
    scene.dispatcher.restore(facts("plain", "ts1"), relay=7, admission_slot=None, now=0)
    scene.apply()
    scene.dispatcher.restore(facts("orphan", "ts1", key=ALICE), relay=7, admission_slot=None, now=0)
    assert 2 == scene.load("ts1")
    scene.close("plain")
    scene.close("orphan")
    assert 0 == scene.load("ts1")


def test_a_connection_may_outlive_its_service() -> None:
    """A reload removes the service between dial and confirm: its verbs still work."""
    scene = DispatchFixture("ts1")
    failed, confirmed, dropped = (scene.come(key=ALICE) for _ in range(3))
    scene.apply()
    scene.give_back(failed)
    scene.confirm(confirmed)
    assert dropped.slot is not None
    scene.dispatcher.bindings.drop_claim(dropped.slot, now=0)
    scene.close(scene.open(confirmed))
    scene.close(scene.open(dropped))
    assert (0, 0) == (scene.load("ts1"), scene.dispatcher.ledger.reserved)


def test_a_service_that_comes_back_finds_its_bindings_ageing() -> None:
    """Sessions that ended while it was away un-pinned nothing; the live ones still pin theirs."""
    bert = Key(Method.RDP_COOKIE, "bert")
    scene = DispatchFixture("ts1", persistence=policy())
    service = scene.service
    gone, _stays = scene.login(ALICE), scene.login(bert)
    scene.apply()
    scene.close(gone)
    scene.now = 10.0
    scene.apply(service)
    assert bound("ts1", expires_at=10 + TTL_S) == scene.binding(ALICE)
    assert Binding(bert, "ts1", confirmed=True, expires_at=None) == scene.binding(bert)


def _replaced(scene: DispatchFixture) -> tuple[Caller, Caller]:
    """Have Alice come twice: to ts1, and to ts2 in its stead because ts1 is down by then."""
    first = scene.come(key=ALICE)
    scene.status("ts1", health=Health.DOWN)
    second = scene.come(key=ALICE)
    assert ("ts1", "ts2") == (chosen(first), chosen(second))
    return first, second


def test_a_login_that_outlives_its_service_is_bound() -> None:
    """The server confirms while it is away, and the session begins when it is back."""
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    service = scene.service
    caller = scene.come(key=ALICE)
    scene.apply()
    scene.confirm(caller)
    scene.apply(service)
    session = scene.open(caller)
    assert bound("ts1") == scene.binding(ALICE)
    scene.close(session)
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_a_claim_that_outlived_its_service_hides_no_session() -> None:
    """Who failed while the service was away could not give its claim back; the session there is counts."""
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    service = scene.service
    first, second = _replaced(scene)
    scene.apply()
    scene.confirm(first)
    scene.open(first)
    scene.fail(second)
    scene.apply(service)
    assert bound("ts1") == scene.binding(ALICE)


def test_a_claim_that_outlived_its_service_pins_nothing() -> None:
    """The session beneath it has ended meanwhile: its binding ages."""
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    service = scene.service
    session = scene.login(ALICE)
    scene.status("ts1", health=Health.DOWN)
    second = scene.come(key=ALICE)
    assert "ts2" == chosen(second)
    scene.apply()
    scene.close(session)
    scene.fail(second)
    scene.apply(service)
    assert bound("ts1", expires_at=TTL_S) == scene.dispatcher.bindings.of(SERVICE).confirmed(ALICE)


def test_a_restored_session_is_bound_although_its_user_comes_again() -> None:
    """A slow relay tells of it late. The new connection may fail; the desktop is there."""
    scene = DispatchFixture("ts1", "ts2")
    scene.status("ts1", health=Health.DOWN)
    caller = scene.come(key=ALICE)
    assert "ts2" == chosen(caller)
    scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, admission_slot=None, now=0)
    scene.fail(caller)
    assert bound("ts1") == scene.binding(ALICE)


def test_a_reload_changes_the_bound_of_a_store_at_once() -> None:
    """`max_entries` is taken from the new configuration."""
    scene = DispatchFixture("ts1")
    for name in ("a", "b", "c"):
        scene.close(scene.login(Key(Method.RDP_COOKIE, name)))
    scene.configure("ts1", persistence=policy(max_entries=1))
    assert (1, 2) == (
        len(list(scene.dispatcher.bindings.of(SERVICE).entries(now=0))),
        scene.dispatcher.bindings.of(SERVICE).evictions,
    )


def test_an_end_that_was_never_begun_makes_its_binding() -> None:
    """The session ended with the router before this one, younger than the last write: it ages from now."""
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    scene.dispatcher.record_unknown_end(facts("old", "ts1", key=ALICE), now=0)
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_an_end_that_was_never_begun_changes_no_binding_there_is() -> None:
    """Nor does it make one without a key or a service."""
    scene = DispatchFixture("ts1", "ts2", persistence=policy())
    scene.dispatcher.bindings.of(SERVICE).move(ALICE, "ts2", now=0, ttl_s=10)
    scene.now = 5.0
    scene.dispatcher.record_unknown_end(facts("old", "ts1", key=ALICE), now=5)
    scene.dispatcher.record_unknown_end(facts("plain", "ts1"), now=5)
    assert bound("ts2", expires_at=10) == scene.binding(ALICE)
    assert 1 == len(list(scene.dispatcher.bindings.of(SERVICE).entries(now=5)))
    scene.apply()
    scene.dispatcher.record_unknown_end(facts("gone", "ts1", key=ALICE), now=5)


def test_an_end_that_was_never_begun_leaves_a_live_users_binding_pinned() -> None:
    """Its last session is another one."""
    scene = DispatchFixture("ts1", persistence=policy())
    scene.login(ALICE)
    scene.dispatcher.bindings.of(SERVICE).delete(ALICE)
    scene.dispatcher.record_unknown_end(facts("old", "ts1", key=ALICE), now=0)
    assert bound("ts1") == scene.binding(ALICE)


# ---- one source's share of the table ---------------------------------------------------------------


def test_a_source_that_has_had_its_share_is_served_without_a_binding() -> None:
    """A stranger with a new name each time pushes out nobody; its claims leave nothing either."""
    scene = DispatchFixture("ts1", persistence=policy(max_entries=16))
    stranger = [Key(Method.RDP_COOKIE, str(number)) for number in range(20)]
    callers = [scene.come(key=key, source="192.0.2.66") for key in stranger]
    slots = [caller.slot for caller in callers if caller.slot is not None]
    made = [scene.dispatcher.bindings.confirm(slot, now=0) for slot in slots]
    assert [True] * 10 + [False] * 10 == made  # the free half, and an eighth of the table
    assert 10 == len(list(scene.dispatcher.bindings.of(SERVICE).entries(now=0)))
    for session in [scene.open(caller) for caller in callers]:
        scene.close(session)
    assert (0, 0) == (scene.load("ts1"), scene.dispatcher.bindings.of(SERVICE).evictions)
    other = scene.come(key=ALICE, source="192.0.2.1")
    assert other.slot is not None
    assert scene.dispatcher.bindings.confirm(other.slot, now=0)


def test_a_bound_user_needs_no_share_to_come_back() -> None:
    """What is there already is renewed, however many others the source has brought."""
    scene = DispatchFixture("ts1", persistence=policy(max_entries=2))
    for key in (ALICE, HOME):
        scene.close(scene.login(key))
    again = scene.come(key=ALICE)
    assert again.slot is not None
    assert scene.dispatcher.bindings.confirm(again.slot, now=0)
    assert bound("ts1") == scene.binding(ALICE)


# ---- several machines ------------------------------------------------------------------------------


class _Asked:
    """An agreement that notes what it is asked, and answers at once, or later."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.questions: list[tuple[str, Key, ServerId, str | None]] = []

    def ask(self, service: str, key: Key, server: ServerId, *, replacing: str | None) -> Answer | None:
        """Note the question."""
        self.questions.append((service, key, server, replacing))
        return self.answer


class _Late:
    """An answer that has not come."""

    done = agreed = False

    def add_callback(self, callback: Callable[[], None]) -> None:
        """Never come."""


def scene_agreeing_by(agreement: _Asked) -> DispatchFixture:
    """Return two servers whose dispatcher asks `agreement`."""
    scene = DispatchFixture("ts1", "ts2")
    scene.dispatcher = Dispatcher(open_store=scene.open_store, rng=Dice(0.5), agreement=agreement)
    scene.apply(virtual_service(real_server("ts1"), real_server("ts2")))
    for server in ("ts1", "ts2"):
        scene.status(server)
    return scene


def test_others_are_asked_once_for_a_key_that_is_claimed() -> None:
    """With the server that it was bound to, if that one cannot take it."""
    agreement = _Asked()
    scene = scene_agreeing_by(agreement)
    scene.login(ALICE)
    assert [(SERVICE, ALICE, sid("ts1"), None)] == agreement.questions
    scene.status("ts1", health=Health.DOWN)
    scene.come(key=ALICE)
    assert [(SERVICE, ALICE, sid("ts2"), "ts1")] == agreement.questions[1:]


def test_nobody_is_asked_for_a_connection_without_a_key() -> None:
    agreement = _Asked()
    scene_agreeing_by(agreement).come()
    assert [] == agreement.questions


def test_the_answer_comes_with_the_slot() -> None:
    """It may not be there yet: whoever waits for it holds the slot and the claim meanwhile."""
    answer = _Late()
    scene = scene_agreeing_by(_Asked(answer))
    placed = scene.place(Caller(key=ALICE))
    assert isinstance(placed, Placed)
    assert answer is placed.answer
    assert placed.slot.held


def test_one_machine_alone_waits_for_nobody() -> None:
    placed = DispatchFixture("ts1").place(Caller(key=ALICE))
    assert isinstance(placed, Placed)
    assert placed.answer is None
