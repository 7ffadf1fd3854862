"""The first packet of a client: an X.224 Connection Request, perhaps behind a preconnection PDU.

The framing is judged byte by byte, so that a stranger is refused at the first byte that cannot be RDP.
What a complete frame carries is read with good will: the server gets the request as it came and decides,
so an oddity inside consistent framing yields a field of `None`, not an error.
"""

import re
from functools import lru_cache
from typing import Final

import msgspec

from rdpbalancer.errors import ProtocolError
from rdpbalancer.wire import layout

MAX_REQUEST_BYTES: Final = 259  # 4 of TPKT, 1 of LI, and the 254 that LI can say: 255 is reserved
MAX_PRECONNECTION_BYTES: Final = 512  # 247 characters; real ones name a machine and stay under 130 bytes

_TPKT_VERSION: Final = 3
_MIN_REQUEST_BYTES: Final = 11
_CONNECTION_REQUEST: Final = 0xE0
_COOKIE_PREFIX: Final = b"cookie: mstshash="
_COOKIE_OR_MSTS: Final = b"cookie: msts"
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

# The shortest prefixes that prove a stranger, and what he most likely speaks. No longer ones: the code
# may not depend on how the bytes were cut. One byte where it is odd (a preconnection PDU's size is even).
_STRANGERS: Final = {
    b"\x16": "tls",
    b"\x16\x03": "tls",
    b"S": "ssh",
    b"G": "http",
    b"C": "http",
    b"O": "http",
    b"DE": "http",
    b"HE": "http",
    b"PA": "http",
    b"PO": "http",
    b"PU": "http",
    b"TR": "http",
}
_ADVICE: Final = {
    "tls": "TLS from the first byte hides the request; for such clients use a service of mode tcp",
    "http": "this looks like HTTP; the port serves RDP",
    "ssh": "this looks like SSH; the port serves RDP",
    "not-tpkt": "neither a TPKT packet nor a preconnection PDU",
}


class Preconnection(msgspec.Struct, frozen=True):
    """A preconnection PDU: which machine behind a host is meant. `text` is as sent, without its NUL."""

    id: int
    text: str | None
    version: int


class ConnectionRequest(msgspec.Struct, frozen=True):
    """What a client asks for.

    `cookie` is the mstshash value as sent; bytes that are not UTF-8 are `%XX`. `token` is the text of a
    routing token without its line end: `Cookie: msts=...`, `tsv://...`, any text that is no mstshash
    cookie. `requested_protocols` is None without RDP_NEG_REQ. `request_offset` counts the bytes before the
    Connection Request, `length` all bytes read here: what lies behind belongs to the session.
    """

    cookie: str | None
    token: bytes | None
    requested_protocols: int | None
    negotiation_flags: int
    correlation_id: bytes | None
    preconnection: Preconnection | None
    request_offset: int
    length: int


def frame_length(buf: bytes | bytearray, at: int = 0) -> int | None:
    """Return the length in bytes of the TPKT packet that begins at `at`.

    Layout (RFC 1006, 6): version u8 = 3, reserved u8 (ignored), length u16be (counts its own 4 bytes),
    which is 11 to 259 for a Connection Request. None: fewer than four bytes so far.

    Raises:
        ProtocolError: not TPKT ("not-tpkt" or what it looks like), "oversized", or "malformed" (too short).
    """
    have = len(buf) - at
    if have >= 1 and buf[at] != _TPKT_VERSION:
        raise _stranger(buf, at, proof_bytes=1)
    if have >= 3 and buf[at + 2] > MAX_REQUEST_BYTES >> 8:
        raise _oversized()
    if have < 4:
        return None
    length = buf[at + 2] << 8 | buf[at + 3]
    if length > MAX_REQUEST_BYTES:
        raise _oversized()
    if length < _MIN_REQUEST_BYTES:
        raise ProtocolError("malformed", f"a TPKT packet of {length} bytes cannot hold a Connection Request")
    return length


def parse_request(buf: bytes | bytearray) -> ConnectionRequest | None:
    """Read the first packet of a connection from all bytes received so far.

    Layout (MS-RDPBCGR 2.2.1.1): TPKT header, X.224 header of seven bytes, then each optional: routing token
    or cookie, RDP_NEG_REQ, RDP_NEG_CORRELATION_INFO. An RDP_PRECONNECTION_PDU (MS-RDPEPS 2.2.1) may precede.
    None: call again when more has come; at most 771 bytes are ever needed.

    Raises:
        ProtocolError: "tls", "http", "ssh", "not-tpkt", "oversized", "malformed", "not-connection-request".
            It comes at the first byte that proves it; close then, no later byte changes the verdict.
    """
    offset = 0
    preconnection = None
    if buf and buf[0] != _TPKT_VERSION:
        size = _preconnection_size(buf)
        if size is None or len(buf) < size:
            return None
        offset = size
        preconnection = _read_preconnection(bytes(buf[:size]))
    length = frame_length(buf, offset)
    if length is None:
        return None
    _check_x224(buf, offset, length)
    end = offset + length
    if len(buf) < end:
        return None
    cookie, token, negotiation = _read_variable(bytes(buf[offset + _MIN_REQUEST_BYTES : end]))
    protocols, flags, correlation_id = _read_negotiation(negotiation)
    return ConnectionRequest(cookie, token, protocols, flags, correlation_id, preconnection, offset, end)


def _check_x224(buf: bytes | bytearray, at: int, length: int) -> None:
    """Refuse an X.224 header that is no Connection Request of class 0, as far as it has come.

    References are ignored, as are class 0's option bits (MS-RDPBCGR 3.3.5.3.1 checks the class only).
    """
    have = len(buf) - at
    if have > 4 and buf[at + 4] != length - 5:
        raise ProtocolError("malformed", f"X.224 length {buf[at + 4]} does not fit TPKT length {length}")
    if have > 5 and buf[at + 5] != _CONNECTION_REQUEST:
        raise ProtocolError(
            "not-connection-request", f"the first X.224 packet has code {buf[at + 5]:#04x}, expected 0xe0"
        )
    if have > 10 and buf[at + 10] >> 4:
        raise ProtocolError(
            "malformed", f"X.224 class {buf[at + 10] >> 4} is asked for, RDP knows class 0 only"
        )


def _read_variable(variable: bytes) -> tuple[str | None, bytes | None, bytes]:
    """Split what follows the X.224 header into cookie, routing token and negotiation data.

    One line is allowed, a cookie or a token. Where a client sends both, the first of each kind counts.
    A line with control characters is neither (TPDU parameters of other protocols look so).
    """
    cookie = token = None
    at = 0
    while not _is_negotiation(variable, at):
        end, behind = _line_end(variable, at)
        if end < 0:
            return cookie, token, b""
        line = variable[at:end]
        at = behind
        if not line or _CONTROL.search(line):
            continue
        if line[: len(_COOKIE_PREFIX)].lower() != _COOKIE_PREFIX:
            token = token or line
        elif cookie is None and len(line) > len(_COOKIE_PREFIX):
            cookie = _text(line[len(_COOKIE_PREFIX) :])
    return cookie, token, variable[at:]


def _text(raw: bytes) -> str:
    """Return a cookie's value as text, each byte that is not UTF-8 as ``%XX``.

    Not with a backslash, as Python would: that one stands between the domain and the user.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        kept = raw.decode("utf-8", "surrogateescape")
        return "".join(
            f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in kept
        )


def _line_end(variable: bytes, at: int) -> tuple[int, int]:
    """Find where the line that begins at `at` ends, and where the next begins; (-1, -1): it has no end.

    The specification's end is CR LF. Where there is none, a lone LF ends a `Cookie: msts...` line if nothing
    but negotiation data follows: some scanners and scripts write it so, and no other reading is possible.
    """
    end = variable.find(b"\r\n", at)
    if end >= 0:
        return end, end + 2
    end = variable.find(b"\n", at)
    if end >= 0 and variable[at : at + len(_COOKIE_OR_MSTS)].lower() == _COOKIE_OR_MSTS:
        behind = end + 1
        if behind == len(variable) or _is_negotiation(variable, behind):
            return end, behind
    return -1, -1


def _is_negotiation(variable: bytes, at: int) -> bool:
    """Whether exactly an RDP_NEG_REQ (8 bytes), perhaps with correlation info (36 more), begins at `at`."""
    return len(variable) - at in {8, 44} and variable[at] == 1 and variable[at + 2 : at + 4] == b"\x08\x00"


def _read_negotiation(data: bytes) -> tuple[int | None, int, bytes | None]:
    """Return requested protocols, flags and correlation id of 0, 8 or 44 bytes of negotiation data.

    The correlation id is taken by its own type and length: clients set its flag, servers do not insist.
    """
    if not data:
        return None, 0, None
    protocols, flags = _read_request(data[:8])
    correlation_id = None
    if data[8:9] == b"\x06" and data[10:12] == b"\x24\x00":
        correlation_id = layout.CORRELATION.parse(data[8:])["identifier"]
    return protocols, flags, correlation_id


# Clients of one kind all send the same eight bytes. Strangers who send others cost what everybody did before.
@lru_cache(maxsize=256)
def _read_request(data: bytes) -> tuple[int, int]:
    negotiation = layout.NEGOTIATION.parse(data)
    return negotiation["value"], negotiation["flags"]


def _preconnection_size(buf: bytes | bytearray) -> int | None:
    """Return the size in bytes of the preconnection PDU that begins `buf`; None: need more.

    Layout (MS-RDPEPS 2.2.1.1, 2.2.1.2), little-endian: size u32 (16 or 18 + 2n), flags u32 = 0,
    version u32 (1 for 16 bytes, else 2), id u32; version 2: n u16, then n UTF-16 code units.
    """
    if buf[0] % 2:
        raise _stranger(buf, 0, proof_bytes=1)
    if len(buf) < 2:
        return None
    size = buf[0] | buf[1] << 8
    if not 16 <= size <= MAX_PRECONNECTION_BYTES:
        raise _stranger(buf, 0, proof_bytes=2)
    if any(buf[2:4]):
        raise _stranger(buf, 0, proof_bytes=3)
    version = 1 if size == 16 else 2
    expected = bytes(4) + version.to_bytes(4, "little")
    count = (size - 18 >> 1 if version == 2 else 0).to_bytes(2, "little")
    if not expected.startswith(buf[4:12]) or (version == 2 and not count.startswith(buf[16:18])):
        raise ProtocolError("malformed", f"a preconnection PDU of {size} bytes contradicts itself")
    return size


def _read_preconnection(data: bytes) -> Preconnection:
    """Read a complete preconnection PDU. A text of no characters is None."""
    pdu = layout.PRECONNECTION.parse(data)
    text = pdu["text"][2:].decode("utf-16-le", "backslashreplace").partition("\0")[0]
    return Preconnection(id=pdu["id"], text=text or None, version=pdu["version"])


def _stranger(buf: bytes | bytearray, at: int, *, proof_bytes: int) -> ProtocolError:
    """Return the error for a connection whose first `proof_bytes` cannot begin anything of RDP.

    The code follows from those bytes alone; only the message may tell more, from what has come besides.
    """
    code = _STRANGERS.get(bytes(buf[at : at + proof_bytes]), "not-tpkt")
    advice = _ADVICE[code]
    if buf.startswith((b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n"), at):
        advice = "a PROXY protocol header from a peer that accept_proxy does not name"
    return ProtocolError(code, f"the connection begins with {bytes(buf[at : at + 8]).hex(' ')}: {advice}")


def _oversized() -> ProtocolError:
    return ProtocolError("oversized", f"a Connection Request has at most {MAX_REQUEST_BYTES} bytes")
