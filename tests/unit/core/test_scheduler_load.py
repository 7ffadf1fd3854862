"""What a server carries, as the schedulers count it."""

from rdpbalancer.core.scheduler_load import SchedulerLoads
from rdpbalancer.model import Key, Method
from tests.unit.core.farms import sid

TS1, TS2 = sid("ts1"), sid("ts2")
ALICE = Key(Method.RDP_COOKIE, "alice")
OFFICE = Key(Method.SOURCE_IP, "192.0.2.1")


def carried(*connections: tuple[Key | None, str]) -> int:
    """Return what TS1 carries with these connections."""
    loads = SchedulerLoads()
    for key, source in connections:
        loads.add(TS1, key, source)
    return loads.of(TS1)


def test_one_users_connections_from_one_address_count_once() -> None:
    """Ten at once follow each other to one server: that server has one user more."""
    assert 1 == carried(*[(ALICE, "192.0.2.1")] * 10)


def test_one_cookie_from_several_addresses_counts_each_address() -> None:
    """A cookie that is a domain cut short is many people, not one."""
    assert 3 == carried(*((ALICE, f"192.0.2.{number}") for number in (1, 2, 3)))


def test_connections_bound_by_address_count_each() -> None:
    """Behind one address may be a whole office."""
    assert 5 == carried(*[(OFFICE, "192.0.2.1")] * 5)


def test_connections_without_a_key_count_each() -> None:
    assert 4 == carried(*[(None, "192.0.2.1")] * 4)


def test_a_user_counts_until_the_last_connection_has_gone() -> None:
    loads = SchedulerLoads()
    for _ in range(3):
        loads.add(TS1, ALICE, "192.0.2.1")
    loads.add(TS2, ALICE, "192.0.2.1")
    for _ in range(2):
        loads.remove(TS1, ALICE, "192.0.2.1")
        assert 1 == loads.of(TS1)
    loads.remove(TS1, ALICE, "192.0.2.1")
    assert (0, 1) == (loads.of(TS1), loads.of(TS2))
    loads.remove(TS2, ALICE, "192.0.2.1")
    assert not loads
