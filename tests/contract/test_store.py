"""Every sentence of the Store protocol, on every store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer.core.persistence import Binding
from rdpbalancer.model import Key, Method
from tests.contract.homes import DatabaseHome, Home, MemoryHome

ANNA = Key(Method.RDP_COOKIE, "anna")
BERT = Key(Method.RDP_COOKIE, "bert")
CORA = Key(Method.RDP_COOKIE, "cora")
OFFICE = Key(Method.SOURCE_IP, "192.0.2.7")

HOLD_S = 15.0
TTL_S = 3600.0


@pytest.fixture(params=["memory", "durable", "durable and reopened"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    home: Home = (
        MemoryHome()
        if request.param == "memory"
        else DatabaseHome(tmp_path / "state.db", reopens="reopened" in request.param)
    )
    yield home
    home.close()


# ---- get -------------------------------------------------------------------------------------------


def test_get_gives_nothing_for_an_unknown_key(home: Home) -> None:
    """A key that nobody has bound has no binding."""
    assert None is home.store().get(ANNA, now=0)


def test_get_gives_a_tentative_binding(home: Home) -> None:
    """A claim is seen by others, as tentative and with its end."""
    store = home.store()
    store.claim(ANNA, "ts1", now=10, hold_s=HOLD_S)
    assert Binding(ANNA, "ts1", confirmed=False, expires_at=25) == store.get(ANNA, now=10)


def test_get_gives_a_confirmed_binding(home: Home) -> None:
    """A confirmed binding is seen as such, also by the next process."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=10)
    store = home.settle(store, now=11)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=11)


def test_get_hides_what_has_expired_before_expire_has_run(home: Home) -> None:
    """A binding's last moment is the one before its end, whoever sweeps when."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=15)
    store.move(BERT, "ts2", now=0, ttl_s=20)
    assert store.get(ANNA, now=14.5) is not None
    assert None is store.get(ANNA, now=15)
    store = home.settle(store, now=16)
    assert store.get(BERT, now=19.5) is not None
    assert None is store.get(BERT, now=20)


def test_methods_do_not_share_bindings(home: Home) -> None:
    """The same value under another method is another key."""
    store = home.store()
    store.confirm(Key(Method.RDP_COOKIE, "192.0.2.7"), "ts1", now=0)
    store = home.settle(store, now=1)
    assert None is store.get(OFFICE, now=1)


# ---- claim -----------------------------------------------------------------------------------------


def test_claim_binds_for_the_hold_time_only(home: Home) -> None:
    """A claim that nobody confirms ends by itself, and the key is free again."""
    store = home.store()
    assert "ts1" == store.claim(ANNA, "ts1", now=0, hold_s=15)
    assert "ts1" == store.claim(ANNA, "ts2", now=14.9, hold_s=15)
    assert "ts2" == store.claim(ANNA, "ts2", now=15, hold_s=15)


def test_of_two_simultaneous_claims_the_first_wins(home: Home) -> None:
    """Two first connections of one user reach one server."""
    store = home.store()
    assert ["ts1", "ts1"] == [store.claim(ANNA, name, now=0, hold_s=HOLD_S) for name in ("ts1", "ts2")]


def test_a_confirmed_binding_wins_over_a_claim(home: Home) -> None:
    """A bound user is not claimed away, whether the session lives or has ended."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.move(BERT, "ts1", now=0, ttl_s=TTL_S)
    store = home.settle(store, now=1)
    for key in (ANNA, BERT):
        assert "ts1" == store.claim(key, "ts2", now=1, hold_s=HOLD_S)
        assert "ts1" == store.claim(key, "ts2", now=1, hold_s=HOLD_S, replacing="ts3")


def test_claiming_what_is_confirmed_leaves_it_confirmed(home: Home) -> None:
    """A returning user's claim adds nothing, and its release takes nothing away."""
    store = home.store()
    store.move(ANNA, "ts1", now=0, ttl_s=TTL_S)
    store = home.settle(store, now=1)
    assert "ts1" == store.claim(ANNA, "ts1", now=1, hold_s=HOLD_S)
    store.release(ANNA, "ts1", now=1)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=TTL_S) == store.get(ANNA, now=1)


@pytest.mark.parametrize("pinned", [True, False])
def test_a_replaced_binding_comes_back_when_the_claim_is_released(home: Home, *, pinned: bool) -> None:
    """Nothing is lost by an attempt elsewhere that fails."""
    store = home.store()
    store.move(ANNA, "ts1", now=0, ttl_s=None if pinned else TTL_S)
    store = home.settle(store, now=1)
    before = store.get(ANNA, now=1)
    assert "ts2" == store.claim(ANNA, "ts2", now=1, hold_s=HOLD_S, replacing="ts1")
    assert Binding(ANNA, "ts2", confirmed=False, expires_at=16) == store.get(ANNA, now=1)
    store.release(ANNA, "ts2", now=2)
    assert before is not None
    assert before == store.get(ANNA, now=2)


def test_a_replaced_binding_comes_back_when_the_claim_runs_out(home: Home) -> None:
    """The same without a release, even through a restart: claims do not outlive a process."""
    store = home.store()
    store.move(ANNA, "ts1", now=0, ttl_s=TTL_S)
    store.claim(ANNA, "ts2", now=1, hold_s=HOLD_S, replacing="ts1")
    store = home.settle(store, now=16)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=TTL_S) == store.get(ANNA, now=16)


def test_a_replaced_binding_still_ends_at_its_time(home: Home) -> None:
    """Lying under a claim does not lengthen a binding's life."""
    store = home.store()
    store.move(ANNA, "ts1", now=0, ttl_s=5)
    store.claim(ANNA, "ts2", now=1, hold_s=HOLD_S, replacing="ts1")
    store.release(ANNA, "ts2", now=5)
    assert None is store.get(ANNA, now=5)


def test_a_replaced_claim_does_not_come_back(home: Home) -> None:
    """Only what was confirmed is a fallback; a claim whose server proved unusable is gone."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    assert "ts2" == store.claim(ANNA, "ts2", now=0, hold_s=HOLD_S, replacing="ts1")
    store.release(ANNA, "ts2", now=0)
    assert None is store.get(ANNA, now=0)


def test_replacing_names_the_holder_not_what_lies_beneath(home: Home) -> None:
    """Of two connections that leave one dead server, the second follows the first."""
    store = home.store()
    store.confirm(ANNA, "dead", now=0)
    assert "ts2" == store.claim(ANNA, "ts2", now=0, hold_s=HOLD_S, replacing="dead")
    assert "ts2" == store.claim(ANNA, "ts3", now=0, hold_s=HOLD_S, replacing="dead")


def test_claiming_back_what_lies_beneath_ends_the_claim_over_it(home: Home) -> None:
    """A connection that finds the replacement unusable may return to the confirmed server."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts2", now=0, hold_s=HOLD_S, replacing="ts1")
    assert "ts1" == store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S, replacing="ts2")
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=0)


def test_a_second_claim_of_the_same_server_holds_on_longer(home: Home) -> None:
    """A shared claim lives as long as the most patient connection needs."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=15)
    store.claim(ANNA, "ts1", now=10, hold_s=15)
    store.claim(ANNA, "ts1", now=11, hold_s=1)
    assert Binding(ANNA, "ts1", confirmed=False, expires_at=25) == store.get(ANNA, now=24)


def test_tentative_claims_push_no_binding_out(home: Home) -> None:
    """Strangers who never get a Connection Confirm cost nobody a desktop."""
    store = home.store(max_entries=2, max_tentative=3)
    store.move(ANNA, "ts1", now=0, ttl_s=TTL_S)
    store.move(BERT, "ts2", now=0, ttl_s=TTL_S)
    for number in range(50):
        store.claim(Key(Method.RDP_COOKIE, f"stranger{number}"), "ts3", now=1, hold_s=HOLD_S)
    store = home.settle(store, now=2)
    assert {ANNA: "ts1", BERT: "ts2"} == {b.key: b.server for b in store.entries(now=2) if b.confirmed}
    assert 0 == store.evictions


def test_of_too_many_claims_the_oldest_is_dropped(home: Home) -> None:
    """Claims are bounded in number; one that was renewed is not old."""
    store = home.store(max_tentative=2)
    for key in (ANNA, BERT, ANNA, CORA):
        store.claim(key, "ts1", now=0, hold_s=HOLD_S)
    assert {ANNA, CORA} == {binding.key for binding in store.entries(now=0)}


# ---- confirm ---------------------------------------------------------------------------------------


def test_confirm_pins_until_touch(home: Home) -> None:
    """A live session keeps its binding however long it lasts."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.confirm(ANNA, "ts1", now=5)
    store = home.settle(store, now=6)
    assert 0 == store.expire(now=1e9)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=1e9)


def test_other_servers_claims_lose_to_confirm(home: Home) -> None:
    """Whoever is answered first has the key; the other's claim is void and its release harmless."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts2", now=0, hold_s=HOLD_S, replacing="ts1")
    store.confirm(ANNA, "ts1", now=1)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=1)
    store.release(ANNA, "ts2", now=1)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=1)


def test_confirm_makes_a_replacement_final(home: Home) -> None:
    """What was replaced does not come back once the new server has answered."""
    store = home.store()
    store.move(ANNA, "ts1", now=0, ttl_s=TTL_S)
    store.claim(ANNA, "ts2", now=0, hold_s=HOLD_S, replacing="ts1")
    store.confirm(ANNA, "ts2", now=1)
    store.release(ANNA, "ts2", now=1)
    store = home.settle(store, now=2)
    assert Binding(ANNA, "ts2", confirmed=True, expires_at=None) == store.get(ANNA, now=2)
    assert 1 == store.counts()[Method.RDP_COOKIE]


def test_confirm_without_a_claim_binds(home: Home) -> None:
    """The session exists, though its claim ran out or was dropped."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=1)
    store.confirm(ANNA, "ts1", now=30)
    store = home.settle(store, now=31)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=31)


def test_the_newest_confirm_wins(home: Home) -> None:
    """Of two servers that both have a session of the user, the newest one's is where the user is."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store = home.settle(store, now=1)
    store.confirm(ANNA, "ts2", now=2)
    store = home.settle(store, now=3)
    assert Binding(ANNA, "ts2", confirmed=True, expires_at=None) == store.get(ANNA, now=3)


# ---- release ---------------------------------------------------------------------------------------


def test_release_frees_the_key(home: Home) -> None:
    """After a failed attempt the user may be sent anywhere."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.release(ANNA, "ts1", now=1)
    assert "ts2" == store.claim(ANNA, "ts2", now=1, hold_s=HOLD_S)


def test_release_of_another_server_does_nothing(home: Home) -> None:
    """Only one's own claim can be taken back."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.release(ANNA, "ts2", now=0)
    store.release(BERT, "ts1", now=0)
    assert Binding(ANNA, "ts1", confirmed=False, expires_at=15) == store.get(ANNA, now=0)


def test_release_leaves_other_connections_their_share(home: Home) -> None:
    """One user's failed attempt does not free the key under another attempt with the same server."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.release(ANNA, "ts1", now=1)
    assert "ts1" == store.claim(ANNA, "ts2", now=1, hold_s=HOLD_S)
    store.release(ANNA, "ts1", now=1)
    assert None is store.get(ANNA, now=1)


def test_release_never_takes_a_confirmed_binding(home: Home) -> None:
    """A failed second connection does not unbind the first one's session."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.confirm(ANNA, "ts1", now=1)
    store = home.settle(store, now=2)
    store.release(ANNA, "ts1", now=2)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.get(ANNA, now=2)


# ---- touch -----------------------------------------------------------------------------------------


def test_touch_starts_the_time_to_live(home: Home) -> None:
    """The timeout counts from the end of the last session."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.touch(ANNA, now=7200, ttl_s=TTL_S)
    store = home.settle(store, now=7201)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=10800) == store.get(ANNA, now=10799)
    assert None is store.get(ANNA, now=10800)


def test_touch_again_counts_from_now(home: Home) -> None:
    """A later end of a session renews, and a shorter time to live shortens."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.touch(ANNA, now=0, ttl_s=100)
    store = home.settle(store, now=50)
    store.touch(ANNA, now=50, ttl_s=100)
    store = home.settle(store, now=60)
    assert 0 == store.expire(now=149)
    store.touch(ANNA, now=149, ttl_s=10)
    store = home.settle(store, now=158)
    assert store.get(ANNA, now=158) is not None
    assert 1 == store.expire(now=159)


def test_touch_of_an_unknown_key_does_nothing(home: Home) -> None:
    """A session whose binding was deleted, or never was, brings none into being."""
    store = home.store()
    store.touch(ANNA, now=0, ttl_s=TTL_S)
    store.claim(BERT, "ts1", now=0, hold_s=HOLD_S)
    store.touch(BERT, now=0, ttl_s=TTL_S)
    assert None is store.get(ANNA, now=0)
    assert Binding(BERT, "ts1", confirmed=False, expires_at=15) == store.get(BERT, now=0)
    store.release(BERT, "ts1", now=0)
    assert None is store.get(BERT, now=0)


def test_touch_does_not_revive_an_expired_binding(home: Home) -> None:
    """A binding that has expired is gone, swept or not."""
    store = home.store()
    store.move(ANNA, "ts1", now=0, ttl_s=10)
    store.touch(ANNA, now=10, ttl_s=TTL_S)
    assert None is store.get(ANNA, now=10)


def test_touch_under_a_claim_reaches_the_confirmed_binding(home: Home) -> None:
    """The session that ends is the confirmed server's; the claim over it is untouched."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts2", now=1, hold_s=HOLD_S, replacing="ts1")
    store.touch(ANNA, now=2, ttl_s=100)
    assert Binding(ANNA, "ts2", confirmed=False, expires_at=16) == store.get(ANNA, now=2)
    store.release(ANNA, "ts2", now=3)
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=102) == store.get(ANNA, now=3)


# ---- move and delete -------------------------------------------------------------------------------


@pytest.mark.parametrize(("ttl_s", "expires_at"), [(None, None), (100.0, 101.0)])
def test_move_binds_whatever_held_the_key(home: Home, ttl_s: float | None, expires_at: float | None) -> None:
    """The operator's word goes before claims, sessions and idle bindings."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.confirm(BERT, "ts1", now=0)
    store.move(CORA, "ts1", now=0, ttl_s=5)
    store = home.settle(store, now=1)
    for key in (ANNA, BERT, CORA, OFFICE):
        store.move(key, "ts9", now=1, ttl_s=ttl_s)
    store = home.settle(store, now=1)
    for key in (ANNA, BERT, CORA, OFFICE):
        assert Binding(key, "ts9", confirmed=True, expires_at=expires_at) == store.get(key, now=1)


def test_delete_forgets_everything_about_the_key(home: Home) -> None:
    """Neither claim nor binding is left, and it is said whether there was one."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts2", now=0, hold_s=HOLD_S, replacing="ts1")
    store.claim(BERT, "ts1", now=0, hold_s=HOLD_S)
    assert [True, True, False] == [store.delete(key) for key in (ANNA, BERT, CORA)]
    assert [False, False] == [store.delete(key) for key in (ANNA, BERT)]
    store = home.settle(store, now=1)
    assert [] == list(store.entries(now=1))
    assert {0} == set(store.counts().values())


def test_what_was_deleted_after_it_was_stored_stays_deleted(home: Home) -> None:
    """A restart brings nothing back."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store = home.settle(store, now=1)
    assert store.delete(ANNA)
    store = home.settle(store, now=2)
    assert None is store.get(ANNA, now=2)


# ---- expire ----------------------------------------------------------------------------------------


def test_expire_counts_the_confirmed_bindings_it_drops(home: Home) -> None:
    """Claims that run out are dropped, but not counted; pinned bindings stay."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=1)
    store.move(BERT, "ts1", now=0, ttl_s=10)
    store.move(CORA, "ts1", now=0, ttl_s=20)
    store.confirm(OFFICE, "ts1", now=0)
    store = home.settle(store, now=1)
    assert [0, 1, 0, 1] == [store.expire(now=now) for now in (9, 10, 11, 500)]
    assert {Method.ROUTING_TOKEN: 0, Method.RDP_COOKIE: 0, Method.SOURCE_IP: 1} == store.counts()


# ---- bounds ----------------------------------------------------------------------------------------


def test_the_least_recently_used_idle_binding_gives_way(home: Home) -> None:
    """Whose session ended longest ago is the one to lose the binding; it is counted."""
    store = home.store(max_entries=2)
    store.move(ANNA, "ts1", now=0, ttl_s=TTL_S)
    store.move(BERT, "ts1", now=1, ttl_s=TTL_S)
    store.touch(ANNA, now=2, ttl_s=TTL_S)
    store = home.settle(store, now=3)
    store.confirm(CORA, "ts1", now=3)
    store = home.settle(store, now=4)
    assert {ANNA, CORA} == {binding.key for binding in store.entries(now=4)}


def test_evictions_are_counted(home: Home) -> None:
    """`evictions` counts what gave way, not what expired or was deleted."""
    store = home.store(max_entries=1)
    assert 0 == store.evictions
    store.move(ANNA, "ts1", now=0, ttl_s=TTL_S)
    store.move(BERT, "ts1", now=0, ttl_s=10)
    assert 1 == store.evictions
    store.move(CORA, "ts1", now=10, ttl_s=10)  # BERT's has just expired: nobody gives way
    assert store.delete(CORA)
    assert 1 == store.evictions
    assert 1 == store.expire(now=10)


def test_reading_and_claiming_do_not_count_as_use(home: Home) -> None:
    """A stranger with somebody's name cannot change who gives way."""
    store = home.store(max_entries=2)
    store.move(ANNA, "ts1", now=0, ttl_s=TTL_S)
    store.move(BERT, "ts1", now=1, ttl_s=TTL_S)
    store = home.settle(store, now=2)
    store.get(ANNA, now=2)
    store.claim(ANNA, "ts1", now=2, hold_s=HOLD_S)
    store.move(CORA, "ts1", now=2, ttl_s=TTL_S)
    assert None is store.get(ANNA, now=2)


def test_pinned_bindings_never_give_way(home: Home) -> None:
    """With live sessions only, the table exceeds its bound, and shrinks as they end."""
    store = home.store(max_entries=2)
    for key in (ANNA, BERT, CORA):
        store.confirm(key, "ts1", now=0)
    store = home.settle(store, now=1)
    assert {ANNA, BERT, CORA} == {binding.key for binding in store.entries(now=1)}
    assert 0 == store.evictions
    store.touch(BERT, now=2, ttl_s=TTL_S)
    assert {ANNA, CORA} == {binding.key for binding in store.entries(now=2)}
    assert 1 == store.evictions


def test_resize_acts_at_once(home: Home) -> None:
    """A smaller bound sends the least recently used away; a larger one makes room."""
    store = home.store(max_entries=3)
    for at, key in enumerate((ANNA, BERT, CORA)):
        store.move(key, "ts1", now=at, ttl_s=TTL_S)
    store.resize(1)
    assert {CORA} == {binding.key for binding in store.entries(now=3)}
    assert 2 == store.evictions
    store.resize(2)
    store.move(ANNA, "ts1", now=4, ttl_s=TTL_S)
    assert {ANNA, CORA} == {binding.key for binding in store.entries(now=4)}


# ---- entries and counts ----------------------------------------------------------------------------


def test_entries_yields_every_living_binding_once(home: Home) -> None:
    """For each key what `get` says, nothing that has expired, and one key never twice."""
    store = home.store()
    store.confirm(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts2", now=0, hold_s=HOLD_S, replacing="ts1")
    store.claim(BERT, "ts1", now=0, hold_s=1)
    store.move(CORA, "ts1", now=0, ttl_s=2)
    store.confirm(OFFICE, "ts3", now=0)
    assert [(ANNA, "ts2"), (OFFICE, "ts3")] == sorted((b.key, b.server) for b in store.entries(now=5))


def test_the_store_may_be_changed_while_its_entries_are_read(home: Home) -> None:
    """Un-pinning what has no live session is one loop."""
    store = home.store()
    for key in (ANNA, BERT, CORA):
        store.confirm(key, "ts1", now=0)
    store = home.settle(store, now=1)
    for binding in store.entries(now=1):
        store.touch(binding.key, now=1, ttl_s=10)
    assert 3 == store.expire(now=11)


def test_counts_are_of_confirmed_bindings_by_method(home: Home) -> None:
    """Claims do not count; a method without bindings counts nothing, and says so."""
    store = home.store()
    store.claim(ANNA, "ts1", now=0, hold_s=HOLD_S)
    store.confirm(BERT, "ts1", now=0)
    store.move(CORA, "ts1", now=0, ttl_s=TTL_S)
    store.confirm(OFFICE, "ts1", now=0)
    store = home.settle(store, now=1)
    assert {Method.ROUTING_TOKEN: 0, Method.RDP_COOKIE: 2, Method.SOURCE_IP: 1} == store.counts()
