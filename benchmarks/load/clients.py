"""The clients: each sends a Connection Request with a cookie, and counts once it has its Confirm."""

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from benchmarks.load.loop import READ, WRITE, Handler, LoadError, Loop
from benchmarks.load.servers import CONFIRM, NO_LINGER
from rdpbalancer.wire.confirm import build_request

_STREAM: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
_IP_BIND_ADDRESS_NO_PORT: Final = 24  # <linux/in.h>; the port is chosen at connect(), so that all can be used
_OPENING_AT_ONCE: Final = 200
_TIMEOUT_S: Final = 20.0

Address = tuple[str, int]


def requests(tag: str, count: int) -> list[bytes]:
    """Return Connection Requests of `count` users; the tag keeps the users of two farms apart."""
    return [build_request(cookie=f"{tag}u{number}".encode()) for number in range(count)]


class Client:
    """One session from the client's side; `confirmed` is called with it when it has its Connection Confirm.

    Leaving is always a reset (SO_LINGER 0): the ports are free again at once.
    """

    __slots__ = ("_confirmed", "_failed", "_got", "_loop", "_request", "fd", "sock")

    def __init__(
        self,
        loop: Loop,
        address: Address,
        request: bytes,
        confirmed: Callable[["Client"], None],
        *,
        failed: Callable[[str], None],
        source: str | None = None,
    ) -> None:
        self._loop = loop
        self._request = request
        self._confirmed = confirmed
        self._failed = failed
        self._got = b""
        self.sock = sock = socket.socket(socket.AF_INET, _STREAM)
        self.fd = sock.fileno()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        status = sock.connect_ex(address)
        if status not in {0, errno.EINPROGRESS}:
            self._fail(OSError(status, "connect"))
            return
        try:
            # On loopback the handshake has mostly happened within connect(): one turn of the loop less.
            sock.send(request)
        except BlockingIOError:
            loop.watch(self.fd, self._connected, WRITE)
        except OSError as error:
            self._fail(error)
        else:
            loop.watch(self.fd, self._answered, READ)

    def _connected(self, _events: int) -> None:
        try:
            self.sock.send(self._request)
        except OSError as error:
            self._fail(error)
            return
        self._loop.handlers[self.fd] = self._answered
        self._loop.change(self.fd, READ)

    def _answered(self, _events: int) -> None:
        try:
            # No more than the Confirm: what follows belongs to the workload.
            data = self.sock.recv(len(CONFIRM) - len(self._got))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        self._got += data
        if self._got == CONFIRM:
            self._confirmed(self)
        elif not data or not CONFIRM.startswith(self._got):
            self._fail(ConnectionError(f"instead of a Connection Confirm came {self._got!r}"))

    def _fail(self, error: OSError) -> None:
        self.leave()
        self._failed(str(error))

    def leave(self) -> None:
        """Reset the connection; once is enough, and more does no harm."""
        if self.fd >= 0:  # the number may be another's by now
            self._loop.forget(self.fd)
            self.fd = -1
            self.sock.close()


def listener(
    client: Client, buffer: bytearray, came: Callable[[int], None], failed: Callable[[str], None]
) -> Handler:
    """Return a handler that takes whatever comes and tells how many bytes; the session must not end."""
    receive = client.sock.recv_into

    def ready(_events: int) -> None:
        try:
            count = receive(buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        came(count)
        if not count:
            failed("a session ended early")
            client.leave()

    return ready


class Crowd:
    """Sessions that are opened together and kept until they `leave`."""

    def __init__(self, loop: Loop, address: Address) -> None:
        self._loop = loop
        self._address = address
        self._waiting: Iterator[tuple[bytes, str | None]] = iter(())
        self._all: list[Client] = []
        self.clients: list[Client] = []
        self.failures: list[str] = []
        self.take_over: Callable[[Client], Handler] = self._idle  # makes the handler of a confirmed session

    def open(
        self,
        requests: list[bytes],
        *,
        at_once: int = _OPENING_AT_ONCE,
        sources: Iterable[str | None] | None = None,
    ) -> None:
        """Open a session for each request, at most `at_once` of them at the same time.

        Raises:
            LoadError: one of them failed, or not all were served in time.
        """
        wanted = len(self.clients) + len(requests)
        self._waiting = iter(zip(requests, sources or [None] * len(requests), strict=True))
        for _ in range(min(at_once, len(requests))):
            self._next()
        self._loop.run_until(
            lambda: len(self.clients) + len(self.failures) >= wanted or bool(self.failures),
            _TIMEOUT_S,
            f"{wanted} sessions (got {len(self.clients)})",
        )
        if self.failures:
            raise LoadError(f"a session failed: {self.failures[0]}")

    def _next(self) -> None:
        request, source = next(self._waiting, (b"", None))
        if request:
            client = Client(
                self._loop, self._address, request, self._opened, failed=self.failures.append, source=source
            )
            self._all.append(client)

    def _opened(self, client: Client) -> None:
        self.clients.append(client)
        self._loop.handlers[client.fd] = self.take_over(client)
        self._next()

    def _idle(self, client: Client) -> Handler:
        return lambda _: self._ended(client)

    def _ended(self, client: Client) -> None:
        """Nothing is expected of an idle session but silence."""
        try:
            what = "sent something" if client.sock.recv(1) else "was closed"
        except BlockingIOError:
            return
        except OSError as error:
            what = str(error)
        self._loop.forget(client.fd)
        self.failures.append(f"an idle session {what}")

    def leave(self) -> None:
        """Reset all of them, and those that are not open yet."""
        for client in self._all:
            client.leave()
        self._all.clear()
        self.clients.clear()
