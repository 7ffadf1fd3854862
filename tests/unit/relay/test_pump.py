"""The pump moves bytes exactly, propagates ends as they are, and holds one chunk per direction."""

import asyncio
import contextlib
import errno
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay.flow import READ_BUFFER_BYTES
from rdpbalancer.relay.pump import HALF_CLOSED_IDLE_S, HALF_CLOSED_UNSENT_S, Pump
from rdpbalancer.relay.pumped_session import PumpedSession
from tests.support.wait import wait_until_async
from tests.unit.conftest import Run


class PumpFixture:
    """A pump with one session between `client` and `server`, the far ends of TCP connections."""

    def __init__(self, first: tuple[bytes, bytes], idle_s: float) -> None:
        self.ends: list[tuple[str, CloseReason, CloseSide]] = []
        self.pump = Pump(asyncio.get_running_loop(), self._ended)
        self.client, near_client = tcp_pair()
        self.server, near_server = tcp_pair()
        self.near = (near_client, near_server)
        self.session = self.pump.adopt("s1", b"facts", self.near, first=first, idle_s=idle_s)

    def _ended(self, session: PumpedSession, reason: CloseReason, side: CloseSide) -> None:
        self.ends.append((session.id, reason, side))

    async def end(self) -> tuple[CloseReason, CloseSide]:
        """Wait for the session's one end."""
        await wait_until_async(lambda: self.ends, 5, "the end")
        ((session_id, reason, side),) = self.ends
        assert ("s1", 0) == (session_id, len(self.pump))
        assert [-1, -1] == [sock.fileno() for sock in self.near]
        return reason, side


@asynccontextmanager
async def rig(first: tuple[bytes, bytes] = (b"", b""), idle_s: float = 0.0) -> AsyncIterator[PumpFixture]:
    """Make a rig, and end what is left of it."""
    made = PumpFixture(first, idle_s)
    try:
        yield made
    finally:
        made.pump.kick("s1", CloseReason.SHUTDOWN)
        made.pump.close()
        made.client.close()
        made.server.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a TCP connection on loopback, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


async def read(sock: socket.socket, size: int) -> bytes:
    """Read exactly so many bytes, or fewer if the end comes first."""
    data = b""
    async with asyncio.timeout(5):
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(sock, size - len(data))
            if not more:
                break
            data += more
    return data


async def write(sock: socket.socket, data: bytes) -> None:
    """Send all, within a deadline."""
    async with asyncio.timeout(10):
        await asyncio.get_running_loop().sock_sendall(sock, data)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def refuses(sock: socket.socket) -> bool:
    """Whether reading ends in a reset, rather than in order."""
    try:
        async with asyncio.timeout(5):
            while await asyncio.get_running_loop().sock_recv(sock, 65_536):
                continue
    except ConnectionResetError:
        return True
    return False


async def refuses_bytes(sock: socket.socket) -> bool:
    """Whether writing comes to an end by a reset."""
    try:
        while True:
            await write(sock, bytes(100_000))
    except (ConnectionResetError, BrokenPipeError):
        return True


def test_bytes_go_both_ways(run: Run) -> None:
    """Random pieces in both directions at once arrive exactly, and are counted."""

    async def scene() -> None:
        rng = random.Random(1)
        up, down = rng.randbytes(3_000_000), rng.randbytes(2_000_000)

        async def say(sock: socket.socket, data: bytes, seed: int) -> None:
            pieces, at = random.Random(seed), 0
            while at < len(data):
                size = pieces.randint(1, 200_000)
                await write(sock, data[at : at + size])
                at += size

        async with rig() as r:
            got = await asyncio.gather(
                read(r.server, len(up)),
                read(r.client, len(down)),
                say(r.client, up, 2),
                say(r.server, down, 3),
            )
            assert up == got[0]
            assert down == got[1]
            assert (len(up), len(down)) == (r.session.up.count, r.session.down.count)

    run(scene())


@pytest.mark.parametrize("size", [1, 5000, 3 * READ_BUFFER_BYTES])
def test_first_bytes_come_first(run: Run, size: int) -> None:
    """What was read before the handover precedes what comes now, both ways, even if it fills the socket."""

    async def scene() -> None:
        async with rig(first=(b"u" * size, b"d" * size)) as r:
            await write(r.client, b"UP")
            await write(r.server, b"DOWN")
            assert b"u" * size + b"UP" == await read(r.server, size + 2)
            assert b"d" * size + b"DOWN" == await read(r.client, size + 4)

    run(scene())


@pytest.mark.parametrize("first_to_close", ["client", "server"])
def test_half_close(run: Run, first_to_close: str) -> None:
    """A FIN is passed on; the other direction goes on until its own; the side is who closed first."""

    async def scene() -> None:
        async with rig() as r:
            one, other = (r.client, r.server) if first_to_close == "client" else (r.server, r.client)
            await write(one, b"last words")
            one.shutdown(socket.SHUT_WR)
            assert b"last words" == await read(other, 100)
            await write(other, b"an answer")
            assert b"an answer" == await read(one, 9)
            assert [] == r.ends
            other.close()
            assert b"" == await read(one, 1)
            assert (CloseReason.EOF, CloseSide(first_to_close)) == await r.end()

    run(scene())


@pytest.mark.parametrize("who", ["client", "server"])
def test_reset(run: Run, who: str) -> None:
    """A reset is passed on as a reset, and recorded as that side's."""

    async def scene() -> None:
        async with rig() as r:
            one, other = (r.client, r.server) if who == "client" else (r.server, r.client)
            reset(one)
            assert await refuses(other)
            assert (CloseReason.RESET, CloseSide(who)) == await r.end()

    run(scene())


def test_a_reset_after_an_orderly_close_is_no_reset(run: Run) -> None:
    """Who said goodbye and is then found gone was done: the record says eof."""

    async def scene() -> None:
        async with rig() as r:
            r.client.shutdown(socket.SHUT_WR)
            assert b"" == await read(r.server, 1)
            reset(r.client)
            assert await refuses_bytes(r.server)
            assert (CloseReason.EOF, CloseSide.CLIENT) == await r.end()

    run(scene())


@pytest.mark.parametrize("to", ["client", "server"])
def test_a_slow_reader_holds_one_chunk(run: Run, to: str) -> None:
    """While a reader sleeps its sender is not read from; one chunk waits; then all arrives."""

    async def scene() -> None:
        async with rig() as r:
            sink, source = (r.client, r.server) if to == "client" else (r.server, r.client)
            flow = r.session.down if to == "client" else r.session.up
            data = random.Random(4).randbytes(24_000_000)
            writing = asyncio.get_running_loop().create_task(write(source, data))
            seen = -1

            async def stuck() -> bool:
                nonlocal seen
                before, seen = seen, flow.count
                await asyncio.sleep(0.1)
                return before == flow.count and bool(flow.pending)

            await wait_until_async(stuck, 5, "a sender that waits")
            assert 0 < len(flow.pending) <= READ_BUFFER_BYTES
            assert flow.count < len(data)
            assert not writing.done()
            assert data == await read(sink, len(data))
            await writing
            assert (len(data), 0) == (flow.count, len(flow.pending))

    run(scene())


def test_an_end_behind_a_pending_chunk(run: Run) -> None:
    """A sender that closes while its bytes still wait loses none of them."""

    async def scene() -> None:
        async with rig() as r:
            data = random.Random(5).randbytes(12_000_000)
            writing = asyncio.get_running_loop().create_task(write(r.server, data))
            await wait_until_async(lambda: r.session.down.pending, 5, "a pending chunk")
            got = await asyncio.gather(read(r.client, len(data)), writing)
            r.server.shutdown(socket.SHUT_WR)
            assert data == got[0]
            assert b"" == await read(r.client, 1)

    run(scene())


def test_kick(run: Run) -> None:
    """The operator's end closes both sides in order; unknown ids are ends that came before."""

    async def scene() -> None:
        async with rig() as r:
            r.pump.kick("s2", CloseReason.KICKED)
            r.pump.kick("s1", CloseReason.KICKED)
            r.pump.kick("s1", CloseReason.SHUTDOWN)
            assert (CloseReason.KICKED, CloseSide.BALANCER) == await r.end()
            assert (b"", b"") == (await read(r.client, 1), await read(r.server, 1))

    run(scene())


def test_a_timeout_of_the_peer(run: Run) -> None:
    """ETIMEDOUT (keepalive, TCP_USER_TIMEOUT) is no reset: the reason says timeout."""

    async def scene() -> None:
        async with rig() as r:
            r.session.broken(OSError(errno.ETIMEDOUT, "x"), CloseSide.CLIENT)
            assert (CloseReason.TIMEOUT, CloseSide.CLIENT) == await r.end()

    run(scene())


def test_idle(run: Run) -> None:
    """Silence both ways for idle_s ends a session at a tick; a byte begins the time anew."""

    async def scene() -> None:
        async with rig(idle_s=10) as r:
            began_at = r.session.active_at
            assert [] == r.pump.tick(began_at + 9)
            await write(r.client, b"x")
            assert b"x" == await read(r.server, 1)
            assert [("s1", 1, 0)] == r.pump.tick(began_at + 9.5)
            assert [] == r.pump.tick(began_at + 19)
            assert 1 == len(r.pump)
            r.pump.tick(began_at + 19.5)
            assert (CloseReason.IDLE, CloseSide.BALANCER) == await r.end()

    run(scene())


def test_without_idle_limit(run: Run) -> None:
    """idle_s 0: silence alone ends nothing; half-closed silence does."""

    async def scene() -> None:
        async with rig() as r:
            r.pump.tick(r.session.active_at + 1e9)
            assert 1 == len(r.pump)
            r.client.shutdown(socket.SHUT_WR)
            assert b"" == await read(r.server, 1)
            at = r.session.active_at
            r.pump.tick(at + HALF_CLOSED_IDLE_S - 1)
            assert 1 == len(r.pump)
            r.pump.tick(at + HALF_CLOSED_IDLE_S)
            assert (CloseReason.EOF, CloseSide.CLIENT) == await r.end()

    run(scene())


def test_half_closed_with_data_for_a_slow_reader(run: Run) -> None:
    """A chunk that the client has not taken yet is not thrown away after 15 s, but after 60 s."""

    async def scene() -> None:
        async with rig() as r:
            writing = asyncio.get_running_loop().create_task(write(r.server, bytes(30_000_000)))
            await wait_until_async(lambda: r.session.down.pending, 5, "a pending chunk")
            r.client.shutdown(socket.SHUT_WR)
            assert b"" == await read(r.server, 1)
            r.pump.tick(r.session.active_at)
            at = r.session.active_at
            r.pump.tick(at + HALF_CLOSED_UNSENT_S - 1)
            assert 1 == len(r.pump)
            r.pump.tick(at + HALF_CLOSED_UNSENT_S)
            assert (CloseReason.EOF, CloseSide.CLIENT) == await r.end()
            with contextlib.suppress(ConnectionError):
                await writing

    run(scene())


def test_many_sessions_do_not_mix(run: Run) -> None:
    """Sessions share one read buffer; each gets its own bytes."""

    async def scene() -> None:
        pump = Pump(asyncio.get_running_loop(), lambda *_: None)
        sessions = []
        for number in range(30):
            (client, near_client), (server, near_server) = tcp_pair(), tcp_pair()
            pump.adopt(f"s{number}", b"", (near_client, near_server), first=(b"", b""), idle_s=0)
            sessions.append((client, server, random.Random(number).randbytes(150_000)))

        async def through(client: socket.socket, server: socket.socket, data: bytes) -> bytes:
            got, _ = await asyncio.gather(read(server, len(data)), write(client, data))
            return got

        results = await asyncio.gather(*(through(*session) for session in sessions))
        assert [data for _, _, data in sessions] == results
        for session in pump:
            pump.kick(session.id, CloseReason.SHUTDOWN)
        pump.close()
        for client, server, _ in sessions:
            client.close()
            server.close()

    run(scene())


@pytest.mark.parametrize("half_closed", [False, True])
def test_a_session_moves(run: Run, *, half_closed: bool) -> None:
    """Given up in the middle of everything and taken over by another pump: no byte lost or twice."""

    async def scene() -> None:
        async with rig() as r:
            data = random.Random(6).randbytes(12_000_000)
            if half_closed:
                r.client.shutdown(socket.SHUT_WR)
                assert b"" == await read(r.server, 1)
            writing = asyncio.get_running_loop().create_task(write(r.server, data))
            await wait_until_async(lambda: r.session.down.pending, 5, "a pending chunk")
            start = await read(r.client, 100_000)
            carried = r.pump.migrate_out(r.session)
            assert 0 == len(r.pump)
            assert carried.to_client
            target = Pump(r.pump.loop, r._ended)
            target.resume(carried, r.near)
            assert data == start + await read(r.client, len(data) - len(start))
            await writing
            if not half_closed:
                await write(r.client, b"still there")
                assert b"still there" == await read(r.server, 11)
                r.client.close()
                assert b"" == await read(r.server, 1)
            r.server.close()
            assert (CloseReason.EOF, CloseSide.CLIENT) == await r.end()
            assert 0 == len(target)
            target.close()

    run(scene())
