"""A connection on its way to becoming a session: what is known of it, and what is done to its socket."""

import contextlib
import socket
from collections.abc import Iterable
from ipaddress import ip_address

import msgspec

from rdpbalancer.core.admission import AdmissionSlot
from rdpbalancer.core.dispatch import Token
from rdpbalancer.core.farm import Farm, Network, VirtualService
from rdpbalancer.core.ledger import ServerSlot
from rdpbalancer.core.route import Route
from rdpbalancer.core.source import client_address
from rdpbalancer.errors import ClientError, NoServerError
from rdpbalancer.model import Endpoint, Key, ServerId
from rdpbalancer.net.poller import FdWaiter, StepRunner
from rdpbalancer.session.frontends import ProtocolFrontend
from rdpbalancer.wire.confirm import Confirm
from rdpbalancer.wire.request import ConnectionRequest

# Read and thrown away before a refusal is closed: unread bytes would turn the close into a reset, and the
# client would not see why it was refused.
_DRAIN_BYTES = 64 * 1024


class Connection(msgspec.Struct, eq=False):
    """What is known of a connection so far, and what has to be given back if it fails."""

    service: VirtualService
    client: socket.socket
    peer: Endpoint
    admission_slot: AdmissionSlot
    began_at: float
    frontend: ProtocolFrontend
    data: bytes = b""  # all that was read, passed on byte for byte
    request: ConnectionRequest | None = None
    token: Token | None = None
    key: Key | None = None
    excluded: frozenset[ServerId] = frozenset()
    not_theirs: int = 0  # servers that closed on its routing token, which only its maker takes
    ticket: int | None = None
    queue_until_at: float | None = None
    queued_s: float = 0.0
    parsed_at: float = 0.0
    dialled_at: float = 0.0
    owns_socket: bool = True
    steps: StepRunner | None = None  # what runs it, to be ended when its client has left
    watch: FdWaiter | None = None  # of the client, while nobody reads from it
    half_closed: bool = False  # `mode: tcp`: the client has said all that it will say
    queueing: bool = False

    @property
    def user(self) -> str | None:
        """The user as the client's cookie names it."""
        return self.request.cookie if self.request is not None else None


class ServerReply(msgspec.Struct, frozen=True):
    """A server that took the connection: its socket, what it said, and whether that was a Confirm."""

    slot: ServerSlot
    route: Route
    sock: socket.socket
    data: bytes = b""
    confirm: Confirm | None = None


class RejectedError(ClientError):
    """A refusal that the client is told, by a `packet` of its protocol."""

    def __init__(self, code: str, message: str, packet: bytes) -> None:
        super().__init__(code, message)
        self.packet = packet


def configured(conn: Connection, farm: Farm) -> VirtualService:
    """Return the connection's service as it is configured now. Raises NoServerError: it is gone.

    A reload may have changed it while the connection was read from or waited; deciding with servers that are
    configured no more would end in nothing.
    """
    service = farm.services.get(conn.service.name)
    if service is None:
        raise NoServerError("removed", f"the service {conn.service.name} is not configured any more")
    conn.service = service
    return service


def send_now(sock: socket.socket, data: bytes) -> bytes:
    """Send what the socket takes at once; return the rest, which goes to the relay."""
    if not data:
        return b""
    try:
        return data[sock.send(data) :]
    except BlockingIOError:
        return data


def close(sock: socket.socket, farewell: bytes) -> None:
    """Close a client that did not become a session, after a last packet if there is one."""
    with contextlib.suppress(OSError):
        if farewell:
            sock.send(farewell)
            sock.shutdown(socket.SHUT_WR)
        sock.recv(_DRAIN_BYTES)
    sock.close()


def plain_address(host: str) -> str:
    """Return the address without a scope and without the IPv4-in-IPv6 form."""
    return str(client_address(host)) if ":" in host else host


def within(host: str, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of the networks."""
    address = ip_address(host)
    return any(address in network for network in networks)
