"""What the vectors leave open: the byte at which a stranger is refused, odd text, preconnection PDUs."""

import pytest

from rdpbalancer.errors import ProtocolError
from rdpbalancer.wire.confirm import build_request
from rdpbalancer.wire.request import (
    MAX_PRECONNECTION_BYTES,
    MAX_REQUEST_BYTES,
    ConnectionRequest,
    Preconnection,
    frame_length,
    parse_request,
)
from tests.fuzz.targets import check_monotone, verdict, verdicts_by_prefix

NEGOTIATION = bytes.fromhex("0100080003000000")
CORRELATION = bytes.fromhex("06002400") + bytes(range(16, 32)) + bytes(16)
BARE = bytes.fromhex("0300000b06e00000000000")


def framed(variable: bytes) -> bytes:
    """Put correct TPKT and X.224 headers before `variable`."""
    length = len(variable) + 11
    return b"\x03\x00" + length.to_bytes(2, "big") + bytes([length - 5, 0xE0]) + bytes(5) + variable


def parsed(data: bytes) -> ConnectionRequest:
    """Return the request that `data` must be."""
    request = parse_request(data)
    assert request is not None
    return request


def pcb(size: int, *, flags: int = 0, version: int = 2, count: int | None = None, text: bytes = b"") -> bytes:
    """Build a preconnection PDU, right or wrong, with id 7."""
    head = b"".join(value.to_bytes(4, "little") for value in (size, flags, version, 7))
    return head if count is None else head + count.to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("data", "code", "at"),
    [
        (b"\x16\x03\x01\x02\x00", "tls", 2),
        (b"SSH-2.0-x", "ssh", 1),
        (b"GET / HTTP/1.1", "http", 1),
        (b"CONNECT a:1", "http", 1),
        (b"OPTIONS * HTTP/1.1", "http", 1),
        (b"POST / HTTP/1.1", "http", 2),
        (b"PUT / HTTP/1.1", "http", 2),
        (b"PATCH / HTTP/1.1", "http", 2),
        (b"HEAD / HTTP/1.1", "http", 2),
        (b"DELETE / HTTP/1.1", "http", 2),
        (b"TRACE / HTTP/1.1", "http", 2),
        (b"\x05\x01\x00", "not-tpkt", 1),  # SOCKS5
        (b"\x04\x01\x0d\x3d\x7f\x00\x00\x01\x00", "not-tpkt", 3),  # SOCKS4
        (b"PROXY TCP4 192.0.2.1", "not-tpkt", 2),
        (b"\r\n\r\n\x00\r\nQUIT\n", "not-tpkt", 1),
        (b"\x00\x00\x00\x00", "not-tpkt", 2),
        (b"\x0e\x00\x00\x00", "not-tpkt", 2),
        (b"\x02\x02\x00\x00", "not-tpkt", 2),  # 514 bytes of preconnection PDU
        (b"\x10\x00\x01\x00", "not-tpkt", 3),
        (b"\x10\x00\x00\x01", "not-tpkt", 4),
        (b"\x03\x00\x02\x00", "oversized", 3),
        (b"\x03\x00\x01\x04\xff", "oversized", 4),
        (b"\x03\x00\x00\x0a\x05", "malformed", 4),
        (b"\x03\x00\x00\x0b\x07\xe0", "malformed", 5),
        (b"\x03\x00\x00\x0b\x06\xf0", "not-connection-request", 6),
        (b"\x03\x00\x00\x0b\x06\xe0\x00\x00\x00\x00\x10", "malformed", 11),
        (b"\x03\x00\x00\x0b\x06\xe0\x00\x00\x00\x00\x40", "malformed", 11),
    ],
)
def test_refused_at_the_first_byte_that_proves_it(data: bytes, code: str, at: int) -> None:
    """A stranger is held not one byte longer than needed, and the code does not depend on the cut."""
    expected = [("need more", None)] * at + [("refused", code)] * (len(data) + 1 - at)
    assert expected == verdicts_by_prefix(parse_request, data)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"\x16\x03\x01", "mode tcp"),
        (b"GET /", "47 45 54 20 2f"),
        (b"PROXY TCP4 192.0.2.1", "accept_proxy"),
        (b"\r\n\r\n\x00\r\nQUIT\n\x21", "accept_proxy"),
        (b"\x05" * 1000, "05 05 05 05 05 05 05 05: "),
        (b"\x03\x00\x00\x2b\x25", "X.224 length 37 does not fit TPKT length 43"),
        (b"\x03\x00\x02", "at most 259 bytes"),
    ],
)
def test_the_message_says_what_to_do(data: bytes, hint: str) -> None:
    """A refusal's text names what came, bounded, and where to look."""
    with pytest.raises(ProtocolError) as caught:
        parse_request(data)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 200


def test_option_bits_of_class_0_are_ignored() -> None:
    """Only the class is checked, the upper half of its byte."""
    assert parsed(BARE) == parsed(BARE[:10] + b"\x03")


def test_references_and_reserved_byte_are_ignored() -> None:
    """TPKT's reserved byte, DST-REF and SRC-REF may be anything."""
    assert parsed(BARE) == parsed(bytes.fromhex("03ff000b06e01234567800"))


@pytest.mark.parametrize(
    ("buf", "expected"),
    [(b"", None), (b"\x03\x00\x00", None), (BARE, 11), (b"\x03\xff\x01\x03", MAX_REQUEST_BYTES)],
)
def test_frame_length(buf: bytes, expected: int | None) -> None:
    """The length is known with the fourth byte, and only that is looked at."""
    assert expected == frame_length(buf)


@pytest.mark.parametrize(
    ("buf", "code"),
    [
        (b"\x16", "tls"),
        (b"\x00", "not-tpkt"),
        (b"\x03\x00\x02", "oversized"),
        (b"\x03\x00\x00\x0a", "malformed"),
    ],
)
def test_frame_length_refuses(buf: bytes, code: str) -> None:
    """Used alone, `frame_length` knows no preconnection PDU and judges TPKT strictly."""
    with pytest.raises(ProtocolError) as caught:
        frame_length(buf)
    assert code == caught.value.code


@pytest.mark.parametrize(
    ("text", "cookie", "token"),
    [
        (b"cookie: MSTShash=Alice\r\n", "Alice", None),
        (b"Cookie: mstshash=alice \r\n", "alice ", None),
        (b"Cookie: mstshash=CORP\\alice\r\n", "CORP\\alice", None),
        (b"Cookie: mstshash=a\xe9\r\n", "a%E9", None),
        (b"Cookie: mstshash=al\x00ice\r\n", None, None),
        (b"Cookie: mstshash=al\nice\r\n", None, None),
        (b"Cookie: mstshash=al\x7fice\r\n", None, None),
        (b"Cookie:mstshash=alice\r\n", None, b"Cookie:mstshash=alice"),
        (b"Cookie: msts=1.2.3 \r\n", None, b"Cookie: msts=1.2.3 "),
        (b"tsv://x\x00\r\n", None, None),
        (b"\xe4\xff\r\n", None, b"\xe4\xff"),
        (b"\r\n", None, None),
        (b"\r\nCookie: mstshash=alice\r\n", "alice", None),
        (b"Cookie: mstshash=alice\r\nCookie: msts=1.2.3\r\n", "alice", b"Cookie: msts=1.2.3"),
        (b"Cookie: mstshash=\r\nCookie: mstshash=alice\r\n", "alice", None),
        (b"Cookie: mstshash=alice\r\nCookie: mstshash=bob\r\n", "alice", None),
        (b"first\r\nsecond\r\n", None, b"first"),
        (b"COOKIE: MSTS=1.2.3\n", None, b"COOKIE: MSTS=1.2.3"),
    ],
)
@pytest.mark.parametrize("negotiation", [b"", NEGOTIATION, NEGOTIATION + CORRELATION])
def test_text(text: bytes, cookie: str | None, token: bytes | None, negotiation: bytes) -> None:
    """Cookie and token are what a line says, whatever follows; and what follows is read whatever they say."""
    request = parsed(framed(text + negotiation))
    assert (cookie, token) == (request.cookie, request.token)
    assert (3 if negotiation else None) == request.requested_protocols
    assert (bytes(range(16, 32)) if len(negotiation) == 44 else None) == request.correlation_id


@pytest.mark.parametrize(
    "variable",
    [
        b"Cookie: mstshash=alice",  # no end
        b"Cookie: mstshash=alice\r" + NEGOTIATION,  # CR alone
        b"tsv://somewhere\n" + NEGOTIATION,  # LF alone, and no msts
        b"Cookie: mstshash=alice\nmore" + NEGOTIATION,  # LF, but more than negotiation data behind
        b"Cookie: mstshash=alice" + bytes.fromhex("010008000a000000"),  # a 0A of the protocols is no end
        NEGOTIATION + b"Cookie: mstshash=nmap\r\n",  # negotiation data where it does not belong
        NEGOTIATION + b"\x00",
        NEGOTIATION + CORRELATION[:-1],
        NEGOTIATION[:-1],
        b"\x02" + NEGOTIATION[1:],  # a response
        bytes.fromhex("0100090003000000"),
        bytes.fromhex("0100080103000000"),
        bytes(248),
    ],
)
def test_oddities_inside_consistent_framing_are_nothing(variable: bytes) -> None:
    """What cannot be read by the specification is not guessed at; the server gets it and decides."""
    data = framed(variable)
    assert ConnectionRequest(None, None, None, 0, None, None, 0, len(data)) == parsed(data)


@pytest.mark.parametrize(
    "info",
    [b"\x07" + CORRELATION[1:], b"\x06\x00\x25" + CORRELATION[3:], CORRELATION[:3] + b"\1" + bytes(32)],
)
def test_correlation_info_of_wrong_shape_gives_no_id(info: bytes) -> None:
    """The negotiation request before it still counts."""
    request = parsed(framed(NEGOTIATION + info))
    assert (3, None) == (request.requested_protocols, request.correlation_id)


def test_largest_request_behind_largest_preconnection() -> None:
    """771 bytes are taken, and not one more is ever needed."""
    cookie = b"u" * (MAX_REQUEST_BYTES - 11 - 19 - 8)
    text = "é".encode("utf-16-le") * 247
    data = pcb(MAX_PRECONNECTION_BYTES, count=247, text=text) + build_request(cookie=cookie)
    expected = ConnectionRequest(
        cookie.decode(), None, 3, 0, None, Preconnection(id=7, text="é" * 247, version=2), 512, 771
    )
    assert 771 == len(data)
    assert ("value", expected) == check_monotone(parse_request, data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (pcb(18, count=0), None),
        (pcb(20, count=1, text=b"\0\0"), None),
        (pcb(22, count=2, text=b"a\0\0\0"), "a"),
        (pcb(24, count=3, text=b"a\0\0\0b\0"), "a"),
        (pcb(20, count=1, text=b"\x00\xd8"), "\\x00\\xd8"),
    ],
)
def test_preconnection_text(data: bytes, text: str | None) -> None:
    """The text ends at its NUL; empty is None; what is no UTF-16 is escaped."""
    assert Preconnection(id=7, text=text, version=2) == parsed(data + BARE).preconnection


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (pcb(16, version=2), 9),
        (pcb(18, version=1, count=0), 9),
        (pcb(18, version=3, count=0), 9),
        (pcb(18, version=0x102, count=0), 10),
        (pcb(18, version=0x1000002, count=0), 12),
        (pcb(18, flags=1, count=0), 5),
        (pcb(20, count=0, text=b"\0\0"), 17),
        (pcb(20, count=0x101, text=b"\0\0"), 18),
    ],
)
def test_contradictory_preconnection(data: bytes, at: int) -> None:
    """A preconnection PDU whose parts contradict each other is refused at the first byte that does."""
    expected = [("need more", None)] * at + [("refused", "malformed")] * (len(data) + 1 - at)
    assert expected == verdicts_by_prefix(parse_request, data)


@pytest.mark.parametrize(
    ("behind", "code"),
    [
        (b"\x16", "tls"),
        (b"SSH-2.0", "ssh"),
        (pcb(16, version=1), "not-tpkt"),
        (b"\x03\x00\x00\x07", "malformed"),
    ],
)
def test_behind_a_preconnection_only_a_request_may_come(behind: bytes, code: str) -> None:
    """There is one preconnection PDU at most, and the judging goes on behind it."""
    assert ("refused", code) == verdict(parse_request, pcb(16, version=1) + behind)
    assert ("refused", code) == check_monotone(parse_request, pcb(16, version=1) + behind)
