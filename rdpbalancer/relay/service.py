"""What a router asks of whoever moves its sessions' bytes: the relay processes, or its own process."""

import socket
from collections.abc import Sequence
from typing import Protocol

from rdpbalancer.model import CloseReason, SessionFacts


class RelayService(Protocol):
    """Implemented by `relay.pool.RelayPool` and, for `relays: 0`, `relay.inline.InlineRelay`.

    Relays are named by their process ids.
    """

    # Whether sessions go on when the router's process ends.
    outlives_router: bool

    @property
    def full(self) -> bool:
        """Whether there are relays and none of them has room for a session."""
        ...

    @property
    def pending(self) -> int:
        """What would be lost if this process ended now: messages, new sessions, and what only it knows."""
        ...

    def add(self, pid: int, sock: socket.socket) -> None:
        """Take a relay into use by its channel, and ask it for its sessions."""
        ...

    async def introduced(self) -> None:
        """Wait until every relay has told its sessions, or is given up waiting for."""
        ...

    async def choose(self) -> int:
        """Return the relay that gets the next session; wait while there is none.

        Raises ChannelError: there was none for too long.
        """
        ...

    def adopt(
        self,
        relay: int,
        facts: SessionFacts,
        sockets: tuple[socket.socket, socket.socket],
        *,
        first: tuple[bytes, bytes],
        idle_s: float,
    ) -> None:
        """Give a session to the relay that was just chosen: client's and server's socket.

        `first`: bytes that were read and are still to be sent, to the server and to the client.
        """
        ...

    def kick(self, relay: int, session_ids: Sequence[str], reason: CloseReason) -> None:
        """End sessions. Their ends are reported as any other."""
        ...

    def retire(self, relays: Sequence[int]) -> None:
        """Give these relays no more sessions; they exit when their last one has ended."""
        ...

    def migrate_out(self, relays: Sequence[int]) -> None:
        """Have these relays give all their sessions to the others, as soon as they have room, and exit."""
        ...

    def retiring(self) -> list[int]:
        """Return the relays that are sending their sessions away, or wait for their last one to end."""
        ...

    def sessions(self) -> dict[int, int]:
        """Return each relay's number of sessions."""
        ...

    def close(self) -> None:
        """Close the channels. Relay processes go on."""
        ...
