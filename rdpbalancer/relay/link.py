"""One relay process as the router sees it: what it is told, what it reports, and what is lost with it."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Protocol

import msgspec

from rdpbalancer.errors import ChannelError
from rdpbalancer.ipc.channel import MAX_DESCRIPTORS, Channel
from rdpbalancer.ipc.relay_messages import (
    FROM_RELAY,
    PROTOCOL_VERSION,
    Adopt,
    ByteCounts,
    LiveSessions,
    RelayHello,
    SessionEnded,
    SessionsArrived,
    SessionsEnded,
    SessionState,
    SessionTransfer,
)

_ADOPTS_PER_MESSAGE = MAX_DESCRIPTORS // 2
# Facts are at most 2 KiB, and what a client or server has said before it has a relay up to 16 KiB.
_ADOPT_BYTES = 64 * 1024


class RelayEvents(Protocol):
    """What the owner of the relays is told. `relay` is a process id."""

    def session_live(self, state: SessionState, relay: int) -> None:
        """A relay holds this session: from before a router's restart, or it has come from another relay."""
        ...

    def session_moved(self, session_id: str, bytes_up: int, bytes_down: int) -> None:
        """A session's byte counts."""
        ...

    def session_ended(self, ended: SessionEnded, relay: int) -> None:
        """A session has ended."""
        ...

    def relay_lost(self, relay: int, error: ChannelError | None) -> None:
        """A relay is gone, and its sessions with it."""
        ...


class Owner(Protocol):
    """Who has the links."""

    events: RelayEvents

    def arrived(self, target: "Link", arrived: SessionsArrived) -> None:
        """Sessions have arrived at a relay."""
        ...

    def changed(self) -> None:
        """A relay may have become usable."""
        ...

    def lost(self, link: "Link") -> None:
        """A relay's channel is down."""
        ...


class Link:
    """One relay process as the router sees it.

    `expected`: sessions that other relays have been told to give it. `migrates_out`: it is to give its own
    away. `router`: our word in the greeting. Until the relay gives it back, what is heard was said to an
    earlier router: ends are ends, but where sessions were is told anew.
    """

    def __init__(self, pid: int, sock: socket.socket, owner: Owner, *, router: str) -> None:
        self.pid = pid
        self._router = router
        self._answered = False
        self.sessions = 0
        self.introduced = asyncio.Event()
        self.compatible = False
        self.retiring = False
        self.migrates_out = False
        self.expected = 0
        self._adopts: list[SessionTransfer] = []
        self._adopted_sockets: list[socket.socket] = []
        self._adopts_bytes = 0
        self._owner = owner
        self._channel = Channel(sock, FROM_RELAY, on_message=self._heard, on_close=self._lost)

    def adopt(self, carried: SessionTransfer, sockets: Sequence[socket.socket]) -> None:
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

    def send(self, message: msgspec.Struct, sockets: Sequence[socket.socket] = ()) -> None:
        """Say something else, after what was said before."""
        self._send_adopts()
        self._channel.send(message, sockets)

    def close(self) -> None:
        """Close the channel."""
        self._send_adopts()
        self._channel.close()

    def _send_adopts(self) -> None:
        if self._adopts:
            self._channel.send(Adopt(self._adopts), self._adopted_sockets)
            self._adopts, self._adopted_sockets, self._adopts_bytes = [], [], 0

    def _heard(self, message: msgspec.Struct, sockets: list[socket.socket]) -> None:
        del sockets  # a relay sends none
        events = self._owner.events
        match message:
            case SessionsArrived() if self._answered:
                self._owner.arrived(self, message)
            case SessionsEnded():
                self.sessions -= len(message.sessions)
                for ended in message.sessions:
                    self._tell_end(ended)
                self._owner.changed()
            case ByteCounts():
                for session_id, bytes_up, bytes_down in message.counts:
                    events.session_moved(session_id, bytes_up, bytes_down)
            case LiveSessions() if self._answered:
                self._introduce(message)
            case RelayHello():
                self._greeted(message)

    def _greeted(self, hello: RelayHello) -> None:
        same_version = hello.version == PROTOCOL_VERSION
        if same_version and hello.router != self._router:
            return  # the answer to an earlier router; another version may not know what to give back
        self.compatible, self._answered = same_version, True
        self.sessions = 0

    @property
    def error(self) -> ChannelError | None:
        """What ended the channel."""
        return self._channel.error

    @property
    def load(self) -> int:
        """Its sessions, and those that other relays may give it."""
        return self.sessions + self.expected

    @property
    def serves(self) -> bool:
        """Whether it takes sessions."""
        return self.compatible and not self.retiring

    @property
    def pending(self) -> int:
        """Messages and new sessions that the kernel has not taken."""
        return self._channel.backlog + len(self._adopts)

    def _tell_end(self, ended: SessionEnded) -> None:
        try:
            self._owner.events.session_ended(ended, self.pid)
        except Exception as error:  # noqa: BLE001 (a full log's disk must not cost the others their end)
            context = {"message": f"the end of session {ended.id}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _introduce(self, live: LiveSessions) -> None:
        for state in live.sessions:
            self.sessions += 1
            self._owner.events.session_live(state, self.pid)
        if live.last:
            self.introduced.set()
            self._owner.changed()

    def _lost(self) -> None:
        self._send_adopts()  # closes their sockets
        self._owner.lost(self)
