"""The farm as configured, and what a reload changes."""

from dataclasses import replace

import pytest

from rdpbalancer.core.farm import Farm, FarmDiff, HealthPolicy, VirtualService, diff
from rdpbalancer.model import Endpoint, ServerId
from tests.unit.core.farms import SERVICE, real_server, sid, virtual_service

TS1, TS2, TS3 = real_server("ts1"), real_server("ts2"), real_server("ts3", backup=True)
NOTHING = FarmDiff((), (), (), (), (), ())


def farm(*services: VirtualService) -> Farm:
    return Farm({service.name: service for service in services})


OLD = farm(virtual_service(TS1, TS2))


def test_a_server_is_found_by_its_name() -> None:
    service = virtual_service(TS1, TS2)
    assert TS2 == service.server("ts2")
    assert service.server("ts3") is None


def test_a_server_is_found_by_its_identity() -> None:
    assert TS1 == OLD.server(sid("ts1"))
    assert OLD.server(sid("ts3")) is None
    assert OLD.server(ServerId("other", "ts1")) is None


def test_a_farm_lists_every_server_in_order() -> None:
    other = replace(virtual_service(replace(TS1, id=ServerId("other", "ts1"))), name="other")
    expected = [sid("ts1"), sid("ts2"), ServerId("other", "ts1")]
    assert expected == list(farm(virtual_service(TS1, TS2), other).servers())


def test_an_empty_farm_has_nothing() -> None:
    assert {} == Farm().servers()
    assert NOTHING == diff(Farm(), Farm())


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (OLD, NOTHING),
        (farm(virtual_service(real_server("ts1"), real_server("ts2"))), NOTHING),
        (
            farm(virtual_service(TS1, TS2, TS3)),
            replace(NOTHING, services_changed=(SERVICE,), servers_added=(sid("ts3"),)),
        ),
        (
            farm(virtual_service(TS1)),
            replace(NOTHING, services_changed=(SERVICE,), servers_removed=(sid("ts2"),)),
        ),
        (
            farm(virtual_service(TS1, replace(TS2, weight=7))),
            replace(NOTHING, services_changed=(SERVICE,), servers_changed=(sid("ts2"),)),
        ),
        (
            farm(virtual_service(replace(TS1, address=Endpoint("198.51.100.1", 3389)), TS2)),
            replace(NOTHING, services_changed=(SERVICE,), servers_changed=(sid("ts1"),)),
        ),
        (
            farm(virtual_service(replace(TS1, health=HealthPolicy(fall=9)), TS2)),
            replace(NOTHING, services_changed=(SERVICE,), servers_changed=(sid("ts1"),)),
        ),
        (farm(virtual_service(TS2, TS1)), replace(NOTHING, services_changed=(SERVICE,))),
        (farm(virtual_service(TS1, TS2, redispatch=5)), replace(NOTHING, services_changed=(SERVICE,))),
        (
            Farm(),
            replace(NOTHING, services_removed=(SERVICE,), servers_removed=(sid("ts1"), sid("ts2"))),
        ),
        (
            farm(virtual_service(TS1, TS2), VirtualService("new", (), ())),
            replace(NOTHING, services_added=("new",)),
        ),
    ],
)
def test_a_reload_changes_what_differs_under_the_same_name(new: Farm, expected: FarmDiff) -> None:
    """A changed weight or address is the same server; the order of servers matters to their service only."""
    actual = diff(OLD, new)
    assert expected == actual
    assert (expected != NOTHING) is bool(actual)
