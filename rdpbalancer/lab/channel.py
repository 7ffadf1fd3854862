"""A simulated party's end of one TCP connection: a raw socket, so that every byte, FIN and RST is ours.

asyncio's streams read ahead and flush behind. A lab that must stop reading at byte n, reset, or answer
one byte per segment cannot use them.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from rdpbalancer.errors import RdpBalancerError
from rdpbalancer.model import Endpoint
from rdpbalancer.tasks import cancel_and_wait, spawn

READ_BYTES: Final = 65_536

# How long a closing end waits for the other's FIN. Closing with unread bytes would send RST instead of FIN.
FAREWELL_S: Final = 1.0

_LINGER_ZERO: Final = struct.pack("ii", 1, 0)  # l_onoff, l_linger: close() sends RST


class LabError(RdpBalancerError):
    """What went wrong in a simulation, as a test wants to tell it apart.

    Codes: ``refused``, ``unreachable``, ``unresolved`` (a name), ``timeout``, ``closed`` (end of stream
    where more was due), ``reset``, ``too-long``, ``tls``, ``not-confirmed``, ``negotiation-failure``,
    ``redirect-loop``, ``corrupted``, ``unexpected-answer``, ``bad-option``.
    """


@dataclass(slots=True)
class Traffic:
    """Bytes that went over the connections which share this count."""

    bytes_in: int = 0
    bytes_out: int = 0


class LabChannel:
    """One connected, non-blocking socket. Foreign errors become `LabError` here."""

    def __init__(self, sock: socket.socket, traffic: Traffic | None = None) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # already reset by the peer: the first read will tell
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._unread = b""
        self.traffic = traffic if traffic is not None else Traffic()

    @property
    def closed(self) -> bool:
        """Whether this end has been closed or reset by us."""
        return self._sock.fileno() < 0

    @property
    def local(self) -> Endpoint:
        """Our own address."""
        return endpoint_of(self._sock.getsockname())

    async def read(self, limit_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, at most `limit_bytes`; empty at the end of the stream."""
        if not self._unread:
            return await self._receive(limit_bytes)
        data, self._unread = self._unread[:limit_bytes], self._unread[limit_bytes:]
        return data

    def unread(self, data: bytes) -> None:
        """Put `data` back: the next read gives it again."""
        self._unread = data + self._unread

    async def read_exactly(self, size_bytes: int) -> bytes:
        """Return `size_bytes` bytes. Raises LabError ``closed`` if the stream ends before."""
        parts = bytearray()
        while len(parts) < size_bytes:
            data = await self.read(size_bytes - len(parts))
            if not data:
                raise LabError("closed", f"the peer closed after {len(parts)} of {size_bytes} bytes")
            parts += data
        return bytes(parts)

    async def read_line(self, limit_bytes: int) -> bytes:
        """Return one line without its LF. Raises LabError ``closed``, or ``too-long`` past `limit_bytes`."""
        parts = b""
        while b"\n" not in parts:
            if len(parts) > limit_bytes:
                raise LabError("too-long", f"no end of line within {limit_bytes} bytes")
            data = await self.read()
            if not data:
                raise LabError("closed", f"the peer closed within a line, after {parts[:80]!r}")
            parts += data
        line, _, rest = parts.partition(b"\n")
        self.unread(rest)
        return line

    async def drain(self) -> int:
        """Read and forget until the peer closes; return how many bytes that were."""
        total = 0
        while data := await self.read():
            total += len(data)
        return total

    async def write(self, data: bytes) -> None:
        """Send all of `data`; waits while the peer does not read."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except OSError as error:
            raise _broken(error) from error
        self.traffic.bytes_out += len(data)

    async def _receive(self, limit_bytes: int) -> bytes:
        try:
            data = await asyncio.get_running_loop().sock_recv(self._sock, limit_bytes)
        except OSError as error:
            raise _broken(error) from error
        self.traffic.bytes_in += len(data)
        return data

    def half_close(self) -> None:
        """Send FIN: we say no more, and still listen."""
        with contextlib.suppress(OSError):  # the peer has reset it already
            self._sock.shutdown(socket.SHUT_WR)

    def doom(self) -> None:
        """Let the coming `close` send RST instead of FIN.

        Apart from `close`, because a task may still wait on the descriptor, whose number must not be
        given to another connection before that task is gone.
        """
        if not self.closed:
            with contextlib.suppress(OSError):  # the peer has reset it already
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)

    def reset(self) -> None:
        """Send RST, and drop what was not delivered. No task may be waiting on this channel."""
        self.doom()
        self._sock.close()

    async def farewell(self) -> None:
        """Close in order: FIN, then wait a moment for the peer's, so that no RST overtakes our last bytes."""
        if self.closed:
            return
        self.half_close()
        with contextlib.suppress(LabError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self.drain()
        self.close()

    def close(self) -> None:
        """Close at once: FIN, or RST if bytes lie unread. No task may be waiting on this channel."""
        self._sock.close()


class TlsChannel(LabChannel):
    """TLS over another channel; `handshake` before anything else."""

    def __init__(self, inner: LabChannel, context: ssl.SSLContext, *, server_side: bool = True) -> None:
        super().__init__(inner._sock, inner.traffic)  # noqa: SLF001 - of the same family
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    async def handshake(self) -> None:
        """Carry the TLS handshake through. Raises LabError ``tls`` or ``closed``."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._feed():
                    raise LabError("closed", "the peer closed within the TLS handshake") from None
            except ssl.SSLError as error:
                raise LabError("tls", f"the TLS handshake failed: {error}") from error
            else:
                return await self._flush()

    async def write(self, data: bytes) -> None:
        """Encrypt and send all of `data`."""
        self._tls.write(data)
        await self._flush()

    async def _receive(self, limit_bytes: int) -> bytes:
        while True:
            try:
                return self._tls.read(limit_bytes)
            except ssl.SSLWantReadError:
                if not await self._feed():
                    return b""  # without close_notify: mstsc and xfreerdp leave so too
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise LabError("tls", f"TLS broke: {error}") from error

    async def _feed(self) -> bool:
        data = await self._inner.read()
        self._incoming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._inner.write(self._outgoing.read())


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all `parts` until they are done, or the first error; raise that bare, after ending the others.

    Not a TaskGroup: early 3.11 releases leave the task half cancelled after a failure in one.
    """
    tasks = [spawn(part, name="lab channel", on_error=_raised_by_gather) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel_and_wait(*tasks)


def _raised_by_gather(_error: BaseException) -> None:
    """Report nothing: `gather` raises it."""


def endpoint_of(address: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    """Return the endpoint of a socket address of either family."""
    return Endpoint(address[0], address[1])


def _broken(error: OSError) -> LabError:
    if isinstance(error, BrokenPipeError | ConnectionResetError | ConnectionAbortedError):
        return LabError("reset", f"the peer broke the connection: {error}")
    return LabError("unreachable", f"the connection failed: {error}")
