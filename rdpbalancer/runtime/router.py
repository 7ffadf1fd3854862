"""The router process: the one that decides.

It takes listening sockets and relays from the supervisor, and connections from the listeners. When it dies
the next one learns every live session from the relays, and operators' overrides and bindings from the store.
"""

import asyncio
import socket

import msgspec

from rdpbalancer.control.server import ControlServer
from rdpbalancer.core.readiness import HealthWord
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.ipc import router_messages
from rdpbalancer.ipc.channel import Channel
from rdpbalancer.runtime.background import Background
from rdpbalancer.runtime.lifecycle import Lifecycle
from rdpbalancer.runtime.readiness import RouterReadiness
from rdpbalancer.runtime.reload import Reloader
from rdpbalancer.runtime.router_parts import RouterParts
from rdpbalancer.runtime.running_config import RunningConfig
from rdpbalancer.runtime.service_verbs import ServiceVerbs
from rdpbalancer.runtime.startup import Startup
from rdpbalancer.runtime.supervisor_messages import SupervisorMessages
from rdpbalancer.runtime.upgrade_request import UpgradeRequest
from rdpbalancer.tasks import spawn
from rdpbalancer.telemetry.log_watch import LogWatch


class Router:
    """One router process: its parts, how it begins and ends, and its channel to the supervisor."""

    def __init__(self, supervisor: socket.socket, running: RunningConfig) -> None:
        parts = self._parts = RouterParts(running, readiness=self._health_word)
        self.events = parts.events
        self._reloader = Reloader(
            parts.target, path=running.path, send=self._send, metrics=parts.metrics, events=parts.events
        )
        self._upgrade = UpgradeRequest(send=self._send, check=self._check_upgrade)
        self._lifecycle = Lifecycle(
            dispatcher=parts.dispatcher,
            sessions=parts.sessions,
            frontends=parts.frontends,
            relays=parts.relays,
            events=parts.events,
            clock=parts.clock,
            kick=parts.kick_server,
            finish_reload=self._reloader.finish,
            stop_control=self._stop_control,
        )
        self._readiness = RouterReadiness(
            views=parts.views, frontends=parts.frontends, lifecycle=self._lifecycle
        )
        self._verbs = self._make_verbs()
        self._control = ControlServer(self._verbs.verbs(), on_error=self._control_failed, pacer=parts.pacer)
        self._given = asyncio.Event()
        self._supervisor = self._listen_to(supervisor)

    def _make_verbs(self) -> ServiceVerbs:
        parts = self._parts
        return ServiceVerbs(
            config=parts.config,
            dispatcher=parts.dispatcher,
            admission=parts.admission,
            relays=parts.relays,
            roster=parts.roster,
            frontends=parts.frontends,
            views=parts.views,
            operator=parts.operator,
            reloader=self._reloader,
            upgrade=self._upgrade,
            lifecycle=self._lifecycle,
            readiness=self._readiness,
            state=parts.state,
            warnings_of_events=parts.warnings,
            clock=parts.clock,
        )

    def _listen_to(self, supervisor: socket.socket) -> Channel:
        parts = self._parts
        messages = SupervisorMessages(
            send=self._send,
            frontends=parts.frontends,
            roster=parts.roster,
            reloader=self._reloader,
            upgrade=self._upgrade,
            lifecycle=self._lifecycle,
            events=parts.events,
            warnings=parts.warnings,
            start=self._given.set,
            reopen_log=lambda: parts.logs.reopen(parts.config.settings),
            accept_opened=self._accept_opened,
        )
        return Channel(
            supervisor,
            router_messages.TO_ROUTER,
            on_message=messages.received,
            on_close=messages.supervisor_lost,
        )

    async def run(self) -> None:
        """Serve until the supervisor says stop, or is gone."""
        await self._given.wait()
        parts = self._parts
        background = Background(
            dispatcher=parts.dispatcher,
            account=parts.account,
            metrics=parts.metrics,
            log_watch=LogWatch(parts.events),
            clock=parts.clock,
            send_status=self._send_status,
        )
        background.start()
        try:
            await self._start()
            await self._lifecycle.until_ended()
        finally:
            await parts.monitor.stop()
            await background.stop()
            await self._lifecycle.until_sent()
            parts.sessions.close()
            await parts.state.close()
            parts.relays.close()
            self._supervisor.close()

    async def _start(self) -> None:
        parts = self._parts
        startup = Startup(
            config=parts.config,
            target=parts.target,
            dispatcher=parts.dispatcher,
            state=parts.state,
            relays=parts.relays,
            roster=parts.roster,
            monitor=parts.monitor,
            frontends=parts.frontends,
            control=self._control,
            views=parts.views,
            admission=parts.admission,
            events=parts.events,
            metrics=parts.metrics,
        )
        await startup.run()
        self._send(router_messages.RouterReady(self._verbs.status_line()))

    # ---- what parts ask of each other --------------------------------------------------------------

    def _send(self, message: msgspec.Struct) -> None:
        self._supervisor.send(message)

    def _send_status(self) -> None:
        if self._parts.frontends.open:
            self._send(router_messages.StatusLine(self._verbs.status_line()))

    def _accept_opened(self) -> None:
        parts = self._parts
        spawn(parts.frontends.apply(parts.config.settings), name="accept on what is open now")

    def _health_word(self, service: str | None = None) -> HealthWord:
        return self._readiness(service)

    async def _stop_control(self) -> None:
        await self._control.stop()

    def _control_failed(self, verb: str, error: Exception) -> None:
        self.events.exception("internal_error", error, verb=verb)

    def _check_upgrade(self) -> None:
        if not self._parts.relays.outlives_router:
            message = "with relays: 0 an upgrade would end every session; restart the service instead"
            raise ConfigurationError("restart-needed", message)
        if self._lifecycle.retiring:
            raise ConfigurationError("upgrade-refused", "an upgrade is under way already; wait for its end")
