"""A TCP forwarder for clients that cannot choose their source address; it also counts their connections."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from rdpbalancer.model import Endpoint

_CHUNK_BYTES = 65536


class Forwarder:
    """Listens on 127.0.0.1 and connects onward, from `source`, to `target`. One thread per direction."""

    def __init__(self, target: Endpoint, *, source: str = "127.0.0.1") -> None:
        self._target = target
        self._source = source
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.connections = 0
        self._start(self._accept)

    @property
    def endpoint(self) -> Endpoint:
        """Where the client is to connect."""
        return Endpoint("127.0.0.1", self._listener.getsockname()[1])

    def _start(self, target: object, *args: object) -> None:
        assert callable(target)
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            with self._lock:
                self.connections += 1
            try:
                server = socket.create_connection(self._target, timeout=10, source_address=(self._source, 0))
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._sockets += [client, server]
            self._start(self._copy, client, server)
            self._start(self._copy, server, client)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                sink.sendall(chunk)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End every connection and thread."""
        for end in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):  # wakes the thread that blocks on it
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for end in (self._listener, *self._sockets):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
