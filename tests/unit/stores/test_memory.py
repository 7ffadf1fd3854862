"""What the memory store does beside the contract: it tells of its changes, and takes in an earlier run's."""

from rdpbalancer.core.persist import Binding
from rdpbalancer.model import Key, Method
from rdpbalancer.stores.memory import MemoryStore

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
    store.restore(
        [
            Binding(ANNA, "ts1", confirmed=True, expires_at=None),
            Binding(BERT, "ts1", confirmed=True, expires_at=10),
            Binding(CORA, "ts1", confirmed=True, expires_at=20),
        ]
    )
    assert [BERT] == told
    assert {ANNA, CORA} == set(store.confirmed_keys())


def test_what_is_confirmed_is_seen_under_a_claim() -> None:
    """The durable copy keeps the confirmed binding whatever is claimed over it."""
    store = MemoryStore()
    store.confirm(ANNA, "ts1", now=0)
    store.claim(ANNA, "ts2", now=0, hold_s=15, replacing="ts1")
    assert Binding(ANNA, "ts1", confirmed=True, expires_at=None) == store.confirmed(ANNA)
    assert None is store.confirmed(BERT)
