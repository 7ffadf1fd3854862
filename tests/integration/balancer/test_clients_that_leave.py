"""Clients that leave before they are served: nothing of them stays, at a server or half open."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import pytest

from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import LabServer
from tests.support.running_balancer import RunningBalancer, Vip, labs, real_server
from tests.support.wait import wait_until_async

HOURS = {"handshake": "1h", "connect": "1h", "confirm": "1h", "queue": "1h"}
PLAIN_TCP: dict[str, Any] = {
    "mode": "tcp",
    "persistence": {"methods": []},
    "health_check": {"type": "none"},
}
REQUEST = LabOpening(cookie="quitter").request()
# By a deadline of an hour, so anything within this is "at once"; the rest is for a busy machine.
AT_ONCE_S = 5.0


def ask(vip: Vip, request: bytes = REQUEST) -> socket.socket:
    """Connect and send a request."""
    client = socket.create_connection(vip.endpoint, timeout=20)
    client.sendall(request)
    return client


def depart(client: socket.socket, how: str) -> None:
    """Leave in that way; who has half closed still holds on to the socket."""
    if how == "half-close":
        client.shutdown(socket.SHUT_WR)
        return
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


async def half_open(balancer: RunningBalancer, count: int) -> None:
    """Wait until so many connections are half open."""

    async def there() -> bool:
        return bool((await balancer.status())["half_open"] == count)

    await wait_until_async(there, AT_ONCE_S, f"{count} half open")


async def gave_up(vip: Vip) -> None:
    """Check that the client was seen to leave, and that no server was blamed for it or tried in vain."""
    assert 1 == await vip.count("handshake_failures_total", reason="gave-up")
    assert 0 == await vip.count("server_connect_failures_total")
    assert 0 == await vip.count("server_redispatches_total")
    assert "quitter" not in await vip.bindings()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_while_its_server_is_silent(balancer: RunningBalancer, how: str) -> None:
    """The server is rid of it at once, long before `timeouts.confirm`, and no other one hears of it."""
    async with labs(3) as servers:
        vip = await balancer.serve(servers, timeouts=HOURS, health_check={"type": "none"})
        for server in servers:
            server.faults.inject("silent")
        client = ask(vip)
        await wait_until_async(lambda: connections(servers) == 1, AT_ONCE_S, "one connection")
        await half_open(balancer, 1)
        depart(client, how)
        await half_open(balancer, 0)
        await wait_until_async(lambda: connections(servers) == 0, AT_ONCE_S, "no connection")
        assert 1 == sum(server.counters.accepted for server in servers)
        await gave_up(vip)
        client.close()


def connections(servers: Iterable[LabServer]) -> int:
    """Return how many connections the servers have."""
    return sum(server.connections for server in servers)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_while_its_server_is_dialled(balancer: RunningBalancer, how: str) -> None:
    """A server whose network drops everything does not hold a place for who is not there any more."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, timeouts=HOURS, health_check={"type": "none"})
        servers[0].faults.inject("dial-hangs")
        client = ask(vip)
        await half_open(balancer, 1)
        depart(client, how)
        await half_open(balancer, 0)
        await gave_up(vip)
        servers[0].faults.clear()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("mode", ["rdp", "tcp"])
@pytest.mark.parametrize("said", [b"", b"and more"])
async def test_a_client_that_leaves_the_queue_gives_its_turn_to_the_next(
    balancer: RunningBalancer, mode: str, how: str, said: bytes
) -> None:
    """Whatever it has said before: its turn is the next one's."""
    async with labs(1) as servers:
        vip = await balancer.serve(
            [real_server(servers[0], max_connections=1)],
            mode=mode,
            persistence={"methods": []},
            timeouts=HOURS,
            health_check={"type": "tcp"},
        )
        occupant = ask(vip)
        await vip.wait_sessions(1)
        quitter = ask(vip, said if mode == "tcp" else REQUEST + said)
        await wait_until_async(lambda: queued(vip, 1), AT_ONCE_S, "one in the queue")
        depart(quitter, how)
        await wait_until_async(lambda: queued(vip, 0), AT_ONCE_S, "nobody in the queue")
        await half_open(balancer, 0)
        await gave_up(vip)
        occupant.close()
        quitter.close()


async def queued(vip: Vip, count: int) -> bool:
    """Whether so many wait."""
    return await vip.queue() == count


async def test_a_tcp_client_may_close_its_half_before_it_is_connected(balancer: RunningBalancer) -> None:
    """It has asked and listens: in `mode: tcp` the end of its half is passed on, and the answer comes."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, **PLAIN_TCP, timeouts=HOURS)
        servers[0].faults.inject("dial-hangs")
        client = ask(vip)
        await half_open(balancer, 1)
        client.shutdown(socket.SHUT_WR)
        servers[0].faults.clear()
        confirm = await asyncio.to_thread(client.recv, 100)
        assert confirm.startswith(b"\x03\x00\x00\x13")
        client.close()


async def test_a_tcp_client_that_closed_its_half_is_tried_on_one_server(balancer: RunningBalancer) -> None:
    """It may have left: it waits for the dial that is under way, and for no other."""
    async with labs(2) as servers:
        vip = await balancer.serve(
            servers,
            **PLAIN_TCP,
            timeouts={**HOURS, "connect": "500ms"},
        )
        for server in servers:
            server.faults.inject("dial-hangs")
        client = ask(vip, b"request")
        client.shutdown(socket.SHUT_WR)
        assert b"" == await asyncio.to_thread(client.recv, 1)
        assert 1 == await vip.count("server_connect_failures_total", reason="timeout")
        assert 0 == await vip.count("server_redispatches_total")
        client.close()
        for server in servers:
            server.faults.clear()
