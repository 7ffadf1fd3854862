"""What the memory store does beside the contract: it tells of its changes, and takes in an earlier run's."""

from rdpbalancer.core.persistence import Binding
from rdpbalancer.model import Key, Method
from rdpbalancer.stores.memory import SLICE, MemoryStore

ANNA = Key(Method.RDP_COOKIE, "anna")
BERT = Key(Method.RDP_COOKIE, "bert")
CORA = Key(Method.RDP_COOKIE, "cora")


def test_it_tells_of_every_change_to_a_confirmed_binding_and_of_nothing_else() -> None:
    """What is told is what the durable copy writes: no claim, no reading, no second login."""
    told: list[Key] = []
    store = MemoryStore(max_entries=2, on_change=told.append)

    def tells(*expected: Key) -> None:
        assert list(expected) == told
        told.clear()

    store.claim(ANNA, "ts1", now=0, hold_s=15)
    store.release(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts1", now=0, hold_s=15)
    store.delete(ANNA)
    store.delete(BERT)
    tells()
    store.confirm(ANNA, "ts1", now=0)
    tells(ANNA)
    store.confirm(ANNA, "ts1", now=1)
    store.get(ANNA, now=1)
    tells()
    store.touch(ANNA, now=2, ttl_s=10)
    tells(ANNA)
    store.move(BERT, "ts1", now=2, ttl_s=100)
    tells(BERT)
    store.expire(now=12)
    tells(ANNA)
    store.move(ANNA, "ts1", now=13, ttl_s=100)
    store.move(CORA, "ts1", now=14, ttl_s=100)
    tells(ANNA, CORA, BERT)
    store.resize(1)
    tells(ANNA)
    assert store.delete(CORA)
    tells(CORA)


def test_restoring_is_no_change_but_giving_way_is() -> None:
    """What was read need not be written; what no longer fits must go from the file too."""
    told: list[Key] = []
    store = MemoryStore(max_entries=2, on_change=told.append)
    for key, expires_at in ((ANNA, None), (CORA, 20), (BERT, 10)):
        store.restore(Binding(key, "ts1", confirmed=True, expires_at=expires_at))
    assert [BERT] == told
    assert {ANNA, CORA} == set(store.confirmed_keys())


def test_what_is_confirmed_is_seen_under_a_claim() -> None:
    """The durable copy keeps the confirmed binding whatever is claimed over it."""
    store = MemoryStore()
    store.confirm(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts2", now=0, hold_s=15, replacing="ts1")
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.confirmed(ANNA)
    assert None is store.confirmed(BERT)


def test_a_much_smaller_bound_is_reached_by_slices() -> None:
    """No verb walks a large table: a thousand give way at once, the rest at the next calls."""
    store = MemoryStore(max_entries=5000)
    for number in range(3500):
        store.move(Key(Method.RDP_COOKIE, f"user{number}"), "ts1", now=0, ttl_s=100)
    store.resize(500)
    assert 3500 - SLICE == len(store)
    assert store.more_to_drop(now=0)
    calls = 0
    while store.more_to_drop(now=0):
        store.expire(now=0)
        calls += 1
    assert (2, 500, 3000) == (calls, len(store), store.evictions)


def test_many_that_end_in_one_moment_are_dropped_by_slices() -> None:
    """After a lunch break, or a restart, thousands may expire together."""
    store = MemoryStore()
    for number in range(2500):
        store.move(Key(Method.RDP_COOKIE, f"user{number}"), "ts1", now=0, ttl_s=100)
    assert [SLICE, SLICE, 500, 0] == [store.expire(now=100) for _ in range(4)]
    assert 0 == len(store)


def test_the_bound_on_claims_can_change() -> None:
    """With a larger bound a claim stays, with a smaller one the oldest go."""
    store = MemoryStore(max_tentative=1)
    store.limit_claims(2)
    assert "ts1" == store.claim(ANNA, "ts1", now=0, hold_s=15)
    store.claim(BERT, "ts2", now=0, hold_s=15)
    assert "ts1" == store.claim(ANNA, "ts2", now=1, hold_s=15)
    store.limit_claims(1)
    assert "ts2" == store.claim(BERT, "ts2", now=1, hold_s=15)
    assert 1 == len(list(store.entries(now=1)))
