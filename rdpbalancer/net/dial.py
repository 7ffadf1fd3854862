"""Dialling a real server, and reading what it answers to the Connection Request."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Sequence

from rdpbalancer.errors import ProtocolError, ServerError
from rdpbalancer.model import Endpoint
from rdpbalancer.net import options
from rdpbalancer.net.waiting import readable, writable
from rdpbalancer.wire.confirm import Confirm, parse_confirm

# A Connection Confirm has at most 259 bytes; a server may send what follows it in the same segment.
_REPLY_BYTES = 16 * 1024

_CODES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EADDRNOTAVAIL: "no-local-port",
}


def server_error(error: OSError, what: str) -> ServerError:
    """Translate what the system says of a server into ours."""
    code = _CODES.get(error.errno or 0, "error")
    return ServerError(code, f"{what}: {os.strerror(error.errno) if error.errno else error}")


async def connect(
    addresses: Sequence[str],
    port: int,
    *,
    deadline_at: float,
    local: tuple[str, int] | None = None,
) -> socket.socket:
    """Connect to the first of a server's `addresses` (IP literals) that answers before `deadline_at`.

    `local`: the source address to dial from. Raises ServerError: `refused`, `timeout`, `unreachable`,
    `reset`, `no-address`, ...
    """
    if not addresses:
        raise ServerError("no-address", "the server's name has not been resolved")
    failure: ServerError | None = None
    for number, address in enumerate(addresses):
        left = len(addresses) - number
        now = asyncio.get_running_loop().time()
        share_at = now + (deadline_at - now) / left  # the last address gets all that is left
        try:
            return await _connect_one(address, port, share_at, local)
        except ServerError as error:
            failure = error
    raise failure or ServerError("no-address", "the server has no address")


async def _connect_one(
    address: str, port: int, deadline_at: float, local: tuple[str, int] | None
) -> socket.socket:
    where = Endpoint(address, port)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise server_error(error, f"cannot dial {where}") from error
    try:
        if local is not None:
            sock.bind(local)
        with contextlib.suppress(BlockingIOError):
            sock.connect((address, port))
        await writable(sock, deadline_at=deadline_at)
        if error_number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error_number, os.strerror(error_number))  # noqa: TRY301 (one translation below)
        options.for_session(sock)
    except TimeoutError as error:
        sock.close()
        # Python calls ETIMEDOUT a TimeoutError too: either way nobody answered.
        raise ServerError("timeout", f"no answer from {where}") from error
    except OSError as error:
        sock.close()
        raise server_error(error, f"cannot connect to {where}") from error
    except BaseException:
        sock.close()
        raise
    return sock


async def send(sock: socket.socket, data: bytes, *, deadline_at: float) -> None:
    """Send all of `data`, a request that fits any socket buffer in all but the strangest cases.

    Raises ServerError.
    """
    rest = memoryview(data)
    try:
        while rest:
            try:
                rest = rest[sock.send(rest) :]
            except BlockingIOError:
                await writable(sock, deadline_at=deadline_at)
    except TimeoutError as error:
        raise ServerError("timeout", "the server does not take the request") from error
    except OSError as error:
        raise server_error(error, "the server does not take the request") from error


async def receive_reply(sock: socket.socket, *, deadline_at: float) -> tuple[bytes, Confirm | None]:
    """Read the server's answer to the Connection Request.

    Returns all bytes read and the Connection Confirm, or None if the answer is something else (to be passed
    on as it is). Raises ServerError if there is no answer: `closed`, `reset`, `silent`.
    """
    data = b""
    try:
        while True:
            try:
                chunk = sock.recv(_REPLY_BYTES)
            except BlockingIOError:
                await readable(sock, deadline_at=deadline_at)
                continue
            if not chunk:
                raise ServerError("closed", "the server closed before its Connection Confirm")
            data += chunk
            try:
                confirm = parse_confirm(data)
            except ProtocolError:
                return data, None
            if confirm is not None:
                return data, confirm
    except TimeoutError as error:
        raise ServerError("silent", "the server sent no Connection Confirm in time") from error
    except OSError as error:
        raise server_error(error, "the server broke off before its Connection Confirm") from error
