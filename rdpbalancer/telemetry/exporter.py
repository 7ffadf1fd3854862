"""Serving `/metrics` over HTTP, from the router's own event loop: a frozen loop must not look healthy."""

import asyncio
import socket

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

# A scrape is one small GET. Nobody holds a connection here longer than this, or sends more than this.
REQUEST_TIMEOUT_S = 10.0
_REQUEST_BYTES = 16 * 1024
MAX_CONNECTIONS = 32


class Exporter:
    """An HTTP server for one registry, on a listening socket that is given to it."""

    def __init__(self, registry: CollectorRegistry, *, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._registry = registry
        self._request_timeout_s = request_timeout_s
        self._server: asyncio.Server | None = None
        self._connections = 0

    async def start(self, listener: socket.socket) -> None:
        """Serve on `listener`."""
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=_REQUEST_BYTES)

    async def stop(self) -> None:
        """Stop serving and close the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            async with asyncio.timeout(self._request_timeout_s):
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()  # the answer may still wait for a client that does not read
        except (OSError, TimeoutError, h11.ProtocolError):
            return
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_REQUEST_BYTES)
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(_REQUEST_BYTES))
        if not isinstance(event, h11.Request):
            return
        status, content_type, body = self._page(event)
        headers = [
            ("Content-Type", content_type),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
        if event.method != b"HEAD":
            writer.write(connection.send(h11.Data(data=body)) or b"")
        await writer.drain()

    def _page(self, request: h11.Request) -> tuple[int, str, bytes]:
        path = request.target.partition(b"?")[0]
        text = "text/plain; charset=utf-8"
        if request.method not in (b"GET", b"HEAD"):
            return 405, text, b"only GET\n"
        if path == b"/healthz":
            return 200, text, b"ok\n"
        if path != b"/metrics":
            return 404, text, b"metrics are at /metrics, liveness at /healthz\n"
        accept = dict(request.headers).get(b"accept", b"").decode("latin-1")
        encode, content_type = choose_encoder(accept)
        return 200, content_type, encode(self._registry)
