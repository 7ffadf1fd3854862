"""A simulated terminal server, in the process of a test or in one of its own.

::

    async with LabServer(name="ts1", security="nla") as server:
        server.endpoint                      # 127.0.0.1, a port of the kernel's choice
        server.faults.inject("silent")       # from now on; server.faults.clear() takes it back
        server.counters.requests, server.requests[-1].raw, server.sessions, server.desktops
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rdpbalancer.errors import ProtocolError
from rdpbalancer.lab.agent import LabAgent
from rdpbalancer.lab.channel import LabChannel, LabError
from rdpbalancer.lab.conversations import BEHAVIOURS
from rdpbalancer.lab.faults import Faults, FaultStruckError, FaultyChannel, LabFault
from rdpbalancer.lab.handover import Handover
from rdpbalancer.lab.listener import LabListener
from rdpbalancer.lab.security import answering
from rdpbalancer.lab.terminal import MAX_CONNECTIONS, ReceivedRequest, Session, TerminalServer
from rdpbalancer.model import Endpoint
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.wire.confirm import PROBE
from rdpbalancer.wire.request import parse_request

GARBAGE: Final = b"HTTP/1.1 400 Bad Request\r\n\r\n"

_REQUEST_READ_BYTES: Final = 1024  # a request and its preconnection PDU, and then some


class LabServer(TerminalServer):
    """A terminal server that listens while it is entered, or between `start` and `stop`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        answering(self.security)
        if self.behaviour not in BEHAVIOURS:
            known = ", ".join(BEHAVIOURS)
            raise LabError("bad-option", f"unknown behaviour {self.behaviour!r}; there are {known}")
        self.faults = Faults(self._expose_listener)
        self._listener: LabListener | None = None
        self._tasks: dict[asyncio.Task[None], FaultyChannel] = {}

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def start(self) -> None:
        """Listen. After `stop`: on the same port, with the desktops and counters of before."""
        self._listener = LabListener(self.host, self.port, self._accept)
        self._expose_listener(self.faults.kind)
        self.port = self._listener.endpoint.port

    async def stop(self, *, reset: bool = False) -> None:
        """Stop listening and cut every connection. `reset`: with RST, as a machine that was rebooted."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self.cut(reset=reset)

    async def cut(self, *, user: str | None = None, reset: bool = False) -> None:
        """Close the connections there are: those of `user`, or all. Desktops stay."""
        mine = (
            None if user is None else {session.channel for session in self.sessions if session.user == user}
        )
        chosen = [task for task, channel in self._tasks.items() if mine is None or channel in mine]
        if reset:
            for task in chosen:
                self._tasks[task].doom()
            self.counters.resets += len(chosen)
        await cancel_and_wait(*chosen)

    @property
    def connections(self) -> int:
        """How many connections are open, those without a session included."""
        return len(self._tasks)

    def _expose_listener(self, fault: LabFault) -> None:
        if self._listener is None:
            return
        match fault:
            case LabFault.REFUSE:
                self._listener.refuse()
            case LabFault.BLACKHOLE:
                self._listener.ignore()
            case LabFault.DIAL_HANGS:
                self._listener.hang()
            case _:
                self._listener.serve()

    def _accept(self, sock: socket.socket, client: Endpoint) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            self.counters.turned_away += 1
            sock.close()
            return
        self.counters.accepted += 1
        channel = FaultyChannel(sock, self.counters, self.faults)
        task = spawn(self._serve(channel, client), name=f"lab server {self.name}: {client}")
        self._tasks[task] = channel
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A connection is over. A task that was cancelled before its first step has closed nothing itself."""
        self._tasks.pop(task).close()

    async def _serve(self, channel: FaultyChannel, client: Endpoint) -> None:
        """Carry one connection from its first byte to its close."""
        try:
            await self._converse(channel, client)
            await channel.farewell()
        except FaultStruckError as struck:
            await self._suffer(channel, struck)
        except LabError as error:
            self.counters.resets_received += error.code == "reset"
            await channel.farewell()
        finally:
            channel.close()

    async def _suffer(self, channel: FaultyChannel, struck: FaultStruckError) -> None:
        if struck.code == "reset":
            self.counters.resets += 1
            return
        with contextlib.suppress(LabError):  # half-closed: the client may go on as long as it likes
            await channel.drain()

    async def _converse(self, channel: FaultyChannel, client: Endpoint) -> None:
        match self.faults.kind:
            case LabFault.ACCEPT_THEN_CLOSE:
                return
            case LabFault.ACCEPT_THEN_RESET:
                channel.doom()
                raise FaultStruckError("reset", "reset at once, as told")
            case LabFault.SILENT:
                await channel.drain()
                return
        received = await self._read_request(channel, client)
        admitted, handover = self.admits(received)
        if not admitted:
            return
        answer = answering(self.security)(received.request, received.raw)
        if not await self._answer(channel, answer.data) or answer.then_close:
            return
        if received.raw == PROBE and not await self._is_client(channel, received):
            return
        await self._hold(channel, received, handover)

    async def _hold(
        self, channel: FaultyChannel, received: ReceivedRequest, handover: Handover | None
    ) -> None:
        session = Session(channel, received, received.request.cookie, handover=handover)
        channel.expose()
        self.begin(session)
        try:
            await BEHAVIOURS[self.behaviour](self, session)
        finally:
            self.end(session)

    async def _read_request(self, channel: LabChannel, client: Endpoint) -> ReceivedRequest:
        """Read one request, count it and keep it; what lies behind it stays for the session."""
        data = b""
        while True:
            more = await channel.read(_REQUEST_READ_BYTES)
            if not more:
                self.counters.unfinished += 1
                raise LabError("closed", f"the client closed after {len(data)} bytes of its request")
            data += more
            try:
                request = parse_request(data)  # bounds how much it asks for
            except ProtocolError as error:
                self.counters.malformed += 1
                raise LabError("unexpected-answer", f"not a request ({error.code}): {error}") from error
            if request is not None:
                break
        channel.unread(data[request.length :])
        received = ReceivedRequest(request, data[: request.length], client)
        if received.raw == PROBE:
            self.counters.probes += 1
        else:
            self._keep(received)
        return received

    def _keep(self, received: ReceivedRequest) -> None:
        self.counters.requests += 1
        self.counters.tokens += received.request.token is not None
        self.requests.append(received)

    async def _is_client(self, channel: LabChannel, received: ReceivedRequest) -> bool:
        """Tell a client whose request equals a probe (no cookie) by its going on after the confirm."""
        first = await channel.read(1)
        if first:
            channel.unread(first)
            self.counters.probes -= 1
            self._keep(received)
        return bool(first)

    async def _answer(self, channel: LabChannel, data: bytes) -> bool:
        """Send the answer as the present fault demands. False: the conversation ends with it."""
        faults = self.faults
        match faults.kind:
            case LabFault.GARBAGE_REPLY:
                await channel.write(GARBAGE)
                return False
            case LabFault.PARTIAL_CONFIRM_THEN_CLOSE:
                await channel.write(data[: len(data) // 2])
                return False
            case LabFault.SLOW_CONFIRM:
                await asyncio.sleep(faults.delay_s)
                await channel.write(data)
            case LabFault.CONFIRM_BYTE_BY_BYTE:
                for at in range(len(data)):
                    await channel.write(data[at : at + 1])
                    await asyncio.sleep(faults.delay_s)
            case _:
                await channel.write(data)
        self.counters.confirms += 1
        return True


async def run_server(
    server: LabServer, *, agent: LabAgent | None = None, ready: Callable[[Endpoint], None]
) -> None:
    """Run `server`, and its feedback agent, until cancelled. `ready` is told the address."""
    async with server:
        if agent is None:
            ready(server.endpoint)
            await asyncio.Event().wait()
            return
        async with agent:
            ready(server.endpoint)
            await asyncio.Event().wait()
