"""What a log line looks like: JSON, logfmt, or for a terminal; nothing in it steers a terminal."""

import re
from typing import Final

import msgspec

from rdpbalancer.telemetry.lean_structlog import EventDict, Processor, WrappedLogger, structlog

# sd-daemon(3): what systemd's journal takes for the priority of a line.
PRIORITIES: Final = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
# What everybody looks for first, and so comes first in JSON.
FIRST_FIELDS: Final = ("timestamp", "level", "event", "process")
_C1: Final = re.compile("[\x7f-\x9f]")


class Prioritized:
    """Puts the priority before every line that a renderer makes."""

    def __init__(self, renderer: Processor) -> None:
        self._renderer = renderer

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        """Return the event's lines."""
        priority = PRIORITIES[event["level"]]
        text = str(self._renderer(logger, method, event))
        return "\n".join(priority + line for line in text.split("\n"))


def renderers(log_format: str, *, colors: bool) -> list[Processor]:
    """Return what makes a line of an event. `log_format`: json, logfmt or console."""
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
    head = {name: event.pop(name) for name in FIRST_FIELDS if name in event}
    try:
        line = msgspec.json.encode({**head, **event}, enc_hook=repr).decode()
    except UnicodeEncodeError:  # a file's name that is not UTF-8; a record is not lost for that
        line = msgspec.json.encode({**head, **_visible(None, "", event)}, enc_hook=repr).decode()
    return terminal_safe(line)


def terminal_safe(line: str) -> str:
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


class ProcessName:
    """Adds the process's role to every event."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Return the event with its process."""
        del logger, method
        event.setdefault("process", self._name)  # another's, where one logs what it was told
        return event
