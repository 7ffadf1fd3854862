"""Dialling a real server: the one way for users, health checks and feedback agents; and reading its answer.

Because it is one way, a check finds what a user would find: the addresses in the same order, the same share
of the time for each, and an address counts as the server's once it connects, whatever it says then.
"""

import errno
import os
import socket
import time
from collections.abc import Sequence

from rdpbalancer.errors import ProtocolError, RdpBalancerError, ServerError
from rdpbalancer.model import Endpoint
from rdpbalancer.net import options
from rdpbalancer.net.poller import FdWaiter, Poller
from rdpbalancer.wire.confirm import Confirm, parse_confirm

# A Connection Confirm has at most 259 bytes; a server may send what follows it in the same segment.
_REPLY_BYTES = 16 * 1024

_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY})

# The balancer's own: another server may still be dialled (ports are counted for each), but nothing has been
# found out about this one.
NO_LOCAL_PORT = "no-local-port"
# What a failed dial tells of the server.
OF_THE_SERVER = frozenset({"refused", "timeout", "unreachable", "reset", "no-address", "error"})

_CODES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: NO_LOCAL_PORT,
}
# Whatever server is dialled, there is nothing to dial with.
_SHORTAGES = {
    errno.EMFILE: "no-descriptor",
    errno.ENFILE: "no-descriptor",
    errno.ENOBUFS: "no-memory",
    errno.ENOMEM: "no-memory",
}


def server_error(error: OSError, what: str) -> ServerError:
    """Translate what the system says of a server into ours."""
    code = _CODES.get(error.errno or 0, "error")
    return ServerError(code, f"{what}: {os.strerror(error.errno) if error.errno else error}")


class Upstream:
    """The connection to a real server, until it is a session's: connected, and still watched by us.

    `address`: which of the server's addresses it is that has answered.
    """

    __slots__ = ("_sock", "_watch", "address")

    def __init__(self, sock: socket.socket, watch: FdWaiter, address: str) -> None:
        self.address = address
        self._sock = sock
        self._watch = watch

    def detach(self) -> socket.socket:
        """Return the socket, which is the caller's from now on."""
        self._watch.end()
        return self._sock

    def close(self) -> None:
        """Close the socket."""
        self._watch.end()
        self._sock.close()

    async def send(self, data: bytes, *, deadline_at: float) -> None:
        """Send all of `data`, a request that fits any socket buffer in all but the strangest cases.

        Raises ServerError.
        """
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    await self._watch.ready(deadline_at)
        except TimeoutError as error:
            raise ServerError("timeout", "the server does not take the request") from error
        except OSError as error:
            raise server_error(error, "the server does not take the request") from error

    async def receive_reply(self, *, deadline_at: float) -> tuple[bytes, Confirm | None]:
        """Read the server's answer to the Connection Request.

        Returns all bytes read and the Connection Confirm, or None if the answer is something else (to be
        passed on as it is). Raises ServerError if there is no answer: `closed`, `reset`, `silent`.
        """
        data = b""
        while True:
            chunk = await self.receive(deadline_at=deadline_at, what="Connection Confirm")
            if not chunk:
                raise ServerError("closed", "the server closed before its Connection Confirm")
            data += chunk
            try:
                confirm = parse_confirm(data)
            except ProtocolError:
                return data, None
            if confirm is not None:
                return data, confirm

    async def receive(self, *, deadline_at: float, what: str) -> bytes:
        """Return what the server says next, at least one byte, or nothing at its end.

        Raises ServerError: `silent`, `reset`; `what` is then what it did not send.
        """
        try:
            while True:
                if not self._watch.readable:  # the answer takes a while: a first try would be in vain
                    await self._watch.ready(deadline_at)
                    continue
                try:
                    return self._sock.recv(_REPLY_BYTES)
                except BlockingIOError:
                    self._watch.readable = False
        except TimeoutError as error:
            raise ServerError("silent", f"the server sent no {what} in time") from error
        except OSError as error:
            raise server_error(error, f"the server broke off before its {what}") from error


async def connect(
    waits: Poller,
    addresses: Sequence[str],
    port: int,
    *,
    deadline_at: float,
    local: tuple[str, int] | None = None,
) -> Upstream:
    """Connect to the first of a server's `addresses` (IP literals) that answers before `deadline_at`.

    They are tried one after the other, each with an equal share of the time that is left, so that one which
    swallows everything does not cost the others theirs. `local`: the source address to dial from. Awaitable
    within `net.poller.Steps` only. Raises ServerError: `refused`, `timeout`, `unreachable`, `reset`,
    `no-address`, `no-local-port`, `error`; RdpBalancerError: `no-descriptor`, `no-memory`, which say nothing
    of the server.
    """
    failure: ServerError | None = None
    for number, address in enumerate(addresses):
        left = len(addresses) - number
        now = time.monotonic()
        share_at = now + (deadline_at - now) / left  # the last address gets all that is left
        try:
            return await _connect_one(waits, address, port, share_at, local)
        except ServerError as error:
            failure = error
    raise failure or ServerError("no-address", "the server's name has not been resolved")


async def _connect_one(
    waits: Poller, address: str, port: int, deadline_at: float, local: tuple[str, int] | None
) -> Upstream:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _dial_error(error, f"cannot dial {Endpoint(address, port)}") from error
    watch: FdWaiter | None = None
    try:
        options.for_session(sock)
        if local is not None:
            sock.bind(local)
        status = sock.connect_ex((address, port))
        watch = _watch(waits, sock)
        while status in _UNDER_WAY:
            await watch.ready(deadline_at)
            status = sock.connect_ex((address, port))  # tells how the first one ended
        if status:
            raise OSError(status, os.strerror(status))  # noqa: TRY301 (one translation below)
    except BaseException as error:
        if watch is not None:
            watch.end()
        sock.close()
        if not isinstance(error, OSError):
            raise
        where = Endpoint(address, port)
        if isinstance(error, TimeoutError):
            # Python calls ETIMEDOUT a TimeoutError too: either way nobody answered.
            raise ServerError("timeout", f"no answer from {where}") from error
        raise _dial_error(error, f"cannot connect to {where}") from error
    return Upstream(sock, watch, address)


def _dial_error(error: OSError, what: str) -> RdpBalancerError:
    code = _SHORTAGES.get(error.errno or 0)
    if code is not None:
        return RdpBalancerError(code, f"{what}: {os.strerror(error.errno or 0)}")
    return server_error(error, what)


def _watch(waits: Poller, sock: socket.socket) -> FdWaiter:
    try:
        return waits.watch(sock)
    except OSError as error:  # ours, and no word about the server
        raise RdpBalancerError("internal", f"a server cannot be waited for: {error}") from error
