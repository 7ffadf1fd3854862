"""Everybody loses the connection at once and comes back at once; everybody has a desktop to come back to."""

from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter
from typing import ClassVar, Final

from benchmarks.load.clients import requests
from benchmarks.workloads.base import Measure, Sample, Scale, Site, Target, Window

# Several addresses, as a farm sees them: a proxy may bound what one address has half open.
_SOURCES: Final = [f"127.0.1.{number}" for number in range(1, 51)]


@dataclass(frozen=True, slots=True)
class Storm:
    """All clients reconnect at once."""

    clients: int
    name: ClassVar[str] = "storm"
    direct: ClassVar[bool] = False
    fresh: ClassVar[bool] = False
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("last_ms", "until the last is served", "ms", compared=True, rated=True),
        Measure("cpu_us", "CPU per connection", "µs", compared=True),
        Measure("wrong", "reached a wrong server", ""),
    )

    @property
    def title(self) -> str:
        """How the table calls it."""
        return f"storm, {self.clients:,} clients at once"

    def run(self, site: Site, target: Target, scale: Scale) -> Sample:
        """Bind everybody, drop everybody, and let everybody come at the same moment."""
        del scale
        asked = requests(f"{target.tag}s", self.clients)
        crowd = site.crowd(target)
        sources = list(islice(cycle(_SOURCES), self.clients))
        crowd.open(asked, sources=sources)
        crowd.leave()
        site.settle()
        window = Window(target)
        began_at = perf_counter()
        crowd.open(asked, at_once=self.clients, sources=sources)
        last_ms = (perf_counter() - began_at) * 1e3
        window.end()
        crowd.leave()
        wrong = site.servers.wrong
        site.check_servers(target)
        values = {"last_ms": last_ms, "cpu_us": window.cpu_ns / 1e3 / self.clients, "wrong": float(wrong)}
        if not target.sticky:
            del values["wrong"]
        return Sample(values, window.load_share)
