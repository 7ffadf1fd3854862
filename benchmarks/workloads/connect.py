"""Fifty clients connect, get their Connection Confirm, reset, and connect again as the next user."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import ClassVar, Final

from benchmarks.load.clients import Client, requests
from benchmarks.load.loop import LoadError
from benchmarks.workloads.base import Measure, Sample, Scale, Site, Target, Window

CLIENTS: Final = 50
_USERS_PER_CLIENT: Final = 20  # nobody is there twice at once; most connections find a binding
_END_TIMEOUT_S: Final = 10.0


class _Crowd:
    """The clients, and how often they were served."""

    def __init__(self, site: Site, target: Target) -> None:
        self._site = site
        self._target = target
        self.served = 0
        self.there = 0
        self.leaving = False
        self.failures: list[str] = []
        self._clients: dict[int, Client] = {}
        site.leaving.append(self.leave)

    def leave(self) -> None:
        """Reset whoever is still there."""
        for client in self._clients.values():
            client.leave()

    def begin(self, number: int, users: Iterator[bytes]) -> None:
        """Let one client come, leave and come again."""
        loop, address = self._site.loop, self._target.address

        def confirmed(client: Client) -> None:
            client.leave()
            self.served += 1
            if self.leaving:
                self.there -= 1
            else:
                again()

        def failed(error: str) -> None:
            self.failures.append(error)
            self.there -= 1

        def again() -> None:
            self._clients[number] = Client(loop, address, next(users), confirmed, failed=failed)

        self.there += 1
        again()


@dataclass(frozen=True, slots=True)
class Connect:
    """New connections, one after the other."""

    name: ClassVar[str] = "connect"
    title: ClassVar[str] = "connect, 50 clients"
    direct: ClassVar[bool] = False
    fresh: ClassVar[bool] = False
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("cpu_us", "CPU per connection", "µs", compared=True, target=1.6),
        Measure("rate", "connections", "1/s", rated=True),
    )

    def run(self, site: Site, target: Target, scale: Scale) -> Sample:
        """Measure for `duration_s`."""
        asked = requests(target.tag, CLIENTS * _USERS_PER_CLIENT)
        crowd = _Crowd(site, target)
        confirmed_before = site.servers.confirmed
        for number in range(CLIENTS):
            crowd.begin(number, cycle(asked[number::CLIENTS]))
        site.loop.run(scale.warm_up_s)
        served_before = crowd.served
        window = Window(target)
        site.loop.run(scale.duration_s)
        window.end()
        served = crowd.served - served_before
        crowd.leaving = True
        site.loop.run_until(lambda: not crowd.there, _END_TIMEOUT_S, "all clients have left")
        if crowd.failures or not served:
            raise LoadError(f"{len(crowd.failures)} connections failed: {crowd.failures[:1]}")
        confirmed = site.servers.confirmed - confirmed_before
        if confirmed != crowd.served:
            raise LoadError(f"{crowd.served} clients have a Connection Confirm, servers gave {confirmed}")
        site.check_servers(target)
        values = {"cpu_us": window.cpu_ns / 1e3 / served, "rate": served / window.wall_s}
        return Sample(values, window.load_share)
