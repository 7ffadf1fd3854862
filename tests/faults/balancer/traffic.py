"""Users who work all the time, while something is killed, and check every byte."""

import asyncio
import random

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.tasks import spawn
from tests.support.running_balancer import Vip


class Workers:
    """Sessions that echo random bytes in random pieces until told to stop."""

    def __init__(self, vip: Vip, count: int, *, bytes_at_once: int = 20_000) -> None:
        self._vip = vip
        self._count = count
        self._bytes_at_once = bytes_at_once
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.clients: dict[str, LabClient] = {}
        self.homes: dict[str, str] = {}
        self.rounds: dict[str, int] = {}
        self.errors: dict[str, str] = {}

    async def come(self) -> None:
        """Open all sessions and begin to work."""
        door = asyncio.Semaphore(50)

        async def one(user: str) -> None:
            async with door:
                client = await self._vip.opened(user, timeout_s=40)
                self.homes[user] = (await client.login(user)).server
                self.clients[user] = client

        await asyncio.gather(*(one(f"user{number:04}") for number in range(self._count)))
        self.rounds = dict.fromkeys(self.clients, 0)
        self._tasks = [
            spawn(self._work(number, user), name="worker", on_error=lambda _error: None)
            for number, user in enumerate(sorted(self.clients))
        ]

    async def _work(self, number: int, user: str) -> None:
        rng = random.Random(number)
        while not self._stop.is_set():
            try:
                await self.clients[user].echo_check(rng, rng.randint(1, self._bytes_at_once))
            except LabError as error:
                self.errors[user] = f"{error.code}: {error}"
                return
            self.rounds[user] += 1

    def worked_since(self, before: dict[str, int]) -> bool:
        """Whether every session that lives has gone at least two rounds further."""
        return all(
            count >= before[user] + 2 for user, count in self.rounds.items() if user not in self.errors
        )

    async def go(self) -> None:
        """Stop working and leave in order."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await asyncio.gather(
            *(client.leave() for user, client in self.clients.items() if user not in self.errors)
        )
