"""What the steps of the fixed script are made of: users who come and work, questions to the balancer."""

import asyncio
import random
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.demo.conditions import until
from rdpbalancer.lab.demo.report import Report
from rdpbalancer.lab.demo.service import RELAYS
from rdpbalancer.lab.demo.stage import Stage
from rdpbalancer.lab.demo.tally import Outcome

WORK_BYTES: Final = 20_000
DEADLINE_S: Final = 10.0
# Whoever is connected when the router is killed is known to a relay. Of those who are not, and of operators'
# words, it may cost those of the last second, which are not on disk yet; here some more, for a slow disk.
KEPT_AFTER_S: Final = 2.0


class DemoMoves:
    """Things that are done and asked in more than one step."""

    def __init__(self, stage: Stage, report: Report, rng: random.Random) -> None:
        self.stage = stage
        self.report = report
        self.rng = rng
        self.told_at = 0.0  # when the operator last said something of a server, monotonic

    async def come(self, users: Collection[str], *, elsewhere: bool = True) -> Counter[Outcome]:
        """Let users connect at once; return how that ended.

        They come in an order of chance: in the same order as before, a balancer that only counts sessions
        would send them to the same servers, too.
        """
        order = self.rng.sample(sorted(users), len(users))
        arrivals = await asyncio.gather(*(self.stage.come(user, elsewhere=elsewhere) for user in order))
        return Counter(outcome for outcome, _ in arrivals)

    async def see_returns(self, users: Collection[str], said: str) -> None:
        """Let users who left connect again, and tell whether all reached their own desktops."""
        own = (await self.come(users))[Outcome.OWN]
        self.report.check(ok=own == len(users), said=said, otherwise=f"only {own} are")

    async def all_work(self, said: str) -> None:
        """Let everybody exchange bytes, and tell whether no session broke."""
        broken = await self.broken(self.stage.crowd.present)
        self.report.check(ok=not broken, said=said, otherwise=f"broken: {names(broken)}")

    async def broken(self, users: Collection[str]) -> set[str]:
        """Let everybody exchange bytes; return those whose sessions turn out to be broken."""
        works = (self.stage.work(user, WORK_BYTES) for user in users)
        results = await asyncio.gather(*works, return_exceptions=True)
        for result in results:
            if result is not None and not isinstance(result, LabError):
                raise result
        return {user for user, result in zip(users, results, strict=True) if result is not None}

    async def sessions(self) -> dict[str, dict[str, Any]]:
        """Return the balancer's live sessions by id."""
        return {session["id"]: session for session in await self.stage.service.rows("sessions")}

    async def settled(self) -> dict[str, dict[str, Any]]:
        """Return the live sessions once the last departures have been counted."""
        present = len(self.stage.crowd.present)

        async def counted() -> tuple[dict[str, dict[str, Any]]] | None:
            sessions = await self.sessions()
            return (sessions,) if len(sessions) == present else None

        (sessions,) = await until(counted, DEADLINE_S, f"the balancer counts {present} sessions")
        return sessions

    def one_of_each(self) -> list[str]:
        """Return one user of each of the first three servers."""
        owners = [self.stage.tally.at_home(server) for server in ("ts1", "ts2", "ts3")]
        return [people[0].name for people in owners if people]

    async def is_kept(self, users: Collection[str]) -> bool:
        """Whether the bindings of `users`, and the operator's words, are no longer lost with the router."""
        bound = (self.stage.tally.person(user).since_at for user in users)
        return asyncio.get_running_loop().time() - max(self.told_at, *bound) > KEPT_AFTER_S

    async def states(self) -> dict[str, str]:
        """Return what is wanted of each server."""
        return {row["name"]: row["state"] for row in (await self.stage.status())["servers"]}

    async def router_after(self, old: int) -> dict[str, Any] | None:
        """Return the status of the balancer once a new router takes users."""
        status = await self.stage.status()
        return status if status["router"] != old and status["status"] == "running" else None

    async def is_replaced(self, relay: int) -> bool:
        """Whether the balancer has another relay for the one of this process id, and counts it out."""
        relays = (await self.stage.status())["relays"]
        lost = any(session["relay"] == relay for session in (await self.sessions()).values())
        return not lost and len(relays) == RELAYS and str(relay) not in relays

    async def is_up(self, server: str) -> bool:
        """Whether the balancer finds `server` healthy."""
        rows = (await self.stage.status())["servers"]
        return any(row["name"] == server and row["health"] == "up" for row in rows)


def names(users: Collection[str]) -> str:
    """Return users for a person to read."""
    return ", ".join(sorted(users)) or "nobody"
