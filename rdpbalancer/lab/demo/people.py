"""The simulated users of the live show: they come, work, leave, and come back, by chance."""

import asyncio
import random
from typing import Final

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.demo.stage import Stage
from rdpbalancer.lab.demo.tally import Outcome

# A day's rhythm, made short enough to watch: seconds.
ARRIVE_WITHIN_S: Final = 4.0
AT_WORK_S: Final = (4.0, 12.0)
AWAY_S: Final = (1.5, 6.0)
BETWEEN_KEYS_S: Final = (0.2, 0.8)
AGAIN_S: Final = 0.7  # who was cut off connects again at once
KEYS_BYTES: Final = (200, 4_000)
ELSEWHERE: Final = 0.3  # how often somebody comes back from another address


class People:
    """Keeps users coming and going until they retire, or the show ends."""

    def __init__(self, stage: Stage, group: asyncio.TaskGroup, rng: random.Random) -> None:
        self._stage = stage
        self._group = group
        self._rng = rng
        self._staying: set[str] = set()

    def invite(self, count: int, *, within_s: float = ARRIVE_WITHIN_S) -> list[str]:
        """Let `count` new users come, from now on again and again; return their names."""
        users = self._stage.new_users(count)
        self._staying.update(users)
        for user in users:
            self._stage.tally.person(user)
            self._group.create_task(self._live(user, self._rng.uniform(0, within_s)), name=f"user {user}")
        return users

    def retire(self, user: str) -> None:
        """Let a user leave for good at the end of the present visit."""
        self._staying.discard(user)

    async def _live(self, user: str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        while user in self._staying:
            regular = await self._visit(user)
            await asyncio.sleep(self._rng.uniform(*AWAY_S) if regular else AGAIN_S)
        person = self._stage.tally.people.get(user)
        if person is not None and person.server is not None:
            self._stage.servers[person.server].desktops.log_off(user)
        self._stage.tally.retire(user)

    async def _visit(self, user: str) -> bool:
        """Come, work and leave. False: something broke, and the user comes again soon."""
        elsewhere = self._rng.random() < ELSEWHERE
        outcome, _ = await self._stage.come(user, elsewhere=elsewhere)
        if outcome in (Outcome.FAILED, Outcome.EXCUSED):
            return False
        loop = asyncio.get_running_loop()
        until_at = loop.time() + self._rng.uniform(*AT_WORK_S)
        try:
            while loop.time() < until_at:
                await self._stage.work(user, self._rng.randint(*KEYS_BYTES))
                await asyncio.sleep(self._rng.uniform(*BETWEEN_KEYS_S))
        except LabError:
            return False
        finally:
            await self._stage.leave(user)
        return True
