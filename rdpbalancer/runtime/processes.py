"""What the kernel knows of the service's processes: how much memory they have, and since when they live."""

import os
import time
from pathlib import Path

from rdpbalancer.control.rows import Process

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Field 22 of /proc/PID/stat, counted from the one behind the name in brackets, which may hold anything.
_START = 22 - 3


def process(role: str, pid: int) -> Process:
    """Return a process's row; what may not be read, or is gone, is None."""
    try:
        folder = Path(f"/proc/{pid}")
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE_BYTES
        ticks = int((folder / "stat").read_text().rpartition(")")[2].split()[_START])
    except (OSError, ValueError, IndexError):
        return Process(role, pid, None, None)
    up_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / _TICKS_PER_S
    return Process(role, pid, resident, round(time.time() - up_s, 1))
