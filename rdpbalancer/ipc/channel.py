"""The private line between two processes of the service: messages and file descriptors, in order.

A Unix SEQPACKET pair keeps message boundaries, so there is no framing to get wrong, and SCM_RIGHTS carries
sockets. The supervisor keeps both kinds of ends open across a router's death: what a relay says meanwhile
waits in the kernel for the next router.
"""

import array
import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rdpbalancer.errors import ChannelError

# One message must fit the kernel's default socket buffer (208 KiB), overhead included; lists go in parts.
MAX_MESSAGE_BYTES = 128 * 1024
MAX_DESCRIPTORS = 64
_ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
# As a plain number: enum's own arithmetic takes longer than the rest of reading a message.
_CUT_SHORT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
# What is taken in one turn of the loop, so that a flood from one process does not starve the rest. Bytes are
# counted too: a message may speak of 32 sessions, some 10 KiB, which takes 2 ms.
_MESSAGES_PER_TURN = 64
_BYTES_PER_TURN = 64 * 1024
# What may still lie in a line whose other end is gone: more than the kernel's buffer has room for.
_LAST_WORDS = 10_000
# Refusals of the kernel that pass by themselves: too many descriptors in flight, or no memory. The socket is
# writable all the while, so that only a timer can tell when to try again.
_SHORTAGES = frozenset({errno.ENOBUFS, errno.ETOOMANYREFS})
_RETRY_S = 0.01

Receiver = Callable[[Any, list[socket.socket]], None]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new line, non-blocking and closed on exec."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.setblocking(False)
    other.setblocking(False)
    return one, other


class Channel:
    """One end of a line. Messages are `msgspec` structs of one tagged union, encoded as MessagePack.

    `on_message(message, sockets)` is called for each message in order; the sockets are the receiver's.
    `on_close()` is called once when the other end is gone or speaks another language. While it runs, sockets
    that are still here can be taken back.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: msgspec.msgpack.Decoder[Any],
        *,
        on_message: Receiver,
        on_close: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()
        self._on_message = on_message
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Sequence[socket.socket]]] = deque()
        self._retry: asyncio.TimerHandle | None = None
        self._watches_writable = False
        self._closed = False
        self.error: ChannelError | None = None
        self._loop.add_reader(self._fd, self._readable)

    @property
    def closed(self) -> bool:
        """Whether the line is down."""
        return self._closed

    @property
    def backlog(self) -> int:
        """Messages that the kernel has not taken yet."""
        return len(self._unsent)

    @property
    def unread(self) -> int:
        """Bytes that the other process has not taken, those in the kernel included; 0 on a closed line."""
        if self._closed:
            return 0
        # SIOCOUTQ (unix(7)); the terminals' name for the same number is the one that Python has.
        (size,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.TIOCOUTQ, bytes(4)))
        return int(size) + sum(len(data) for data, _ in self._unsent)

    def send(self, message: msgspec.Struct, sockets: Sequence[socket.socket] = ()) -> None:
        """Send `message`, and `sockets` with it, whose copies here are closed once they are on their way.

        Never waits: what the kernel does not take now is sent later, in order. On a closed line the sockets
        are closed and the message is dropped: `on_close` has told, or is about to tell, the owner.
        """
        data = self._encoder.encode(message)
        if self._closed:
            _close_all(sockets)
        elif self._unsent:  # something is due already, and brings this with it
            self._unsent.append((data, sockets))
        elif refusal := self._try_send(data, sockets):
            self._unsent.append((data, sockets))
            self._wait_after(refusal)

    def close(self) -> None:
        """Close this end. `on_close` is not called."""
        if self._closed:
            return
        self._shut()
        for sockets in self.take_back():
            _close_all(sockets)

    def take_back(self) -> list[Sequence[socket.socket]]:
        """Return the sockets of each message that the kernel has not taken; none of these will be sent."""
        unsent, self._unsent = self._unsent, deque()
        return [sockets for _, sockets in unsent]

    def _shut(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._ignore_writable()
        if self._retry is not None:
            self._retry.cancel()
        self._sock.close()

    def _try_send(self, data: bytes, sockets: Sequence[socket.socket]) -> int:
        """Return 0 if the kernel has taken the message, else the error number with which it refused."""
        try:
            if sockets:
                descriptors = array.array("i", [sock.fileno() for sock in sockets])
                self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
            else:
                self._sock.send(data)
        except OSError as error:
            return error.errno or errno.EIO
        _close_all(sockets)
        return 0

    def _wait_after(self, refusal: int) -> None:
        """Send the rest later: when there is room again, after a while, or never, as the refusal says."""
        if refusal in _SHORTAGES:
            self._ignore_writable()
            self._retry = self._loop.call_later(_RETRY_S, self._flush)
        elif refusal == errno.EAGAIN:
            if not self._watches_writable:
                self._loop.add_writer(self._fd, self._flush)
                self._watches_writable = True
        else:
            self._ignore_writable()
            self._loop.call_soon(self._hear_last_words, f"cannot send: {os.strerror(refusal)}")

    def _ignore_writable(self) -> None:
        if self._watches_writable:
            self._loop.remove_writer(self._fd)
            self._watches_writable = False

    def _flush(self) -> None:
        self._retry = None
        while self._unsent and not self._closed:
            if refusal := self._try_send(*self._unsent[0]):
                self._wait_after(refusal)
                return
            self._unsent.popleft()
        if not self._closed:
            self._ignore_writable()

    def _readable(self) -> None:
        taken_bytes = 0
        for _ in range(_MESSAGES_PER_TURN):
            size_bytes = self._receive()
            if size_bytes is None:
                return
            taken_bytes += size_bytes
            if taken_bytes > _BYTES_PER_TURN:
                return

    def _receive(self) -> int | None:
        """Take one message and return its size; None: there is none, or the line has been closed by it."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(MAX_MESSAGE_BYTES, _ANCILLARY_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionResetError:
            # It has ended with something of ours unread. What it had said before that comes after the error.
            self._hear_last_words("the other process has ended")
            return None
        except OSError as error:
            self._fail(f"cannot receive: {error}")
            return None
        sockets = _sockets(ancillary) if ancillary else []
        if data:
            self._deliver(data, flags, sockets)
        else:
            _close_all(sockets)
            self._fail("the other process has ended")
        return None if self._closed else len(data)

    def _hear_last_words(self, why: str) -> None:
        """The line is broken: take what still lies in it, and end.

        At once, for there may be no other turn: uvloop watches no descriptor further that has had an error.
        """
        for _ in range(_LAST_WORDS):
            if self._closed or self._receive() is None:
                break
        self._fail(why)

    def _deliver(self, data: bytes, flags: int, sockets: list[socket.socket]) -> None:
        if flags & _CUT_SHORT:
            _close_all(sockets)
            self._fail("a message was cut short")
            return
        try:
            message = self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            _close_all(sockets)
            self._fail(f"the other process speaks another version of the private protocol: {error}")
            return
        self._on_message(message, sockets)

    def _fail(self, why: str) -> None:
        if self._closed:
            return
        self.error = ChannelError("channel", why)
        self._shut()
        self._on_close()
        for sockets in self.take_back():
            _close_all(sockets)


def _sockets(ancillary: list[tuple[int, int, bytes]]) -> list[socket.socket]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    sockets = []
    for descriptor in descriptors:
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        try:
            sock.close()
        except OSError:
            continue
