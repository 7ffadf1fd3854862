"""Who may come in, how many, and whose turn it is."""

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.tasks import spawn
from rdpbalancer.wire.confirm import DISCONNECT
from tests.support.running_balancer import RunningBalancer, Vip, labs, real_server
from tests.support.wait import wait_until_async


async def hold(stack: AsyncExitStack, vip: Vip, user: str, source: str | None = None) -> LabClient:
    """Open a session that stays until the stack ends."""
    return await stack.enter_async_context(
        LabClient(vip.endpoint, LabOpening(cookie=user), source=source, timeout_s=8)
    )


async def turned_away(vip: Vip, reason: str, source: str | None = None) -> None:
    """Check that a connection is closed before a byte is read, and counted."""
    before = await vip.count("rejected_total", reason=reason)
    client = LabClient(vip.endpoint, LabOpening(cookie="late"), source=source)
    await client.connect()
    with suppress(LabError):  # reset: it wrote after we had closed
        assert b"" == await client.read_to_end()
    client.close()
    assert before + 1 == await vip.count("rejected_total", reason=reason)


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_max_sessions(balancer: RunningBalancer) -> None:
    """A service takes no more than that; who leaves makes room."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, limits={"max_sessions": 2})
        async with AsyncExitStack() as stack:
            await hold(stack, vip, "a")
            second = await hold(stack, vip, "b")
            await turned_away(vip, "max-sessions")
            await second.leave()
            await vip.wait_sessions(1)
            await hold(stack, vip, "c")


async def test_sessions_of_one_source(balancer: RunningBalancer) -> None:
    """A source has its own bound, and costs no other source anything."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, limits={"per_source": {"sessions": 1}})
        async with AsyncExitStack() as stack:
            await hold(stack, vip, "a", "127.0.0.2")
            await turned_away(vip, "source-sessions", "127.0.0.2")
            await hold(stack, vip, "b", "127.0.0.3")


async def test_half_open_connections_of_one_source(balancer: RunningBalancer) -> None:
    """A source that opens connections and says nothing keeps only itself out."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, limits={"per_source": {"half_open": 2}})
        silent = [LabClient(vip.endpoint, source="127.0.0.2") for _ in range(2)]
        for client in silent:
            await client.connect()
        await wait_until_async(lambda: _half_open(balancer, 2), 5, "2 half-open")
        await turned_away(vip, "source-half-open", "127.0.0.2")
        async with LabClient(vip.endpoint, LabOpening(cookie="b"), source="127.0.0.3") as client:
            await client.leave()
        for client in silent:
            client.close()
        await balancer.quiet()
        async with LabClient(vip.endpoint, LabOpening(cookie="c"), source="127.0.0.2") as client:
            await client.leave()


async def _half_open(balancer: RunningBalancer, count: int) -> bool:
    return bool((await balancer.status())["half_open"] == count)


async def test_the_rate_of_one_source(balancer: RunningBalancer) -> None:
    """More connections in an interval than the rate are turned away; other sources are not."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, limits={"per_source": {"rate": "3/1h"}})
        for user in "abc":
            async with LabClient(vip.endpoint, LabOpening(cookie=user), source="127.0.0.2") as client:
                await client.leave()
        await turned_away(vip, "source-rate", "127.0.0.2")
        async with LabClient(vip.endpoint, LabOpening(cookie="d"), source="127.0.0.3") as client:
            await client.leave()


async def test_allow_and_deny(balancer: RunningBalancer) -> None:
    """Deny goes before allow; who is in neither stays out where there is an allow list."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, limits={"allow": ["127.0.0.0/29"], "deny": ["127.0.0.3/32"]})
        async with LabClient(vip.endpoint, LabOpening(cookie="a"), source="127.0.0.2") as client:
            await client.leave()
        await turned_away(vip, "denied", "127.0.0.3")
        await turned_away(vip, "denied", "127.0.0.3")
        await wait_until_async(
            lambda: bool(balancer.events("connections_rejected", service=vip.name, reason="denied")),
            20,
            "the sum",
        )
        (told,) = balancer.events("connections_rejected", service=vip.name, reason="denied")
        assert (2, 1, "127.0.0.3") == (told["count"], told["sources"], told["most_from"])
        await turned_away(vip, "not-allowed", "127.0.0.9")


async def test_limits_hold_behind_a_proxy(balancer: RunningBalancer) -> None:
    """With PROXY protocol it is the source named there that is limited."""
    from rdpbalancer.model import Endpoint

    async with labs(1) as servers:
        vip = await balancer.serve(servers, accept_proxy=["127.0.0.1/32"], limits={"deny": ["192.0.2.0/24"]})
        opening = LabOpening(cookie="a", proxy_version=2, proxy_source=Endpoint("192.0.2.1", 1000))
        client = LabClient(vip.endpoint, opening)
        await client.connect()
        await client.send_request()
        assert b"" == await client.read_to_end()
        client.close()
        assert 1 == await vip.count("handshake_failures_total", reason="denied")
        other = LabOpening(cookie="a", proxy_version=1, proxy_source=Endpoint("198.51.100.1", 1000))
        async with LabClient(vip.endpoint, other) as client:
            await client.leave()


async def test_one_silent_source_keeps_nobody_out(balancer: RunningBalancer) -> None:
    """Without a limit of its own, a source holds half of all half-open places at most."""
    async with labs(1) as servers:
        balancer.set_global(limits={"max_half_open": 4})
        try:
            vip = await balancer.serve(servers)
            for _ in range(2):
                await vip.client(source="127.0.0.2").connect()
            await wait_until_async(lambda: _half_open(balancer, 2), 5, "2 half-open")
            await turned_away(vip, "source-half-open", "127.0.0.2")
            await (await vip.opened("a", source="127.0.0.3")).leave()
        finally:
            balancer.dismiss()
            balancer.set_global(limits={"max_half_open": 4096})


async def test_half_open_connections_in_all(balancer: RunningBalancer) -> None:
    """Beyond limits.max_half_open nobody is heard; room comes back with the handshake timeout."""
    async with labs(1) as servers:
        balancer.set_global(limits={"max_half_open": 4})
        try:
            vip = await balancer.serve(servers, timeouts={"handshake": "700ms"})
            silent = [vip.client(source=source) for source in ("127.0.0.2", "127.0.0.3") * 2]
            for client in silent:
                await client.connect()
            await wait_until_async(lambda: _half_open(balancer, 4), 5, "4 half-open")
            await turned_away(vip, "max-half-open")
            await balancer.quiet()
            async with LabClient(vip.endpoint, LabOpening(cookie="a")) as client:
                await client.leave()
        finally:
            balancer.set_global(limits={"max_half_open": 4096})


async def test_min_connections(balancer: RunningBalancer) -> None:
    """Once full, a server takes new users again at that many sessions; those who are bound come before."""
    async with labs(2) as servers, AsyncExitStack() as stack:
        first, second = servers
        vip = await balancer.serve(
            [real_server(first, max_connections=3, min_connections=1), real_server(second)],
            scheduler="first-available",
        )
        clients = [await hold(stack, vip, f"user{number}") for number in range(3)]
        assert {"ts1"} == {row["server"] for row in await vip.sessions()}
        await clients[0].leave()
        await vip.wait_sessions(2)
        assert (await vip.servers())["ts1"]["emptying"]
        shown = (await balancer.command("show", "server", f"{vip.name}/ts1")).stdout
        assert "again at 1 session, once full; it has been full and waits for that" in shown
        await hold(stack, vip, "new1")
        back = await hold(stack, vip, "user0")
        on = {row["user"]: row["server"] for row in await vip.sessions()}
        assert ("ts2", "ts1") == (on["new1"], on["user0"])
        await back.leave()
        await clients[1].leave()
        await vip.wait_sessions(2)
        await hold(stack, vip, "new2")
        assert "ts1" == {row["user"]: row["server"] for row in await vip.sessions()}["new2"]


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_the_queue_is_first_come_first_served(balancer: RunningBalancer) -> None:
    """A full farm makes its users wait, and lets them in in their order."""
    order: list[str] = []
    async with labs(1) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve([real_server(servers[0], max_connections=1)])
        first = await hold(stack, vip, "first")
        clients: dict[str, LabClient] = {}

        async def come(user: str) -> None:
            clients[user] = await hold(stack, vip, user)
            order.append(user)

        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(("a", "b", "c", "d"), start=1):
                group.create_task(come(user))
                await wait_until_async(partial(_queued, vip, number), 5, f"{number} in the queue")
            leaving = first
            for count in range(1, 5):
                await leaving.leave()
                await wait_until_async(partial(_served, order, count), 5, f"{count} served")
                leaving = clients[order[-1]]
        assert ["a", "b", "c", "d"] == order
        await leaving.leave()
        records = await vip.wait_records(5)
        assert all(record["queue_ms"] > 0 for record in records[1:])
        assert 4 == await vip.count("queue_wait_seconds_count")


def _served(order: list[str], count: int) -> bool:
    return len(order) == count


async def _queued(vip: Vip, count: int) -> bool:
    return await vip.queue() == count


async def test_a_bound_user_waits_for_their_own_server(balancer: RunningBalancer) -> None:
    """The desktop is there: a free place elsewhere is left to others."""
    async with labs(2) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve(
            [real_server(server, max_connections=1) for server in servers], scheduler="first-available"
        )
        async with LabClient(vip.endpoint, LabOpening(cookie="alice")) as client:
            assert "ts1" == (await client.login("alice")).server
            await client.leave()
        await vip.wait_sessions(0)
        other = await hold(stack, vip, "bob")  # takes alice's place on ts1
        waiting = spawn(hold(stack, vip, "alice"), name="user", on_error=lambda _error: None)
        await wait_until_async(lambda: _queued(vip, 1), 5, "alice in the queue")
        assert {"ts1": 1, "ts2": 0} == {n: row["queue"] for n, row in (await vip.servers()).items()}
        carol = await hold(stack, vip, "carol")
        assert "ts2" == (await carol.login("carol")).server
        await other.leave()
        alice = await waiting
        assert "ts1" == (await alice.login("alice")).server
        await alice.leave()
        assert "cookie" == next(r["reason"] for r in await vip.wait_records(3) if r["queue_ms"] > 0)


@pytest.mark.parametrize("verb", ["move", "delete"])
async def test_an_operator_ends_the_wait(balancer: RunningBalancer, verb: str) -> None:
    """A user who waits for their own full server is bound elsewhere, or to nothing: they go there at once."""
    async with labs(2) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve(
            [real_server(server, max_connections=1) for server in servers], scheduler="first-available"
        )
        async with LabClient(vip.endpoint, LabOpening(cookie="alice")) as client:
            await client.leave()
        await vip.wait_sessions(0)
        await hold(stack, vip, "bob")  # takes alice's place on ts1
        waiting = spawn(hold(stack, vip, "alice"), name="user", on_error=lambda _error: None)
        await wait_until_async(lambda: _queued(vip, 1), 5, "alice in the queue")
        params = {"key": "alice", "service": vip.name} | ({"server": "ts2"} if verb == "move" else {})
        await balancer.ask(f"persist-{verb}", **params)
        alice = await waiting
        assert "ts2" == (await alice.login("alice")).server
        assert {"alice": "ts2", "bob": "ts1"} == await vip.bindings()


async def test_when_full_redispatch(balancer: RunningBalancer) -> None:
    """With `when_full: redispatch` a user whose server is full goes elsewhere, and is bound there."""
    async with labs(2) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve(
            [real_server(server, max_connections=1) for server in servers],
            scheduler="first-available",
            persistence={"when_full": "redispatch"},
        )
        async with LabClient(vip.endpoint, LabOpening(cookie="alice")) as client:
            await client.leave()
        await vip.wait_sessions(0)
        await hold(stack, vip, "bob")
        alice = await hold(stack, vip, "alice")
        assert "ts2" == (await alice.login("alice")).server
        assert {"alice": "ts2", "bob": "ts1"} == await vip.bindings()


async def test_who_leaves_the_queue_is_gone(balancer: RunningBalancer) -> None:
    """A client that gives up loses its turn, and the next gets it."""
    async with labs(1) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve([real_server(servers[0], max_connections=1)])
        first = await hold(stack, vip, "first")
        quitter = LabClient(vip.endpoint, LabOpening(cookie="quitter"))
        await quitter.connect()
        await quitter.send_request()
        await wait_until_async(lambda: _queued(vip, 1), 5, "one in the queue")
        patient = spawn(hold(stack, vip, "patient"), name="user", on_error=lambda _error: None)
        await wait_until_async(lambda: _queued(vip, 2), 5, "two in the queue")
        quitter.close()
        await wait_until_async(lambda: _queued(vip, 1), 5, "one in the queue")
        await first.leave()
        await patient
        assert 1 == await vip.count("handshake_failures_total", reason="gave-up")
        assert {"first", "patient"} == set(await vip.bindings())


async def test_a_server_that_comes_up_serves_the_queue(balancer: RunningBalancer) -> None:
    """Who waits because all places are taken gets one on a server that an operator puts online."""
    async with labs(2) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve([real_server(server, max_connections=1) for server in servers])
        await balancer.ask("set-state", server="ts2", state="halt", service=vip.name)
        await hold(stack, vip, "first")
        waiting = spawn(hold(stack, vip, "second"), name="user", on_error=lambda _error: None)
        await wait_until_async(lambda: _queued(vip, 1), 5, "one in the queue")
        await balancer.ask("set-state", server="ts2", state="online", service=vip.name)
        client = await waiting
        assert "ts2" == (await client.login("second")).server


async def test_a_server_that_goes_down_empties_its_queue(balancer: RunningBalancer) -> None:
    """Who waited for their own server goes elsewhere when it is down."""
    async with labs(2) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve(
            [real_server(servers[0], max_connections=1), real_server(servers[1])],
            scheduler="first-available",
        )
        async with LabClient(vip.endpoint, LabOpening(cookie="alice")) as client:
            await client.leave()
        await vip.wait_sessions(0)
        await hold(stack, vip, "bob")
        waiting = spawn(hold(stack, vip, "alice"), name="user", on_error=lambda _error: None)
        await wait_until_async(lambda: _queued(vip, 1), 5, "alice in the queue")
        servers[0].faults.inject("refuse")
        client = await waiting
        assert "ts2" == (await client.login("alice")).server


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_a_reload_does_not_lose_the_queue(balancer: RunningBalancer) -> None:
    """Who waits goes on waiting over a reload: servers it took away are forgotten, new ones are used."""
    async with labs(3) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve([real_server(server, max_connections=1) for server in servers[:2]])
        first, second = await hold(stack, vip, "a"), await hold(stack, vip, "b")
        waiting = [
            spawn(hold(stack, vip, user), name="user", on_error=lambda _error: None) for user in ("c", "d")
        ]
        await wait_until_async(lambda: _queued(vip, 2), 5, "two in the queue")
        vip.description["real_servers"] = [real_server(servers[1], max_connections=1)]
        await balancer.reload()
        assert 2 == await vip.queue()
        vip.description["real_servers"].append(real_server(servers[2], max_connections=1))
        await balancer.reload()
        await wait_until_async(lambda: _queued(vip, 1), 5, "one in the queue")
        await second.leave()
        landed = [await (await client).login("x") for client in waiting]
        assert {"ts2", "ts3"} == {landing.server for landing in landed}
        assert "ts1" == (await first.login("a")).server


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_a_service_that_is_taken_away_lets_its_queue_go(balancer: RunningBalancer) -> None:
    """Clients under way in a service that a reload removes are told; live sessions stay."""
    async with labs(1) as servers, AsyncExitStack() as stack:
        vip = await balancer.serve([real_server(servers[0], max_connections=1)])
        first = await hold(stack, vip, "a")
        silent = LabClient(vip.endpoint, LabOpening(cookie="slow"))
        await silent.connect()
        waiting = LabClient(vip.endpoint, LabOpening(cookie="b"))
        await waiting.connect()
        await waiting.send_request()
        await wait_until_async(lambda: _queued(vip, 1), 5, "one in the queue")
        gone = balancer.services.pop()
        await balancer.reload()
        assert DISCONNECT == await waiting.read_to_end()
        await silent.send_request()
        assert DISCONNECT == await silent.read_to_end()
        assert "ts1" == (await first.login("a")).server
        waiting.close()
        silent.close()
        balancer.services.append(gone)
        await balancer.reload()
        await first.leave()
