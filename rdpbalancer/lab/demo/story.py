"""What is done to the farm in the live show, one thing after another, with quiet times between."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from rdpbalancer.control.client import UnreachableError
from rdpbalancer.lab.demo.board import Board, Scene
from rdpbalancer.lab.demo.conditions import INTERVAL_S, until
from rdpbalancer.lab.demo.people import People
from rdpbalancer.lab.demo.stage import Stage
from rdpbalancer.lab.demo.tally import Cause, Outcome

# How long a scene is shown at least, so that it can be read, and at most, if what it shows is slow to come.
SHOWN_S: Final = 9.0
AT_MOST_S: Final = 20.0
DEADLINE_S: Final = 10.0
NEWCOMERS: Final = 3
SEEN_RETURNS: Final = 3
# Two lines each on a terminal of 80 columns.
WORDS: Final = {
    "calm": "Each comes back to the desktop left behind, from another address too: the"
    " balancer reads the user's name in the first packet and remembers the server.",
    "drain": "For maintenance: its users still come back to their desktops on it, and new users go to the"
    " other servers.",
    "online": "It gets new users again. Nobody was moved for the maintenance.",
    "router": "It decides who goes where. Nobody loses a session: the relays go on moving the bytes. Who"
    " connects now waits for the next router.",
    "relay": "It moved the bytes of {sessions} sessions. Only these end; their users connect again, and are"
    " back on their desktops.",
    "fail": "Its users go to other servers and get new desktops there: those on it are lost. Everyone else"
    " stays where they are.",
    "back": "The balancer has seen it answer, and gives it new users again. Those who have a desktop"
    " elsewhere stay there.",
}


class Story:
    """Plays its scenes in turn, for ever."""

    def __init__(self, stage: Stage, board: Board, people: People) -> None:
        self._stage = stage
        self._board = board
        self._people = people
        self._guests: list[str] = []

    async def tell(self) -> None:
        """Tell it. Raises DemoError, RefusedError if the balancer does not do its part."""
        while True:
            await self._calm()
            drained = self._busiest()
            await self._drain(drained)
            await self._kill_router()
            await self._kill_relay()
            await self._fail(self._busiest(but=drained))

    async def _calm(self) -> None:
        scene = self._board.begin(
            Scene(
                "Users come, work, leave, and come back",
                WORDS["calm"],
                "rdpbalancer show persistence",
            )
        )
        own = self._since(Outcome.OWN)

        def seen() -> bool:
            scene.finding = f"so far {own()} came back to their own desktops" if own() else ""
            return own() >= 2 * SEEN_RETURNS

        await self._show(seen)

    async def _drain(self, server: str) -> None:
        tally = self._stage.tally
        scene = self._board.begin(
            Scene(
                f"{server} is drained",
                WORDS["drain"],
                f"rdpbalancer drain {server}",
            )
        )
        await self._stage.service.call("set-state", server=server, state="drain")
        before = {person.name: person.visits for person in tally.at_home(server)}
        for guest in self._guests:  # of the last time, or there would be more and more users
            self._people.retire(guest)
        self._guests = self._people.invite(NEWCOMERS)

        def seen() -> bool:
            back = sum(person.visits > before.get(person.name, 0) for person in tally.at_home(server))
            where = {guest: tally.person(guest).server for guest in self._guests}
            landed = [f"{guest} on {home}" for guest, home in where.items() if home is not None]
            scene.finding = f"{back} came back to {server}; new: {', '.join(landed) or 'nobody yet'}"
            return back >= SEEN_RETURNS and len(landed) == len(where)

        await self._show(seen)
        await self._stage.service.call("set-state", server=server, state="online")
        self._board.begin(
            Scene(
                f"{server} is online again",
                WORDS["online"],
                f"rdpbalancer online {server}",
            )
        )
        await self._show()

    async def _kill_router(self) -> None:
        old = (await self._stage.status())["router"]
        scene = self._board.begin(
            Scene(
                "The router is killed",
                WORDS["router"],
                f"kill -9 {old}",
            )
        )
        killed_at, before = time.time(), self._stage.tally.broken[Cause.NONE]
        self._stage.killing_router = True
        os.kill(old, signal.SIGKILL)

        async def replaced() -> dict[str, Any] | None:
            status = await self._status_or_none()
            new = status is not None and status["router"] != old and status["status"] == "running"
            return status if new else None

        status = await until(replaced, DEADLINE_S, "a new router")
        took_s = time.time() - killed_at

        def seen() -> bool:
            # Asked again and again: a user notices a lost session only at the next key.
            lost = self._stage.tally.broken[Cause.NONE] - before
            scene.finding = (
                f"after {took_s:.1f} s a new router (process {status['router']}) knew"
                f" {status['sessions']} sessions; lost: {lost}"
            )
            return True

        await self._show(seen)
        self._stage.killing_router = False

    async def _kill_relay(self) -> None:
        stage = self._stage
        status = await stage.status()
        relay, sessions = max(status["relays"].items(), key=lambda item: int(item[1]))
        scene = self._board.begin(
            Scene(
                "A relay is killed",
                WORDS["relay"].format(sessions=sessions),
                f"kill -9 {relay}",
            )
        )
        stage.killing_relay = True
        before = stage.tally.broken[Cause.RELAY]
        os.kill(int(relay), signal.SIGKILL)

        def seen() -> bool:
            cut = stage.tally.broken[Cause.RELAY] - before
            back = cut - sum(person.cut is Cause.RELAY for person in stage.tally)
            scene.finding = f"{cut} sessions ended with it; {back} of their users are connected again"
            return back == cut

        await self._show(seen)
        stage.killing_relay = False

    async def _fail(self, server: str) -> None:
        stage, tally = self._stage, self._stage.tally
        scene = self._board.begin(
            Scene(
                f"{server} fails",
                WORDS["fail"],
                "rdpbalancer show servers",
            )
        )
        dead = await stage.crash(server)
        moved, lost = self._since(Outcome.MOVED), tally.broken[Cause.NONE]

        def seen() -> bool:
            scene.finding = (
                f"{dead} desktops lost; {moved()} of their users work elsewhere already;"
                f" others disturbed: {tally.broken[Cause.NONE] - lost}"
            )
            return moved() >= dead

        await self._show(seen)
        stage.boot(server)
        scene = self._board.begin(
            Scene(
                f"{server} is back",
                WORDS["back"],
                "rdpbalancer show events",
            )
        )
        await self._show(lambda: self._is_up(server))

    # ---- what scenes are made of -------------------------------------------------------------------

    async def _show(self, seen: Callable[[], bool] = lambda: True) -> None:
        """Keep the scene until it was readable and has been `seen`, within reason."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        while (past_s := loop.time() - began_at) < AT_MOST_S:
            if seen() and past_s >= SHOWN_S:
                return
            await asyncio.sleep(INTERVAL_S)

    def _since(self, outcome: Outcome) -> Callable[[], int]:
        """Return what counts visits with `outcome` from now on."""
        outcomes = self._stage.tally.outcomes
        before = outcomes[outcome]
        return lambda: outcomes[outcome] - before

    def _busiest(self, *, but: str | None = None) -> str:
        """Return the server with the most desktops, for there is the most to see; not `but`."""
        servers = [name for name in sorted(self._stage.servers) if name != but]
        return max(servers, key=lambda name: len(self._stage.tally.at_home(name)))

    def _is_up(self, server: str) -> bool:
        return any(row["name"] == server and row["health"] == "up" for row in self._board.servers)

    async def _status_or_none(self) -> dict[str, Any] | None:
        try:
            return await self._stage.status()
        except UnreachableError:
            return None
