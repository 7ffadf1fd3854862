"""Simulated users: they come, work, leave, and expect their desktop when they come back."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rdpbalancer.lab.channel import LabError, together
from rdpbalancer.lab.client import LabClient, Landing
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.model import Endpoint

DEFAULT_CONCURRENCY: Final = 256  # connections being opened at once; those that are open do not count


@dataclass(frozen=True, slots=True)
class Visit:
    """One attempt of a user to get to the desktop: where it ended, or the code of what went wrong."""

    user: str
    landing: Landing | None = None
    error: str | None = None


def user_names(count: int) -> list[str]:
    """Return `count` names of 9 characters: mstsc sends no more of a login."""
    return [f"user{number:05}" for number in range(1, count + 1)]


def by_cookie(user: str) -> LabOpening:
    """Open as xfreerdp and mstsc do for a named user: mstshash, and TLS or NLA offered."""
    return LabOpening(cookie=user)


def strayed(visits: Sequence[Visit]) -> dict[str, set[str]]:
    """Return the users who were on more than one desktop, with those desktops: nobody, if all is well."""
    desktops: dict[str, set[str]] = {}
    for visit in visits:
        if visit.landing is not None:
            desktops.setdefault(visit.user, set()).add(visit.landing.desktop)
    return {user: seen for user, seen in desktops.items() if len(seen) > 1}


async def storm(
    endpoint: Endpoint,
    users: Sequence[str],
    connections_each: int,
    rng: random.Random,
    hold: asyncio.Event | None = None,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    opening: Callable[[str], LabOpening] = by_cookie,
    landed: Callable[[Visit], None] | None = None,
    timeout_s: float = 30.0,
) -> list[Visit]:
    """Have all users connect at once, `connections_each` times, in random order; return where each landed.

    With `hold` every connection stays open until it is set; `landed` is told of each as it happens.
    """
    arrivals = [user for user in users for _ in range(connections_each)]
    rng.shuffle(arrivals)
    door = asyncio.Semaphore(concurrency)

    async def one(user: str) -> Visit:
        client = LabClient(endpoint, opening(user), timeout_s=timeout_s)
        try:
            async with door:
                visit = await _come(client, user)
            if landed is not None:
                landed(visit)
            if hold is not None:
                await hold.wait()
            await client.leave()
            return visit
        finally:
            client.close()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(user), name=f"storm: {user}") for user in arrivals]
    return [task.result() for task in tasks]


@dataclass(eq=False)
class Population:
    """Users of one service, each with at most one connection at a time. `visits` is all that happened."""

    endpoint: Endpoint
    users: Sequence[str]
    rng: random.Random
    opening: Callable[[str], LabOpening] = by_cookie
    source_of: Callable[[str], str | None] = lambda _user: None
    timeout_s: float = 10.0
    visits: list[Visit] = field(default_factory=list)
    # Told of each visit as it happens.
    landed: Callable[[Visit], None] = lambda _visit: None
    # Whose sessions the other side ended while they stayed.
    ended: list[str] = field(default_factory=list)
    _here: dict[str, LabClient] = field(init=False, default_factory=dict)

    @property
    def present(self) -> list[str]:
        """Who is connected now."""
        return list(self._here)

    async def come(self, user: str) -> Visit:
        """Connect and log in. A failure is a visit too, with its error."""
        if user in self._here:
            raise LabError("bad-option", f"{user} is here already and has to leave first")
        client = LabClient(
            self.endpoint, self.opening(user), source=self.source_of(user), timeout_s=self.timeout_s
        )
        self._here[user] = client
        visit = await _come(client, user)
        if visit.error is not None:
            await self.leave(user)
        self.visits.append(visit)
        self.landed(visit)
        return visit

    async def stay(self, user: str, seconds: float) -> None:
        """Stay connected. A session that the other side ends is noted in `ended`."""
        try:
            await self._here[user].stay(seconds)
        except LabError as error:
            if error.code not in ("closed", "reset"):
                raise
            self.ended.append(user)

    async def work(self, user: str, total_bytes: int) -> None:
        """Exchange random bytes with the desktop and check each. Raises LabError."""
        await self._here[user].echo_check(self.rng, total_bytes)

    async def leave(self, user: str) -> None:
        """Disconnect; the desktop stays."""
        client = self._here.pop(user)
        try:
            await client.leave()
        finally:
            client.close()

    async def everybody_leaves(self) -> None:
        """Disconnect all who are there."""
        async with asyncio.TaskGroup() as group:
            for user in self.present:
                group.create_task(self.leave(user))

    async def live(
        self,
        *,
        visits_each: int,
        work_bytes: int,
        hold_s: float = 0.0,
        pause_s: float = 0.0,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> None:
        """Let every user come, work, stay and leave `visits_each` times, with random pauses up to `pause_s`.

        At most `concurrency` users are there at once. Raises LabError if a session broke or corrupted;
        failed logins are only recorded.
        """
        room = asyncio.Semaphore(concurrency)

        async def life(user: str) -> None:
            for _ in range(visits_each):
                await asyncio.sleep(self.rng.uniform(0, pause_s))
                async with room:
                    await self._visit(user, work_bytes, hold_s)

        await together(*map(life, self.rng.sample(self.users, len(self.users))))

    async def _visit(self, user: str, work_bytes: int, hold_s: float) -> None:
        visit = await self.come(user)
        if visit.error is not None:
            return
        try:
            await self.work(user, work_bytes)
            if hold_s:
                await self.stay(user, hold_s)
        finally:
            await self.leave(user)

    def report(self) -> Mapping[str, list[Visit]]:
        """Return each user's visits in their order."""
        visits: dict[str, list[Visit]] = {user: [] for user in self.users}
        for visit in self.visits:
            visits[visit.user].append(visit)
        return visits

    def strayed(self) -> dict[str, set[str]]:
        """Return the users who were on more than one desktop."""
        return strayed(self.visits)


async def _come(client: LabClient, user: str) -> Visit:
    try:
        await client.open()
        return Visit(user, await client.login(user))
    except LabError as error:
        return Visit(user, error=error.code)
