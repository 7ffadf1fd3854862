"""Thousands of sessions that do nothing: what each of them occupies in the proxy."""

from dataclasses import dataclass
from typing import ClassVar, Final

from benchmarks.load.clients import Client, Crowd, requests
from benchmarks.load.loop import Handler, LoadError
from benchmarks.workloads.base import Measure, Sample, Scale, Site, Target

_QUIET_S: Final = 0.3
_ANSWER_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Idle:
    """Memory of all the proxy's processes (PSS) before and after, per session; the kernel's is not in it."""

    sessions: int
    name: ClassVar[str] = "idle"
    direct: ClassVar[bool] = False
    fresh: ClassVar[bool] = True
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("session_kib", "memory per session", "KiB", compared=True, target=0.8),
        Measure("base_mib", "memory without a session", "MiB"),
    )

    @property
    def title(self) -> str:
        """How the table calls it."""
        return f"idle, {self.sessions:,} sessions"

    def run(self, site: Site, target: Target, scale: Scale) -> Sample:
        """Open them all, wait a moment, and read the memory; then every session has to answer once."""
        del scale
        before_kib = target.memory_kib()
        crowd = site.crowd(target)
        crowd.open(requests(target.tag, self.sessions))
        site.loop.run(_QUIET_S)
        after_kib = target.memory_kib()
        if crowd.failures:
            raise LoadError(crowd.failures[0])
        self._ask_all(site, crowd)
        crowd.leave()
        site.check_servers(target)
        return Sample(
            {"session_kib": (after_kib - before_kib) / self.sessions, "base_mib": before_kib / 1024}
        )

    @staticmethod
    def _ask_all(site: Site, crowd: Crowd) -> None:
        answered = 0

        def listen(client: Client) -> Handler:
            def ready(_events: int) -> None:
                nonlocal answered
                answered += client.sock.recv(16) == b"alive?"

            return ready

        for client in crowd.clients:
            site.loop.handlers[client.fd] = listen(client)
            client.sock.send(b"alive?")
        site.loop.run_until(
            lambda: answered == len(crowd.clients), _ANSWER_TIMEOUT_S, "every idle session answers"
        )
