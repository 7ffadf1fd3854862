"""Users of the soak: they come, work, leave and come back, and keep a book of all that happened to them."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient, Landing
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.model import Endpoint
from tests.support.running_balancer import Vip

# A keystroke, a dialogue, a window, a picture: what a desktop moves at once, and how often of a hundred.
_MIX_BYTES: Final = (100, 2_000, 20_000, 300_000)
_MIX_WEIGHTS: Final = (60, 28, 10, 2)
_REST_S: Final = 0.4
_PAUSE_S: Final = 2.0
_ROUNDS: Final = (5, 60)
# Waiting for a queue, a restart and an upgrade together; longer is a failure.
_PATIENCE_S: Final = 30.0


@dataclass(slots=True)
class Book:
    """What happened to all users. Times are of the wall clock, as in the log."""

    visits: Counter[str] = field(default_factory=Counter)
    moved_bytes: int = 0
    broken: list[tuple[float, str, str]] = field(default_factory=list)
    failed: list[tuple[float, str, str]] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)
    strayed: list[str] = field(default_factory=list)
    rehoused: int = 0
    longest_s: float = 0.0


class Users:
    """The users of one service. `failed_at`: when each server failed last; it excuses a move to another."""

    def __init__(self, vip: Vip, count: int, seed: int) -> None:
        self._endpoint: Endpoint = vip.endpoint
        self._seed = seed
        self._names = [f"user{number:05}" for number in range(count)]
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._homes: dict[str, tuple[Landing, float]] = {}
        self.book = Book()
        self.failed_at: dict[str, float] = {}

    def start(self) -> None:
        """Begin to come."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._live(name, random.Random(f"{self._seed} {name}"))) for name in self._names
        ]

    async def stop(self) -> None:
        """Let everybody end what is under way, and leave."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _live(self, user: str, rng: random.Random) -> None:
        while not self._stop.is_set():
            await self._rest(rng.uniform(0, _PAUSE_S))
            client = LabClient(self._endpoint, LabOpening(cookie=user), timeout_s=_PATIENCE_S)
            try:
                if await self._arrive(client, user):
                    await self._work(client, user, rng)
            finally:
                client.close()

    async def _arrive(self, client: LabClient, user: str) -> bool:
        began_at = time.monotonic()
        try:
            await client.open()
            self.book.longest_s = max(self.book.longest_s, time.monotonic() - began_at)
            landing = await client.login(user)
        except LabError as error:
            self.book.failed.append((time.time(), user, error.code))
            return False
        self.book.visits[user] += 1
        self._landed(user, landing)
        return True

    def _landed(self, user: str, landing: Landing) -> None:
        known = self._homes.get(user)
        if known is not None and known[0].desktop != landing.desktop:
            home, seen_at = known
            if self.failed_at.get(home.server, 0.0) > seen_at:
                self.book.rehoused += 1
            else:
                self.book.strayed.append(f"{user} was on {landing.desktop}, not on {home.desktop}")
        self._homes[user] = (landing, time.time())

    async def _work(self, client: LabClient, user: str, rng: random.Random) -> None:
        try:
            for _ in range(rng.randint(*_ROUNDS)):
                if self._stop.is_set():
                    break
                size_bytes = rng.randint(1, rng.choices(_MIX_BYTES, _MIX_WEIGHTS)[0])
                await client.echo_check(rng, size_bytes)
                self.book.moved_bytes += size_bytes
                home, _ = self._homes[user]
                self._homes[user] = (home, time.time())
                await self._rest(rng.expovariate(1 / _REST_S))
            await client.leave()
        except LabError as error:
            if error.code == "corrupted":
                self.book.garbled.append(f"{user}: {error}")
            self.book.broken.append((time.time(), user, error.code))

    async def _rest(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._stop.wait()
