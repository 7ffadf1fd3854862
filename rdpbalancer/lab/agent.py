"""A simulated feedback agent: one line for whoever connects.

::

    async with LabAgent("75%") as agent:
        agent.endpoint
        agent.reply = "drain"                # from the next connection on
        agent.behave(AgentMode.SILENT)
"""

import asyncio
import contextlib
import socket
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from rdpbalancer.lab.channel import LabChannel, LabError
from rdpbalancer.lab.listener import LabListener
from rdpbalancer.model import Endpoint
from rdpbalancer.tasks import cancel_and_wait, spawn

LONG_LINE: Final = b"x" * 262_144 + b"\n"  # many times any reader's bound, and more than a socket buffers
GARBAGE: Final = bytes(range(128, 256)) + b"\0\n"


class AgentMode(StrEnum):
    """How an agent answers, or does not."""

    ANSWER = "answer"  # the reply and LF
    NO_NEWLINE = "no-newline"  # the reply, ended by closing
    GARBAGE = "garbage"  # bytes that are no text
    LONG_LINE = "long-line"
    SILENT = "silent"  # takes the connection, says nothing
    REFUSE = "refuse"


class LabAgent:
    """Listens while it is entered, or between `start` and `stop`. Port 0: the kernel chooses."""

    def __init__(self, reply: str = "100%", *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.reply = reply
        self.asked = 0
        self._mode = AgentMode.ANSWER
        self._endpoint = Endpoint(host, port)
        self._listener: LabListener | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return self._endpoint

    @property
    def mode(self) -> AgentMode:
        """How it behaves; see `behave`."""
        return self._mode

    def behave(self, mode: AgentMode | str) -> None:
        """Answer in the way of `mode` from the next connection on."""
        self._mode = AgentMode(mode)
        if self._listener is None:
            return
        if self._mode is AgentMode.REFUSE:
            self._listener.refuse()
        else:
            self._listener.serve()

    def start(self) -> None:
        """Listen. After `stop`: on the same port."""
        self._listener = LabListener(*self._endpoint, self._accept)
        self.behave(self._mode)
        self._endpoint = self._listener.endpoint

    async def stop(self) -> None:
        """Stop listening and cut what is open."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await cancel_and_wait(*self._tasks)

    def _accept(self, sock: socket.socket, client: Endpoint) -> None:
        self.asked += 1
        channel = LabChannel(sock)
        task = spawn(self._serve(channel), name=f"lab agent {self._endpoint}: {client}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A task that is cancelled before its first step closes nothing itself.
        task.add_done_callback(lambda _task: channel.close())

    async def _serve(self, channel: LabChannel) -> None:
        try:
            with contextlib.suppress(LabError):  # the asker has heard enough
                if self._mode is AgentMode.SILENT:
                    await channel.drain()
                else:
                    await channel.write(self._answer())
                await channel.farewell()
        finally:
            channel.close()

    def _answer(self) -> bytes:
        match self._mode:
            case AgentMode.NO_NEWLINE:
                return self.reply.encode()
            case AgentMode.GARBAGE:
                return GARBAGE
            case AgentMode.LONG_LINE:
                return LONG_LINE
            case _:
                return self.reply.encode() + b"\n"
