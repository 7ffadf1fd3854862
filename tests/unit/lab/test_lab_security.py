"""A simulated server answers as its `security` says."""

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.security import MCS_DISCONNECT, SECURITY, answering
from rdpbalancer.wire.confirm import Confirm, build_request, parse_confirm
from rdpbalancer.wire.request import parse_request


def _answer(security: str, raw: bytes) -> tuple[bytes, bool]:
    request = parse_request(raw)
    assert request is not None
    return answering(security)(request, raw)


def _confirm(security: str, raw: bytes) -> Confirm:
    data, then_close = _answer(security, raw)
    confirm = parse_confirm(data)
    assert confirm is not None
    assert (confirm.length, confirm.failure is not None) == (len(data), then_close)
    return confirm


@pytest.mark.parametrize(("security", "selected"), [("rdp", 0), ("tls", 1), ("nla", 2), ("echo-ref", 0)])
def test_a_negotiating_client_is_told_the_protocol(security: str, selected: int) -> None:
    """The protocol of the setting is selected."""
    assert selected == _confirm(security, build_request(cookie=b"alice")).selected_protocol


@pytest.mark.parametrize("security", ["rdp", "tls", "nla", "legacy", "echo-ref"])
def test_a_client_that_does_not_negotiate_gets_a_bare_confirm(security: str) -> None:
    """Without RDP_NEG_REQ the confirm has no negotiation data, whatever the setting."""
    confirm = _confirm(security, build_request(cookie=b"alice", requested_protocols=None))
    assert (11, None) == (confirm.length, confirm.selected_protocol)


def test_a_legacy_server_never_negotiates() -> None:
    """Eleven bytes, also for a client that would negotiate."""
    assert bytes.fromhex("0300000b06d00000123400") == _answer("legacy", build_request())[0]


@pytest.mark.parametrize("code", [1, 2, 5, 4_000_000_000])
def test_a_failure_says_its_code_and_closes(code: int) -> None:
    """`failure:N` answers RDP_NEG_FAILURE N, then closes."""
    assert code == _confirm(f"failure:{code}", build_request()).failure


def test_a_failure_cannot_be_said_without_negotiation() -> None:
    """A client that did not negotiate is closed without a word."""
    assert (b"", True) == _answer("failure:5", build_request(requested_protocols=None))


def test_xrdp_refuses_with_mcs() -> None:
    """The answer is no confirm at all."""
    assert (bytes.fromhex("0300000902f0802180"), True) == _answer("mcs-disconnect", build_request())
    assert 9 == len(MCS_DISCONNECT)


def test_the_reference_is_echoed() -> None:
    """DST-REF of the confirm is SRC-REF of the request, also behind a preconnection PDU."""
    raw = bytearray(build_request(cookie=b"alice"))
    raw[8:10] = b"\xab\xcd"
    preconnection = bytes.fromhex("10000000000000000100000007000000")
    for before in (b"", preconnection):
        assert b"\xab\xcd" == _answer("echo-ref", before + bytes(raw))[0][6:8]


@pytest.mark.parametrize(
    "security", ["", "ssl", "failure", "failure:", "failure:x", "failure:4294967296", "rdp:1"]
)
def test_an_unknown_setting_is_refused(security: str) -> None:
    """The error lists what there is."""
    with pytest.raises(LabError, match=r"failure:N") as caught:
        answering(security)
    assert "bad-option" == caught.value.code
    assert all(known in str(caught.value) for known in SECURITY)
