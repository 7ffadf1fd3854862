"""PROXY protocol, versions 1 and 2, both ways: who the client is when a balancer stands in front.

Source: proxy-protocol.txt of HAProxy, sections 2.1 and 2.2. Only a peer whose network the configuration
names may say this; whether it may is not decided here.
"""

import ipaddress
import re
from typing import Final

import msgspec

from rdpbalancer.errors import ProtocolError
from rdpbalancer.model import Endpoint
from rdpbalancer.wire import layout

MAX_V1_BYTES: Final = 107  # the longest line of version 1, CR LF included, as its specification counts it
MAX_V2_PAYLOAD_BYTES: Final = 2048  # 36 of addresses and a PP2_TYPE_SSL with names; 65535 is for no sane peer

_V1_PREFIX: Final = b"PROXY "
_V2_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_HEADER_BYTES: Final = 16
_LOCAL, _PROXY = 0x20, 0x21  # version 2 in the upper half
_TCP4, _TCP6 = 0x11, 0x21
_ADDRESS_BYTES: Final = {_TCP4: 12, _TCP6: 36}
_V1_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyHeader(msgspec.Struct, frozen=True):
    """A PROXY header of `length` bytes. Endpoints None (LOCAL, UNKNOWN, not TCP): the socket's own hold.

    A port may be 0, which the protocol allows. An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) is
    given as IPv4: keyed by IPv6 prefix, all such clients would be one.
    """

    source: Endpoint | None
    destination: Endpoint | None
    length: int


def parse_proxy(buf: bytes | bytearray) -> ProxyHeader | None:
    """Read a PROXY header from all bytes received so far. None: need more, at most 2064 bytes.

    Raises:
        ProtocolError: "proxy": there is no header, or it is malformed. The peer is a configured one, so
            its operator has to enable the PROXY protocol there, or to take it out of accept_proxy here.
    """
    start = bytes(buf[: len(_V2_SIGNATURE)])
    if _V2_SIGNATURE.startswith(start):
        return _parse_v2(buf)
    if _V1_PREFIX.startswith(start[: len(_V1_PREFIX)]):
        return _parse_v1(buf)
    raise _malformed(f"the peer must begin with a PROXY header but sent {start.hex(' ')}")


def build_proxy(version: int, source: Endpoint, destination: Endpoint) -> bytes:
    """Build a header for a TCP connection. Of mixed families, the IPv4 side is written as mapped IPv6.

    Raises:
        ValueError: a host is no IP literal, a port is out of 0 to 65535, or the version is neither 1 nor 2.
    """
    if version not in {1, 2}:
        raise ValueError(f"PROXY protocol version {version} is unknown: use 1 or 2")
    ports = (source.port, destination.port)
    if not all(0 <= port <= 0xFFFF for port in ports):
        raise ValueError(f"ports {ports} are out of 0 to 65535")
    addresses = [ipaddress.ip_address(source.host), ipaddress.ip_address(destination.host)]
    four = all(address.version == 4 for address in addresses)
    if not four:
        addresses = [_as_ipv6(address) for address in addresses]
    if version == 1:
        hosts = " ".join(address.compressed for address in addresses)
        return f"PROXY {'TCP4' if four else 'TCP6'} {hosts} {ports[0]} {ports[1]}\r\n".encode("ascii")
    return _build_v2(_TCP4 if four else _TCP6, addresses, ports)


def _parse_v1(buf: bytes | bytearray) -> ProxyHeader | None:
    """Read version 1: `PROXY TCP4|TCP6 source destination source-port destination-port CR LF`."""
    end = buf.find(b"\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(buf) >= MAX_V1_BYTES:
            raise _malformed(f"version 1 has no line end within {MAX_V1_BYTES} bytes")
        return None
    line = bytes(buf[: end + 1])
    fields = line.removesuffix(b"\r\n").split(b" ")
    if fields[-1].endswith(b"\n"):
        raise _malformed("version 1 must end with CR LF")
    if fields[1] == b"UNKNOWN":  # whatever follows it is to be ignored
        return ProxyHeader(None, None, end + 1)
    if fields[1] not in {b"TCP4", b"TCP6"} or len(fields) != 6:
        raise _malformed(f"version 1 line {line!r} has the wrong fields")
    four = fields[1] == b"TCP4"
    source = _v1_endpoint(fields[2], fields[4], four=four)
    destination = _v1_endpoint(fields[3], fields[5], four=four)
    return ProxyHeader(source, destination, end + 1)


def _v1_endpoint(host: bytes, port: bytes, *, four: bool) -> Endpoint:
    try:
        text = host.decode("ascii")
        address = ipaddress.IPv4Address(text) if four else ipaddress.IPv6Address(text)
    except ValueError as error:
        raise _malformed(f"version 1 address: {error}") from error
    if b"%" in host or not _V1_PORT.fullmatch(port) or int(port) > 0xFFFF:
        raise _malformed(f"version 1 address {host!r} or port {port!r} is out of range")
    return _endpoint(address, int(port))


def _parse_v2(buf: bytes | bytearray) -> ProxyHeader | None:
    """Read version 2: signature, version and command u8, family u8, length u16be, addresses, TLVs."""
    have = len(buf)
    if have > 12 and buf[12] not in {_LOCAL, _PROXY}:
        raise _malformed(f"version 2 command {buf[12]:#04x} is unknown")
    local = have > 12 and buf[12] == _LOCAL  # its family and addresses are to be ignored
    if have > 13 and not local and (buf[13] >> 4 > 3 or buf[13] & 0xF > 2):
        raise _malformed(f"version 2 family {buf[13]:#04x} is unknown")
    if have < _V2_HEADER_BYTES:
        return None
    payload_bytes = buf[14] << 8 | buf[15]
    needed_bytes = 0 if local else _ADDRESS_BYTES.get(buf[13], 0)
    if not needed_bytes <= payload_bytes <= MAX_V2_PAYLOAD_BYTES:
        raise _malformed(
            f"version 2 has {payload_bytes} bytes, expected {needed_bytes} to {MAX_V2_PAYLOAD_BYTES}"
        )
    end = _V2_HEADER_BYTES + payload_bytes
    if have < end:
        return None
    if not needed_bytes:
        return ProxyHeader(None, None, end)
    header = layout.PROXY_V2.parse(bytes(buf[:end]))
    shape = layout.PROXY_TCP4 if header["family"] == _TCP4 else layout.PROXY_TCP6
    pair = shape.parse(header["payload"][:needed_bytes])
    return ProxyHeader(
        _endpoint(ipaddress.ip_address(pair["source"]), pair["source_port"]),
        _endpoint(ipaddress.ip_address(pair["destination"]), pair["destination_port"]),
        end,
    )


def _build_v2(family: int, addresses: list[_Address], ports: tuple[int, int]) -> bytes:
    shape = layout.PROXY_TCP4 if family == _TCP4 else layout.PROXY_TCP6
    payload = shape.build(
        {
            "source": addresses[0].packed,
            "destination": addresses[1].packed,
            "source_port": ports[0],
            "destination_port": ports[1],
        }
    )
    header: bytes = layout.PROXY_V2.build({"version_command": _PROXY, "family": family, "payload": payload})
    return header


def _as_ipv6(address: _Address) -> ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    return address


def _endpoint(address: _Address, port: int) -> Endpoint:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return Endpoint(str(address.ipv4_mapped), port)
    return Endpoint(str(address), port)


def _malformed(message: str) -> ProtocolError:
    return ProtocolError("proxy", f"PROXY protocol: {message}")
