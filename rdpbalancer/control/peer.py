"""Who is at the other end of a Unix socket: what the kernel says, not what the client does."""

import asyncio
import contextlib
import pwd
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import Final

# A user's name may come from a directory service that hangs; the number is known at once.
_NAME_S: Final = 1.0
_KEPT_S: Final = 300.0
_MAX_KEPT: Final = 256
_UCRED: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class ControlPeer:
    """The process at the other end, as it was when it connected (SO_PEERCRED)."""

    pid: int
    uid: int


def peer_of(sock: socket.socket) -> ControlPeer:
    """Return who is at the other end of a connected Unix socket."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return ControlPeer(pid, uid)


class UserLookup:
    """Names of users by number. They are looked up in a thread, and nobody waits long for it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, str]] = {}
        self._asking: set[int] = set()

    async def name(self, uid: int) -> str:
        """Return the user's name, or the number in text if there is none or it takes too long to learn."""
        known = self._known.get(uid)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        if uid not in self._asking:
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._asking.add(uid)
            # Not the default executor's: a thread that hangs there would hold up the end of the process.
            arguments = (uid, asyncio.get_running_loop(), answer)
            threading.Thread(target=self._look_up, args=arguments, daemon=True).start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NAME_S):
                    return await asyncio.shield(answer)
        return known[1] if known is not None else str(uid)

    def _look_up(self, uid: int, loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[str]") -> None:
        try:
            name = pwd.getpwuid(uid).pw_name
        except (KeyError, OSError):
            name = str(uid)
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(self._learnt, uid, name, answer)

    def _learnt(self, uid: int, name: str, answer: "asyncio.Future[str]") -> None:
        self._asking.discard(uid)
        if len(self._known) >= _MAX_KEPT:
            self._known.clear()
        self._known[uid] = (time.monotonic() + _KEPT_S, name)
        if not answer.done():
            answer.set_result(name)
