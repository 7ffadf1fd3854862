"""Answers of real servers, and what we build ourselves, byte for byte."""

from typing import Final

import pytest

from rdpbalancer.errors import ProtocolError
from rdpbalancer.wire.confirm import (
    DISCONNECT,
    PROBE,
    Confirm,
    NegotiationFailure,
    SecurityProtocol,
    build_confirm,
    build_failure,
    build_request,
    parse_confirm,
)
from tests.fuzz.targets import Verdict, check_monotone, verdict, verdicts_by_prefix
from tests.support.vectors import CONFIRMS, EXCHANGES, REPLIES, VECTORS

REFUSED: Final[Verdict] = ("refused", "not-connection-confirm")


def selected(protocol: int | None, flags: int = 0, length: int = 19) -> Verdict:
    """Return the verdict of a Connection Confirm that selects."""
    return ("value", Confirm(protocol, flags, None, length))


def failed(code: int) -> Verdict:
    """Return the verdict of a Connection Confirm that refuses."""
    return ("value", Confirm(None, 0, code, 19))


EXPECTED_CONFIRMS: Final[dict[str, Verdict]] = {
    "win7-2008r2-proto0": selected(0, 0x09),
    "win7-2008-proto0": selected(0, 0x00),
    "win2008r2-proto0": selected(0, 0x01),
    "win8-2012-proto0": selected(0, 0x07),
    "win81-2012r2-proto0": selected(0, 0x0F),
    "win10-2016-proto0": failed(1),
    "win10-2019-nla-proto0": failed(5),
    "win7-proto3": selected(2, 0x09),
    "win81-2012r2-proto3": selected(2, 0x0F),
    "win10-2019-proto3": selected(2, 0x1F),
    "xp-2003": selected(None, length=11),
    "masscan-echo": selected(0, 0x0F),
    "spec-4.1.2": selected(0, 0x00),
    "redemption-legacy": selected(None, length=11),
}

EXPECTED_REPLIES: Final[dict[str, Verdict]] = {
    "0300000b06d00000123400": selected(None, length=11),
    "030000130ed000001234000201080000000000": selected(0, 1),
    "030000130ed000001234000201080001000000": selected(1, 1),
    "0300000902f0802180": REFUSED,
    "030000130ed000000000000203080000000000": selected(0, 3),
    "030000130ed000000000000203080001000000": selected(1, 3),
    "030000130ed000000000000203080002000000": selected(2, 3),
    "030000130ed000000000000300080002000000": failed(2),
    "030000130ed000000000000300080005000000": failed(5),
}

CASES: Final = [
    pytest.param(vector.data, EXPECTED_CONFIRMS.get(vector.name), id=vector.name)
    for vector in CONFIRMS.values()
] + [pytest.param(bytes.fromhex(reply), expected, id=reply) for reply, expected in EXPECTED_REPLIES.items()]


def test_every_answer_has_an_expectation() -> None:
    """No answer is added to the vectors without saying what it means."""
    assert set(EXPECTED_CONFIRMS) == set(CONFIRMS)
    assert set(EXPECTED_REPLIES) == {each.reply.hex() for each in EXCHANGES} - {""}
    assert set(EXPECTED_REPLIES) == {reply for each in REPLIES.values() for reply in each.values()} - {""}


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_answers_of_real_servers(data: bytes, expected: Verdict) -> None:
    """Whole, byte by byte, as a bytearray, and with bytes behind: one verdict."""
    assert expected == verdict(parse_confirm, data)
    assert expected == check_monotone(parse_confirm, data)
    assert expected == verdict(parse_confirm, bytearray(data))
    assert expected == verdict(parse_confirm, data + b"\x02\x00\x08\x00\x01\x00\x00\x00")


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (b"SSH-2.0", 1),
        (b"\x16\x03\x03", 1),
        (b"\x03\x00\x02\x00", 3),
        (b"\x03\x00\x01\x04", 4),
        (bytes.fromhex("0300000902f0802180"), 4),
        (bytes.fromhex("0300000b05d000001234"), 5),
        (DISCONNECT, 6),
        (PROBE, 6),
        (bytes.fromhex("0300000b06d100001234"), 6),
    ],
)
def test_refused_at_the_first_byte_that_proves_it(data: bytes, at: int) -> None:
    """What is no Connection Confirm is known as such as early as can be."""
    expected = [("need more", None)] * at + [REFUSED] * (len(data) + 1 - at)
    assert expected == verdicts_by_prefix(parse_confirm, data)


def test_the_refusal_shows_the_bytes() -> None:
    """The operator sees what the server said, at most eleven bytes of it."""
    with pytest.raises(ProtocolError, match=r"has 9 bytes.*: 03 00 00 09 02 f0 80 21 80$"):
        parse_confirm(bytes.fromhex("0300000902f0802180"))


@pytest.mark.parametrize(
    "variable",
    [
        bytes.fromhex("0400080001000000"),
        bytes.fromhex("0200090001000000"),
        bytes.fromhex("020008000100000000"),
        bytes.fromhex("02000800010000"),
        bytes(248),
    ],
)
def test_other_data_is_passed_over(variable: bytes) -> None:
    """A Connection Confirm with data of another shape is one all the same."""
    length = 11 + len(variable)
    data = b"\x03\x00" + length.to_bytes(2, "big") + bytes([length - 5]) + b"\xd0" + bytes(5) + variable
    assert selected(None, length=length) == check_monotone(parse_confirm, data)


def test_fixed_packets() -> None:
    """The probe asks for TLS or NLA without a cookie; the disconnect is what rdesktop sends too."""
    assert PROBE == build_request(requested_protocols=SecurityProtocol.SSL | SecurityProtocol.HYBRID)
    assert DISCONNECT == VECTORS["rdesktop-DR"].data


@pytest.mark.parametrize(
    ("name", "built"),
    [
        ("xf-user", build_request(cookie=b"alice")),
        ("xf-sec-rdp", build_request(cookie=b"alice", requested_protocols=None)),
        ("xf-restricted", build_request(cookie=b"alice", negotiation_flags=1)),
        ("xf-lbi-cookie", build_request(token=b"Cookie: msts=3640205228.15629.0000")),
        (
            "token+cookie",
            build_request(
                token=b"Cookie: msts=3640205228.15629.0000", cookie=b"alice", requested_protocols=0xB
            ),
        ),
        ("bare", build_request(requested_protocols=None)),
        ("empty-cookie", build_request(cookie=b"")),
        (
            "correlation-only",
            build_request(
                requested_protocols=0xB,
                correlation_id=bytes.fromhex("a1b2c3d4e5f60718293a4b5c6d7e8f90"),
            ),
        ),
    ],
)
def test_build_request(name: str, built: bytes) -> None:
    """What we build is what real clients send."""
    assert VECTORS[name].data == built


def test_build_confirm() -> None:
    """What we build is what Windows answers."""
    assert CONFIRMS["win10-2019-proto3"].data == build_confirm(
        selected_protocol=SecurityProtocol.HYBRID, negotiation_flags=0x1F
    )
    assert CONFIRMS["spec-4.1.2"].data == build_confirm(selected_protocol=SecurityProtocol.RDP)
    assert CONFIRMS["xp-2003"].data == build_confirm(selected_protocol=None)


def test_build_failure() -> None:
    """What we build is what Windows answers to a client without NLA."""
    assert CONFIRMS["win10-2019-nla-proto0"].data == build_failure(NegotiationFailure.HYBRID_REQUIRED)
    assert CONFIRMS["win10-2016-proto0"].data == build_failure(NegotiationFailure.SSL_REQUIRED)


@pytest.mark.parametrize(
    "arguments",
    [
        {"cookie": b"a\r\nb"},
        {"token": b"a\r\n"},
        {"correlation_id": bytes(15)},
        {"correlation_id": bytes(16), "requested_protocols": None},
        {"cookie": b"u" * 222},
    ],
)
def test_build_request_refuses_what_no_request_can_carry(arguments: dict[str, bytes]) -> None:
    """A packet that would be read differently from what was meant is not built."""
    with pytest.raises(ValueError, match=r"CR LF|16 bytes|no room"):
        build_request(**arguments)  # type: ignore[arg-type]
