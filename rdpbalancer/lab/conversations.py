"""What a simulated server does after its Connection Confirm, by its `behaviour` setting.

The lab protocol, lines ended by LF, is how a client learns where it has landed::

    client: HELLO <user>
    server: DESKTOP <server> <desktop-id> new|returned <visits>    ... and echoes from then on
        or: REDIRECT <routing token>                               ... and closes
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from rdpbalancer.lab.channel import LabChannel, LabError, together
from rdpbalancer.lab.pattern import pattern
from rdpbalancer.lab.redirect import serve_program
from rdpbalancer.lab.terminal import Session, TerminalServer

MAX_HELLO_BYTES: Final = 600  # a login is at most 104 characters, a domain 255, in UTF-8
CHUNK_BYTES: Final = 65_536
SMALLEST_UPDATE_BYTES: Final = 64

Conversation = Callable[[TerminalServer, Session], Coroutine[Any, Any, None]]


async def echo(_server: TerminalServer, session: Session) -> None:
    """Send back whatever comes, until the client says no more."""
    channel = session.channel
    while data := await channel.read():
        await channel.write(data)


async def sink(_server: TerminalServer, session: Session) -> None:
    """Read and count."""
    await session.channel.drain()


async def stream(server: TerminalServer, session: Session) -> None:
    """Send `stream_bytes` of the pattern while reading; then half-close, or stay until the client leaves."""

    async def send() -> None:
        for offset in range(0, server.stream_bytes, CHUNK_BYTES):
            size_bytes = min(CHUNK_BYTES, server.stream_bytes - offset)
            await session.channel.write(pattern(offset, size_bytes))
        if server.after_stream == "half-close":
            session.channel.half_close()

    await together(send(), sink(server, session))


async def desktop(server: TerminalServer, session: Session) -> None:
    """Send screen updates of random size at `updates_per_s` until the client leaves."""

    async def paint() -> None:
        smallest = min(SMALLEST_UPDATE_BYTES, server.update_bytes)
        while True:
            await session.channel.write(
                server.rng.randbytes(server.rng.randint(smallest, server.update_bytes))
            )
            await asyncio.sleep(server.rng.expovariate(server.updates_per_s))

    async def watch() -> None:
        await session.channel.drain()
        raise LabError("closed", "the client left")  # which ends the painting

    await together(paint(), watch())


async def desktop_login(server: TerminalServer, session: Session) -> None:
    """Log the user in, tell which desktop it is, and echo."""
    user = await _hello(session.channel)
    await _welcome(server, session, user)


async def broker(server: TerminalServer, session: Session) -> None:
    """As `desktop_login`, but send users whose desktop is elsewhere there, real RDP programs included.

    As `gnome`: send every user round twice, to this same server, before there is a desktop.
    """
    if session.carries_token and server.after_token == "close":
        return
    first = await session.channel.read_exactly(1)
    session.channel.unread(first)
    if first != b"H":
        await serve_program(server, session)
        return
    user = await _hello(session.channel)
    token = server.redirection(session, user)
    if token is None:
        await _welcome(server, session, user)
        return
    server.counters.redirects += 1
    await session.channel.write(b"REDIRECT " + token + b"\n")


BEHAVIOURS: Final[dict[str, Conversation]] = {
    "echo": echo,
    "stream": stream,
    "desktop": desktop,
    "sink": sink,
    "desktop-login": desktop_login,
    "broker": broker,
    "gnome": broker,
}


async def _hello(channel: LabChannel) -> str:
    line = await channel.read_line(MAX_HELLO_BYTES)
    word, _, user = line.decode(errors="backslashreplace").strip().partition(" ")
    if word != "HELLO" or not user:
        raise LabError("unexpected-answer", f"expected HELLO and a user, got {line[:80]!r}")
    return user


async def _welcome(server: TerminalServer, session: Session, user: str) -> None:
    place, returned = server.log_in(session, user)
    how = "returned" if returned else "new"
    await session.channel.write(f"DESKTOP {server.name} {place.id} {how} {place.visits}\n".encode())
    await echo(server, session)
