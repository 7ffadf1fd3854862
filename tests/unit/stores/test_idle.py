"""The table of idle bindings: two orders that agree, and a heap that stays small."""

from rdpbalancer.core.persist import Binding
from rdpbalancer.model import Key, Method
from rdpbalancer.stores.idle import IdleTable


def key(number: int) -> Key:
    return Key(Method.RDP_COOKIE, f"user{number}")


def add(table: IdleTable, number: int, expires_at: float) -> None:
    table.pop(key(number))
    table.add(Binding(key(number), "ts1", confirmed=True, expires_at=expires_at), expires_at=expires_at)


def expired(table: IdleTable, now: float) -> list[Key]:
    found = []
    while (due := table.next_expired(now)) is not None:
        table.pop(due)
        found.append(due)
    return found


def test_expiry_is_ordered_by_time_whatever_the_order_of_use() -> None:
    """Lives of different lengths end in the order of their ends."""
    table = IdleTable()
    for number, expires_at in enumerate((30.0, 10.0, 20.0)):
        add(table, number, expires_at)
    assert [key(0), key(1), key(2)] == list(table)
    assert [] == expired(table, 9.9)
    assert [key(1), key(2)] == expired(table, 20.0)
    assert [key(0)] == list(table)


def test_a_renewed_binding_ends_at_its_new_time_only() -> None:
    """What is left of the former life in the heap is passed over, longer or shorter."""
    table = IdleTable()
    add(table, 0, 10.0)
    add(table, 0, 20.0)
    add(table, 1, 50.0)
    add(table, 1, 15.0)
    assert [] == expired(table, 14.0)
    assert [key(1)] == expired(table, 19.0)
    assert [key(0)] == expired(table, 60.0)
    assert 0 == len(table)


def test_the_heap_does_not_grow_with_renewals() -> None:
    """A stranger who comes and goes all day costs no memory."""
    table = IdleTable()
    for number in range(100):
        add(table, number, 1e6)
    for turn in range(50_000):
        add(table, turn % 100, 1e6 + turn)
    assert 100 == len(table)
    assert len(table._due) <= 2 * 100 + 1024
    assert 100 == len(expired(table, 2e6))
