"""Accepting connections, and standing back when the machine has no descriptor left for one more."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

# Connections taken in one turn of the loop: enough for a storm, few enough that running handshakes go on.
_BATCH = 64
# Without descriptors or memory the listener would be ready again at once, and the loop would spin.
_STAND_BACK_S = 0.25
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Takes connections off one listening socket.

    `on_connection(sock, address)` owns the (non-blocking) socket. `on_shortage(error)` is told when accepting
    pauses because the machine is short of something; connections wait in the kernel meanwhile.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        on_connection: Callable[[socket.socket, Any], None],
        on_shortage: Callable[[OSError], None],
    ) -> None:
        self.listener = listener
        self._on_connection = on_connection
        self._on_shortage = on_shortage
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._accepting = False

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

    def _ready(self) -> None:
        for _ in range(_BATCH):
            try:
                sock, address = self.listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self.stop()
                    self._resume = self._loop.call_later(_STAND_BACK_S, self.start)
                    self._on_shortage(error)
                    return
                continue  # that one connection failed while it waited (ECONNABORTED, EPROTO ...)
            sock.setblocking(False)
            self._on_connection(sock, address)
