"""Socket options of every session, on both of its sockets."""

import socket
import struct

# A peer that vanished (Wi-Fi, closed lid) is noticed after a minute of silence and three more unanswered
# probes, well before the firewall between has forgotten the connection.
KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_COUNT = 3
# Unacknowledged data for this long means the same as unanswered probes.
USER_TIMEOUT_MS = (KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_COUNT) * 1000

# No TCP_KEEPCNT: with TCP_USER_TIMEOUT Linux counts time, not probes (tcp(7)).
_FOR_SESSION = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def for_session(sock: socket.socket) -> None:
    """Set what an interactive, day-long connection needs. On a listener: its connections inherit it."""
    for level, option, value in _FOR_SESSION:
        sock.setsockopt(level, option, value)


def reset_on_close(sock: socket.socket) -> None:
    """Make close send a reset and forget the connection at once."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
