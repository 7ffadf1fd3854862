"""Each fault of a simulated server shows itself as it is meant to, and can be taken back."""

import asyncio
import random
import time

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.faults import LabFault
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import GARBAGE, LabServer
from rdpbalancer.tasks import spawn
from rdpbalancer.wire.confirm import build_confirm
from tests.support.wait import wait_until_async

pytestmark = pytest.mark.faults

SHORT_S = 0.2  # long enough for anything on loopback that is going to happen


async def _failure(server: LabServer, *, timeout_s: float = 5.0) -> str:
    """Open a connection that has to fail; return how."""
    client = LabClient(server.endpoint, timeout_s=timeout_s)
    try:
        with pytest.raises(LabError) as caught:
            await client.open()
    finally:
        client.close()
    return caught.value.code


async def _works(server: LabServer) -> bool:
    async with LabClient(server.endpoint) as client:
        await client.login("alice")
        await client.echo_check(random.Random(1), 10_000)
    return True


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (LabFault.REFUSE, "refused"),
        (LabFault.ACCEPT_THEN_CLOSE, "closed"),
        (LabFault.PARTIAL_CONFIRM_THEN_CLOSE, "closed"),
        (LabFault.GARBAGE_REPLY, "not-confirmed"),
    ],
)
async def test_a_fault_shows_and_passes(fault: LabFault, code: str) -> None:
    """The client meets it, as often as it comes; afterwards all is well, on the same port."""
    async with LabServer() as server:
        assert await _works(server)
        server.faults.inject(fault)
        assert [code, code] == [await _failure(server), await _failure(server)]
        server.faults.clear()
        assert await _works(server)


async def test_a_reset_at_once() -> None:
    """The client meets RST: in its request, or in awaiting the confirm."""
    async with LabServer() as server:
        server.faults.inject("accept-then-reset")
        assert "reset" == await _failure(server)
        assert (1, 1) == (server.counters.accepted, server.counters.resets)
        server.faults.clear()
        assert await _works(server)


@pytest.mark.parametrize("fault", [LabFault.SILENT, LabFault.BLACKHOLE, LabFault.DIAL_HANGS])
async def test_a_server_that_does_not_answer(fault: LabFault) -> None:
    """Nothing comes. Only a silent server takes the connection; only a hanging dial is no connection."""
    async with LabServer() as server:
        server.faults.inject(fault)
        client = LabClient(server.endpoint, timeout_s=SHORT_S)
        with pytest.raises(LabError) as caught:
            await client.open()
        client.close()
        assert "timeout" == caught.value.code
        assert ("dialling" in str(caught.value)) == (fault is LabFault.DIAL_HANGS)
        assert server.counters.accepted == (fault is LabFault.SILENT)
        server.faults.clear()
        assert await _works(server)


async def test_who_waited_at_a_blackhole_is_served_afterwards() -> None:
    """The kernel has kept the connection and the request; our own fillers are never served."""
    async with LabServer() as server:
        server.faults.inject(LabFault.BLACKHOLE)
        client = LabClient(server.endpoint)
        await client.connect()
        await client.send_request()
        server.faults.inject(LabFault.DIAL_HANGS)
        server.faults.clear()
        await client.await_confirm()
        await client.login("alice")
        client.close()
        assert 1 == server.counters.accepted


async def test_faults_of_the_listener_follow_each_other() -> None:
    """From any one to any other, the last one counts."""
    codes = {LabFault.REFUSE: "refused", LabFault.BLACKHOLE: "timeout", LabFault.DIAL_HANGS: "timeout"}
    async with LabServer() as server:
        for first in codes:
            for second, code in codes.items():
                server.faults.inject(first)
                server.faults.inject(second)
                assert code == await _failure(server, timeout_s=0.05), (first, second)
        server.faults.clear()
        assert await _works(server)


async def test_a_slow_confirm_comes_late() -> None:
    """Not before its time."""
    async with LabServer() as server:
        server.faults.inject(LabFault.SLOW_CONFIRM, delay_s=SHORT_S)
        started_at = time.monotonic()
        assert await _works(server)
        assert time.monotonic() - started_at >= SHORT_S


async def test_a_confirm_comes_byte_by_byte() -> None:
    """Each byte in a segment of its own, the confirm whole in the end."""
    async with LabServer(security="nla") as server:
        server.faults.inject(LabFault.CONFIRM_BYTE_BY_BYTE, delay_s=0.005)
        client = LabClient(server.endpoint)
        await client.connect()
        await client.send_request()
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < 19:
            pieces.append(await client.channel.read())
        assert build_confirm(selected_protocol=2) == b"".join(pieces)
        assert len(pieces) > 9  # a busy machine may join a few
        client.close()


async def test_a_partial_confirm_is_half_of_it() -> None:
    """The first half, then the end."""
    async with LabServer(security="nla") as server:
        server.faults.inject(LabFault.PARTIAL_CONFIRM_THEN_CLOSE)
        client = LabClient(server.endpoint)
        await client.connect()
        await client.send_request()
        assert build_confirm(selected_protocol=2)[:9] == await client.read_to_end()
        server.faults.inject(LabFault.GARBAGE_REPLY)
        await client.connect()
        await client.send_request()
        assert GARBAGE == await client.read_to_end()
        client.close()


async def test_a_server_that_stops_reading_holds_the_client_up() -> None:
    """Back-pressure reaches the client; taken back, not one byte is missing."""
    async with LabServer() as server:
        client = LabClient(server.endpoint)
        await client.open()
        await client.login("alice")
        server.faults.inject(LabFault.STOP_READING)
        work = spawn(client.echo_check(random.Random(3), 20_000_000), name="echo")
        await wait_until_async(lambda: server.counters.bytes_in, 5, "the first bytes")
        before = -1
        while before != client.channel.traffic.bytes_out:  # until nothing moves any more
            before = client.channel.traffic.bytes_out
            await asyncio.wait([work], timeout=SHORT_S)
        assert not work.done()
        assert server.counters.bytes_in < 200_000
        server.faults.clear()
        await work
        client.close()


async def test_reading_may_stop_right_after_the_confirm() -> None:
    """A session that begins then is confirmed, and not heard until the fault is gone."""
    async with LabServer() as server:
        server.faults.inject(LabFault.STOP_READING)
        client = LabClient(server.endpoint, timeout_s=SHORT_S)
        await client.open()
        with pytest.raises(LabError, match="logging alice in"):
            await client.login("alice")
        server.faults.clear()
        assert b"DESKTOP ts1 ts1-1 new 1" == await client.channel.read_line(100)
        client.close()


async def test_a_reset_after_some_bytes() -> None:
    """The client gets as many bytes of the stream as were let through, then RST."""
    async with LabServer(behaviour="stream", after_stream="stay") as server:
        server.faults.inject(LabFault.RESET_AFTER, after_bytes=100_000)
        async with LabClient(server.endpoint) as client:
            with pytest.raises(LabError) as caught:
                await client.stream_check(1_000_000)
        assert "reset" == caught.value.code
        await wait_until_async(lambda: not server.connections, 5, "the end of the session")
        assert 1 == server.counters.resets
        assert 100_000 == server.counters.bytes_out - 19


async def test_a_reset_counts_from_its_injection() -> None:
    """A live session goes on for as many bytes, both ways together, as were said."""
    async with LabServer() as server, LabClient(server.endpoint) as client:
        await client.login("alice")
        await client.echo_check(random.Random(1), 5_000)
        server.faults.inject(LabFault.RESET_AFTER, after_bytes=200)
        await client.channel.write(b"x" * 99)
        assert b"x" * 99 == await client.channel.read_exactly(99)
        await client.channel.write(b"yz")
        with pytest.raises(LabError) as caught:
            await client.read_to_end()
        assert "reset" == caught.value.code


async def test_a_half_close_after_some_bytes() -> None:
    """The client gets so many bytes, then the end; the server goes on listening."""
    async with LabServer(behaviour="stream", after_stream="stay") as server:
        server.faults.inject(LabFault.HALF_CLOSE_AFTER, after_bytes=50_000)
        async with LabClient(server.endpoint) as client:
            await client.stream_check(50_000)
            assert b"" == await client.read_to_end()
            before = server.counters.bytes_in
            await client.channel.write(b"heard")
            await wait_until_async(lambda: server.counters.bytes_in == before + 5, 5, "the client's words")
            client.half_close()
            await wait_until_async(lambda: not server.connections, 5, "the end of the session")


async def test_a_sink_half_closes_too() -> None:
    """Bytes received count as well."""
    async with LabServer(behaviour="sink") as server, LabClient(server.endpoint) as client:
        server.faults.inject(LabFault.HALF_CLOSE_AFTER, after_bytes=10)
        await client.channel.write(b"0123456789")
        assert b"" == await client.read_to_end()


async def test_an_unknown_fault_is_refused() -> None:
    """By the enumeration."""
    with pytest.raises(ValueError, match="earthquake"):
        LabServer().faults.inject("earthquake")


async def test_faults_after_n_bytes_count_early_data() -> None:
    """Bytes that came with the request count from the confirm on."""
    async with LabServer(behaviour="echo") as server:
        server.faults.inject(LabFault.RESET_AFTER, after_bytes=3)
        client = LabClient(server.endpoint, LabOpening(behind=b"early"))
        await client.open()
        with pytest.raises(LabError) as caught:
            await client.read_to_end()
        assert "reset" == caught.value.code
        client.close()
