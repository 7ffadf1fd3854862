"""A service, its users, and one disturbance after the other; at the end the books have to balance."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from rdpbalancer.lab.server import LabServer
from tests.soak.users import Book, Users
from tests.soak.verdict import Done, judge
from tests.support.processes import command_line
from tests.support.running_balancer import RunningBalancer, Vip, labs
from tests.support.wait import wait_until_async

_SERVERS: Final = 3
_USERS: Final = 150
_BETWEEN_S: Final = (1.0, 4.0)
_SAMPLE_S: Final = 1.0
# A router that is to be killed in an upgrade dies within this time; a bit more than an upgrade takes.
_UPGRADE_S: Final = 4.0
# A process has loaded all it needs, and has its share of users.
_GROWN_UP_S: Final = 8.0


class Soak:
    """One run. Everything random comes of `seed`, but the kernel's scheduling does not."""

    def __init__(self, seconds: float, seed: int) -> None:
        self._seconds = seconds
        self._seed = seed
        self._rng = random.Random(seed)
        self.done = Done()
        self.book: Book | None = None

    async def run(self) -> list[str]:
        """Run; return what did not hold."""
        with tempfile.TemporaryDirectory(prefix="soak") as folder:
            balancer = RunningBalancer(Path(folder), relays=2)
            balancer.set_global(log={"format": "json", "level": "info", "user": "plain"})
            balancer.write_configuration()
            await asyncio.to_thread(balancer.start)
            try:
                async with labs(_SERVERS) as servers:
                    return await self._run(balancer, servers)
            finally:
                await asyncio.to_thread(balancer.stop)

    async def _run(self, balancer: RunningBalancer, servers: list[LabServer]) -> list[str]:
        vip = await balancer.serve(servers)
        users = Users(vip, _USERS, self._seed)
        self.book = users.book
        users.start()
        measuring = asyncio.get_running_loop().create_task(self._measure(balancer))
        try:
            await self._disturb(balancer, vip, servers, users)
            await users.stop()
            await balancer.quiet(30)
        finally:
            measuring.cancel()
        return await judge(balancer, vip, users, self.done)

    async def _disturb(
        self, balancer: RunningBalancer, vip: Vip, servers: list[LabServer], users: Users
    ) -> None:
        until_at = time.monotonic() + self._seconds
        deeds: dict[str, Callable[[], Awaitable[None]]] = {
            "router killed": lambda: self._kill_router(balancer),
            "relay killed": lambda: self._kill_relay(balancer),
            "reload": lambda: self._reload(balancer, vip),
            "upgrade": lambda: self._upgrade(balancer),
            "router killed in an upgrade": lambda: self._kill_router_in_upgrade(balancer),
            "drain": lambda: self._drain(balancer, vip),
            "server failed": lambda: self._fail(vip, servers, users),
            "server stalled": lambda: self._stall(servers),
        }
        names: list[str] = []
        while time.monotonic() < until_at:
            await asyncio.sleep(self._rng.uniform(*_BETWEEN_S))
            names = names or self._rng.sample(sorted(deeds), len(deeds))  # each as often as any other
            name = names.pop()
            await deeds[name]()
            self.done.deeds[name] += 1

    async def _kill_router(self, balancer: RunningBalancer) -> None:
        router = await balancer.router_pid()
        self.done.routers_killed_at.append(time.time())
        balancer.kill(router)
        await balancer.answers_again(20)

    async def _kill_relay(self, balancer: RunningBalancer) -> None:
        relays = await balancer.relay_pids()
        victim = self._rng.choice(relays)
        self.done.relays_killed[victim] = time.time()
        balancer.kill(victim)

        async def replaced() -> bool:
            now = await balancer.relay_pids()
            return victim not in now and len(now) == len(relays)

        await wait_until_async(replaced, 15, "a new relay")

    async def _reload(self, balancer: RunningBalancer, vip: Vip) -> None:
        vip.description["limits"] = {"max_sessions": self._rng.randint(5000, 9000)}
        await balancer.reload()

    async def _upgrade(self, balancer: RunningBalancer) -> None:
        old = set(balancer.processes()) - {balancer.pid}
        done = await balancer.command("upgrade", "--wait")
        if done.returncode:
            self.done.complaints.append(f"upgrade: exit status {done.returncode}: {done.stderr}")
        await wait_until_async(
            lambda: not old & set(balancer.processes()), 10, "the end of the old processes"
        )

    async def _kill_router_in_upgrade(self, balancer: RunningBalancer) -> None:
        """At any moment of it, while sessions move or before. The command may not hear how it ends."""
        upgrading = asyncio.get_running_loop().create_task(balancer.command("upgrade", "--wait"))
        await asyncio.sleep(self._rng.uniform(0.0, _UPGRADE_S))
        for router in balancer.routers():
            self.done.routers_killed_at.append(time.time())
            balancer.kill(router)
        await upgrading
        await balancer.answers_again(20)

        async def settled() -> bool:
            return not (await balancer.status())["relays_retiring"]

        await wait_until_async(settled, 20, "the end of the old relays")

    async def _drain(self, balancer: RunningBalancer, vip: Vip) -> None:
        server = self._rng.choice(sorted(await vip.servers()))
        await balancer.ask("set-state", server=server, service=vip.name, state="drain")
        await asyncio.sleep(self._rng.uniform(0.5, 2.0))
        await balancer.ask("set-state", server=server, service=vip.name, state="online")

    async def _fail(self, vip: Vip, servers: list[LabServer], users: Users) -> None:
        """The machine of a server goes down: its sessions and desktops are gone. It comes back empty."""
        server = self._rng.choice(servers)
        users.failed_at[server.name] = float("inf")  # until it is back, and everybody has noticed
        self.done.servers_failed.setdefault(server.name, []).append(time.time())
        await server.stop(reset=True)
        for desktop in list(server.desktops):
            server.desktops.log_off(desktop.user)
        await vip.wait_server(server.name, health="down")
        server.start()
        await vip.wait_server(server.name, health="up")
        users.failed_at[server.name] = time.time()

    async def _stall(self, servers: list[LabServer]) -> None:
        server = self._rng.choice(servers)
        server.faults.inject("stop-reading")
        await asyncio.sleep(self._rng.uniform(0.5, 2.0))
        server.faults.clear()

    # ---- memory ------------------------------------------------------------------------------------

    async def _measure(self, balancer: RunningBalancer) -> None:
        """Follow each process's memory, from when it has grown up."""
        born_at: dict[int, float] = {}
        while True:
            for pid in balancer.processes():
                age_s = time.monotonic() - born_at.setdefault(pid, time.monotonic())
                if age_s >= _GROWN_UP_S:
                    self.done.sampled(pid, command_line(pid))
            await asyncio.sleep(_SAMPLE_S)


def summary(done: Done) -> str:
    """Say what was done to the service."""
    return ", ".join(f"{count} x {name}" for name, count in sorted(Counter(done.deeds).items()))
