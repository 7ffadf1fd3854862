"""Keys and their servers over a connection's life: claimed, confirmed, pinned, aged, taken back."""

from dataclasses import replace

import pytest

from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import VirtualService
from rdpbalancer.core.persistence import Binding, Store
from rdpbalancer.core.route import Route
from rdpbalancer.model import Health, Intent, Key, Method, Mode, Reason
from rdpbalancer.stores.memory import MemoryStore
from tests.unit.core.farms import ALICE, SERVICE, Dice, facts, real_server, sid, virtual_service
from tests.unit.dispatch.scene import TTL_S, Caller, Scene, chosen, policy

HOME = Key(Method.SOURCE_IP, "192.0.2.1")


def bound(server: str, *, expires_at: float | None = None) -> Binding:
    """Return a confirmed binding of Alice's."""
    return Binding(ALICE, server, confirmed=True, expires_at=expires_at)


def test_simultaneous_first_connections_of_one_user_get_one_server() -> None:
    """The first claims the key before it dials; all that come meanwhile follow it."""
    scene = Scene("ts1", "ts2", "ts3")
    callers = [scene.come(key=ALICE) for _ in range(5)]
    assert {chosen(callers[0])} == {chosen(caller) for caller in callers}
    reasons = [caller.go.reason for caller in callers if caller.go]
    assert [Reason.SCHEDULED, *[Reason.COOKIE] * 4] == reasons


def test_a_session_pins_its_binding_and_its_end_starts_the_time() -> None:
    """A live session keeps its binding however long it lasts; the timeout counts from its end."""
    scene = Scene("ts1", "ts2", persistence=policy())
    session = scene.login(ALICE)
    scene.now = 100 * TTL_S
    assert bound("ts1") == scene.binding(ALICE)
    scene.close(session)
    assert bound("ts1", expires_at=101 * TTL_S) == scene.binding(ALICE)
    scene.now = 101 * TTL_S
    assert scene.binding(ALICE) is None


def test_the_last_of_several_sessions_starts_the_time() -> None:
    """As long as one session of the key lives, its binding does."""
    scene = Scene("ts1", persistence=policy())
    first, second = scene.login(ALICE), scene.login(ALICE)
    scene.close(first)
    assert bound("ts1") == scene.binding(ALICE)
    scene.now = 10.0
    scene.close(second)
    assert bound("ts1", expires_at=10 + TTL_S) == scene.binding(ALICE)


def test_a_confirmed_connection_keeps_the_binding_for_its_session() -> None:
    """The old session may end between the new one's confirm and its hand-over; the binding stays pinned."""
    scene = Scene("ts1", persistence=policy())
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
    scene = Scene("ts1", persistence=policy())
    caller = scene.come(key=ALICE)
    scene.confirm(caller)
    scene.give_back(caller)
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_the_last_user_of_a_binding_starts_its_time_whoever_it_is() -> None:
    """A session ends while another attempt is under way, which then fails: the time starts with that."""
    scene = Scene("ts1", persistence=policy())
    session = scene.login(ALICE)
    caller = scene.come(key=ALICE)
    scene.close(session)
    scene.now = 5.0
    scene.fail(caller)
    assert bound("ts1", expires_at=5 + TTL_S) == scene.binding(ALICE)


def test_failed_attempts_do_not_renew_a_binding() -> None:
    """The time counts from the end of the last session, not from a stranger's attempts with the name."""
    scene = Scene("ts1", persistence=policy())
    scene.close(scene.login(ALICE))
    scene.now = TTL_S / 2
    scene.fail(scene.come(key=ALICE))
    scene.give_back(scene.come(key=ALICE))
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_a_failed_first_connection_leaves_nothing() -> None:
    """A claim without a Connection Confirm is taken back, and the key is free."""
    scene = Scene("ts1")
    scene.give_back(scene.come(key=ALICE))
    assert scene.binding(ALICE) is None


def test_every_failed_connection_takes_back_its_own_share_of_the_claim() -> None:
    """One of two fails: the other's claim holds. Both fail: the key is free at once."""
    scene = Scene("ts1", "ts2")
    first, second = scene.come(key=ALICE), scene.come(key=ALICE)
    scene.give_back(first)
    assert Binding(ALICE, "ts1", confirmed=False, expires_at=15) == scene.binding(ALICE)
    scene.give_back(second)
    assert scene.binding(ALICE) is None


def test_giving_back_twice_does_nothing() -> None:
    """A connection that fails while it is being cancelled frees one place, not two."""
    scene = Scene("ts1")
    lease = scene.come(key=ALICE).lease
    scene.come(key=ALICE)
    assert lease is not None
    scene.dispatcher.give_back(lease, now=0)
    scene.dispatcher.give_back(lease, now=0)
    assert 1 == scene.load("ts1")


def test_a_user_whose_server_went_down_is_bound_anew() -> None:
    """The key goes to the server that gets the session, for good: the old one's return changes nothing."""
    scene = Scene("ts1", "ts2")
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
    scene = Scene("ts1", "ts2", persistence=policy())
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
    scene = Scene("ts1", persistence=policy())
    caller = scene.come(key=ALICE)
    assert caller.lease is not None
    scene.dispatcher.disclaim(caller.lease, now=0)
    assert scene.binding(ALICE) is None
    session = scene.open(caller)
    assert 1 == scene.load("ts1")
    scene.close(session)
    assert scene.binding(ALICE) is None


def test_an_answer_that_is_no_confirm_does_not_keep_a_binding_pinned() -> None:
    """The session before it has ended meanwhile: the binding's time starts."""
    scene = Scene("ts1", persistence=policy())
    session, caller = scene.login(ALICE), scene.come(key=ALICE)
    scene.close(session)
    assert caller.lease is not None
    scene.dispatcher.disclaim(caller.lease, now=0)
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_a_connection_without_a_key_confirms_and_disclaims_nothing() -> None:
    """`methods: []`, or a client that gives none."""
    scene = Scene("ts1")
    confirmed, disclaimed = scene.come(), scene.come()
    scene.confirm(confirmed)
    assert disclaimed.lease is not None
    scene.dispatcher.disclaim(disclaimed.lease, now=0)
    scene.close(scene.open(confirmed))
    scene.close(scene.open(disclaimed))
    assert [] == list(scene.dispatcher.bindings(SERVICE).entries(now=0))


def test_a_token_creates_and_renews_no_binding() -> None:
    """A connection placed by a routing token leaves the user's cookie binding alone."""
    ts1 = real_server("ts1")
    scene = Scene(ts1, "ts2", persistence=policy())
    caller = scene.come(key=ALICE, token=ts1.address)
    assert Route(sid("ts1"), Reason.TOKEN) == caller.go
    scene.confirm(caller)
    scene.close(scene.open(caller))
    assert scene.binding(ALICE) is None


def test_draining_keeps_its_users_and_strict_draining_does_not() -> None:
    """Users return to their desktops while a server drains, unless it drains strictly."""
    scene = Scene("ts1", "ts2")
    scene.close(scene.login(ALICE))
    scene.status("ts1", intent=Intent.DRAIN)
    kept = scene.come(key=ALICE)
    assert Route(sid("ts1"), Reason.COOKIE, binds=True) == kept.go
    scene.give_back(kept)
    scene.status("ts1", intent=Intent.DRAIN, strict=True)
    assert "ts2" == chosen(scene.come(key=ALICE))


def test_a_source_binding_says_so() -> None:
    """The record tells by which method a user came back."""
    scene = Scene("ts1")
    scene.close(scene.login(HOME))
    assert Route(sid("ts1"), Reason.SOURCE_IP, binds=True) == scene.come(key=HOME).go


def test_ending_an_unknown_session_is_nothing() -> None:
    """A session may end before this router learns of it."""
    assert Scene("ts1").dispatcher.close("never", now=0) is None


# ---- collisions ------------------------------------------------------------------------------------


def test_a_cookie_from_too_many_addresses_collides() -> None:
    """Nine characters of a long domain are everybody's: it shows as many sources at once."""
    scene = Scene("ts1", persistence=policy(collision_sources=2))
    assert not scene.dispatcher.collides(scene.service, ALICE)
    sessions = [scene.login(ALICE, source=f"192.0.2.{n}") for n in (1, 2, 3)]
    assert scene.dispatcher.collides(scene.service, ALICE)
    assert not scene.dispatcher.collides(scene.service, HOME)
    scene.close(sessions[0])
    assert not scene.dispatcher.collides(scene.service, ALICE)


def test_with_next_method_a_colliding_cookie_is_passed_over() -> None:
    """New connections use the next method, and the key that was passed over is told."""
    methods = (Method.RDP_COOKIE, Method.SOURCE_IP)
    scene = Scene("ts1", persistence=policy(methods=methods, collision_sources=1, collision_next_method=True))
    sessions = [scene.login(ALICE, source=f"192.0.2.{n}") for n in (1, 2)]
    derived = scene.dispatcher.derive(scene.service, cookie="Alice", source="192.0.2.1")
    assert (HOME, (ALICE,)) == (derived.key, derived.collided)
    scene.close(sessions[0])
    assert ALICE == scene.dispatcher.derive(scene.service, cookie="Alice", source="192.0.2.1").key


def test_an_address_with_too_many_sessions_collides() -> None:
    """A gateway sends everybody from one address: more sessions at once than one person has."""
    scene = Scene("ts1", persistence=policy(collision_sources=2))
    sessions = [scene.login(HOME) for _ in range(2)]
    scene.come(key=HOME)  # not a session yet
    assert not scene.dispatcher.collides(scene.service, HOME)
    sessions.append(scene.login(HOME))
    assert scene.dispatcher.collides(scene.service, HOME)
    assert not scene.dispatcher.collides(replace(scene.service, mode=Mode.TCP), HOME)
    assert HOME == scene.dispatcher.derive(scene.service, cookie=None, source="192.0.2.1").key
    scene.close(sessions[0])
    assert not scene.dispatcher.collides(scene.service, HOME)


def test_with_next_method_a_colliding_address_is_no_key() -> None:
    """People behind a gateway are placed one by one, instead of all on one server."""
    scene = Scene("ts1", persistence=policy(collision_sources=1, collision_next_method=True))
    for _ in range(2):
        scene.login(HOME)
    derived = scene.dispatcher.derive(scene.service, cookie=None, source="192.0.2.1")
    assert (None, (HOME,)) == (derived.key, derived.collided)


def test_a_collision_is_told_once_for_each_time_it_happens() -> None:
    """One warning per key, and again after all its sessions had ended."""
    scene = Scene("ts1")
    session = scene.login(ALICE)
    first = scene.dispatcher.first_collision
    assert [True, False, True] == [first(SERVICE, key) for key in (ALICE, ALICE, HOME)]
    scene.close(session)
    assert [True, False] == [first(SERVICE, key) for key in (ALICE, HOME)]
    scene.configure("ts1")
    assert [True, False] == [first(SERVICE, HOME) for _ in range(2)], "a reload did not help"


def test_what_was_told_is_bounded() -> None:
    """Strangers can invent names; beyond ten thousand of them, warnings may repeat."""
    scene = Scene("ts1")
    names = [Key(Method.RDP_COOKIE, str(number)) for number in range(10_000)]
    assert all(scene.dispatcher.first_collision(SERVICE, name) for name in names)
    assert not scene.dispatcher.first_collision(SERVICE, names[0])
    assert scene.dispatcher.first_collision(SERVICE, ALICE)
    assert scene.dispatcher.first_collision(SERVICE, names[0])


# ---- restarts and reloads --------------------------------------------------------------------------


def test_a_restored_session_pins_its_binding() -> None:
    """After a restart the relays tell who lives; bindings of others begin to age."""
    bert = Key(Method.RDP_COOKIE, "bert")
    scene = Scene("ts1", "ts2", persistence=policy())
    for key in (ALICE, bert):
        scene.dispatcher.bindings(SERVICE).move(key, "ts1", now=0, ttl_s=None)
    session = scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, place="place", now=0)
    assert (7, "place") == (session.relay, session.place)
    scene.dispatcher.unpin_unused(SERVICE)
    assert not scene.dispatcher.unpin_some(now=1)
    assert bound("ts1") == scene.binding(ALICE)
    assert Binding(bert, "ts1", confirmed=True, expires_at=1 + TTL_S) == scene.binding(bert)
    assert 1 == scene.load("ts1")
    scene.close("old")
    assert 0 == scene.load("ts1")


def test_many_bindings_begin_to_age_a_slice_at_a_time() -> None:
    """A relay with thousands of sessions was lost: the loop is not held up for all of them at once."""
    scene = Scene("ts1", persistence=policy())
    keys = [Key(Method.RDP_COOKIE, f"user{number}") for number in range(1200)]
    for key in keys:
        scene.dispatcher.bindings(SERVICE).move(key, "ts1", now=0, ttl_s=None)
    scene.dispatcher.unpin_unused(SERVICE)
    left = []
    while scene.dispatcher.unpin_some(now=1):
        left.append(len(scene.dispatcher.bindings(SERVICE).pinned_keys()))
    assert [700, 200] == left
    assert not scene.dispatcher.bindings(SERVICE).pinned_keys()


def test_a_restored_session_without_a_binding_makes_one() -> None:
    """The state file was lost; the sessions know where their users are."""
    scene = Scene("ts1")
    scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, place=None, now=0)
    assert bound("ts1") == scene.binding(ALICE)


def test_a_restored_session_does_not_overrule_a_newer_binding() -> None:
    """The user has a newer session elsewhere, or the operator has moved the key."""
    scene = Scene("ts1", "ts2")
    scene.dispatcher.bindings(SERVICE).move(ALICE, "ts2", now=0, ttl_s=None)
    scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, place=None, now=0)
    scene.dispatcher.unpin_unused(SERVICE)
    assert not scene.dispatcher.unpin_some(now=1)
    assert bound("ts2") == scene.binding(ALICE)


def test_sessions_without_a_key_or_a_service_are_restored_too() -> None:
    """A reload may have removed the service; its sessions live on and are counted."""
    scene = Scene("ts1")
    scene.dispatcher.restore(facts("plain", "ts1"), relay=7, place=None, now=0)
    scene.apply()
    scene.dispatcher.restore(facts("orphan", "ts1", key=ALICE), relay=7, place=None, now=0)
    assert 2 == scene.load("ts1")
    scene.close("plain")
    scene.close("orphan")
    assert 0 == scene.load("ts1")


def test_a_connection_may_outlive_its_service() -> None:
    """A reload removes the service between dial and confirm: its verbs still work."""
    scene = Scene("ts1")
    failed, confirmed, disclaimed = (scene.come(key=ALICE) for _ in range(3))
    scene.apply()
    scene.give_back(failed)
    scene.confirm(confirmed)
    assert disclaimed.lease is not None
    scene.dispatcher.disclaim(disclaimed.lease, now=0)
    scene.close(scene.open(confirmed))
    scene.close(scene.open(disclaimed))
    assert (0, 0) == (scene.load("ts1"), scene.dispatcher.ledger.leases)


def test_a_service_that_comes_back_finds_its_bindings_ageing() -> None:
    """Sessions that ended while it was away un-pinned nothing; the live ones still pin theirs."""
    bert = Key(Method.RDP_COOKIE, "bert")
    scene = Scene("ts1", persistence=policy())
    service = scene.service
    gone, _stays = scene.login(ALICE), scene.login(bert)
    scene.apply()
    scene.close(gone)
    scene.now = 10.0
    scene.apply(service)
    assert bound("ts1", expires_at=10 + TTL_S) == scene.binding(ALICE)
    assert Binding(bert, "ts1", confirmed=True, expires_at=None) == scene.binding(bert)


def _replaced(scene: Scene) -> tuple[Caller, Caller]:
    """Have Alice come twice: to ts1, and to ts2 in its stead because ts1 is down by then."""
    first = scene.come(key=ALICE)
    scene.status("ts1", health=Health.DOWN)
    second = scene.come(key=ALICE)
    assert ("ts1", "ts2") == (chosen(first), chosen(second))
    return first, second


def test_a_login_that_outlives_its_service_is_bound() -> None:
    """The server confirms while it is away, and the session begins when it is back."""
    scene = Scene("ts1", "ts2", persistence=policy())
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
    scene = Scene("ts1", "ts2", persistence=policy())
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
    scene = Scene("ts1", "ts2", persistence=policy())
    service = scene.service
    session = scene.login(ALICE)
    scene.status("ts1", health=Health.DOWN)
    second = scene.come(key=ALICE)
    assert "ts2" == chosen(second)
    scene.apply()
    scene.close(session)
    scene.fail(second)
    scene.apply(service)
    assert bound("ts1", expires_at=TTL_S) == scene.dispatcher.bindings(SERVICE).confirmed(ALICE)


def test_a_restored_session_is_bound_although_its_user_comes_again() -> None:
    """A slow relay tells of it late. The new connection may fail; the desktop is there."""
    scene = Scene("ts1", "ts2")
    scene.status("ts1", health=Health.DOWN)
    caller = scene.come(key=ALICE)
    assert "ts2" == chosen(caller)
    scene.dispatcher.restore(facts("old", "ts1", key=ALICE), relay=7, place=None, now=0)
    scene.fail(caller)
    assert bound("ts1") == scene.binding(ALICE)


def test_a_reload_changes_the_bound_of_a_store_at_once() -> None:
    """`max_entries` is taken from the new configuration."""
    scene = Scene("ts1")
    for name in ("a", "b", "c"):
        scene.close(scene.login(Key(Method.RDP_COOKIE, name)))
    scene.configure("ts1", persistence=policy(max_entries=1))
    assert (1, 2) == (
        len(list(scene.dispatcher.bindings(SERVICE).entries(now=0))),
        scene.dispatcher.bindings(SERVICE).evictions,
    )


def test_an_end_that_was_never_begun_makes_its_binding() -> None:
    """The session ended with the router before this one, younger than the last write: it ages from now."""
    scene = Scene("ts1", "ts2", persistence=policy())
    scene.dispatcher.recall(facts("old", "ts1", key=ALICE), now=0)
    assert bound("ts1", expires_at=TTL_S) == scene.binding(ALICE)


def test_an_end_that_was_never_begun_changes_no_binding_there_is() -> None:
    """Nor does it make one without a key or a service."""
    scene = Scene("ts1", "ts2", persistence=policy())
    scene.dispatcher.bindings(SERVICE).move(ALICE, "ts2", now=0, ttl_s=10)
    scene.now = 5.0
    scene.dispatcher.recall(facts("old", "ts1", key=ALICE), now=5)
    scene.dispatcher.recall(facts("plain", "ts1"), now=5)
    assert bound("ts2", expires_at=10) == scene.binding(ALICE)
    assert 1 == len(list(scene.dispatcher.bindings(SERVICE).entries(now=5)))
    scene.apply()
    scene.dispatcher.recall(facts("gone", "ts1", key=ALICE), now=5)


def test_an_end_that_was_never_begun_leaves_a_live_users_binding_pinned() -> None:
    """Its last session is another one."""
    scene = Scene("ts1", persistence=policy())
    scene.login(ALICE)
    scene.dispatcher.bindings(SERVICE).delete(ALICE)
    scene.dispatcher.recall(facts("old", "ts1", key=ALICE), now=0)
    assert bound("ts1") == scene.binding(ALICE)


# ---- one source's share of the table ---------------------------------------------------------------


def test_a_source_that_has_had_its_share_is_served_without_a_binding() -> None:
    """A stranger with a new name each time pushes out nobody; its claims leave nothing either."""
    scene = Scene("ts1", persistence=policy(max_entries=16))
    stranger = [Key(Method.RDP_COOKIE, str(number)) for number in range(20)]
    callers = [scene.come(key=key, source="192.0.2.66") for key in stranger]
    leases = [caller.lease for caller in callers if caller.lease is not None]
    made = [scene.dispatcher.confirm(lease, now=0) for lease in leases]
    assert [True] * 10 + [False] * 10 == made  # the free half, and an eighth of the table
    assert 10 == len(list(scene.dispatcher.bindings(SERVICE).entries(now=0)))
    for session in [scene.open(caller) for caller in callers]:
        scene.close(session)
    assert (0, 0) == (scene.load("ts1"), scene.dispatcher.bindings(SERVICE).evictions)
    other = scene.come(key=ALICE, source="192.0.2.1")
    assert other.lease is not None
    assert scene.dispatcher.confirm(other.lease, now=0)


def test_a_bound_user_needs_no_share_to_come_back() -> None:
    """What is there already is renewed, however many others the source has brought."""
    scene = Scene("ts1", persistence=policy(max_entries=2))
    for key in (ALICE, HOME):
        scene.close(scene.login(key))
    again = scene.come(key=ALICE)
    assert again.lease is not None
    assert scene.dispatcher.confirm(again.lease, now=0)
    assert bound("ts1") == scene.binding(ALICE)


# ---- a store that others use too -------------------------------------------------------------------


class _Shared(MemoryStore):
    """A store in which somebody else claims a key between the question and the claim."""

    rival: str | None = None

    def claim(self, key: Key, server: str, *, now: float, hold_s: float, replacing: str | None = None) -> str:
        """Let the rival claim first."""
        if self.rival is not None:
            super().claim(key, self.rival, now=now, hold_s=hold_s)
            self.rival = None
        return super().claim(key, server, now=now, hold_s=hold_s, replacing=replacing)


def test_a_key_claimed_elsewhere_meanwhile_is_decided_again() -> None:
    """Another balancer was faster: the place is given back, and the next decision follows it."""
    store = _Shared()

    def opened(_: VirtualService) -> Store:
        return store

    scene = Scene("ts1", "ts2")
    scene.dispatcher = Dispatcher(open_store=opened, rng=Dice(0.5))
    scene.apply(virtual_service(real_server("ts1"), real_server("ts2")))
    scene.status("ts1")
    scene.status("ts2")
    store.rival = "ts2"
    caller = scene.come(key=ALICE)
    assert caller.lease is None
    assert 0 == scene.load("ts1")
    assert "ts2" == chosen(scene.come(caller))
    assert 1 == scene.load("ts2")
