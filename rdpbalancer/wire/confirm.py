"""The other packets of the X.224 handshake: what servers answer, and what we say ourselves.

Parsed: the Connection Confirm. Built: the Connection Request (health probe, simulated clients), the
Connection Confirm with or without a failure, and the Disconnect Request.
"""

from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Final

import msgspec

from rdpbalancer.errors import ProtocolError
from rdpbalancer.wire import layout
from rdpbalancer.wire.request import MAX_REQUEST_BYTES

# A request for TLS or NLA, without cookie: any server that is alive answers it with a Connection Confirm.
PROBE: Final = bytes.fromhex("030000130ee000000000000100080003000000")
# Clients try once after it; after an RDP_NEG_FAILURE they come back three times, some for ever.
DISCONNECT: Final = bytes.fromhex("0300000b06800000000000")

_CONNECTION_REQUEST: Final = 0xE0
_CONNECTION_CONFIRM: Final = 0xD0
_MIN_CONFIRM_BYTES: Final = 11
_REQUEST, _RESPONSE, _FAILURE = 1, 2, 3  # types of negotiation data
_CORRELATION_INFO_PRESENT: Final = 0x08
_SOURCE_REFERENCE: Final = 0x1234  # what Windows and xrdp say; clients ignore it


class SecurityProtocol(IntFlag):
    """Security protocols, asked for as a set, selected as one (MS-RDPBCGR 2.2.1.1.1, 2.2.1.2.1)."""

    RDP = 0
    SSL = 1
    HYBRID = 2
    RDSTLS = 4
    HYBRID_EX = 8
    RDSAAD = 0x10


class NegotiationFailure(IntEnum):
    """Why a server does not go on (MS-RDPBCGR 2.2.1.2.2). It closes after saying so."""

    SSL_REQUIRED = 1
    SSL_NOT_ALLOWED = 2
    SSL_CERT_NOT_ON_SERVER = 3
    INCONSISTENT_FLAGS = 4
    HYBRID_REQUIRED = 5
    SSL_WITH_USER_AUTH_REQUIRED = 6


class Confirm(msgspec.Struct, frozen=True):
    """A Connection Confirm of `length` bytes. Both `selected_protocol` and `failure` None: it says neither.

    `failure` is the number as sent, which need not be a `NegotiationFailure`.
    """

    selected_protocol: int | None
    negotiation_flags: int
    failure: int | None
    length: int


def parse_confirm(buf: bytes | bytearray) -> Confirm | None:
    """Read a server's Connection Confirm from all bytes received so far.

    Layout (MS-RDPBCGR 2.2.1.2): TPKT header, X.224 header with code 0xD0, then nothing or 8 bytes of
    RDP_NEG_RSP or RDP_NEG_FAILURE. Other data up to the 259 bytes of any such packet is passed over.
    None: need more.

    Raises:
        ProtocolError: "not-connection-confirm", at the first byte that proves it. The packet came from the
            server, so the caller says whose fault it is.
    """
    length = _confirm_length(buf)
    if length is None or len(buf) < length:
        return None
    return _read_confirm(bytes(buf[_MIN_CONFIRM_BYTES:length]), length)


# Servers say one of a handful of things.
@lru_cache(maxsize=64)
def _read_confirm(data: bytes, length: int) -> Confirm:
    if len(data) != 8 or data[2:4] != b"\x08\x00" or data[0] not in {_RESPONSE, _FAILURE}:
        return Confirm(None, 0, None, length)
    negotiation = layout.NEGOTIATION.parse(data)
    flags, value = negotiation["flags"], negotiation["value"]
    if negotiation["type"] == _FAILURE:
        return Confirm(None, flags, value, length)
    return Confirm(value, flags, None, length)


def build_request(
    *,
    cookie: bytes | None = None,
    token: bytes | None = None,
    requested_protocols: int | None = 3,
    negotiation_flags: int = 0,
    correlation_id: bytes | None = None,
) -> bytes:
    """Build a Connection Request. Without `requested_protocols` there is no negotiation data.

    `cookie` is the mstshash value, `token` the whole text; both get their line end here. A correlation id
    (16 bytes) also sets its flag, CORRELATION_INFO_PRESENT.

    Raises:
        ValueError: the parts contradict each other, hold a line end, or exceed what a request can carry.
    """
    lines = [] if token is None else [token]
    if cookie is not None:
        lines.append(b"Cookie: mstshash=" + cookie)
    if any(b"\r\n" in line for line in lines):
        raise ValueError("a cookie or token cannot contain CR LF: that is its end")
    variable = b"".join(line + b"\r\n" for line in lines)
    if correlation_id is not None:
        if requested_protocols is None or len(correlation_id) != 16:
            raise ValueError("a correlation id has 16 bytes and follows requested protocols")
        negotiation_flags |= _CORRELATION_INFO_PRESENT
    if requested_protocols is not None:
        variable += _negotiation(_REQUEST, negotiation_flags, requested_protocols)
    if correlation_id is not None:
        variable += layout.CORRELATION.build({"identifier": correlation_id})
    if len(variable) > MAX_REQUEST_BYTES - _MIN_CONFIRM_BYTES:
        raise ValueError(f"a Connection Request of {MAX_REQUEST_BYTES} bytes has no room for that text")
    request: bytes = layout.TPDU.build({"code": _CONNECTION_REQUEST, "variable": variable})
    return request


def build_confirm(*, selected_protocol: int | None, negotiation_flags: int = 0) -> bytes:
    """Build a Connection Confirm; with None it is bare, as for a request without RDP_NEG_REQ."""
    if selected_protocol is None:
        return _confirm(b"")
    return _confirm(_negotiation(_RESPONSE, negotiation_flags, selected_protocol))


def build_failure(code: int) -> bytes:
    """Build a Connection Confirm that refuses with an RDP_NEG_FAILURE (see `NegotiationFailure`)."""
    return _confirm(_negotiation(_FAILURE, 0, code))


def _confirm_length(buf: bytes | bytearray) -> int | None:
    """Judge as much of the header as has come; return the packet's length once that is known."""
    have = len(buf)
    if have >= 1 and buf[0] != 3:
        raise _not_confirm(buf, "is not TPKT")
    if have >= 3 and buf[2] > MAX_REQUEST_BYTES >> 8:
        raise _not_confirm(buf, "is too long")
    if have < 4:
        return None
    length = buf[2] << 8 | buf[3]
    if not _MIN_CONFIRM_BYTES <= length <= MAX_REQUEST_BYTES:
        raise _not_confirm(buf, f"has {length} bytes")
    if have > 4 and buf[4] != length - 5:
        raise _not_confirm(buf, f"has X.224 length {buf[4]} in {length} bytes")
    if have > 5 and buf[5] != _CONNECTION_CONFIRM:
        raise _not_confirm(buf, f"has X.224 code {buf[5]:#04x}")
    return length


def _not_confirm(buf: bytes | bytearray, what: str) -> ProtocolError:
    shown = bytes(buf[:_MIN_CONFIRM_BYTES]).hex(" ")
    return ProtocolError(
        "not-connection-confirm", f"the server's answer {what}, so it is no Connection Confirm: {shown}"
    )


def _negotiation(kind: int, flags: int, value: int) -> bytes:
    data: bytes = layout.NEGOTIATION.build({"type": kind, "flags": flags, "value": value})
    return data


def _confirm(variable: bytes) -> bytes:
    packet: bytes = layout.TPDU.build(
        {"code": _CONNECTION_CONFIRM, "source_reference": _SOURCE_REFERENCE, "variable": variable}
    )
    return packet
