"""What happens to the bytes of a session, with relays and without."""

import asyncio
import random
import socket
import time
from collections.abc import Callable

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.pattern import pattern
from rdpbalancer.tasks import spawn
from tests.support.running_balancer import RunningBalancer, labs
from tests.support.wait import wait_until_async

RELAYS = pytest.mark.parametrize("balancer", [0, 1, 2], indirect=True)


@RELAYS
async def test_every_byte_arrives_both_ways(balancer: RunningBalancer) -> None:
    """Random pieces, both directions at once, several sessions: exact, and counted exactly."""
    size_bytes = 3_000_000
    async with labs(2, behaviour="echo") as servers:
        vip = await balancer.serve(servers)
        clients = [await vip.opened(f"u{number}") for number in range(4)]
        await asyncio.gather(
            *(client.echo_check(random.Random(seed), size_bytes) for seed, client in enumerate(clients))
        )
        for client in clients:
            await client.leave()
        await vip.wait_sessions(0)
        records = await vip.wait_records(4)
        assert [(size_bytes, size_bytes, "eof", "client")] * 4 == [
            (r["bytes_up"], r["bytes_down"] - 19 * (r["bytes_down"] > size_bytes), *_end(r)) for r in records
        ]
        assert 4 * size_bytes == await vip.count("bytes_total", direction="up")


def _end(record: dict[str, str]) -> tuple[str, str]:
    return record["close_reason"], record["close_side"]


@RELAYS
async def test_a_client_that_has_said_all_still_listens(balancer: RunningBalancer) -> None:
    """The client's FIN reaches the server, and the server's answer still reaches the client."""
    async with labs(1, behaviour="echo") as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened()
        await client.channel.write(pattern(0, 100_000))
        client.half_close()
        await client.stream_check(100_000)
        assert b"" == await client.read_to_end()
        client.close()
        assert ("eof", "client") == _end((await vip.wait_records(1))[0])


@RELAYS
async def test_a_server_that_has_said_all_still_listens(balancer: RunningBalancer) -> None:
    """The server's FIN reaches the client, and what the client says then still reaches the server."""
    async with labs(1, behaviour="stream", stream_bytes=1000) as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened()
        await client.stream_check(1000)
        assert b"" == await client.channel.read()
        before = servers[0].counters.bytes_in
        for _ in range(10):
            await client.channel.write(bytes(50_000))
        await wait_until_async(
            lambda: servers[0].counters.bytes_in - before >= 500_000, 10, "the rest at the server"
        )
        await client.leave()
        record = (await vip.wait_records(1))[0]
        assert ("eof", "server", 500_000) == (*_end(record), record["bytes_up"])


@RELAYS
async def test_a_reset_of_the_client_is_a_reset(balancer: RunningBalancer) -> None:
    """The server sees a reset, not an orderly end, and the record says whose it was."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened()
        await client.login("alice")
        client.reset()
        assert ("reset", "client") == _end((await vip.wait_records(1))[0])
        await wait_until_async(lambda: servers[0].counters.resets_received, 5, "a reset at the server")


@RELAYS
async def test_a_reset_of_the_server_is_a_reset(balancer: RunningBalancer) -> None:
    """The client sees a reset, not an orderly end."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened()
        await client.login("alice")
        await servers[0].cut(reset=True)
        with pytest.raises(LabError) as caught:
            await client.read_to_end()
        assert "reset" == caught.value.code
        assert ("reset", "server") == _end((await vip.wait_records(1))[0])
        client.close()


@RELAYS
async def test_a_server_that_closes(balancer: RunningBalancer) -> None:
    """An orderly end of the server is one for the client."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened()
        await client.login("alice")
        cutting = spawn(servers[0].cut(), name="user", on_error=lambda _error: None)
        assert b"" == await client.read_to_end()
        client.close()
        await cutting
        assert ("eof", "server") == _end((await vip.wait_records(1))[0])


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_silence_ends_a_session(balancer: RunningBalancer) -> None:
    """No byte either way for `timeouts.idle`: ended; who says something now and then stays."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, timeouts={"idle": "2s"})
        silent, lively = await vip.opened("silent"), await vip.opened("lively")
        await lively.login("lively")
        began_at = time.monotonic()

        async def talk() -> bool:
            await lively.echo_check(random.Random(1), 10)
            return len(vip.records()) > 0

        await wait_until_async(talk, 15, "the silent one's end")
        assert time.monotonic() - began_at >= 1.5
        assert b"" == await silent.read_to_end()
        (record,) = vip.records()
        assert ("silent", "idle", "balancer") == (record["user"], *_end(record))
        await lively.leave()
        silent.close()


@pytest.mark.parametrize("balancer", [0, 2], indirect=True)
async def test_a_kicked_session_ends(balancer: RunningBalancer) -> None:
    """`kick` ends both sides, and says so in the record."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        client, other = await vip.opened("alice"), await vip.opened("bob")
        await client.login("alice")
        await other.login("bob")
        assert {"kicked": 1} == await balancer.ask("kick", user="ALICE")
        assert b"" == await client.read_to_end()
        client.close()
        assert ("kicked", "balancer") == _end((await vip.wait_records(1))[0])
        await other.echo_check(random.Random(1), 1000)
        await other.leave()


@RELAYS
async def test_a_slow_reader_costs_no_memory(balancer: RunningBalancer) -> None:
    """A client that stops reading costs one chunk; when it reads on, all is there."""
    size_bytes = 64_000_000
    async with labs(1, behaviour="stream", stream_bytes=size_bytes) as servers:
        # No checks meanwhile: the server would count their bytes, too.
        vip = await balancer.serve(servers, health_check={"interval": "1h"})
        client = await vip.opened(timeout_s=40)
        before = balancer.resident_bytes()
        await standing_still(lambda: servers[0].counters.bytes_out)
        assert servers[0].counters.bytes_out < size_bytes
        assert balancer.resident_bytes() - before < 4_000_000
        await client.stream_check(size_bytes)
        assert b"" == await client.read_to_end()
        client.close()


async def standing_still(count: Callable[[], int], still_s: float = 0.5) -> None:
    """Wait until a count no longer grows."""
    seen, since = -1, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        now = count()
        if now != seen:
            seen, since = now, time.monotonic()
        return seen > 0 and time.monotonic() - since > still_s

    await wait_until_async(still, 30, "a count that stands still")


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_a_server_that_stops_reading(balancer: RunningBalancer) -> None:
    """Back-pressure reaches the client; nothing is lost when the server reads on."""
    async with labs(1, behaviour="echo") as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened()
        before = balancer.resident_bytes()
        servers[0].faults.inject("stop-reading")
        sent = 0
        sock: socket.socket = client.channel._sock
        while True:
            try:
                async with asyncio.timeout(0.5):
                    sent += await _send_some(sock, pattern(sent, 65_536))
            except TimeoutError:
                break
        assert balancer.resident_bytes() - before < 4_000_000
        servers[0].faults.clear()
        client.half_close()
        await client.stream_check(sent)
        assert b"" == await client.read_to_end()
        client.close()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _send_some(sock: socket.socket, data: bytes) -> int:
    """Send what the socket takes; waits for room."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return sock.send(data)
        except BlockingIOError:
            writable: asyncio.Future[None] = loop.create_future()
            loop.add_writer(sock, _set, writable)
            try:
                await writable
            finally:
                loop.remove_writer(sock)


@pytest.mark.parametrize("balancer", [0, 2], indirect=True)
async def test_byte_counts_are_shown(balancer: RunningBalancer) -> None:
    """`show sessions` has byte counts that are at most a few seconds old, and the relay that has it."""
    async with labs(1, behaviour="echo") as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened()
        await client.echo_check(random.Random(1), 100_000)

        async def counted() -> bool:
            (row,) = await vip.sessions()
            return bool(row["bytes_up"] == 100_000 and row["bytes_down"] >= 100_000)

        await wait_until_async(counted, 6, "byte counts")
        (row,) = await vip.sessions()
        assert row["relay"] in await balancer.relay_pids()
        await client.leave()


@pytest.mark.parametrize("balancer", [2], indirect=True)
async def test_relays_share_the_sessions(balancer: RunningBalancer) -> None:
    """A new session goes to the relay with the fewest."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        clients = [await vip.opened(f"u{number}") for number in range(6)]
        by_relay = [row["relay"] for row in await vip.sessions()]
        assert [3, 3] == sorted(by_relay.count(relay) for relay in set(by_relay))
        for client in clients:
            await client.leave()
