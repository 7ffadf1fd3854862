"""No descriptors left: nobody crashes, nothing spins, the operator gets in, and service resumes by itself."""

import asyncio
import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from tests.faults.overload.measure import LimitedBalancer, processor_s
from tests.support.running_balancer import Vip, labs
from tests.support.wait import wait_until_async

pytestmark = pytest.mark.faults

_WATCHED_S = 3.0
_CLIENTS = 1000


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[LimitedBalancer]:
    """A balancer with 256 descriptors per process."""
    balancer = LimitedBalancer(tmp_path, relays=1)
    balancer.start()
    yield balancer
    balancer.dismiss()
    balancer.stop()
    assert [] == balancer.complaints()


@pytest.mark.slow
async def test_a_thousand_clients_and_256_descriptors(limited: LimitedBalancer) -> None:
    """As many as fit are served, the rest wait in the kernel; when some leave, others are served."""
    async with labs(2) as servers:
        vip = await limited.serve(servers)
        router, relays = await limited.router_pid(), await limited.relay_pids()
        served: dict[str, LabClient] = {}
        coming = [
            asyncio.get_running_loop().create_task(_come(vip, f"u{number}", served))
            for number in range(_CLIENTS)
        ]
        await wait_until_async(lambda: limited.events("accept_paused"), 15, "a full balancer")
        await wait_until_async(lambda: len(served) >= 100, 15, lambda: f"100 served, not {len(served)}")
        before = processor_s(router) + processor_s(limited.pid)
        full_lines = len(limited.events("accept_paused"))
        await asyncio.sleep(_WATCHED_S)  # the measurement
        used_s = processor_s(router) + processor_s(limited.pid) - before
        assert used_s < 0.2 * _WATCHED_S, f"{used_s:.2f} s of processor time in {_WATCHED_S} s"
        assert len(limited.events("accept_paused")) - full_lines <= _WATCHED_S
        status = await limited.command("status", "--json")
        assert 0 == status.returncode, status.stderr
        assert relays == [int(pid) for pid in json.loads(status.stdout)["relays"]]
        await limited.scrape()
        assert {"up"} == {row["health"] for row in (await vip.servers()).values()}
        assert router == await limited.router_pid()
        first = dict(served)
        assert len(first) <= 128
        for number, client in enumerate(first.values()):
            await client.echo_check(random.Random(number), 2000)
            await client.leave()
        await wait_until_async(lambda: len(served) >= len(first) + 50, 20, "service for those who waited")
        assert [] == limited.events("relay_lost")
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        limited.dismiss()
        await limited.quiet(20)
        late = await vip.opened("late")
        await late.login("late")
        await late.leave()


async def _come(vip: Vip, user: str, served: dict[str, LabClient]) -> None:
    """Come until let in: a client whose connection is closed tries again."""
    while True:
        client = vip.client(user, timeout_s=60)
        with contextlib.suppress(LabError):
            await client.open()
            await client.login(user)
            served[user] = client
            return
        client.close()
        await asyncio.sleep(0.5)
