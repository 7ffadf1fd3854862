"""The socket options of a session: on a listener, and inherited by what it accepts."""

import socket
from collections.abc import Iterator

import pytest

from rdpbalancer.net.options import for_session, reset_on_close


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listener with the options of sessions."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        for_session(sock)
        yield sock


@pytest.mark.parametrize(
    ("level", "option", "expected"),
    [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 105_000),
    ],
    ids=["nodelay", "keepalive", "idle", "interval", "user-timeout"],
)
def test_an_accepted_connection_has_the_options(
    listener: socket.socket, level: int, option: int, expected: int
) -> None:
    """Keys are sent at once, and a peer that vanished is noticed within 105 s, without a call of its own."""
    with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
        assert expected == accepted.getsockopt(level, option)


def test_a_reset_instead_of_an_end(listener: socket.socket) -> None:
    """The peer learns that the connection is dead, and nothing of it lingers here."""
    with socket.create_connection(listener.getsockname()) as client:
        accepted = listener.accept()[0]
        reset_on_close(accepted)
        accepted.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
