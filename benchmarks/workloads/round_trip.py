"""Sessions that send a message, wait until it has come back whole, and send the next."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import ClassVar, Final

from benchmarks.load.clients import Client, requests
from benchmarks.load.loop import Handler, LoadError
from benchmarks.workloads.base import Measure, Sample, Scale, Site, Target, Window, latencies_us

_END_TIMEOUT_S: Final = 5.0
_LATENCY_TARGET: Final = 1.0


class _Players:
    """All sessions' round trips. While `playing`, every answer is followed by the next message."""

    def __init__(self, size_bytes: int) -> None:
        self.message = bytes(range(256)) * (size_bytes // 256 + 1)
        self.message = self.message[:size_bytes]
        self.latencies_ns: list[int] = []
        self.under_way = 0
        self.playing = True
        self.failures: list[str] = []

    def player(self, client: Client) -> tuple[Handler, Callable[[], None]]:
        """Return the handler of a session and what starts it."""
        receive, send, message = client.sock.recv, client.sock.send, self.message
        size, got, sent_at = len(message), b"", 0

        def serve() -> None:
            nonlocal sent_at
            sent_at = perf_counter_ns()
            if send(message) != size:
                self.failures.append("a message did not fit into an empty socket")
            self.under_way += 1

        def ready(_events: int) -> None:
            nonlocal got
            try:
                data = receive(65536)
            except BlockingIOError:
                return
            except OSError as error:
                lost(str(error))
                return
            got = got + data if got else data
            if got == message:
                self.latencies_ns.append(perf_counter_ns() - sent_at)
                got = b""
                self.under_way -= 1
                if self.playing:
                    serve()
            elif not data or not message.startswith(got):
                lost("what came back is not what was sent")

        def lost(why: str) -> None:
            self.failures.append(why)
            self.under_way -= 1
            client.leave()

        return ready, serve


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """So many sessions, each with one message under way."""

    sessions: int
    size_bytes: int
    name: ClassVar[str] = "round-trip"
    direct: ClassVar[bool] = True
    fresh: ClassVar[bool] = False

    @property
    def title(self) -> str:
        """How the table calls it."""
        many = "1 session" if self.sessions == 1 else f"{self.sessions} sessions"
        return f"round trip, {many}, {self.size_bytes:,} bytes"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """CPU time, and the delay that the proxy adds."""
        alone = self.sessions == 1
        return (
            Measure("cpu_us", "CPU per round trip", "µs", compared=True, target=None if alone else 1.0),
            Measure(
                "added_p50_us",
                "added latency, p50",
                "µs",
                compared=True,
                target=_LATENCY_TARGET if alone and self.size_bytes == 100 else None,
                rated=not alone,
            ),
            Measure("added_p99_us", "added latency, p99", "µs", compared=True, rated=not alone),
        )

    def run(self, site: Site, target: Target, scale: Scale) -> Sample:
        """Measure for `duration_s`."""
        crowd = site.crowd(target)
        crowd.open(requests(target.tag, self.sessions))
        players = _Players(self.size_bytes)
        for client in crowd.clients:
            handler, serve = players.player(client)
            site.loop.handlers[client.fd] = handler
            serve()
        site.loop.run(scale.warm_up_s)
        players.latencies_ns.clear()
        window = Window(target)
        site.loop.run(scale.duration_s)
        window.end()
        players.playing = False
        site.loop.run_until(lambda: players.under_way == 0, _END_TIMEOUT_S, "all messages have come back")
        crowd.leave()
        if players.failures:
            raise LoadError(f"{len(players.failures)} sessions failed: {players.failures[0]}")
        site.check_servers(target)
        values = latencies_us(players.latencies_ns)
        return Sample(
            {"cpu_us": window.cpu_ns / 1e3 / len(players.latencies_ns), **values}, window.load_share
        )
