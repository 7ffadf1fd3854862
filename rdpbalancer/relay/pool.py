"""The router's side of the relays: which one gets a session, what they report, and what is lost with one."""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from rdpbalancer.errors import ChannelError
from rdpbalancer.model import CloseReason, CloseSide, SessionFacts
from rdpbalancer.relay.channel import MAX_DESCRIPTORS, Channel
from rdpbalancer.relay.messages import (
    FROM_RELAY,
    PROTOCOL_VERSION,
    Adopt,
    Carried,
    Counts,
    Ended,
    Ends,
    Hello,
    Kick,
    Live,
    Part,
    Retire,
    SessionState,
    Surrender,
    Surrendered,
)
from rdpbalancer.relay.pump import RESET_ON_CLOSE, Pump, PumpedSession

_KICKS_PER_MESSAGE = 1000
_ADOPTS_PER_MESSAGE = MAX_DESCRIPTORS // 2
# Facts are at most 2 KiB, and sessions that move bring up to 96 KiB: such a one goes by itself.
_ADOPT_BYTES = 64 * 1024
# A relay that died is back within a second; a session that finds none waits that long for it, and a bit.
RELAY_WAIT_S = 5.0
# Byte counts are shown at most five seconds old: this, and a tick of the relay.
REPORT_INTERVAL_S = 4.0
# Sessions of one relay where nobody says how many: more than one core can serve.
DEFAULT_CAPACITY = 100_000
# How long a new router waits for the relays to tell their sessions before it takes connections.
INTRODUCTION_S = 5.0
_ENCODER = msgspec.msgpack.Encoder()


class RelayEvents(Protocol):
    """What the owner of the relays is told. `relay` is a process id."""

    def session_live(self, state: SessionState, relay: int) -> None:
        """A relay holds this session already (said after a router's restart)."""
        ...

    def session_moved(self, session_id: str, bytes_up: int, bytes_down: int) -> None:
        """A session's byte counts."""
        ...

    def session_ended(self, ended: Ended, relay: int) -> None:
        """A session has ended."""
        ...

    def session_rehomed(self, state: SessionState, relay: int) -> None:
        """A session has moved to another relay (maybe one that was on its way when this router began)."""
        ...

    def relay_lost(self, relay: int, error: ChannelError | None) -> None:
        """A relay is gone, and its sessions with it."""
        ...


class _Moving(NamedTuple):
    """A session between two relays."""

    session: Surrendered
    sockets: Sequence[socket.socket]
    parts: list[Part]

    @property
    def whole(self) -> bool:
        """Whether all its bytes have come: some may have gone to a router that died meanwhile."""
        return len(self.parts) == self.session.parts

    @property
    def carried(self) -> Carried:
        """The session as the next relay gets it."""
        return Carried(*(getattr(self.session, name) for name in Carried.__struct_fields__))

    @property
    def state(self) -> SessionState:
        """The session as its relay would tell it."""
        session = self.session
        return SessionState(session.id, session.facts, session.bytes_up, session.bytes_down)

    def broken_off(self) -> Ended:
        """End a session some of whose bytes are lost, so that both sides see it; return the report."""
        for sock in self.sockets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()
        reason, side = CloseReason.RELAY_LOST, CloseSide.BALANCER
        state = self.state
        return Ended(state.id, state.facts, reason, side, state.bytes_up, state.bytes_down, time.time())


class _Link:
    """One relay process as the router sees it."""

    def __init__(self, pid: int, sock: socket.socket, pool: "RelayPool") -> None:
        self.pid = pid
        self.sessions = 0
        self.introduced = asyncio.Event()
        self.compatible = False
        self.retiring = False
        self._parts: list[Part] = []
        self._adopts: list[Carried] = []
        self._adopted_sockets: list[socket.socket] = []
        self._adopts_bytes = 0
        self._pool = pool
        self._channel = Channel(sock, FROM_RELAY, on_message=self._heard, on_close=self._lost)

    def adopt(self, carried: Carried, sockets: Sequence[socket.socket]) -> None:
        """Give the relay a session, with all others of this turn of the loop."""
        self.sessions += 1
        size = len(carried.facts) + len(carried.to_server) + len(carried.to_client)
        if len(self._adopts) == _ADOPTS_PER_MESSAGE or self._adopts_bytes + size > _ADOPT_BYTES:
            self._send_adopts()
        if not self._adopts:
            asyncio.get_running_loop().call_soon(self._send_adopts)
        self._adopts.append(carried)
        self._adopted_sockets += sockets
        self._adopts_bytes += size

    def send(self, message: msgspec.Struct) -> None:
        """Say something else, after what was said before."""
        self._send_adopts()
        self._channel.send(message)

    def close(self) -> None:
        """Close the line."""
        self._send_adopts()
        self._channel.close()

    def _send_adopts(self) -> None:
        if self._adopts:
            self._channel.send(Adopt(self._adopts), self._adopted_sockets)
            self._adopts, self._adopted_sockets, self._adopts_bytes = [], [], 0

    def _heard(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        events = self._pool.events
        match message:
            case Part():
                self._parts.append(message)
            case Surrendered():
                self.sessions -= 1
                parts, self._parts = self._parts, []
                self._pool.rehome(self.pid, _Moving(message, sockets, parts))
            case Ends():
                self.sessions -= len(message.sessions)
                for ended in message.sessions:
                    events.session_ended(ended, self.pid)
                self._pool.changed()
            case Counts():
                for session_id, bytes_up, bytes_down in message.counts:
                    events.session_moved(session_id, bytes_up, bytes_down)
            case Live():
                self._introduce(message)
            case Hello():
                # What was counted from messages of an earlier router's time is replaced by what it tells.
                self.sessions = 0
                self.compatible = message.version == PROTOCOL_VERSION

    @property
    def serves(self) -> bool:
        """Whether it takes sessions."""
        return self.compatible and not self.retiring

    @property
    def in_hand(self) -> int:
        """Messages that the kernel has not taken, and parts of a session whose rest has not come."""
        return self._channel.backlog + len(self._adopts) + len(self._parts)

    def _introduce(self, live: Live) -> None:
        for state in live.sessions:
            self.sessions += 1
            self._pool.events.session_live(state, self.pid)
        if live.last:
            self.introduced.set()
            self._pool.changed()

    def _lost(self) -> None:
        self._send_adopts()  # closes their sockets
        self._pool.lost(self, self._channel.error)


class RelayPool:
    """The relay processes. A new session goes to the one with the fewest.

    `capacity`: sessions that a relay has descriptors for. One that is given more cannot take the sockets, and
    dies with all that it has.
    """

    def __init__(
        self,
        events: RelayEvents,
        *,
        report_interval_s: float = REPORT_INTERVAL_S,
        capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        self.events = events
        self._capacity = capacity
        self._report_interval_s = report_interval_s
        self._links: dict[int, _Link] = {}
        self._waiting: set[asyncio.Future[bool]] = set()
        self._homeless: deque[_Moving] = deque()

    def add(self, pid: int, sock: socket.socket) -> None:
        """Take a relay into use, and ask it for its sessions."""
        link = _Link(pid, sock, self)
        self._links[pid] = link
        link.send(Hello(PROTOCOL_VERSION, os.getpid(), self._report_interval_s))

    async def introduced(self) -> None:
        """Wait until every relay has told its sessions, or is given up waiting for."""
        waits = [link.introduced.wait() for link in self._links.values()]
        try:
            async with asyncio.timeout(INTRODUCTION_S):
                await asyncio.gather(*waits)
        except TimeoutError:
            return

    async def adopt(
        self,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
        before: Callable[[int], None],
    ) -> int:
        """Hand a session over and return the relay's process id. The sockets are the relay's from then on.

        `before(pid)` is called when the relay is chosen, before anything can be heard of the session's end.
        Raises ChannelError: there was no relay for `RELAY_WAIT_S`; the sockets are still the caller's.
        """
        link = await self._choose()
        before(link.pid)
        link.adopt(Carried(facts.id, _ENCODER.encode(facts), first[0], first[1], idle_s), sockets)
        return link.pid

    async def _choose(self) -> _Link:
        deadline_at: float | None = None
        while (link := self._least_loaded()) is None:
            deadline_at = deadline_at or asyncio.get_running_loop().time() + RELAY_WAIT_S
            if not await self._change(deadline_at):
                raise ChannelError("no-relay", "no relay process is running; the supervisor restarts them")
        return link

    async def _change(self, deadline_at: float) -> bool:
        """Wait until a relay may have become usable; False: it is too late. Needs no task."""
        loop = asyncio.get_running_loop()
        changed: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_at(deadline_at, _tell, changed, False)
        self._waiting.add(changed)
        try:
            return await changed
        finally:
            timer.cancel()
            self._waiting.discard(changed)

    def _least_loaded(self) -> _Link | None:
        least: _Link | None = None
        fewest = self._capacity
        for link in self._links.values():
            if link.sessions < fewest and link.serves:
                least, fewest = link, link.sessions
        return least

    @property
    def full(self) -> bool:
        """Whether there are relays and none of them has room for a session."""
        return self._least_loaded() is None and any(link.serves for link in self._links.values())

    @property
    def in_hand(self) -> int:
        """Messages and sessions that this process holds at the moment: lost if it ended now."""
        return sum(link.in_hand for link in self._links.values()) + len(self._homeless)

    def kick(self, relay: int, session_ids: Sequence[str], reason: CloseReason) -> None:
        """Ask a relay to end sessions. Their ends are reported as any other."""
        link = self._links.get(relay)
        if link is None:
            return
        for start in range(0, len(session_ids), _KICKS_PER_MESSAGE):
            link.send(Kick(list(session_ids[start : start + _KICKS_PER_MESSAGE]), reason))

    def retire(self, relays: Sequence[int]) -> None:
        """Give these relays no more sessions; they exit when their last one has ended."""
        for relay in relays:
            link = self._links.get(relay)
            if link is not None and not link.retiring:
                link.retiring = True
                link.send(Retire())

    def surrender(self, relay: int) -> None:
        """Have a relay give all its sessions away, to the others, and exit."""
        link = self._links.get(relay)
        if link is not None:
            link.retiring = True
            link.send(Surrender())

    def rehome(self, relay: int, moving: _Moving) -> None:
        """Give a session that a relay has given up to another one, at once: it stands still meanwhile."""
        if not moving.whole:
            self.events.session_ended(moving.broken_off(), relay)
            return
        self.events.session_rehomed(moving.state, os.getpid())
        self._homeless.append(moving)
        self._house_homeless()

    def _house_homeless(self) -> None:
        while self._homeless and (link := self._least_loaded()) is not None:
            moving = self._homeless.popleft()
            self.events.session_rehomed(moving.state, link.pid)
            for part in moving.parts:
                link.send(part)
            link.adopt(moving.carried, moving.sockets)

    def sessions(self) -> dict[int, int]:
        """Return each relay's process id and its number of sessions."""
        return {pid: link.sessions for pid, link in self._links.items()}

    def changed(self) -> None:
        """A relay may have become usable."""
        for changed in self._waiting:
            _tell(changed, True)
        self._house_homeless()

    def retiring(self) -> list[int]:
        """Return the relays that are giving their sessions away, or wait for their last one to end."""
        return [pid for pid, link in self._links.items() if link.retiring]

    def lost(self, link: _Link, error: ChannelError | None) -> None:
        """A relay's line is down."""
        if self._links.get(link.pid) is link:
            del self._links[link.pid]
        link.introduced.set()
        self.events.relay_lost(link.pid, error)

    def close(self) -> None:
        """Close the lines. The relays go on."""
        for link in self._links.values():
            link.close()
        self._links.clear()


def _tell(future: asyncio.Future[bool], outcome: bool) -> None:  # noqa: FBT001 (the value itself)
    if not future.done():
        future.set_result(outcome)


class InlineRelay:
    """`relays: 0`: the router's own process moves the bytes. The same verbs as `RelayPool`."""

    def __init__(self, events: RelayEvents, *, report_interval_s: float = REPORT_INTERVAL_S) -> None:
        self.events = events
        self._report_interval_s = report_interval_s
        self._pump = Pump(asyncio.get_running_loop(), self._ended)
        self._ticker = asyncio.get_running_loop().call_later(report_interval_s, self._tick)

    @property
    def full(self) -> bool:
        """Whether there is no room for a session: the sockets stay in this process, which counts them."""
        return False

    async def introduced(self) -> None:
        """Nothing to wait for: the sessions ended with the router that held them."""

    async def adopt(
        self,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
        before: Callable[[int], None],
    ) -> int:
        """Take a session into the pump of this process."""
        before(os.getpid())
        self._pump.adopt(facts.id, _ENCODER.encode(facts), sockets, first=first, idle_s=idle_s)
        return os.getpid()

    def kick(self, relay: int, session_ids: Iterable[str], reason: CloseReason) -> None:
        """End sessions."""
        del relay
        for session_id in session_ids:
            self._pump.kick(session_id, reason)

    def sessions(self) -> dict[int, int]:
        """Return this process's id and its number of sessions."""
        return {os.getpid(): len(self._pump)}

    def close(self) -> None:
        """End every session and stop reporting."""
        self._ticker.cancel()
        for session in self._pump:
            self._pump.kick(session.id, CloseReason.SHUTDOWN)
        self._pump.close()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        for session_id, bytes_up, bytes_down in self._pump.tick(loop.time()):
            self.events.session_moved(session_id, bytes_up, bytes_down)
        self._ticker = loop.call_later(self._report_interval_s, self._tick)

    def _ended(self, session: PumpedSession, reason: CloseReason, side: CloseSide) -> None:
        counts = (session.up.count, session.down.count)
        self.events.session_ended(
            Ended(session.id, session.facts, reason, side, *counts, time.time()), os.getpid()
        )
