"""A running balancer that many tests share: each gets virtual services of its own, by a reload.

Starting the processes takes a second, a reload takes milliseconds. What a test leaves behind shows in the
audit at its end.
"""

import asyncio
import contextlib
import http.client
import itertools
import os
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from rdpbalancer.control.client import Client, CommandRefusedError, UnreachableError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.lab.server import LabServer
from rdpbalancer.model import Endpoint
from tests.support.balancer import Balancer
from tests.support.processes import command_line, free_ports, is_alive
from tests.support.wait import wait_until, wait_until_async

# Checks often enough that a test does not wait for them, patient enough for a machine with other work.
QUICK_CHECKS: Final = {
    "interval": "200ms",
    "fast_interval": "50ms",
    "timeout": "2s",
    "rise": 2,
    "fall": 2,
}
# What is always there, because a configuration without a service is none.
_RESTING: Final = {
    "name": "resting",
    "mode": "tcp",
    "health_check": {"type": "none"},
    "real_servers": [{"name": "nobody", "address": "127.0.0.1:9"}],
}
_QUIET_S: Final = 8.0
# Verbs that answer in pages; a test wants all rows.
_LISTS: Final = ("sessions", "persistence", "events", "queue")

Servers = Iterable[LabServer | Mapping[str, Any]]
Metrics = dict[str, list[tuple[dict[str, str], float]]]


def real_server(server: LabServer, **keys: Any) -> dict[str, Any]:
    """Return a simulated server as an entry of `real_servers`."""
    return {"name": server.name, "address": str(server.endpoint), **keys}


@asynccontextmanager
async def labs(count: int, **settings: Any) -> AsyncIterator[list[LabServer]]:
    """Run `count` simulated servers, ts1 and so on, with the same settings."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(LabServer(name=f"ts{number}", **settings))
            for number in range(1, count + 1)
        ]


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that carry these labels; `name` without the common prefix."""
    return sum(
        value for found, value in metrics.get(f"rdpbalancer_{name}", []) if labels.items() <= found.items()
    )


class RunningBalancer(Balancer):
    """A balancer, asked over its own control socket rather than by a program for each question.

    Services that `serve` adds are the test's; `clear` takes them away and says what was left behind.
    """

    _names = itertools.count(1)

    def __init__(
        self, folder: Path, *, relays: int | str = 1, services: Sequence[Mapping[str, Any]] = (), **keys: Any
    ) -> None:
        super().__init__(folder, [_RESTING, *services], relays=relays, level="debug")
        self.wanted_relays = relays
        self._global.update({"shutdown_timeout": "5s", **keys})
        self.write_configuration()
        self.guests: list[LabClient] = []

    # ---- configuration -----------------------------------------------------------------------------

    def describe(self, servers: Servers, **keys: Any) -> dict[str, Any]:
        """Return a virtual service of these servers with a name and a port of its own."""
        name = f"vip{next(self._names)}"
        check = {**QUICK_CHECKS, **keys.pop("health_check", {})}
        if keys.get("mode") == "tcp":
            check.setdefault("type", "tcp")
        return {
            "name": name,
            "listen": f"127.0.0.1:{free_ports(1)[0]}",
            "health_check": check,
            "real_servers": [
                real_server(server) if isinstance(server, LabServer) else dict(server) for server in servers
            ],
            **keys,
        }

    async def serve(self, servers: Servers, *, usable: int | None = None, **keys: Any) -> "Vip":
        """Add a virtual service by a reload, wait for its servers, and return it."""
        described = self.describe(servers, **keys)
        self.services.append(described)
        await self.reload()
        vip = Vip(self, described["name"])
        expected = usable if usable is not None else len(described["real_servers"])

        async def ready() -> bool:
            rows = await self.ask("servers", service=vip.name)
            return sum(row["health"] == "up" for row in rows) == expected and not any(
                row["health"] == "checking" for row in rows
            )

        await wait_until_async(ready, 10, lambda: f"{expected} servers of {vip.name} up")
        return vip

    async def reload(self) -> dict[str, Any]:
        """Write the configuration and reload it. Raises RefusedError."""
        self.write_configuration()
        changes: dict[str, Any] = await self.ask("reload")
        return changes

    def set_global(self, **keys: Any) -> None:
        """Change keys of `global` in the file."""
        self._global.update(keys)

    # ---- asking ------------------------------------------------------------------------------------

    def _answers(self) -> bool:
        """Whether it takes connections; asked without starting a program."""
        try:
            return bool(self.ask_now("status")["status"] == "running")
        except (UnreachableError, CommandRefusedError):
            return False

    def ask_now(self, verb: str, **params: Any) -> Any:
        """Ask over the control socket; blocks, so only where no simulated server has to answer."""
        with Client(self.socket) as client:
            return list(client.pages(verb, **params)) if verb in _LISTS else client.call(verb, **params)

    async def ask(self, verb: str, **params: Any) -> Any:
        """Ask over the control socket, while the test's servers and clients go on."""
        return await asyncio.to_thread(self.ask_now, verb, **params)

    async def command(self, *args: str) -> CompletedProcess[str]:
        """Run the real command line; whatever its exit status."""
        return await asyncio.to_thread(self._run, *args)

    async def json(self, *args: str) -> Any:
        """Run the command line with ``--json`` and return what it printed."""
        return await asyncio.to_thread(self.cli, *args, "--json")

    async def answers_again(self, timeout_s: float = 15) -> None:
        """Wait until connections are taken (again)."""
        await wait_until_async(
            lambda: asyncio.to_thread(self._answers), timeout_s, lambda: f"running; {self.tail()}"
        )

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and text of a page of the metrics endpoint."""
        return await asyncio.to_thread(_get, self.metrics, path)

    async def scrape(self) -> Metrics:
        """Read /metrics."""
        status, text = await self.get("/metrics")
        assert 200 == status, text
        found: Metrics = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
        return found

    async def status(self) -> dict[str, Any]:
        """Return what `status` shows."""
        status: dict[str, Any] = await self.ask("status")
        return status

    def tail(self) -> str:
        """Return the end of the log, for a failing test."""
        return self.process.describe() if self.process else "not started"

    # ---- processes ---------------------------------------------------------------------------------

    async def router_pid(self) -> int:
        """Return the router's process id."""
        return int((await self.status())["router"])

    async def relay_pids(self) -> list[int]:
        """Return the relays' process ids."""
        return [int(pid) for pid in (await self.status())["relays"]]

    def processes(self) -> list[int]:
        """Return the process ids of supervisor, router and relays that live now."""
        assert self.process is not None, "not started"
        return [pid for pid in (self.pid, *self.process.children()) if is_alive(pid)]

    def routers(self) -> list[int]:
        """Return the process ids of all routers, asking none of them: at an upgrade there may be none."""
        return [pid for pid in self.processes() if "router" in command_line(pid)]

    def descriptors(self) -> dict[int, int]:
        """Return how many descriptors each process has open."""
        return {pid: open_descriptors(pid) for pid in self.processes()}

    def resident_bytes(self) -> int:
        """Return the resident memory of all processes together."""
        return sum(_resident_bytes(pid) for pid in self.processes())

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one of our own processes, and wait for its end if it is SIGKILL."""
        assert pid in self.processes(), f"{pid} is none of {self.processes()}"
        os.kill(pid, number)
        if number == signal.SIGKILL and pid != self.pid:
            wait_until(lambda: not is_alive(pid), 5, f"the end of {pid}")

    # ---- the log -----------------------------------------------------------------------------------

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the log's events of that name with these fields, oldest first."""
        return [
            event
            for event in self._events()
            if event.get("event") == name and fields.items() <= event.items()
        ]

    def complaints(self) -> list[str]:
        """Return what the log has of errors of our own: tracebacks, background tasks that failed."""
        wrong = re.compile(r"internal_error|Traceback|Exception|never retrieved|background task")
        lines: list[str] = []
        for number in range(1, self._starts + 1):
            text = (self.folder / f"rdpbalancer-{number}.log").read_text(errors="replace")
            lines += [line for line in text.splitlines() if wrong.search(line)]
        return lines

    async def written_down(self, *, bindings: int = 0, overrides: int = 0) -> None:
        """Wait until the durable copy, half a second late, has so many bindings and operator's words."""

        def counts() -> list[int]:
            with contextlib.closing(sqlite3.connect(self.folder / "state" / "state.db")) as state:
                tables = ("SELECT count(*) FROM binding", "SELECT count(*) FROM override")
                return [state.execute(count).fetchone()[0] for count in tables]

        await wait_until_async(
            lambda: counts() == [bindings, overrides],
            5,
            lambda: f"{bindings}, {overrides}; it has {counts()}",
        )

    # ---- the audit ---------------------------------------------------------------------------------

    async def quiet(self, timeout_s: float = _QUIET_S) -> None:
        """Wait until nothing is live and nothing half open."""

        async def nothing_left() -> bool:
            status = await self.status()
            return bool(status["sessions"] == 0 and status["half_open"] == 0)

        await wait_until_async(nothing_left, timeout_s, lambda: f"no session and no half-open; {self.tail()}")

    def dismiss(self) -> None:
        """Close every client that `Vip.client` has made and the test has not."""
        while self.guests:
            self.guests.pop().close()

    async def clear(self, known_descriptors: Mapping[int, int], *, counted: bool = True) -> None:
        """Check that the test left nothing behind, and take its services away.

        `known_descriptors`: what `descriptors` said at its beginning. `counted` False: the router has been
        restarted meanwhile and its counters began anew.
        """
        names = [service["name"] for service in self.services[1:]]
        self.dismiss()
        try:
            await self.quiet()
            if counted:
                await self._balance(names)
        finally:
            del self.services[1:]
            await self.reload()
        await wait_until_async(
            lambda: self._no_more_descriptors(known_descriptors),
            _QUIET_S,
            lambda: f"descriptors as before ({known_descriptors}), not {self.descriptors()}",
        )
        assert [] == self.complaints()

    def _no_more_descriptors(self, known: Mapping[int, int]) -> bool:
        now = self.descriptors()
        return all(count <= known[pid] for pid, count in now.items() if pid in known)

    def _has_records(self, service: str, count: float) -> bool:
        return count <= len([record for record in self.records() if record["service"] == service])

    async def _balance(self, names: Iterable[str]) -> None:
        metrics = await self.scrape()
        for name in names:

            def of(metric: str, service: str = name, **labels: str) -> float:
                return total(metrics, metric, service=service, **labels)

            accepted = of("connections_total")
            ended = of("rejected_total") + of("handshakes_total", result="failed") + of("sessions_total")
            assert accepted == ended, f"{name}: accepted {accepted}, accounted for {ended}"
            assert of("sessions_total") == of("sessions_closed_total"), f"{name}: sessions closed"
            sessions = of("sessions_total")
            # Nobody waits for the log: it is written a moment after a session is counted.
            await wait_until_async(
                partial(self._has_records, name, sessions),
                5,
                lambda: f"{sessions:.0f} records",  # noqa: B023
            )
            records = [record["session"] for record in self.records() if record["service"] == name]
            assert sessions == len(records), f"{name}: {len(records)} records"
            assert len(records) == len(set(records)), f"{name}: a session with two records"


class Vip:
    """One virtual service of a balancer."""

    def __init__(self, balancer: RunningBalancer, name: str) -> None:
        self.balancer = balancer
        self.name = name

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return self.balancer.endpoint(self.name)

    @property
    def description(self) -> dict[str, Any]:
        """Its entry in the configuration, to be changed before a reload."""
        return next(service for service in self.balancer.services if service["name"] == self.name)

    def client(
        self,
        user: str | None = "alice",
        *,
        opening: LabOpening | None = None,
        source: str | None = None,
        timeout_s: float = 20,
    ) -> LabClient:
        """Return a client of this service that is closed at the test's end; not connected yet."""
        client = LabClient(
            self.endpoint, opening or LabOpening(cookie=user), source=source, timeout_s=timeout_s
        )
        self.balancer.guests.append(client)
        return client

    async def opened(
        self, user: str = "alice", *, source: str | None = None, timeout_s: float = 20
    ) -> LabClient:
        """Open a session that lasts until the test's end, at most."""
        client = self.client(user, source=source, timeout_s=timeout_s)
        await client.open()
        return client

    async def servers(self) -> dict[str, dict[str, Any]]:
        """Return its servers' rows by name."""
        rows = await self.balancer.ask("servers", service=self.name)
        return {row["name"]: row for row in rows}

    async def sessions(self) -> list[dict[str, Any]]:
        """Return its live sessions."""
        rows: list[dict[str, Any]] = await self.balancer.ask("sessions", service=self.name)
        return rows

    async def bindings(self) -> dict[str, str]:
        """Return the server of every key."""
        rows = await self.balancer.ask("persistence", service=self.name)
        return {row["key"]: row["server"] for row in rows}

    async def queue(self) -> int:
        """Return how many wait."""
        rows = await self.balancer.ask("services")
        return next(int(row["queue"]) for row in rows if row["name"] == self.name)

    def records(self) -> list[dict[str, Any]]:
        """Return its session records so far."""
        return [record for record in self.balancer.records() if record["service"] == self.name]

    async def count(self, metric: str, **labels: str) -> float:
        """Return a counter's value for this service."""
        return total(await self.balancer.scrape(), metric, service=self.name, **labels)

    async def wait_sessions(self, count: int, timeout_s: float = 10) -> None:
        """Wait until so many sessions are live."""
        await wait_until_async(lambda: self._has(count), timeout_s, f"{count} sessions of {self.name}")

    async def _has(self, count: int) -> bool:
        return len(await self.sessions()) == count

    async def wait_server(self, server: str, timeout_s: float = 10, **fields: Any) -> dict[str, Any]:
        """Wait until a server's row has these fields, and return it."""
        row: dict[str, Any] = {}

        async def as_wanted() -> bool:
            row.update((await self.servers())[server])
            return all(row[name] == value for name, value in fields.items())

        await wait_until_async(as_wanted, timeout_s, lambda: f"{server} with {fields}, it is {row}")
        return row

    async def wait_records(self, count: int, timeout_s: float = 10) -> list[dict[str, Any]]:
        """Wait until so many sessions have been recorded."""
        await wait_until_async(
            lambda: len(self.records()) >= count, timeout_s, lambda: f"{count} records, not {self.records()}"
        )
        return self.records()


def _get(endpoint: Endpoint, path: str) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection(*endpoint, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def open_descriptors(pid: int | None = None) -> int:
    """Return how many descriptors a process has open, this one by default; 0: it is gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid or 'self'}/fd").iterdir())
    except OSError:
        return 0


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
