"""Waiting for one socket, under a deadline: what asyncio offers for transports, for raw sockets.

A session's sockets never belong to a transport, so that they can be handed to a relay at any quiet point.
"""

import asyncio
import socket
from collections.abc import Callable

Arm = Callable[[socket.socket, Callable[[], None]], object]


async def readable(sock: socket.socket, *, deadline_at: float) -> None:
    """Return when `sock` can be read, or has ended. Raises TimeoutError at `deadline_at` (loop time)."""
    loop = asyncio.get_running_loop()
    await _ready(loop, sock, loop.add_reader, loop.remove_reader, deadline_at)


async def writable(sock: socket.socket, *, deadline_at: float) -> None:
    """Return when `sock` can be written, or has failed. Raises TimeoutError at `deadline_at` (loop time)."""
    loop = asyncio.get_running_loop()
    await _ready(loop, sock, loop.add_writer, loop.remove_writer, deadline_at)


async def _ready(
    loop: asyncio.AbstractEventLoop,
    sock: socket.socket,
    arm: Arm,
    disarm: Callable[[socket.socket], object],
    deadline_at: float,
) -> None:
    future: asyncio.Future[bool] = loop.create_future()

    def done(*, in_time: bool) -> None:
        if not future.done():
            future.set_result(in_time)

    arm(sock, lambda: done(in_time=True))
    timer = loop.call_at(deadline_at, lambda: done(in_time=False))
    try:
        if not await future:
            raise TimeoutError
    finally:
        timer.cancel()
        disarm(sock)
