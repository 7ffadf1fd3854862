"""What happened lately: every event is a log line, and the last of them can be asked for."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.log_output import LEVELS

# What `show events` can look back on; an event is a few hundred bytes.
_KEPT = 1000


class Events:
    """Logs events of the farm (servers, relays, reloads, operators) and remembers the last ones."""

    def __init__(self) -> None:
        self._log = logs.get()
        self._recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._last_id = 0
        self.on_event: Callable[[dict[str, Any]], None] | None = None

    def info(self, event: str, **fields: Any) -> None:
        """Something happened, as it should."""
        self._add("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something happened that an operator may have to look at."""
        self._add("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed, and an operator has to act."""
        self._add("error", event, fields)

    def exception(self, event: str, error: BaseException, **fields: Any) -> None:
        """A defect of ours: logged with its traceback, remembered without."""
        self._add("error", event, {**fields, "detail": f"{type(error).__name__}: {error}"}, exc_info=error)

    def pass_on(self, level: str, event: str, **fields: Any) -> None:
        """Something that a process without a log of its own has told, which is named by `process`."""
        log_only = {name: fields.pop(name) for name in ("exception",) if name in fields}
        self._add(level if level in LEVELS else "error", event, fields, **log_only)

    def recent(self) -> list[dict[str, Any]]:
        """Return the last events, in the order in which this process heard of them: by their `id`."""
        return list(self._recent)

    def remember(self, event: dict[str, Any]) -> None:
        """Remember an event that another process of the service has logged."""
        self._recent.append({**event, "id": self._next_id()})

    def _next_id(self) -> int:
        """Return a number that rises, over the restart of the process too: nobody asks twice for the same.

        Milliseconds of Unix time, or one more than the last. 53 bits hold them for a while.
        """
        self._last_id = max(self._last_id + 1, int(time.time() * 1000))
        return self._last_id

    def _add(self, level: str, event: str, fields: dict[str, Any], **log_only: Any) -> None:
        remembered = {"time": time.time(), "level": level, "event": event, **fields}
        self._recent.append({"id": self._next_id(), **remembered})
        getattr(self._log, level)(event, **fields, **log_only)
        if self.on_event is not None:
            self.on_event(remembered)
