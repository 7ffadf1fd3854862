"""A client's address."""

from ipaddress import ip_address

import pytest

from rdpbalancer.core.source import client_address


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:0DB8:0::0001", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::", "::"),
    ],
)
def test_one_client_has_one_address(source: str, address: str) -> None:
    """However the socket or the proxy in front wrote it."""
    assert ip_address(address) == client_address(source)


def test_a_name_is_no_address() -> None:
    with pytest.raises(ValueError, match="desk"):
        client_address("desk")
