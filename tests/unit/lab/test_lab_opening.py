"""What simulated clients say first can be read back by the parsers of the balancer."""

import pytest

from rdpbalancer.lab.opening import LabOpening, build_preconnection
from rdpbalancer.model import Endpoint
from rdpbalancer.wire.proxy import parse_proxy
from rdpbalancer.wire.request import ConnectionRequest, Preconnection, parse_request

LOCAL = Endpoint("127.0.0.2", 50_000)
REMOTE = Endpoint("127.0.0.1", 3389)


def _parsed(opening: LabOpening) -> ConnectionRequest:
    request = parse_request(opening.first_bytes(local=LOCAL, remote=REMOTE))
    assert request is not None
    return request


def test_a_cookie_and_negotiation() -> None:
    """Text is sent as UTF-8."""
    request = _parsed(LabOpening(cookie="jürgen", requested_protocols=11, negotiation_flags=1))
    assert ("jürgen", 11, 1) == (request.cookie, request.requested_protocols, request.negotiation_flags)


def test_a_token_and_a_correlation_id() -> None:
    """Both arrive as given."""
    identifier = bytes(range(16, 32))
    request = _parsed(LabOpening(token=b"tsv://FARM", correlation_id=identifier))
    assert (b"tsv://FARM", identifier) == (request.token, request.correlation_id)


@pytest.mark.parametrize(
    "pdu", [Preconnection(7, None, 1), Preconnection(7, "vm-1", 2), Preconnection(0, None, 2)]
)
def test_a_preconnection_pdu(pdu: Preconnection) -> None:
    """Either version is read back and stands before the request."""
    request = _parsed(LabOpening(cookie="alice", preconnection=pdu))
    assert (pdu, "alice") == (request.preconnection, request.cookie)
    assert len(build_preconnection(pdu)) == request.request_offset


@pytest.mark.parametrize("version", [1, 2])
def test_a_proxy_header_names_the_client(version: int) -> None:
    """By default the client itself, or whom it is told to speak for; the request follows."""
    for source in (None, Endpoint("192.0.2.7", 1234)):
        opening = LabOpening(cookie="alice", proxy_version=version, proxy_source=source)
        data = opening.first_bytes(local=LOCAL, remote=REMOTE)
        header = parse_proxy(data)
        assert header is not None
        assert (source or LOCAL, REMOTE) == (header.source, header.destination)
        assert opening.request() == data[header.length :]


def test_raw_bytes_and_bytes_behind() -> None:
    """What is to be malformed is sent as it is; early data follows the request at once."""
    opening = LabOpening(raw=b"GET / HTTP/1.1\r\n", behind=b"early")
    assert b"GET / HTTP/1.1\r\nearly" == opening.first_bytes(local=LOCAL, remote=REMOTE)
