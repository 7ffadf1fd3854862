"""What systemd does for a service: passes listeners, takes notifications, keeps descriptors over a crash."""

import select
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import RealProcess
from tests.support.running_balancer import RunningBalancer

_START_TIMEOUT_S = 15
_MAX_DESCRIPTORS = 16
_MESSAGE_BYTES = 4096
# Puts the descriptors given as arguments to 3, 4 ... (sd_listen_fds(3)) and becomes the service, in this pid.
_PASS_ON = """
import fcntl, os, sys
count = int(sys.argv[1])
passed = [int(number) for number in sys.argv[2:2 + count]]
high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 100) for number in passed]
for number in passed:
    os.close(number)
for at, number in enumerate(high):
    os.dup2(number, 3 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.executable, [sys.executable, *sys.argv[2 + count:]])
"""


class Manager:
    """A service manager's notification socket, and its store of descriptors by name."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.messages: list[dict[str, str]] = []
        self.stored: dict[str, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        for sock in self.stored.values():
            sock.close()

    def listen(self) -> None:
        """Take what has been said so far."""
        while select.select([self._socket], [], [], 0)[0]:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
            message = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.messages.append(message)
            name = message.get("FDNAME", "")
            if "FDSTORE" in message:
                (descriptor,) = descriptors
                self.stored[name] = socket.socket(fileno=descriptor)
            if "FDSTOREREMOVE" in message:
                self.stored.pop(name).close()

    def said(self, **fields: str) -> bool:
        """Whether one message had these fields."""
        self.listen()
        return any(fields.items() <= message.items() for message in self.messages)


class ManagedBalancer(RunningBalancer):
    """A balancer that is started as systemd does it: with listeners, and somebody to notify."""

    passed: Sequence[socket.socket] = ()
    notify: str = ""

    def start(self) -> RealProcess:
        """Start it with the sockets of `passed` as descriptors 3 and following."""
        self._starts += 1
        numbers = [str(sock.fileno()) for sock in self.passed]
        run = ["-m", "rdpbalancer", "run", "-c", str(self.configuration)]
        process = RealProcess(
            [sys.executable, "-c", _PASS_ON, str(len(numbers)), *numbers, *run],
            log=self.folder / f"rdpbalancer-{self._starts}.log",
            env={"NOTIFY_SOCKET": self.notify} if self.notify else {},
            pass_fds=[sock.fileno() for sock in self.passed],
        )
        self.process = process
        process.wait_for(self._answers, _START_TIMEOUT_S, "rdpbalancer answers `status`")
        return process
