"""What happened lately: every event is a log line, and the last of them can be asked for."""

import time
from collections import deque
from typing import Any

from rdpbalancer.telemetry import logs

# What `show events` can look back on; an event is a few hundred bytes.
_KEPT = 1000


class Events:
    """Logs events of the farm (servers, relays, reloads, operators) and remembers the last ones."""

    def __init__(self) -> None:
        self._log = logs.get()
        self._recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def info(self, event: str, **fields: Any) -> None:
        """Something happened, as it should."""
        self._add("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something happened that an operator may have to look at."""
        self._add("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed, and an operator has to act."""
        self._add("error", event, fields)

    def recent(self) -> list[dict[str, Any]]:
        """Return the last events, oldest first."""
        return list(self._recent)

    def _add(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self._recent.append({"time": time.time(), "level": level, "event": event, **fields})
        getattr(self._log, level)(event, **fields)
