"""Real servers that are the balancer itself."""

import socket

import pytest

from rdpbalancer.settings.loops import is_own
from tests.unit.settings.farm import loaded, problems, service

_ENDLESS = "connections would go round without end; write the terminal server's own address"


def one(listen: str, *servers: str) -> str:
    """Return a service of these servers: `listen` stands at f:3:13, the servers in line 4."""
    items = ", ".join(f'{{name: s{n}, address: "{each}"}}' for n, each in enumerate(servers))
    return "virtual_services:\n" + service(listen=listen, servers=f"real_servers: [{items}]")


@pytest.mark.parametrize(
    ("listen", "server"),
    [
        ("127.0.0.1:3389", "127.0.0.1:3389"),
        ("192.0.2.9:3389", "192.0.2.9:3389"),
        ("'[fd00::9]:3389'", "[fd00:0::9]:3389"),
        ("0.0.0.0:3389", "127.0.0.1:3389"),
        ("0.0.0.0:3389", "127.1.2.3:3389"),
        ("0.0.0.0:3389", "localhost:3389"),
        ("127.0.0.1:3389", "LOCALHOST:3389"),
        ("'[::]:3389'", "[::1]:3389"),
        ("'[::]:3389'", "localhost:3389"),
    ],
)
def test_a_service_that_is_its_own_server(listen: str, server: str) -> None:
    """`check` refuses it: the first login would come back to the balancer until nothing is left."""
    (problem,) = problems(one(listen, server))
    assert problem.endswith(
        f"real_servers[0].address: the service itself listens there, at f:3:13: {_ENDLESS}"
    )


@pytest.mark.parametrize(
    ("listen", "server"),
    [
        ("127.0.0.1:3389", "127.0.0.1:3390"),
        ("127.0.0.1:3389", "127.0.0.2:3389"),
        ("0.0.0.0:3389", "198.51.100.7:3389"),
        ("0.0.0.0:3389", "[::1]:3389"),
        ("'[::]:3389'", "127.0.0.1:3389"),
        ("0.0.0.0:0", "127.0.0.1:3389"),
        ("0.0.0.0:3389", "ts1.example.com:3389"),
        ("192.0.2.9:3389", "localhost:3389"),
    ],
)
def test_a_server_that_only_looks_like_the_service(listen: str, server: str) -> None:
    """Another port, address, family or machine; a desktop on the balancer's own loopback."""
    assert 1 == len(loaded(one(listen, server)).virtual_services)


def chain(*links: tuple[str, str, str]) -> str:
    """Return services by name, `listen` and server's address."""
    return "virtual_services:\n" + "".join(
        service(name=name, listen=listen, servers=f'real_servers: [{{name: s, address: "{server}"}}]')
        for name, listen, server in links
    )


def test_services_that_lead_to_each_other() -> None:
    """Round through any number of services; each address that is part of it is named."""
    found = problems(
        chain(
            ("a", "127.0.0.1:1", "127.0.0.1:2"),
            ("b", "127.0.0.1:2", "127.0.0.1:3"),
            ("c", "0.0.0.0:3", "127.0.0.1:1"),
            ("in", "127.0.0.1:4", "127.0.0.1:1"),
        )
    )
    server, back = "real_servers[0].address", "and leads back to this one"
    assert [
        f"f:4:39: virtual_services[0].{server}: the service 'b' listens there, at f:6:13, {back}",
        f"f:7:39: virtual_services[1].{server}: the service 'c' listens there, at f:9:13, {back}",
        f"f:10:39: virtual_services[2].{server}: the service 'a' listens there, at f:3:13, {back}",
    ] == [problem.removesuffix(f": {_ENDLESS}") for problem in found]


def test_a_service_behind_another_one() -> None:
    """Two stages are a way to build, as long as there is an end."""
    assert 2 == len(
        loaded(
            chain(("a", "127.0.0.1:1", "127.0.0.1:2"), ("b", "127.0.0.1:2", "10.0.0.1:3"))
        ).virtual_services
    )


def test_values_that_cannot_be_understood_are_reported_once() -> None:
    """By validation, not here."""
    assert ["not YAML" not in text for text in problems(one("nonsense", "127.0.0.1"))] == [True, True]


def own_addresses() -> list[str]:
    """Return this machine's addresses that are not loopback, as far as its name says."""
    found = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)}
    return [str(address) for address in found if not str(address).startswith(("127.", "::1"))]


def test_what_is_this_machines_own() -> None:
    """Loopback, and the addresses of its interfaces; not a neighbour's, not a name."""
    assert is_own("127.0.0.1")
    assert is_own("127.9.9.9")
    assert is_own("::1")
    for address in own_addresses():
        assert is_own(address)
    assert not is_own("198.51.100.7")
    assert not is_own("2001:db8::7")
    assert not is_own("ts1.example.com")
