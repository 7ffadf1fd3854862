"""What a reload changes, for any two farms."""

from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.core.farm import Farm, VirtualService, diff
from rdpbalancer.model import Endpoint, ServerId
from tests.unit.core.farms import real_server


@st.composite
def farms(draw: st.DrawFn) -> Farm:
    """Up to three services over up to three servers each, few enough to coincide often."""
    services = {}
    for name in draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True)):
        servers = tuple(
            real_server(
                server,
                id=ServerId(name, server),
                weight=draw(st.sampled_from([50, 100])),
                address=Endpoint(draw(st.sampled_from(["10.0.0.1", "10.0.0.2"])), 3389),
            )
            for server in draw(st.lists(st.sampled_from(["x", "y", "z"]), unique=True))
        )
        services[name] = VirtualService(name, (), servers, redispatch=draw(st.integers(0, 1)))
    return Farm(services)


@given(farms())
def test_a_farm_differs_from_itself_in_nothing(farm: Farm) -> None:
    assert not diff(farm, farm)
    assert not diff(farm, Farm(dict(farm.services)))


@given(farms(), farms())
def test_applying_what_changed_gives_the_new_farm(old: Farm, new: Farm) -> None:
    """Taking out what was removed, putting in what was added or changed, and nothing else."""
    changes = diff(old, new)
    services = {
        name: service for name, service in old.services.items() if name not in changes.services_removed
    }
    for name in (*changes.services_added, *changes.services_changed):
        services[name] = new.services[name]
    assert new.services == services
    servers = {
        server: what for server, what in old.servers().items() if server not in changes.servers_removed
    }
    for server in (*changes.servers_added, *changes.servers_changed):
        servers[server] = new.servers()[server]
    assert new.servers() == servers
    assert bool(changes) is (old.services != new.services)


@given(farms(), farms())
def test_what_is_reported_is_reported_once(old: Farm, new: Farm) -> None:
    """No name stands in two places, and the way back is the way there reversed."""
    there, back = diff(old, new), diff(new, old)
    servers = [*there.servers_added, *there.servers_removed, *there.servers_changed]
    services = [*there.services_added, *there.services_removed, *there.services_changed]
    assert len(set(servers)) == len(servers)
    assert len(set(services)) == len(services)
    assert set(there.servers_added) == set(back.servers_removed)
    assert set(there.servers_changed) == set(back.servers_changed)
    assert set(there.services_changed) == set(back.services_changed)
