"""What all workloads share: what they are given, what they return, and the window that is measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from benchmarks import machine
from benchmarks.figures import percentile
from benchmarks.load.clients import Address, Crowd
from benchmarks.load.loop import LoadError, Loop
from benchmarks.load.servers import Servers, echo

_SETTLE_TIMEOUT_S: Final = 15.0


class Measure(NamedTuple):
    """One row of the table.

    `compared`: the ratio to HAProxy is shown. `target`: that ratio is wanted to be at most this.
    `rated`: a load generator at its limit spoils the value.
    """

    key: str
    title: str
    unit: str
    compared: bool = False
    target: float | None = None
    rated: bool = False


class Scale(NamedTuple):
    """How long is measured, after how long a time that is not."""

    duration_s: float
    warm_up_s: float = 0.2


@dataclass(slots=True)
class Target:
    """A proxy (or a server itself) as the workloads see it. The tag keeps its users apart from others'."""

    address: Address
    tag: str
    sticky: bool
    cpu_ns: Callable[[], int] = lambda: 0
    memory_kib: Callable[[], int] = lambda: 0


@dataclass(slots=True)
class Site:
    """The loop and the terminal servers."""

    loop: Loop
    servers: Servers
    leaving: list[Callable[[], None]] = field(default_factory=list)

    def crowd(self, target: Target) -> Crowd:
        """Return sessions to be, which leave at the latest when the next workload begins."""
        crowd = Crowd(self.loop, target.address)
        self.leaving.append(crowd.leave)
        return crowd

    def settle(self) -> None:
        """Wait until the last workload's connections are gone everywhere, and begin anew."""
        while self.leaving:
            self.leaving.pop()()
        servers = self.servers
        servers.behaviour = echo
        # Health checks come and go.
        self.loop.run_until(
            lambda: servers.open <= len(servers.ports), _SETTLE_TIMEOUT_S, "all connections are closed"
        )
        servers.wrong = 0

    def check_servers(self, target: Target) -> None:
        """Refuse the result if somebody came to another server than before."""
        if target.sticky and self.servers.wrong:
            raise LoadError(f"{self.servers.wrong} connections reached a server that is not their user's")


@dataclass(slots=True)
class Sample:
    """What one run gave: values by the measure's key, and how busy the load generator was (see `Window`)."""

    values: dict[str, float]
    load_share: float = 0.0
    notes: list[str] = field(default_factory=list)


class Workload(Protocol):
    """Something to do through a proxy."""

    @property
    def name(self) -> str:
        """What `--only` calls it; several may share a name."""

    @property
    def title(self) -> str:
        """How the table calls it."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What it measures."""

    @property
    def direct(self) -> bool:
        """Whether it is also run without a proxy, to know what the proxy adds."""

    @property
    def fresh(self) -> bool:
        """Whether it needs a proxy that has done nothing before."""

    def run(self, site: Site, target: Target, scale: Scale) -> Sample:
        """Do it once.

        Raises:
            LoadError: it was not done as it says.
        """


class Window:
    """From when to when is measured: clock, the proxy's CPU time, our own.

    `load_share` is the share of the time in which the load generator worked or wanted to: what it waited for
    its core counts too, because others may use that core.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._own_ns = machine.wanted_cpu_ns()
        self._cpu_ns = target.cpu_ns()
        self._began_at = time.perf_counter()
        self.wall_s = 0.0
        self.cpu_ns = 0
        self.load_share = 0.0

    def end(self) -> None:
        """Take the second reading."""
        self.wall_s = time.perf_counter() - self._began_at
        self.cpu_ns = self._target.cpu_ns() - self._cpu_ns
        self.load_share = (machine.wanted_cpu_ns() - self._own_ns) / 1e9 / self.wall_s


def latencies_us(latencies_ns: list[int]) -> dict[str, float]:
    """Return the values `p50_us` and `p99_us`."""
    if not latencies_ns:
        raise LoadError("nothing was answered")
    ordered = sorted(latencies_ns)
    return {"p50_us": percentile(ordered, 0.5) / 1e3, "p99_us": percentile(ordered, 0.99) / 1e3}
