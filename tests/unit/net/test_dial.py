"""Dialling a server and reading its answer: every failure has its stable code, and nothing leaks."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing

import pytest

from rdpbalancer.errors import ServerError
from rdpbalancer.lab.server import LabServer
from rdpbalancer.model import Endpoint
from rdpbalancer.net import dial
from rdpbalancer.net.options import KEEPALIVE_IDLE_S
from rdpbalancer.net.poller import Poller
from rdpbalancer.wire.confirm import build_confirm, build_failure
from tests.support.running_balancer import open_descriptors
from tests.support.steps import Stepped, stepped, watching

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """A dial that failed has closed its socket."""
    before = open_descriptors()
    yield
    assert before == open_descriptors()


@pytest.fixture
async def waits() -> AsyncIterator[Poller]:
    """The loop's waits; none is left, however a dial ended."""
    with watching() as made:
        yield made


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[Endpoint]:
    """Run a server with this conversation."""
    ended = asyncio.Event()

    async def to_its_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(to_its_end, "127.0.0.1", 0) as listening:
        yield Endpoint(*listening.sockets[0].getsockname()[:2])
        await ended.wait()


def soon(seconds: float = 2.0) -> float:
    """Return a deadline."""
    return time.monotonic() + seconds


async def test_a_connected_socket_is_ready_for_a_long_day(waits: Poller) -> None:
    """Non-blocking, no delay, keepalive on; watched until it is given away."""
    async with LabServer() as lab:
        upstream = await stepped(dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon()))
        assert 1 == len(waits)
        sock = upstream.detach()
        assert 0 == len(waits)
        assert not sock.getblocking()
        assert 1 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert 1 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert KEEPALIVE_IDLE_S == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        sock.close()


async def test_a_connection_that_is_closed(waits: Poller) -> None:
    """The socket is closed, and watched no longer; closing it twice does no harm."""
    async with LabServer() as lab:
        upstream = await stepped(dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon()))
        upstream.close()
        assert 0 == len(waits)
        assert -1 == upstream._sock.fileno()
        upstream.close()


async def test_the_source_address_may_be_chosen(waits: Poller) -> None:
    """The server sees the address that was asked for."""
    async with LabServer() as lab:
        upstream = await stepped(
            dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon(), local=("127.0.0.77", 0))
        )
        sock = upstream.detach()
        assert "127.0.0.77" == sock.getsockname()[0]
        sock.close()


@pytest.mark.parametrize(("fault", "code"), [("refuse", "refused"), ("dial-hangs", "timeout")])
async def test_a_failed_dial(waits: Poller, fault: str, code: str) -> None:
    """Refused and unanswered are told apart."""
    async with LabServer() as lab:
        lab.faults.inject(fault)
        with pytest.raises(ServerError) as caught:
            await stepped(dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon(0.2)))
        assert (code, True) == (caught.value.code, caught.value.try_another_server)
        lab.faults.clear()


@pytest.mark.parametrize(
    ("addresses", "local", "code"),
    [
        ([], None, "no-address"),
        (["127.0.0.1"], ("192.0.2.1", 0), "no-local-port"),
    ],
)
async def test_what_is_not_the_servers_fault(
    waits: Poller, addresses: list[str], local: tuple[str, int] | None, code: str
) -> None:
    """A name without address, an address of ours that is none."""
    with pytest.raises(ServerError) as caught:
        await stepped(dial.connect(waits, addresses, 9, deadline_at=soon(), local=local))
    assert code == caught.value.code


async def test_every_address_is_tried(waits: Poller) -> None:
    """An IPv6 address that refuses, one that hangs, and the one that answers, within the deadline."""
    async with LabServer() as lab, LabServer(host="127.0.0.2", port=lab.port) as hanging:
        hanging.faults.inject("dial-hangs")
        upstream = await stepped(
            dial.connect(waits, ["::1", "127.0.0.2", "127.0.0.1"], lab.port, deadline_at=soon(0.9))
        )
        sock = upstream.detach()
        assert "127.0.0.1" == sock.getpeername()[0]
        sock.close()
        hanging.faults.clear()


async def test_a_dial_that_is_cancelled_closes_its_socket(waits: Poller) -> None:
    """Nobody waits any more: nothing stays open (see the fixtures)."""
    async with LabServer() as lab:
        lab.faults.inject("dial-hangs")
        dialling = Stepped(dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon(30)))
        assert (False, 1) == (dialling.done, len(waits))
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        lab.faults.clear()


async def test_a_wait_that_ends_for_nothing_is_no_connection(waits: Poller) -> None:
    """A descriptor's number may be new in the very batch that tells of its predecessor: dialling goes on."""
    async with LabServer() as lab:
        lab.faults.inject("dial-hangs")
        dialling = Stepped(dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon(0.3)))
        (watch,) = waits._watches.values()
        watch.over()
        try:
            with pytest.raises(ServerError) as caught:
                (await dialling).close()
        finally:
            lab.faults.clear()
    assert "timeout" == caught.value.code


CONFIRM = build_confirm(selected_protocol=2)


@pytest.mark.parametrize("pieces", [[CONFIRM], [CONFIRM[:1], CONFIRM[1:7], CONFIRM[7:]], [CONFIRM + b"more"]])
async def test_a_confirm_in_any_pieces(waits: Poller, pieces: list[bytes]) -> None:
    """It is waited for to its end; what lies behind it comes along."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)  # so that the pieces are segments of their own

    async with server(serve) as at:
        upstream = await stepped(dial.connect(waits, [at.host], at.port, deadline_at=soon()))
        data, confirm = await stepped(upstream.receive_reply(deadline_at=soon()))
        upstream.close()
    assert b"".join(pieces) == data
    assert confirm is not None
    assert 2 == confirm.selected_protocol


@pytest.mark.parametrize(("reply", "failure"), [(build_failure(5), 5), (b"HTTP/1.1 400\r\n", None)])
async def test_other_answers(waits: Poller, reply: bytes, failure: int | None) -> None:
    """A failure is a confirm that says so; anything else is returned as it is, without one."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    async with server(serve) as at:
        upstream = await stepped(dial.connect(waits, [at.host], at.port, deadline_at=soon()))
        data, confirm = await stepped(upstream.receive_reply(deadline_at=soon()))
        upstream.close()
    assert reply == data
    assert failure == (confirm.failure if confirm else None)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("accept-then-close", "closed"),
        ("accept-then-reset", "reset"),
        ("silent", "silent"),
        ("partial-confirm-then-close", "closed"),
    ],
)
async def test_no_answer(waits: Poller, fault: str, code: str) -> None:
    """Closed, reset and silent servers are told apart; another may be tried after each."""
    async with LabServer() as lab:
        lab.faults.inject(fault)
        with pytest.raises(ServerError) as caught:  # noqa: PT012 - a reset may show in every step
            upstream = await stepped(dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon()))
            with closing(upstream):
                await stepped(upstream.send(b"\x03\x00\x00\x0b\x06\xe0\0\0\0\0\0", deadline_at=soon()))
                await stepped(upstream.receive_reply(deadline_at=soon(0.2)))
    assert (code, True) == (caught.value.code, caught.value.try_another_server)


async def test_a_server_that_takes_nothing(waits: Poller) -> None:
    """A request that the server's buffers do not take in time is a failure of the server."""
    async with LabServer() as lab:
        lab.faults.inject("blackhole")
        upstream = await stepped(dial.connect(waits, ["127.0.0.1"], lab.port, deadline_at=soon()))
        with pytest.raises(ServerError) as caught:
            await stepped(upstream.send(bytes(64_000_000), deadline_at=soon(0.5)))
        upstream.close()
    assert "timeout" == caught.value.code


async def test_a_large_request_is_sent_in_pieces(waits: Poller) -> None:
    """What the buffers do not take at once goes when there is room, each byte once and in order."""
    data = bytes(range(256)) * 64 * 1024
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readexactly(len(data)))

    async with server(serve) as at:
        upstream = await stepped(dial.connect(waits, [at.host], at.port, deadline_at=soon()))
        await stepped(upstream.send(data, deadline_at=soon(10)))
        upstream.close()
    assert data == received
