"""Simulated clients notice what is wrong. A checker that cannot fail would prove nothing."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import MAX_REDIRECTS, LabClient
from rdpbalancer.lab.conversations import BEHAVIOURS
from rdpbalancer.lab.desktops import Broker
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import LabServer
from rdpbalancer.lab.terminal import Session, TerminalServer
from rdpbalancer.model import Endpoint
from rdpbalancer.wire.token import encode_msts
from tests.support.wait import wait_until_async

TOTAL_BYTES = 500_000

Tamper = Callable[[bytes, int], bytes]


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _drop(data: bytes, at: int) -> bytes:
    return data[:at] + data[at + 1 :]


def _double(data: bytes, at: int) -> bytes:
    return data[: at + 1] + data[at:]


def _swap(data: bytes, _at: int) -> bytes:
    return data[::-1]


def _tampering(tamper: Tamper, offset: int) -> Callable[[TerminalServer, Session], Awaitable[None]]:
    """An echo that tampers with the chunk which holds the byte at `offset`."""

    async def echo(_server: TerminalServer, session: Session) -> None:
        done = 0
        while data := await session.channel.read():
            here = done <= offset < done + len(data)
            await session.channel.write(tamper(data, offset - done) if here else data)
            done += len(data)

    return echo


@pytest.mark.parametrize("offset", [0, 250_000, TOTAL_BYTES - 1])
@pytest.mark.parametrize("tamper", [_flip, _double, _swap])
async def test_the_echo_check_detects_corruption(
    tamper: Tamper, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flipped bit, one byte too many, or a piece out of order is found, wherever it is."""
    monkeypatch.setitem(BEHAVIOURS, "echo", _tampering(tamper, offset))
    async with LabServer(behaviour="echo") as server, LabClient(server.endpoint) as client:
        with pytest.raises(LabError) as caught:
            await client.echo_check(random.Random(offset), TOTAL_BYTES)
    assert "corrupted" == caught.value.code
    if tamper is _flip:
        assert f"byte {offset}:" in str(caught.value)


async def test_the_echo_check_detects_a_missing_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle what follows does not fit; at the end it never comes."""
    for offset, code in ((250_000, "corrupted"), (TOTAL_BYTES - 1, "timeout")):
        monkeypatch.setitem(BEHAVIOURS, "echo", _tampering(_drop, offset))
        async with LabServer(behaviour="echo") as server, LabClient(server.endpoint, timeout_s=1) as client:
            with pytest.raises(LabError) as caught:
                await client.echo_check(random.Random(offset), TOTAL_BYTES)
        assert code == caught.value.code


async def test_the_echo_check_passes_what_is_whole() -> None:
    """Again and again over one session, down to nothing; one seed sends one content."""
    async with LabServer(behaviour="echo") as server, LabClient(server.endpoint) as client:
        for total_bytes in (TOTAL_BYTES, 1, 0, 70_000):
            await client.echo_check(random.Random(total_bytes), total_bytes)
        sent = TOTAL_BYTES + 1 + 70_000
        assert sent + len(server.requests[0].raw) == server.counters.bytes_in


async def test_a_stream_check_detects_a_shift() -> None:
    """A stream that begins one byte late is not the pattern; one that ends early is noticed."""
    async with LabServer(behaviour="stream", stream_bytes=1000) as server:
        async with LabClient(server.endpoint) as client:
            await client.channel.read_exactly(1)
            with pytest.raises(LabError, match="byte 0") as caught:
                await client.stream_check(999)
            assert "corrupted" == caught.value.code
        async with LabClient(server.endpoint) as client:
            with pytest.raises(LabError, match="after 1000 bytes") as caught:
                await client.stream_check(1001)
            assert "closed" == caught.value.code


@pytest.fixture
def farm() -> tuple[LabServer, LabServer, Broker]:
    """Two servers of one broker."""
    broker = Broker()
    made = [LabServer(name=name, behaviour="broker", broker=broker) for name in ("ts1", "ts2")]
    return made[0], made[1], broker


async def test_a_client_comes_back_with_its_token(farm: tuple[LabServer, LabServer, Broker]) -> None:
    """Redirected, it returns to the address it came from, with the token and without its cookie."""
    first, second, broker = farm
    async with first, second:
        broker.assign("alice", second.endpoint)
        async with LabClient(first.endpoint, LabOpening(cookie="alice")) as client:
            landing = await client.login("alice")
            await client.echo_check(random.Random(1), 10_000)
        assert ("ts1", 1) == (landing.server, landing.redirects)  # no balancer is between: the same server
        before, after = first.requests
        assert ("alice", None) == (before.request.cookie, before.request.token)
        assert (None, encode_msts(second.endpoint)) == (after.request.cookie, after.request.token)
        assert (1, 1, 0) == (first.counters.redirects, first.counters.tokens, second.counters.accepted)
        assert first.endpoint == broker.home("alice")


async def test_a_client_at_home_is_not_redirected(farm: tuple[LabServer, LabServer, Broker]) -> None:
    """A new user stays where the balancer put them, and finds the desktop there again."""
    first, second, broker = farm
    async with first, second:
        for returned in (False, True):
            async with LabClient(second.endpoint) as client:
                landing = await client.login("alice")
            assert ("ts2", returned, 0) == (landing.server, landing.returned, landing.redirects)
        assert second.endpoint == broker.home("alice")


async def test_who_carries_a_token_may_be_closed(farm: tuple[LabServer, LabServer, Broker]) -> None:
    """The request is recorded and confirmed first."""
    first, _, _ = farm
    first.after_token = "close"
    async with first, LabClient(first.endpoint, LabOpening(token=b"tsv://FARM")) as client:
        assert b"" == await client.read_to_end()
        assert b"tsv://FARM" == first.requests[0].request.token


async def test_an_advertised_address_stands_in_the_token() -> None:
    """What the broker hands out may be an address that only the balancer's configuration knows."""
    broker = Broker()
    inner = "10.0.0.191"
    async with LabServer(behaviour="broker", broker=broker) as server:
        server.advertised = server.endpoint._replace(host=inner)
        broker.assign("alice", server.advertised)
        async with LabClient(server.endpoint) as client:
            assert 0 == (await client.login("alice")).redirects
        broker.assign("alice", server.endpoint._replace(host="10.0.0.192"))
        async with LabClient(server.endpoint) as client:
            assert 1 == (await client.login("alice")).redirects
            assert encode_msts(server.endpoint._replace(host="10.0.0.192")) == client.opening.token


async def test_endless_redirections_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A farm that sends a user round and round is given up."""

    async def redirect(_server: TerminalServer, session: Session) -> None:
        await session.channel.read_line(100)
        await session.channel.write(b"REDIRECT Cookie: msts=16777343.15629.0000\n")

    monkeypatch.setitem(BEHAVIOURS, "echo", redirect)
    async with LabServer(behaviour="echo") as server, LabClient(server.endpoint) as client:
        with pytest.raises(LabError) as caught:
            await client.login("alice")
        assert "redirect-loop" == caught.value.code
        assert MAX_REDIRECTS + 1 <= server.counters.requests <= MAX_REDIRECTS + 2


@pytest.mark.parametrize(
    "answer", [b"WELCOME\n", b"DESKTOP ts1 d1 old 1\n", b"DESKTOP ts1 d1 new x\n", b"\n"]
)
async def test_another_answer_to_hello_is_an_error(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error shows it."""

    async def answers(_server: TerminalServer, session: Session) -> None:
        await session.channel.read_line(100)
        await session.channel.write(answer)

    monkeypatch.setitem(BEHAVIOURS, "echo", answers)
    async with LabServer(behaviour="echo") as server, LabClient(server.endpoint) as client:
        with pytest.raises(LabError, match="expected DESKTOP") as caught:
            await client.login("alice")
    assert "unexpected-answer" == caught.value.code


async def test_a_client_that_is_not_connected_says_so() -> None:
    """Before it connects and after it has closed."""
    async with LabServer() as server:
        client = LabClient(server.endpoint)
        with pytest.raises(LabError, match="not connected"):
            await client.login("alice")
        await client.open()
        client.close()
        with pytest.raises(LabError, match="not connected"):
            client.half_close()
        await client.leave()


async def test_a_source_that_is_not_ours_cannot_be_used() -> None:
    """An address that this machine does not have."""
    async with LabServer() as server:
        with pytest.raises(LabError) as caught:
            await LabClient(server.endpoint, source="192.0.2.1").connect()
    assert "unreachable" == caught.value.code


async def test_a_cancelled_client_leaves_nothing() -> None:
    """Cancelled while it waits for an answer, it closes its connection."""
    async with LabServer() as server:
        server.faults.inject("silent")

        async def wait() -> None:
            async with LabClient(server.endpoint):
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait(), 0.1)
        await wait_until_async(lambda: not server.connections, 5, "the end of the connection")


async def test_a_client_finds_a_host_by_its_name() -> None:
    """Of the name's addresses the first that answers is taken; localhost may be ::1 first."""
    async with LabServer(host="127.0.0.1") as server:
        there = Endpoint("localhost", server.endpoint.port)
        async with LabClient(there, LabOpening(cookie="alice")) as client:
            landing = await client.login("alice")
    assert "ts1" == landing.server


async def test_a_host_name_that_does_not_resolve_is_an_error() -> None:
    """Is told as such."""
    client = LabClient(Endpoint("no-such-host.invalid", 3389))
    with pytest.raises(LabError) as caught:
        await client.connect()
    assert "unresolved" == caught.value.code
