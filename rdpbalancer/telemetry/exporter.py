"""Metrics and probes over HTTP, from the router's own event loop: a frozen one must not look healthy."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from rdpbalancer.core.readiness import HealthWord

# A scrape is one small GET. Nobody holds a connection here longer than this, or sends more than this.
REQUEST_TIMEOUT_S = 10.0
_REQUEST_BYTES = 16 * 1024
MAX_CONNECTIONS = 32
_TEXT: Final = "text/plain; charset=utf-8"
_HELP: Final = (
    "metrics: /metrics, liveness: /healthz, readiness: /readyz, of one service: /readyz?service=NAME\n"
)

# Says the health word of a virtual service, or, asked for None, of all together.
Readiness = Callable[[str | None], HealthWord]


class Exporter:
    """An HTTP server for one registry and the health word, on a listening socket that is given to it."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        readiness: Readiness,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._registry = registry
        self._readiness = readiness
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
        status, headers, body = self._page(event)
        headers = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
        writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
        if event.method != b"HEAD":
            writer.write(connection.send(h11.Data(data=body)) or b"")
        await writer.drain()

    def _page(self, request: h11.Request) -> tuple[int, list[tuple[str, str]], bytes]:
        path, _, query = request.target.partition(b"?")
        if request.method not in (b"GET", b"HEAD"):
            return 405, [("Content-Type", _TEXT), ("Allow", "GET, HEAD")], b"only GET and HEAD\n"
        if path == b"/metrics":
            accept = dict(request.headers).get(b"accept", b"").decode("latin-1")
            content_type, body = metrics_page(self._registry, accept)
            return 200, [("Content-Type", content_type)], body
        if path == b"/healthz":
            status, text = 200, "ok\n"
        elif path == b"/readyz":
            status, text = self._ready(query)
        else:
            status, text = 404, _HELP
        return status, [("Content-Type", _TEXT), ("Cache-Control", "no-store")], text.encode()

    def _ready(self, query: bytes) -> tuple[int, str]:
        """Answer 200 only for `ok`: whoever asks looks at the status, people read the word."""
        asked = parse_qs(query.decode("latin-1"), keep_blank_values=True, encoding="utf-8").get("service")
        word = self._readiness(asked[0] if asked else None)
        status = {HealthWord.OK: 200, HealthWord.UNKNOWN_SERVICE: 404}.get(word, 503)
        return status, f"{word.value}\n"


def metrics_page(registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    """Return content type and body of `/metrics` for an Accept header, whatever stands in it."""
    try:
        encode, content_type = choose_encoder(accept)
        body = encode(registry)
    except (TypeError, ValueError):  # a version or an escaping that is none; what it says then is up to it
        encode, content_type = choose_encoder("")
        body = encode(registry)
    return content_type, body
