"""A simulated RDP client that checks every byte it gets back.

::

    async with LabClient(endpoint, Opening(cookie="alice"), source="127.0.0.2") as client:
        landing = await client.login("alice")       # which server, which desktop, there before?
        await client.echo_check(random.Random(1), 1_000_000)
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from types import TracebackType
from typing import Final, NamedTuple, Self

from rdpbalancer.errors import ProtocolError
from rdpbalancer.lab.channel import LabChannel, LabError, together
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.pattern import pattern
from rdpbalancer.model import Endpoint
from rdpbalancer.net.resolve import resolve
from rdpbalancer.wire.confirm import Confirm, parse_confirm

MAX_REDIRECTS: Final = 5  # two servers that each hold the other responsible must not go on for ever
MAX_LINE_BYTES: Final = 1024
MAX_CHUNK_BYTES: Final = 32_768


class Landing(NamedTuple):
    """Where a login ended. `visit` counts the desktop's connections; `redirects` this login's."""

    server: str
    desktop: str
    returned: bool
    visit: int
    redirects: int


class LabClient:
    """One user's program. Every step has `timeout_s`; what goes wrong is a LabError that says what."""

    def __init__(
        self,
        endpoint: Endpoint,
        opening: LabOpening | None = None,
        *,
        source: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        self.endpoint = endpoint
        self.opening = opening if opening is not None else LabOpening()
        self.confirm: Confirm | None = None
        self._source = source
        self._timeout_s = timeout_s
        self._channel: LabChannel | None = None
        self._remote = endpoint

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def channel(self) -> LabChannel:
        """The connection, for what has no method here. Raises LabError ``closed`` without one."""
        if self._channel is None:
            raise LabError("closed", "the client is not connected: call connect() first")
        return self._channel

    async def open(self) -> Confirm:
        """Connect, send the request, and return the server's confirm.

        Raises LabError: as `connect` and `await_confirm`, and ``negotiation-failure`` if the confirm
        holds an RDP_NEG_FAILURE (`self.confirm` has it).
        """
        await self.connect()
        await self.send_request()
        confirm = await self.await_confirm()
        if confirm.failure is not None:
            raise LabError(
                "negotiation-failure", f"the server answered with RDP_NEG_FAILURE {confirm.failure}"
            )
        return confirm

    async def connect(self) -> None:
        """Dial; of a name's addresses the first that answers.

        Raises LabError ``refused``, ``timeout``, ``unreachable``, ``unresolved``.
        """
        self.close()
        found = await resolve(self.endpoint.host, timeout_s=self._timeout_s)
        if isinstance(found, str):
            raise LabError("unresolved", found)
        for host in found[:-1]:
            with contextlib.suppress(LabError):
                return await self._dial(Endpoint(host, self.endpoint.port))
        return await self._dial(Endpoint(found[-1], self.endpoint.port))

    async def _dial(self, remote: Endpoint) -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in remote.host else socket.AF_INET)
        sock.setblocking(False)
        try:
            async with self._step(f"dialling {remote}"):
                if self._source is not None:
                    sock.bind((self._source, 0))
                await asyncio.get_running_loop().sock_connect(sock, remote)
        except OSError as error:
            sock.close()
            code = "refused" if isinstance(error, ConnectionRefusedError) else "unreachable"
            raise LabError(code, f"{remote} cannot be reached: {error}") from error
        except BaseException:
            sock.close()
            raise
        self._channel, self._remote = LabChannel(sock), remote

    async def send_request(self) -> None:
        """Send everything that comes before the server's turn."""
        opening = self.opening
        data = opening.first_bytes(local=self.channel.local, remote=self._remote)
        size_bytes = opening.chunk_bytes or len(data)
        async with self._step("sending the request"):
            for at in range(0, len(data), size_bytes):
                if at:
                    await asyncio.sleep(opening.pause_s)
                await self.channel.write(data[at : at + size_bytes])

    async def await_confirm(self) -> Confirm:
        """Return the answer if it is a Connection Confirm of any kind.

        Raises LabError ``closed`` or ``reset`` before one is complete, ``timeout``, ``not-confirmed`` for
        another answer; what came is left to be read then.
        """
        data = b""
        async with self._step("awaiting the confirm"):
            while True:
                more = await self.channel.read()
                if not more:
                    raise LabError("closed", f"the server closed after {len(data)} bytes of its confirm")
                data += more
                try:
                    self.confirm = parse_confirm(data)
                except ProtocolError as error:
                    self.channel.unread(data)
                    raise LabError("not-confirmed", str(error)) from error
                if self.confirm is not None:
                    self.channel.unread(data[self.confirm.length :])
                    return self.confirm

    async def login(self, user: str) -> Landing:
        """Log in, following redirections to the same address with the token, as mstsc does.

        Raises LabError ``redirect-loop`` after MAX_REDIRECTS of them, ``unexpected-answer``.
        """
        for redirects in range(MAX_REDIRECTS + 1):
            async with self._step(f"logging {user} in"):
                await self.channel.write(f"HELLO {user}\n".encode())
                line = await self.channel.read_line(MAX_LINE_BYTES)
            word, _, rest = line.partition(b" ")
            if word != b"REDIRECT":
                return _landing(line, redirects)
            # mstsc and xfreerdp leave the cookie out where they have a token.
            self.opening = replace(self.opening, token=rest, cookie=None, raw=None)
            await self.open()
        raise LabError(
            "redirect-loop", f"{user} was redirected more than {MAX_REDIRECTS} times, last to {rest!r}"
        )

    async def echo_check(self, rng: random.Random, total_bytes: int) -> None:
        """Send random bytes in random pieces, and compare what comes back, both at once.

        Raises LabError ``corrupted`` at the first byte that differs, or if more comes than was sent.
        """
        sizes, content = random.Random(rng.getrandbits(64)), random.Random(rng.getrandbits(64))
        reads = random.Random(rng.getrandbits(64))
        outstanding = bytearray()

        async def send() -> None:
            left_bytes = total_bytes
            while left_bytes:
                chunk = content.randbytes(min(left_bytes, sizes.randint(1, MAX_CHUNK_BYTES)))
                outstanding.extend(chunk)  # before the write: the echo may overtake its end
                await self.channel.write(chunk)
                left_bytes -= len(chunk)

        async def receive() -> None:
            done_bytes = 0
            while done_bytes < total_bytes:
                data = await self.channel.read(reads.randint(1, MAX_CHUNK_BYTES))
                _compare(bytes(outstanding[: len(data)]), data, done_bytes)
                del outstanding[: len(data)]
                done_bytes += len(data)

        async with self._step(f"echoing {total_bytes} bytes"):
            await together(send(), receive())

    async def stream_check(self, total_bytes: int) -> None:
        """Read `total_bytes` of a streaming server's pattern and compare. Raises LabError ``corrupted``."""
        done_bytes = 0
        async with self._step(f"reading a stream of {total_bytes} bytes"):
            while done_bytes < total_bytes:
                data = await self.channel.read(min(MAX_CHUNK_BYTES, total_bytes - done_bytes))
                _compare(pattern(done_bytes, len(data)), data, done_bytes)
                done_bytes += len(data)

    async def read_to_end(self, limit_bytes: int = 1_048_576) -> bytes:
        """Return all that comes until the other end closes. Raises LabError ``reset``, ``too-long``."""
        data = bytearray()
        async with self._step("awaiting the end"):
            while more := await self.channel.read():
                data += more
                if len(data) > limit_bytes:
                    raise LabError("too-long", f"more than {limit_bytes} bytes before the end")
        return bytes(data)

    async def stay(self, seconds: float) -> None:
        """Stay connected and read what comes. Raises LabError ``closed``, ``reset``: the other end left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.channel.read():
                    pass
                raise LabError("closed", "the session was ended by the other side")

    async def leave(self) -> None:
        """Disconnect in order: FIN, then wait a moment for the other end's."""
        if self._channel is not None:
            await self._channel.farewell()

    def half_close(self) -> None:
        """Say no more, and still listen."""
        self.channel.half_close()

    def reset(self) -> None:
        """Break off with RST."""
        self.channel.reset()

    def close(self) -> None:
        """Close at once."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @contextlib.asynccontextmanager
    async def _step(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise LabError("timeout", f"{what}: not done within {self._timeout_s} s") from error


def _compare(expected: bytes, received: bytes, offset_bytes: int) -> None:
    if not received:
        raise LabError("closed", f"the other end closed after {offset_bytes} bytes")
    if expected == received:
        return
    if received.startswith(expected):
        raise LabError("corrupted", f"{len(received) - len(expected)} bytes came that were never sent")
    at = next(index for index, pair in enumerate(zip(expected, received, strict=False)) if pair[0] != pair[1])
    raise LabError(
        "corrupted", f"byte {offset_bytes + at}: sent {expected[at]:#04x}, got {received[at]:#04x}"
    )


def _landing(line: bytes, redirects: int) -> Landing:
    """Read `DESKTOP <server> <desktop-id> new|returned <visits>`."""
    match line.decode(errors="replace").split():
        case ["DESKTOP", server, desktop, ("new" | "returned") as how, visit] if visit.isdecimal():
            return Landing(server, desktop, how == "returned", int(visit), redirects)
    raise LabError("unexpected-answer", f"expected DESKTOP or REDIRECT, got {line[:80]!r}")
