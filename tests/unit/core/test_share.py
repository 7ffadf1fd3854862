"""The share of the table of bindings that one source may take."""

import random

from rdpbalancer.core.dispatch import Dispatcher, Placed
from rdpbalancer.core.farm import Farm, PersistencePolicy, RealServer, VirtualService
from rdpbalancer.core.share import MAX_SOURCES, SHARE, Shares
from rdpbalancer.model import Endpoint, Key, Method
from rdpbalancer.stores.memory import MemoryStore
from tests.unit.core.farms import SERVICE, server_status, sid

TABLE = 1000
WINDOW_S = 3600.0


def cookie(user: str) -> Key:
    """Return a user's key."""
    return Key(Method.RDP_COOKIE, user)


def farm_with_table(*, max_entries: int) -> tuple[Dispatcher, VirtualService]:
    """Return a farm of one server that is up, with a table of that size."""
    policy = PersistencePolicy(max_entries=max_entries)
    server = RealServer(sid("ts1"), Endpoint("192.0.2.200", 3389))
    service = VirtualService(SERVICE, (), (server,), persistence=policy)
    dispatcher = Dispatcher(open_store=lambda _: MemoryStore(max_entries=max_entries), rng=random.Random(0))
    dispatcher.apply(Farm({SERVICE: service}), now=0.0)
    dispatcher.servers.set(server.id, server_status(), now=0.0)
    return dispatcher, service


def bind(dispatcher: Dispatcher, service: VirtualService, user: str, *, source: str) -> bool:
    """Let a user come as far as the confirm and leave again; return whether there is a binding."""
    key = cookie(user)
    placed, _ = dispatcher.place(service, source=source, token=None, key=key, excluded=frozenset(), now=1.0)
    assert isinstance(placed, Placed)
    slot = placed.slot
    bound = dispatcher.bindings.confirm(slot, now=1.0)
    dispatcher.release(slot, now=1.0)
    return bound


def added(shares: Shares, source: str, tries: int, *, entries: int, now: float = 0.0) -> int:
    """Return how many of so many new bindings of a source are made."""
    return sum(
        shares.take("ts", source, entries=entries, max_entries=TABLE, window_s=WINDOW_S, now=now)
        for _ in range(tries)
    )


def test_a_table_with_room_takes_everybody() -> None:
    """A farm behind one address, or behind another balancer, is not limited for nothing."""
    assert 5000 == added(Shares(), "192.0.2.1", 5000, entries=TABLE // 2 - 1)


def test_one_source_cannot_fill_the_other_half() -> None:
    assert TABLE // SHARE == added(Shares(), "192.0.2.1", 5000, entries=TABLE // 2)


def test_each_source_has_a_share_of_its_own() -> None:
    shares = Shares()
    added(shares, "192.0.2.1", 5000, entries=TABLE)
    assert 10 == added(shares, "192.0.2.2", 10, entries=TABLE)
    assert 0 == added(shares, "192.0.2.1", 10, entries=TABLE)


def test_an_exhausted_share_fills_up_over_the_life_of_a_binding() -> None:
    shares = Shares()
    added(shares, "192.0.2.1", 5000, entries=TABLE)
    assert TABLE // SHARE // 5 == added(shares, "192.0.2.1", 5000, entries=TABLE, now=WINDOW_S / 5)
    assert TABLE // SHARE == added(shares, "192.0.2.1", 5000, entries=TABLE, now=3 * WINDOW_S)


def test_a_tiny_table_and_a_timeout_of_nothing_still_bind_somebody() -> None:
    shares = Shares()
    for now in (0.0, 1.0):
        assert shares.take("ts", "192.0.2.1", entries=2, max_entries=2, window_s=0.0, now=now)


def test_the_memory_for_sources_is_bounded() -> None:
    """The one silent longest is forgotten first."""
    shares = Shares()
    added(shares, "first", 5000, entries=TABLE)
    for number in range(MAX_SOURCES):
        added(shares, f"other {number}", 1, entries=TABLE)
    assert 1 == added(shares, "first", 1, entries=TABLE)


def test_a_flood_of_cookies_from_one_source_pushes_nobody_out() -> None:
    """Its connections are served, its bindings stop, and what users of other sources have stays."""
    dispatcher, service = farm_with_table(max_entries=64)
    bind(dispatcher, service, "alice", source="192.0.2.1")
    made = [bind(dispatcher, service, f"x{number}", source="198.51.100.66") for number in range(1000)]
    assert 31 + 64 // SHARE == sum(made)
    assert dispatcher.bindings.of(SERVICE).get(cookie("alice"), now=1.0) is not None
    assert bind(dispatcher, service, "bob", source="192.0.2.2")
    assert bind(dispatcher, service, "x1", source="198.51.100.66"), "a binding that is there is renewed"
    assert 0 == dispatcher.bindings.of(SERVICE).evictions
