"""Routing tokens: those seen in the wild, and those that only look like one."""

import pytest

from rdpbalancer.model import Endpoint
from rdpbalancer.wire.token import (
    MAX_DESCRIPTION_CHARS,
    decode_msts,
    describe,
    encode_msts,
    kind,
    msts_number,
)
from tests.support.vectors import TOKENS


@pytest.mark.parametrize(("token", "address"), TOKENS.items())
def test_tokens_in_the_wild(token: bytes, address: str | None) -> None:
    """Published tokens name the address that their source says."""
    endpoint = decode_msts(token)
    assert address == (None if endpoint is None else str(endpoint))


def test_there_are_tokens_in_the_wild() -> None:
    """The list is not empty, and has both kinds."""
    assert 5 == sum(address is not None for address in TOKENS.values())
    assert 3 == sum(address is None for address in TOKENS.values())


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"COOKIE: MSTS=16777343.15629.0000", Endpoint("127.0.0.1", 3389)),
        (b"Cookie: msts=16777343.15629.0000 ", Endpoint("127.0.0.1", 3389)),
        (b"Cookie: msts=16777343.15629.", Endpoint("127.0.0.1", 3389)),
        (b"Cookie: msts=16777343.15629.anything\xff", Endpoint("127.0.0.1", 3389)),
        (b"Cookie: msts=0016777343.15629.0", Endpoint("127.0.0.1", 3389)),
        (b"Cookie: msts=4294967295.65535.0000", Endpoint("255.255.255.255", 65535)),
        (b"Cookie: msts=0.256.0000", Endpoint("0.0.0.0", 1)),
        (b"Cookie: msts=0.1.0000", Endpoint("0.0.0.0", 256)),
        (b"Cookie: msts=16777343.15629", None),
        (b"Cookie: msts=16777343.15629 .", None),
        (b"Cookie: msts=4294967296.15629.0000", None),
        (b"Cookie: msts=9999999999.15629.0000", None),
        (b"Cookie: msts=00016777343.15629.0000", None),
        (b"Cookie: msts=16777343.65536.0000", None),
        (b"Cookie: msts=16777343.99999.0000", None),
        (b"Cookie: msts=16777343.015629.0000", None),
        (b"Cookie: msts=16777343.0.0000", None),
        (b"Cookie: msts=-1.15629.0000", None),
        (b"Cookie: msts=+1.15629.0000", None),
        (b"Cookie: msts=1_0.15629.0000", None),
        (b"Cookie: msts= 1.15629.0000", None),
        ("Cookie: msts=\u0661.15629.0000".encode(), None),
        (b"Cookie: msts=.15629.0000", None),
        (b"Cookie: msts=1..0000", None),
        (b"Cookie: msts=0x7f.15629.0000", None),
        (b" Cookie: msts=16777343.15629.0000", None),
        (b"Cookie:msts=16777343.15629.0000", None),
        (b"tsv://Cookie: msts=16777343.15629.0000", None),
        (b"Cookie: mstshash=16777343.15629.0000", None),
        (b"", None),
    ],
)
def test_decode(token: bytes, expected: Endpoint | None) -> None:
    """Decoding is strict up to the second dot and blind behind it."""
    assert expected == decode_msts(token)


@pytest.mark.parametrize(
    ("endpoint", "token"),
    [
        (Endpoint("127.0.0.1", 3389), b"Cookie: msts=16777343.15629.0000"),
        (Endpoint("172.31.249.216", 3389), b"Cookie: msts=3640205228.15629.0000"),
        (Endpoint("0.0.0.0", 1), b"Cookie: msts=0.256.0000"),
    ],
)
def test_encode(endpoint: Endpoint, token: bytes) -> None:
    """The token is the one that a broker would have given."""
    assert token == encode_msts(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [Endpoint("::1", 3389), Endpoint("ts1", 3389), Endpoint("127.0.0.1", 0), Endpoint("127.0.0.1", 65536)],
)
def test_encode_refuses_what_has_no_form(endpoint: Endpoint) -> None:
    """Neither IPv6 nor a name nor an impossible port can stand in a token."""
    with pytest.raises(ValueError, match=r"IPv4|Expected 4 octets|65535|not permitted"):
        encode_msts(endpoint)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (b"tsv://MS Terminal Services Plugin.1.X", "tsv://MS Terminal Services Plugin.1.X"),
        (b"a\r\n\x1b[31mb\x7f", "a\\r\\n\\x1b[31mb\\x7f"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("jörg".encode(), "jörg"),
        ("\u202egnal\u2028".encode(), "\\u202egnal\\u2028"),
        (b"", ""),
        (b"x" * MAX_DESCRIPTION_CHARS, "x" * MAX_DESCRIPTION_CHARS),
        (b"x" * (MAX_DESCRIPTION_CHARS + 1), "x" * (MAX_DESCRIPTION_CHARS - 3) + "..."),
        (b"\x00" * 246, ("\\x00" * 64)[: MAX_DESCRIPTION_CHARS - 3] + "..."),
    ],
)
def test_describe(token: bytes, expected: str) -> None:
    """A log line cannot be forged, coloured, reversed or blown up by a token."""
    assert expected == describe(token)


@pytest.mark.parametrize(
    ("token", "number", "expected"),
    [
        (b"Cookie: msts=3735928559", 3735928559, "number"),
        (b"cookie: MSTS=0 ", 0, "number"),
        (b"Cookie: msts=4294967296", None, "opaque"),
        (b"Cookie: msts=3640205228.15629.0000", None, "address"),
        (b"Cookie: msts=3735928559.", None, "opaque"),
        (b"Cookie: msts=host:3389", None, "opaque"),
        (b"tsv://MS Terminal Services Plugin.1.COLLECTION", None, "opaque"),
    ],
)
def test_a_number_that_only_its_maker_understands(token: bytes, number: int | None, expected: str) -> None:
    """One u32 and nothing else: GNOME Remote Desktop's."""
    assert (number, expected) == (msts_number(token), kind(token))
