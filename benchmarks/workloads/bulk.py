"""Ten sessions whose servers send as fast as they are read: a file copied from the desktop, a video."""

import select
from dataclasses import dataclass
from typing import ClassVar, Final

from benchmarks.load.clients import Client, listener, requests
from benchmarks.load.loop import READ, WRITE, Handler, LoadError
from benchmarks.load.servers import CHUNK_BYTES, Accepted
from benchmarks.workloads.base import Measure, Sample, Scale, Site, Target, Window

SESSIONS: Final = 10
_END_TIMEOUT_S: Final = 10.0


class _Stream:
    """All bytes on their way, and whether more are to come."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._chunk = memoryview(bytes(CHUNK_BYTES))
        self._buffer = bytearray(CHUNK_BYTES)
        self.sent = 0
        self.received = 0
        self.flowing = True
        self.failures: list[str] = []

    def serve(self, accepted: Accepted) -> Handler:
        """Return the handler of a server's side."""
        send, chunk, loop = accepted.sock.send, self._chunk, self._site.loop

        def ready(events: int) -> None:
            if events & ~select.EPOLLOUT:
                accepted.close()
            elif self.flowing:
                try:
                    self.sent += send(chunk)
                except BlockingIOError:
                    return
                except OSError:
                    accepted.close()
            else:
                loop.change(accepted.fd, READ)

        loop.change(accepted.fd, READ | WRITE)
        return ready

    def read(self, client: Client) -> Handler:
        """Return the handler of a client's side."""

        def came(count: int) -> None:
            self.received += count

        return listener(client, self._buffer, came, self.failures.append)


@dataclass(frozen=True, slots=True)
class Bulk:
    """Throughput, server to client."""

    name: ClassVar[str] = "bulk"
    title: ClassVar[str] = "bulk, 10 sessions"
    direct: ClassVar[bool] = False
    fresh: ClassVar[bool] = False
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("cpu_s", "CPU per GB", "s", compared=True, target=0.65),
        Measure("rate", "throughput", "MB/s", rated=True),
    )

    def run(self, site: Site, target: Target, scale: Scale) -> Sample:
        """Measure for `duration_s`, then wait until every byte that was sent has come."""
        stream = _Stream(site)
        site.servers.behaviour = stream.serve
        crowd = site.crowd(target)
        crowd.take_over = stream.read
        crowd.open(requests(target.tag, SESSIONS))
        site.loop.run(scale.warm_up_s)
        before = stream.received
        window = Window(target)
        site.loop.run(scale.duration_s)
        window.end()
        count = stream.received - before
        stream.flowing = False
        site.loop.run_until(
            lambda: stream.received == stream.sent or bool(stream.failures),
            _END_TIMEOUT_S,
            "every byte that was sent has come",
        )
        crowd.leave()
        if stream.failures or not count:
            raise LoadError(f"{count} bytes came, {len(stream.failures)} sessions failed")
        site.check_servers(target)
        values = {"cpu_s": window.cpu_ns / count, "rate": count / 1e6 / window.wall_s}
        return Sample(values, window.load_share)
