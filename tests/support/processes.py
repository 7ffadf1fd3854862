"""Real processes: started with a log, waited for with a deadline, stopped by pid, and nothing left behind."""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.wait import wait_until

_LISTENING: Final = "0A"  # TCP_LISTEN in /proc/net/tcp
_TAG: Final = "TEST_PROCESS_TAG"
_TAIL_CHARACTERS: Final = 3000
_PROC: Final = Path("/proc")


# Ports that the kernel gives nobody by itself (it begins at 32768), a range for each process that runs tests,
# of this run or another: one that was free a moment ago is then not taken by a client of another test, or by
# another test's program.
_FIRST_PORT: Final = 12_000
_PORTS_EACH: Final = 1_000
_RANGES: Final = 20


def _claimed_range() -> int:
    """Claim a range of ports until this process ends. An abstract name is gone with it, without a file."""
    for number in range(_RANGES):
        with contextlib.suppress(OSError):
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0rdpbalancer-tests-ports-{number}")
            except OSError:
                claim.close()
                raise
            claim.detach()  # open as long as the process
            return number
    return os.getpid() % _RANGES  # more runs than ranges


_RANGE: Final = _FIRST_PORT + _claimed_range() * _PORTS_EACH
_own_ports = itertools.cycle(range(_RANGE, _RANGE + _PORTS_EACH))


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return different free TCP ports, for programs that cannot be given port 0."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in itertools.islice(_own_ports, _PORTS_EACH):
            if len(found) == count:
                break
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server((host, port)))
                found.append(port)
        assert count == len(found), f"only {len(found)} free ports of {count}"
        return found


def free_port(host: str = "127.0.0.1") -> int:
    """Return one such port."""
    return free_ports(1, host)[0]


def is_listening(port: int) -> bool:
    """Whether some socket listens on TCP `port`. Asks the kernel: a trial connection would be counted."""
    wanted = f":{port:04X}"
    for table in ("net/tcp", "net/tcp6"):
        for line in (_PROC / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == _LISTENING:
                return True
    return False


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the name: state, parent, group, session ..."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be reaped."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in {"Z", "X"}


def command_line(pid: int) -> str:
    """Return the process's arguments (or the title that it gave itself); empty if it is gone."""
    try:
        return (
            (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except OSError:
        return ""


def all_pids() -> Iterator[int]:
    """Every process of the machine, as seen from here."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def pids_of_user(uid: int, name: str) -> list[int]:
    """The living processes called `name` (the kernel's name: 15 characters) that belong to `uid`."""
    found = []
    for pid in all_pids():
        try:
            owner = (_PROC / str(pid)).stat().st_uid
            called = (_PROC / str(pid) / "comm").read_text().rstrip("\n")
        except OSError:
            continue
        if owner == uid and called == name and is_alive(pid):
            found.append(pid)
    return sorted(found)


class RealProcess:
    """One program, in a session of its own, its output in a file.

    What it starts is recognised by that session or by a tag in the environment, so that a child which made
    itself a daemon is still found. `answers` is what it reads from standard input before that ends.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        answers: str = "",
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        self._tag = uuid.uuid4().hex
        with log.open("wb") as output, tempfile.TemporaryFile() as typed:
            typed.write(answers.encode())
            typed.seek(0)
            self._popen = subprocess.Popen(
                list(argv),
                stdin=typed,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {}), _TAG: self._tag},
                cwd=cwd,
                pass_fds=pass_fds,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; None: it still runs."""
        return self._popen.poll()

    def output(self) -> str:
        """Everything it wrote so far, standard output and error together."""
        return self.log.read_text(errors="replace")

    def describe(self) -> str:
        """Name, state and the end of the output, for a failing test."""
        end = self.output()[-_TAIL_CHARACTERS:]
        return f"{self.name} (pid {self.pid}, exit status {self.returncode}): {end}"

    def children(self) -> list[int]:
        """The living processes that stem from this one, whatever became of their parents."""
        tag = f"{_TAG}={self._tag}".encode()
        return [pid for pid in all_pids() if pid != self.pid and is_alive(pid) and self._stems(pid, tag)]

    def _stems(self, pid: int, tag: bytes) -> bool:
        fields = _stat(pid)
        if fields is not None and int(fields[3]) == self.pid:
            return True
        try:
            return tag in (_PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return False

    def wait_for(self, predicate: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for a condition that this process brings about; fail at once if it ends before."""

        def met_or_ended() -> bool:
            return bool(predicate()) or self.returncode is not None

        wait_until(met_or_ended, timeout_s, lambda: f"{what}; {self.describe()}")
        assert predicate(), f"ended before: {what}; {self.describe()}"

    def wait_for_output(self, pattern: str, timeout_s: float = 10) -> None:
        """Wait until the output matches the regular expression."""
        self.wait_for(lambda: re.search(pattern, self.output()), timeout_s, f"output like {pattern!r}")

    def wait_for_port(self, port: int, timeout_s: float = 10) -> None:
        """Wait until something listens on the TCP port."""
        self.wait_for(lambda: is_listening(port), timeout_s, f"a listener on port {port}")

    def wait(self, timeout_s: float) -> int:
        """Wait for the process's own end and return its exit status."""
        wait_until(lambda: self.returncode is not None, timeout_s, lambda: f"the end of {self.describe()}")
        return self._popen.wait()

    def stop(self, *, signal_number: int = signal.SIGTERM, grace_s: float = 10) -> int:
        """End the process by its pid, with SIGKILL if it does not heed the signal; return its exit status."""
        if self.returncode is None:
            self._popen.send_signal(signal_number)
            try:
                self._popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait()

    def kill_children(self, grace_s: float = 2) -> list[str]:
        """After `stop`: give its children a moment to end, kill the rest, and return who had to be killed."""
        try:
            wait_until(lambda: not self.children(), grace_s, "the end of the children")
        except AssertionError:
            left = self.children()
        else:
            return []
        names = [f"{pid} {command_line(pid)}" for pid in left]
        for pid in left:
            if self._stems(pid, f"{_TAG}={self._tag}".encode()):  # not a reused number
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.children(), 5, "the end of killed children")
        return names


class Processes:
    """The processes of one test. Leaving the `with` block stops them; children left behind fail the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[RealProcess] = []

    def start(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        answers: str = "",
    ) -> RealProcess:
        """Start a program; its output goes to `NN-name.log` in the test's folder."""
        log = self._folder / f"{len(self._started):02d}-{Path(argv[0]).name}.log"
        process = RealProcess(argv, log=log, env=env, cwd=cwd, answers=answers)
        self._started.append(process)
        return process

    def stop_all(self) -> dict[str, list[str]]:
        """End all, last started first; return the children that had to be ended besides, by their parent."""
        for process in reversed(self._started):
            process.stop()
        return {p.describe(): names for p in reversed(self._started) if (names := p.kill_children())}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self.stop_all()
        if error is None:
            assert not left, f"left children behind: {left}"
