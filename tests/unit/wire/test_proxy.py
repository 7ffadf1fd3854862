"""PROXY protocol headers: examples of the specification's forms, bounds, and what is malformed."""

from typing import Final

import pytest

from rdpbalancer.errors import ProtocolError
from rdpbalancer.model import Endpoint
from rdpbalancer.wire.proxy import MAX_V2_PAYLOAD_BYTES, ProxyHeader, build_proxy, parse_proxy
from tests.fuzz.targets import NEED_MORE, check_monotone, verdict, verdicts_by_prefix

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
CLIENT4: Final = Endpoint("192.0.2.1", 50000)
SERVER4: Final = Endpoint("198.51.100.7", 3389)
CLIENT6: Final = Endpoint("2001:db8::1", 50000)
SERVER6: Final = Endpoint("2001:db8::7", 3389)
ADDRESSES4: Final = bytes.fromhex("c0000201 c6336407 c350 0d3d")
ADDRESSES6: Final = bytes.fromhex(
    "20010db8 00000000 00000000 00000001 20010db8 00000000 00000000 00000007 c350 0d3d"
)


def v2(command: int, family: int, payload: bytes) -> bytes:
    """Frame a version 2 header."""
    return SIGNATURE + bytes([command, family]) + len(payload).to_bytes(2, "big") + payload


LONGEST_V1: Final = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(105) + b"\r\n"

GOOD: Final = {
    "v1-tcp4": (b"PROXY TCP4 192.0.2.1 198.51.100.7 50000 3389\r\n", CLIENT4, SERVER4),
    "v1-tcp6": (b"PROXY TCP6 2001:db8::1 2001:db8::7 50000 3389\r\n", CLIENT6, SERVER6),
    "v1-long-ipv6": (
        b"PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 2001:DB8::7 50000 3389\r\n",
        CLIENT6,
        SERVER6,
    ),
    "v1-mapped": (b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::7 50000 3389\r\n", CLIENT4, SERVER6),
    "v1-port-0": (b"PROXY TCP4 192.0.2.1 198.51.100.7 0 3389\r\n", Endpoint("192.0.2.1", 0), SERVER4),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "v1-unknown-with-addresses": (b"PROXY UNKNOWN ::1 ::1 1 2\r\n", None, None),
    "v1-longest": (LONGEST_V1, None, None),
    "v2-tcp4": (v2(0x21, 0x11, ADDRESSES4), CLIENT4, SERVER4),
    "v2-tcp4-tlv": (v2(0x21, 0x11, ADDRESSES4 + b"\x04\x00\x01\x00"), CLIENT4, SERVER4),
    "v2-tcp6": (v2(0x21, 0x21, ADDRESSES6), CLIENT6, SERVER6),
    "v2-mapped": (
        v2(0x21, 0x21, bytes(10) + b"\xff\xff\xc0\x00\x02\x01" + ADDRESSES6[16:]),
        CLIENT4,
        SERVER6,
    ),
    "v2-local": (v2(0x20, 0x00, b""), None, None),
    "v2-local-with-addresses": (v2(0x20, 0x11, ADDRESSES4), None, None),
    "v2-local-any-family": (v2(0x20, 0xFF, b"\x00"), None, None),
    "v2-unspec": (v2(0x21, 0x00, b""), None, None),
    "v2-udp4": (v2(0x21, 0x12, ADDRESSES4), None, None),
    "v2-udp6": (v2(0x21, 0x22, ADDRESSES6), None, None),
    "v2-unix": (v2(0x21, 0x31, bytes(216)), None, None),
    "v2-longest": (v2(0x21, 0x11, ADDRESSES4.ljust(MAX_V2_PAYLOAD_BYTES, b"\0")), CLIENT4, SERVER4),
}


@pytest.mark.parametrize(("data", "source", "destination"), GOOD.values(), ids=GOOD)
def test_good(data: bytes, source: Endpoint | None, destination: Endpoint | None) -> None:
    """Whole, byte by byte, as a bytearray, and with the client's first packet behind: one verdict."""
    expected = ("value", ProxyHeader(source, destination, len(data)))
    assert expected == verdict(parse_proxy, data)
    assert expected == check_monotone(parse_proxy, data)
    assert expected == verdict(parse_proxy, bytearray(data))
    assert expected == verdict(parse_proxy, data + b"\x03\x00\x00\x0b\r\n")


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (b"\x03\x00\x00\x0b", 1),
        (b"\x16\x03\x01", 1),
        (b"PROXX", 5),
        (b"PROXY\r\n", 6),
        (SIGNATURE[:-1] + b"X", 12),
        (b"PROXY UNKNOWN".ljust(110), 107),
        (v2(0x11, 0x11, ADDRESSES4), 13),  # version 1 in the binary form
        (v2(0x22, 0x11, ADDRESSES4), 13),  # unknown command
        (v2(0x21, 0x41, ADDRESSES4), 14),  # unknown family
        (v2(0x21, 0x13, ADDRESSES4), 14),  # unknown transport
        (v2(0x21, 0x11, ADDRESSES4[:-1]), 16),
        (v2(0x21, 0x21, ADDRESSES6[:-1]), 16),
        (v2(0x21, 0x11, bytes(MAX_V2_PAYLOAD_BYTES + 1)), 16),
        (v2(0x20, 0x00, bytes(MAX_V2_PAYLOAD_BYTES + 1)), 16),
    ],
)
def test_refused_at_the_first_byte_that_proves_it(data: bytes, at: int) -> None:
    """A peer that sends no header, or one beyond its bounds, is refused at once."""
    expected = [NEED_MORE] * at + [("refused", "proxy")] * (len(data) + 1 - at)
    assert expected == verdicts_by_prefix(parse_proxy, data)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY \r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.7 50000 3389\r\n",
        b"PROXY tcp4 192.0.2.1 198.51.100.7 50000 3389\r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 50000 3389\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 50000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 50000 3389 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 50000 3389\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 50000 3389\r\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 50000 3389\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.7 50000 3389\r\n",
        b"PROXY TCP4 192.0.2.\xb2 198.51.100.7 50000 3389\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::7 50000 3389\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.7 50000 3389\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::7 50000 3389\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 3389\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 50000 03389\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 50000 -1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 50000 1_0\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7  3389\r\n",
        LONGEST_V1[:-2] + b" \r\n",
    ],
)
def test_malformed_lines(line: bytes) -> None:
    """Version 1 is judged at its line's end, or at 107 bytes without one, and strictly."""
    assert ("refused", "proxy") == check_monotone(parse_proxy, line)


def test_the_refusal_shows_what_came() -> None:
    """The operator sees which side does not speak the protocol."""
    with pytest.raises(ProtocolError, match=r"must begin with a PROXY header but sent 03 00 00 0b$"):
        parse_proxy(b"\x03\x00\x00\x0b")


@pytest.mark.parametrize(
    ("version", "source", "destination", "name"),
    [
        (1, CLIENT4, SERVER4, "v1-tcp4"),
        (1, CLIENT6, SERVER6, "v1-tcp6"),
        (2, CLIENT4, SERVER4, "v2-tcp4"),
        (2, CLIENT6, SERVER6, "v2-tcp6"),
        (2, CLIENT4, SERVER6, "v2-mapped"),
    ],
)
def test_build(version: int, source: Endpoint, destination: Endpoint, name: str) -> None:
    """What we build is what the specification shows; an IPv4 side beside an IPv6 one is mapped."""
    assert GOOD[name][0] == build_proxy(version, source, destination)


@pytest.mark.parametrize(
    ("version", "source"),
    [
        (0, CLIENT4),
        (3, CLIENT4),
        (1, Endpoint("ts1", 1)),
        (2, Endpoint("192.0.2.1", 65536)),
        (1, Endpoint("::1", -1)),
    ],
)
def test_build_refuses_what_no_header_can_say(version: int, source: Endpoint) -> None:
    """Names, impossible ports and unknown versions are the caller's mistake."""
    with pytest.raises(ValueError, match=r"unknown: use 1 or 2|does not appear to be|out of 0 to 65535"):
        build_proxy(version, source, SERVER4)
