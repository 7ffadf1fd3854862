"""The health word as balancers in front, keepalived and people see it: over HTTP and in `status`."""

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

from tests.support.house import House, Vip, labs
from tests.support.wait import wait_until_async


async def test_ready_for_one_service_and_not_for_another(house: House) -> None:
    """Each service for itself; all together are ready as long as one of them is."""
    async with labs(1) as servers:
        good = await house.serve(servers)
        bad = await house.serve([{"name": "ts1", "address": "127.0.0.1:9"}], usable=0)
        assert (200, "ok\n") == await house.get(f"/readyz?service={good.name}")
        assert (503, "no-servers\n") == await house.get(f"/readyz?service={bad.name}")
        assert (404, "unknown-service\n") == await house.get("/readyz?service=typo")
        assert ((200, "ok\n"), "ok") == (await house.get("/readyz"), (await house.status())["health"])
        for command, expected in (("drain", (503, "no-servers\n")), ("online", (200, "ok\n"))):
            assert 0 == (await house.command(command, f"{good.name}/ts1")).returncode
            assert expected == await house.get(f"/readyz?service={good.name}")


async def test_from_the_start_to_the_stop(tmp_path: Path) -> None:
    """`starting` while servers are being checked, then `ok`; `stopping` while the last sessions end."""
    house = House(tmp_path, shutdown_timeout="30s")
    words: list[str] = []

    async def said(word: str) -> bool:
        with contextlib.suppress(OSError):
            words.append((await house.get("/readyz"))[1].strip())
        return word in words

    async with labs(1) as servers:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            never = {"name": "silent", "address": f"127.0.0.1:{silent.getsockname()[1]}"}
            house.services[:] = [house.describe([*servers, never])]
            house.write_configuration()
            _, first = await asyncio.gather(asyncio.to_thread(house.start), _first(house))
            await wait_until_async(lambda: said("ok"), 15, lambda: f"ok, not {words}; {house.tail()}")
        assert ("starting", {"starting", "ok"}) == (first, {first, *words})
        client = await Vip(house, house.services[0]["name"]).opened("alice")
        house.kill(house.pid, signal.SIGTERM)
        await wait_until_async(lambda: said("stopping"), 10, lambda: f"stopping, not {words}")
        assert (200, "ok\n") == await house.get("/healthz")
        assert "stopping" == (await house.status())["health"]
        client.close()
        house.dismiss()
        assert 0 == await asyncio.to_thread(house.stop)


async def _first(house: House) -> str:
    """Return the first word that the service says at its start."""

    async def asked() -> str:
        try:
            return (await house.get("/readyz"))[1].strip()
        except OSError:
            return ""

    return await wait_until_async(asked, 15, house.tail)
