"""Child processes of the supervisor: started, watched by pidfd, asked whether their loops turn, ended."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rdpbalancer.relay.channel import Channel, pair


def start(role: str, arguments: Sequence[str], sockets: Sequence[socket.socket]) -> tuple[int, socket.socket]:
    """Start a child process; return its pid and our end of the line to it."""
    ours, theirs = pair()
    passed = [theirs, *sockets]
    descriptors = [str(sock.fileno()) for sock in passed]
    try:
        process = subprocess.Popen(  # noqa: S603 (our own program, no shell)
            [sys.executable, "-m", "rdpbalancer.runtime.child", role, *descriptors, *arguments],
            pass_fds=[sock.fileno() for sock in passed],
            stdin=subprocess.DEVNULL,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    process.returncode = 0  # watched and reaped by `Child`, by its pid: it may outlive this very program
    return process.pid, ours


class Child:
    """One child process and the supervisor's line to it.

    `on_message(child, message)` gets what it says; `on_exit(child, how)` is called once, when it has ended.
    """

    def __init__(
        self,
        role: str,
        pid: int,
        line: socket.socket,
        *,
        decoder: msgspec.msgpack.Decoder[Any],
        on_message: Callable[["Child", msgspec.Struct], None],
        on_exit: Callable[["Child", str], None],
    ) -> None:
        self.role = role
        self.retiring = False
        self.line = line
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self.pid = pid
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._ended)
        self.answered_at = self._loop.time()
        self.channel = Channel(
            line,
            decoder,
            on_message=lambda message, _sockets: on_message(self, message),
            on_close=lambda: None,  # the pidfd tells
        )

    def kill(self) -> None:
        """End the process at once. It can do nothing about it, and `on_exit` follows."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.channel.close()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._on_exit(self, how)
