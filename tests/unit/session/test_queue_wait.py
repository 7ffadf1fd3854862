"""Waiting in the queue: whatever happens in whatever moment, no place is lost and none is held twice."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from rdpbalancer.core.admission import AdmissionSlot
from rdpbalancer.core.farm import Timeouts
from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.route import Enqueue
from rdpbalancer.errors import ClientError, NoServerError
from rdpbalancer.model import Endpoint, Health, Mode, ServerId
from rdpbalancer.session.connection import Connection
from rdpbalancer.session.frontends import FRONTENDS
from rdpbalancer.session.queue_wait import QueueWait
from tests.support.steps import Stepped
from tests.unit.core.dispatch_fixture import DispatchFixture
from tests.unit.core.farms import SERVICE, real_server, sid

PATIENCE_S = 5.0


class Queue:
    """A server with one place, which is taken, and connections that wait for it."""

    def __init__(self, *, queue_s: float = 60.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.scene = DispatchFixture(
            real_server("ts1", max_connections=1), timeouts=Timeouts(queue_s=queue_s)
        )
        self.scene.now = self.loop.time()
        self.session = self.scene.login()
        self.ends: list[socket.socket] = []

    def connection(self) -> tuple[Connection, socket.socket]:
        """Return a connection, and its client's end."""
        client, ours = socket.socketpair()
        ours.setblocking(False)
        self.ends += [client, ours]
        conn = Connection(
            self.scene.service,
            ours,
            Endpoint("192.0.2.1", 1),
            AdmissionSlot(SERVICE),
            self.loop.time(),
            FRONTENDS[Mode.RDP],
        )
        return conn, client

    def turn(self, conn: Connection) -> QueueWait:
        """Return a turn in the queue."""
        return QueueWait(conn, self.scene.dispatcher, self.loop.time)

    def free_the_place(self) -> None:
        """The session that has the place ends."""
        self.scene.close(self.session)

    @property
    def length(self) -> int:
        """How many wait."""
        return self.scene.dispatcher.queues.length(SERVICE)


@pytest.fixture
async def queue() -> AsyncIterator[Queue]:
    """Return a queue; its sockets are closed at the end."""
    made = Queue()
    yield made
    for end in made.ends:
        end.close()


def begun(queue: Queue, turn: QueueWait, server: ServerId | None = None) -> Stepped[ServerSlot | None]:
    """Let a turn begin; it stands in the line."""
    before = queue.length
    steps = Stepped(turn.wait(server))
    assert before + 1 == queue.length
    return steps


async def test_a_place_comes_free(queue: Queue) -> None:
    """The connection gets it, and its time in the queue is known."""
    conn, _ = queue.connection()
    steps = begun(queue, queue.turn(conn))
    queue.free_the_place()
    async with asyncio.timeout(PATIENCE_S):
        slot = await steps
    assert slot is not None
    assert (sid("ts1"), True, 1) == (slot.server, slot.held, queue.scene.load("ts1"))
    assert 0 == queue.length
    assert conn.queued_s > 0


async def test_a_turn_for_one_server(queue: Queue) -> None:
    """Another server's place does not end it."""
    queue.scene.configure(
        real_server("ts1", max_connections=1), real_server("ts2", max_connections=1), timeouts=Timeouts()
    )
    other = queue.scene.login()
    conn, _ = queue.connection()
    steps = begun(queue, queue.turn(conn), sid("ts1"))
    queue.scene.close(other)
    queue.free_the_place()
    async with asyncio.timeout(PATIENCE_S):
        slot = await steps
    assert slot is not None
    assert sid("ts1") == slot.server


async def test_looking_again_keeps_the_ticket_and_the_deadline(queue: Queue) -> None:
    """Whoever has waited longest stays first, and nobody waits longer in all than `timeouts.queue`."""
    conn, _ = queue.connection()
    steps = begun(queue, queue.turn(conn))
    ticket, until_at = conn.ticket, conn.queue_until_at
    later = queue.scene.come()
    queue.scene.status("ts1", health=Health.DOWN)
    async with asyncio.timeout(PATIENCE_S):
        assert None is await steps
    waited_s = conn.queued_s
    queue.scene.status("ts1")
    queue.scene.join(later, Enqueue(None))
    steps = begun(queue, queue.turn(conn))
    assert (ticket, until_at) == (conn.ticket, conn.queue_until_at)
    queue.free_the_place()
    async with asyncio.timeout(PATIENCE_S):
        assert None is not await steps
    assert conn.queued_s > waited_s
    assert [None] == later.granted


async def test_the_wait_runs_out() -> None:
    """The client is told there is no server, and its place in the line is free."""
    queue = Queue(queue_s=0.05)
    conn, _ = queue.connection()
    with pytest.raises(NoServerError, match="no place came free") as caught:
        await queue.turn(conn).wait(None)
    assert ("queue-timeout", 0) == (caught.value.code, queue.length)
    with pytest.raises(NoServerError):  # the time is that of all turns together
        await queue.turn(conn).wait(None)
    assert 0 == queue.length
    for end in queue.ends:
        end.close()


async def test_a_client_that_leaves_gives_up_its_turn(queue: Queue) -> None:
    """Whoever watches it says so: its place in the line is free at once."""
    conn, _ = queue.connection()
    steps = begun(queue, queue.turn(conn))
    steps.throw(ClientError("gave-up", "the client left the queue"))
    assert 0 == queue.length
    with pytest.raises(ClientError, match="left the queue"):
        await steps


Step = Callable[[Queue, QueueWait, Stepped[ServerSlot | None], socket.socket], None]


def grant(queue: Queue, _turn: QueueWait, _steps: Stepped[ServerSlot | None], _client: socket.socket) -> None:
    """The place comes free."""
    queue.free_the_place()


def look(queue: Queue, _turn: QueueWait, _steps: Stepped[ServerSlot | None], _client: socket.socket) -> None:
    """The farm changes and is as before: whoever waited was told to look again."""
    queue.scene.status("ts1", health=Health.DOWN)
    queue.scene.status("ts1")


def cancel(
    _queue: Queue, _turn: QueueWait, steps: Stepped[ServerSlot | None], _client: socket.socket
) -> None:
    """The connection is cancelled."""
    steps.cancel()


def depart(
    _queue: Queue, _turn: QueueWait, steps: Stepped[ServerSlot | None], _client: socket.socket
) -> None:
    """The client leaves, and is seen to."""
    steps.throw(ClientError("gave-up", "the client left the queue"))


def run_out(
    _queue: Queue, turn: QueueWait, _steps: Stepped[ServerSlot | None], _client: socket.socket
) -> None:
    """The time is over."""
    turn._fail(NoServerError("queue-timeout", "no place came free"))


STEPS: list[Step] = [grant, look, cancel, depart, run_out]
ORDERS = [order for count in (1, 2, 3) for order in itertools.permutations(STEPS, count)]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "-".join(step.__name__ for step in order))
async def test_what_happens_in_one_moment(queue: Queue, order: Sequence[Step]) -> None:
    """In every order, before the connection goes on: the place is its own, or the next one's."""
    conn, client = queue.connection()
    turn = queue.turn(conn)
    steps = begun(queue, turn)
    behind = queue.scene.come()
    for step in order:
        step(queue, turn, steps, client)
    async with asyncio.timeout(PATIENCE_S):
        (outcome,) = await asyncio.gather(steps, return_exceptions=True)
    held = [slot for slot in (outcome, *behind.granted) if isinstance(slot, ServerSlot)]
    expected = 1 if grant in order else 0
    told_to_look = None in behind.granted
    assert (expected if not told_to_look else len(held)) == len(held)
    assert all(slot.held for slot in held)
    sessions = 0 if grant in order else 1
    assert len(held) + sessions == queue.scene.load("ts1")
    assert len(held) == queue.scene.dispatcher.ledger.reserved
    waiting = [caller for caller in (behind,) if not caller.granted]
    assert len(waiting) == queue.length
    if waiting and grant in order:
        assert isinstance(outcome, ServerSlot)
