"""A proxy as a child process: started on its core with a folder of its own, ended by its process id."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from benchmarks import machine
from benchmarks.load.clients import Address

_STOP_TIMEOUT_S: Final = 15.0
_TAIL_LINES: Final = 5


class MissingProxy(Exception):  # noqa: N818 - it is no error, its column is left out
    """The program is not installed; the text says how to get it."""


class Proxy(Protocol):
    """One column of the table."""

    @property
    def title(self) -> str:
        """How the table calls it."""

    @property
    def sticky(self) -> bool:
        """Whether a user comes back to the same server."""

    def version(self) -> str:
        """Return its version; raises MissingProxy."""

    def start(self, folder: Path, server_ports: Sequence[int], core: int) -> "Running":
        """Start it in an empty folder; it need not serve yet when this returns."""


class Running:
    """A proxy that was started. `record_mark` is what every session's line in its log contains."""

    def __init__(self, argv: Sequence[str], address: Address, folder: Path, core: int, mark: bytes) -> None:
        self.address = address
        self._mark = mark
        self.log = folder / "log"
        pinned = ["taskset", "--cpu-list", str(core), *argv]  # it becomes the program: same process id
        with self.log.open("wb") as output:
            self._popen = subprocess.Popen(
                pinned,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for us; we end it in our own order
            )
        self._pids = [self._popen.pid]

    @property
    def ended(self) -> bool:
        """Whether it is no longer there."""
        return self._popen.poll() is not None

    def refresh(self) -> None:
        """Look again for its processes: call this once it serves."""
        self._pids = machine.family(self._popen.pid)

    def cpu_ns(self) -> int:
        """Return the time that all its processes have spent on a CPU."""
        return machine.cpu_ns(self._pids)

    def memory_kib(self) -> int:
        """Return the memory of all its processes."""
        return machine.pss_kib(self._pids)

    def records(self) -> int:
        """Return how many sessions its log tells of."""
        with self.log.open("rb") as lines:
            return sum(self._mark in line for line in lines)

    def tail(self) -> str:
        """Return the end of what it said beside the sessions' records."""
        with self.log.open("rb") as lines:
            said = b"".join(deque((line for line in lines if self._mark not in line), maxlen=_TAIL_LINES))
        return said.decode(errors="replace")

    def stop(self) -> None:
        """End it; its children too, if it leaves any behind."""
        family = machine.family(self._popen.pid)
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
            for pid in family[1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def find(program: str, package: str) -> str:
    """Return the program's path.

    Raises:
        MissingProxy: it is not installed, or not where it can be found.
    """
    # Debian puts them beside what only the administrator starts.
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise MissingProxy(f"{program} is not installed: apt-get install {package}")
    return path


def free_ports(count: int) -> list[int]:
    """Return different ports that were free a moment ago, for programs that cannot be given port 0."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]
