"""Any bytes on the metrics port: a whole HTTP answer, or a close, and never an error that nobody expects."""

import asyncio
import re
import socket
from typing import Any, Final

import h11
from prometheus_client import CollectorRegistry, Counter

from rdpbalancer.core.readiness import HealthWord
from rdpbalancer.telemetry.exporter import Exporter

_PATIENCE_S: Final = 10.0
_HOST: Final = b" HTTP/1.1\r\nHost: a\r\n"
_OPENMETRICS: Final = b"Accept: application/openmetrics-text;version=1.0.0;q=0.75,text/plain;q=0.5\r\n"

SEEDS: Final = [
    b"GET /metrics" + _HOST + b"\r\n",
    b"GET /metrics" + _HOST + _OPENMETRICS + b"\r\n",
    b"GET /metrics" + _HOST + b"Accept: application/openmetrics-text;version=x;escaping=\xff\r\n\r\n",
    b"GET /readyz?service=b%C3%BCro&service=%ff;x" + _HOST + b"\r\n",
    b"GET /readyz?&&&==&service" + _HOST + b"\r\n",
    b"HEAD /healthz HTTP/1.0\r\n\r\n",
    b"POST /metrics" + _HOST + b"Content-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET http://a/metrics" + _HOST + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    b"GET /metrics" + _HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"CONNECT a:443" + _HOST + b"\r\n",
    b"GET /metrics" + _HOST + b"X: " + b"a" * 2000 + b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",
]


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("logins", "With a label that HTTP knows nothing of", ("service",), registry=registry).labels("ü")
    return registry


_REGISTRY: Final = _registry()


async def ask(data: bytes) -> tuple[bytes, list[dict[str, Any]]]:
    """Send bytes as one client; return what is answered up to the end, and the errors nobody expected."""
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: errors.append(context))
    exporter = Exporter(_REGISTRY, readiness=lambda _service: HealthWord.OK, request_timeout_s=_PATIENCE_S)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=theirs)
        async with asyncio.timeout(_PATIENCE_S):
            serving = loop.create_task(exporter._serve(reader, writer))
            await loop.sock_sendall(ours, data)
            ours.shutdown(socket.SHUT_WR)
            received = b""
            try:
                while chunk := await loop.sock_recv(ours, 65536):
                    received += chunk
            except ConnectionResetError:
                pass
            await serving
    assert 0 == exporter._connections, "a place was not given back"
    return received, errors


def check_answer(received: bytes, errors: list[dict[str, Any]]) -> None:
    """Hold what came back to be nothing at all, or one HTTP answer, whole."""
    assert not errors, errors
    if not received:
        return
    head, _, body = received.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 (200|404|405) ", head), head
    length = re.search(rb"^content-length: (\d+)\r?$", head, re.IGNORECASE | re.MULTILINE)
    assert length is not None
    assert len(body) in (0, int(length[1])), "cut short"


def check_exporter(data: bytes) -> None:
    """Hold the exporter to its promise for any bytes."""
    try:
        received, errors = asyncio.run(ask(data))
    except h11.ProtocolError as error:  # it is for the exporter to deal with
        raise AssertionError(error) from error
    check_answer(received, errors)
