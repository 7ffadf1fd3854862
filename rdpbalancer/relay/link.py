"""One relay process as the router sees it: what it is told, what it reports, and what is lost with it."""

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from rdpbalancer.errors import ChannelError
from rdpbalancer.model import CloseReason, CloseSide
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
    Live,
    Part,
    SessionState,
    Surrendered,
)
from rdpbalancer.relay.pump import RESET_ON_CLOSE

_ADOPTS_PER_MESSAGE = MAX_DESCRIPTORS // 2
# Facts are at most 2 KiB, and sessions that move bring up to 96 KiB: such a one goes by itself.
_ADOPT_BYTES = 64 * 1024


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


class Moving(NamedTuple):
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


class Owner(Protocol):
    """Who has the links."""

    events: RelayEvents

    def rehome(self, relay: int, moving: Moving) -> None:
        """A relay has given a session up."""
        ...

    def changed(self) -> None:
        """A relay may have become usable."""
        ...

    def lost(self, link: "Link", error: ChannelError | None) -> None:
        """A relay's line is down."""
        ...


class Link:
    """One relay process as the router sees it."""

    def __init__(self, pid: int, sock: socket.socket, owner: Owner) -> None:
        self.pid = pid
        self.sessions = 0
        self.introduced = asyncio.Event()
        self.compatible = False
        self.retiring = False
        self._parts: list[Part] = []
        self._adopts: list[Carried] = []
        self._adopted_sockets: list[socket.socket] = []
        self._adopts_bytes = 0
        self._owner = owner
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
        events = self._owner.events
        match message:
            case Part():
                self._parts.append(message)
            case Surrendered():
                self.sessions -= 1
                parts, self._parts = self._parts, []
                self._owner.rehome(self.pid, Moving(message, sockets, parts))
            case Ends():
                self.sessions -= len(message.sessions)
                for ended in message.sessions:
                    self._tell_end(ended)
                self._owner.changed()
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

    def _tell_end(self, ended: Ended) -> None:
        try:
            self._owner.events.session_ended(ended, self.pid)
        except Exception as error:  # noqa: BLE001 (a full log's disk must not cost the others their end)
            context = {"message": f"the end of session {ended.id}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _introduce(self, live: Live) -> None:
        for state in live.sessions:
            self.sessions += 1
            self._owner.events.session_live(state, self.pid)
        if live.last:
            self.introduced.set()
            self._owner.changed()

    def _lost(self) -> None:
        self._send_adopts()  # closes their sockets
        self._owner.lost(self, self._channel.error)
