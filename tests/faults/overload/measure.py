"""What a flood costs: processor time, memory, the waiting of those who mean well."""

import os
import sys
from pathlib import Path

from tests.support.processes import RealProcess
from tests.support.running_balancer import RunningBalancer

_START_TIMEOUT_S = 15
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """Return the processor time that a process has used, user and system together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def quantile(values: list[float], share: float) -> float:
    """Return the value that `share` of all values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class LimitedBalancer(RunningBalancer):
    """A balancer whose processes may each open no more than `open_files` files."""

    open_files = 256

    def start(self) -> RealProcess:
        """Start it under the limit."""
        self._starts += 1
        command = f'ulimit -n {self.open_files}; exec "$0" "$@"'
        run = [sys.executable, "-m", "rdpbalancer", "run", "-c", str(self.configuration)]
        process = RealProcess(
            ["sh", "-c", command, *run], log=self.folder / f"rdpbalancer-{self._starts}.log"
        )
        self.process = process
        process.wait_for(self._answers, _START_TIMEOUT_S, "rdpbalancer answers `status`")
        return process
