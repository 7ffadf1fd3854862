"""The table of refusals: the exact bytes that the client gets, the close, the count, and nothing held."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import GARBAGE
from rdpbalancer.model import Endpoint
from rdpbalancer.wire.confirm import DISCONNECT, NegotiationFailure, build_confirm, build_failure
from tests.support.running_balancer import RunningBalancer, Vip, labs

SHORT = {"handshake": "300ms", "connect": "1s", "confirm": "400ms", "queue": "300ms"}
BARE = bytes.fromhex("0300000b06e00000000000")
LF_ONLY = b"\x03\x00\x00\x20\x1b\xe0\0\0\0\0\0Cookie: mstshash=bob\n"


async def said(vip: Vip, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes and return all that comes until the balancer closes."""
    client = LabClient(vip.endpoint, LabOpening(raw=data), timeout_s=5)
    await client.connect()
    if data:
        await client.send_request()
    if half_close:
        client.half_close()
    try:
        return await client.read_to_end()
    finally:
        client.close()


async def refused(vip: Vip, reason: str) -> None:
    """Check that exactly one connection failed, for that reason, and that nothing is held."""
    assert 1 == await vip.count("handshake_failures_total", reason=reason), reason
    assert 1 == await vip.count("handshakes_total", result="failed")
    await vip.balancer.quiet()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "http"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "ssh"),
        (b"\x00\x01\x02\x03", "not-tpkt"),
        (b"\x03\x00\x04\x00\x06\xe0", "oversized"),
        (b"\x03\x00\x00\x0b\x06\xd0\0\0\0\0\0", "not-connection-request"),
        (b"\x03\x00\x00\x0b\x07\xe0\0\0\0\0\0", "malformed"),
    ],
)
async def test_what_is_not_rdp_is_closed_at_once(balancer: RunningBalancer, data: bytes, reason: str) -> None:
    """Closed at the first byte that proves it, without a word, long before the handshake timeout."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        began_at = time.monotonic()
        assert b"" == await said(vip, data)
        assert time.monotonic() - began_at < 2
        await refused(vip, reason)
        assert 0 == servers[0].counters.requests


@pytest.mark.parametrize("data", [b"", b"\x03\x00\x00", BARE[:-1]])
async def test_a_slow_request_is_closed(balancer: RunningBalancer, data: bytes) -> None:
    """No complete request within the handshake timeout: closed, however the bytes drip."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, timeouts=SHORT)
        began_at = time.monotonic()
        assert b"" == await said(vip, data)
        assert 0.25 < time.monotonic() - began_at < 3
        await refused(vip, "timeout")


async def test_a_client_that_leaves_within_its_request(balancer: RunningBalancer) -> None:
    """It is counted, and does not wait for the timeout."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        assert b"" == await said(vip, BARE[:5], half_close=True)
        await refused(vip, "closed")


@pytest.mark.parametrize("data", [BARE, LF_ONLY])
@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_an_unusual_request_is_served_at_once(balancer: RunningBalancer, data: bytes) -> None:
    """11 bytes (no cookie, no negotiation), or LF without CR: no delay at all."""
    async with labs(1, behaviour="echo", security="legacy") as servers:
        vip = await balancer.serve(servers)
        began_at = time.monotonic()
        async with LabClient(vip.endpoint, LabOpening(raw=data)) as client:
            assert time.monotonic() - began_at < 1
            await client.echo_check(random.Random(1), 10_000)
            await client.leave()
        assert data == servers[0].requests[-1].raw


@pytest.mark.parametrize(
    ("require", "offered", "failure"),
    [
        ("tls", 0, NegotiationFailure.SSL_REQUIRED),
        ("tls", None, NegotiationFailure.SSL_REQUIRED),
        ("nla", 1, NegotiationFailure.HYBRID_REQUIRED),
        ("nla", None, NegotiationFailure.HYBRID_REQUIRED),
    ],
)
async def test_weak_security_is_told(
    balancer: RunningBalancer, require: str, offered: int | None, failure: NegotiationFailure
) -> None:
    """A Connection Confirm with RDP_NEG_FAILURE, then the end; the server never hears of it."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, require_security=require)
        data = LabOpening(cookie="bob", requested_protocols=offered).request()
        assert build_failure(failure) == await said(vip, data)
        await refused(vip, "security")
        assert 0 == servers[0].counters.requests


@pytest.mark.parametrize(("require", "offered"), [("tls", 1), ("tls", 3), ("nla", 2), ("nla", 11)])
async def test_enough_security_is_served(balancer: RunningBalancer, require: str, offered: int) -> None:
    """Who offers what is required comes in."""
    async with labs(1, security="nla" if require == "nla" else "tls") as servers:
        vip = await balancer.serve(servers, require_security=require)
        async with LabClient(vip.endpoint, LabOpening(cookie="bob", requested_protocols=offered)) as client:
            await client.leave()


@pytest.mark.parametrize("state", ["down", "halt", "drain"])
async def test_no_usable_server(balancer: RunningBalancer, state: str) -> None:
    """An X.224 Disconnect Request, then the end: the client tries once and says so."""
    async with labs(1) as servers:
        if state == "down":
            servers[0].faults.inject("refuse")
        vip = await balancer.serve(servers, usable=0 if state == "down" else 1)
        if state != "down":
            await balancer.ask("set-state", server="ts1", state=state, service=vip.name)
        assert DISCONNECT == await said(vip, LabOpening(cookie="bob").request())
        await refused(vip, "all-down" if state == "down" else "all-draining-or-halted")


async def test_the_queue_times_out(balancer: RunningBalancer) -> None:
    """No place within `timeouts.queue`: Disconnect Request."""
    async with labs(1) as servers:
        entry = {"name": "ts1", "address": str(servers[0].endpoint), "max_connections": 1}
        vip = await balancer.serve([entry], timeouts=SHORT)
        async with LabClient(vip.endpoint, LabOpening(cookie="alice")) as client:
            began_at = time.monotonic()
            assert DISCONNECT == await said(vip, LabOpening(cookie="bob").request())
            assert 0.25 < time.monotonic() - began_at < 3
            assert 1 == await vip.count("handshake_failures_total", reason="queue-timeout")
            assert 0 == await vip.queue()
            await client.leave()


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("refuse", "refused"),
        ("dial-hangs", "timeout"),
        ("accept-then-close", "closed"),
        ("accept-then-reset", "reset"),
        ("silent", "silent"),
        ("blackhole", "silent"),
        ("partial-confirm-then-close", "closed"),
    ],
)
async def test_another_server_is_tried(balancer: RunningBalancer, fault: str, code: str) -> None:
    """A server that fails before its Connection Confirm costs the client a moment, nothing more."""
    async with labs(2) as servers:
        vip = await balancer.serve(
            servers,
            scheduler="first-available",
            timeouts=SHORT,
            health_check={"interval": "1h"},  # nobody notices but the connection itself
        )
        servers[0].faults.inject(fault)
        async with LabClient(vip.endpoint, LabOpening(cookie="bob")) as client:
            assert "ts2" == (await client.login("bob")).server
            await client.leave()
        assert 1 == await vip.count("server_connect_failures_total", server="ts1", reason=code)
        assert 1 == await vip.count("server_redispatches_total", server="ts1")
        record = (await vip.wait_records(1))[0]
        assert (2, "redispatch", "ts2") == (record["attempts"], record["reason"], record["server"])
        assert {"bob": "ts2"} == await vip.bindings()


async def test_redispatch_is_bounded(balancer: RunningBalancer) -> None:
    """After `redispatch` further servers the client is told; a last server is not tried."""
    async with labs(4) as servers:
        vip = await balancer.serve(
            servers, scheduler="first-available", redispatch=1, health_check={"interval": "1h"}
        )
        for server in servers[:3]:
            server.faults.inject("accept-then-close")
        assert DISCONNECT == await said(vip, LabOpening(cookie="bob").request())
        assert [1, 1, 0, 0] == [
            await vip.count("server_connect_failures_total", server=server.name) for server in servers
        ]
        await refused(vip, "closed")
        assert {} == await vip.bindings()


async def test_a_failed_attempt_keeps_the_old_binding(balancer: RunningBalancer) -> None:
    """All servers fail once: the user's desktop is where it was."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, health_check={"interval": "1h"})
        async with LabClient(vip.endpoint, LabOpening(cookie="bob")) as client:
            await client.leave()
        servers[0].faults.inject("accept-then-close")
        assert DISCONNECT == await said(vip, LabOpening(cookie="bob").request())
        assert {"bob": "ts1"} == await vip.bindings()


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_a_servers_refusal_is_passed_on(balancer: RunningBalancer) -> None:
    """RDP_NEG_FAILURE of the server reaches the client as it is, is counted and recorded."""
    async with labs(1, security="failure:5") as servers:
        vip = await balancer.serve(servers)
        assert build_failure(5) == await said(vip, LabOpening(cookie="bob").request())
        assert 1 == await vip.count("server_negotiation_failures_total", code="5")
        assert 5 == (await vip.wait_records(1))[0]["negotiation_failure"]


async def test_garbage_of_a_server_is_passed_on(balancer: RunningBalancer) -> None:
    """What is no Connection Confirm reaches the client as it is; it binds nobody."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, health_check={"type": "tcp"})
        servers[0].faults.inject("garbage-reply")
        assert GARBAGE == await said(vip, LabOpening(cookie="bob").request())
        await vip.wait_records(1)
        assert {} == await vip.bindings()


@pytest.fixture
async def chatty() -> AsyncIterator[Endpoint]:
    """A server that says more right behind its Connection Confirm, in the same segment."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(build_confirm(selected_protocol=1) + b"behind the confirm" * 300)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Endpoint(*server.sockets[0].getsockname()[:2])
    server.close()


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_what_follows_the_confirm_at_once(balancer: RunningBalancer, chatty: Endpoint) -> None:
    """Bytes that a server sends behind its confirm reach the client, in order."""
    vip = await balancer.serve([{"name": "ts1", "address": str(chatty)}])
    async with LabClient(vip.endpoint, LabOpening(cookie="bob")) as client:
        assert b"behind the confirm" * 300 == await client.channel.read_exactly(5400)
        client.half_close()
        assert b"" == await client.read_to_end()


async def test_a_confirm_byte_by_byte(balancer: RunningBalancer) -> None:
    """However the confirm arrives, it is waited for and passed on whole."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        servers[0].faults.inject("confirm-byte-by-byte")
        async with LabClient(vip.endpoint, LabOpening(cookie="bob")) as client:
            assert "ts1" == (await client.login("bob")).server
            await client.leave()


async def test_a_client_that_leaves_while_its_server_is_dialled(balancer: RunningBalancer) -> None:
    """Its end shows at the latest when the server has answered, and everything is given back."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        servers[0].faults.inject("slow-confirm", delay_s=0.3)
        client = LabClient(vip.endpoint, LabOpening(cookie="bob"))
        await client.connect()
        await client.send_request()
        client.reset()
        servers[0].faults.inject("slow-confirm", delay_s=0.3)
        await balancer.quiet()
        await vip.wait_sessions(0)


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_300_malformed_openings_at_once_are_closed_and_counted(balancer: RunningBalancer) -> None:
    """Three hundred broken openings at once, of every kind: all closed, all counted, users served."""
    rng = random.Random(7)
    request = LabOpening(cookie="bob").request()
    openings = [
        rng.choice([rng.randbytes(rng.randint(1, 300)), request[: rng.randint(1, len(request) - 1)]])
        for _ in range(300)
    ]

    async def try_it(vip: Vip, data: bytes) -> str:
        client = vip.client(opening=LabOpening(raw=data), timeout_s=8)
        await client.connect()
        try:
            await client.send_request()
            await client.read_to_end()
        except LabError as error:
            return error.code
        finally:
            client.close()
        return "closed"

    async with labs(1) as servers:
        vip = await balancer.serve(servers, timeouts=SHORT)
        ends = await asyncio.gather(*(try_it(vip, data) for data in openings))
        assert {"closed", "reset"} >= set(ends)
        async with LabClient(vip.endpoint, LabOpening(cookie="alice")) as client:
            assert "ts1" == (await client.login("alice")).server
            await client.leave()
        assert 301 == await vip.count("connections_total")
