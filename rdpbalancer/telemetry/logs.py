"""Structured logs: one event per line, fixed event names, fields as keys.

On a terminal they are for reading (console); in a file or the journal they are JSON.
"""

import atexit
import os
import sys
from pathlib import Path
from typing import Any, Final, TextIO, cast

from rdpbalancer.telemetry.lean_structlog import structlog
from rdpbalancer.telemetry.log_format import Prioritized, ProcessName, renderers
from rdpbalancer.telemetry.log_output import LEVELS, Line, LogOutput, is_journal, open_log
from rdpbalancer.telemetry.writer import Writer

# What is on its way when the process ends, becomes another program or opens another file has so much time.
_DRAIN_S = 2.0

_outputs: Final[list[LogOutput]] = []
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
    out = stream or (open_log(file) if file else _standard_error())
    if log_format == "auto":
        log_format = "console" if out.isatty() else "json"
    priorities = is_journal(out)
    output = LogOutput(out, json=log_format == "json", level=level, process=process, priorities=priorities)
    colors = out.isatty() and not os.environ.get("NO_COLOR")
    *before, last = renderers(log_format, colors=bool(colors))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            ProcessName(process),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *before,
            Prioritized(last) if priorities else last,
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
        open_log(file).close(0.0)


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


def get(**fields: Any) -> Any:
    """Return a logger that adds `fields` to every event."""
    return structlog.get_logger().bind(**fields) if fields else structlog.get_logger()
