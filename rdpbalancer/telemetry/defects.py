"""What nobody has caught reaches the log as everything else does, not standard error as plain text.

Errors of callbacks and tasks, of threads, of finalizers, those that end the process, and what the standard
library says by `logging` and `warnings`.
"""

import asyncio
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from rdpbalancer.telemetry import logs
from rdpbalancer.telemetry.events import Events

# A defect in what every packet passes would fill the disk: so many are told in a minute, the rest is counted.
MOST_A_MINUTE: Final = 30
_MINUTE_S: Final = 60.0


class Defects:
    """Tells of defects, at most so many in a minute. `clock` counts seconds."""

    def __init__(self, events: Events, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._log = logs.get()
        self._clock = clock
        self._began_at = clock()
        self._told = 0
        self._suppressed = 0

    def tell(self, error: BaseException, **fields: Any) -> None:
        """Log a defect with its traceback."""
        if self._may_tell(fields):
            self._events.exception("internal_error", error, **fields)

    def library(self, record: logging.LogRecord) -> None:
        """Log what a library has said by `logging`."""
        fields: dict[str, Any] = {}
        if not self._may_tell(fields):
            return
        error = record.exc_info[1] if record.exc_info else None
        tell = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        tell("library_message", library=record.name, detail=record.getMessage(), exc_info=error, **fields)

    def _may_tell(self, fields: dict[str, Any]) -> bool:
        now = self._clock()
        if now >= self._began_at + _MINUTE_S:
            self._began_at, self._told = now, 0
        self._told += 1
        if self._told > MOST_A_MINUTE:
            self._suppressed += 1
            return False
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        return True

    # ---- where they come from ----------------------------------------------------------------------

    def of_loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Be an event loop's exception handler."""
        error = context.get("exception")
        about = context.get("task") or context.get("future") or context.get("handle")
        fields = {"where": str(context.get("message"))}
        if isinstance(about, asyncio.Task):
            fields["task"] = about.get_name()
        self.tell(error if isinstance(error, BaseException) else RuntimeError(fields["where"]), **fields)

    def of_process(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Be `sys.excepthook`: the error ends this process."""
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        self.tell(error, where="the process ends")

    def of_thread(self, args: threading.ExceptHookArgs) -> None:
        """Be `threading.excepthook`."""
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
            name = args.thread.name if args.thread is not None else "?"
            self.tell(args.exc_value, where=f"the thread {name}")

    def of_nobody(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Be `sys.unraisablehook`: nobody could be told, as in a finalizer."""
        if unraisable.exc_value is not None:
            where = unraisable.err_msg or "Exception ignored in"
            self.tell(unraisable.exc_value, where=f"{where}: {unraisable.object!r}")


class _Handler(logging.Handler):
    def __init__(self, defects: Defects) -> None:
        super().__init__()
        self._defects = defects

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record of `logging` on."""
        self._defects.library(record)


def report(events: Events, *, ends: bool) -> Defects:
    """Have this process and its running loop tell of every defect by `events`.

    `ends`: also of the error that ends it; without, somebody else tells of that.
    """
    defects = Defects(events)
    asyncio.get_running_loop().set_exception_handler(defects.of_loop)
    threading.excepthook = defects.of_thread
    sys.unraisablehook = defects.of_nobody
    if ends:
        sys.excepthook = defects.of_process
    logging.basicConfig(handlers=[_Handler(defects)], level=logging.WARNING, force=True)
    warnings.simplefilter("default")
    logging.captureWarnings(True)
    return defects
