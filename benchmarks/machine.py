"""What a proxy costs, read from /proc: its processes, their time on the CPU, their memory."""

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_PSS: Final = "Pss:"


class Cores(NamedTuple):
    """Where the two sides run."""

    load: int
    proxy: int


def choose_cores() -> Cores:
    """Take the first two cores this process may use; one core has to do for both if there is no other."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[1] if len(allowed) > 1 else allowed[0])


_SPIN: Final = """
import os, sys
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def awake(cores: Cores) -> Iterator[list[int]]:
    """Keep the cores from falling asleep, with a process on each that runs when nothing else wants to.

    A virtual machine's core that has nothing to do is given back to the host, and comes back late: what is
    then measured of a single session is the host. Gives the process ids; they end with us in any case.
    """
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN, str(core)]) for core in sorted(set(cores))]
    try:
        yield [one.pid for one in spinning]
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def family(root: int) -> list[int]:
    """Return the process and all that stem from it and still have their parents."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, ())
    return found


def _stat(entry: Path) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the name: state, parent ..."""
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the nanoseconds that all threads of the processes have spent on a CPU (proc(5), schedstat)."""
    total = 0
    for pid in pids:
        for task in (_PROC / str(pid) / "task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:  # the thread ended meanwhile
                continue
    return total


def wanted_cpu_ns() -> int:
    """Return the nanoseconds that this thread has worked, or has waited for the CPU because others did."""
    worked, waited, _slices = (_PROC / "thread-self" / "schedstat").read_text().split()
    return int(worked) + int(waited)


def pss_kib(pids: Iterable[int]) -> int:
    """Return the processes' memory in KiB: the proportional set size, so that shared pages count once."""
    total = 0
    for pid in pids:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith(_PSS):
                total += int(line.split()[1])
    return total


def busy_s() -> float:
    """Return the seconds that all CPUs of the machine together have worked since it was started."""
    user, nice, system, _idle, _wait, irq, softirq, steal = (
        int(number) for number in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def describe() -> str:
    """Say on what kind of machine the figures were made."""
    models = [
        line.partition(":")[2].strip()
        for line in (_PROC / "cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    return (
        f"{len(os.sched_getaffinity(0))} cores ({models[0] if models else platform.machine()}),"
        f" Linux {kernel}, Python {platform.python_version()}"
    )
