"""Whatever is sent to the metrics port is answered in HTTP, or closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.exporter import SEEDS, check_exporter

_tokens = st.sampled_from(
    ["text/plain", "application/openmetrics-text", "version=", "escaping=", "q=", "*/*"]
)
_accept = st.lists(st.one_of(_tokens, st.sampled_from(list(";,= ")), st.text(max_size=5)), max_size=12)


@pytest.mark.parametrize("data", SEEDS, ids=lambda data: repr(data[:20]))
def test_known_requests(data: bytes) -> None:
    """What the fuzzer begins with holds as it is."""
    check_exporter(data)


@given(
    st.sampled_from(["/metrics", "/readyz", "/readyz?service=", "/healthz", "/"]),
    st.binary(max_size=30),
    _accept,
)
def test_any_request(path: str, query: bytes, accept: list[str]) -> None:
    """Any query and any Accept header."""
    said = "".join(accept).encode()
    check_exporter(b"GET " + path.encode() + query + b" HTTP/1.1\r\nHost: a\r\nAccept: " + said + b"\r\n\r\n")


@given(st.sampled_from(SEEDS), st.integers(0, 200), st.binary(max_size=20))
def test_any_damaged_http_request(seed: bytes, at: int, junk: bytes) -> None:
    """Requests with something else in the middle."""
    check_exporter(seed[:at] + junk + seed[at + len(junk) :])
