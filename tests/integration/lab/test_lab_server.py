"""Simulated servers do what they are told, and count it."""

import asyncio
import os
import random
import resource
from collections.abc import Callable, Iterator

import pytest

import rdpbalancer.lab.server as server_module
from rdpbalancer.lab.agent import LabAgent
from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.faults import LabFault
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.security import MCS_DISCONNECT
from rdpbalancer.lab.server import LabServer, run_server
from rdpbalancer.lab.terminal import KEPT_REQUESTS
from rdpbalancer.model import Endpoint
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.wire.confirm import PROBE, build_failure
from rdpbalancer.wire.request import Preconnection
from tests.support.wait import wait_until_async


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[], None]]:
    """A call that leaves this process room for one descriptor more; undone at the end."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave_room_for_one() -> None:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, before[1]))

    yield leave_room_for_one
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("security", "selected"), [("rdp", 0), ("tls", 1), ("nla", 2), ("legacy", None)])
async def test_a_client_is_confirmed(security: str, selected: int | None) -> None:
    """The confirm arrives as the setting says, over IPv4 and IPv6."""
    for host in ("127.0.0.1", "::1"):
        async with LabServer(host=host, security=security) as server, LabClient(server.endpoint) as client:
            assert client.confirm is not None
            assert selected == client.confirm.selected_protocol


async def test_a_failure_is_said_and_the_connection_closed() -> None:
    """The client gets the failure and then the end, nothing between."""
    async with LabServer(security="failure:5") as server:
        client = LabClient(server.endpoint)
        with pytest.raises(LabError, match="5") as caught:
            await client.open()
        assert ("negotiation-failure", b"") == (caught.value.code, await client.read_to_end())
        client.close()
        await client.connect()
        await client.send_request()
        assert build_failure(5) == await client.read_to_end()
        client.close()


async def test_a_refusal_that_is_no_confirm() -> None:
    """The client says so, and keeps what came."""
    async with LabServer(security="mcs-disconnect") as server:
        client = LabClient(server.endpoint)
        with pytest.raises(LabError) as caught:
            await client.open()
        assert ("not-confirmed", MCS_DISCONNECT) == (caught.value.code, await client.read_to_end())
        client.close()


async def test_requests_are_kept_as_they_came() -> None:
    """Preconnection PDU and request byte for byte, without what lies behind; from whom."""
    opening = LabOpening(
        cookie="alice", preconnection=Preconnection(3, "vm", 2), behind=b"early", chunk_bytes=5
    )
    async with (
        LabServer(behaviour="echo") as server,
        LabClient(server.endpoint, opening, source="127.0.0.2") as c,
    ):
        assert b"early" == await c.channel.read_exactly(5)
        (received,) = server.requests
        assert opening.request() == received.raw
        assert ("alice", c.channel.local) == (received.request.cookie, received.client)
        assert "127.0.0.2" == received.client.host
    assert KEPT_REQUESTS == server.requests.maxlen


async def test_probes_are_neither_requests_nor_sessions() -> None:
    """A health check is answered and counted apart."""
    async with (
        LabServer(security="nla") as server,
        LabClient(server.endpoint, LabOpening(raw=PROBE)) as client,
    ):
        assert client.confirm is not None
        assert (1, 0, 1) == (server.counters.probes, server.counters.requests, server.counters.confirms)
        assert ([], 0) == (server.sessions, len(server.requests))


async def test_a_client_may_look_like_a_probe() -> None:
    """Without a cookie its request may be the same: it is a client as soon as it goes on."""
    async with LabServer() as server, LabClient(server.endpoint, LabOpening(raw=PROBE)) as client:
        assert "ts1-1" == (await client.login("alice")).desktop
        assert (0, 1, 1) == (server.counters.probes, server.counters.requests, len(server.sessions))


async def test_strangers_are_counted() -> None:
    """What is no request, and what is none yet when it ends, are closed and counted apart."""
    async with LabServer() as server:
        for raw, codes in ((b"GET / HTTP/1.1\r\n\r\n", (1, 0)), (b"\x03\x00\x00", (1, 1))):
            client = LabClient(server.endpoint, LabOpening(raw=raw))
            await client.connect()
            await client.send_request()
            client.half_close()
            assert b"" == await client.read_to_end()
            client.close()
            assert codes == (server.counters.malformed, server.counters.unfinished)
        assert (2, 0) == (server.counters.accepted, server.counters.requests)


async def test_a_user_returns_to_the_desktop() -> None:
    """New at first, returned afterwards; live sessions and desktops can be asked for."""
    async with LabServer(name="ts7") as server:
        async with LabClient(server.endpoint, LabOpening(cookie="DOM\\alice")) as client:
            await wait_until_async(lambda: server.sessions, 5, "a session")
            assert ["DOM\\alice"] == [session.user for session in server.sessions]
            assert ("ts7", "ts7-1", False, 1, 0) == await client.login("alice")
            assert ["alice"] == [session.user for session in server.sessions]
            await client.echo_check(random.Random(1), 100_000)
            await client.leave()
        await wait_until_async(lambda: not server.connections, 5, "the end of the session")
        assert ([], 0, 1) == (server.sessions, server.desktops["alice"].connections, len(server.desktops))
        async with LabClient(server.endpoint) as client:
            assert ("ts7", "ts7-1", True, 2, 0) == await client.login("alice")
            assert ("ts7", "ts7-2", False, 1, 0) == await _login(server.endpoint, "bob")
        assert (3, 3) == (server.counters.logins, server.counters.requests)


async def _login(endpoint: Endpoint, user: str) -> tuple[str, str, bool, int, int]:
    async with LabClient(endpoint) as client:
        return await client.login(user)


@pytest.mark.parametrize("line", [b"GOODBYE alice\n", b"HELLO\n", b"HELLO  \n", b"x" * 2000])
async def test_who_does_not_say_hello_is_closed(line: bytes) -> None:
    """A wrong line, no user, or no end of line within the bound."""
    async with LabServer() as server, LabClient(server.endpoint) as client:
        await client.channel.write(line)
        assert b"" == await client.read_to_end()
        assert 0 == server.counters.logins


async def test_a_stream_is_the_pattern_and_ends() -> None:
    """Every byte of it, then a half-close; the client may still speak."""
    async with (
        LabServer(behaviour="stream", stream_bytes=300_000) as server,
        LabClient(server.endpoint) as client,
    ):
        await client.stream_check(300_000)
        assert b"" == await client.read_to_end()
        before = server.counters.bytes_in
        await client.channel.write(b"still here")
        await wait_until_async(lambda: server.counters.bytes_in == before + 10, 5, "the client's words")
        assert 1 == len(server.sessions)
        await client.leave()
        await wait_until_async(lambda: not server.sessions, 5, "the end of the session")


async def test_a_stream_may_stay() -> None:
    """No end follows until the client leaves."""
    async with LabServer(behaviour="stream", stream_bytes=70_000, after_stream="stay") as server:
        client = LabClient(server.endpoint, timeout_s=0.1)
        await client.open()
        await client.stream_check(70_000)
        with pytest.raises(LabError) as caught:
            await client.read_to_end()
        assert "timeout" == caught.value.code
        client.half_close()
        assert b"" == await client.read_to_end()
        client.close()


async def test_a_desktop_paints_until_the_client_leaves() -> None:
    """Updates within their size, from chance that is handed in; input is read meanwhile."""
    made = LabServer(behaviour="desktop", updates_per_s=500, update_bytes=100, rng=random.Random(5))
    async with made as server, LabClient(server.endpoint) as client:
        chance = random.Random(5)
        expected = chance.randbytes(chance.randint(64, 100))
        assert expected == await client.channel.read_exactly(len(expected))
        await client.channel.write(b"key")
        await client.channel.read_exactly(300)
        await client.leave()
        await wait_until_async(lambda: not server.connections, 5, "the end of the session")
        assert server.counters.bytes_in == len(server.requests[0].raw) + 3


async def test_a_sink_counts_bytes_and_sends_none() -> None:
    """All bytes arrive; none come back."""
    async with LabServer(behaviour="sink") as server, LabClient(server.endpoint) as client:
        await client.channel.write(bytes(100_000))
        client.half_close()
        assert b"" == await client.read_to_end()
        assert len(server.requests[0].raw) + 100_000 == server.counters.bytes_in


async def test_sessions_can_be_cut() -> None:
    """Those of one user in order, all with a reset; the desktops stay and the port too."""
    async with LabServer() as server:
        clients = {user: LabClient(server.endpoint) for user in ("alice", "bob")}
        for user, client in clients.items():
            await client.open()
            await client.login(user)
        await server.cut(user="alice")
        assert b"" == await clients["alice"].read_to_end()
        assert ["bob"] == [session.user for session in server.sessions]
        endpoint = server.endpoint
        await server.stop(reset=True)
        with pytest.raises(LabError, match="broke"):
            await clients["bob"].read_to_end()
        with pytest.raises(LabError) as caught:
            await _login(endpoint, "alice")
        assert "refused" == caught.value.code
        server.start()
        assert ("ts1", "ts1-1", True, 2, 0) == await _login(endpoint, "alice")
        for client in clients.values():
            client.close()


async def test_a_client_that_resets_is_counted() -> None:
    """A reset is not a close."""
    async with LabServer() as server:
        client = LabClient(server.endpoint)
        await client.open()
        await client.login("alice")
        client.reset()
        await wait_until_async(lambda: not server.connections, 5, "the end of the session")
        assert (1, 0) == (server.counters.resets_received, server.counters.resets)


async def test_a_server_runs_until_cancelled() -> None:
    """`run_server` tells its address, and gives it up when cancelled."""
    told: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
    server = LabServer()
    task = spawn(run_server(server, ready=told.set_result), name="server under test")
    endpoint = await asyncio.wait_for(told, 5)
    assert ("ts1", "ts1-1", False, 1, 0) == await _login(endpoint, "alice")
    await cancel_and_wait(task)
    with pytest.raises(LabError) as caught:
        await _login(endpoint, "alice")
    assert "refused" == caught.value.code


async def test_a_taken_address_is_said() -> None:
    """The error names the address."""
    async with LabServer() as server:
        with pytest.raises(LabError, match=str(server.port)) as caught:
            LabServer(port=server.port).start()
        assert "bad-option" == caught.value.code


async def test_faults_may_be_injected_before_the_start() -> None:
    """A server may be down from the beginning, at a port that is known nevertheless."""
    server = LabServer()
    server.faults.inject(LabFault.REFUSE)
    async with server:
        with pytest.raises(LabError) as caught:
            await _login(server.endpoint, "alice")
        assert "refused" == caught.value.code
        server.faults.clear()
        assert ("ts1", "ts1-1", False, 1, 0) == await _login(server.endpoint, "alice")


async def test_a_server_out_of_descriptors_serves_later(few_descriptors: Callable[[], None]) -> None:
    """It waits instead of spinning, and whoever knocked meanwhile is served when there is room."""
    async with LabServer() as server:
        client = LabClient(server.endpoint, timeout_s=0.1)
        few_descriptors()
        await client.connect()
        await client.send_request()
        with pytest.raises(LabError, match="awaiting the confirm"):
            await client.await_confirm()
        assert 0 == server.counters.accepted
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        await wait_until_async(lambda: server.counters.confirms, 5, "the confirm")
        assert 0 == (await client.await_confirm()).selected_protocol
        client.close()


async def test_a_full_server_turns_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bound connections are closed and counted."""
    monkeypatch.setattr(server_module, "MAX_CONNECTIONS", 1)
    async with LabServer() as server, LabClient(server.endpoint):
        with pytest.raises(LabError) as caught:
            await _login(server.endpoint, "bob")
        assert caught.value.code in {"closed", "reset"}
        assert (1, 1) == (server.counters.accepted, server.counters.turned_away)


async def test_a_server_runs_with_its_agent() -> None:
    """The agent comes and goes with it."""
    told: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
    agent = LabAgent("50%")
    task = spawn(run_server(LabServer(), agent=agent, ready=told.set_result), name="server under test")
    await asyncio.wait_for(told, 5)
    client = LabClient(agent.endpoint)
    await client.connect()
    assert b"50%\n" == await client.read_to_end()
    await cancel_and_wait(task)
    with pytest.raises(LabError) as caught:
        await client.connect()
    assert "refused" == caught.value.code
