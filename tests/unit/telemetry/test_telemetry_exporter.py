"""The metrics' HTTP end, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from rdpbalancer.core.readiness import HealthWord
from rdpbalancer.telemetry.exporter import MAX_CONNECTIONS, Exporter
from tests.support.wait import wait_until_async

PATIENCE_S = 5.0
WORDS: dict[str | None, HealthWord] = {
    None: HealthWord.OK,
    "desktops": HealthWord.NO_SERVERS,
    "gateway": HealthWord.OK,
    "büro 1": HealthWord.OK,
    "": HealthWord.UNKNOWN_SERVICE,
}


def word_of(service: str | None) -> HealthWord:
    """Return the health word of services that are only told of."""
    return WORDS.get(service, HealthWord.UNKNOWN_SERVICE)


@contextlib.asynccontextmanager
async def exporting(
    registry: CollectorRegistry, *, request_timeout_s: float = PATIENCE_S, send_buffer_bytes: int = 0
) -> AsyncIterator[tuple[str, int]]:
    """Serve a registry on a free port of loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer_bytes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    address = listener.getsockname()
    exporter = Exporter(registry, readiness=word_of, request_timeout_s=request_timeout_s)
    await exporter.start(listener)
    yield address
    await exporter.stop()
    await exporter.stop()


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    """Serve a registry with one gauge."""
    registry = CollectorRegistry()
    Gauge("sessions", "Live sessions", registry=registry).set(7)
    async with exporting(registry) as served:
        yield served


async def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Send a request and read to the end; a reset is an end too."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(request)
            with contextlib.suppress(ConnectionError):
                return await reader.read()
            return b""
    finally:
        writer.transport.abort()


async def get(
    address: tuple[str, int], target: str, *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Return the status, the headers and the body."""
    lines = [f"{method} {target} HTTP/1.1", "Host: here", *(f"{k}: {v}" for k, v in headers.items())]
    answer = await exchange(address, "\r\n".join([*lines, "", ""]).encode())
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *fields = head.split("\r\n")
    found = dict(field.lower().split(": ", 1) for field in fields)
    return int(status.split()[1]), found, body


async def test_metrics_as_text(address: tuple[str, int]) -> None:
    """What curl and an old Prometheus get."""
    status, headers, body = await get(address, "/metrics")
    assert 200 == status
    assert headers["content-type"].startswith("text/plain; version=")
    assert str(len(body)) == headers["content-length"]
    assert "sessions 7.0\n" in body
    assert "# EOF" not in body


async def test_metrics_as_openmetrics(address: tuple[str, int]) -> None:
    """What a Prometheus asks for today."""
    accept = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"
    status, headers, body = await get(address, "/metrics", Accept=accept)
    assert 200 == status
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith("# EOF\n")


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "application/openmetrics-text;version=1.0.0;escaping=x",
        "text/plain;version=x",
        "text/plain; version=1.0.0; escaping=\u00ff",
        ";;;,,,=,=;version=",
    ],
)
async def test_any_accept_header_is_answered(address: tuple[str, int], accept: str) -> None:
    """A header that makes no sense is no header: the plain text, not a broken connection."""
    status, _, body = await get(address, "/metrics", Accept=accept)
    assert 200 == status
    assert "sessions 7.0\n" in body


async def test_a_query_changes_nothing(address: tuple[str, int]) -> None:
    """Scrapers may add one."""
    assert 200 == (await get(address, "/metrics?name[]=sessions"))[0]


async def test_health(address: tuple[str, int]) -> None:
    """Liveness, answered from the router's own loop."""
    status, _, body = await get(address, "/healthz")
    assert (200, "ok\n") == (status, body)


@pytest.mark.parametrize(
    ("target", "status", "word"),
    [
        ("/readyz", 200, "ok"),
        ("/readyz?", 200, "ok"),
        ("/readyz?verbose=1", 200, "ok"),
        ("/readyz?service=desktops", 503, "no-servers"),
        ("/readyz?service=gateway", 200, "ok"),
        ("/readyz?service=b%C3%BCro%201", 200, "ok"),
        ("/readyz?service=b%C3%BCro+1&x=%ff", 200, "ok"),
        ("/readyz?service=typo", 404, "unknown-service"),
        ("/readyz?service=", 404, "unknown-service"),
        ("/readyz?service=%ff%00", 404, "unknown-service"),
    ],
)
async def test_readiness_is_the_health_word(
    address: tuple[str, int], target: str, status: int, word: str
) -> None:
    """200 for `ok` alone; a service that is not there is neither ready nor merely down."""
    answer = await get(address, target)
    assert (status, f"{word}\n") == (answer[0], answer[2])
    assert "no-store" == answer[1]["cache-control"]


async def test_liveness_is_not_readiness(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server in the farm there is nobody to restart for it."""
    monkeypatch.setitem(WORDS, None, HealthWord.NO_SERVERS)
    assert [503, 200] == [(await get(address, target))[0] for target in ("/readyz", "/healthz")]


@pytest.mark.parametrize("target", ["/", "/metrics/", "/healthz/x", "/../etc/passwd", "http://here/metrics"])
async def test_other_paths_say_where_to_look(address: tuple[str, int], target: str) -> None:
    """A person who tries the port in a browser is helped."""
    status, _, body = await get(address, target)
    assert 404 == status
    assert [] == [page for page in ("/metrics", "/healthz", "/readyz") if page not in body]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_only_reading(address: tuple[str, int], method: str) -> None:
    """There is nothing to change here."""
    for target in ("/metrics", "/readyz", "/"):
        status, headers, _ = await get(address, target, method=method)
        assert (405, "get, head") == (status, headers["allow"])


@pytest.mark.parametrize("target", ["/metrics", "/healthz", "/readyz", "/nothing"])
async def test_head_is_get_without_the_body(address: tuple[str, int], target: str) -> None:
    """With the length the body would have."""
    status, headers, body = await get(address, target)
    assert (status, headers["content-length"]) == (
        (again := await get(address, target, method="HEAD"))[0],
        again[1]["content-length"],
    )
    assert (str(len(body)), "") == (headers["content-length"], again[2])


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",  # HTTP/1.1 wants a Host
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000,
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["tls", "rdp", "no-target", "no-host", "too-long", "bad-length"],
)
async def test_garbage_is_cut_off(address: tuple[str, int], garbage: bytes) -> None:
    """Without an answer, at once, and others are served on."""
    assert b"" == await exchange(address, garbage)
    assert 200 == (await get(address, "/metrics"))[0]


async def test_who_says_nothing_and_leaves_is_nobody(address: tuple[str, int]) -> None:
    """A port scan ends here."""
    _, writer = await asyncio.open_connection(*address)
    writer.close()
    await writer.wait_closed()
    assert 200 == (await get(address, "/metrics"))[0]


async def test_a_slow_client_is_cut(address: tuple[str, int]) -> None:
    """Nobody holds a connection here: half a request gets no more than its time."""
    del address
    async with exporting(CollectorRegistry(), request_timeout_s=0.1) as impatient:
        assert b"" == await exchange(impatient, b"GET /metrics HTTP/1.1\r\nHost: a\r\n")


@pytest.mark.parametrize("size_bytes", [40_000, 400_000], ids=["in-one-piece", "in-pieces"])
async def test_a_client_that_does_not_read_is_cut(size_bytes: int) -> None:
    """An answer that nobody takes does not stay in memory, whether or not it waits to be written."""
    registry = CollectorRegistry()
    Gauge("big", "x" * size_bytes, registry=registry)
    async with exporting(registry, request_timeout_s=0.2, send_buffer_bytes=4096) as impatient:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(impatient)
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        await wait_until_async(only(impatient, established=1), PATIENCE_S, "a connection")
        await wait_until_async(only(impatient, established=0), PATIENCE_S, "its end")
        received = 0
        with contextlib.suppress(ConnectionError):
            while chunk := client.recv(65536):
                received += len(chunk)
        assert received < size_bytes
        client.close()


def only(address: tuple[str, int], *, established: int) -> Callable[[], bool]:
    """Return a question: does the exporter have exactly so many established connections?"""
    port = f":{address[1]:04X}"

    def asked() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return established == sum(row[1].endswith(port) and row[3] == "01" for row in rows)

    return asked


async def test_too_many_connections_are_turned_away(address: tuple[str, int]) -> None:
    """A scrape is one connection; a crowd of silent ones is bounded, and gives way when it leaves."""
    silent = [await asyncio.open_connection(*address) for _ in range(MAX_CONNECTIONS)]
    assert b"" == await exchange(address, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    for _, writer in silent:
        writer.close()

    async def served() -> bool:
        return b"ok" in await exchange(address, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")

    await wait_until_async(served, PATIENCE_S, "an answer after the crowd has left")
