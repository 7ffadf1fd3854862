"""structlog, without rich.

structlog imports rich where it is installed, to draw tracebacks. The command line needs rich, so it always
is, and each process of the service would hold it for nothing: 4 MB, read in /proc/PID/smaps_rollup of a relay
with and without it. Tracebacks are logged as plain text.
"""

import sys

_there = "rich" in sys.modules  # somebody needs it anyway: a test, the command line
if not _there:
    sys.modules["rich"] = None  # type: ignore[assignment] # what the import system takes for "not installed"
try:
    import structlog
finally:
    if not _there:
        del sys.modules["rich"]

from structlog.typing import EventDict, Processor, WrappedLogger  # noqa: E402 (imports structlog, too)

__all__ = ["EventDict", "Processor", "WrappedLogger", "structlog"]
