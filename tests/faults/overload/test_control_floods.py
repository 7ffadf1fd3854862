"""Too much on the control socket: users log in as always, the operator gets in, memory stays."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from rdpbalancer.model import Key, Method
from rdpbalancer.net.descriptors import CONTROL_CLIENTS
from rdpbalancer.stores.state import DurableState
from tests.faults.overload.measure import quantile
from tests.support.running_balancer import RunningBalancer, Vip, labs, open_descriptors

pytestmark = pytest.mark.faults
NewBalancer = Callable[..., RunningBalancer]

HALF_SENT: Final = 1000
READERS: Final = 100
BINDINGS: Final = 20_000
LOGINS: Final = 200
LOOPS: Final = 8
_MAX_GROWTH_BYTES: Final = 16 * 1024 * 1024
# What a login may take beside a flood: the bound is for a machine with other work; alone it is 2 ms.
_LOGIN_S: Final = 0.25


@contextmanager
def connections(path: Path, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Connect so often, say this, and read nothing."""
    opened = []
    try:
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            opened.append(sock)
            sock.connect(str(path))
            with suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(sent)
        yield opened
    finally:
        for sock in opened:
            sock.close()


async def log_in_often(vip: Vip, times: int = LOGINS) -> list[float]:
    """Log in one after the other; return how long each handshake took."""
    took_s = []
    for number in range(times):
        client = vip.client(f"user{number}", timeout_s=20)
        began_at = time.perf_counter()
        await client.open()
        took_s.append(time.perf_counter() - began_at)
        await client.login("x")
        await client.leave()
        client.close()
        vip.balancer.guests.remove(client)
    return took_s


def bind_many(folder: Path, service: str, count: int) -> None:
    """Leave so many bindings in the state of a service that is not running."""
    folder.mkdir(parents=True, exist_ok=True)
    database = DurableState.open(folder / "state.db", now=time.monotonic(), wall=time.time())
    bindings = database.bindings(service, max_entries=count + 1000)
    for number in range(count):
        key = Key(Method.RDP_COOKIE, f"corp\\somebody{number}")
        bindings.move(key, f"ts{number % 2 + 1}", now=time.monotonic(), ttl_s=3600)
    while (changes := database.take_changes(now=time.monotonic(), wall=time.time())) is not None:
        database.write(changes)
    database.close()


@asynccontextmanager
async def started(folder: Path, count: int = BINDINGS) -> AsyncIterator[tuple[RunningBalancer, Vip]]:
    """Run a balancer of two servers whose table of bindings has so many entries."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(labs(2))
        balancer = RunningBalancer(folder, relays=1)
        service = balancer.describe(
            servers, name="ts", persistence={"max_entries": max(count + 1000, 100_000)}
        )
        balancer.services.append(service)
        balancer.write_configuration()
        await asyncio.to_thread(bind_many, folder / "state", "ts", count)
        await asyncio.to_thread(balancer.start)
        vip = Vip(balancer, "ts")
        try:
            for name in ("ts1", "ts2"):
                await vip.wait_server(name, health="up")
            yield balancer, vip
        finally:
            balancer.dismiss()
            await asyncio.to_thread(balancer.stop)


@pytest.mark.slow
async def test_half_sent_commands_and_readers_that_do_not_read(tmp_path: Path) -> None:
    """1,000 half-sent commands and 100 clients that read no answer: nobody who logs in notices.

    The router's memory grows by less than 16 MB, its descriptors by no more than the socket's share, and the
    operator's own command is answered at once.
    """
    async with started(tmp_path) as (balancer, vip):
        router = await balancer.router_pid()
        quiet_s = await log_in_often(vip)
        list(await balancer.ask("persistence"))  # what one such question costs is there before
        descriptors, memory = open_descriptors(router), _resident(router)
        ask = b'{"verb": "persistence"}\n' * 20
        with (
            connections(balancer.socket, HALF_SENT, b'{"verb": "per'),
            connections(balancer.socket, READERS, ask),
        ):
            beside_s = await log_in_often(vip)
            began_at = time.perf_counter()
            status = await balancer.command("status", "--json")
            answered_s = time.perf_counter() - began_at
            grown_bytes = _resident(router) - memory
            opened = open_descriptors(router) - descriptors
            figures = {
                "quiet_ms": _figures(quiet_s),
                "beside_ms": _figures(beside_s),
                "operator_ms": round(answered_s * 1000, 1),
                "growth_kib": grown_bytes // 1024,
                "descriptors": opened,
            }
            print(figures)  # noqa: T201 - shown by pytest -s, and where an assert fails
        assert 0 == status.returncode, status.stderr
        assert answered_s < 5, figures
        assert quantile(beside_s, 0.5) < _LOGIN_S, figures
        assert grown_bytes < _MAX_GROWTH_BYTES, figures
        assert opened <= CONTROL_CLIENTS + 4, figures
        assert router == await balancer.router_pid()


@pytest.mark.slow
async def test_clients_that_ask_in_a_loop(tmp_path: Path) -> None:
    """Eight monitors that never rest get what is left of the loop, not the users' share."""
    async with started(tmp_path) as (balancer, vip):
        quiet_s = await log_in_often(vip)
        async with _askers(balancer, LOOPS, "persistence") as asked:
            beside_s = await log_in_often(vip)
        figures = {"quiet_ms": _figures(quiet_s), "beside_ms": _figures(beside_s), "pages": sum(asked)}
        print(figures)  # noqa: T201 - as above
        assert all(asked), figures
        assert quantile(beside_s, 0.5) < _LOGIN_S, figures


@asynccontextmanager
async def _askers(balancer: RunningBalancer, count: int, verb: str) -> AsyncIterator[list[int]]:
    """Ask in a loop, with so many clients of their own processes."""
    program = (
        "import sys; from pathlib import Path; from rdpbalancer.control.client import Client\n"
        "with Client(Path(sys.argv[1])) as client:\n"
        "    while True:\n"
        "        client.call(sys.argv[2]); print(flush=True)\n"
    )
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(balancer.socket), verb, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(count)
    ]
    pages = [0] * count
    try:
        for process in started:
            assert process.stdout is not None
            await process.stdout.readline()  # it has begun
        yield pages
        for number, process in enumerate(started):
            process.terminate()
            assert process.stdout is not None
            pages[number] = 1 + (await process.stdout.read()).count(b"\n")
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _figures(seconds: list[float]) -> dict[str, float]:
    return {
        "p50": round(quantile(seconds, 0.5) * 1000, 2),
        "p99": round(quantile(seconds, 0.99) * 1000, 2),
    }


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
