"""Child processes of the supervisor: started, watched by pidfd, asked whether their loops turn, ended.

What a child has to log goes where the supervisor's own log goes. What it says when it fails (a traceback, the
interpreter's last words) comes through a pipe, so that the log can say why it ended.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from rdpbalancer.ipc.channel import Channel, pair
from rdpbalancer.runtime.program import Program

# The end of what a failing process has said: a traceback of some depth.
_LAST_WORDS_BYTES = 8 * 1024
_READ_BYTES = 4096
# An event with a traceback; a longer one is kept as last words.
_EVENT_BYTES = 64 * 1024
_REASON_CHARS = 300
# The frames of a traceback that matter, and the error.
_OUTPUT_LINES = 20


# Gets level, name and fields of an event.
EventReceiver = Callable[[str, str, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Started:
    """A process that has been started: our end of the channel to it, and of the pipe of its failures."""

    pid: int
    channel: socket.socket
    failures: int


def start(program: Program, role: str, arguments: Sequence[str], sockets: Sequence[socket.socket]) -> Started:
    """Start a child process of `program`. Raises OSError."""
    ours, theirs = pair()
    passed = [theirs, *sockets]
    descriptors = [str(sock.fileno()) for sock in passed]
    failures, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    # Not blocking is for our end alone; writing more than the pipe holds to nobody would lose the end of it.
    os.set_blocking(write_end, True)
    log = os.dup(2)
    try:
        process = subprocess.Popen(  # noqa: S603 (our own program, no shell)
            [*program.command("rdpbalancer.runtime.child"), role, str(log), *descriptors, *arguments],
            env=program.environ(),
            pass_fds=[log, *program.descriptors, *(sock.fileno() for sock in passed)],
            stdin=subprocess.DEVNULL,
            stderr=write_end,
        )
    except OSError:
        ours.close()
        os.close(failures)
        raise
    finally:
        theirs.close()
        os.close(write_end)
        os.close(log)
    process.returncode = 0  # watched and reaped by `Child`, by its pid: it may outlive this very program
    return Started(process.pid, ours, failures)


class LastWords:
    """What a process says on the pipe of its failures: its events as they come, and the end of the rest."""

    def __init__(self, pipe: int, on_event: EventReceiver) -> None:
        self._pipe = pipe
        self._on_event = on_event
        self._said = b""
        self._line = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe, self._readable)

    def _readable(self) -> None:
        try:
            data = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._take(data)
        if not data:
            self._loop.remove_reader(self._pipe)

    def _take(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if event := _event(line):
                level, name = event.pop("level"), event.pop("event")
                self._on_event(level, name, event)
            else:
                self._said = (self._said + line + b"\n")[-_LAST_WORDS_BYTES:]
        if len(self._line) > _EVENT_BYTES:
            self._said, self._line = self._line[-_LAST_WORDS_BYTES:], b""

    def close(self) -> list[str]:
        """Read what is left, close the pipe, and return the lines."""
        self._loop.remove_reader(self._pipe)
        with contextlib.suppress(OSError):  # BlockingIOError: a process of the child's holds it open
            while data := os.read(self._pipe, _READ_BYTES):
                self._take(data)
        os.close(self._pipe)
        return (self._said + self._line).decode(errors="replace").splitlines()


def _event(line: bytes) -> dict[str, Any] | None:
    """Return the fields of an event that a child tells as the log would have it, None: anything else."""
    if not line.startswith(b"{"):
        return None
    try:
        event = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
    for name in ("timestamp", "process"):  # it gets those of whoever logs it
        event.pop(name, None)
    return event if {"level", "event"} <= event.keys() else None


def last_output(lines: list[str]) -> dict[str, list[str]]:
    """Return what a process said at its end as a field of its event, if it said more than its reason."""
    return {"output": lines[-_OUTPUT_LINES:]} if len(lines) > 1 else {}


def reason(lines: Sequence[str]) -> str:
    """Return the line that says why a process failed: the last one, where Python puts the error."""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:_REASON_CHARS] if said else ""


class Child:
    """One child process and the supervisor's channel to it.

    `on_message(child, message)` gets what it says; `on_exit(child, how)` is called once, when it has ended.
    `on_event(child, level, event, fields)` gets what it has to log, if it has no log of its own.
    `failures`: the pipe of its last words; None: a process that an earlier program has started. `last_words`
    are its lines, at its end.
    """

    def __init__(
        self,
        role: str,
        pid: int,
        line: socket.socket,
        *,
        failures: int | None = None,
        decoder: msgspec.msgpack.Decoder[Any],
        on_message: Callable[["Child", msgspec.Struct], None],
        on_exit: Callable[["Child", str], None],
        on_event: Callable[["Child", str, str, dict[str, Any]], None] = lambda *_: None,
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
        self.answered = False
        self.last_words: list[str] = []
        self._failures = None if failures is None else LastWords(failures, partial(on_event, self))
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
        how = _how(code)
        if self._failures is not None:
            self.last_words = self._failures.close()
        why = reason(self.last_words)
        self._on_exit(self, f"{how}: {why}" if why and code else how)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"killed by signal {-code}"
