"""Structured logs: one event per line, fixed event names, fields as keys.

On a terminal they are for reading (console); in a file or the journal they are JSON.
"""

import asyncio
import atexit
import hashlib
import hmac
import logging
import os
import re
import secrets
import select
import stat
import sys
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TextIO, cast

import msgspec

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.telemetry.lean_structlog import EventDict, Processor, WrappedLogger, structlog
from rdpbalancer.telemetry.writer import Writer

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_HASH_CHARS = 16
_FILE_BYTES = 1024 * 1024
_BYTES_PER_CHAR = 2  # lines are counted in characters, which are nearly all ASCII
# The same users come again and again; a hash takes longer than all of their record.
_HASHES_KEPT = 4096
# What is on its way when the process ends, becomes another program or opens another file has so much time.
_DRAIN_S = 2.0
# sd-daemon(3): what systemd's journal takes for the priority of a line.
_PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
_C1: Final = re.compile("[\x7f-\x9f]")


class Line(msgspec.Struct, kw_only=True):
    """An event with fixed fields, the way to log what comes a thousand times a second; see `write`.

    Subclasses add the fields. What stands here is set by `write`, and comes first in JSON.
    """

    timestamp: datetime = datetime.fromtimestamp(0, UTC)
    level: str = "info"
    event: str
    process: str = ""


class _Output:
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
        text = _terminal_safe(msgspec.json.encode(line).decode())
        self._lines.append(_PRIORITIES[line.level] + text if self._priorities else text)
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


_outputs: Final[list[_Output]] = []
# Where the log was written before, as long as something is on its way there, and what was lost on that way.
_closed: Final[list[Writer]] = []
_lost_before: Final = [0]


def configure(
    *,
    log_format: str,
    level: str,
    file: Path | None = None,
    process: str,
    stream: TextIO | Writer | None = None,
) -> None:
    """Set up logging for this process. `log_format`: auto, json, logfmt or console.

    `auto` is console on a terminal and JSON elsewhere. `process` names this process in every line. A file
    that an earlier call opened is closed. Raises ConfigurationError: the file cannot be written.
    """
    out = stream or (_open(file) if file else _standard_error())
    if log_format == "auto":
        log_format = "console" if out.isatty() else "json"
    priorities = _is_journal(out)
    output = _Output(out, json=log_format == "json", level=level, process=process, priorities=priorities)
    renderers = _renderers(log_format, colors=out.isatty() and not os.environ.get("NO_COLOR"))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _Process(process),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderers[:-1],
            _Prioritized(renderers[-1]) if priorities else renderers[-1],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        # In one write: line and line end apart would mix with the other processes' lines (PYTHONUNBUFFERED).
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", output)),
        cache_logger_on_first_use=False,
    )
    earlier, _outputs[:] = _outputs[:], [output]
    for one in earlier:
        one.write_lines()
        if isinstance(one.out, Writer) and one.out is not out:
            one.out.close(_DRAIN_S)
            _closed.append(one.out)


def wanted(level: str) -> bool:
    """Whether events of this level are logged: to ask before gathering their fields."""
    return not _outputs or LEVELS[level] >= _outputs[0].level


def write(line: Line) -> None:
    """Log an event with fixed fields. In JSON this takes a tenth of the time of `get().info(...)`."""
    if _outputs and wanted(line.level):
        _outputs[0].line(line)


@atexit.register
def flush() -> None:
    """Write what waits to be written, as far as that is possible within two seconds."""
    for output in _outputs:
        output.write_lines()
        if isinstance(output.out, Writer):
            output.out.drain(_DRAIN_S)


def trouble() -> str:
    """Say why the log cannot be written at present, or nothing."""
    return "; ".join(filter(None, (one.out.trouble() for one in _outputs if isinstance(one.out, Writer))))


def lost() -> int:
    """Return how many lines this process has lost."""
    ended = [writer for writer in _closed if writer.ended]
    _lost_before[0] += sum(writer.lost for writer in ended)
    _closed[:] = [writer for writer in _closed if writer not in ended]
    writers = [*_closed, *(one.out for one in _outputs if isinstance(one.out, Writer))]
    return _lost_before[0] + sum(writer.lost for writer in writers)


def check_file(file: Path | None) -> None:
    """Raise ConfigurationError if `file` could not be logged to."""
    if file is not None:
        _open(file).close(0.0)


def _open(file: Path) -> Writer:
    try:
        # O_NONBLOCK: a named pipe that nobody reads would be waited for.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o666)
        os.set_blocking(descriptor, True)
    except OSError as error:
        message = f"global.log.file: {file} cannot be written: {error.strerror or error}"
        raise ConfigurationError("log-file", message) from error
    return Writer(descriptor, owned=True)


def _standard_error() -> TextIO | Writer:
    """Return what writes to standard error: the same as before, if that is it already."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError):  # none at all, or a test's
        return sys.stderr
    for output in _outputs:
        if isinstance(output.out, Writer) and output.out.is_for(descriptor):
            return output.out
    return Writer(descriptor)


def _is_journal(out: TextIO | Writer) -> bool:
    """Whether systemd's journal reads it, which takes a priority before each line (systemd.exec(5))."""
    try:
        status = os.fstat(out.fileno())
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Prioritized:
    """Puts the priority before every line that a renderer makes."""

    def __init__(self, renderer: Processor) -> None:
        self._renderer = renderer

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        priority = _PRIORITIES[event["level"]]
        text = str(self._renderer(logger, method, event))
        return "\n".join(priority + line for line in text.split("\n"))


def _renderers(log_format: str, *, colors: bool) -> list[Processor]:
    if log_format == "json":
        return [_json]
    if log_format == "logfmt":
        return [
            _visible,
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], drop_missing=True, bool_as_flag=False
            ),
        ]
    return [_visible, structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=24)]


def _json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Return the event as one line of JSON, what everybody looks for first at its beginning."""
    del logger, method
    head = {name: event.pop(name) for name in Line.__struct_fields__ if name in event}
    try:
        line = msgspec.json.encode({**head, **event}, enc_hook=repr).decode()
    except UnicodeEncodeError:  # a file's name that is not UTF-8; a record is not lost for that
        line = msgspec.json.encode({**head, **_visible(None, "", event)}, enc_hook=repr).decode()
    return _terminal_safe(line)


def _terminal_safe(line: str) -> str:
    """Escape what JSON lets stand, and some terminals take for the beginning of a command."""
    if line.isascii() and "\x7f" not in line:
        return line
    return _C1.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _visible(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape what would steer a terminal or break the line: names of users are strangers' bytes.

    In JSON they are escaped as JSON does. Tracebacks keep their lines.
    """
    del logger, method
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            kept = "\n" if name == "exception" else ""
            event[name] = "".join(
                char if char.isprintable() or char in kept else char.encode("unicode_escape").decode()
                for char in value
            )
    return event


class _Process:
    """Adds the process's role to every event."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        del logger, method
        event.setdefault("process", self._name)  # another's, where one logs what it was told
        return event


class UserMasking:
    """How users appear in logs: plain, hashed with a key of this installation, or not at all."""

    def __init__(self, how: str, key: bytes) -> None:
        self._how = how
        self._key = key
        self._hash = lru_cache(_HASHES_KEPT)(self._hash_anew)

    def __call__(self, user: str | None) -> str | None:
        """Return what a log may say of `user`."""
        if user is None or self._how == "off":
            return None
        if self._how == "plain":
            return user
        return self._hash(user)

    def _hash_anew(self, user: str) -> str:
        return hmac.new(self._key, user.lower().encode(), hashlib.sha256).hexdigest()[:_HASH_CHARS]


def installation_key(state_dir: Path) -> bytes:
    """Return the key that user names are hashed with, made at the first start and kept in `state_dir`.

    The same user then has the same hash in every log of this installation, and in no other's. Raises OSError:
    it can be neither read nor kept.
    """
    path = state_dir / "user-hash.key"
    try:
        key = path.read_bytes()
        if len(key) >= hashlib.sha256().digest_size:
            return key
    except FileNotFoundError:
        pass
    key = secrets.token_bytes(hashlib.sha256().digest_size)
    # A new file in the place of the old: what is there may be half written, or open to others.
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    return key


def get(**fields: Any) -> Any:
    """Return a logger that adds `fields` to every event."""
    return structlog.get_logger().bind(**fields) if fields else structlog.get_logger()
