"""Starting processes again: at once, and later and later where they keep dying."""

from collections.abc import Callable
from functools import partial
from typing import Final

from rdpbalancer.telemetry.events import Events

# The first restart is at once; a process that keeps dying is given time, so that the log stays readable.
RESTART_DELAYS_S: Final = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
# A process that has lived this long was healthy: its next restart is at once again.
HEALTHY_S: Final = 60.0


class RestartBackoff:
    """How long to wait before a role's process is started again. Pure: time is an argument."""

    def __init__(self) -> None:
        self._restarts: dict[str, list[float]] = {}

    def delay_s(self, role: str, *, now: float) -> float:
        """Return the seconds to wait, and count this restart."""
        recent = [at for at in self._restarts.get(role, ()) if now - at < HEALTHY_S]
        self._restarts[role] = [*recent, now]
        return RESTART_DELAYS_S[min(len(recent), len(RESTART_DELAYS_S) - 1)]


class Restarts:
    """Starts processes again. `call_later(delay_s, callback)` as an event loop's."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        call_later: Callable[[float, Callable[[], None]], object],
        events: Events,
    ) -> None:
        self._clock = clock
        self._call_later = call_later
        self._events = events
        self._backoff = RestartBackoff()

    def restart(self, role: str, start: Callable[[], None]) -> None:
        """Have `start` called after the role's pause, and again if it raises OSError."""
        delay_s = self._backoff.delay_s(role, now=self._clock())
        self._call_later(delay_s, partial(self._start, role, start))

    def _start(self, role: str, start: Callable[[], None]) -> None:
        try:
            start()
        except OSError as error:
            self.not_started(role, start, error)

    def not_started(self, role: str, start: Callable[[], None], error: OSError) -> None:
        """Report that a process could not be started, for now, and try again."""
        self._events.error("process_not_started", role=role, detail=str(error))
        self.restart(role, start)
