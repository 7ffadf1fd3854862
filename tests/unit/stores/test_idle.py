"""The table of idle bindings: two orders that agree, and a heap that stays small."""

from collections import OrderedDict
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.core.persistence import Binding
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


def test_the_oldest_gives_way_first() -> None:
    """A binding of an earlier run is less recently used than all that are there."""
    table = IdleTable()
    add(table, 0, 10.0)
    table.add(Binding(key(1), "ts1", confirmed=True, expires_at=20.0), expires_at=20.0, oldest=True)
    assert key(1) == table.least_recently_used()
    assert [key(1), key(0)] == list(table)


def test_ends_within_one_bucket_come_in_their_order() -> None:
    """Also those that are added while the bucket's time is on."""
    table = IdleTable()
    for number, expires_at in enumerate((100.5, 100.25, 101.0)):
        add(table, number, expires_at)
    assert [key(1)] == expired(table, 100.4)
    assert table.due(101.0)
    add(table, 3, 100.75)
    add(table, 2, 120.0)
    assert [key(0), key(3)] == expired(table, 101.0)
    assert not table.due(101.0)
    assert [key(2)] == list(table)


def test_the_heap_does_not_grow_with_renewals() -> None:
    """A stranger who comes and goes all day costs no memory."""
    table = IdleTable()
    for number in range(100):
        add(table, number, 1e6)
    for turn in range(50_000):
        add(table, turn % 100, 1e6 + turn)
    assert 100 == len(table)
    assert len(table._numbers) <= 2 * len(table._buckets) + 1024
    assert 100 == len(expired(table, 2e6))


@given(
    st.lists(st.tuples(st.sampled_from(["use", "restore", "pop", "evict"]), st.integers(0, 5)), max_size=300)
)
def test_the_order_of_use_is_exact(steps: list[tuple[str, int]]) -> None:
    """Also while entries that no longer count are cleared away, which here is nearly always."""
    with mock.patch("rdpbalancer.stores.idle._STALE_SLACK", 0):
        table, model = IdleTable(), OrderedDict[Key, None]()
        for step, number in steps:
            if step == "use":
                add(table, number, 10.0)
                model.pop(key(number), None)
                model[key(number)] = None
            elif step == "restore" and key(number) not in model:
                table.add(
                    Binding(key(number), "ts1", confirmed=True, expires_at=1.0), expires_at=1.0, oldest=True
                )
                model[key(number)] = None
                model.move_to_end(key(number), last=False)
            elif step == "pop":
                assert (table.pop(key(number)) is None) == (key(number) not in model)
                model.pop(key(number), None)
            elif step == "evict" and model:
                oldest = table.least_recently_used()
                assert oldest == model.popitem(last=False)[0]
                table.pop(oldest)
            assert list(model) == list(table)
            assert len(model) == len(table)
            assert next(iter(model), None) == table.least_recently_used()


def test_the_order_of_use_does_not_grow_with_renewals() -> None:
    """A few users who come again and again for a year."""
    table = IdleTable()
    longest = 0
    for turn in range(20_000):
        add(table, turn % 50, float(turn))
        longest = max(longest, sum(len(order or ()) for order in (table._uses._order, table._uses._cleared)))
    assert longest < 1.5 * 50 + 1024 + 50


def test_what_is_due_may_be_asked_without_waiting_for_an_answer() -> None:
    """Nothing is due once all that was due has been taken."""
    table = IdleTable()
    assert not table.due(1e9)
    add(table, 0, 10.0)
    add(table, 1, 100.0)
    assert table.due(10.0)
    assert [key(0)] == expired(table, 10.0)
    assert not table.due(10.0)
    assert not table.due(15.9)
    assert [] == expired(table, 99.0)
    assert not table.due(99.0)
    assert [key(1)] == expired(table, 100.0)
    assert not table.due(1e9)
