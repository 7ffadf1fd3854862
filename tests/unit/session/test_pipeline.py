"""A connection's way in one process: what it holds is given back wherever it ends."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rdpbalancer.core.admission import AdmissionSlot
from rdpbalancer.core.dispatch import Placed
from rdpbalancer.core.farm import VirtualService
from rdpbalancer.core.route import Route
from rdpbalancer.errors import ChannelError, ServerError
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import LabServer
from rdpbalancer.model import Endpoint, Mode, Reason, SessionFacts
from rdpbalancer.session import ConnectionHandler
from rdpbalancer.session.connection import Connection
from rdpbalancer.session.frontends import FRONTENDS
from rdpbalancer.wire.confirm import DISCONNECT
from tests.support.steps import stepped
from tests.support.wait import wait_until_async
from tests.unit.core.farms import ALICE, SERVICE, sid
from tests.unit.runtime.in_process_router import InProcessRouter, local_server, service_of

PATIENCE_S = 5.0


# What a relay was given: its process id, the session, both sockets, bytes to send first, the idle timeout.
Taken = tuple[int, SessionFacts, tuple[socket.socket, socket.socket], tuple[bytes, bytes], float]


class NoRelayYet:
    """Relays of which none is running: whoever is handed over waits, until the test says what comes of it."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[int]] = []
        self.taken: list[Taken] = []

    async def choose(self) -> int:
        """Wait for a relay."""
        relay: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(relay)
        return await relay

    def adopt(
        self,
        relay: int,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
    ) -> None:
        """Take a session, and keep it."""
        self.taken.append((relay, facts, sockets, first, idle_s))


class Way:
    """The way to one real server, and everything that a connection takes on it."""

    def __init__(self, service: VirtualService) -> None:
        self.balancer = InProcessRouter(service)
        for server in service.servers:
            self.balancer.watch.names.resolved(server.id, ("127.0.0.1",))
        self.relays = NoRelayYet()
        self.sessions = ConnectionHandler(
            dispatcher=self.balancer.dispatcher,
            admission=self.balancer.admission,
            relays=self.relays,
            metrics=self.balancer.metrics,
            account=self.balancer.account,
            events=self.balancer.events,
            dial_failed=self.balancer.watch.dial_failed,
            dialled=self.balancer.watch.dialled,
        )

    @property
    def service(self) -> VirtualService:
        """The service as it is configured now."""
        return self.balancer.dispatcher.farm.services[SERVICE]

    async def up_to_the_relay(self) -> socket.socket:
        """Let a client come in and be answered by its server; return its end when it waits for a relay."""
        client, ours, address = accepted()
        client.sendall(LabOpening(cookie=ALICE.value).request())
        self.sessions.connected(self.service, ours, address)
        await wait_until_async(lambda: self.relays.waiting, PATIENCE_S, "waiting for a relay")
        return client

    def held(self) -> tuple[int, int, int]:
        """Return what is held: places of the server, half-open places, live sessions."""
        ledger = self.balancer.dispatcher.ledger
        return ledger.load(sid("ts1")), self.balancer.admission.half_open, len(ledger)

    def failures(self) -> list[str]:
        """Return why connections failed."""
        return [line["reason"] for line in self.balancer.logged("connection_failed")]


def accepted() -> tuple[socket.socket, socket.socket, Any]:
    """Return a client's end of a connection, ours, and where it comes from."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
        ours, address = listener.accept()
    ours.setblocking(False)
    return client, ours, address


@pytest.fixture
async def server() -> AsyncIterator[LabServer]:
    """Return a real server that confirms."""
    async with LabServer(name="ts1") as made:
        yield made


@pytest.fixture
async def way(server: LabServer) -> AsyncIterator[Way]:
    """Return the way to it."""
    made = Way(service_of([local_server("ts1", port=server.endpoint.port)]))
    yield made
    made.sessions.close()


async def test_a_stop_while_a_connection_waits_for_a_relay(way: Way, server: LabServer) -> None:
    """Cancelled there, it gives back its places, closes both ends, and says goodbye; once."""
    client = await way.up_to_the_relay()
    assert (1, 1, 0) == way.held()
    way.sessions.give_up()
    assert (0, 0, 0) == way.held()
    assert ["shutdown"] == way.failures()
    confirm = await asyncio.to_thread(client.recv, 19, socket.MSG_WAITALL)
    assert (0x03, 19) == (confirm[0], len(confirm))
    assert DISCONNECT == await asyncio.to_thread(client.recv, 100)
    assert b"" == await asyncio.to_thread(client.recv, 1)
    await wait_until_async(lambda: server.connections == 0, PATIENCE_S, "no connection at the server")
    way.relays.waiting[0].cancel()  # whoever comes too late changes nothing
    way.sessions.give_up()
    assert ["shutdown"] == way.failures()
    client.close()


async def test_a_client_that_leaves_while_it_waits_for_a_relay(way: Way, server: LabServer) -> None:
    """Noticed there too: its server is rid of it before any relay has come."""
    client = await way.up_to_the_relay()
    client.close()
    await wait_until_async(lambda: way.held() == (0, 0, 0), PATIENCE_S, "everything given back")
    await wait_until_async(lambda: server.connections == 0, PATIENCE_S, "no connection at the server")
    assert ["gave-up"] == way.failures()


async def test_a_connection_that_is_quick_is_not_watched(way: Way) -> None:
    """To register each client in the epoll, and take it out, costs a tenth of a login's system calls."""
    client = await way.up_to_the_relay()
    held = way.held()
    assert 0 == len(way.sessions._poller)
    await wait_until_async(lambda: len(way.sessions._poller), PATIENCE_S, "its client to be watched")
    assert held == way.held()
    way.sessions.give_up()
    assert 0 == len(way.sessions._poller)
    client.close()


@pytest.mark.parametrize("how", ["close", "half-close"])
async def test_a_client_that_had_left_before_its_server_failed(way: Way, how: str) -> None:
    """Looked at before another server is tried, however quick the first one was to refuse."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    way.balancer.apply(service_of([local_server("ts1", port=dead), local_server("ts2", port=dead)]))
    way.balancer.watch.names.resolved(sid("ts2"), ("127.0.0.1",))
    client, ours, address = accepted()
    client.sendall(LabOpening(cookie=ALICE.value).request())
    client.shutdown(socket.SHUT_WR)
    if how == "close":
        client.close()
    way.sessions.connected(way.service, ours, address)
    await wait_until_async(way.failures, PATIENCE_S, "the end")
    assert ["gave-up"] == way.failures()
    assert 1 == len(way.balancer.logged("server_failed"))
    assert (0, 0, 0) == way.held()
    client.close()


async def test_no_relay_comes(way: Way, server: LabServer) -> None:
    """The client is let go with a reason that is nobody's outside, and its server is free."""
    client = await way.up_to_the_relay()
    way.relays.waiting[0].set_exception(ChannelError("no-relay", "none"))
    await wait_until_async(lambda: way.held() == (0, 0, 0), PATIENCE_S, "everything given back")
    await wait_until_async(lambda: server.connections == 0, PATIENCE_S, "no connection at the server")
    assert ["no-relay"] == way.failures()
    client.close()


async def test_a_desktop_that_was_confirmed_stays_bound(way: Way) -> None:
    """The server had answered: the user's desktop may be there, whatever became of the connection."""
    client = await way.up_to_the_relay()
    way.sessions.give_up()
    binding = way.balancer.dispatcher.bindings.of(SERVICE).get(ALICE, now=way.sessions._clock())
    assert binding is not None
    assert "ts1" == binding.server
    assert binding.expires_at is not None  # its time has begun
    client.close()


async def test_a_server_that_a_reload_has_removed_is_not_dialled(way: Way) -> None:
    """Chosen a moment ago, configured no more: another one is tried; that is no defect of ours."""
    service = way.service
    go = Route(sid("ts1"), Reason.SCHEDULED)
    slot = way.balancer.dispatcher.ledger.reserve(go.server, None)
    way.balancer.apply(service_of(["ts2"]))
    client, ours = socket.socketpair()
    with client, ours:
        conn = Connection(
            service, ours, Endpoint("192.0.2.1", 1), AdmissionSlot(SERVICE), 0.0, FRONTENDS[Mode.RDP]
        )
        with pytest.raises(ServerError, match="not configured any more") as caught:
            await stepped(way.sessions._placement._dial(conn, Placed(slot, go)))
        assert "removed" == caught.value.code
    way.balancer.dispatcher.release(slot, now=way.balancer.now)
