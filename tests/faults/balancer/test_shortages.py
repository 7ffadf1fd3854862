"""What a machine runs out of: descriptors, and the patience with a frozen relay."""

import asyncio
import resource
import signal
from collections.abc import Callable

import pytest

from rdpbalancer.lab.client import LabClient
from rdpbalancer.tasks import spawn
from tests.faults.balancer.traffic import Workers
from tests.support.processes import is_alive
from tests.support.running_balancer import RunningBalancer, Vip, labs, open_descriptors
from tests.support.wait import wait_until_async

NewBalancer = Callable[..., RunningBalancer]

pytestmark = pytest.mark.faults


async def served(vip: Vip, user: str) -> LabClient:
    """Open a session and log in."""
    client = await vip.opened(user, timeout_s=20)
    await client.login(user)
    return client


async def test_out_of_descriptors(new_balancer: NewBalancer) -> None:
    """The router stands back, lives, says so, and serves everybody once there is room again."""
    balancer = await asyncio.to_thread(new_balancer)
    async with labs(1) as servers:
        # No checks meanwhile: without descriptors they fail, too, and the server would be down.
        vip = await balancer.serve(servers, health_check={"interval": "1h"}, timeouts={"handshake": "20s"})
        early = await served(vip, "early")
        router = await balancer.router_pid()
        limit = resource.prlimit(router, resource.RLIMIT_NOFILE)
        resource.prlimit(router, resource.RLIMIT_NOFILE, (open_descriptors(router) + 4, limit[1]))
        silent = [vip.client(None) for _ in range(10)]
        for client in silent:
            await client.connect()
        await wait_until_async(lambda: balancer.events("accept_paused", service=vip.name), 5, "a pause")
        coming = spawn(served(vip, "late"), name="late", on_error=lambda _error: None)
        assert early.channel is not None
        await early.channel.write(b"still here")
        assert b"still here" == await early.channel.read_exactly(10)
        for client in silent:
            client.close()
        resource.prlimit(router, resource.RLIMIT_NOFILE, limit)
        late = await coming
        assert router == await balancer.router_pid()
        assert await vip.count("accept_pauses_total") > 0
        for client in (early, late):
            await client.leave()
        await balancer.quiet()
        assert open_descriptors(router) < 100


@pytest.mark.slow
async def test_a_frozen_relay_is_replaced(new_balancer: NewBalancer) -> None:
    """SIGSTOP of a relay: its sessions, frozen anyway, are given up and recorded; the others never notice."""
    from rdpbalancer.runtime.liveness import HANG_S

    balancer = await asyncio.to_thread(lambda: new_balancer(relays=2))
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        workers = Workers(vip, 6)
        await workers.come()
        victim = next(int(row["relay"]) for row in await vip.sessions() if row["user"] == "user0000")
        lost = {row["user"] for row in await vip.sessions() if row["relay"] == victim}
        balancer.kill(victim, signal.SIGSTOP)
        await wait_until_async(lambda: not is_alive(victim), HANG_S + 5, "the end of the frozen relay")
        assert balancer.events("process_stuck", role="relay", pid=victim)
        records = await vip.wait_records(3)
        assert lost == {record["user"] for record in records}
        assert {"relay-lost"} == {record["close_reason"] for record in records}
        before = dict(workers.rounds)
        await wait_until_async(
            lambda: len(workers.errors) == 3 and workers.worked_since(before), 10, "the others at work"
        )
        assert lost == set(workers.errors)
        again = [await served(vip, user) for user in sorted(lost)]
        await workers.go()
        for client in again:
            await client.leave()
