"""A million bindings: a router that starts with them takes users at once, and its loop never stands still."""

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

import pytest

from rdpbalancer.control.client import Client
from rdpbalancer.stores.state import DurableState
from rdpbalancer.tasks import spawn
from tests.support.running_balancer import RunningBalancer, Vip, labs
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(180)]

BINDINGS: Final = 1_000_000
_READY_S: Final = 5.0
# In processor time of the loop's thread, so that other work on the machine is not counted.
_STALL_S: Final = 0.050
_PING_S: Final = 0.005
_INSERT: Final = (
    "INSERT INTO binding (service, method, value, server, expires_at, life_s) VALUES (?, ?, ?, ?, ?, ?)"
)


def bind_many(folder: Path, count: int) -> None:
    """Leave so many bindings of a service that is not running; they end one after the other, in ten hours."""
    folder.mkdir(parents=True)
    wall = time.time()
    DurableState.open(folder / "state.db", now=0.0, wall=wall).close()
    rows = (
        (
            "ts",
            "rdp-cookie",
            b"corp\\somebody%07d" % number,
            f"ts{number % 2 + 1}",
            wall + 3600 + number * 0.036,
            3600 + number * 0.036,
        )
        for number in range(count)
    )
    with closing(sqlite3.connect(folder / "state.db")) as connection, connection:
        connection.executemany(_INSERT, rows)


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[tuple[RunningBalancer, Vip]]:
    """Run a balancer of two servers that finds so many bindings."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(labs(2))
        balancer = RunningBalancer(folder, shutdown_timeout="0")
        service = balancer.describe(servers, name="ts", persistence={"max_entries": BINDINGS})
        balancer.services.append(service)
        balancer.write_configuration()
        await asyncio.to_thread(bind_many, folder / "state", BINDINGS)
        try:
            await asyncio.to_thread(balancer.start)
            yield balancer, Vip(balancer, "ts")
        finally:
            balancer.dismiss()
            await asyncio.to_thread(balancer.stop)


async def page(balancer: RunningBalancer, **params: Any) -> dict[str, Any]:
    """Ask for one page of the bindings."""

    def asked() -> dict[str, Any]:
        with Client(balancer.socket) as client:
            answer: dict[str, Any] = client.call("persistence", limit=1000, **params)
            return answer

    return await asyncio.to_thread(asked)


class Stalls:
    """The most processor time that the loop's thread of a router took before it answered a question.

    Asked is for `/healthz`: what comes over the control socket waits for its turn.
    """

    def __init__(self, balancer: RunningBalancer, router: int) -> None:
        self.longest_s = 0.0
        self.asked = 0
        self._house = balancer
        self._schedstat = Path(f"/proc/{router}/task/{router}/schedstat")  # nanoseconds on a processor
        self._task = spawn(asyncio.to_thread(self._watch), name="stalls")
        self._over = False

    def _watch(self) -> None:
        while not self._over:
            before = self._spent()
            http = HTTPConnection(*self._house.metrics)
            with closing(http):
                http.request("GET", "/healthz")
                http.getresponse().read()
            self.longest_s = max(self.longest_s, self._spent() - before)
            self.asked += 1
            time.sleep(_PING_S)  # between two questions; nothing is waited for

    def _spent(self) -> float:
        return int(self._schedstat.read_text().split()[0]) / 1e9

    async def over(self) -> None:
        """Stop asking."""
        self._over = True
        await asyncio.wait([self._task])
        self._task.result()


async def test_a_million_bindings_over_a_restart_of_the_router(tmp_path: Path) -> None:
    """Ready in 5 s, everybody on the server of before from the first moment, no stall of over 50 ms."""
    async with started(tmp_path) as (balancer, vip):
        await wait_until_async(lambda: bool(balancer.events("bindings_loaded")), 60, "all in memory")
        balancer.kill(await balancer.router_pid())
        killed_at = time.monotonic()
        last = BINDINGS - 1
        client = await vip.opened(f"corp\\somebody{last:07}")
        assert f"ts{last % 2 + 1}" == (await client.login("somebody")).server
        ready_s = time.monotonic() - killed_at
        stalls = Stalls(balancer, await balancer.router_pid())
        warnings = [row["code"] for row in (await balancer.status())["warnings"]]
        loading = len(balancer.events("bindings_loaded")) == 1
        for number in range(0, BINDINGS, BINDINGS // 20):  # before and after they have come
            user = await vip.opened(f"corp\\somebody{number:07}")
            assert f"ts{number % 2 + 1}" == (await user.login("somebody")).server
            await user.leave()
        await wait_until_async(
            lambda: len(balancer.events("bindings_loaded")) == 2, 60, "all in memory again"
        )
        await stalls.over()
        (_, event) = balancer.events("bindings_loaded")
        figures = {
            "ready_s": round(ready_s, 2),
            "loaded_s": event["seconds"],
            "longest_stall_ms": round(stalls.longest_s * 1000, 1),
            "pings": stalls.asked,
        }
        print(figures)  # noqa: T201 - shown by pytest -s, and where an assert fails
        assert ("bindings-loading" in warnings) or not loading, warnings
        assert BINDINGS == event["count"]
        assert ready_s < _READY_S, figures
        assert stalls.longest_s < _STALL_S, figures
        assert "bindings-loading" not in {row["code"] for row in (await balancer.status())["warnings"]}


async def test_a_million_bindings_are_listed_in_pages(tmp_path: Path) -> None:
    """Each page is a moment's work; the command line shows as many as are asked for."""
    async with started(tmp_path) as (balancer, _vip):
        await wait_until_async(lambda: bool(balancer.events("bindings_loaded")), 60, "all in memory")
        stalls = Stalls(balancer, await balancer.router_pid())
        answer = await page(balancer)
        assert BINDINGS == answer["total"]
        assert 1000 == len(answer["rows"])
        keys = {row["key"] for row in answer["rows"]}
        answer = await page(balancer, after=answer["next"])
        assert 2000 == len(keys | {row["key"] for row in answer["rows"]})
        found = await page(balancer, key="somebody0777777")
        assert ["corp\\somebody0777777"] == [row["key"] for row in found["rows"]]
        shown = await balancer.command("show", "persistence", "--key", "somebody077777")
        assert 10 == len(re.findall(r"somebody077777\d", shown.stdout)), shown.stdout
        await stalls.over()
        assert stalls.longest_s < _STALL_S, (stalls.longest_s, stalls.asked)
