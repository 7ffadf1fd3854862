"""The loops that watch one real server: its checks, and its feedback agent."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from rdpbalancer.core.farm import Farm, RealServer
from rdpbalancer.core.feedback import AgentReport
from rdpbalancer.core.health import HealthState, next_check_s
from rdpbalancer.core.schedule import Random
from rdpbalancer.health.agent import ask
from rdpbalancer.health.probe import CheckResult, check
from rdpbalancer.model import Endpoint, ServerId
from rdpbalancer.net.poller import Poller
from rdpbalancer.tasks import cancel_and_wait, spawn
from rdpbalancer.wire.proxy import build_proxy

# The source that a health check speaks for where a PROXY header is wanted: the balancer itself.
_OURSELVES = Endpoint("127.0.0.1", 1)


class Watched(Protocol):
    """What a monitor asks and tells its owner, who keeps the server's status."""

    def addresses_of(self, server: ServerId) -> Sequence[str]:
        """Return the server's IP addresses as they are resolved now."""
        ...

    def health_of(self, server: ServerId) -> HealthState:
        """Return the server's observed health as it is now."""
        ...

    def checked(self, server: ServerId, result: CheckResult) -> None:
        """A check has ended."""
        ...

    def agent_answered(self, server: ServerId, answer: AgentReport | str) -> None:
        """The agent said something, or (in words) why it did not."""
        ...


class Monitor:
    """Watches one real server until stopped."""

    def __init__(
        self,
        server: RealServer,
        owner: Watched,
        *,
        rng: Random,
        preamble: bytes = b"",
        waits: Poller | None = None,
    ) -> None:
        self.server = server
        self._owner = owner
        self._rng = rng
        self.preamble = preamble
        self._waits = waits
        self._hurried = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin: the first check at once, for the server takes nobody before it."""
        if self.server.health.type == "none":
            self._owner.checked(self.server.id, CheckResult(ok=True, detail="not checked", duration_s=0.0))
        else:
            self._tasks.append(spawn(self._check_loop(), name=f"check {self.server.id}"))
        if self.server.agent is not None:
            self._tasks.append(spawn(self._agent_loop(), name=f"agent {self.server.id}"))

    async def stop(self) -> None:
        """End the loops."""
        await cancel_and_wait(*self._tasks)
        self._tasks.clear()

    def hurry(self) -> None:
        """Check at the fast interval from now: a session has seen something wrong."""
        self._hurried.set()

    async def _check_loop(self) -> None:
        policy = self.server.health
        while True:
            self._hurried.clear()
            result = await check(
                policy.type,
                self._owner.addresses_of(self.server.id),
                policy.port or self.server.address.port,
                timeout_s=policy.timeout_s,
                preamble=self.preamble,
                waits=self._waits,
            )
            self._owner.checked(self.server.id, result)
            pause_s = next_check_s(self._owner.health_of(self.server.id), policy, jitter=self._rng.random())
            if await self._hurried_within(pause_s):
                await asyncio.sleep(min(pause_s, policy.fast_interval_s))

    async def _hurried_within(self, pause_s: float) -> bool:
        try:
            async with asyncio.timeout(pause_s):
                await self._hurried.wait()
        except TimeoutError:
            return False
        return True

    async def _agent_loop(self) -> None:
        policy = self.server.agent
        while policy is not None:
            addresses = self._owner.addresses_of(self.server.id)
            answer = await ask(addresses, policy.port, timeout_s=policy.timeout_s, waits=self._waits)
            self._owner.agent_answered(self.server.id, answer)
            await asyncio.sleep(policy.interval_s * (0.9 + 0.2 * self._rng.random()))


def check_preamble(farm: Farm, server: ServerId) -> bytes:
    """Return the PROXY header that a health check begins with where the service sends one."""
    service = farm.services.get(server.service)
    if service is None or not service.send_proxy:
        return b""
    return build_proxy(service.send_proxy, _OURSELVES, _OURSELVES)
