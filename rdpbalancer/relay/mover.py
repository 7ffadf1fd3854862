"""The interface of whatever moves a session's bytes in a relay: today the pump, later TLS, or the kernel.

tests/contract/test_mover.py holds for every implementation.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from rdpbalancer.ipc.relay_messages import SessionState, SessionTransfer
from rdpbalancer.model import CloseReason, CloseSide


class MovedSession(Protocol):
    """A session that is being moved."""

    id: str
    facts: bytes  # what the router knows of it, which a relay only carries
    client: socket.socket
    server: socket.socket

    @property
    def counts(self) -> tuple[int, int]:
        """Bytes moved so far: to the server, to the client."""
        ...

    @property
    def state(self) -> SessionState:
        """The session as the router is told of it."""
        ...


Moved = TypeVar("Moved", bound=MovedSession)
# Called once for each session that has ended, after its sockets are closed: why, and by whom.
OnEnd = Callable[[MovedSession, CloseReason, CloseSide], None]


class Mover(Protocol[Moved]):
    """Moves bytes both ways, passes half-closes on and obeys back-pressure."""

    # Whether another process can go on with a session: `migrate_out` works.
    can_migrate: bool

    def __len__(self) -> int:
        """Return the number of sessions."""
        ...

    def __iter__(self) -> Iterator[Moved]:
        """Yield every session; they may end meanwhile."""
        ...

    def resume(self, carried: SessionTransfer, sockets: tuple[socket.socket, socket.socket]) -> Moved:
        """Take a session over, new or from another process. `sockets`: client, server."""
        ...

    def migrate_out(self, session: Moved) -> SessionTransfer:
        """Let go of a session and return what another process needs.

        Its sockets stay open and are the caller's; its end is not reported.
        """
        ...

    def kick(self, session_id: str, reason: CloseReason) -> None:
        """End a session on the balancer's own account. Unknown ids are sessions that ended meanwhile."""
        ...

    def tick(self, now: float) -> list[tuple[str, int, int]]:
        """End what has been idle too long; return id and byte counts of what moved since the last time."""
        ...

    def close(self) -> None:
        """Move nothing any more; all sessions have ended, or been given away."""
        ...


# Makes a mover in the running loop.
MakeMover = Callable[[asyncio.AbstractEventLoop, OnEnd], Mover[Any]]
