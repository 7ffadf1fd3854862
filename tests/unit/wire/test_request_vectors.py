"""Every captured, quoted and built first packet, with what must be read from it."""

from typing import Final

import msgspec
import pytest

from rdpbalancer.wire.request import ConnectionRequest, Preconnection, parse_request
from tests.fuzz.targets import NEED_MORE, Verdict, check_monotone, verdict
from tests.support.vectors import EXCHANGES, VECTORS

Expected = Verdict  # a Request's `length` is filled in from the vector: all of it is read

MSTS: Final = b"Cookie: msts=3640205228.15629.0000"
TSV: Final = b"tsv://MS Terminal Services Plugin.1.COLLECTION"
MTH: Final = b"mth://localhost/b47b47c1-b81e-4dfa-ac1b-a8a195d43f26/16e1fb18-0f41-4e0c-acf8-5046124affe9"
CORRELATION_ID: Final = bytes.fromhex("a1b2c3d4e5f60718293a4b5c6d7e8f90")


def read(
    cookie: str | None = None,
    *,
    token: bytes | None = None,
    protocols: int | None = 3,
    flags: int = 0,
    correlation_id: bytes | None = None,
    preconnection: Preconnection | None = None,
    offset: int = 0,
) -> Expected:
    """Return the verdict of a good request; its length is not known here."""
    return (
        "value",
        ConnectionRequest(cookie, token, protocols, flags, correlation_id, preconnection, offset, 0),
    )


def refused(code: str) -> Expected:
    """Return the verdict of a refusal."""
    return ("refused", code)


EXPECTED: Final[dict[str, Expected]] = {
    "xf-nouser": read("root"),
    "xf-user": read("alice"),
    "xf-user-long": read("averyveryverylongusername@corp.example.com"),
    "xf-domain": read("alice"),
    "xf-domain2": read("alice"),
    "xf-upn": read("alice@corp.example.com"),
    "xf-sec-rdp": read("alice", protocols=None),
    "xf-sec-tls": read("alice", protocols=1),
    "xf-sec-nla": read("alice"),
    "xf-sec-ext": read("alice", protocols=0xB),
    "xf-lbi-tsv": read(token=TSV),
    "xf-lbi-cookie": read(token=MSTS),
    "xf-lbi-crlf": read(token=MSTS),
    "xf-restricted": read("alice", flags=1),
    "xf-pcb": read("alice", preconnection=Preconnection(id=0, text="vm-1234", version=2), offset=36),
    "xf-longuser-200": read("u" * 200),
    "xf-lbi-opaque": read(token=b"anything-goes"),
    "xf-lbi-mth": read(token=MTH),
    "xf-retry-after-failure-2-or-3": read("alice", protocols=0),
    "xf-retry-after-other-failure": read("alice", protocols=None),
    "redir-rdp-none": read(token=MSTS, protocols=None),
    "redir-tls": read(token=b"Cookie: msts=16777343.15715.0000", protocols=1),
    "redir-default": read(token=b"Cookie: msts=16777343.15715.0000"),
    "rdesktop-default": read("root"),
    "rdesktop-user": read("alice"),
    "rdesktop-domain": read("alice"),
    "rdesktop-upn": read("alice@corp.example.com"),
    "rdesktop-rdp4": read("alice", protocols=None),
    "rdesktop-V12": read("alice"),
    "rdesktop-DR": refused("not-connection-request"),
    "spec-4.1.1": read("eltons", protocols=0),
    "hello": read("hello"),
    "rdesktop-rzhou": read("rzhou"),
    "9front-x": read("x", protocols=1),
    "neg-only": read(protocols=0),
    "pcb-v1+neg-only": read(
        protocols=0, preconnection=Preconnection(id=0xEEC699EB, text=None, version=1), offset=16
    ),
    "pcb-v2+neg-only": read(
        protocols=0, preconnection=Preconnection(id=0, text="TestVM", version=2), offset=32
    ),
    "correlation-only": read(protocols=0xB, flags=8, correlation_id=CORRELATION_ID),
    "nmap-probe-TerminalServerCookie": read("nmap"),
    "nmap-rdp-enum-encryption": read("nmap", protocols=1),
    "bluekeep-scanner": read("abcde", protocols=0),
    "scanner-user0": read("user0", protocols=0),
    "scanner-truncated": NEED_MORE,
    "nmap-lua-LI-wrong": refused("malformed"),
    "token+cookie": read("alice", token=MSTS, protocols=0xB),
    "LI-255": refused("malformed"),
    "ends-with-0d": read(protocols=None),
    "s7comm-CR": read(protocols=None),
    "openssl-tls": refused("tls"),
    "ssh": refused("ssh"),
    "http": refused("http"),
    "bare": read(protocols=None),
    "lf-only": read("alice"),
    "lf-only-no-negotiation": read("alice", protocols=None),
    "lf-only-msts": read(token=MSTS),
    "empty-cookie": read(),
    "upper-case": read("Alice"),
    "latin-1-cookie": read("j%F6rg"),
    "utf-8-cookie": read("jörg"),
}

# What xrdp and FreeRDP were sent; the names are the same for each program.
EXPECTED_REQUESTS: Final[dict[str, Expected]] = {
    "no-neg,cookie": read("alice", protocols=None),
    "bare 11 bytes": read(protocols=None),
    "proto 0x0": read("alice", protocols=0),
    "proto 0x1": read("alice", protocols=1),
    "proto 0x2": read("alice", protocols=2),
    "proto 0x3": read("alice", protocols=3),
    "proto 0x4": read("alice", protocols=4),
    "proto 0x5": read("alice", protocols=5),
    "proto 0x7": read("alice", protocols=7),
    "proto 0x8": read("alice", protocols=8),
    "proto 0x9": read("alice", protocols=9),
    "proto 0xb": read("alice", protocols=0xB),
    "proto 0xf": read("alice", protocols=0xF),
    "proto 0x10": read("alice", protocols=0x10),
    "proto 0x1f": read("alice", protocols=0x1F),
    "proto 0x12": read("alice", protocols=0x12),
    "flags 0x1 proto 3 (no corr)": read("alice", flags=1),
    "flags 0x2 proto 3 (no corr)": read("alice", flags=2),
    "flags 0x3 proto 3 (no corr)": read("alice", flags=3),
    "flags 0x8 proto 3 (no corr)": read("alice", flags=8),
    "flags 0x9 proto 3 (no corr)": read("alice", flags=9),
    "flags 0xb proto 3 (no corr)": read("alice", flags=0xB),
    "flags 8 + corr proto 0xb (rebuilt)": read(
        "alice", protocols=0xB, flags=8, correlation_id=CORRELATION_ID
    ),
    "flags 9 + corr proto 0xb (rebuilt)": read(
        "alice", protocols=0xB, flags=9, correlation_id=CORRELATION_ID
    ),
    "flags 0 + corr proto 0xb (rebuilt)": read("alice", protocols=0xB, correlation_id=CORRELATION_ID),
    "msts token": read(token=MSTS, protocols=0xB),
    "tsv token": read(token=TSV, protocols=0xB),
    "mth token (rebuilt)": read(token=MTH, protocols=0xB),
    "token then cookie (both) (rebuilt)": read("alice", token=MSTS, protocols=0xB),
    "cookie w/o CRLF + neg": read(protocols=None),
    "LI one short": refused("malformed"),
    "LI one long": refused("malformed"),
    "LI=255": refused("malformed"),
    "CDT=1 (0xe1)": refused("not-connection-request"),
    "class 2": refused("malformed"),
    "dst-ref 0x1234": read("alice"),
    "tpkt reserved 0xff": read("alice"),
    "LI overflow 300-char user (rebuilt)": refused("oversized"),
    "max LI 254 (rebuilt)": read("u" * 221),
    "neg len 9": read("alice", protocols=None),
    "SSH banner": refused("ssh"),
    "HTTP": refused("http"),
    "TLS hello prefix (rebuilt)": refused("tls"),
    "tpkt len 4": refused("malformed"),
    "tpkt len 0": refused("malformed"),
    "DT first": refused("malformed"),
    "S7comm CR params": read(protocols=None),
}


def complete(expected: Expected, data: bytes) -> Expected:
    """Fill in the length of a request that takes all of `data`."""
    kind, value = expected
    if kind != "value":
        return expected
    return kind, msgspec.structs.replace(value, length=len(data))


CASES: Final = [
    pytest.param(vector.data, EXPECTED.get(vector.name), id=vector.name) for vector in VECTORS.values()
] + [
    pytest.param(request, EXPECTED_REQUESTS.get(name), id=name)
    for name, request in {each.name: each.request for each in EXCHANGES}.items()
]


def test_every_vector_has_an_expectation() -> None:
    """No vector is added without saying what must be read from it, and none is lost from the file."""
    assert set(EXPECTED) == set(VECTORS)
    assert set(EXPECTED_REQUESTS) == {each.name for each in EXCHANGES}


def test_one_name_is_one_request() -> None:
    """The programs were sent the same bytes under the same name."""
    assert len(EXPECTED_REQUESTS) == len({(each.name, each.request) for each in EXCHANGES})


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_whole(data: bytes, expected: Expected) -> None:
    """A packet that arrives whole is read, or refused, as the table says."""
    assert complete(expected, data) == verdict(parse_request, data)


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_byte_by_byte(data: bytes, expected: Expected) -> None:
    """Fed byte by byte, the verdict is the same, and never comes later."""
    assert complete(expected, data) == check_monotone(parse_request, data)


@pytest.mark.parametrize(
    "trailing", [b"\x00", b"\n", b"\x03\x00\x00\x0b", b"\x01\x00\x08\x00\x03\x00\x00\x00"]
)
@pytest.mark.parametrize(("data", "expected"), [case for case in CASES if case.values[1] != NEED_MORE])
def test_trailing_bytes(data: bytes, expected: Expected, trailing: bytes) -> None:
    """What lies behind a request changes nothing and is not counted in its length."""
    assert complete(expected, data) == verdict(parse_request, data + trailing)


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_bytearray(data: bytes, expected: Expected) -> None:
    """A receive buffer may be a bytearray; nothing in the result refers to it."""
    buf = bytearray(data)
    result = verdict(parse_request, buf)
    buf[:] = bytes(len(buf))
    assert complete(expected, data) == result
