"""What differs between the protocols of a virtual service: one front end for each `mode`.

The pipeline asks its connection's front end how to read what the client opens with, how to hear the server's
reply, and what both mean. Everything else is the same for all.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from rdpbalancer.model import Mode
from rdpbalancer.net.dial import Upstream
from rdpbalancer.net.handshake import Reader
from rdpbalancer.wire.confirm import DISCONNECT, Confirm
from rdpbalancer.wire.request import ConnectionRequest


class ProtocolFrontend(Protocol):
    """One protocol, as the client speaks it first."""

    # Sent to a client that no server takes, before its connection is closed.
    refusal: bytes
    # Whether a client that has closed its half has left: nobody who still listens would.
    half_close_is_the_end: bool

    async def open(self, reader: Reader) -> tuple[bytes, ConnectionRequest | None]:
        """Return all that was read from the client, and its request. Raises ClientError, ProtocolError."""

    async def await_reply(self, upstream: Upstream, *, deadline_at: float) -> tuple[bytes, Confirm | None]:
        """Return what the server has answered. Raises ServerError: nothing."""

    def binds(self, confirm: Confirm | None) -> bool:
        """Whether the client's key is bound to a server that has replied so."""


class RdpFrontend:
    """RDP: an X.224 Connection Request and the server's Connection Confirm (MS-RDPBCGR 2.2.1.1, 2.2.1.2)."""

    # An X.224 Disconnect Request has clients show an error at once; a refusal would make them retry.
    refusal = DISCONNECT
    # No RDP client closes its half before it has its answer.
    half_close_is_the_end = True

    async def open(self, reader: Reader) -> tuple[bytes, ConnectionRequest | None]:
        """Read up to the end of the Connection Request."""
        opening = await reader.opening()
        return opening.data, opening.request

    async def await_reply(self, upstream: Upstream, *, deadline_at: float) -> tuple[bytes, Confirm | None]:
        """Read the Connection Confirm; None beside the data: the server has said something else."""
        return await upstream.receive_reply(deadline_at=deadline_at)

    def binds(self, confirm: Confirm | None) -> bool:
        """Only a Connection Confirm shows that there is a terminal server."""
        return confirm is not None


class TcpFrontend:
    """Any protocol over TCP: nothing is read but a PROXY header, and nobody knows who speaks first."""

    refusal = b""
    # It may have asked and still listen (docs/decisions/0020).
    half_close_is_the_end = False

    async def open(self, reader: Reader) -> tuple[bytes, ConnectionRequest | None]:
        """Read nothing: what came behind a PROXY header belongs to the session."""
        return reader.rest(), None

    async def await_reply(self, upstream: Upstream, *, deadline_at: float) -> tuple[bytes, Confirm | None]:
        """Wait for nothing: a server that has taken the connection is all that can be known."""
        del upstream, deadline_at
        return b"", None

    def binds(self, confirm: Confirm | None) -> bool:
        """Every server that takes the connection is bound."""
        del confirm
        return True


FRONTENDS: Final[Mapping[Mode, ProtocolFrontend]] = {Mode.RDP: RdpFrontend(), Mode.TCP: TcpFrontend()}
