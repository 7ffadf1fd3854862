"""The rules between values of different keys."""

import pytest

from rdpbalancer.model import Endpoint
from tests.unit.settings.farm import farm, loaded, problems, service


def pair(first: str, second: str) -> str:
    """Return two services that listen on `first` and `second`, in lines 3 and 6."""
    return "virtual_services:\n" + service(listen=first) + service(listen=second, name="b")


def servers(*items: str) -> str:
    """Return a service with these servers, from line 5 on, their keys from column 10 on."""
    return farm(servers="\n      - ".join(["real_servers:", *items]))


def test_names_of_services() -> None:
    """A service's name stands for it in commands and metrics: each is used once."""
    text = farm() + service(listen="127.0.0.1:1")
    assert [
        (
            "f:5:11: virtual_services[1].name: the name 'farm' is taken by another virtual service,"
            " at f:2:11:"
            " use each once"
        )
    ] == problems(text)


def test_names_of_servers() -> None:
    """A server's name is its identity within the service; another service may use it again."""
    assert [
        (
            "f:6:16: virtual_services[0].real_servers[1].name: the name 'a' is taken by another real server,"
            " at f:5:16: use each once"
        )
    ] == problems(servers("{name: a, address: 'ts1:1'}", "{name: a, address: 'ts2:1'}"))
    assert 2 == len(loaded(pair("127.0.0.1:1", "127.0.0.1:2")).virtual_services)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("min_connections: 5", "it has no effect without max_connections: set both, or neither"),
        (
            "min_connections: 5, max_connections: 5",
            "5 is not below max_connections, 5: a full server never has fewer",
        ),
        (
            "min_connections: 6, max_connections: 5, feedback_agent: {}",
            "6 is not below max_connections, 5: a full server never has fewer",
        ),
    ],
)
def test_a_minimum_needs_a_maximum_above_it(said: str, expected: str) -> None:
    """A full server would never fall to it, and one that is never full has nothing to fall from."""
    (found,) = problems(servers(f"{{name: a, address: 'ts1:1', {said}}}"))
    where = "virtual_services[0].real_servers[0].min_connections"
    assert expected == found.partition(f"{where}: ")[2]


@pytest.mark.parametrize(
    "said",
    [
        "min_connections: 4, max_connections: 5",
        "min_connections: 0, max_connections: 0",
        "min_connections: 5, feedback_agent: {}",
    ],
)
def test_a_minimum_below_the_maximum(said: str) -> None:
    """Ours, or the agent's, which nobody knows beforehand."""
    (one,) = loaded(servers(f"{{name: a, address: 'ts1:1', {said}}}")).virtual_services
    assert f"min_connections: {one.real_servers[0].min_connections}" in said


def test_names_that_only_look_different() -> None:
    """`1` and `"1"` are one name."""
    assert 1 == len(problems(servers("{name: 1, address: 'ts1:1'}", "{name: '1', address: 'ts2:1'}")))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("0.0.0.0:3389", "0.0.0.0:3389", "0.0.0.0:3389 is listened on already, at f:3:13: use it once"),
        ("'[::1]:1'", "'[0::1]:1'", "[::1]:1 is listened on already, at f:3:13: use it once"),
        ("0.0.0.0:1", "127.0.0.1:1", "127.0.0.1:1 overlaps with 0.0.0.0:1, at f:3:13: use one of the two"),
        ("127.0.0.1:1", "0.0.0.0:1", "0.0.0.0:1 overlaps with 127.0.0.1:1, at f:3:13: use one of the two"),
        ("'[::]:1'", "'[::1]:1'", "[::1]:1 overlaps with [::]:1, at f:3:13: use one of the two"),
    ],
)
def test_addresses_that_cannot_both_be_listened_on(first: str, second: str, expected: str) -> None:
    """What the system would refuse at the start is told before."""
    assert [f"f:6:13: virtual_services[1].listen: {expected}"] == problems(pair(first, second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("0.0.0.0:0", "0.0.0.0:0"),
        ("0.0.0.0:1", "'[::]:1'"),
        ("127.0.0.1:1", "127.0.0.2:1"),
        ("127.0.0.1:1", "127.0.0.1:2"),
    ],
)
def test_addresses_that_can_both_be_listened_on(first: str, second: str) -> None:
    """Port 0 is any free port; IPv4 and IPv6, other addresses and other ports are apart."""
    assert 2 == len(loaded(pair(first, second)).virtual_services)


def test_an_address_twice_in_one_service_and_in_metrics() -> None:
    """The list of one service and the metrics' endpoint count, too."""
    text = farm(before="global: {metrics: {listen: '127.0.0.1:3389'}}\n")
    assert [
        (
            "f:1:28: global.metrics.listen: 127.0.0.1:3389 overlaps with 0.0.0.0:3389, at f:4:13: use"
            " one of the two"
        )
    ] == problems(text)
    assert [
        "f:3:26: virtual_services[0].listen[1]: 127.0.0.1:1 is listened on already, at f:3:14: use it once"
    ] == problems("virtual_services:\n" + service(listen="[127.0.0.1:1,127.0.0.1:1]"))


def test_addresses_of_servers() -> None:
    """Two servers of a service never share an address; another port, or another service, is fine."""
    assert [
        (
            "f:6:28: virtual_services[0].real_servers[1].address: ts1:1 belongs to another real"
            " server, at f:5:28:"
            " use it once"
        )
    ] == problems(servers("{name: a, address: 'ts1:1'}", "{name: b, address: 'TS1:1'}"))
    item = loaded(servers("{name: a, address: 'ts1:1'}", "{name: b, address: 'ts1:2'}")).virtual_services[0]
    assert [Endpoint("ts1", 1), Endpoint("ts1", 2)] == [server.address for server in item.real_servers]


def test_token_addresses() -> None:
    """A routing token names one server: an address in it belongs to one, as `address` or as another."""
    assert [
        (
            "f:5:60: virtual_services[0].real_servers[0].token_addresses[0]: 10.0.0.2:1 belongs to"
            " another real"
            " server, at f:6:28: use it once"
        ),
        (
            "f:6:74: virtual_services[0].real_servers[1].token_addresses[1]: 10.0.0.9:1 belongs to"
            " another real"
            " server, at f:5:74: use it once"
        ),
    ] == problems(
        servers(
            "{name: a, address: '10.0.0.1:1', token_addresses: ['10.0.0.2:1', '10.0.0.9:1']}",
            "{name: b, address: '10.0.0.2:1', token_addresses: ['10.0.0.2:2', '10.0.0.9:1']}",
        )
    )


def test_a_servers_own_address_among_its_token_addresses() -> None:
    """Saying it twice of the same server does no harm."""
    item = loaded(
        servers("{name: a, address: '10.0.0.1:1', token_addresses: ['10.0.0.1:1']}")
    ).virtual_services[0]
    assert (Endpoint("10.0.0.1", 1),) == item.real_servers[0].token_addresses


def test_methods_are_each_used_once() -> None:
    """A second mention of a method could never be reached."""
    assert [
        (
            "f:4:40: virtual_services[0].persistence.methods[1]: the method 'source-ip' is taken by"
            " an earlier"
            " entry of this list, at f:4:29: use each once"
        )
    ] == problems(farm("persistence: {methods: [source-ip, source-ip]}"))


def test_mode_tcp_reads_no_rdp() -> None:
    """What needs the client's request is not possible where it is not read."""
    subject = "virtual service 'farm' is in mode tcp"
    assert [
        (
            f"f:5:29: virtual_services[0].persistence.methods[0]: {subject}, which reads no cookie:"
            " set methods to [source-ip] or [] there"
        ),
        (
            f"f:5:52: virtual_services[0].persistence.methods[2]: {subject}, which reads no cookie:"
            " set methods to [source-ip] or [] there"
        ),
        (
            f"f:6:23: virtual_services[0].require_security: {subject}, which reads no request:"
            " only 'any' is possible there"
        ),
        (
            f"f:7:26: virtual_services[0].health_check.type: {subject}:"
            " set the health check's type to tcp or none there"
        ),
    ] == problems(
        farm(
            "mode: tcp",
            "persistence: {methods: [rdp-cookie, source-ip, routing-token]}",
            "require_security: tls",
            "health_check: {type: rdp}",
        )
    )


def test_mode_tcp_with_the_defaults_of_rdp() -> None:
    """A default that a service cannot have is pointed at in `defaults`, with the name of the service."""
    before = "defaults: {health_check: {type: rdp}, require_security: nla}\n"
    assert [
        (
            "f:1:33: defaults.health_check.type: virtual service 'farm' is in mode tcp:"
            " set the health check's type to tcp or none there"
        ),
        (
            "f:1:57: defaults.require_security: virtual service 'farm' is in mode tcp, which reads"
            " no request:"
            " only 'any' is possible there"
        ),
    ] == problems(farm("mode: tcp", before=before))


def test_mode_tcp_and_the_check_of_one_server() -> None:
    """A server's own check is held to the same rule."""
    assert [
        (
            "f:5:79: virtual_services[0].real_servers[0].health_check.type: virtual service 'farm'"
            " is in mode tcp:"
            " set the health check's type to tcp or none there"
        )
    ] == problems(
        farm(
            "mode: tcp",
            servers='real_servers: [{name: ts1, address: "10.0.0.1:3389", health_check: {type: rdp}}]',
        )
    )


def test_rules_hold_beside_wrong_values() -> None:
    """A value that cannot be understood hides no rule between the others."""
    found = problems(
        servers(
            "{name: a, address: 'x y', weight: -1}", "{name: a, address: 5}", "{name: [], address: 'ts1:1'}"
        )
    )
    assert ["address", "weight", "name", "address", "name"] == [
        line.split(": ")[1].rpartition(".")[2] for line in found
    ]
