"""Sessions that move nothing rest outside the loop, and nobody at either end can tell."""

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rdpbalancer.ipc.relay_messages import SessionTransfer
from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.relay.idle_poll import IdlePoller
from rdpbalancer.relay.pump import HALF_CLOSED_IDLE_S, Pump
from rdpbalancer.relay.pumped_session import PumpedSession
from tests.support.running_balancer import open_descriptors
from tests.support.wait import wait_until_async
from tests.unit.conftest import Run
from tests.unit.relay.test_pump import read, refuses, reset, tcp_pair, write

SIDES = (CloseSide.CLIENT, CloseSide.SERVER)
NOTHING = (b"", b"")

Sockets = tuple[socket.socket, socket.socket]
Doings = tuple[Callable[[], Awaitable[None] | None], ...]


class Party:
    """A session, its two sockets in the pump, and the far ends of both, by their side."""

    def __init__(self, near: Sockets, far: Sockets) -> None:
        self.near = near
        self.client, self.server = far
        self.session: PumpedSession

    def ends(self, who: CloseSide) -> Sockets:
        """Return the far end of that side, and the other far end."""
        both = (self.client, self.server)
        return both if who is CloseSide.CLIENT else both[::-1]


class Hall:
    """A pump, whoever is in it, and how they left."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pump = Pump(self.loop, self.ended)
        self.left: list[tuple[str, CloseReason, CloseSide]] = []
        self.on_end: Callable[[], object] = lambda: None
        self._far: list[socket.socket] = []
        self.wrong = errors_of(self.loop)

    def ended(self, session: PumpedSession, reason: CloseReason, side: CloseSide) -> None:
        """Note an end, as the pump reports it."""
        self.left.append((session.id, reason, side))
        self.on_end()

    def sockets(self, pair: Callable[[], Sockets] = tcp_pair) -> Party:
        """Return the connections of a session to be."""
        (client, near_client), (server, near_server) = pair(), pair()
        self._far += [client, server]
        return Party((near_client, near_server), (client, server))

    def take(self, party: Party, session_id: str = "s1", **carried: Any) -> Party:
        """Put the session into the pump."""
        told = {"facts": b"", "to_server": b"", "to_client": b"", "idle_s": 0.0, **carried}
        party.session = self.pump.resume(SessionTransfer(session_id, **told), party.near)
        return party

    def come(self, session_id: str = "s1", **carried: Any) -> Party:
        """Let a session come."""
        return self.take(self.sockets(), session_id, **carried)

    def tick(self, after_s: float = 0.0) -> list[tuple[str, int, int]]:
        """Let the pump look, `after_s` from now."""
        return self.pump.tick(self.loop.time() + after_s)

    @property
    def watched(self) -> int:
        """How many descriptors the kernel watches for those who rest; the pump has as many in its books."""
        count = len(watched_by(self.pump.idle._epoll.fileno()))
        assert count == len(self.pump.idle)
        return count

    async def in_the_loop(self, party: Party) -> bool:
        """Whether the loop, too, watches the session's sockets."""
        await turns()  # uvloop tells the kernel a turn later
        others = descriptors() - {self.pump.idle._epoll.fileno()}
        mine = {sock.fileno() for sock in party.near}
        return any(mine & watched_by(other) for other in others)

    async def end(self, session_id: str = "s1") -> tuple[CloseReason, CloseSide]:
        """Wait for the one end of the only session."""
        await wait_until_async(lambda: self.left, 5, "the end")
        ((ended, reason, side),) = self.left
        assert (session_id, 0, 0) == (ended, len(self.pump), self.watched)
        return reason, side

    def clear(self) -> None:
        """End whoever is left."""
        self.on_end = lambda: None
        for session in self.pump:
            self.pump.kick(session.id, CloseReason.SHUTDOWN)
        assert 0 == self.watched
        self.pump.close()
        for sock in self._far:
            sock.close()


@asynccontextmanager
async def hall() -> AsyncIterator[Hall]:
    """Make a hall, clear it, and check that it leaves no descriptor behind."""
    before = open_descriptors()
    made = Hall()
    try:
        yield made
    finally:
        made.clear()
    assert ([], before) == (made.wrong, open_descriptors())


def errors_of(loop: asyncio.AbstractEventLoop) -> list[object]:
    """Return where the loop will note the errors of its callbacks."""
    errors: list[object] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    return errors


def descriptors() -> set[int]:
    """Return what this process has open."""
    return {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}


def watched_by(epoll: int) -> set[int]:
    """Return the descriptors that this epoll of ours watches; none, if it is no epoll."""
    try:
        lines = Path(f"/proc/self/fdinfo/{epoll}").read_text().splitlines()
    except FileNotFoundError:  # closed since it was listed
        return set()
    return {int(line.split()[1]) for line in lines if line.startswith("tfd:")}


async def turns(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


# ---- what rests, and what wakes it ---------------------------------------------------------------------


@pytest.mark.parametrize("who", SIDES)
@pytest.mark.parametrize("size", [1, 3000, 2_000_000])
def test_a_new_session_rests_until_its_first_byte(run: Run, who: CloseSide, size: int) -> None:
    """It is in the kernel's books only; what comes first arrives whole, and so does the answer."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            assert (True, 2, False) == (party.session.idle, h.watched, await h.in_the_loop(party))
            one, other = party.ends(who)
            data = random.Random(size).randbytes(size)
            got, _ = await asyncio.gather(read(other, size), write(one, data))
            assert data == got
            assert (False, 0) == (party.session.idle, h.watched)
            await write(other, b"answer")
            assert b"answer" == await read(one, 6)
            assert await h.in_the_loop(party)

    run(scene())


@pytest.mark.parametrize("who", SIDES)
def test_bytes_that_were_there_before_the_session_came(run: Run, who: CloseSide) -> None:
    """A client does not wait for its relay: what lies in the socket already is found."""

    async def scene() -> None:
        async with hall() as h:
            party = h.sockets()
            one, other = party.ends(who)
            one.send(b"early")
            one.shutdown(socket.SHUT_WR)
            h.take(party)
            assert b"early" == await read(other, 100)

    run(scene())


@pytest.mark.parametrize("first", [(b"up", b""), (b"", b"down"), (b"up", b"down")])
def test_a_session_that_brings_bytes_along_starts_awake(run: Run, first: tuple[bytes, bytes]) -> None:
    """They are sent at once; when they have gone, and a tick has passed in silence, it rests."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come(to_server=first[0], to_client=first[1])
            assert (False, 0) == (party.session.idle, h.watched)
            assert first == (await read(party.server, len(first[0])), await read(party.client, len(first[1])))
            assert [("s1", len(first[0]), len(first[1]))] == h.tick()
            assert [] == h.tick()
            assert (True, 2) == (party.session.idle, h.watched)

    run(scene())


def test_who_is_silent_for_a_tick_rests_again(run: Run) -> None:
    """Who has moved since the last tick does not; and so it goes, as often as one likes."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            for count in range(1, 4):
                await write(party.client, b"u")
                assert b"u" == await read(party.server, 1)
                await write(party.server, b"down")
                assert b"down" == await read(party.client, 4)
                assert [("s1", count, 4 * count)] == h.tick()
                assert (False, 0) == (party.session.idle, h.watched)
                for _ in range(2):
                    assert [] == h.tick()
                    assert (True, 2) == (party.session.idle, h.watched)
                assert not await h.in_the_loop(party)

    run(scene())


@pytest.mark.parametrize("who", SIDES)
def test_who_waits_for_a_slow_reader_does_not_rest(run: Run, who: CloseSide) -> None:
    """A pending chunk moves nothing for a while, and is delivered all the same; then there is rest."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            one, other = party.ends(who)
            data = random.Random(1).randbytes(16_000_000)
            writing = h.loop.create_task(write(one, data))

            def stuck() -> bool:
                flows = (party.session.up, party.session.down)
                return h.tick() == [] and any(flow.pending for flow in flows)

            await wait_until_async(stuck, 5, "a tick without a byte")
            for _ in range(3):
                h.tick()
                assert (False, 0) == (party.session.idle, h.watched)
            await write(other, b"meanwhile")
            assert b"meanwhile" == await read(one, 9)
            assert data == await read(other, len(data))
            await writing
            h.tick()
            h.tick()
            assert (True, 2) == (party.session.idle, h.watched)

    run(scene())


@pytest.mark.parametrize("who", SIDES)
def test_a_resting_session_whose_reader_is_full_already(run: Run, who: CloseSide) -> None:
    """Not one byte of what wakes it can be delivered at first: it waits, in its turn, and none is lost."""

    async def scene() -> None:
        async with hall() as h:
            party = h.sockets()
            one, other = party.ends(who)
            sink = party.near[1] if who is CloseSide.CLIENT else party.near[0]
            before = 0
            while True:
                try:
                    before += sink.send(b"x" * 100_000)
                except BlockingIOError:
                    break
            h.take(party)
            assert party.session.idle
            await write(one, b"first")
            await wait_until_async(lambda: not party.session.idle, 5, "somebody awake")
            flow = party.session.up if who is CloseSide.CLIENT else party.session.down
            assert (b"first", 0) == (bytes(flow.pending), flow.count)
            await write(one, b" second")
            assert b"x" * before + b"first second" == await read(other, before + 12)
            assert 12 == flow.count

    run(scene())


@pytest.mark.parametrize("who", SIDES)
def test_an_end_wakes_and_a_half_closed_session_does_not_rest(run: Run, who: CloseSide) -> None:
    """A FIN is passed on out of rest; however silent, the other side may still say what it likes."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            one, other = party.ends(who)
            one.shutdown(socket.SHUT_WR)
            assert b"" == await read(other, 1)
            for _ in range(3):
                assert [] == h.tick()
                assert (False, 0) == (party.session.idle, h.watched)
            await write(other, b"an answer")
            assert b"an answer" == await read(one, 9)
            assert [] == h.left
            other.close()
            assert b"" == await read(one, 1)
            assert (CloseReason.EOF, who) == await h.end()

    run(scene())


def test_bytes_in_the_turn_of_the_tick(run: Run) -> None:
    """The loop finds a tick and bytes in one look: they arrive, whichever comes first."""

    async def scene() -> None:
        async with hall() as h:
            parties = [h.come(f"s{number}") for number in range(20)]
            for party in parties:
                await write(party.client, b"1")
                assert b"1" == await read(party.server, 1)
            assert len(parties) == len(h.tick())
            bell, rung = socket.socketpair()
            h.loop.add_reader(rung, lambda: (rung.recv(1), h.tick()))
            for number, party in enumerate(parties):
                if number == len(parties) // 2:
                    bell.send(b"!")
                party.ends(SIDES[number % 2])[0].send(b"23")
            for number, party in enumerate(parties):
                assert b"23" == await read(party.ends(SIDES[number % 2])[1], 2)
            h.loop.remove_reader(rung)
            bell.close()
            rung.close()

    run(scene())


# ---- how a resting session ends ------------------------------------------------------------------------


@pytest.mark.parametrize("who", SIDES)
@pytest.mark.parametrize("rested", ["from the first", "again"])
def test_a_reset_ends_a_resting_session(run: Run, who: CloseSide, rested: str) -> None:
    """It is passed on as a reset, recorded as that side's, and the kernel watches nothing any more."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            one, other = party.ends(who)
            if rested == "again":
                await write(one, b"x")
                assert b"x" == await read(other, 1)
                h.tick()
                h.tick()
            assert 2 == h.watched
            reset(one)
            assert await refuses(other)
            assert (CloseReason.RESET, who) == await h.end()
            assert [-1, -1] == [sock.fileno() for sock in party.near]

    run(scene())


@pytest.mark.parametrize("who", SIDES)
def test_who_is_gone_already_when_the_session_comes(run: Run, who: CloseSide) -> None:
    """A reset between the confirm and the relay is a reset."""

    async def scene() -> None:
        async with hall() as h:
            party = h.sockets()
            one, other = party.ends(who)
            reset(one)
            h.take(party)
            assert await refuses(other)
            assert (CloseReason.RESET, who) == await h.end()

    run(scene())


@pytest.mark.parametrize("who", SIDES)
def test_both_directions_in_one_turn_and_the_first_ends_it(run: Run, who: CloseSide) -> None:
    """One side resets in the turn in which the other speaks: one end, and no error of ours."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            one, other = party.ends(who)
            other.send(b"to nobody")
            reset(one)
            assert await refuses(other)
            assert (CloseReason.RESET, who) == await h.end()
            await turns()
            assert 1 == len(h.left)

    run(scene())


def test_both_sides_reset_in_one_turn(run: Run) -> None:
    """One end, of either side."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            reset(party.client)
            reset(party.server)
            reason, side = await h.end()
            assert CloseReason.RESET is reason
            assert side in SIDES
            await turns()
            assert 1 == len(h.left)

    run(scene())


@pytest.mark.parametrize("words", [b"", b"up"])
def test_both_sides_leave_in_one_turn(run: Run, words: bytes) -> None:
    """In order, with their last words."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            for sock in (party.client, party.server):
                sock.send(words)
                sock.shutdown(socket.SHUT_WR)
            assert (words, words) == (await read(party.server, 9), await read(party.client, 9))
            reason, side = await h.end()
            assert CloseReason.EOF is reason
            assert side in SIDES

    run(scene())


def test_kick(run: Run) -> None:
    """The operator's end closes both sides in order."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            h.pump.kick("s1", CloseReason.KICKED)
            h.pump.kick("s1", CloseReason.SHUTDOWN)
            assert (CloseReason.KICKED, CloseSide.BALANCER) == await h.end()
            assert NOTHING == (await read(party.client, 1), await read(party.server, 1))

    run(scene())


def test_idle(run: Run) -> None:
    """Rest is no activity: it ends after idle_s; a byte out of rest begins the time anew."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come(idle_s=100.0)
            assert [] == h.tick(90)
            await write(party.server, b"x")
            assert b"x" == await read(party.client, 1)
            assert [("s1", 0, 1)] == h.tick(95)
            assert [] == h.tick(180)
            assert (True, []) == (party.session.idle, h.left)
            assert [] == h.tick(200)
            assert (CloseReason.IDLE, CloseSide.BALANCER) == await h.end()

    run(scene())


def test_the_silence_of_a_session_that_comes_from_elsewhere_counts(run: Run) -> None:
    """Moved while it rested, it does not get its idle time anew."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come(idle_s=100.0, silent_s=90.0, bytes_up=3, bytes_down=4)
            assert party.session.idle
            assert [] == h.tick(5)
            assert [] == h.left
            h.tick(11)
            assert (CloseReason.IDLE, CloseSide.BALANCER) == await h.end()

    run(scene())


# ---- moving to another process -------------------------------------------------------------------------


def test_surrender_of_a_resting_session(run: Run) -> None:
    """Nobody here looks at its sockets any more; what came meanwhile is found by whoever has it next."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come(bytes_up=7, bytes_down=8, silent_s=3.0)
            party.client.send(b"just now")  # no turn of the loop: not seen here
            carried = h.pump.migrate_out(party.session)
            assert (0, 0) == (h.watched, len(h.pump))
            assert (b"", b"", 7, 8) == (
                carried.to_server,
                carried.to_client,
                carried.bytes_up,
                carried.bytes_down,
            )
            assert 3.0 <= carried.silent_s < 13.0
            party.server.send(b"in between")
            assert not await h.in_the_loop(party)
            target = Pump(h.loop, h.ended)
            again = target.resume(carried, party.near)
            assert (True, 2) == (again.idle, len(target.idle))
            assert b"just now" == await read(party.server, 8)
            assert b"in between" == await read(party.client, 10)
            assert (15, 18, []) == (again.up.count, again.down.count, h.left)
            target.kick("s1", CloseReason.SHUTDOWN)
            target.close()

    run(scene())


def test_a_half_closed_session_starts_awake(run: Run) -> None:
    """What is left of it goes on, and its silence is short."""

    async def scene() -> None:
        async with hall() as h:
            party = h.sockets()
            party.client.shutdown(socket.SHUT_WR)
            h.take(party, up_done=True, closed_first=CloseSide.CLIENT)
            assert (False, 0) == (party.session.idle, h.watched)
            await write(party.server, b"late")
            assert b"late" == await read(party.client, 4)
            h.tick()
            h.tick(HALF_CLOSED_IDLE_S + 1)
            assert (CloseReason.EOF, CloseSide.CLIENT) == await h.end()

    run(scene())


# ---- descriptors ---------------------------------------------------------------------------------------


def numbers_of(party: Party) -> tuple[int, int]:
    """Return the descriptors of a session."""
    return party.near[0].fileno(), party.near[1].fileno()


def renumbered(sock: socket.socket, number: int) -> socket.socket:
    """Return the same connection under another descriptor, which has just become free."""
    os.dup2(sock.fileno(), number)
    sock.close()
    again = socket.socket(fileno=number)
    again.setblocking(False)
    return again


def renumber(party: Party, numbers: tuple[int, int]) -> Party:
    """Have the session's sockets under these descriptors."""
    party.near = (renumbered(party.near[0], numbers[0]), renumbered(party.near[1], numbers[1]))
    return party


def test_a_number_that_comes_again_is_another_session(run: Run) -> None:
    """The kernel gives a closed socket's number to the next: nothing of the old one sticks to it."""

    async def scene() -> None:
        async with hall() as h:
            for number in range(3):
                client, server = numbers_of(h.come(f"old{number}"))
                target = h.sockets()
                h.pump.kick(f"old{number}", CloseReason.KICKED)
                h.take(renumber(target, (server, client)), f"new{number}")
                assert (server, client) == numbers_of(target)
                await write(target.client, b"mine")
                assert b"mine" == await read(target.server, 4)
                h.pump.kick(f"new{number}", CloseReason.KICKED)

    run(scene())


@pytest.mark.parametrize("who", SIDES)
def test_a_number_that_comes_again_in_the_same_turn(run: Run, who: CloseSide) -> None:
    """What the kernel has told of the old session does not disturb the new one under its number."""

    async def scene() -> None:
        async with hall() as h:
            party = h.come()
            numbers = numbers_of(party)
            target = h.sockets()
            h.on_end = lambda: h.take(renumber(target, numbers), "s2")
            one, other = party.ends(who)
            other.send(b"of the old one")
            reset(one)
            await wait_until_async(lambda: h.left, 5, "the end of the old one")
            await turns()
            assert [("s1", CloseReason.RESET, who)] == h.left
            assert (numbers, True, 2) == (numbers_of(target), target.session.idle, h.watched)
            await write(target.server, b"of the new one")
            assert b"of the new one" == await read(target.client, 14)

    run(scene())


# ---- many ----------------------------------------------------------------------------------------------


def test_more_than_a_turn_takes_stir_at_once(run: Run) -> None:
    """150 sessions wake together, in both directions; each gets its own bytes."""

    async def scene() -> None:
        async with hall() as h:
            parties = [h.come(f"s{number}") for number in range(150)]
            assert 300 == h.watched
            for number, party in enumerate(parties):
                party.client.send(b"up %d" % number)
                party.server.send(b"down %d" % number)
            for number, party in enumerate(parties):
                up, down = b"up %d" % number, b"down %d" % number
                assert (up, down) == (await read(party.server, len(up)), await read(party.client, len(down)))
            assert 0 == h.watched
            assert len(parties) == len(h.tick())
            h.tick()
            assert 300 == h.watched

    run(scene())


def test_more_than_a_turn_takes_end_at_once(run: Run) -> None:
    """150 clients are gone together: each session ends once."""

    async def scene() -> None:
        async with hall() as h:
            parties = [h.come(f"s{number}") for number in range(150)]
            for party in parties:
                reset(party.client)
            await wait_until_async(lambda: len(h.left) >= len(parties), 5, "150 ends")
            await turns()
            expected = {(f"s{number}", CloseReason.RESET, CloseSide.CLIENT) for number in range(150)}
            assert (150, expected) == (len(h.left), set(h.left))
            assert 0 == h.watched

    run(scene())


def test_no_turn_takes_all_and_nobody_is_forgotten(run: Run) -> None:
    """At most 64 stir in a turn; of 100 that all stay readable, each gets its turn again and again."""

    async def scene() -> None:
        pairs = [socket.socketpair() for _ in range(100)]
        stirred: list[socket.socket] = []
        rest = IdlePoller[socket.socket](asyncio.get_running_loop(), stirred.append)
        rest.add(*(near for near, _ in pairs))
        for _, far in pairs:
            far.send(b"x")
        for _ in range(10):
            before = len(stirred)
            await asyncio.sleep(0)
            assert len(stirred) - before <= 64
        await wait_until_async(
            lambda: all(stirred.count(near) >= 2 for near, _ in pairs), 5, "everybody's second turn"
        )
        rest.close()
        for sock in (sock for pair in pairs for sock in pair):
            sock.close()

    run(scene())


def test_who_has_been_let_go_does_not_stir(run: Run) -> None:
    """Not even if it was to be next in this very turn; nor does anybody when nothing is watched any more."""

    async def scene() -> None:
        before = open_descriptors()
        pairs = [socket.socketpair() for _ in range(3)]
        stirred: list[socket.socket] = []

        def alone(flow: socket.socket) -> None:
            flow.recv(1)
            stirred.append(flow)
            rest.remove(*(near for near, _ in pairs if near is not flow))

        loop = asyncio.get_running_loop()
        wrong = errors_of(loop)
        rest = IdlePoller[socket.socket](loop, alone)
        rest.add(*(near for near, _ in pairs))
        for _, far in pairs:
            far.send(b"x")
        await wait_until_async(lambda: stirred, 5, "the first")
        assert (1, 1) == (len(stirred), len(rest))
        rest.close()
        for _, far in pairs:
            far.send(b"x")
        await turns()
        assert (1, 0) == (len(stirred), len(rest))
        for sock in (sock for pair in pairs for sock in pair):
            sock.close()
        assert ([], before) == (wrong, open_descriptors())

    run(scene())


# ---- any order -----------------------------------------------------------------------------------------


def narrow_pair() -> Sockets:
    """Return two connected sockets that hold little: who does not read is soon a slow reader."""
    one, other = socket.socketpair()
    for sock in (one, other):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        sock.setblocking(False)
    return one, other


class Story:
    """A session's life by chance: who said what, and who heard it."""

    def __init__(self, h: Hall, seed: int) -> None:
        self._hall = h
        self._rng = random.Random(seed)
        self._heir = Pump(h.loop, h.ended)
        self._pump = h.pump
        self.party = h.take(h.sockets(narrow_pair))
        self.said = dict.fromkeys(SIDES, b"")
        self.heard = dict.fromkeys(SIDES, b"")
        self._shut_down: set[CloseSide] = set()
        self.first_to_close: set[CloseSide] = set()
        self.seen: set[str] = set()

    async def live(self, steps: int) -> None:
        """Do so many things, and check after each that the books agree. At times nobody speaks."""
        quiet: Doings = (*[self._hear] * 3, *[self._tick] * 3, turns, self._move)
        lively: Doings = (*[self._say] * 6, *quiet)
        late: Doings = (*[self._say] * 6, *[self._hear] * 6, *[self._tick] * 3, turns, self._move, self._shut)
        for number in range(steps):
            now = late if number > steps * 3 // 4 else quiet if number % 50 > 20 else lively
            done = self._rng.choice(now)()
            if done is not None:
                await done
            if self._hall.left:
                return
            self._check()

    async def finish(self) -> None:
        """Let both sides finish, and hear what there is to hear."""
        for side in SIDES:
            self._shut(side)
        left = {side: len(self.said[side]) - len(self.heard[side]) for side in SIDES}
        up, down = await asyncio.gather(
            read(self.party.server, left[CloseSide.CLIENT] + 1),  # to the end, that is
            read(self.party.client, left[CloseSide.SERVER] + 1),
        )
        self.heard[CloseSide.CLIENT] += up
        self.heard[CloseSide.SERVER] += down

    def close(self) -> None:
        """Put the other pump away."""
        for session in self._heir:
            self._heir.kick(session.id, CloseReason.SHUTDOWN)
        self._heir.close()

    def _say(self) -> None:
        side = self._rng.choice(SIDES)
        if side in self._shut_down:
            return
        data = self._rng.randbytes(self._rng.choice((1, 70, 9_000, 300_000)))
        try:
            size = self.party.ends(side)[0].send(data)
        except BlockingIOError:
            return
        self.said[side] += data[:size]

    def _hear(self) -> None:
        side = self._rng.choice(SIDES)
        try:
            data = self.party.ends(side)[1].recv(self._rng.choice((1, 500, 60_000, 1_000_000)))
        except BlockingIOError:
            return
        self.heard[side] += data

    def _tick(self) -> None:
        moved = self._pump.tick(self._hall.loop.time())
        assert self._rests == (not moved and self._may_rest)
        self.seen.add("rests" if self._rests else "pending" if self._pending else "moves")

    def _move(self) -> None:
        self.seen.add("moves out of rest" if self._rests else "moves awake")
        carried = self._pump.migrate_out(self.party.session)
        assert 0 == len(self._pump.idle)
        self._pump = self._heir if self._pump is self._hall.pump else self._hall.pump
        self.party.session = self._pump.resume(carried, self.party.near)
        assert self._rests == self._may_rest

    def _shut(self, side: CloseSide | None = None) -> None:
        side = side or self._rng.choice(SIDES)
        if side in self._shut_down:
            return
        self._shut_down.add(side)
        self.party.ends(side)[0].shutdown(socket.SHUT_WR)
        if self.party.session.closed_first is None:  # else the other one was
            self.first_to_close.add(side)

    @property
    def _rests(self) -> bool:
        return self.party.session.idle

    @property
    def _pending(self) -> bool:
        return any(flow.pending for flow in (self.party.session.up, self.party.session.down))

    @property
    def _may_rest(self) -> bool:
        up, down = self.party.session.up, self.party.session.down
        return not (self._pending or up.done or down.done)

    def _check(self) -> None:
        assert 2 * self._rests == len(self._pump.idle)
        assert not (self._rests and not self._may_rest)
        session = self.party.session
        for side, flow in ((CloseSide.CLIENT, session.up), (CloseSide.SERVER, session.down)):
            assert self.said[side].startswith(self.heard[side])
            assert len(self.heard[side]) <= flow.count <= len(self.said[side])


@pytest.mark.parametrize("seed", range(20))
def test_bytes_are_exact_in_any_order(run: Run, seed: int) -> None:
    """Said, heard, put to rest, given to another pump, half closed, by chance: every byte once, one end."""

    async def scene() -> None:
        async with hall() as h:
            story = Story(h, seed)
            await story.live(400)
            await story.finish()
            assert story.said == story.heard
            assert {"rests", "pending", "moves"} <= story.seen
            await wait_until_async(lambda: h.left, 5, "the end")
            ((_, reason, side),) = h.left
            assert CloseReason.EOF is reason
            assert side in story.first_to_close
            story.close()

    run(scene())
