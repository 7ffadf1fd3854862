"""The demonstration as a real process, in a pipe or on a terminal, with a temporary folder of its own."""

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from tests.support.processes import RealProcess, all_pids, command_line, is_alive
from tests.support.wait import wait_until

END_S = 45  # the script takes about 6 s on an idle machine

# Or the titles that the balancer's processes give themselves would overwrite, in /proc, the environment by
# which the tests recognise them.
_KEEP_ENVIRONMENT = {"SPT_NOENV": "1"}


class Show:
    """`rdpbalancer demo` in a pipe. `folder` is where it may put temporary files: nothing may stay there."""

    def __init__(self, folder: Path, *args: str, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.process = RealProcess(
            [sys.executable, "-m", "rdpbalancer", "demo", *args],
            log=folder.with_suffix(".log"),
            env={"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", **_KEEP_ENVIRONMENT, **(env or {})},
        )

    @property
    def lines(self) -> list[str]:
        """What it has printed."""
        return self.process.output().splitlines()

    def left_over(self) -> list[str]:
        """Everything that should be gone once it has ended: processes, files."""
        return [*self.process.kill_children(), *(str(path) for path in self.folder.iterdir())]

    def wait_for_balancer(self) -> int:
        """Wait until its balancer has all its processes; return the process id of the supervisor."""
        wanted = {f"rdpbalancer: {role}" for role in ("supervisor", "router", "relay 1", "relay 2")}

        def complete() -> dict[str, int] | None:
            titles = {command_line(pid): pid for pid in self.process.children()}
            return titles if wanted <= titles.keys() else None

        return wait_until(complete, 15, "the balancer's processes")["rdpbalancer: supervisor"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stop()
        self.process.kill_children()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a path that leaves room for a socket's name (108 bytes in all)."""
    with tempfile.TemporaryDirectory(prefix="show-", dir="/tmp") as folder:
        inner = Path(folder) / "tmp"
        inner.mkdir()
        yield inner


class TerminalShow:
    """`rdpbalancer demo` on a terminal of its own. `seen` is everything that was written to it."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        columns: int = 80,
        rows: int = 24,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.seen = b""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        plain = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rdpbalancer", "demo", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={
                **plain,
                "TMPDIR": str(folder),
                "TERM": "xterm-256color",
                "LC_ALL": "C.UTF-8",
                **_KEEP_ENVIRONMENT,
                **(env or {}),
            },
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,))
        self._reader.start()

    def _read(self, terminal: int) -> None:
        with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as screen:
            while data := screen.read(65536):
                self.seen += data

    def processes(self) -> list[str]:
        """Return its processes that live, itself included."""
        mark = f"TMPDIR={self.folder}".encode()

        def stems(pid: int) -> bool:
            try:
                return mark in Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                return False

        return [command_line(pid) for pid in all_pids() if is_alive(pid) and stems(pid)]

    @property
    def text(self) -> str:
        """What was written, with its control sequences."""
        return self.seen.decode(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 20) -> None:
        """Wait until `text` has been written."""
        wait_until(lambda: text in self.text, timeout_s, lambda: f"{text!r} in {self.text[-2000:]!r}")

    def end(self, number: int, timeout_s: float) -> int:
        """Send a signal, and return the exit status that follows within the time."""
        self.process.send_signal(number)
        status = self.process.wait(timeout_s)
        self._reader.join(5)
        return status

    def left_over(self) -> list[str]:
        """Everything that should be gone once it has ended."""
        return [*self.processes(), *(str(path) for path in self.folder.iterdir())]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        self._reader.join(5)
