"""Floods: strangers get little, users hardly notice, nothing stays behind, every connection is counted."""

import asyncio
import itertools
import json
import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.tasks import spawn
from tests.faults.overload.measure import quantile
from tests.support.processes import Processes
from tests.support.running_balancer import RunningBalancer, Vip, labs, total
from tests.support.wait import wait_until_async

pytestmark = pytest.mark.faults
NewBalancer = Callable[..., RunningBalancer]

# Several tests run at once (pytest-xdist).
_BESIDE_OTHERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1
_FLOOD_S = 8
_BOUND_S = 0.5
# The same on a machine that has more to do than it has processors before we even begin.
_BUSY_BOUND_S = 2.0
_GROWTH_BYTES = 64 * 1024 * 1024


@pytest.mark.slow
async def test_users_among_floods(new_balancer: NewBalancer, tmp_path: Path) -> None:
    """20,000 silent connections and 2,000 a second of garbage: users get in within half a second.

    Beside other tests the strangers are polite, for on a machine that has more to do than it can, everybody
    waits; alone they do not care.
    """
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    balancer.set_global(log={"format": "json", "level": "info", "user": "plain"})
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        for number in range(20):
            await _one_visit(vip, number)
        before_bytes = balancer.resident_bytes()
        busy = _BESIDE_OTHERS or os.getloadavg()[0] > (os.cpu_count() or 1)
        manner = "polite-" if busy else ""
        waits_s: list[float] = []
        with Processes(tmp_path) as processes:
            floods = [
                _flood(processes, vip, f"{manner}silent", "127.0.0.9"),
                _flood(
                    processes, vip, f"{manner}garbage", *(f"127.0.0.{number}" for number in range(10, 18))
                ),
            ]
            number = 0
            while any(flood.returncode is None for flood in floods):
                number += 1
                waits_s.append(await _one_visit(vip, number))
                await asyncio.sleep(0.02)
            did = [json.loads(flood.output()) for flood in floods]
        await balancer.quiet(20)
        growth_bytes = balancer.resident_bytes() - before_bytes
        metrics = await balancer.scrape()
        figures = {
            "visits": len(waits_s),
            "median_ms": round(quantile(waits_s, 0.5) * 1000),
            "p99_ms": round(quantile(waits_s, 0.99) * 1000),
            "growth_kib": growth_bytes // 1024,
            "floods": did,
            "rejected": total(metrics, "rejected_total", service=vip.name),
            "failed": total(metrics, "handshakes_total", service=vip.name, result="failed"),
        }
        print(figures)  # noqa: T201 - shown by pytest -s, and where an assert fails
        assert did[0]["opened"] > 5_000
        assert did[1]["opened"] > 2_000
        assert len(waits_s) > 20
        assert quantile(waits_s, 0.5) < _BOUND_S, figures
        assert quantile(waits_s, 0.99) < (_BUSY_BOUND_S if busy else _BOUND_S), figures
        assert growth_bytes < _GROWTH_BYTES, figures
        await _adds_up(balancer, vip)


def _flood(processes: Processes, vip: Vip, kind: str, *sources: str) -> Any:
    host, port = vip.endpoint
    return processes.start(
        sys.executable, "-m", "tests.faults.overload.flood", kind, host, str(port), str(_FLOOD_S), *sources
    )


async def _one_visit(vip: Vip, number: int) -> float:
    """Come as a user from an address of one's own; return how long the handshake took, in seconds."""
    clock = asyncio.get_running_loop().time
    client = vip.client(f"user{number % 40}", source=f"127.0.1.{number % 40 + 1}")
    began_at = clock()
    try:
        await client.open()
        took_s = clock() - began_at
        await client.login("x")
        await client.leave()
    finally:
        client.close()
        vip.balancer.guests.remove(client)
    return took_s


async def _adds_up(balancer: RunningBalancer, vip: Vip) -> None:
    """Check the books: whoever was accepted was rejected, failed, or became a session, which ended."""

    async def balanced() -> bool:
        metrics = await balancer.scrape()

        def of(name: str, **labels: str) -> float:
            return total(metrics, name, service=vip.name, **labels)

        ways = of("rejected_total") + of("handshakes_total", result="failed") + of("sessions_total")
        live = len(await vip.sessions())
        return of("connections_total") == ways and of("sessions_total") == of("sessions_closed_total") + live

    await wait_until_async(balanced, 5, "books that balance")


async def test_garbage_of_every_kind(new_balancer: NewBalancer, tmp_path: Path) -> None:
    """Nothing that strangers send is an error of ours; every connection is accounted for."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        with Processes(tmp_path) as processes:
            flood = processes.start(
                sys.executable,
                *(
                    "-m",
                    "tests.faults.overload.flood",
                    "polite-garbage",
                    vip.endpoint.host,
                    str(vip.endpoint.port),
                ),
                *("3", "127.0.0.9", "127.0.0.10"),
            )
            await wait_until_async(lambda: flood.returncode is not None, 15, flood.describe)
            assert json.loads(flood.output())["opened"] > 1000
        await balancer.quiet(20)
        assert [] == balancer.complaints()
        await _adds_up(balancer, vip)


async def test_strangers_that_ask_and_reset(new_balancer: NewBalancer) -> None:
    """400 in front of servers that stay silent: one connection each at the servers, and every place free."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(3) as servers:
        vip = await balancer.serve(servers, timeouts={"confirm": "1h"}, health_check={"type": "none"})
        for server in servers:
            server.faults.inject("silent")
        request = LabOpening(cookie="stranger").request()
        for _ in range(400):
            with socket.create_connection(vip.endpoint, timeout=20) as stranger:
                stranger.sendall(request)
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await asyncio.sleep(0)  # the servers have their turn

        async def all_gone() -> bool:
            ended = await vip.count("handshakes_total", result="failed")
            return (ended, (await balancer.status())["half_open"]) == (400, 0)

        await wait_until_async(all_gone, 5, "every place free")
        await wait_until_async(lambda: not any(s.connections for s in servers), 5, "servers without anybody")
        assert sum(server.counters.accepted for server in servers) <= 400
        assert 0 == await vip.count("server_redispatches_total")
        for server in servers:
            server.faults.clear()
        user = await vip.opened("user")
        await user.leave()
        await balancer.quiet()
        await _adds_up(balancer, vip)


@pytest.mark.slow
async def test_slow_at_every_stage(new_balancer: NewBalancer) -> None:
    """Who dawdles, wherever it is, gives the place back by that stage's deadline."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(1) as servers, labs(1) as silent:
        timeouts = {"handshake": "2s", "queue": "3s", "confirm": "2s"}
        full = [{"name": "ts1", "address": str(servers[0].endpoint), "max_connections": 1}]
        vip = await balancer.serve(full, timeouts=timeouts)
        mute = await balancer.serve(silent, timeouts=timeouts, health_check={"type": "tcp"})
        silent[0].faults.inject("silent")
        occupant = await vip.opened("occupant")
        clock = asyncio.get_running_loop().time
        began_at = clock()
        slow = {
            "a byte a second": spawn(_dribble(vip), name="dribble"),
            "never a word": spawn(_silence(vip, b""), name="silence"),
            "half a request": spawn(_silence(vip, b"\x03\x00\x00\x2a\x25"), name="half"),
            "in the queue": spawn(_until_closed(vip, "waiting"), name="queue"),
            "no confirm": spawn(_until_closed(mute, "unheard"), name="no confirm"),
        }
        for number in range(50):
            slow[f"dribble {number}"] = spawn(_dribble(vip), name="dribble")
        await asyncio.gather(*slow.values())
        # The server that does not confirm is tried again (redispatch), each time for as long.
        assert 1.5 < clock() - began_at < 9

        async def free() -> bool:
            return (await balancer.status())["half_open"] == 0 and await vip.queue() == 0

        await wait_until_async(free, 2, "every place free again")
        await occupant.echo_check(random.Random(1), 0)
        await occupant.leave()
        await (await vip.opened("next")).leave()
        await balancer.quiet()
        await _adds_up(balancer, vip)


async def _dribble(vip: Vip) -> None:
    """Send a request that never ends, a byte a second, until the connection is closed."""
    client = vip.client()
    await client.connect()
    for byte in itertools.chain(b"\x03\x00\x00\x2a\x25\xe0", itertools.repeat(0, 20)):
        try:
            await client.channel.write(bytes((byte,)))
            async with asyncio.timeout(1.0):
                await client.channel.read()
        except TimeoutError:
            continue
        except LabError:
            pass
        client.close()
        return
    pytest.fail("a client that dribbles was never let go")


async def _silence(vip: Vip, first: bytes) -> None:
    client = vip.client()
    await client.connect()
    await client.channel.write(first)
    await client.read_to_end()


async def _until_closed(vip: Vip, user: str) -> None:
    client = vip.client(user)
    await client.connect()
    await client.send_request()
    await client.read_to_end()
