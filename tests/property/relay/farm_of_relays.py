"""Relays, and the routers that follow each other, in one loop; what is killed is drawn from a seed.

The parts are real: relays, their lines, the pool, the keeper of the books. The loop is not: it has its own
clock, and holds words back at random, so that a run is the same every time, in any order that lines allow.
"""

import asyncio
import itertools
import random
import selectors
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from rdpbalancer.ipc.channel import pair
from rdpbalancer.ipc.relay_messages import SessionState
from rdpbalancer.model import CloseReason
from rdpbalancer.relay.pool import RelayPool
from rdpbalancer.relay.worker import Relay
from rdpbalancer.tasks import cancel_and_wait, spawn
from tests.support.wait import wait_until_async
from tests.unit.runtime.in_process_router import InProcessRouter, facts, service_of, state_of

# A turn of the loop takes up to this: about as long as a relay that gives sessions away pauses.
_TURN_S: Final = 0.002
# How long nothing happens before the next fault: relays are greeted and lines laid in this time.
_TURNS: Final = (0, 1, 2, 3, 4, 5, 8, 13, 20, 40)
_MORE_THAN_A_LINE_TAKES: Final = 1000
# How long a line stalls: mostly not felt, sometimes all others overtake it.
_STALLS: Final = (0, 0, 1, 3, 10, 40)
# Half of the faults happen when a part of the sessions has moved, or after this at the latest.
_TURNS_AT_MOST: Final = 200
# Chances that somebody leaves in a turn of the loop while faults happen.
_LEAVES: Final = 0.03


class _Readiness(selectors.DefaultSelector):
    """Tells late, at random, what is ready. Where nothing is, time jumps to the next timer."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._stall = chance.choice([0.0, 0.1, 0.3, 0.5])
        self._stalled: dict[int, int] = {}
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return some of what is ready now; never wait."""
        ready = super().select(0)
        self.now += self._chance.random() * _TURN_S if ready else timeout or 0.0
        return [(key, events) for key, events in ready if not self._stalls(key.fd)]

    def _stalls(self, fd: int) -> bool:
        """Return whether it is not yet told that this descriptor is ready."""
        turns = self._stalled.pop(fd, 0)
        if not turns and self._chance.random() < self._stall:
            turns = 1 + self._chance.choice(_STALLS)
        if turns > 1:
            self._stalled[fd] = turns - 1
        return turns > 0


class UnpunctualLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, whose lines stall."""

    def __init__(self, chance: random.Random) -> None:
        self._readiness = _Readiness(chance)
        super().__init__(self._readiness)

    def time(self) -> float:
        """Return the time that the turns so far have taken."""
        return self._readiness.now


class RelayProcess:
    """A relay, and what its supervisor has of it: a line, and the router's end of the other line."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._killed = False
        self.router_end, router = pair()
        self._line, supervisor = pair()
        self._relay = Relay(router, supervisor)
        self.task = spawn(self._relay.run(), name=f"relay {pid}")
        self.task.add_done_callback(lambda _: self._notice_its_end())

    def _notice_its_end(self) -> None:
        self.router_end.close()
        self._line.close()

    @property
    def runs(self) -> bool:
        """Whether it is there. Whoever has just exited is not, even if nobody has noticed."""
        return not (self._killed or self.task.done())

    @property
    def told_to_receive(self) -> bool:
        """Whether sessions of others may be on their way to it."""
        return bool(self._relay._moves._receivers)

    def states(self) -> list[SessionState]:
        """Return the sessions at work in it, and those that it would have back if their targets died."""
        return [*(session.state for session in self._relay._mover), *self._relay._moves.waiting()]

    def sessions(self) -> list[str]:
        """Return the names of those."""
        return [state.id for state in self.states()]

    def kill(self) -> None:
        """End it in the middle of whatever it does: descriptors vanish, and nothing more is said.

        The one place that reaches into a relay: no relay has a verb for its own death.
        """
        self._killed = self.task.cancel()
        relay, moves = self._relay, self._relay._moves
        sending = [each._channel for each in moves._senders]
        receiving = [each._channel for each in moves._receivers.values()]
        for line in (relay._router, relay._supervisor, *sending, *receiving):
            line.close()
        for session in relay._mover:
            relay._mover.migrate_out(session)
            session.client.close()
            session.server.close()
        relay._mover.close()
        self._notice_its_end()


class Router:
    """A router: real books, a real pool. What it has recorded stays when it is gone.

    `full`: the relay whose line is full when the moves begin.
    """

    def __init__(self, relays: list[RelayProcess], outdated: list[int], *, full: int | None) -> None:
        self._house = InProcessRouter(service_of(["ts1"]))
        self.pool = RelayPool(self._house.keeper, report_interval_s=0.05)
        for relay in relays:
            self.add(relay)
        self.start = spawn(self._begin(outdated, full), name="router")

    async def _begin(self, outdated: list[int], full: int | None) -> None:
        await self.pool.introduced()
        if full is not None:
            self._fill(full)
        self.pool.migrate_out(outdated)

    def _fill(self, relay: int) -> None:
        """Say more to a relay than its line takes, without any consequence."""
        for _ in range(_MORE_THAN_A_LINE_TAKES):
            self.pool.kick(relay, ["nobody"], CloseReason.KICKED)
            if self.pool.pending:
                return

    def add(self, relay: RelayProcess) -> None:
        """Take a relay into use."""
        self.pool.add(relay.pid, relay.router_end.dup())

    async def adopt(self, user: "User") -> None:
        """Hand a session to a relay, and enter it in the books."""
        known = msgspec.structs.replace(facts(user.session), user=user.name)
        relay = await self.pool.choose()
        self._house.keeper.session_live(state_of(known), relay)
        self.pool.adopt(relay, known, user.near, first=(b"", b""), idle_s=0)

    def books(self) -> dict[str, int]:
        """Return each session that it believes to live, and at which relay."""
        return {live.facts.id: live.relay for live in self._house.dispatcher.ledger}

    def records(self) -> list[str]:
        """Return the session of each record that it has made."""
        return [line["session"] for line in self._house.logged("session_closed")]

    def kill(self) -> None:
        """End it in the middle of whatever it does.

        Closing the pool says nothing, and drops what the lines have not taken: as a death does.
        """
        self.start.cancel()
        self.pool.close()


class User:
    """A user and a server: the far ends of a session."""

    def __init__(self, session: str, name: str) -> None:
        self.session = session
        self.name = name
        (self._client, near_client), (self._server, near_server) = socket.socketpair(), socket.socketpair()
        self.near = near_client, near_server
        for sock in (self._client, self._server, *self.near):
            sock.setblocking(False)
        self.left = False

    def leave(self) -> None:
        """Go, as the server does then."""
        self.left = True
        self._client.close()
        self._server.close()

    def say(self, word: bytes) -> None:
        """Say something to the server."""
        self._client.send(word)

    def heard(self) -> bytes:
        """Return what the server has been told and not taken; nothing: it is to come, or never will."""
        try:
            return self._server.recv(100, socket.MSG_PEEK)
        except BlockingIOError:
            return b""


class Farm:
    """Everything, and the supervisor's part: who runs, who is outdated, who follows whom."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._pids = itertools.count(101)
        self.story: list[str] = []
        self.complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.complaints.append(context))
        self._wanted_relays = chance.choice([1, 1, 2])
        self._all_relays: list[RelayProcess] = []
        self._outdated: set[int] = set()
        self.users: dict[str, User] = {}
        # Those whom a relay may have taken with it when it was killed: all but what the others had.
        self.at_risk: set[str] = set()
        self.targets_killed = 0
        self.upgrades = 0
        self.routers: list[Router] = []

    # ---- what there is -----------------------------------------------------------------------------

    @property
    def router(self) -> Router:
        """The newest one."""
        return self.routers[-1]

    @property
    def relays(self) -> list[RelayProcess]:
        """All relays that run."""
        return [relay for relay in self._all_relays if relay.runs]

    @property
    def old_relays(self) -> list[RelayProcess]:
        """Those that are to give their sessions away."""
        return [relay for relay in self.relays if relay.pid in self._outdated]

    def homes(self) -> dict[str, list[int]]:
        """Return for each session that lives the relays that have it."""
        found: dict[str, list[int]] = {}
        for relay in self.relays:
            for session in relay.sessions():
                found.setdefault(session, []).append(relay.pid)
        return found

    def records(self) -> Counter[str]:
        """Return how many records each session has."""
        return Counter(session for router in self.routers for session in router.records())

    def unknown_to_all(self) -> set[str]:
        """Return the sessions that may end without a record.

        What lies in the line of an target that is killed is known to the router only (decision 0013).
        """
        # The first router ended before anything moved.
        return self.at_risk if self.targets_killed and len(self.routers) > 2 else set()

    # ---- what happens ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start relays and a router, and have users at work."""
        self._start_relays(self._wanted_relays)
        self._start_router()
        await self.router.start
        for number in range(self._chance.choice([10, 40, 100])):
            user = User(f"s{number}", "x" * self._chance.choice([0, 300, 2000]))
            self.users[user.session] = user
            await self.router.adopt(user)
        await wait_until_async(lambda: len(self.homes()) == len(self.users), 5, "users at work")

    async def disturb(self, faults: tuple[str, ...]) -> None:
        """Have a few of these faults happen, and users leave meanwhile."""
        for fault in self._chance.choices(faults, k=self._chance.randint(1, 5)):
            if self._chance.random() < 0.5:
                await self._go_on(self._chance.choice(_TURNS))
            else:
                await self._until_some_have_moved()
            await FAULTS[fault](self)

    async def upgrade(self) -> None:
        """Replace all relays and the router, which first lets go of all that it has in hand."""
        pool = self.router.pool
        await wait_until_async(lambda: not pool.pending, 5, "empty hands")
        self._tell("an upgrade")
        self.upgrades += 1
        self.router.kill()
        self._outdated = {relay.pid for relay in self.relays}
        self._start_relays(self._wanted_relays)
        self._start_router()

    async def kill_router(self) -> None:
        """Kill the router. The next one starts a moment later, and may die as it starts."""
        for turns in self._chance.choice([(0,), (1, 2), (1, 3, 1), (2, 5)]):
            await self._go_on(turns)
            self._tell("the router is killed")
            self.router.kill()
            await self._go_on(self._chance.choice([0, 1, 3, 20]))
            self._start_router()

    async def kill_heir(self) -> None:
        """Kill a relay that serves. The next one starts a moment later."""
        serving = [relay for relay in self.relays if relay.pid not in self._outdated]
        self._kill_relay(self._chance.choice(serving))
        await self._go_on(self._chance.choice([0, 10, 100]))
        self._start_relays(1)
        self.router.add(self._all_relays[-1])

    async def kill_giver(self) -> None:
        """Kill a relay that gives its sessions away, under a router that knows them and survives it.

        That both die in the same moment is left out: nobody would be there to make the records.
        """
        await self.router.start
        if not self.old_relays:
            self._tell("no giver is left to be killed")
            return
        giver, pool = self._chance.choice(self.old_relays), self.router.pool
        self._kill_relay(giver)
        await wait_until_async(
            lambda: giver.pid not in pool.sessions() and not pool.pending, 5, "the giver's loss in the books"
        )

    def everybody_leaves(self) -> None:
        """Empty the farm."""
        for user in self.users.values():
            user.leave()

    async def close(self) -> None:
        """Kill all that still runs."""
        self.router.kill()
        for relay in self.relays:
            relay.kill()
        await cancel_and_wait(*(router.start for router in self.routers))
        await cancel_and_wait(*(relay.task for relay in self._all_relays))
        self.everybody_leaves()

    async def _go_on(self, turns: int) -> None:
        for _ in range(turns):
            if self._chance.random() < _LEAVES:
                self._chance.choice(list(self.users.values())).leave()
            await asyncio.sleep(0)

    async def _until_some_have_moved(self) -> None:
        enough = self._chance.random() * self._to_move()
        for _ in range(_TURNS_AT_MOST):
            if self._to_move() <= enough:
                return
            await self._go_on(1)

    def _to_move(self) -> int:
        return sum(len(relay.sessions()) for relay in self.old_relays)

    def _kill_relay(self, relay: RelayProcess) -> None:
        self._tell(f"relay {relay.pid} is killed")
        # One that is to give its sessions away may still receive some, by an earlier router's move.
        self.targets_killed += relay.told_to_receive or relay.pid not in self._outdated
        relay.kill()
        spared = {session for other in self.relays if other is not relay for session in other.sessions()}
        self.at_risk |= self.users.keys() - spared

    def _start_relays(self, count: int) -> None:
        self._all_relays += [RelayProcess(next(self._pids)) for _ in range(count)]

    def _start_router(self) -> None:
        full = self._chance.choice([None, None, self._all_relays[-1].pid])
        self.routers.append(Router(self.relays, sorted(self._outdated), full=full))

    def _tell(self, what: str) -> None:
        self.story.append(f"{asyncio.get_running_loop().time():.4f} s: {what}")


FAULTS: Final = {
    "router": Farm.kill_router,
    "target": Farm.kill_heir,
    "giver": Farm.kill_giver,
    "upgrade": Farm.upgrade,
}


@asynccontextmanager
async def farm_of_relays(chance: random.Random) -> AsyncIterator[Farm]:
    """Run a farm. Whatever is found wrong with it says what had happened."""
    farm = Farm(chance)
    try:
        await farm.open()
        yield farm
    except AssertionError as error:
        error.add_note("\n".join(farm.story))
        raise
    finally:
        await farm.close()
