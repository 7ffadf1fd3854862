"""Farms of GNOME Remote Desktop: each login is redirected twice, by a number that its host alone knows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.handover import Handovers
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.population import Visit, user_names
from tests.support.running_balancer import RunningBalancer, Vip, labs

# So many log in at once: a login is three connections, and all have to be open on this machine.
AT_ONCE = 100
MADE_UP = 40


def own_address(number: int) -> str:
    """Return an address of loopback for each user."""
    return f"127.{1 + number // 62500}.{1 + number // 250 % 250}.{1 + number % 250}"


@asynccontextmanager
async def logins(vip: Vip, users: Sequence[str], *, at_once: int, apart: bool) -> AsyncIterator[list[Visit]]:
    """Have users log in and stay, each from an address of its own or all from one; say where they are."""
    door = asyncio.Semaphore(at_once)
    clients: list[LabClient] = []

    async def one(number: int, user: str) -> Visit:
        source = own_address(number) if apart else None
        client = LabClient(vip.endpoint, LabOpening(cookie=user), source=source, timeout_s=30)
        clients.append(client)
        async with door:
            await client.open()
            return Visit(user, await client.login(user))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number, user)) for number, user in enumerate(users)]
        yield [task.result() for task in tasks]
    finally:
        for client in clients:
            client.close()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "renumber"), [(1000, False), (200, True)])
@pytest.mark.timeout(120)
async def test_a_thousand_logins_arrive(balancer: RunningBalancer, *, count: int, renumber: bool) -> None:
    """Each user, from an address of its own, is on a desktop of the host that has greeted it."""
    async with labs(3, behaviour="gnome") as servers:
        for server in servers:
            server.handovers = Handovers(server.clock, renumber=renumber)
        vip = await balancer.serve(servers, limits={"per_source": {"half_open": 4096}})
        async with logins(vip, user_names(count), at_once=AT_ONCE, apart=True) as visits:
            pass
        landed = Counter(visit.landing.server for visit in visits if visit.landing)
        assert count == sum(landed.values())
        assert {2} == {visit.landing.redirects for visit in visits if visit.landing}
        assert count == sum(server.counters.logins for server in servers)


@pytest.mark.timeout(120)
async def test_an_office_behind_one_address_arrives(balancer: RunningBalancer) -> None:
    """Fifty users from one address within a minute: wrong hosts say so, and the next one is asked."""
    async with labs(10, behaviour="gnome") as servers:
        vip = await balancer.serve(servers)
        async with logins(vip, user_names(50), at_once=50, apart=False) as visits:
            assert 50 == sum(visit.landing is not None for visit in visits)
            assert 50 == sum(server.counters.logins for server in servers)
            rows = await vip.sessions()
        assert {"token"} == {row["reason"] for row in rows}
        assert {"rdp-cookie"} == {row["method"] for row in rows}, (
            "each keeps a first connection's binding alive"
        )
        refused = sum(server.counters.unknown_tokens for server in servers)
        assert refused == await vip.count("routing_tokens_searched_total")


async def test_a_made_up_token_is_refused(balancer: RunningBalancer) -> None:
    """Each host is asked once; none is held to have failed."""
    async with labs(3, behaviour="gnome") as servers:
        vip = await balancer.serve(servers)
        client = LabClient(vip.endpoint, LabOpening(token=b"Cookie: msts=3735928559"))
        with pytest.raises(LabError, match="0x80") as caught:
            await client.open()
        assert "not-confirmed" == caught.value.code
        client.close()
        assert [1, 1, 1] == [server.counters.unknown_tokens for server in servers]
        (failed,) = balancer.events("connection_failed", service=vip.name)
        assert ("token-unknown", "client") == (failed["reason"], failed["fault"])
        assert [] == balancer.events("server_failed", service=vip.name)


async def test_a_stranger_with_made_up_tokens_harms_nobody(balancer: RunningBalancer) -> None:
    """He gets as many connections to servers as with any request, pushes no user out, and no server down."""
    async with labs(6, behaviour="gnome") as servers:
        vip = await balancer.serve(servers, persistence={"max_entries": 16}, redispatch=2)
        users = [LabClient(vip.endpoint, LabOpening(cookie=f"user{number}")) for number in range(8)]
        for number, user in enumerate(users):
            await user.open()
            await user.login(f"user{number}")
        bindings, sessions = await vip.bindings(), await vip.sessions()
        assert 8 == len(bindings)
        before = sum(server.counters.unknown_tokens for server in servers)
        for number in range(MADE_UP):
            token = b"Cookie: msts=%d" % (4_000_000_000 + number)
            stranger = LabClient(vip.endpoint, LabOpening(token=token), source="127.9.9.9")
            with pytest.raises(LabError):
                await stranger.open()
            stranger.close()
        asked = sum(server.counters.unknown_tokens for server in servers) - before
        assert 3 * MADE_UP == asked
        assert bindings == await vip.bindings()
        assert {row["id"] for row in sessions} == {row["id"] for row in await vip.sessions()}
        assert {("up", 0)} == {
            (row["health"], row["checks_failed"]) for row in (await vip.servers()).values()
        }
        assert 0 == await vip.count("persistence_evictions_total")
        for user in users:
            user.close()
