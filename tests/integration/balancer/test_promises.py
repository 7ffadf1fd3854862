"""The promises that the whole thing stands or falls with, at their full size."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rdpbalancer.lab.population import storm, strayed, user_names
from rdpbalancer.tasks import spawn
from tests.faults.balancer.traffic import Workers
from tests.integration.balancer.test_relaying import standing_still
from tests.support.running_balancer import RunningBalancer, labs, real_server
from tests.support.wait import wait_until_async


@pytest.fixture
def own_house(tmp_path: Path) -> Callable[[], RunningBalancer]:
    """Make a balancer of the test's own with two relays; the test starts and stops it."""
    return lambda: RunningBalancer(tmp_path, relays=2)


@pytest.mark.slow
async def test_500_sessions_while_the_router_dies(own_house: Callable[[], RunningBalancer]) -> None:
    """500 sessions through two loaded relays, the router killed once: not one byte wrong, not one lost."""
    balancer = own_house()
    await asyncio.to_thread(balancer.start)
    try:
        async with labs(4) as servers:
            vip = await balancer.serve(servers)
            workers = Workers(vip, 500, bytes_at_once=40_000)
            await workers.come()
            before = dict(workers.rounds)
            await wait_until_async(lambda: workers.worked_since(before), 40, "everybody at work")
            balancer.kill(await balancer.router_pid())
            before = dict(workers.rounds)
            await wait_until_async(lambda: workers.worked_since(before), 40, "everybody still at work")
            await balancer.answers_again()
            assert 500 == len(await vip.sessions())
            await workers.go()
            assert {} == workers.errors
            await vip.wait_records(500, timeout_s=20)
            records = Counter(record["session"] for record in vip.records())
            assert (500, 1) == (len(records), max(records.values()))
            assert {"eof"} == {record["close_reason"] for record in vip.records()}
    finally:
        balancer.dismiss()
        await asyncio.to_thread(balancer.stop)
    assert [] == balancer.complaints()


@pytest.mark.slow
@pytest.mark.parametrize("balancer", [0, 2], indirect=True)
async def test_a_gigabyte_for_a_reader_that_sleeps(balancer: RunningBalancer) -> None:
    """1 GB to a client that stops reading: less than 4 MB of memory; then all of it, intact."""
    size_bytes = 1_000_000_000
    async with labs(1, behaviour="stream", stream_bytes=size_bytes) as servers:
        # No checks meanwhile: the server would count their bytes, too.
        vip = await balancer.serve(servers, health_check={"interval": "1h"})
        client = await vip.opened(timeout_s=50)
        before = balancer.resident_bytes()
        await standing_still(lambda: servers[0].counters.bytes_out, still_s=2.0)
        asleep = balancer.resident_bytes()
        assert servers[0].counters.bytes_out < 100_000_000
        assert asleep - before < 4_000_000
        await client.stream_check(size_bytes)
        assert b"" == await client.read_to_end()
        assert balancer.resident_bytes() - before < 4_000_000
        client.close()


@pytest.mark.slow
@pytest.mark.parametrize("balancer", [2], indirect=True)
@pytest.mark.parametrize("scheduler", ["weighted-round-robin", "weighted-least-connections"])
async def test_2000_first_connections_at_once(balancer: RunningBalancer, scheduler: str) -> None:
    """200 users, 10 connections each, all at once: each user on exactly one server, users by weight."""
    weights = {"ts1": 100, "ts2": 100, "ts3": 200}
    users = user_names(200)
    hold = asyncio.Event()
    landed = 0

    def count(_visit: object) -> None:
        nonlocal landed
        landed += 1

    async with labs(3) as servers:
        vip = await balancer.serve(
            [real_server(server, weight=weights[server.name]) for server in servers], scheduler=scheduler
        )
        storming = spawn(
            storm(vip.endpoint, users, 10, random.Random(3), hold, landed=count, timeout_s=40),
            name="user",
            on_error=lambda _error: None,
        )
        await wait_until_async(lambda: landed == 2000, 50, lambda: f"2000 landings, not {landed}")
        rows = await vip.servers()
        assert 2000 == sum(row["sessions"] for row in rows.values())
        bound = Counter((await vip.bindings()).values())
        hold.set()
        visits = await storming
        assert [] == [visit.error for visit in visits if visit.error is not None]
        assert {} == strayed(visits)
        assert 200 == sum(bound.values())
        for name, weight in weights.items():
            share = 200 * weight / sum(weights.values())
            assert bound[name] == pytest.approx(share, rel=0.05), bound
        await vip.wait_sessions(0, timeout_s=20)
