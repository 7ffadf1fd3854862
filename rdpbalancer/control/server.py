"""The router's end of the control socket.

Everything that a client can make it hold or do has a bound: how many clients there are, how long a command
and the taking of its answer may last, how many bytes wait, and how much of the event loop's time is used. The
socket is an operator's, but operators have stuck monitors and scripts that loop, and users log in on the same
event loop.
"""

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from rdpbalancer.control.answering import Answering, failure
from rdpbalancer.control.connection import ControlConnection
from rdpbalancer.control.pacing import Pacer
from rdpbalancer.control.parameters import Verb
from rdpbalancer.control.peer import peer_of
from rdpbalancer.control.protocol import MAX_REQUEST_BYTES, ControlResponse, encode
from rdpbalancer.net.descriptors import CONTROL_CLIENTS
from rdpbalancer.tasks import spawn

# What one process may have open, so that a monitor that leaks connections locks out itself and not its
# operator.
MAX_OF_A_PROCESS: Final = CONTROL_CLIENTS // 2
# An answer that has waited this long makes room for somebody else's if there is none.
STUCK_S: Final = 1.0
# Answers that wait to be taken, of all clients together.
MAX_UNTAKEN_BYTES: Final = 8 * 1024 * 1024
_READ_BYTES: Final = 16 * 1024
# Connections taken in one turn of the loop; the rest wait in the kernel for the next one.
_ACCEPTED_AT_ONCE: Final = 16
_SWEEP_S: Final = 0.5
_PAUSE_S: Final = 0.25
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class ControlServer:
    """Takes connections, reads commands and sends answers. `prefix`, `on_error`: see `control.answering`."""

    def __init__(
        self,
        verbs: Mapping[str, Verb],
        *,
        on_error: Callable[[str, Exception], None],
        pacer: Pacer | None = None,
        prefix: str = "cli",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._pacer = pacer or Pacer()
        self._answering = Answering(verbs, on_error=on_error, pacer=self._pacer, prefix=prefix)
        self._listener: socket.socket | None = None
        self._clients: set[ControlConnection] = set()
        self._accepted = 0
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket) -> None:
        """Serve on a listening Unix socket."""
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def stop(self) -> None:
        """Stop serving; the socket file stays, it belongs to the supervisor."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for client in list(self._clients):
            self._drop(client)
        self._answering.forget()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # ---- connections -------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            if self._listener is None:
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS or not self._make_room(self._clients):
                    self._pause()
                    return
                continue
            self._admit(sock)

    def _pause(self) -> None:
        """Leave the listener alone for a moment: what it wants cannot be had now, and it would spin."""
        loop, listener = asyncio.get_running_loop(), self._listener
        if listener is None:
            return
        loop.remove_reader(listener)

        def again() -> None:
            if self._listener is listener:
                loop.add_reader(listener, self._accept)

        loop.call_later(_PAUSE_S, again)

    def _admit(self, sock: socket.socket) -> None:
        self._accepted += 1
        sock.setblocking(False)
        peer = peer_of(sock)
        own = [client for client in self._clients if client.peer.pid == peer.pid]
        if len(own) >= MAX_OF_A_PROCESS:
            room = self._make_room(own)
        else:
            room = len(self._clients) < CONTROL_CLIENTS or self._make_room(self._clients)
        if not room:
            whose = f"process {peer.pid} has" if len(own) >= MAX_OF_A_PROCESS else "there are"
            count = MAX_OF_A_PROCESS if len(own) >= MAX_OF_A_PROCESS else CONTROL_CLIENTS
            _say_and_close(sock, failure("busy", f"{whose} {count} connections, all in use; try again"))
            return
        client = ControlConnection(sock, peer, self._clock())
        self._clients.add(client)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        asyncio.get_running_loop().add_reader(sock, self._readable, client)
        self._readable(client)  # the command is here already, as a rule: whoever is quick is served

    def _make_room(self, among: Iterable[ControlConnection]) -> bool:
        """Part with whoever has done nothing for longest, an unfinished or no command before an answer."""
        now = self._clock()
        idle = [client for client in among if not client.working and client.unsent is None]
        stuck = [client for client in among if client.unsent is not None and now - client.since >= STUCK_S]
        candidates = idle or stuck
        if not candidates:
            return False
        longest = min(candidates, key=lambda client: client.since)
        self._part(longest, "busy", "somebody else needs the connection")
        return True

    def _sweep(self) -> None:
        self._sweeper = None
        now = self._clock()
        for client in list(self._clients):
            allowed_s = client.deadline_s()
            if allowed_s is not None and now - client.since >= allowed_s:
                self._part(client, "timeout", f"no whole command has come in {allowed_s:g} s")
        if self._clients:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _part(self, client: ControlConnection, code: str, why: str) -> None:
        if client.unsent is None and not client.closing:
            with contextlib.suppress(OSError):
                client.sock.send(encode(failure(code, f"the connection is closed: {why}")))
        self._drop(client)

    def _drop(self, client: ControlConnection) -> None:
        if client.gone:
            return
        loop = asyncio.get_running_loop()
        client.gone = True
        client.unsent = None
        self._clients.discard(client)
        loop.remove_reader(client.sock)
        loop.remove_writer(client.sock)
        client.sock.close()

    # ---- commands in -------------------------------------------------------------------------------

    def _readable(self, client: ControlConnection) -> None:
        if client.gone:
            return
        try:
            data = client.sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(client)
            return
        if client.last:  # what it still says is thrown away: its answer may wait, and this would not end
            if client.closing and not data:
                self._drop(client)
            elif not data:
                client.ended = True
                asyncio.get_running_loop().remove_reader(client.sock)
            return
        if not client.received and data:
            client.since = self._clock()
        client.received += data
        if not data:
            client.ended = True
            asyncio.get_running_loop().remove_reader(client.sock)
        self._next(client)

    def _next(self, client: ControlConnection) -> None:
        """Begin with the next command if it is there and the last one has been answered."""
        end = client.received.find(b"\n")
        if end >= 0:
            line = bytes(client.received[:end])
            del client.received[: end + 1]
            client.working = client.asked = True
            # What comes meanwhile waits in the kernel.
            asyncio.get_running_loop().remove_reader(client.sock)
            spawn(self._serve(client, line), name="control command")
        elif len(client.received) > MAX_REQUEST_BYTES:
            # Where such a line ends, and the next begins, is not known.
            client.last = True
            client.received.clear()
            self._send(client, failure("bad-request", f"a request has at most {MAX_REQUEST_BYTES} bytes"))
        elif client.ended:
            self._drop(client)

    async def _serve(self, client: ControlConnection, line: bytes) -> None:
        try:
            answer = await self._pacer.run(self._answering.answer(client.peer, line))
        finally:
            client.working = False
        self._send(client, answer)

    # ---- answers out -------------------------------------------------------------------------------

    def _send(self, client: ControlConnection, answer: ControlResponse) -> None:
        if client.gone:
            return
        data = memoryview(encode(answer))
        client.since = self._clock()
        try:
            sent = client.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._drop(client)
            return
        if sent == len(data):
            self._sent(client)
            return
        # A copy of what is left: the view would keep the whole.
        client.unsent = memoryview(bytes(data[sent:]))
        asyncio.get_running_loop().add_writer(client.sock, self._writable, client)
        self._bound_untaken(client)

    def _bound_untaken(self, newest: ControlConnection) -> None:
        waiting = [client for client in self._clients if client.unsent is not None and client is not newest]
        total = len(newest.unsent or b"") + sum(len(client.unsent or b"") for client in waiting)
        for client in sorted(waiting, key=lambda client: client.since):
            if total <= MAX_UNTAKEN_BYTES:
                return
            total -= len(client.unsent or b"")
            self._drop(client)

    def _writable(self, client: ControlConnection) -> None:
        if client.gone or client.unsent is None:
            return
        try:
            sent = client.sock.send(client.unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(client)
            return
        client.unsent = client.unsent[sent:]
        if not client.unsent:
            client.unsent = None
            asyncio.get_running_loop().remove_writer(client.sock)
            self._sent(client)

    def _sent(self, client: ControlConnection) -> None:
        loop = asyncio.get_running_loop()
        client.since = self._clock()
        if client.last:
            client.closing = True
            client.received.clear()
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_WR)
        if not client.ended:
            loop.add_reader(client.sock, self._readable, client)
        elif client.closing:
            self._drop(client)
            return
        if not client.closing:
            self._next(client)


def _say_and_close(sock: socket.socket, answer: ControlResponse) -> None:
    """Answer what has not been read: its command is thrown away, else the close would be a reset."""
    with contextlib.suppress(OSError):
        sock.send(encode(answer))
        sock.recv(_READ_BYTES)
    sock.close()
