"""Who may come in."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest

from rdpbalancer.core.admission import MAX_RATED_SOURCES, Admission, AdmissionSlot, Refusal, source_network
from rdpbalancer.core.farm import Limits, VirtualService
from tests.unit.core.farms import SERVICE, virtual_service

HOME, AWAY = "192.0.2.1", "198.51.100.7"


def limited(**limits: Any) -> VirtualService:
    return virtual_service(limits=Limits(**limits))


def inside(
    door: Admission, service: VirtualService, source: str = HOME, *, now: float = 0.0
) -> AdmissionSlot:
    """Return the place of a connection that was let in."""
    place = door.enter(service)
    assert isinstance(place, AdmissionSlot)
    assert door.identify(place, service, source, now=now) is None
    return place


def refused(
    door: Admission, service: VirtualService, source: str = HOME, *, now: float = 0.0
) -> Refusal | None:
    """Return why a connection is turned away, giving back what it had taken; None: it came in."""
    place = door.enter(service)
    if isinstance(place, Refusal):
        return place
    refusal = door.identify(place, service, source, now=now)
    if refusal is not None:
        door.release(place)
    return refusal


def test_half_open_connections_are_bounded_over_all_services() -> None:
    door, one, other = Admission(max_half_open=4), virtual_service(), virtual_service(name="other")
    place = inside(door, one)
    inside(door, one)
    inside(door, other)
    inside(door, other)
    assert Refusal.MAX_HALF_OPEN == door.enter(one)
    assert Refusal.MAX_HALF_OPEN == door.enter(other)
    door.opened(place)
    assert refused(door, one) is None
    assert 4 == door.half_open


def test_one_source_may_hold_half_of_all_half_open_places() -> None:
    """A silent crowd behind one address leaves room for everybody else, without any limit configured."""
    door, service = Admission(max_half_open=6), virtual_service()
    first = inside(door, service)
    inside(door, service)
    inside(door, service)
    assert Refusal.SOURCE_HALF_OPEN == refused(door, service)
    assert refused(door, service, "198.51.100.99") is None
    door.opened(first)
    assert refused(door, service) is None


def test_sessions_are_bounded_by_service() -> None:
    """Half open or not, and live sessions taken over from before a restart count too."""
    door, service = Admission(max_half_open=100), limited(max_sessions=3)
    door.opened(inside(door, service))
    place = inside(door, service)
    door.restore(SERVICE, AWAY)
    assert Refusal.MAX_SESSIONS == door.enter(service)
    assert isinstance(door.enter(virtual_service(name="other")), AdmissionSlot)
    door.release(place)
    assert refused(door, service) is None
    assert 3 == door.places(SERVICE)


def test_sessions_of_a_source_are_bounded() -> None:
    door, service = Admission(max_half_open=100), limited(source_sessions=2)
    door.opened(inside(door, service))
    place = inside(door, service)
    assert Refusal.SOURCE_SESSIONS == refused(door, service)
    assert refused(door, service, AWAY) is None
    door.release(place)
    assert refused(door, service) is None


def test_half_open_connections_of_a_source_are_bounded() -> None:
    door, service = Admission(max_half_open=100), limited(source_half_open=1)
    place = inside(door, service)
    assert Refusal.SOURCE_HALF_OPEN == refused(door, service)
    assert refused(door, service, AWAY) is None
    door.opened(place)
    assert refused(door, service) is None


def test_a_restored_session_counts_for_its_source() -> None:
    door, service = Admission(max_half_open=100), limited(source_sessions=1)
    place = door.restore(SERVICE, HOME)
    assert Refusal.SOURCE_SESSIONS == refused(door, service)
    assert 0 == door.half_open
    door.release(place)
    assert refused(door, service) is None


@pytest.mark.parametrize(
    ("source", "allow", "deny", "refusal"),
    [
        (HOME, (), (), None),
        (HOME, (), ("192.0.2.0/24",), Refusal.DENIED),
        (AWAY, (), ("192.0.2.0/24",), None),
        (HOME, ("192.0.2.0/24",), (), None),
        (AWAY, ("192.0.2.0/24", "203.0.113.0/24"), (), Refusal.NOT_ALLOWED),
        (HOME, ("192.0.2.0/24",), ("192.0.2.1/32",), Refusal.DENIED),
        (AWAY, ("192.0.2.0/24",), ("192.0.2.1/32",), Refusal.NOT_ALLOWED),
        ("2001:db8::1", ("192.0.2.0/24",), (), Refusal.NOT_ALLOWED),
        ("2001:db8::1", (), ("2001:db8::/32",), Refusal.DENIED),
        ("::ffff:192.0.2.1", (), ("192.0.2.0/24",), Refusal.DENIED),
        ("::ffff:192.0.2.1", ("192.0.2.0/24",), (), None),
        ("fe80::1%eth0", (), ("fe80::/10",), Refusal.DENIED),
    ],
)
def test_lists_of_networks(
    source: str, allow: tuple[str, ...], deny: tuple[str, ...], refusal: Refusal | None
) -> None:
    """A denial goes before a permission, a list to allow denies the rest, mapped addresses cannot slip by."""
    service = limited(allow=tuple(map(ip_network, allow)), deny=tuple(map(ip_network, deny)))
    assert refusal == refused(Admission(max_half_open=1), service, source)


def test_the_order_of_refusals() -> None:
    """From the cheapest to the dearest: as one obstacle after the other is lifted, the next one shows."""
    strictest = Limits(
        max_sessions=1,
        source_sessions=1,
        source_half_open=1,
        source_rate=1,
        deny=(ip_network("192.0.2.0/24"),),
    )
    door = Admission(max_half_open=1)
    inside(door, limited(source_rate=1))
    reasons = [refused(door, virtual_service(limits=strictest))]
    door.max_half_open = 99
    reasons.append(refused(door, virtual_service(limits=strictest)))
    for limit in ("max_sessions", "deny", "source_sessions", "source_half_open", "source_rate"):
        lifted: dict[str, Any] = {limit: () if limit == "deny" else 0}
        strictest = replace(strictest, **lifted)
        reasons.append(refused(door, virtual_service(limits=strictest)))
    expected = [
        Refusal.MAX_HALF_OPEN,
        Refusal.MAX_SESSIONS,
        Refusal.DENIED,
        Refusal.SOURCE_SESSIONS,
        Refusal.SOURCE_HALF_OPEN,
        Refusal.SOURCE_RATE,
        None,
    ]
    assert expected == reasons


def test_whoever_is_refused_spends_no_rate() -> None:
    door, service = Admission(max_half_open=9), limited(source_half_open=1, source_rate=2)
    place = inside(door, service)
    assert Refusal.SOURCE_HALF_OPEN == refused(door, service)
    door.release(place)
    assert refused(door, service) is None
    assert Refusal.SOURCE_HALF_OPEN == refused(door, service)


def test_a_source_may_spend_its_rate_at_once_and_earns_it_back_evenly() -> None:
    """Four in 8 s: four at once, then one every 2 s, never more than four saved."""
    door, service = Admission(max_half_open=99), limited(source_rate=4, source_rate_interval_s=8.0)
    came_in = [refused(door, service, now=at) is None for at in (0, 0, 0, 0, 0, 1.75, 2, 2, 4, 5, 6, 6)]
    assert [True, True, True, True, False, False, True, False, True, False, True, False] == came_in
    assert [True] * 4 + [False] == [refused(door, service, now=1000) is None for _ in range(5)]


def test_rates_are_kept_by_source_and_service() -> None:
    door, service = Admission(max_half_open=99), limited(source_rate=1)
    other = virtual_service(name="other", limits=Limits(source_rate=1))
    assert [None, Refusal.SOURCE_RATE] == [refused(door, service), refused(door, service)]
    assert [None, None] == [refused(door, service, AWAY), refused(door, other)]


def test_a_lowered_rate_holds_at_once() -> None:
    door = Admission(max_half_open=99)
    assert refused(door, limited(source_rate=100)) is None
    lowered = limited(source_rate=1)
    assert [None, Refusal.SOURCE_RATE] == [refused(door, lowered), refused(door, lowered)]


def test_remembered_sources_are_bounded() -> None:
    """The one silent longest is forgotten, not a busy one: strangers cannot set it free."""
    door, service = Admission(max_half_open=9), limited(source_rate=1, source_rate_interval_s=1e6)
    strangers = [str(IPv4Address("198.18.0.0") + number) for number in range(MAX_RATED_SOURCES)]
    for stranger in strangers:
        assert passes(door, service, stranger)
    busy, silent = strangers[:2]
    assert not passes(door, service, busy)
    assert passes(door, service, HOME)
    assert not passes(door, service, busy)
    assert passes(door, service, silent)
    assert MAX_RATED_SOURCES == len(door._rates)


def passes(door: Admission, service: VirtualService, source: str) -> bool:
    """Whether a connection comes in; it leaves at once."""
    place = door.enter(service)
    assert isinstance(place, AdmissionSlot)
    refusal = door.identify(place, service, source, now=0.0)
    door.release(place)
    return refusal is None


@pytest.mark.parametrize(
    ("source", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002"),
        ("2001:db8:1:2::", "2001:0db8:0001:0002"),
        ("2001:db8::1", "2001:0db8:0000:0000"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80:0000:0000:0000"),
    ],
)
def test_a_source_is_counted_by_its_network(source: str, network: str) -> None:
    assert network == source_network(source)


def test_the_addresses_of_one_ipv6_line_are_one_source() -> None:
    door, service = Admission(max_half_open=9), limited(source_sessions=1)
    inside(door, service, "2001:db8:1:2::1")
    assert Refusal.SOURCE_SESSIONS == refused(door, service, "2001:db8:1:2:ffff::9")
    assert refused(door, service, "2001:db8:1:3::1") is None


def test_a_place_is_given_back_once() -> None:
    door, service = Admission(max_half_open=9), virtual_service()
    first, second = inside(door, service), inside(door, service)
    door.release(first)
    door.release(first)
    door.opened(first)
    assert (1, 1) == (door.half_open, door.places(SERVICE))
    door.opened(second)
    door.opened(second)
    assert (0, 1) == (door.half_open, door.places(SERVICE))


def test_a_place_without_a_source_is_given_back_whole() -> None:
    """The PROXY header never came."""
    door, service = Admission(max_half_open=9), virtual_service()
    place = door.enter(service)
    assert isinstance(place, AdmissionSlot)
    door.release(place)
    assert (0, 0) == (door.half_open, door.places(SERVICE))


def test_a_place_has_one_source() -> None:
    """A second one, or one after its end, would leave counts behind for ever: it is a mistake of ours."""
    door, service = Admission(max_half_open=9), virtual_service()
    place = inside(door, service)
    with pytest.raises(ValueError, match="cannot be counted"):
        door.identify(place, service, AWAY, now=0.0)
    door.release(place)
    with pytest.raises(ValueError, match="cannot be counted"):
        door.identify(place, service, HOME, now=0.0)
