"""Structured logs: one event per line, fixed event names, fields as keys.

On a terminal they are for reading (console); in a file or the journal they are JSON.
"""

import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from rdpbalancer.errors import ConfigurationError

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_HASH_CHARS = 16
# The log file that `configure` has opened, if it was given one.
_opened: Final[list[TextIO]] = []
_C1: Final = re.compile("[\x7f-\x9f]")


def configure(
    *, log_format: str, level: str, file: Path | None = None, process: str, stream: TextIO | None = None
) -> None:
    """Set up logging for this process. `log_format`: auto, json, logfmt or console.

    `auto` is console on a terminal and JSON elsewhere. `process` names this process in every line. A file
    that an earlier call opened is closed. Raises ConfigurationError: the file cannot be written.
    """
    out = stream or (_open(file) if file else sys.stderr)
    if log_format == "auto":
        log_format = "console" if out.isatty() else "json"
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _Process(process),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *_renderers(log_format, colors=out.isatty() and not os.environ.get("NO_COLOR")),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        # In one write: line and line end apart would mix with the other processes' lines (PYTHONUNBUFFERED).
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    while len(_opened) > (out in _opened):
        _opened.pop(0).close()


def check_file(file: Path | None) -> None:
    """Raise ConfigurationError if `file` could not be logged to."""
    if file is not None:
        _open(file)
        _opened.pop().close()


def _open(file: Path) -> TextIO:
    try:
        opened = file.open("a", buffering=1, encoding="utf-8")
    except OSError as error:
        message = f"global.log.file: {file} cannot be written: {error.strerror or error}"
        raise ConfigurationError("log-file", message) from error
    _opened.append(opened)
    return opened


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
    head = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    try:
        line = msgspec.json.encode({**head, **event}, enc_hook=repr).decode()
    except UnicodeEncodeError:  # a file's name that is not UTF-8; a record is not lost for that
        line = msgspec.json.encode({**head, **_visible(None, "", event)}, enc_hook=repr).decode()
    # JSON lets these stand as they are, and some terminals take them for the beginning of a command.
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
        event["process"] = self._name
        return event


class UserNames:
    """How users appear in logs: plain, hashed with a key of this installation, or not at all."""

    def __init__(self, how: str, key: bytes) -> None:
        self._how = how
        self._key = key

    def __call__(self, user: str | None) -> str | None:
        """Return what a log may say of `user`."""
        if user is None or self._how == "off":
            return None
        if self._how == "plain":
            return user
        return hmac.new(self._key, user.lower().encode(), hashlib.sha256).hexdigest()[:_HASH_CHARS]


def installation_key(state_dir: Path) -> bytes:
    """Return the key that user names are hashed with, made at the first start and kept in `state_dir`.

    The same user then has the same hash in every log of this installation, and in no other's.
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
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    fresh.rename(path)
    return key


def get(**fields: Any) -> Any:
    """Return a logger that adds `fields` to every event."""
    return structlog.get_logger().bind(**fields) if fields else structlog.get_logger()
