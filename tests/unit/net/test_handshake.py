"""Reading a client's opening, in any pieces, under one deadline."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from rdpbalancer.errors import ClientError, ProtocolError
from rdpbalancer.lab.opening import Opening
from rdpbalancer.model import Endpoint
from rdpbalancer.net.handshake import OPENING_BYTES, Reader
from rdpbalancer.wire.proxy import build_proxy
from rdpbalancer.wire.request import Preconnection

REQUEST = Opening(cookie="alice").request()
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Pair]:
    """A client's socket and ours."""
    client, ours = socket.socketpair()
    ours.setblocking(False)
    yield client, ours
    client.close()
    ours.close()


def reader(ours: socket.socket, seconds: float = 2.0) -> Reader:
    """Return a reader with a deadline."""
    return Reader(ours, deadline_at=asyncio.get_running_loop().time() + seconds)


async def drip(client: socket.socket, data: bytes) -> None:
    """Send one byte at a time."""
    for at in range(len(data)):
        client.send(data[at : at + 1])
        await asyncio.sleep(0)


@pytest.mark.parametrize("behind", [b"", b"\x16\x03\x01 and so on"])
async def test_an_opening_at_once(ends: Pair, behind: bytes) -> None:
    """Everything that was read is kept, what lies behind the request included."""
    ends[0].send(REQUEST + behind)
    opening = await reader(ends[1]).opening()
    assert ("alice", REQUEST + behind) == (opening.request.cookie, opening.data)


async def test_an_opening_byte_by_byte(ends: Pair) -> None:
    """PROXY header, preconnection PDU and request; the header is not the server's to see."""
    source = Endpoint("192.0.2.1", 5000)
    body = Opening(cookie="bob", preconnection=Preconnection(1, "vm", 2)).request()
    r = reader(ends[1])
    dripping = asyncio.get_running_loop().create_task(
        drip(ends[0], build_proxy(2, source, Endpoint("192.0.2.9", 3389)) + body)
    )
    header = await r.proxy_header()
    opening = await r.opening()
    await dripping
    assert (source, "bob", body) == (header.source, opening.request.cookie, opening.data)


async def test_the_deadline_is_one_for_all(ends: Pair) -> None:
    """Bytes that drip do not renew it."""
    r = reader(ends[1], 0.1)
    dripping = asyncio.get_running_loop().create_task(_drip_for_ever(ends[0]))
    with pytest.raises(ClientError) as caught:
        await r.opening()
    dripping.cancel()
    assert "timeout" == caught.value.code


async def _drip_for_ever(client: socket.socket) -> None:
    for at in range(len(REQUEST) - 1):
        client.send(REQUEST[at : at + 1])
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("data", "code"), [(b"", "closed-silent"), (REQUEST[:9], "closed")])
async def test_a_client_that_leaves(ends: Pair, data: bytes, code: str) -> None:
    """Port scanners, who say nothing, are told from those who stopped in the middle."""
    if data:
        ends[0].send(data)
    ends[0].close()
    with pytest.raises(ClientError) as caught:
        await reader(ends[1]).opening()
    assert code == caught.value.code


async def test_what_is_not_rdp(ends: Pair) -> None:
    """The parser's verdict comes through."""
    ends[0].send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ProtocolError) as caught:
        await reader(ends[1]).opening()
    assert "http" == caught.value.code


async def test_no_more_is_read_than_needed(ends: Pair) -> None:
    """What a client sends behind its request waits in the kernel but for the rest of one read."""
    ends[0].setblocking(False)
    ends[0].send(REQUEST + bytes(100_000))
    opening = await reader(ends[1]).opening()
    assert OPENING_BYTES == len(opening.data)


async def test_in_mode_tcp_what_follows_the_header_is_kept(ends: Pair) -> None:
    """Bytes that came with the PROXY header belong to the session."""
    ends[0].send(build_proxy(1, Endpoint("192.0.2.1", 5), Endpoint("192.0.2.9", 443)) + b"hello")
    r = reader(ends[1])
    await r.proxy_header()
    assert b"hello" == r.rest()
