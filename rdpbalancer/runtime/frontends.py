"""The router's ends of the listening sockets: where clients come in, and where metrics are read."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

from rdpbalancer.core.admission import Admission
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.model import Endpoint
from rdpbalancer.net import descriptors
from rdpbalancer.net.accept import Acceptor, Listener
from rdpbalancer.net.listen import ignore_new
from rdpbalancer.runtime.listeners import CONTROL, wanted_listeners
from rdpbalancer.session import ConnectionHandler
from rdpbalancer.settings.schema import Settings
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.exporter import Exporter, Readiness
from rdpbalancer.telemetry.metrics import Metrics

# A shortage lasts; the metric counts its every quarter of a second, the log need not.
_SHORTAGE_TOLD_S = 10.0
# A handshake of TCP that began at a listener which another one replaces on the same port is finished there:
# a round trip over a slow line.
_REPLACED_S = 0.25


class Frontends:
    """Accepts on the listeners that the supervisor has given, as the configuration in use says.

    `relays_full` tells whether no relay has room for another session.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        admission: Admission,
        sessions: ConnectionHandler,
        metrics: Metrics,
        events: Events,
        clock: Callable[[], float],
        relays_full: Callable[[], bool],
        readiness: Readiness,
    ) -> None:
        self._dispatcher = dispatcher
        self._admission = admission
        self._sessions = sessions
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._relays_full = relays_full
        self._readiness = readiness
        self._descriptor_limit = descriptors.limit()
        self._given: dict[str, socket.socket] = {}
        self._acceptors: dict[str, Acceptor] = {}
        self._exporter: Exporter | None = None
        self._shortage_told_at: dict[str, float] = {}
        self.open = False
        self._stopped_accepting = False
        self._opened: set[str] = set()
        # Where a listener really listens, by its name: port 0 has become a real one.
        self.bound_names: dict[str, str] = {}

    def add_listener(self, name: str, sock: socket.socket) -> None:
        """Take a listening socket of that name; it is used from the next `apply` on."""
        self._given[name] = sock

    def control(self) -> socket.socket:
        """Return the listening control socket."""
        return self._given.pop(CONTROL)

    def take_back(self, names: Iterable[str]) -> None:
        """Close what was given for a reload that has failed."""
        for name in names:
            if (sock := self._given.pop(name, None)) is not None:
                sock.close()

    def missing(self, settings: Settings) -> list[str]:
        """Return the names of listeners that the configuration wants and nobody could open."""
        have = {*self._acceptors, *self._given, CONTROL}
        if self._exporter is not None:
            have.add(f"metrics {settings.global_.metrics.listen}")
        return [name for name in wanted_listeners(settings) if name not in have]

    def stop_removed(self, settings: Settings) -> None:
        """Leave connections to services that go in the kernel: their address may be another's next."""
        remaining = {service.name for service in settings.virtual_services}
        for name, acceptor in self._acceptors.items():
            if name.rpartition(" ")[0] not in remaining:
                acceptor.stop()

    async def apply(self, settings: Settings) -> None:
        """Accept where the configuration says, and stop where it does not say so any more."""
        wanted = wanted_listeners(settings)
        gone = {name: self._acceptors.pop(name) for name in list(self._acceptors) if name not in wanted}
        for service in self._dispatcher.farm.services.values():
            for endpoint in service.listen:
                self._accept(service.name, f"{service.name} {endpoint}")
        await self._close(gone)
        await self.serve_metrics(settings)

    async def _close(self, gone: dict[str, Acceptor]) -> None:
        """Close acceptors. One whose port another listener has now is emptied first: nobody is reset."""
        staying = {acceptor.listener.getsockname()[:2] for acceptor in self._acceptors.values()}
        ports = {port for _, port in staying}
        # The same address under another service's name is the same socket of the kernel: nothing to replace.
        replaced = [
            each
            for each in gone.values()
            if (address := each.listener.getsockname()[:2])[1] in ports and address not in staying
        ]
        for acceptor in replaced:
            ignore_new(acceptor.listener)
        if replaced:
            await asyncio.sleep(_REPLACED_S)
        for acceptor in replaced:
            if acceptor.accepting:
                acceptor.take_rest()
        for name, acceptor in gone.items():
            acceptor.close()
            self.bound_names.pop(name, None)

    def accepts(self, service: str | None) -> bool:
        """Whether connections to that service are accepted; None: to all of them."""
        return self.open or service in self._opened

    def open_service(self, name: str) -> None:
        """Begin to accept for one service."""
        self._opened.add(name)
        service = self._dispatcher.farm.services.get(name)
        for endpoint in service.listen if service is not None else ():
            self._accept(name, f"{name} {endpoint}")

    async def open_all(self, settings: Settings) -> None:
        """Begin to accept for all."""
        self.open = True
        await self.apply(settings)

    def stop_accepting(self) -> None:
        """Accept no more, on what a reload that is under way opens neither."""
        self._stopped_accepting = True
        for acceptor in self._acceptors.values():
            acceptor.close()
        self._acceptors.clear()

    async def close(self) -> None:
        """Accept no more, and serve no metrics."""
        self.stop_accepting()
        if self._exporter is not None:
            await self._exporter.stop()
            self._exporter = None

    def _accept(self, service: str, name: str) -> None:
        listener = self._given.pop(name, None)
        if listener is not None and self._stopped_accepting:
            listener.close()
        elif listener is not None:

            def connected(sock: socket.socket, address: Any) -> None:
                configured = self._dispatcher.farm.services.get(service)
                if configured is None:  # removed by a reload that is still being applied
                    sock.close()
                    return
                self._sessions.connected(configured, sock, address)

            def short(error: OSError) -> None:
                self._accept_paused(service, error)

            host, port = listener.getsockname()[:2]
            self.bound_names[name] = str(Endpoint(host, port))
            self._acceptors[name] = Acceptor(
                Listener(listener), on_connection=connected, on_shortage=short, crowded=self._crowded
            )
        if self.accepts(service) and name in self._acceptors:
            self._acceptors[name].start()

    def _crowded(self, newest: int) -> str:
        """Say why nobody else can be let in for now, or nothing."""
        short = descriptors.short(
            newest,
            limit=self._descriptor_limit,
            half_open=self._admission.half_open,
            servers=len(self._dispatcher.servers.statuses),
        )
        if not short and not self._relays_full():
            return ""
        whose = "the router's" if short else "the relays'"
        return f"{whose} file descriptors are used up; raise LimitNOFILE ({self._descriptor_limit} now)"

    def _accept_paused(self, service: str, error: OSError) -> None:
        self._metrics.accept_pauses.labels(service).inc()
        now = self._clock()
        if now >= self._shortage_told_at.get(service, -_SHORTAGE_TOLD_S) + _SHORTAGE_TOLD_S:
            self._shortage_told_at[service] = now
            self._events.error("accept_paused", service=service, detail=error.strerror or str(error))

    async def serve_metrics(self, settings: Settings) -> None:
        """Serve metrics and probes where the configuration says; before clients may come in, too."""
        listener = self._given.pop(f"metrics {settings.global_.metrics.listen}", None)
        outdated = listener is not None or settings.global_.metrics.listen is None
        if outdated and self._exporter is not None:
            await self._exporter.stop()
            self._exporter = None
        if listener is not None:
            self._exporter = Exporter(self._metrics.registry, readiness=self._readiness)
            await self._exporter.start(listener)
