"""What is built is read back as it was meant, for every value."""

import ipaddress

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rdpbalancer.model import Endpoint
from rdpbalancer.wire.confirm import Confirm, build_confirm, build_failure, build_request, parse_confirm
from rdpbalancer.wire.proxy import ProxyHeader, build_proxy, parse_proxy
from rdpbalancer.wire.request import ConnectionRequest, Preconnection, parse_request
from rdpbalancer.wire.token import decode_msts, encode_msts
from tests.fuzz.targets import check_monotone, verdict

U32 = st.integers(0, 0xFFFFFFFF)
PORTS = st.integers(1, 0xFFFF)
# 20 characters are at most 80 bytes: a cookie and a token fit beside everything else
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=20)
COOKIES = TEXT
TOKENS = TEXT.map(lambda text: text.encode()).filter(
    lambda text: not text.lower().startswith(b"cookie: mstshash=")
)
CORRELATION_IDS = st.binary(min_size=16, max_size=16)
TRAILING = st.binary(max_size=30)
PRECONNECTIONS = st.builds(Preconnection, id=U32, text=st.none(), version=st.just(1)) | st.builds(
    Preconnection,
    id=U32,
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
    version=st.just(2),
)
REQUESTS = st.builds(
    ConnectionRequest,
    cookie=st.none() | COOKIES,
    token=st.none() | TOKENS,
    requested_protocols=U32,
    negotiation_flags=st.integers(0, 0xFF),
    correlation_id=st.none() | CORRELATION_IDS,
    preconnection=st.none() | PRECONNECTIONS,
    request_offset=st.just(0),
    length=st.just(0),
)
IPV4 = st.builds(Endpoint, st.ip_addresses(v=4).map(str), PORTS)
# Mapped IPv4 (::ffff:0:0/96) comes out as IPv4: mixed families have a test of their own.
IPV6 = st.builds(
    Endpoint, st.ip_addresses(v=6).map(str).filter(lambda host: not host.startswith("::ffff:")), PORTS
)


def build_preconnection(pdu: Preconnection) -> bytes:
    """Build a preconnection PDU by its specification, apart from the code under test."""
    text = b"" if pdu.text is None else (pdu.text + "\0").encode("utf-16-le")
    count = b"" if pdu.text is None else (len(text) // 2).to_bytes(2, "little")
    numbers = (16 + len(count) + len(text), 0, pdu.version, pdu.id)
    return b"".join(number.to_bytes(4, "little") for number in numbers) + count + text


@given(wanted=REQUESTS, trailing=TRAILING)
def test_request(wanted: ConnectionRequest, trailing: bytes) -> None:
    """A request is read back, byte by byte too, and what lies behind it is left alone."""
    before = b"" if wanted.preconnection is None else build_preconnection(wanted.preconnection)
    built = before + build_request(
        cookie=None if wanted.cookie is None else wanted.cookie.encode(),
        token=wanted.token,
        requested_protocols=wanted.requested_protocols,
        negotiation_flags=wanted.negotiation_flags,
        correlation_id=wanted.correlation_id,
    )
    flags = wanted.negotiation_flags | (0 if wanted.correlation_id is None else 8)
    expected = msgspec.structs.replace(
        wanted, negotiation_flags=flags, request_offset=len(before), length=len(built)
    )
    assert ("value", expected) == check_monotone(parse_request, built + trailing)


@given(cookie=st.none() | COOKIES)
def test_request_without_negotiation(cookie: str | None) -> None:
    """Without RDP_NEG_REQ the cookie is read all the same."""
    built = build_request(cookie=None if cookie is None else cookie.encode(), requested_protocols=None)
    expected = ConnectionRequest(cookie, None, None, 0, None, None, 0, len(built))
    assert ("value", expected) == check_monotone(parse_request, built)


@given(value=U32, flags=st.integers(0, 0xFF), trailing=TRAILING)
def test_confirm(value: int, flags: int, trailing: bytes) -> None:
    """A Connection Confirm, one with a failure, and a bare one are read back."""
    built = build_confirm(selected_protocol=value, negotiation_flags=flags)
    assert ("value", Confirm(value, flags, None, 19)) == check_monotone(parse_confirm, built + trailing)
    built = build_failure(value)
    assert ("value", Confirm(None, 0, value, 19)) == check_monotone(parse_confirm, built + trailing)
    built = build_confirm(selected_protocol=None)
    assert ("value", Confirm(None, 0, None, 11)) == check_monotone(parse_confirm, built + trailing)


@given(endpoint=IPV4)
def test_msts(endpoint: Endpoint) -> None:
    """Every IPv4 endpoint has a token, and the token names it."""
    assert endpoint == decode_msts(encode_msts(endpoint))


@given(address=U32, port=st.integers(1, 0xFFFF))
def test_msts_numbers(address: int, port: int) -> None:
    """The numbers in a token are the address bytes read little-endian, and the swapped port."""
    endpoint = decode_msts(b"Cookie: msts=%d.%d.0000" % (address, port))
    assert endpoint is not None
    assert address == int.from_bytes(ipaddress.IPv4Address(endpoint.host).packed, "little")
    assert port.to_bytes(2, "big") == endpoint.port.to_bytes(2, "little")


@given(version=st.sampled_from([1, 2]), pair=st.tuples(IPV4, IPV4) | st.tuples(IPV6, IPV6), trailing=TRAILING)
def test_proxy(version: int, pair: tuple[Endpoint, Endpoint], trailing: bytes) -> None:
    """A header of either version and family is read back, and what lies behind it is left alone."""
    built = build_proxy(version, *pair)
    assert ("value", ProxyHeader(*pair, len(built))) == check_monotone(parse_proxy, built + trailing)


@given(version=st.sampled_from([1, 2]), four=IPV4, six=IPV6, flip=st.booleans())
def test_proxy_of_mixed_families(version: int, four: Endpoint, six: Endpoint, *, flip: bool) -> None:
    """An IPv4 address beside an IPv6 one is carried as mapped, and comes out as IPv4."""
    pair = (six, four) if flip else (four, six)
    built = build_proxy(version, *pair)
    assert ("value", ProxyHeader(*pair, len(built))) == verdict(parse_proxy, built)
