"""The health word as balancers in front, keepalived and people see it: over HTTP and in `status`."""

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

from tests.support.running_balancer import RunningBalancer, Vip, labs
from tests.support.wait import wait_until_async


async def test_ready_for_one_service_and_not_for_another(balancer: RunningBalancer) -> None:
    """Each service for itself; all together are ready as long as one of them is."""
    async with labs(1) as servers:
        good = await balancer.serve(servers)
        bad = await balancer.serve([{"name": "ts1", "address": "127.0.0.1:9"}], usable=0)
        assert (200, "ok\n") == await balancer.get(f"/readyz?service={good.name}")
        assert (503, "no-servers\n") == await balancer.get(f"/readyz?service={bad.name}")
        assert (404, "unknown-service\n") == await balancer.get("/readyz?service=typo")
        assert ((200, "ok\n"), "ok") == (await balancer.get("/readyz"), (await balancer.status())["health"])
        for command, expected in (("drain", (503, "no-servers\n")), ("online", (200, "ok\n"))):
            assert 0 == (await balancer.command(command, f"{good.name}/ts1")).returncode
            assert expected == await balancer.get(f"/readyz?service={good.name}")


async def test_readiness_from_start_to_stop(tmp_path: Path) -> None:
    """`starting` while servers are being checked, then `ok`; `stopping` while the last sessions end."""
    balancer = RunningBalancer(tmp_path, shutdown_timeout="30s")
    words: list[str] = []

    async def said(word: str) -> bool:
        with contextlib.suppress(OSError):
            words.append((await balancer.get("/readyz"))[1].strip())
        return word in words

    async with labs(1) as servers:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            never = {"name": "silent", "address": f"127.0.0.1:{silent.getsockname()[1]}"}
            balancer.services[:] = [balancer.describe([*servers, never])]
            balancer.write_configuration()
            _, first = await asyncio.gather(asyncio.to_thread(balancer.start), _first(balancer))
            await wait_until_async(lambda: said("ok"), 15, lambda: f"ok, not {words}; {balancer.tail()}")
        assert ("starting", {"starting", "ok"}) == (first, {first, *words})
        client = await Vip(balancer, balancer.services[0]["name"]).opened("alice")
        balancer.kill(balancer.pid, signal.SIGTERM)
        await wait_until_async(lambda: said("stopping"), 10, lambda: f"stopping, not {words}")
        assert (200, "ok\n") == await balancer.get("/healthz")
        assert "stopping" == (await balancer.status())["health"]
        client.close()
        balancer.dismiss()
        assert 0 == await asyncio.to_thread(balancer.stop)


async def _first(balancer: RunningBalancer) -> str:
    """Return the first word that the service says at its start."""

    async def asked() -> str:
        try:
            return (await balancer.get("/readyz"))[1].strip()
        except OSError:
            return ""

    return await wait_until_async(asked, 15, balancer.tail)
