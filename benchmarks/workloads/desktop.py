"""People at work: small messages up, screen updates down, both at a pace of their own."""

import select
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from time import perf_counter, perf_counter_ns
from typing import ClassVar, Final

from benchmarks.load.clients import Client, listener, requests
from benchmarks.load.loop import READ, WRITE, Handler, LoadError
from benchmarks.load.servers import Accepted
from benchmarks.workloads.base import Measure, Sample, Scale, Site, Target, Window, latencies_us

_UP_PER_S: Final = 20
_DOWN_PER_S: Final = 30
_UP_BYTES: Final = 64
_UPDATE_BYTES: Final = (1024, 16 * 1024)
_STAMP_BYTES: Final = 8
_TURN_S: Final = 0.001  # messages are due about so often
_END_TIMEOUT_S: Final = 10.0
_MAX_LATE_S: Final = 0.1
_MAX_DROPPED: Final = 0.01


class _Pace:
    """Calls `send(number)` for numbers 0, 1, 2 ... `per_s` times a second."""

    def __init__(self, per_s: float, send: Callable[[int], None]) -> None:
        self._per_s = per_s
        self._send = send
        self._began_at = perf_counter()
        self.number = 0

    def catch_up(self) -> float:
        """Send what is due; return how late the oldest of it was."""
        due = (perf_counter() - self._began_at) * self._per_s
        late_s = (due - self.number) / self._per_s
        while self.number < due:
            self._send(self.number)
            self.number += 1
        return late_s


class _Desk:
    """All sessions of a run: what was sent, what came, and how long key strokes took to their server."""

    def __init__(self, site: Site) -> None:
        self._loop = site.loop
        rng = Random(7)
        self._updates = [memoryview(bytes(rng.randint(*_UPDATE_BYTES))) for _ in range(997)]
        self._buffer = bytearray(256 * 1024)
        self._pending: dict[int, memoryview] = {}
        self._padding = bytes(_UP_BYTES - _STAMP_BYTES)
        self.clients: list[Client] = []
        self.desktops: list[Accepted] = []
        self.latencies_ns: list[int] = []
        self.sent_up = self.sent_down = self.came_up = self.came_down = 0
        self.updates = self.dropped = 0
        self.failures: list[str] = []

    def desktop(self, accepted: Accepted) -> Handler:
        """Return the handler of the server's side."""
        self.desktops.append(accepted)
        receive = accepted.sock.recv
        rest = b""

        def ready(events: int) -> None:
            nonlocal rest
            if events & select.EPOLLOUT:
                self._send_rest(accepted)
            if not events & ~select.EPOLLOUT:
                return
            try:
                data = receive(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                accepted.close()
                return
            self.came_up += len(data)
            data = rest + data
            now_ns = perf_counter_ns()
            whole = len(data) - len(data) % _UP_BYTES
            for at in range(0, whole, _UP_BYTES):
                self.latencies_ns.append(now_ns - int.from_bytes(data[at : at + _STAMP_BYTES], "little"))
            rest = data[whole:]

        return ready

    def screen(self, client: Client) -> Handler:
        """Return the handler of the client's side."""

        def came(count: int) -> None:
            self.came_down += count

        return listener(client, self._buffer, came, self.failures.append)

    def key_stroke(self, number: int) -> None:
        """Send the next small message up."""
        client = self.clients[number % len(self.clients)]
        stamp = perf_counter_ns().to_bytes(_STAMP_BYTES, "little")
        try:
            self.sent_up += client.sock.send(stamp + self._padding)
        except OSError as error:
            self.failures.append(f"a key stroke did not go out: {error}")

    def update(self, number: int) -> None:
        """Send the next screen update down; drop it if the last one has not left yet, as servers do."""
        accepted = self.desktops[number % len(self.desktops)]
        self.updates += 1
        if accepted.fd in self._pending:
            self.dropped += 1
            return
        data = self._updates[number % len(self._updates)]
        try:
            count = accepted.sock.send(data)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self.failures.append(f"a screen update did not go out: {error}")
            return
        self.sent_down += count
        if count < len(data):
            self._pending[accepted.fd] = data[count:]
            self._loop.change(accepted.fd, READ | WRITE)

    def _send_rest(self, accepted: Accepted) -> None:
        data = self._pending.pop(accepted.fd, None)
        if data is None:
            return
        count = accepted.sock.send(data)
        self.sent_down += count
        if count < len(data):
            self._pending[accepted.fd] = data[count:]
        else:
            self._loop.change(accepted.fd, READ)

    @property
    def quiet(self) -> bool:
        """Whether everything has come that was sent."""
        return not self._pending and self.came_up == self.sent_up and self.came_down == self.sent_down


@dataclass(frozen=True, slots=True)
class Desktop:
    """Desktop sessions; `wanted` of them if the load generator can keep up with so many, else fewer."""

    sessions: int
    wanted: int | None = None
    name: ClassVar[str] = "desktop"
    direct: ClassVar[bool] = True
    fresh: ClassVar[bool] = False
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("cpu_ms", "CPU per session and second", "ms", compared=True, target=1.0),
        Measure("added_p50_us", "added latency of a key stroke, p50", "µs", compared=True, rated=True),
        Measure("added_p99_us", "added latency of a key stroke, p99", "µs", compared=True, rated=True),
    )

    @property
    def title(self) -> str:
        """How the table calls it."""
        fewer = f" (the load generator cannot play {self.wanted})" if self.wanted else ""
        return f"desktop, {self.sessions} sessions{fewer}"

    def run(self, site: Site, target: Target, scale: Scale) -> Sample:
        """Measure for `duration_s`, then wait until every byte that was sent has come."""
        count = self.sessions
        desk = _Desk(site)
        site.servers.behaviour = desk.desktop
        crowd = site.crowd(target)
        crowd.take_over = desk.screen
        crowd.open(requests(target.tag, count))
        desk.clients = crowd.clients
        paces = [_Pace(_UP_PER_S * count, desk.key_stroke), _Pace(_DOWN_PER_S * count, desk.update)]
        self._work(site, paces, scale.warm_up_s)
        desk.latencies_ns.clear()
        window = Window(target)
        late_s = self._work(site, paces, scale.duration_s)
        window.end()
        values = latencies_us(desk.latencies_ns)
        site.loop.run_until(
            lambda: desk.quiet or bool(desk.failures), _END_TIMEOUT_S, "every byte that was sent has come"
        )
        crowd.leave()
        if desk.failures:
            raise LoadError(f"{len(desk.failures)} failures: {desk.failures[0]}")
        site.check_servers(target)
        notes = []
        if late_s > _MAX_LATE_S:
            notes.append(f"the load generator was up to {late_s * 1e3:.0f} ms late")
        if desk.dropped > _MAX_DROPPED * desk.updates:
            notes.append(f"{desk.dropped / desk.updates:.0%} of the screen updates were dropped")
        values["cpu_ms"] = window.cpu_ns / 1e6 / count / window.wall_s
        return Sample(values, window.load_share, notes)

    @staticmethod
    def _work(site: Site, paces: list[_Pace], duration_s: float) -> float:
        end = perf_counter() + duration_s
        late_s = 0.0
        while perf_counter() < end:
            late_s = max([late_s, *(pace.catch_up() for pace in paces)])
            site.loop.turn(_TURN_S)
        return late_s
