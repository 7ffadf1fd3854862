"""One stranger and a small table of bindings: whoever was there before comes back to their desktop."""

import asyncio
from collections.abc import Iterator

from rdpbalancer.core.share import SHARE
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from tests.support.running_balancer import RunningBalancer, Vip, labs

TABLE = 100
FLOOD = 2000
STRANGER = "127.0.0.9"
AT_ONCE = 8
USERS = {f"user{number}": f"127.0.1.{number}" for number in range(1, 21)}


async def visit(vip: Vip, user: str, source: str) -> None:
    """Come as far as the server's Connection Confirm, and leave."""
    async with LabClient(vip.endpoint, LabOpening(cookie=user), source=source, timeout_s=20) as client:
        await client.leave()


async def log_in(vip: Vip, user: str, source: str) -> str:
    """Log in, leave, and return the server."""
    async with LabClient(vip.endpoint, LabOpening(cookie=user), source=source, timeout_s=20) as client:
        landing = await client.login(user)
        await client.leave()
    return landing.server


async def flood(vip: Vip) -> None:
    """Let the stranger come again and again, a few connections at once, each with a new cookie."""
    cookies = (f"x{number}" for number in range(FLOOD))

    async def one_after_the_other(mine: Iterator[str]) -> None:
        for cookie in mine:
            await visit(vip, cookie, STRANGER)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(one_after_the_other(cookies))


async def test_a_flood_of_cookies_costs_nobody_their_desktop(balancer: RunningBalancer) -> None:
    """20 users, a table for 100, 2,000 cookies of one stranger: all are served, and all 20 come home."""
    async with labs(4) as servers:
        vip = await balancer.serve(
            servers, persistence={"max_entries": TABLE}, scheduler="weighted-round-robin"
        )
        for user, source in USERS.items():
            await visit(vip, user, source)
        await vip.wait_sessions(0)
        homes = await vip.bindings()
        assert (set(USERS), 4) == (set(homes), len(set(homes.values())))

        await flood(vip)
        await vip.wait_sessions(0)

        assert FLOOD + len(USERS) == await vip.count("sessions_total")
        assert 0 == await vip.count("handshake_failures_total")
        assert 0 == await vip.count("persistence_evictions_total")
        bound = await vip.bindings()
        assert homes == {user: bound.get(user) for user in USERS}
        # Half of the table is anybody's; of the other half one source gets its share.
        strangers = TABLE // 2 - len(USERS) + TABLE // SHARE
        assert strangers == len(bound) - len(USERS)
        assert FLOOD - strangers == await vip.count("persistence_share_exceeded_total")

        assert homes == {user: await log_in(vip, user, source) for user, source in USERS.items()}
        assert {"cookie"} == {record["reason"] for record in (await vip.wait_records(FLOOD + 40))[-20:]}
