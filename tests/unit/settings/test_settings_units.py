"""Durations, addresses, networks, rates: what is read and what is refused."""

import pytest

from rdpbalancer.model import Endpoint
from rdpbalancer.settings.units import (
    Rate,
    format_duration,
    parse_duration_s,
    parse_endpoint,
    parse_network,
    parse_rate,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1m", 60.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        ("0.25s", 0.25),
        ("0s", 0.0),
        ("0", 0.0),
        (0, 0.0),
        ("365d", 31_536_000.0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    """A duration becomes seconds, whatever its unit."""
    assert seconds == parse_duration_s(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (30, "a duration needs a unit (ms, s, m, h, d): write 30s for 30 seconds"),
        ("30", "a duration needs a unit (ms, s, m, h, d): write 30s for 30 seconds"),
        ("1.5", "a duration needs a unit (ms, s, m, h, d): write 1.5s for 1.5 seconds"),
        ("5 s", "expected a number and one unit (ms, s, m, h, d), such as 500ms, 30s or 1h, got '5 s'"),
        ("1h30m", "expected a number and one unit (ms, s, m, h, d), such as 500ms, 30s or 1h, got '1h30m'"),
        ("5min", "expected a number and one unit (ms, s, m, h, d), such as 500ms, 30s or 1h, got '5min'"),
        ("-5s", "expected a number and one unit (ms, s, m, h, d), such as 500ms, 30s or 1h, got '-5s'"),
        (
            "\u0665s",
            "expected a number and one unit (ms, s, m, h, d), such as 500ms, 30s or 1h, got '\u0665s'",
        ),
        ("366d", "'366d' is too long: at most 365d"),
        (True, "expected a duration such as 500ms, 30s, 1m, 1h or 1d, got true"),
        (False, "expected a duration such as 500ms, 30s, 1m, 1h or 1d, got false"),
        (None, "expected a duration such as 500ms, 30s, 1m, 1h or 1d, got nothing"),
        ([], "expected a duration such as 500ms, 30s, 1m, 1h or 1d, got a list"),
    ],
)
def test_durations_that_are_refused(value: object, message: str) -> None:
    """What is no duration is refused with what to write instead."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared
        parse_duration_s(value)
    assert message == str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.5, "500ms"),
        (1.5, "1500ms"),
        (60.0, "1m"),
        (90.0, "90s"),
        (3600.0, "1h"),
        (86400.0, "1d"),
    ],
)
def test_durations_are_shown_in_their_largest_whole_unit(seconds: float, text: str) -> None:
    """A duration is shown as an administrator would write it."""
    assert text == format_duration(seconds)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.168.2.190:3389", Endpoint("192.168.2.190", 3389)),
        ("[FD00:0::1]:3389", Endpoint("fd00::1", 3389)),
        ("[fe80::1%eth0]:3389", Endpoint("fe80::1%eth0", 3389)),
        ("TS1.Example.com:65535", Endpoint("ts1.example.com", 65535)),
        ("ts_1:1", Endpoint("ts_1", 1)),
        ("ts1.example.com.:3389", Endpoint("ts1.example.com.", 3389)),
    ],
)
def test_server_addresses(text: str, endpoint: Endpoint) -> None:
    """Addresses and names come out in one spelling, IPv6 without its brackets."""
    assert endpoint == parse_endpoint(text, names=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3389, "expected an address and port such as '192.168.2.190:3389', got the number 3389"),
        ("ts1", "'ts1' has no port: write 'ts1:3389'"),
        ("ts1:", "'ts1:' has no port: write 'ts1:3389'"),
        ("[::1]", "'[::1]' has no port: write '[::1]:3389'"),
        ("::1:3389", "'::1:3389': put an IPv6 address in brackets, such as '[fd00::1]:3389'"),
        ("[::g]:3389", "'::g' is not an IPv6 address"),
        ("[1.2.3.4]:3389", "'1.2.3.4' is not an IPv6 address"),
        ("[fe80::1%a b]:3389", "'fe80::1%a b': what follows % is not an interface's name"),
        ("192.168.2.300:3389", "'192.168.2.300' is not an IPv4 address"),
        ("ts1:rdp", "port 'rdp' is not a number from 1 to 65535"),
        ("ts1:0", "port '0' is not a number from 1 to 65535"),
        ("ts1:65536", "port '65536' is not a number from 1 to 65535"),
        ("-ts1:3389", "'-ts1' is neither an IP address nor a host name"),
        ("ts 1:3389", "'ts 1' is neither an IP address nor a host name"),
        ("a..b:3389", "'a..b' is neither an IP address nor a host name"),
        (f"{'a' * 64}:3389", f"'{'a' * 57}...' is neither an IP address nor a host name"),
        (f"{'a.' * 127}a:3389", f"'{('a.' * 29)[:57]}...' is neither an IP address nor a host name"),
        (":3389", "the address is missing: 0.0.0.0 stands for all of IPv4, [::] for all of IPv6"),
        ("0.0.0.0:3389", "'0.0.0.0:3389' stands for all addresses: write the server's own"),
        ("[::]:3389", "'[::]:3389' stands for all addresses: write the server's own"),
    ],
)
def test_server_addresses_that_are_refused(value: object, message: str) -> None:
    """What is no server's address is refused with the reason."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared
        parse_endpoint(value, names=True)
    assert message == str(caught.value)


def test_listening_takes_all_addresses_and_port_0_but_no_names() -> None:
    """An address of our own may be all addresses and any port; a name is not possible."""
    assert Endpoint("0.0.0.0", 0) == parse_endpoint("0.0.0.0:0", listening=True)
    assert Endpoint("::", 3389) == parse_endpoint("[::]:3389", listening=True)
    with pytest.raises(ValueError, match="'localhost' is not an IP address, and a name is not possible here"):
        parse_endpoint("localhost:3389", listening=True)
    with pytest.raises(ValueError, match=r"^the address is missing: 0\.0\.0\.0 stands for all of IPv4"):
        parse_endpoint("*:3389", listening=True)


@pytest.mark.parametrize(
    ("text", "network"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.5", "10.0.0.5/32"), ("fd00::/8", "fd00::/8"), ("::1", "::1/128")],
)
def test_networks(text: str, network: str) -> None:
    """A network is read, and an address alone is a network of one."""
    assert network == str(parse_network(text))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("10.0.0.1/8", "'10.0.0.1/8' is an address inside a network: write 10.0.0.0/8 for all of it"),
        ("10/8", "expected a network such as 192.168.0.0/16 or fd00::/8, got '10/8'"),
        ("10.0.0.0/33", "expected a network such as 192.168.0.0/16 or fd00::/8, got '10.0.0.0/33'"),
        ("office", "expected a network such as 192.168.0.0/16 or fd00::/8, got 'office'"),
        (5, "expected a network such as 192.168.0.0/16 or fd00::/8, got the number 5"),
    ],
)
def test_networks_that_are_refused(value: object, message: str) -> None:
    """What is no network is refused; host bits are refused with the network that may be meant."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared
        parse_network(value)
    assert message == str(caught.value)


def test_rates() -> None:
    """A rate is a count and its interval, and shows itself as it is written."""
    assert Rate(20, 10.0) == parse_rate("20/10s")
    assert Rate(0, 10.0) == parse_rate("0/10s")
    assert "20/10s" == str(Rate(20, 10.0))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "expected a rate such as 20/10s (0/10s: no limit), got the number 5"),
        ("5", "expected a rate such as 20/10s (0/10s: no limit), got '5'"),
        ("-1/10s", "expected a rate such as 20/10s (0/10s: no limit), got '-1/10s'"),
        ("5/10", "a duration needs a unit (ms, s, m, h, d): write 10s for 10 seconds"),
        ("5/0s", "the interval of a rate is longer than 0: write 0/10s for no limit"),
        ("1000001/1s", "1000001 is too many: at most 1000000; 0/10s means no limit"),
    ],
)
def test_rates_that_are_refused(value: object, message: str) -> None:
    """What is no rate is refused with what to write instead."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared
        parse_rate(value)
    assert message == str(caught.value)
