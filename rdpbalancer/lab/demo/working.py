"""Users who exchange bytes without a break while something is done to the balancer."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.demo.conditions import until
from rdpbalancer.lab.demo.stage import Stage
from rdpbalancer.tasks import spawn

ROUND_BYTES: Final = 4_000
ROUND_PAUSE_S: Final = 0.03  # thirty users must leave the processor to the balancer
DEADLINE_S: Final = 10.0


class Working:
    """Everybody works while it is entered. `errors` are the sessions that broke, or garbled a byte."""

    def __init__(self, stage: Stage, users: Sequence[str]) -> None:
        self.errors: list[LabError] = []
        self._stage = stage
        self._rounds = dict.fromkeys(users, 0)
        self._enough = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [spawn(self._work(user), name=f"{user} works") for user in self._rounds]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough = True
        await asyncio.gather(*self._tasks)

    @property
    def first(self) -> str:
        """The first error, in words."""
        return str(self.errors[0]) if self.errors else ""

    async def rounds(self, count: int) -> None:
        """Wait until every user has ended `count` rounds more. Of two, one began after this call.

        Returns early if a session broke. Raises DemoError if one does not go on.
        """
        goals = {user: done + count for user, done in self._rounds.items()}

        async def reached() -> bool:
            return bool(self.errors) or all(self._rounds[user] >= goal for user, goal in goals.items())

        await until(reached, DEADLINE_S, "every session goes on")

    async def _work(self, user: str) -> None:
        try:
            while not self._enough:
                await self._stage.work(user, ROUND_BYTES)
                self._rounds[user] += 1
                await asyncio.sleep(ROUND_PAUSE_S)
        except LabError as error:
            self.errors.append(error)
