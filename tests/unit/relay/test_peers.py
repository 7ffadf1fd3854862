"""A peer that has stopped reading stays, however long; one that is gone does not."""

import asyncio
import ctypes
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from rdpbalancer.model import CloseReason, CloseSide
from rdpbalancer.net import options
from rdpbalancer.relay import peers
from rdpbalancer.relay.peers import PeerState, SendState, judge
from rdpbalancer.relay.pump import Pump
from rdpbalancer.relay.pumped_session import PumpedSession
from tests.support.wait import wait_until_async
from tests.unit.conftest import Run
from tests.unit.relay.test_pump import tcp_pair

# Instead of 105 s: the kernel's first three window probes come within 1.4 s (200 ms, doubled each time).
USER_TIMEOUT_MS = 1000
# Between the fourth and the fifth probe 3.2 s pass: the kernel would have ended the connection long before.
LONG_AFTER = 4
SO_ATTACH_FILTER = 26  # asm-generic/socket.h


class _Instruction(ctypes.Structure):
    """struct sock_filter of linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jump_true", ctypes.c_ubyte),
        ("jump_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


def vanish(sock: socket.socket) -> None:
    """Have the kernel drop whatever comes to this socket: nothing is acknowledged any more."""
    drop = _Instruction(6, 0, 0, 0)  # BPF_RET | BPF_K, 0 bytes of the packet kept
    program = struct.pack("HL", 1, ctypes.addressof(drop))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


class Stalled:
    """A session whose client does not read, and whose server has filled everything up to it."""

    def __init__(self) -> None:
        self.ends: list[tuple[CloseReason, CloseSide]] = []
        self.pump = self.another_pump()
        self.client, self.near_client = tcp_pair()
        self.server, self.near_server = tcp_pair()
        near = (self.near_client, self.near_server)
        for sock in near:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        self.session = self.pump.adopt("s1", b"facts", near, first=(b"", b""), idle_s=0)
        self._now = self.session.active_at

    def another_pump(self) -> Pump:
        """Return a pump that looks at its peers at each tick."""
        loop = asyncio.get_running_loop()
        return Pump(loop, self._ended, user_timeout_ms=USER_TIMEOUT_MS, look_s=1.0)

    def _ended(self, session: PumpedSession, reason: CloseReason, side: CloseSide) -> None:
        del session
        self.ends.append((reason, side))

    async def fill(self) -> None:
        """Send to the client until no byte goes any further."""
        data = memoryview(bytes(65_536))

        async def full() -> bool:
            try:
                while True:
                    self.server.send(data)
            except BlockingIOError:
                return bool(self.session.down.pending) and not self._writable()

        await wait_until_async(full, 10, "no byte goes any further")

    def _writable(self) -> bool:
        return bool(select.select([], [self.near_client], [], 0)[1])

    def tick(self) -> None:
        """Let a second of the pump's time pass."""
        self._now += 1.0
        self.pump.tick(self._now)

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        """Tick until something is so."""

        def so() -> bool:
            self.tick()
            return condition()

        await wait_until_async(so, 30, what)

    async def until_patient(self) -> None:
        """Tick until the pump has found that the client does not read (an acknowledgement may be delayed)."""
        await self.until("no user timeout", lambda: not self.user_timeout_ms())

    def probes_sent(self) -> int:
        """Return how often the kernel has doubled the time between window probes."""
        info = self.near_client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        return info[4]

    def user_timeout_ms(self) -> int:
        """Return the option as it is now."""
        return self.near_client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    async def after_probes(self, count: int) -> None:
        """Tick until so many probes were sent, or the session has ended."""
        await self.until(f"{count} window probes", lambda: bool(self.ends) or self.probes_sent() >= count)

    async def read_all(self) -> int:
        """Have the client read until everything has come through; return how much it was."""
        size = 0
        loop = asyncio.get_running_loop()
        while self.session.down.pending or self.session.down.count > size:
            async with asyncio.timeout(10):
                size += len(await loop.sock_recv(self.client, 1 << 20))
        return size


@asynccontextmanager
async def stalled() -> AsyncIterator[Stalled]:
    """Make one, and end what is left of it."""
    made = Stalled()
    try:
        await made.fill()
        yield made
    finally:
        made.pump.kick("s1", CloseReason.SHUTDOWN)
        made.pump.close()
        made.client.close()
        made.server.close()


def test_a_client_that_has_stopped_reading_is_not_cut(run: Run) -> None:
    """It acknowledges probes and has no room: it outlasts the timeout, and reads on without a gap."""

    async def scene() -> None:
        async with stalled() as s:
            await s.after_probes(LONG_AFTER)
            assert [] == s.ends
            await s.read_all()
            s.tick()
            assert [] == s.ends

    run(scene())


def test_the_user_timeout_comes_back_when_the_window_opens(run: Run) -> None:
    """A peer that reads on may vanish later, with data on its way, and is to be noticed then."""

    async def scene() -> None:
        async with stalled() as s:
            await s.until_patient()
            await s.read_all()
            s.tick()
            assert USER_TIMEOUT_MS == s.user_timeout_ms()

    run(scene())


def test_a_client_that_vanishes_is_cut(run: Run) -> None:
    """Nothing is acknowledged any more, while it had stopped reading: a timeout, after the user timeout."""

    async def scene() -> None:
        async with stalled() as s:
            await s.until_patient()
            vanish(s.client)
            await s.until("the end", lambda: bool(s.ends))
            assert [(CloseReason.TIMEOUT, CloseSide.CLIENT)] == s.ends

    run(scene())


def test_a_client_that_vanishes_while_reading_is_cut(run: Run) -> None:
    """The kernel's own timeout is in force as ever where the window is open."""

    async def scene() -> None:
        async with stalled() as s:
            await s.read_all()
            s.tick()
            vanish(s.client)
            s.server.send(b"x")
            await s.until("the end", lambda: bool(s.ends))
            assert [(CloseReason.TIMEOUT, CloseSide.CLIENT)] == s.ends

    run(scene())


def test_a_stalled_session_moves(run: Run) -> None:
    """The relay it came from had lifted the timeout: the next one goes on so, and sets it again in time."""

    async def scene() -> None:
        async with stalled() as s:
            await s.until_patient()
            carried = s.pump.migrate_out(s.session)
            s.pump.close()
            s.pump = s.another_pump()
            s.session = s.pump.resume(carried, (s.near_client, s.near_server))
            s.near_client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
            await s.until_patient()
            await s.read_all()
            s.tick()
            assert USER_TIMEOUT_MS == s.user_timeout_ms()

    run(scene())


def test_sessions_without_data_under_way_are_not_asked(run: Run) -> None:
    """Ten thousand idle sessions would cost twenty thousand system calls a look."""

    async def scene() -> None:
        async with stalled() as s:
            await s.read_all()
            flow = s.session.down
            await s.until("all acknowledged", lambda: flow.acknowledged == flow.count)
            assert flow.patient is False
            s.near_client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7)
            s.tick()
            assert 7 == s.user_timeout_ms()

    run(scene())


def test_the_timeout_is_the_one_that_sessions_have() -> None:
    """Two rooms that do not know each other mean the same."""
    assert options.USER_TIMEOUT_MS == peers.USER_TIMEOUT_MS


@pytest.mark.parametrize(
    ("state", "peer"),
    [
        (SendState(unacked=0, unsent=0, window=0, probes=9, silent_ms=9_000_000), PeerState.HAS_ALL),
        (
            SendState(unacked=3, unsent=0, window=64_000, probes=0, silent_ms=9_000_000),
            PeerState.ACKNOWLEDGES,
        ),
        (SendState(unacked=3, unsent=9, window=64_000, probes=0, silent_ms=1), PeerState.ACKNOWLEDGES),
        (SendState(unacked=0, unsent=9, window=0, probes=0, silent_ms=1), PeerState.STOPPED_READING),
        (SendState(unacked=0, unsent=9, window=500, probes=1, silent_ms=1), PeerState.STOPPED_READING),
        (SendState(unacked=3, unsent=9, window=0, probes=0, silent_ms=1), PeerState.STOPPED_READING),
        (SendState(unacked=0, unsent=9, window=0, probes=2, silent_ms=9_000_000), PeerState.STOPPED_READING),
        (SendState(unacked=0, unsent=9, window=0, probes=3, silent_ms=104_999), PeerState.STOPPED_READING),
        (SendState(unacked=0, unsent=9, window=0, probes=3, silent_ms=105_000), PeerState.GONE),
    ],
)
def test_judging(state: SendState, peer: PeerState) -> None:
    """Closed window: nothing on its way though there is more, or a window that was shrunk to nothing."""
    assert peer is judge(state, user_timeout_ms=105_000)


def test_what_is_no_tcp() -> None:
    """Nothing is known of it, and nothing set."""
    one, other = socket.socketpair()
    with one, other:
        assert peers.send_state(one) is None
        peers.set_user_timeout(one, 0)
