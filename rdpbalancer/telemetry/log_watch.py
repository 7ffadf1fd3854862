"""Telling that the log itself is in trouble: where else, if not among the events that `show events` has."""

from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.events import Events


class LogWatch:
    """Looks after this process's log; to be called now and then."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lost = logs.lost()
        self._lost_told = self._lost
        self._told = False

    def look(self) -> int:
        """Tell of trouble that has begun or is over; return how many lines were lost since the last call."""
        lost, trouble = logs.lost(), logs.trouble()
        since, self._lost = lost - self._lost, lost
        if (trouble or lost > self._lost_told) and not self._told:
            self._told = True
            detail = trouble or "more was logged than could be written"
            self._events.error("log_not_written", detail=detail)
        elif self._told and not trouble:
            self._told = False
            self._events.info("log_written_again", lines_lost=lost - self._lost_told)
            self._lost_told = lost
        return since
