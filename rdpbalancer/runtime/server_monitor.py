"""Watching the farm: monitors and name resolution in, server statuses and their consequences out."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rdpbalancer.core import status as st
from rdpbalancer.core.dispatch import Dispatcher
from rdpbalancer.core.farm import Farm, HealthPolicy, RealServer
from rdpbalancer.core.feedback import AgentReport, AgentState, apply, not_heard
from rdpbalancer.core.health import HealthState, observe
from rdpbalancer.core.status import Override
from rdpbalancer.errors import ServerError
from rdpbalancer.health.monitor import Monitor, check_preamble
from rdpbalancer.health.probe import CheckResult
from rdpbalancer.model import CloseReason, Health, ServerId
from rdpbalancer.net import dial
from rdpbalancer.net.poller import Poller
from rdpbalancer.net.resolve import resolve
from rdpbalancer.runtime.first_checks import FirstChecks
from rdpbalancer.runtime.server_names import Resolve, ServerNames
from rdpbalancer.telemetry.events import Events
from rdpbalancer.telemetry.metrics import Metrics

Kick = Callable[[ServerId, CloseReason], int]


class ServerStatusManager:
    """Keeps every server's status true. The only writer of `Dispatcher.servers.statuses`."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        metrics: Metrics,
        events: Events,
        clock: Callable[[], float],
        kick: Kick,
        resolve: Resolve = resolve,
    ) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._kick = kick
        self.names = ServerNames(
            servers=lambda: dispatcher.farm.servers().values(),
            addresses=self._known_addresses,
            changed=self._addresses_changed,
            events=events,
            resolve=resolve,
        )
        self._rng = random.Random()  # noqa: S311 (jitter of probes, not a secret)
        self._monitors: dict[ServerId, Monitor] = {}
        self._poller: Poller | None = None
        self._first_checks = FirstChecks(dispatcher)
        self._observed_at: dict[ServerId, float] = {}
        # Servers whose last check could not be made: local ports, for one, are short for each by itself.
        self._not_made: set[ServerId] = set()
        self.checks_failed: dict[ServerId, int] = {}
        # Each server's last check, and when it ended (monotonic).
        self.last_checks: dict[ServerId, tuple[CheckResult, float]] = {}
        self.agent_failing: set[ServerId] = set()

    # ---- life --------------------------------------------------------------------------------------

    async def apply(self, farm: Farm, *, resolve_interval_s: float) -> None:
        """Take a farm into use, whole: names are resolved first, then everything changes at once.

        Monitors of servers that stay as they are go on; others are started, stopped or renewed.
        """
        servers = farm.servers()
        stale = [
            monitor
            for server_id, monitor in self._monitors.items()
            if servers.get(server_id) != monitor.server or check_preamble(farm, server_id) != monitor.preamble
        ]
        kept = self._monitors.keys() - {monitor.server.id for monitor in stale}
        fresh = [server for server_id, server in servers.items() if server_id not in kept]
        found = await self.names.resolve(fresh)
        await asyncio.gather(*(monitor.stop() for monitor in stale))
        for monitor in stale:
            del self._monitors[monitor.server.id]
        before = self._dispatcher.farm
        self._dispatcher.apply(farm, now=self._clock())
        self.agent_failing &= servers.keys()
        self.names.keep_only(servers.keys())
        for removed in self._not_made - servers.keys():
            self._made(removed)
        by_server: list[dict[ServerId, Any]] = [self.checks_failed, self.last_checks, self._observed_at]
        for observed in by_server:
            for removed in observed.keys() - servers.keys():
                del observed[removed]
        for server, addresses in zip(fresh, found, strict=True):
            was = before.server(server.id)
            if was is not None and was.address.host != server.address.host:
                self._update(server.id, addresses=())  # the old host's are nobody's now
            self.names.resolved(server.id, addresses)
            self._start(server)
        await self.names.restart(resolve_interval_s)

    def _start(self, server: RealServer) -> None:
        preamble = check_preamble(self._dispatcher.farm, server.id)
        if self._poller is None:
            self._poller = Poller()
        monitor = Monitor(server, self, rng=self._rng, preamble=preamble, waits=self._poller)
        self._monitors[server.id] = monitor
        if server.agent is None:
            self._take_agent(server.id, AgentState())
        monitor.start()

    async def checked_once(self, service: str, *, timeout_s: float) -> None:
        """Wait until no server of the service is being checked for the first time, or for `timeout_s`."""
        await self._first_checks.wait(service, timeout_s=timeout_s)

    async def stop(self) -> None:
        """Stop watching."""
        await self.names.stop()
        await asyncio.gather(*(monitor.stop() for monitor in self._monitors.values()))
        self._monitors.clear()
        if self._poller is not None:
            self._poller.close()
            self._poller = None

    def _known_addresses(self, server: ServerId) -> Sequence[str] | None:
        status = self._dispatcher.servers.get(server)
        return None if status is None else status.addresses

    def _addresses_changed(self, server: ServerId, addresses: tuple[str, ...]) -> None:
        self._update(server, addresses=addresses)
        if server in self._monitors:
            self._monitors[server].hurry()

    # ---- what monitors ask and tell (health.monitor.Watched) ---------------------------------------

    def addresses_of(self, server: ServerId) -> Sequence[str]:
        """Return the server's resolved addresses."""
        return self._dispatcher.servers.statuses[server].addresses

    def health_of(self, server: ServerId) -> HealthState:
        """Return the server's observed health."""
        return self._dispatcher.servers.statuses[server].health

    def checked(self, server: ServerId, result: CheckResult) -> None:
        """A health check has ended."""
        if not result.made:
            self._metrics.health_checks.labels(*server, "not-made").inc()
            if not self._not_made:
                self._events.error("checks_not_made", **_fields(server), detail=result.detail)
            self._not_made.add(server)
            return
        self._made(server)
        self.last_checks[server] = (result, self._clock())
        self._metrics.health_checks.labels(*server, "ok" if result.ok else "failed").inc()
        configured = self._dispatcher.farm.server(server)
        if configured is not None and configured.health.port is None:
            self.dialled(server, result.address)
        self._observe(server, ok=result.ok, detail=result.detail)

    def _made(self, server: ServerId) -> None:
        """A server's check was made, or need not be; tell it once that is so of all of them."""
        if server not in self._not_made:
            return
        self._not_made.discard(server)
        if not self._not_made:
            detail = "health checks can be made again"
            self._events.info("checks_made_again", **_fields(server), detail=detail)

    def dialled(self, server: ServerId, address: str) -> None:
        """One of the server's addresses has answered: it is tried first from now on, by users and checks.

        Else every login would first wait its share of the time for an address that swallows everything.
        """
        status = self._dispatcher.servers.statuses.get(server)
        if status is None or address not in status.addresses[1:]:
            return
        others = (each for each in status.addresses if each != address)
        changed = replace(status, addresses=(address, *others))
        self._dispatcher.servers.set(server, changed, now=self._clock())

    def dial_failed(self, server: ServerId, error: ServerError) -> None:
        """A session's dial has failed: that counts as a failed check where the server is checked at all."""
        configured = self._dispatcher.farm.server(server)
        if configured is None or not configured.health.observe or configured.health.type == "none":
            return
        if error.code not in dial.OF_THE_SERVER:
            return  # our own shortage (a local port), not the server's fault
        now = self._clock()
        if now - self._observed_at.get(server, -1e9) < configured.health.fast_interval_s:
            return  # many logins that fail in one moment are one observation, not a row of them
        self._observed_at[server] = now
        self._observe(server, ok=False, detail=f"a session could not connect: {error}")
        if server in self._monitors:
            self._monitors[server].hurry()

    def agent_answered(self, server: ServerId, answer: AgentReport | str) -> None:
        """The feedback agent has answered, or not (then `answer` says why)."""
        before = self._dispatcher.servers.statuses[server]
        policy = self._monitors[server].server.agent
        if isinstance(answer, str):
            self._metrics.agent_failures.labels(*server).inc()
            if server not in self.agent_failing:
                self.agent_failing.add(server)
                self._events.warning("agent_failed", **_fields(server), detail=answer)
            stale_after_s = policy.stale_after_s if policy else 0.0
            agent = not_heard(before.agent, now=self._clock(), stale_after_s=stale_after_s)
            if agent.stale and not before.agent.stale:
                detail = f"silent for {stale_after_s:g} s: its weight and maxconn count no longer"
                self._events.warning("agent_stale", **_fields(server), detail=detail)
        else:
            if server in self.agent_failing:
                self.agent_failing.discard(server)
                self._events.info("agent_heard_again", **_fields(server), detail="the agent answers again")
            self._metrics.agent_ignored_words.labels(*server).inc(len(answer.ignored))
            agent = apply(before.agent, answer, now=self._clock())
        self._take_agent(server, agent)

    # ---- what the operator wants -------------------------------------------------------------------

    def override(self, server: ServerId, override: Override, *, reason: str) -> None:
        """Take over what the operator wants of a server."""
        self._update(
            server,
            intent=override.intent,
            strict=override.strict,
            runtime_weight=override.weight,
            changed_at=self._clock(),
            reason=reason,
            operator_reason=reason,
        )

    # ---- changes -----------------------------------------------------------------------------------

    def _observe(self, server: ServerId, *, ok: bool, detail: str) -> None:
        if not ok:
            self.checks_failed[server] = self.checks_failed.get(server, 0) + 1
        status = self._dispatcher.servers.statuses[server]
        configured = self._dispatcher.farm.server(server)
        policy = configured.health if configured is not None else HealthPolicy()
        health = observe(status.health, ok=ok, policy=policy, now=self._clock())
        if health.health is status.health.health:
            if health is not status.health:
                self._dispatcher.servers.set(server, replace(status, health=health), now=self._clock())
            return
        was_down = status.health.health is Health.DOWN
        self._update(
            server,
            health=health,
            ramp_from_at=self._clock() if ok and was_down else None,
            changed_at=self._clock(),
            reason=detail,
            check_reason=detail,
        )
        self._first_checks.look(server.service)
        if not ok:
            self._events.error("server_down", **_fields(server), detail=detail)
        elif st.is_up(self._dispatcher.servers.statuses[server]):  # not while its agent says down
            self._events.info("server_up", **_fields(server), detail=detail)

    def _take_agent(self, server: ServerId, new: AgentState) -> None:
        """Take over what the agent wants, and tell what changes: its word, and whether the server is up."""
        before = self._dispatcher.servers.statuses[server]
        if (before.agent.intent, before.agent.health) == (new.intent, new.health):
            self._update(server, agent=new)
            return
        self._update(server, agent=new, changed_at=self._clock(), reason=new.said)
        self._events.warning(
            "agent_changed",
            **_fields(server),
            state=new.intent.value,
            health=new.health.value,
            detail=new.said,
        )
        was_up, is_up = st.is_up(before), st.is_up(self._dispatcher.servers.statuses[server])
        if was_up and not is_up:
            self._events.error("server_down", **_fields(server), detail=new.said)
        elif is_up and not was_up:
            self._events.info("server_up", **_fields(server), detail=new.said)

    def _update(self, server: ServerId, **changes: object) -> None:
        before = self._dispatcher.servers.statuses[server]
        after = replace(before, **changes)  # type: ignore[arg-type]
        if after == before:
            return
        was_up, is_up = st.is_up(before), st.is_up(after)
        self._dispatcher.servers.set(server, after, now=self._clock())
        if was_up and not is_up and self._dispatcher.farm.services[server.service].kick_on_down:
            kicked = self._kick(server, CloseReason.SERVER_DOWN)
            if kicked:
                self._events.warning(
                    "sessions_kicked", **_fields(server), sessions=kicked, detail="on_down: kick"
                )


def _fields(server: ServerId) -> dict[str, str]:
    return {"service": server.service, "server": server.name}
