"""The relay processes, together: which one gets a session, and what becomes of those that make way."""

import asyncio
import os
import secrets
import socket
from collections.abc import Sequence

import msgspec

from rdpbalancer.errors import ChannelError
from rdpbalancer.ipc.relay_messages import (
    PROTOCOL_VERSION,
    Kick,
    RelayHello,
    RetireRelay,
    SessionsArrived,
    SessionTransfer,
)
from rdpbalancer.model import CloseReason, SessionFacts
from rdpbalancer.relay.link import Link, RelayEvents
from rdpbalancer.relay.migration_plan import MigrationPlanner

_KICKS_PER_MESSAGE = 1000
# A relay that died is back within a second; a session that finds none waits that long for it, and a bit.
RELAY_WAIT_S = 5.0
# Byte counts are shown at most five seconds old: this, and a tick of the relay.
REPORT_INTERVAL_S = 4.0
# Sessions of one relay where nobody says how many: more than one core can serve.
DEFAULT_CAPACITY = 100_000
# How long a new router waits for the relays to tell their sessions before it takes connections.
INTRODUCTION_S = 5.0
# After a move in which nothing arrived: its cause may last.
_MOVE_AGAIN_S = 1.0
_ENCODER = msgspec.msgpack.Encoder()


class RelayPool:
    """All relays. A new session goes to the one with the fewest.

    `capacity`: sessions that a relay has descriptors for. One that is given more cannot take the sockets, and
    dies with all that it has.
    """

    outlives_router = True

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
        self._links: dict[int, Link] = {}
        self._waiting: set[asyncio.Future[bool]] = set()
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._migration = MigrationPlanner(self._name, capacity)
        self._move_again: asyncio.TimerHandle | None = None
        self._gone: list[Link] = []
        self._kicked: dict[str, CloseReason] = {}

    def add(self, pid: int, sock: socket.socket) -> None:
        """Take a relay into use, and ask it for its sessions."""
        link = Link(pid, sock, self, router=self._name)
        self._links[pid] = link
        link.send(RelayHello(PROTOCOL_VERSION, os.getpid(), self._report_interval_s, self._name))

    async def introduced(self) -> None:
        """Wait until every relay has told its sessions, or is given up waiting for."""
        waits = [link.introduced.wait() for link in self._links.values()]
        try:
            async with asyncio.timeout(INTRODUCTION_S):
                await asyncio.gather(*waits)
        except TimeoutError:
            return

    async def choose(self) -> int:
        """Return the process id of the relay with the fewest sessions; wait while there is none.

        Raises ChannelError: there was none for `RELAY_WAIT_S`.
        """
        deadline_at: float | None = None
        while (link := self._least_loaded()) is None:
            deadline_at = deadline_at or asyncio.get_running_loop().time() + RELAY_WAIT_S
            if not await self._change(deadline_at):
                raise ChannelError("no-relay", "no relay process is running; the supervisor restarts them")
        return link.pid

    def adopt(
        self,
        relay: int,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
    ) -> None:
        """Hand a session over to the relay that was just chosen. The sockets are the relay's from then on."""
        transfer = SessionTransfer(facts.id, _ENCODER.encode(facts), first[0], first[1], idle_s)
        self._links[relay].adopt(transfer, sockets)

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

    def _least_loaded(self) -> Link | None:
        least: Link | None = None
        fewest = self._capacity
        for link in self._links.values():
            if link.load < fewest and link.serves:
                least, fewest = link, link.load
        return least

    @property
    def full(self) -> bool:
        """Whether there are relays and none of them has room for a session."""
        return self._least_loaded() is None and any(link.serves for link in self._links.values())

    @property
    def pending(self) -> int:
        """What would be lost if this process ended now: messages, new sessions, and what only it knows."""
        return sum(link.pending for link in self._links.values()) + len(self._gone) + len(self._kicked)

    def kick(self, relay: int, session_ids: Sequence[str], reason: CloseReason) -> None:
        """Ask a relay to end sessions. Ttarget ends are reported as any other."""
        if self._migration.going_on:
            # They may be on their way to another relay.
            self._kicked.update(dict.fromkeys(session_ids, reason))
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
                link.send(RetireRelay())

    def migrate_out(self, relays: Sequence[int]) -> None:
        """Have these relays give all their sessions to the others, as soon as they have room, and exit."""
        self.retire(relays)
        for relay in relays:
            link = self._links.get(relay)
            if link is not None:
                link.migrates_out = True
        self._migration.find(self._links.values())

    def arrived(self, target: Link, arrived: SessionsArrived) -> None:
        """Sessions of another relay have arrived at this one, or will not any more."""
        in_vain = self._migration.arrived(target, arrived)
        for state in arrived.sessions:
            self.events.session_live(state, target.pid)
            reason = self._kicked.pop(state.id, None)
            if reason is not None:
                target.send(Kick([state.id], reason))
        if arrived.last:
            self._judge()
            if in_vain:
                self._change_later()
            else:
                self.changed()

    def _change_later(self) -> None:
        if self._move_again is not None:
            self._move_again.cancel()
        self._move_again = asyncio.get_running_loop().call_later(_MOVE_AGAIN_S, self.changed)

    def sessions(self) -> dict[int, int]:
        """Return each relay's process id and its number of sessions."""
        return {pid: link.sessions for pid, link in self._links.items()}

    def changed(self) -> None:
        """A relay may have become usable."""
        for changed in self._waiting:
            _tell(changed, True)
        self._migration.find(self._links.values())

    def retiring(self) -> list[int]:
        """Return the relays that are sending their sessions away, or wait for their last one to end."""
        return [pid for pid, link in self._links.items() if link.retiring]

    def lost(self, link: Link) -> None:
        """A relay's channel is down."""
        if self._links.get(link.pid) is link:
            del self._links[link.pid]
        link.introduced.set()
        self._gone.append(link)
        self._migration.lost(link)
        self._judge()
        self._migration.find(self._links.values())

    def _judge(self) -> None:
        """Tell which relays are lost, and with them those of their sessions that cannot arrive elsewhere."""
        if self._migration.going_on:
            return
        gone, self._gone = self._gone, []
        for link in gone:
            self.events.relay_lost(link.pid, link.error)
        self._kicked.clear()

    def close(self) -> None:
        """Close the channels. The relays go on."""
        self._migration.close()
        if self._move_again is not None:
            self._move_again.cancel()
        for link in self._links.values():
            link.close()
        self._links.clear()


def _tell(future: asyncio.Future[bool], outcome: bool) -> None:  # noqa: FBT001 (the value itself)
    if not future.done():
        future.set_result(outcome)
