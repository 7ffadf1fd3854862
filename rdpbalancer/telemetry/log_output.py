"""Where log lines go: formatted at once, written with all others of the same turn of the loop."""

import asyncio
import logging
import os
import select
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

import msgspec

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.telemetry.lean_structlog import structlog
from rdpbalancer.telemetry.log_format import PRIORITIES, terminal_safe
from rdpbalancer.telemetry.writer import Writer

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_FILE_BYTES = 1024 * 1024
_BYTES_PER_CHAR = 2  # lines are counted in characters, which are nearly all ASCII


class Line(msgspec.Struct, kw_only=True):
    """An event with fixed fields, the way to log what comes a thousand times a second; see `write`.

    Subclasses add the fields. What stands here is set by `write`, and comes first in JSON.
    """

    timestamp: datetime = datetime.fromtimestamp(0, UTC)
    level: str = "info"
    event: str
    process: str = ""


class LogOutput:
    """Where this process's lines go. To structlog it is the file."""

    def __init__(
        self, out: TextIO | Writer, *, json: bool, level: str, process: str, priorities: bool
    ) -> None:
        self.out = out
        self._json = json
        self._process = process
        self._priorities = priorities
        self.level = LEVELS[level]
        self._lines: list[str] = []
        self._at_once = _bytes_at_once(out)

    def write(self, text: str) -> int:
        """Write what was logged before, and `text`."""
        self.write_lines()
        return self.out.write(text)

    def flush(self) -> None:
        """Hand over what was written."""
        self.out.flush()

    def line(self, line: Line) -> None:
        """Log an event: formatted now, written with all others of this turn of the loop."""
        line.timestamp, line.process = datetime.now(UTC), self._process
        if not self._json:
            fields = msgspec.structs.asdict(line)
            for name in Line.__struct_fields__:
                del fields[name]
            getattr(structlog.get_logger(), line.level)(line.event, **fields)
            return
        text = terminal_safe(msgspec.json.encode(line).decode())
        self._lines.append(PRIORITIES[line.level] + text if self._priorities else text)
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.write_lines)
            except RuntimeError:  # no loop runs: nothing to wait for
                self.write_lines()

    def write_lines(self) -> None:
        """Write the lines that wait, as many at once as stay together: others write to the same place."""
        lines, self._lines = self._lines, []
        while lines:
            count, size = 1, len(lines[0])
            while count < len(lines) and size + len(lines[count]) < self._at_once:
                size += len(lines[count]) + 1
                count += 1
            self.out.write("\n".join((*lines[:count], "")))
            self.out.flush()
            del lines[:count]


def _bytes_at_once(out: TextIO | Writer) -> int:
    """Return how much arrives in one piece: in a file anything, in a pipe PIPE_BUF (pipe(7))."""
    try:
        regular = stat.S_ISREG(os.fstat(out.fileno()).st_mode)
    except OSError:  # no file at all
        regular = True
    return _FILE_BYTES if regular else select.PIPE_BUF // _BYTES_PER_CHAR


def open_log(file: Path) -> Writer:
    """Open a log file. Raises ConfigurationError: it cannot be written."""
    try:
        # O_NONBLOCK: a named pipe that nobody reads would be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o666)
        os.set_blocking(descriptor, True)
    except OSError as error:
        message = f"global.log.file: {file} cannot be written: {error.strerror or error}"
        raise ConfigurationError("log-file", message) from error
    return Writer(descriptor, owned=True)


def is_journal(out: TextIO | Writer) -> bool:
    """Whether systemd's journal reads it, which takes a priority before each line (systemd.exec(5))."""
    try:
        status = os.fstat(out.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
