"""What must hold for any bytes at all. Shared by the fuzzer and the property tests.

A target returns when its promises hold; it raises AssertionError, or whatever a parser let escape.
"""

from collections.abc import Callable
from typing import Any, Final

from rdpbalancer.errors import ProtocolError
from rdpbalancer.wire.confirm import parse_confirm
from rdpbalancer.wire.proxy import MAX_V2_PAYLOAD_BYTES, parse_proxy
from rdpbalancer.wire.request import MAX_PRECONNECTION_BYTES, MAX_REQUEST_BYTES, parse_request
from rdpbalancer.wire.token import MAX_DESCRIPTION_CHARS, decode_msts, describe, encode_msts
from tests.fuzz.control import check_control
from tests.fuzz.exporter import check_exporter

REQUEST_CODES: Final = frozenset(
    {"tls", "http", "ssh", "not-tpkt", "oversized", "malformed", "not-connection-request"}
)

Parser = Callable[[bytes | bytearray], Any]
Verdict = tuple[str, Any]
NEED_MORE: Final[Verdict] = ("need more", None)


def verdict(parse: Parser, data: bytes | bytearray) -> Verdict:
    """Return `("refused", code)`, `("value", value)` or `NEED_MORE`. Other errors escape: they are bugs."""
    try:
        value = parse(data)
    except ProtocolError as error:
        return ("refused", error.code)
    return NEED_MORE if value is None else ("value", value)


def verdicts_by_prefix(parse: Parser, data: bytes) -> list[Verdict]:
    """Return the verdict on the first 0, 1, 2 ... bytes of `data`."""
    return [verdict(parse, data[:count]) for count in range(len(data) + 1)]


def check_monotone(parse: Parser, data: bytes) -> Verdict:
    """Hold a parser to one verdict: no later byte changes it, and a value comes with its last byte."""
    verdicts = verdicts_by_prefix(parse, data)
    decided = [index for index, each in enumerate(verdicts) if each != NEED_MORE]
    if not decided:
        return NEED_MORE
    first = decided[0]
    assert first > 0, "nothing is decided before the first byte"
    for count in range(first, len(data) + 1):
        assert verdicts[first] == verdicts[count], f"the verdict changed from byte {first} to byte {count}"
    kind, value = verdicts[first]
    if kind == "value":
        assert first == value.length, "a complete packet was not taken at once"
    return verdicts[first]


def check_request(data: bytes) -> None:
    """Hold `parse_request` to its documented codes and bounds."""
    kind, result = check_monotone(parse_request, data)
    assert (kind, result) == verdict(parse_request, bytearray(data)), "a bytearray is read differently"
    if kind == "refused":
        assert result in REQUEST_CODES
    elif kind == "need more":
        assert len(data) < MAX_PRECONNECTION_BYTES + MAX_REQUEST_BYTES, "a stranger is held beyond the bound"
    else:
        assert 11 <= result.length - result.request_offset <= MAX_REQUEST_BYTES
        assert result.request_offset <= MAX_PRECONNECTION_BYTES
        assert result.cookie != "", "an empty cookie is None"
        assert result.correlation_id is None or len(result.correlation_id) == 16
        if result.token is not None:
            assert result.token in data
            assert b"\n" not in result.token
            check_token(result.token)


def check_confirm(data: bytes) -> None:
    """Hold `parse_confirm` to its one code and its bound."""
    kind, result = check_monotone(parse_confirm, data)
    if kind == "refused":
        assert result == "not-connection-confirm"
    elif kind == "need more":
        assert len(data) < MAX_REQUEST_BYTES
    else:
        assert result.selected_protocol is None or result.failure is None


def check_proxy(data: bytes) -> None:
    """Hold `parse_proxy` to its one code and its bound."""
    kind, result = check_monotone(parse_proxy, data)
    if kind == "refused":
        assert result == "proxy"
    elif kind == "need more":
        assert len(data) < 16 + MAX_V2_PAYLOAD_BYTES
    else:
        assert (result.source is None) == (result.destination is None)


def check_token(data: bytes) -> None:
    """Hold the readers of tokens to never raise, and `describe` to printable, bounded text."""
    endpoint = decode_msts(data)
    if endpoint is not None:
        assert endpoint == decode_msts(encode_msts(endpoint))
    text = describe(data)
    assert text.isprintable()
    assert len(text) <= MAX_DESCRIPTION_CHARS


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "request": check_request,
    "confirm": check_confirm,
    "proxy": check_proxy,
    "token": check_token,
    "control": check_control,
    "exporter": check_exporter,
}
