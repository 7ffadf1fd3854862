"""The terminal servers: they answer a Connection Request, note whose it was, and do what is measured."""

import select
import socket
from collections.abc import Callable
from typing import Final

from benchmarks.load.loop import READ, Handler, Loop
from rdpbalancer.wire.confirm import build_confirm

COUNT: Final = 3
CONFIRM: Final = build_confirm(selected_protocol=2)
CHUNK_BYTES: Final = 256 * 1024
NO_LINGER: Final = b"\1\0\0\0\0\0\0\0"  # struct linger {1, 0}: close() resets, and leaves no TIME_WAIT behind
_BACKLOG: Final = 4096  # a storm arrives at once
_ACCEPTS_PER_TURN: Final = 64
_COOKIE: Final = b"mstshash="
_ENDED: Final = select.EPOLLHUP | select.EPOLLERR


class Accepted:
    """One connection at a terminal server."""

    __slots__ = ("_servers", "fd", "read", "request", "server", "sock")

    def __init__(self, servers: "Servers", server: int, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.server = server
        self.request = b""
        self.read = sock.recv
        self._servers = servers

    def first_bytes(self, events: int) -> None:
        """Collect the Connection Request, answer it, and go over to what the workload wants."""
        try:
            self.request += self.read(4096)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        request = self.request
        if not request or (events & _ENDED and len(request) < 4):  # a health check that only connects
            self.close()
        elif len(request) >= 4 and len(request) >= request[2] << 8 | request[3]:
            self._servers.confirm(self)

    def close(self) -> None:
        """End it with a reset."""
        self._servers.loop.forget(self.fd)
        self._servers.open -= 1
        self.sock.close()


class Servers:
    """Terminal servers of one loop, on free ports of 127.0.0.1.

    `behaviour` makes the handler of a connection once it is confirmed. `bound` remembers which server each
    user reached first; a user who reaches another is counted in `wrong`.
    """

    def __init__(self, loop: Loop, count: int = COUNT) -> None:
        self.loop = loop
        self.open = 0
        self.confirmed = 0
        self.wrong = 0
        self.bound: dict[bytes, int] = {}
        self.sessions: dict[bytes, int] = {}
        self.behaviour: Callable[[Accepted], Handler] = echo
        self._listeners = [self._listen(number) for number in range(count)]
        self.ports = [listener.getsockname()[1] for listener in self._listeners]

    def _listen(self, number: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        listener.setblocking(False)
        # Accepted sockets inherit both.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop.watch(listener.fileno(), lambda _: self._accept(number, listener))
        return listener

    def _accept(self, number: int, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            accepted = Accepted(self, number, sock)
            self.open += 1
            self.loop.watch(accepted.fd, accepted.first_bytes, READ)

    def confirm(self, accepted: Accepted) -> None:
        """Answer a whole Connection Request."""
        _, found, rest = accepted.request.partition(_COOKIE)
        if found:  # a health check has no cookie
            self.confirmed += 1
            user, _, _ = rest.partition(b"\r\n")
            self.sessions[user] = self.sessions.get(user, 0) + 1
            if self.bound.setdefault(user, accepted.server) != accepted.server:
                self.wrong += 1
        try:
            accepted.sock.send(CONFIRM)
        except OSError:
            accepted.close()
            return
        self.loop.handlers[accepted.fd] = self.behaviour(accepted) if found else echo(accepted)

    def sessions_of(self, tag: str) -> int:
        """Return how many sessions the users of one farm have had."""
        start = f"{tag}u".encode(), f"{tag}su".encode()
        return sum(count for user, count in self.sessions.items() if user.startswith(start))

    def close(self) -> None:
        """Stop listening."""
        for listener in self._listeners:
            self.loop.forget(listener.fileno())
            listener.close()


def echo(accepted: Accepted) -> Handler:
    """Send back whatever comes. A peer that does not read what it asked for is cut off."""
    read, send, close = accepted.sock.recv, accepted.sock.send, accepted.close

    def ready(_events: int) -> None:
        try:
            data = read(65536)
            if not data or send(data) != len(data):
                close()
        except BlockingIOError:
            return
        except OSError:
            close()

    return ready
