"""A listening socket that can refuse, ignore or hang its callers, and come back on the same port."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from rdpbalancer.lab.channel import LabError, endpoint_of
from rdpbalancer.model import Endpoint

BACKLOG: Final = 4096  # a storm of 2,000 users may arrive before the loop comes round
ACCEPTS_PER_WAKE: Final = 64  # so that a storm does not starve the sessions that are already there
ACCEPT_PAUSE_S: Final = 0.1  # out of descriptors: waiting is better than a busy loop on the same error
HANG_FILLERS: Final = 2  # connections that fill an accept queue of backlog 0

_GONE_BEFORE_ACCEPT: Final = {errno.ECONNABORTED, errno.EPROTO}


class LabListener:
    """Accepts by callback. All changes take effect before the call returns."""

    def __init__(self, host: str, port: int, on_accept: Callable[[socket.socket, Endpoint], None]) -> None:
        self._address: tuple[str, int] = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._on_accept = on_accept
        self._sock: socket.socket | None = None
        self._fillers: list[socket.socket] = []
        self._filled_from: set[Endpoint] = set()
        self._resume: asyncio.TimerHandle | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens, with the port that the kernel chose for port 0."""
        return Endpoint(*self._address)

    def serve(self) -> None:
        """Listen and accept, whatever was before. Raises LabError ``bad-option`` if the address is taken."""
        sock = self._sock = self._sock or self._bind()
        self._release_fillers()
        sock.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._accept)

    def refuse(self) -> None:
        """Stop listening: dials are refused. The port stays ours, bound and not listening."""
        self.close()
        self._sock = self._bind()

    def ignore(self) -> None:
        """Let the kernel take connections, and never accept one."""
        self.serve()
        self._stop_accepting()

    def hang(self) -> None:
        """Fill the accept queue: the kernel drops further SYNs, and dials wait in vain.

        Linux takes one connection more than the backlog says, here 0, and then drops SYNs.
        """
        self.ignore()
        assert self._sock is not None  # noqa: S101 - ignore() has just seen to it
        self._sock.listen(0)
        for _ in range(HANG_FILLERS):
            filler = socket.socket(self._family)
            filler.setblocking(False)
            filler.connect_ex(self._address)
            self._fillers.append(filler)
            self._filled_from.add(endpoint_of(filler.getsockname()))

    def close(self) -> None:
        """Give the port up."""
        self._stop_accepting()
        self._release_fillers()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _bind(self) -> socket.socket:
        sock = socket.socket(self._family)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(self._address)
        except OSError as error:
            sock.close()
            raise LabError("bad-option", f"cannot listen on {Endpoint(*self._address)}: {error}") from error
        self._address = endpoint_of(sock.getsockname())
        return sock

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            if self._sock is None:  # closed by what the last caller brought about
                return
            try:
                sock, address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _GONE_BEFORE_ACCEPT:
                    continue
                self._pause()
                return
            client = endpoint_of(address)
            if client in self._filled_from:  # our own, from the time when dials were to hang
                self._filled_from.discard(client)
                sock.close()
            else:
                self._on_accept(sock, client)

    def _pause(self) -> None:
        self._stop_accepting()
        self._resume = asyncio.get_running_loop().call_later(ACCEPT_PAUSE_S, self.serve)

    def _stop_accepting(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _release_fillers(self) -> None:
        while self._fillers:
            self._fillers.pop().close()
