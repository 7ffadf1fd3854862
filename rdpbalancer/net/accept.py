"""Accepting connections, and standing back when the machine has no descriptor left for one more."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from rdpbalancer.net.listen import BACKLOG

# Connections taken in one turn of the loop: enough for a storm, few enough that running handshakes go on.
_BATCH = 64
_BATCHES_OF_A_BACKLOG = BACKLOG // _BATCH
# Without descriptors or memory the listener would be ready again at once, and the loop would spin.
_STAND_BACK_S = 0.25
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener(socket.socket):
    """A listening TCP socket, in the place of the one given.

    Its `accept` spares two conversions of numbers to enums, which take longer than the call itself.
    """

    def __init__(self, given: socket.socket) -> None:
        self._numbers = int(given.family), int(given.type)
        super().__init__(*self._numbers, 0, given.detach())
        self.setblocking(False)

    def accept(self) -> tuple[socket.socket, Any]:
        """Take a connection. Raises OSError, BlockingIOError if there is none."""
        fd, address = self._accept()  # type: ignore[attr-defined]
        return socket.socket(*self._numbers, 0, fd), address


class Acceptor:
    """Takes connections off one listening socket.

    `on_connection(sock, address)` owns the (non-blocking) socket. `on_shortage(error)` is told of each pause
    because something is short; connections wait in the kernel meanwhile. `crowded(newest)` is asked after
    each connection with the number of the newest descriptor; it says in words why to pause, or nothing.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        on_connection: Callable[[socket.socket, Any], None],
        on_shortage: Callable[[OSError], None],
        crowded: Callable[[int], str] = lambda _newest: "",
    ) -> None:
        self.listener = listener
        self._on_connection = on_connection
        self._on_shortage = on_shortage
        self._crowded = crowded
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._accepting = False

    @property
    def accepting(self) -> bool:
        """Whether connections are being taken."""
        return self._accepting

    def start(self) -> None:
        """Begin, or go on, to accept."""
        if not self._accepting:
            self._accepting = True
            self._loop.add_reader(self.listener, self._ready)

    def stop(self) -> None:
        """Stop accepting; the socket stays open, and new connections wait in the kernel."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self.listener)

    def close(self) -> None:
        """Stop accepting and close this process's copy of the socket."""
        self.stop()
        self.listener.close()

    def take_rest(self) -> None:
        """Take the connections that wait in the kernel now: closing the listener would reset them."""
        for _ in range(_BATCHES_OF_A_BACKLOG):
            if not self._ready():
                return

    def _ready(self) -> bool:
        """Take a batch; return whether there may be more."""
        for _ in range(_BATCH):
            try:
                sock, address = self.listener.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._stand_back(error)
                    return False
                continue  # that one connection failed while it waited (ECONNABORTED, EPROTO ...)
            newest = sock.fileno()
            sock.setblocking(False)
            self._on_connection(sock, address)
            if why := self._crowded(newest):
                self._stand_back(OSError(errno.EMFILE, why))
                return False
        return True

    def _stand_back(self, error: OSError) -> None:
        self.stop()
        self._resume = self._loop.call_later(_STAND_BACK_S, self._again)
        self._on_shortage(error)

    def _again(self) -> None:
        self._resume = None
        try:
            newest = os.dup(self.listener.fileno())
        except OSError as error:
            self._stand_back(error)
            return
        os.close(newest)
        if why := self._crowded(newest):
            self._stand_back(OSError(errno.EMFILE, why))
        else:
            self.start()
