"""What is done to a client's socket, and to its address."""

import socket
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from rdpbalancer.session.connection import close, plain_address, send_now, within
from rdpbalancer.wire.confirm import DISCONNECT, NegotiationFailure, build_failure

Pair = tuple[socket.socket, socket.socket]
PATIENCE_S = 5.0


@pytest.fixture
def tcp() -> Iterator[Pair]:
    """Return a client's end and ours of a TCP connection; ours does not block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
        ours, _ = listener.accept()
    ours.setblocking(False)
    yield client, ours
    client.close()
    ours.close()


def read_to_end(client: socket.socket) -> bytes:
    """Return all that a client gets up to the end; a reset raises ConnectionResetError."""
    data = b""
    while chunk := client.recv(65536):
        data += chunk
    return data


@pytest.mark.parametrize("goodbye", [DISCONNECT, build_failure(NegotiationFailure.SSL_REQUIRED), b""])
@pytest.mark.parametrize("unread_bytes", [0, 1, 2000, 60_000])
def test_a_refused_client_sees_why(tcp: Pair, goodbye: bytes, unread_bytes: int) -> None:
    """The last word and an orderly end, not a reset, although the client went on talking."""
    client, ours = tcp
    client.sendall(bytes(unread_bytes))
    if unread_bytes:
        ours.setblocking(True)
        ours.recv(unread_bytes, socket.MSG_PEEK | socket.MSG_WAITALL)  # it has arrived
        ours.setblocking(False)
    close(ours, goodbye)
    assert -1 == ours.fileno()
    assert goodbye == read_to_end(client)


def test_a_client_that_has_gone_is_just_closed(tcp: Pair) -> None:
    """By a reset, so that even the last word fails."""
    client, ours = tcp
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    close(ours, DISCONNECT)
    assert -1 == ours.fileno()


def test_closing_never_waits(tcp: Pair) -> None:
    """A client that reads nothing keeps nobody waiting: what does not fit is not said."""
    _, ours = tcp
    while send_now(ours, bytes(1 << 20)) != bytes(1 << 20):
        pass
    close(ours, DISCONNECT)
    assert -1 == ours.fileno()


def test_closing_twice_does_no_harm(tcp: Pair) -> None:
    """The finally of a connection does not ask."""
    _, ours = tcp
    close(ours, DISCONNECT)
    close(ours, DISCONNECT)


def test_what_fits_is_sent_and_the_rest_is_kept(tcp: Pair) -> None:
    """Nothing is lost, nothing twice."""
    client, ours = tcp
    # Of a fixed size, or the kernel lets the buffers grow to megabytes of ten bytes each, and sorts them.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    assert b"" == send_now(ours, b"")
    assert b"" == send_now(ours, b"small")
    data = bytes(range(256)) * 64 * 1024
    rest = send_now(ours, data)
    assert 0 < len(rest) < len(data)
    assert data.endswith(rest)
    sent = bytearray(data[: len(data) - len(rest)])  # a copy for each few bytes would take minutes
    more = b"0123456789"
    while (left := send_now(ours, more)) != more:  # until it is full to the brim
        sent += more[: len(more) - len(left)]
    ours.shutdown(socket.SHUT_WR)
    assert b"small" + sent == read_to_end(client)


def test_sending_to_a_client_that_has_gone_is_an_error(tcp: Pair) -> None:
    """The caller gives the server's place back."""
    client, ours = tcp
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(OSError, match=r"reset|pipe"):  # noqa: PT012 (the first may still succeed)
        for _ in range(3):
            send_now(ours, b"x")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("::ffff:192.0.2.7%eth0", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:0DB8:0:0::7", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("::192.0.2.7", "::c000:207"),
    ],
)
def test_addresses_are_written_in_one_way(host: str, expected: str) -> None:
    """An IPv4 client of an IPv6 listener is an IPv4 client; the scope is this machine's own business."""
    assert expected == plain_address(host)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("192.0.2.7", True), ("192.0.3.7", False), ("2001:db8::7", True), ("2001:db9::7", False)],
)
def test_networks(host: str, *, expected: bool) -> None:
    """Either kind of address in a list of both."""
    networks = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]
    assert expected is within(host, networks)
    assert not within(host, [])
