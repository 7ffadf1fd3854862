"""Many sessions with a little traffic each, and newcomers without a break; whatever goes wrong is kept."""

import asyncio
import contextlib
import random
from collections import Counter

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from tests.support.running_balancer import Vip

_OPENED_AT_ONCE = 50


class Crowd:
    """Users who echo up to `bytes_at_once` random bytes, then rest up to `rest_s`, until told to stop."""

    def __init__(self, vip: Vip, count: int, *, rest_s: float = 1.0, bytes_at_once: int = 3000) -> None:
        self._vip = vip
        self._users = [f"user{number:04}" for number in range(count)]
        self._rest_s = rest_s
        self._bytes_at_once = bytes_at_once
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.clients: dict[str, LabClient] = {}
        self.rounds: Counter[str] = Counter()
        self.echoed_bytes: Counter[str] = Counter()
        self.errors: list[str] = []

    async def come(self) -> None:
        """Open all sessions and begin to work."""
        door = asyncio.Semaphore(_OPENED_AT_ONCE)

        async def one(user: str) -> None:
            async with door:
                self.clients[user] = await self._vip.opened(user, timeout_s=30)
                await self.clients[user].login(user)

        async with asyncio.TaskGroup() as group:
            for user in self._users:
                group.create_task(one(user))
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work(number, user)) for number, user in enumerate(self._users)]

    async def _work(self, number: int, user: str) -> None:
        rng = random.Random(number)
        while not self._stop.is_set():
            size_bytes = rng.randint(1, self._bytes_at_once)
            try:
                await self.clients[user].echo_check(rng, size_bytes)
            except LabError as error:
                self.errors.append(f"{user}: {error.code}: {error}")
                return
            self.rounds[user] += 1
            self.echoed_bytes[user] += size_bytes
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, self._rest_s)):
                    await self._stop.wait()

    @property
    def lost(self) -> set[str]:
        """The users whose sessions broke."""
        return {error.partition(":")[0] for error in self.errors}

    def all_worked_since(self, before: Counter[str]) -> bool:
        """Whether every session has ended two rounds more: one of them began after `before` was taken."""
        return bool(self.errors) or all(self.rounds[user] >= before[user] + 2 for user in self._users)

    async def go(self) -> None:
        """Stop working and leave in order."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*(client.leave() for client in self.clients.values()))


class Newcomers:
    """One after the other, without a break: connect, log in, echo, leave."""

    def __init__(self, vip: Vip, *, side_by_side: int = 4) -> None:
        self._vip = vip
        self._side_by_side = side_by_side
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.served = 0
        self.longest_s = 0.0
        self.errors: list[str] = []

    def start(self) -> None:
        """Begin to come."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._come(lane)) for lane in range(self._side_by_side)]

    def more_than(self, count: int) -> bool:
        """Whether so many have been served, or one has not."""
        return bool(self.errors) or self.served > count

    async def _come(self, lane: int) -> None:
        rng, clock = random.Random(lane), asyncio.get_running_loop().time
        while not self._stop.is_set():
            user, began_at = f"new{lane}", clock()
            client = self._vip.client(user, timeout_s=20)
            try:
                await client.open()
                self.longest_s = max(self.longest_s, clock() - began_at)
                await client.login(user)
                await client.echo_check(rng, 1000)
                await client.leave()
            except LabError as error:
                self.errors.append(f"{user}: {error.code}: {error}")
                return
            finally:
                client.close()
                self._vip.balancer.guests.remove(client)
            self.served += 1
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Come no more."""
        self._stop.set()
        await asyncio.gather(*self._tasks)
