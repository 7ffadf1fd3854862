"""A client's address, as it is counted and recognised.

Apart from its users because admission, persistence and the lists of networks must agree on it: a client that
is one source here and another there slips past a limit.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address


def client_address(source: str) -> IPv4Address | IPv6Address:
    """Return the address that `source`, an IP literal, stands for.

    An IPv4 client that comes through an IPv6 socket, or through a proxy that has one, appears as an
    IPv4-mapped address (``::ffff:192.0.2.1``, RFC 4291, 2.5.5.2). It is the IPv4 client: all of them share
    one /64, and no IPv4 network of a list would hold them. The scope of a link-local address (``%eth0``) is
    left out: it names our interface, not the client. Raises ValueError: not an IP address.
    """
    address = ip_address(source.partition("%")[0])
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
