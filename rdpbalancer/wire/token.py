"""Routing tokens: which server a client was told to come back to, in its own words.

A terminal server of a broker farm gives the token to the client in a Server Redirection PDU. Its address is
what a stranger says: compare it with configured servers, never dial it.
"""

import ipaddress
import re
from typing import Final

from rdpbalancer.model import Endpoint

MAX_DESCRIPTION_CHARS: Final = 256  # a token has up to 246 bytes; escapes may not make a log line of them

# Ten digits hold any u32, five any u16. `\d` is ASCII here: the pattern is of bytes.
_MSTS = re.compile(rb"cookie: msts=(\d{1,10})\.(\d{1,5})\.", re.IGNORECASE)

_MSTS_NUMBER = re.compile(rb"cookie: msts=(\d{1,10}) ?", re.IGNORECASE)


def decode_msts(token: bytes) -> Endpoint | None:
    """Return the IPv4 address and port that an msts token names, None where it names none.

    Layout ("Routing Token Format" of MSFT-SDLBTS, to which MS-RDPBCGR 2.2.1.1 points): `Cookie: msts=` ip `.`
    port `.` reserved, decimal. ip is the four address bytes read as little-endian u32, port a byte-swapped
    u16, never 0. What follows the second dot is ignored, so also the space that older clients pad an odd
    length with. Tokens of other makes (a number alone, a host name, a hash) are no error: they are opaque.
    """
    match = _MSTS.match(token)
    if match is None:
        return None
    address, port = int(match[1]), int(match[2])
    if address > 0xFFFFFFFF or not 1 <= port <= 0xFFFF:
        return None
    return Endpoint(".".join(map(str, address.to_bytes(4, "little"))), _swap(port))


def msts_number(token: bytes) -> int | None:
    """Return the number of an msts token that is one number and nothing else, None for every other.

    Layout: `Cookie: msts=` and a u32, decimal, without a dot; one padding space is tolerated. It names no
    address: GNOME Remote Desktop makes it up, and only the host that made it takes it.
    """
    match = _MSTS_NUMBER.fullmatch(token)
    number = int(match[1]) if match is not None else None
    return number if number is not None and number <= 0xFFFFFFFF else None


def kind(token: bytes) -> str:
    """Return in one stable word what a token says: `address`, `number`, or `opaque` (all others)."""
    if decode_msts(token) is not None:
        return "address"
    return "opaque" if msts_number(token) is None else "number"


def encode_msts(endpoint: Endpoint) -> bytes:
    """Return the msts token, without line end, for an IPv4 endpoint: there is no form for IPv6.

    Raises:
        ValueError: the host is no IPv4 address, or the port is out of 1 to 65535.
    """
    if not 1 <= endpoint.port <= 0xFFFF:
        raise ValueError(f"port {endpoint.port} cannot stand in a routing token: use 1 to 65535")
    address = int.from_bytes(ipaddress.IPv4Address(endpoint.host).packed, "little")
    return b"Cookie: msts=%d.%d.0000" % (address, _swap(endpoint.port))


def describe(token: bytes) -> str:
    """Return a token as printable text for logs: bytes that are no text escaped, cut at a bound."""
    text = token.decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    if len(shown) <= MAX_DESCRIPTION_CHARS:
        return shown
    return shown[: MAX_DESCRIPTION_CHARS - 3] + "..."


def _swap(port: int) -> int:
    return port >> 8 | (port & 0xFF) << 8
