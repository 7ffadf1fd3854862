"""Reading a client's opening: an optional PROXY header, an optional preconnection PDU, the request."""

import socket
from types import TracebackType
from typing import Self

import msgspec

from rdpbalancer.errors import ClientError, RdpBalancerError
from rdpbalancer.net.poller import FdWaiter, Poller
from rdpbalancer.wire.proxy import ProxyHeader, parse_proxy
from rdpbalancer.wire.request import ConnectionRequest, parse_request

# The largest opening is a PROXY v2 header (16 + 2048), a preconnection PDU (512) and a request (259). What a
# client sends behind its request waits in the kernel but for the rest of this read.
OPENING_BYTES = 4096


class ClientOpening(msgspec.Struct, frozen=True):
    """What a client opened with. `data`: all that was read behind the PROXY header, to be passed on."""

    data: bytes
    request: ConnectionRequest


class Reader:
    """Reads one client's opening, bounded in bytes by `OPENING_BYTES` and in time by `deadline_at`.

    A context manager: when it is left, the socket is watched no longer.
    """

    __slots__ = ("_data", "_deadline_at", "_sock", "_waits", "_watch")

    def __init__(self, sock: socket.socket, waits: Poller, *, deadline_at: float) -> None:
        self._sock = sock
        self._waits = waits
        self._watch: FdWaiter | None = None
        self._deadline_at = deadline_at
        self._data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.end()

    async def proxy_header(self) -> ProxyHeader:
        """Read the PROXY header that a trusted proxy must send. Raises ProtocolError, ClientError."""
        while (header := parse_proxy(self._data)) is None:
            await self._more("PROXY header")
        self._data = self._data[header.length :]
        return header

    async def opening(self) -> ClientOpening:
        """Read up to the end of the Connection Request. Raises ProtocolError, ClientError."""
        while (request := parse_request(self._data)) is None:
            await self._more("Connection Request")
        return ClientOpening(self._data, request)

    def watch_kept(self) -> FdWaiter | None:
        """Return the client's watch, which is the caller's from now on; None: nobody had to wait."""
        watch, self._watch = self._watch, None
        return watch

    def rest(self) -> bytes:
        """Return what was read and belongs to the session (`mode: tcp`)."""
        return self._data

    async def _more(self, what: str) -> None:
        """Read what there is, at least one byte."""
        room = OPENING_BYTES - len(self._data)
        while True:
            try:
                chunk = self._sock.recv(room)
            except BlockingIOError:
                await self._wait(what)
                continue
            except OSError as error:
                raise ClientError("reset", f"the client broke off before its {what}: {error}") from error
            if not chunk:
                code = "closed" if self._data else "closed-silent"
                raise ClientError(code, f"the client left before its {what} was complete")
            self._data += chunk
            return

    async def _wait(self, what: str) -> None:
        try:
            self._watch = self._watch or self._waits.watch(self._sock)
            await self._watch.ready(self._deadline_at)
        except TimeoutError:
            raise ClientError("timeout", f"no complete {what} in time") from None
        except OSError as error:
            raise RdpBalancerError("internal", f"a client cannot be waited for: {error}") from error
