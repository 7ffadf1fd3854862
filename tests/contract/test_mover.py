"""What every mover promises of the sessions that it moves (`relay.mover.Mover`)."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rdpbalancer.ipc.relay_messages import SessionTransfer
from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay.mover import MakeMover, MovedSession, Mover
from rdpbalancer.relay.pump import Pump
from rdpbalancer.tasks import spawn
from tests.support.wait import wait_until_async

MOVERS: dict[str, MakeMover] = {"pump": Pump}
PATIENCE_S = 5.0
# More than the kernel keeps for a reader that does not read, on both sides of a mover.
MUCH = bytes(range(256)) * 64 * 1024


class MoverFixture:
    """A mover, what it reports, and the far ends of its sessions."""

    def __init__(self, make: MakeMover) -> None:
        self.loop = asyncio.get_running_loop()
        self.mover: Mover[Any] = make(self.loop, self._ended)
        self.ended: list[tuple[str, CloseReason, CloseSide, tuple[int, int], bool]] = []
        self.ends: list[socket.socket] = []

    def _ended(self, session: MovedSession, reason: CloseReason, side: CloseSide) -> None:
        closed = session.client.fileno() == session.server.fileno() == -1
        self.ended.append((session.id, reason, side, session.counts, closed))

    def start(
        self, session: str = "s1", *, to_server: bytes = b"", to_client: bytes = b"", idle_s: float = 0
    ) -> tuple[socket.socket, socket.socket]:
        """Have a new session moved; return its client and its server."""
        carried = SessionTransfer(session, b"facts", to_server, to_client, idle_s)
        return self.resume(carried)

    def resume(self, carried: SessionTransfer) -> tuple[socket.socket, socket.socket]:
        """Have a session moved over new connections."""
        (client, near_client), (server, near_server) = tcp_pair(), tcp_pair()
        self.ends += [client, server]
        self.mover.resume(carried, (near_client, near_server))
        return client, server

    def only(self) -> Any:
        """Return the one session that there is."""
        (session,) = list(self.mover)
        return session


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setblocking(False)
    return one, other


@pytest.fixture(params=MOVERS)
async def fixture(request: pytest.FixtureRequest) -> AsyncIterator[MoverFixture]:
    """Return a mover of each kind."""
    made = MoverFixture(MOVERS[request.param])
    yield made
    for session in made.mover:
        made.mover.kick(session.id, CloseReason.SHUTDOWN)
    made.mover.close()
    for sock in made.ends:
        sock.close()


async def read(sock: socket.socket, size: int) -> bytes:
    """Read so many bytes, or what there is before the end."""
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(PATIENCE_S):
        while len(data) < size and (chunk := await loop.sock_recv(sock, size - len(data))):
            data += chunk
    return data


async def test_bytes_go_both_ways_and_are_counted(fixture: MoverFixture) -> None:
    client, server = fixture.start()
    client.send(b"question")
    assert b"question" == await read(server, 8)
    server.send(b"answer")
    assert b"answer" == await read(client, 6)
    assert (8, 6) == fixture.only().counts


async def test_what_was_read_before_is_sent_first(fixture: MoverFixture) -> None:
    client, server = fixture.start(to_server=b"request", to_client=b"confirm")
    client.send(b" and more")
    assert b"request and more" == await read(server, 16)
    assert b"confirm" == await read(client, 7)


async def test_a_reader_that_does_not_read_holds_its_writer_back(fixture: MoverFixture) -> None:
    """And gets every byte in the end."""
    client, server = fixture.start()
    sending = spawn(fixture.loop.sock_sendall(client, MUCH), name="send much")
    await wait_until_async(lambda: fixture.only().counts[0] > 0, PATIENCE_S, "bytes to move")
    assert not sending.done()
    assert MUCH == await read(server, len(MUCH))
    await sending


async def test_a_half_close_is_passed_on_and_the_other_half_goes_on(fixture: MoverFixture) -> None:
    client, server = fixture.start()
    client.shutdown(socket.SHUT_WR)
    assert b"" == await read(server, 1)
    server.send(b"last")
    assert b"last" == await read(client, 4)
    server.close()
    await wait_until_async(lambda: fixture.ended, PATIENCE_S, "the end")
    assert [("s1", CloseReason.EOF, CloseSide.CLIENT, (0, 4), True)] == fixture.ended


async def test_a_reset_is_passed_on(fixture: MoverFixture) -> None:
    client, server = fixture.start()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    await wait_until_async(lambda: fixture.ended, PATIENCE_S, "the end")
    assert [("s1", CloseReason.RESET, CloseSide.CLIENT, (0, 0), True)] == fixture.ended
    with pytest.raises(ConnectionResetError):
        await read(server, 1)


async def test_a_session_that_is_kicked_is_the_balancer_s_doing(fixture: MoverFixture) -> None:
    fixture.start()
    fixture.mover.kick("s1", CloseReason.KICKED)
    fixture.mover.kick("s1", CloseReason.KICKED)
    fixture.mover.kick("nobody", CloseReason.KICKED)
    assert [("s1", CloseReason.KICKED, CloseSide.BALANCER, (0, 0), True)] == fixture.ended
    assert 0 == len(fixture.mover)


async def test_a_tick_reports_what_moved_and_ends_what_is_idle(fixture: MoverFixture) -> None:
    client, server = fixture.start(idle_s=60)
    client.send(b"hello")
    await read(server, 5)
    now = fixture.loop.time()
    assert [("s1", 5, 0)] == fixture.mover.tick(now)
    assert [] == fixture.mover.tick(now + 59)
    assert [] == fixture.ended
    fixture.mover.tick(now + 61)
    assert [("s1", CloseReason.IDLE, CloseSide.BALANCER, (5, 0), True)] == fixture.ended


async def test_the_router_is_told_of_a_session_as_it_is(fixture: MoverFixture) -> None:
    client, server = fixture.start()
    client.send(b"hello")
    await read(server, 5)
    state = fixture.only().state
    assert ("s1", b"facts", 5, 0, 0) == (
        state.id, state.facts, state.bytes_up, state.bytes_down, state.moves
    )  # fmt: skip


async def test_a_session_migrates_with_all_that_it_has_been_through(fixture: MoverFixture) -> None:
    """Its sockets stay open, its end is not reported, and another mover goes on where it was."""
    if not fixture.mover.can_migrate:
        pytest.skip("its sessions stay where they are")
    client, server = fixture.start()
    client.send(b"hello")
    await read(server, 5)
    session = fixture.only()
    carried = fixture.mover.migrate_out(session)
    assert ([], 0) == (fixture.ended, len(fixture.mover))
    assert ("s1", 5, 0) == (carried.id, carried.bytes_up, carried.bytes_down)
    client.send(b" again")  # while nobody moves it
    fixture.mover.resume(carried, (session.client, session.server))
    assert b" again" == await read(server, 6)
    assert (11, 0) == fixture.only().counts
