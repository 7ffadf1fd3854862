"""The way of a connection: which server it reaches, and what reaches the server."""

import asyncio
import random
import time
from typing import Any

import pytest

from rdpbalancer.lab.client import LabClient, Landing
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.model import Endpoint
from rdpbalancer.wire.request import Preconnection
from rdpbalancer.wire.token import encode_msts
from tests.support.running_balancer import RunningBalancer, Vip, labs, real_server
from tests.support.wait import wait_until_async

RELAYS = pytest.mark.parametrize("balancer", [0, 1, 2], indirect=True)


async def visit(vip: Vip, user: str, opening: LabOpening | None = None, source: str | None = None) -> Landing:
    """Log in, be told where, and leave."""
    async with LabClient(vip.endpoint, opening or LabOpening(cookie=user), source=source) as client:
        landing = await client.login(user)
        await client.leave()
    return landing


@RELAYS
async def test_users_return_to_their_desktop(balancer: RunningBalancer) -> None:
    """Every user comes back to the server that has their desktop, also from another address."""
    users = [f"user{number}" for number in range(12)]
    async with labs(3) as servers:
        vip = await balancer.serve(servers, scheduler="weighted-round-robin")
        first = {user: await visit(vip, user) for user in users}
        again = {user: await visit(vip, user.upper(), source="127.0.0.7") for user in users}
        assert {user: place.server for user, place in first.items()} == {
            user: place.server for user, place in again.items()
        }
        assert {user: place.server for user, place in first.items()} == await vip.bindings()
        assert {"ts1", "ts2", "ts3"} == {place.server for place in first.values()}
        reasons = [record["reason"] for record in await vip.wait_records(24)]
        assert ["scheduled"] * 12 + ["cookie"] * 12 == reasons


async def test_the_time_that_a_server_takes_is_told_in_its_unit(balancer: RunningBalancer) -> None:
    """From dialling to the answer: milliseconds in the record, seconds in the metric."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, health_check={"type": "tcp"})
        servers[0].faults.inject("slow-confirm", delay_s=0.3)
        began_at = time.monotonic()
        await visit(vip, "alice")
        took_s = time.monotonic() - began_at
        (record,) = await vip.wait_records(1)
        assert 300 <= record["connect_ms"] <= took_s * 1000
        assert 0.3 <= await vip.count("server_connect_duration_seconds_sum") <= took_s


async def test_a_token_goes_to_the_server_it_names(balancer: RunningBalancer) -> None:
    """A routing token selects its server by address or token_addresses, and leaves no binding behind."""
    async with labs(3) as servers:
        entries = [real_server(server) for server in servers]
        entries[2]["token_addresses"] = ["10.9.8.7:3389"]
        vip = await balancer.serve(entries)
        for address, name in ((servers[1].endpoint, "ts2"), (Endpoint("10.9.8.7", 3389), "ts3")):
            token = encode_msts(address)
            assert name == (await visit(vip, "u", LabOpening(token=token))).server
        assert {} == await vip.bindings()
        records = await vip.wait_records(2)
        assert [("token", "routing-token")] * 2 == [(r["reason"], r["method"]) for r in records]
        assert 0 == await vip.count("routing_tokens_missed_total")


async def test_a_token_that_cannot_be_followed_falls_through(balancer: RunningBalancer) -> None:
    """An unknown or down target: the next method decides, the token is counted and passed on untouched."""
    async with labs(2) as servers:
        servers[1].faults.inject("refuse")
        vip = await balancer.serve(servers, usable=1)
        for target in (Endpoint("192.0.2.1", 3389), servers[1].endpoint):
            opening = LabOpening(token=encode_msts(target))
            assert "ts1" == (await visit(vip, "u", opening)).server
            assert opening.request() == servers[0].requests[-1].raw
        assert 2 == await vip.count("routing_tokens_missed_total")
        assert {"127.0.0.1": "ts1"} == await vip.bindings()


async def test_a_broker_redirects_through_the_balancer(balancer: RunningBalancer) -> None:
    """A user sent away with a token reaches the desktop that the broker knows of."""
    from rdpbalancer.lab.desktops import Broker

    broker = Broker()
    async with labs(3, behaviour="broker", broker=broker) as servers:
        vip = await balancer.serve(servers)
        broker.assign("alice", servers[2].home)
        for _ in range(4):
            assert "ts3" == (await visit(vip, "alice")).server


async def test_without_cookie_the_source_decides(balancer: RunningBalancer) -> None:
    """No cookie, no token: the address is the key, one server for one address."""
    async with labs(3) as servers:
        vip = await balancer.serve(servers)
        homes: dict[str, set[str]] = {}
        for source in ("127.0.0.3", "127.0.0.4", "127.0.0.5") * 2:
            landing = await visit(vip, "x", LabOpening(), source=source)
            homes.setdefault(source, set()).add(landing.server)
        assert [1, 1, 1] == [len(home) for home in homes.values()]
        assert sorted(homes) == sorted(await vip.bindings())
        assert {"scheduled", "source-ip"} == {record["reason"] for record in await vip.wait_records(6)}


@pytest.mark.parametrize(
    "token", [b"tsv://MS Terminal Services Plugin.1.COLLECTION", b"mth://whatever", b"Cookie: msts=nonsense"]
)
async def test_an_opaque_token_is_passed_on(balancer: RunningBalancer, token: bytes) -> None:
    """A token that is none of ours is no key; it reaches the server as it came, and the record."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        opening = LabOpening(token=token)
        await visit(vip, "u", opening)
        assert opening.request() == servers[0].requests[-1].raw
        assert ["127.0.0.1"] == list(await vip.bindings())
        assert token.decode() == (await vip.wait_records(1))[0]["token"]


@RELAYS
@pytest.mark.parametrize("chunk_bytes", [None, 1, 7])
async def test_every_byte_is_passed_on(balancer: RunningBalancer, chunk_bytes: int | None) -> None:
    """Preconnection PDU, request, and what the client said at once behind it, in any pieces."""
    opening = LabOpening(
        cookie="alice",
        preconnection=Preconnection(7, "vm-1", 2),
        behind=b"HELLO alice\nearly bytes",
        chunk_bytes=chunk_bytes,
        correlation_id=bytes(range(1, 17)),
    )
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        async with LabClient(vip.endpoint, opening) as client:
            assert b"DESKTOP ts1" == (await client.channel.read_line(200))[:11]
            assert b"early bytes" == await client.channel.read_exactly(11)
            await client.echo_check(random.Random(5), 50_000)
            await client.leave()
        assert opening.request() == servers[0].requests[-1].raw
        record = (await vip.wait_records(1))[0]
        assert (bytes(range(1, 17)).hex(), "vm-1") == (record["correlation_id"], record["preconnection"])


@pytest.mark.parametrize("version", [1, 2])
async def test_the_proxy_header_names_the_source(balancer: RunningBalancer, version: int) -> None:
    """From a trusted network the PROXY header is required, and the source is who it names."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, accept_proxy=["127.0.0.0/8"])
        source = Endpoint("192.0.2.55", 41000)
        opening = LabOpening(proxy_version=version, proxy_source=source, behind=b"HELLO x\nmore")
        async with LabClient(vip.endpoint, opening) as client:
            await client.channel.read_line(200)
            assert b"more" == await client.channel.read_exactly(4)
            (session,) = await vip.sessions()
            assert ("192.0.2.55:41000", "192.0.2.55") == (session["client"], session["key"])
            await client.leave()
        received = [server.requests[-1].raw for server in servers if server.requests]
        assert [opening.request()] == received
        async with asyncio.timeout(5):
            client = LabClient(vip.endpoint, LabOpening(cookie="no-header"))
            await client.connect()
            await client.send_request()
            assert b"" == await client.read_to_end()
            client.close()
        assert 1 == await vip.count("handshake_failures_total", reason="proxy")


async def test_outside_trusted_networks_no_header_is_read(balancer: RunningBalancer) -> None:
    """Who is not a trusted proxy cannot name a source: the header is not RDP."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, accept_proxy=["10.0.0.0/8"])
        await visit(vip, "alice")
        client = LabClient(vip.endpoint, LabOpening(cookie="eve", proxy_version=1))
        await client.connect()
        await client.send_request()
        assert b"" == await client.read_to_end()
        client.close()
        assert 1 == await vip.count("handshake_failures_total")


@pytest.mark.parametrize(("setting", "start"), [("v1", b"PROXY TCP4 "), ("v2", b"\r\n\r\n\0\r\nQUIT\n")])
async def test_send_proxy_tells_the_server_the_source(
    balancer: RunningBalancer, setting: str, start: bytes
) -> None:
    """With send_proxy the server gets the header first, and health checks do so too."""
    got: list[bytes] = []

    async def terminal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from rdpbalancer.wire.confirm import build_confirm
        from rdpbalancer.wire.proxy import parse_proxy

        data = b""
        while (header := parse_proxy(data)) is None:
            data += await reader.read(1000)
        while len(data) < header.length + 19:
            data += await reader.read(1000)
        got.append(data)
        writer.write(build_confirm(selected_protocol=1))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(terminal, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        vip = await balancer.serve([{"name": "ts1", "address": f"127.0.0.1:{port}"}], send_proxy=setting)
        opening = LabOpening(cookie="alice")
        async with LabClient(vip.endpoint, opening, source="127.0.0.9") as client:
            await wait_until_async(lambda: any(b"alice" in data for data in got), 5, "the request")
            local = client.channel.local
            await client.leave()
        (data,) = [data for data in got if b"alice" in data]
        from rdpbalancer.wire.proxy import parse_proxy

        header = parse_proxy(data)
        assert header is not None
        assert data.startswith(start)
        assert (local, vip.endpoint) == (header.source, header.destination)
        assert opening.request() == data[header.length :]
        assert all(data.startswith(start) for data in got)
    finally:
        server.close()


@RELAYS
async def test_mode_tcp_reads_nothing(balancer: RunningBalancer) -> None:
    """`mode: tcp` passes any bytes, whoever speaks first, and keeps nobody without source-ip."""

    async def greeter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 first\n")
        writer.write((await reader.read(100))[::-1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greeter, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        vip = await balancer.serve(
            [{"name": "gw1", "address": f"127.0.0.1:{port}"}], mode="tcp", persistence={"methods": []}
        )
        reader, writer = await asyncio.open_connection(*vip.endpoint)
        assert b"220 first\n" == await reader.readline()
        writer.write(b"abc")
        assert b"cba" == await reader.read()
        writer.close()
        await writer.wait_closed()
        assert {} == await vip.bindings()
    finally:
        server.close()


async def test_a_pinned_desktop_is_found_from_many_sessions(balancer: RunningBalancer) -> None:
    """While a user is connected, further connections of theirs go to the same server."""
    async with labs(3) as servers:
        vip = await balancer.serve(servers)
        async with LabClient(vip.endpoint, LabOpening(cookie="alice")) as one:
            home = (await one.login("alice")).server
            landings = [await visit(vip, "alice") for _ in range(5)]
            assert {home} == {landing.server for landing in landings}
            rows: list[dict[str, Any]] = await balancer.ask("persistence", service=vip.name)
            assert [(None, 1)] == [(row["expires_in"], row["sessions"]) for row in rows]
            await one.leave()
        await vip.wait_sessions(0)
        rows = await balancer.ask("persistence", service=vip.name)
        assert [True] == [3590 < row["expires_in"] <= 3600 for row in rows]


async def test_collisions_are_told_once(balancer: RunningBalancer) -> None:
    """A cookie from more addresses than a person has is warned of once, and may go to the next method."""
    async with labs(2) as servers:
        vip = await balancer.serve(
            servers, persistence={"collision_sources": 2, "on_collision": "next-method"}
        )
        clients = [
            LabClient(vip.endpoint, LabOpening(cookie="ACMECORP\\"), source=f"127.0.1.{number}")
            for number in range(1, 6)
        ]
        for client in clients:
            await client.open()
        assert ["127.0.1.1", "127.0.1.2", "127.0.1.3", "127.0.1.4", "127.0.1.5"] == sorted(
            str(row["key"]) for row in await vip.sessions()
        )
        assert 5 == await vip.count("persistence_ambiguous_cookies_total")
        for client in clients:
            client.close()
        await vip.wait_sessions(0)
        clients = [
            LabClient(vip.endpoint, LabOpening(cookie="ACMECORPOR"), source=f"127.0.2.{number}")
            for number in range(1, 6)
        ]
        for client in clients:
            await client.open()
        keys = sorted(str(row["key"]) for row in await vip.sessions())
        assert ["127.0.2.4", "127.0.2.5", "acmecorpor", "acmecorpor", "acmecorpor"] == keys
        assert 1 == len(balancer.events("cookie_collision", service=vip.name))
        shown = [
            event
            for event in await balancer.ask("events", service=vip.name)
            if event["event"] == "cookie_collision"
        ]
        assert [vip.name] == [event["service"] for event in shown], "an operator has to see it"
        for client in clients:
            client.close()


@pytest.mark.parametrize(("on_collision", "servers_used"), [("keep", 1), ("next-method", 2)])
async def test_a_gateway_is_told_once(
    balancer: RunningBalancer, on_collision: str, servers_used: int
) -> None:
    """Everybody behind one address without a cookie goes to one server: the operator is told, with a cure."""
    async with labs(2) as servers:
        vip = await balancer.serve(
            servers, persistence={"collision_sources": 2, "on_collision": on_collision}
        )
        clients = [LabClient(vip.endpoint, LabOpening(requested_protocols=1)) for _ in range(7)]
        for client in clients:
            await client.open()
        assert servers_used == len({row["server"] for row in await vip.sessions()})
        shown = [
            event
            for event in await balancer.ask("events", service=vip.name)
            if event["event"] == "address_collision"
        ]
        assert [("warning", vip.name, "127.0.0.1", 3)] == [
            (event["level"], event["service"], event["source"], event["sessions"])
            for event in shown
            if event["service"] == vip.name
        ]
        assert "load-balance-info" in shown[-1]["detail"]
        assert 1 == len(balancer.events("address_collision", service=vip.name))
        warned = [row["text"] for row in (await balancer.ask("status"))["warnings"]]
        (text,) = [
            text for text in warned if text.startswith(f"{vip.name}: 3 sessions at once from 127.0.0.1")
        ]
        assert "on_collision: next-method" in text, "status says what helps, too"
        assert 1 == await vip.count("persistence_address_collisions_total")
        for client in clients:
            client.close()


async def test_an_office_whose_cookies_are_not_asked_for(balancer: RunningBalancer) -> None:
    """With `source-ip` alone, names would tell people apart: the event says so."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, persistence={"collision_sources": 1, "methods": ["source-ip"]})
        clients = [LabClient(vip.endpoint, LabOpening(cookie=f"user{number}")) for number in range(3)]
        for client in clients:
            await client.open()
        (shown,) = balancer.events("address_collision", service=vip.name)
        assert shown["detail"].endswith("put rdp-cookie before source-ip in persistence.methods")
        for client in clients:
            client.close()
