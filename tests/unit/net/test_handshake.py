"""Reading a client's opening, in any pieces, under one deadline."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from rdpbalancer.errors import ClientError, ProtocolError
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.model import Endpoint
from rdpbalancer.net.handshake import OPENING_BYTES, Reader
from rdpbalancer.net.poller import Poller
from rdpbalancer.wire.proxy import build_proxy
from rdpbalancer.wire.request import Preconnection
from tests.support.steps import Stepped, stepped, watching

REQUEST = LabOpening(cookie="alice").request()
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Pair]:
    """A client's socket and ours."""
    client, ours = socket.socketpair()
    ours.setblocking(False)
    yield client, ours
    client.close()
    ours.close()


@pytest.fixture
async def waits() -> AsyncIterator[Poller]:
    """The loop's waits; none is left, however the reading ended."""
    with watching() as made:
        yield made


def reader(ours: socket.socket, waits: Poller, seconds: float = 2.0) -> Reader:
    """Return a reader with a deadline."""
    return Reader(ours, waits, deadline_at=time.monotonic() + seconds)


async def drip(client: socket.socket, data: bytes) -> None:
    """Send one byte at a time."""
    for at in range(len(data)):
        client.send(data[at : at + 1])
        await asyncio.sleep(0)


@pytest.mark.parametrize("behind", [b"", b"\x16\x03\x01 and so on"])
async def test_an_opening_at_once(ends: Pair, waits: Poller, behind: bytes) -> None:
    """Everything that was read is kept, what lies behind the request included."""
    ends[0].send(REQUEST + behind)
    with reader(ends[1], waits) as r:
        opening = await stepped(r.opening())
    assert ("alice", REQUEST + behind) == (opening.request.cookie, opening.data)


async def test_an_opening_byte_by_byte(ends: Pair, waits: Poller) -> None:
    """PROXY header, preconnection PDU and request; the header is not the server's to see."""
    source = Endpoint("192.0.2.1", 5000)
    body = LabOpening(cookie="bob", preconnection=Preconnection(1, "vm", 2)).request()
    dripping = asyncio.get_running_loop().create_task(
        drip(ends[0], build_proxy(2, source, Endpoint("192.0.2.9", 3389)) + body)
    )
    with reader(ends[1], waits) as r:
        header = await stepped(r.proxy_header())
        opening = await stepped(r.opening())
    await dripping
    assert (source, "bob", body) == (header.source, opening.request.cookie, opening.data)


async def test_the_deadline_is_one_for_all(ends: Pair, waits: Poller) -> None:
    """Bytes that drip do not renew it."""
    dripping = asyncio.get_running_loop().create_task(_drip_for_ever(ends[0]))
    with pytest.raises(ClientError) as caught, reader(ends[1], waits, 0.1) as r:
        await stepped(r.opening())
    dripping.cancel()
    assert "timeout" == caught.value.code


async def _drip_for_ever(client: socket.socket) -> None:
    for at in range(len(REQUEST) - 1):
        client.send(REQUEST[at : at + 1])
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("data", "code"), [(b"", "closed-silent"), (REQUEST[:9], "closed")])
async def test_a_client_that_leaves(ends: Pair, waits: Poller, data: bytes, code: str) -> None:
    """Port scanners, who say nothing, are told from those who stopped in the middle."""
    if data:
        ends[0].send(data)
    ends[0].close()
    with pytest.raises(ClientError) as caught, reader(ends[1], waits) as r:
        await stepped(r.opening())
    assert code == caught.value.code


async def test_what_is_not_rdp(ends: Pair, waits: Poller) -> None:
    """The parser's verdict comes through."""
    ends[0].send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ProtocolError) as caught, reader(ends[1], waits) as r:
        await stepped(r.opening())
    assert "http" == caught.value.code


async def test_no_more_is_read_than_needed(ends: Pair, waits: Poller) -> None:
    """What a client sends behind its request waits in the kernel but for the rest of one read."""
    ends[0].setblocking(False)
    ends[0].send(REQUEST + bytes(100_000))
    with reader(ends[1], waits) as r:
        opening = await stepped(r.opening())
    assert OPENING_BYTES == len(opening.data)


async def test_in_mode_tcp_what_follows_the_header_is_kept(ends: Pair, waits: Poller) -> None:
    """Bytes that came with the PROXY header belong to the session."""
    ends[0].send(build_proxy(1, Endpoint("192.0.2.1", 5), Endpoint("192.0.2.9", 443)) + b"hello")
    with reader(ends[1], waits) as r:
        await stepped(r.proxy_header())
    assert b"hello" == r.rest()


async def test_a_silent_client_has_its_time_and_no_more(ends: Pair, waits: Poller) -> None:
    """Nothing ever comes: the deadline ends it, and not before its time."""
    began_at = time.monotonic()
    with pytest.raises(ClientError) as caught, reader(ends[1], waits, 0.1) as r:
        await stepped(r.opening())
    assert "timeout" == caught.value.code
    assert 0.099 <= time.monotonic() - began_at


async def test_a_client_that_resets(waits: Poller) -> None:
    """Its end is the connection's, and told from a client that closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)
    with ours, reader(ours, waits) as r:
        reading = Stepped(r.opening())
        assert not reading.done
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with pytest.raises(ClientError) as caught:
            await reading
    assert "reset" == caught.value.code


async def test_a_reading_that_is_cancelled(ends: Pair, waits: Poller) -> None:
    """CancelledError comes through, and the socket is watched no longer; it stays open, and the caller's."""
    with reader(ends[1], waits) as r:
        reading = Stepped(r.opening())
        assert 1 == len(waits)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert 0 == len(waits)
    assert -1 != ends[1].fileno()


async def test_what_is_there_needs_no_watch(ends: Pair, waits: Poller) -> None:
    """A client that talks at once is read without a wait."""
    ends[0].send(REQUEST)
    with reader(ends[1], waits) as r:
        reading = Stepped(r.opening())
        assert (True, 0) == (reading.done, len(waits))
    assert REQUEST == (await reading).data
