"""The fixed script: what the balancer promises, done once, each promise checked, and a verdict."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from rich.console import Console

from rdpbalancer.errors import RdpBalancerError
from rdpbalancer.lab.demo.conditions import until
from rdpbalancer.lab.demo.moves import DEADLINE_S, WORK_BYTES, DemoMoves, names
from rdpbalancer.lab.demo.report import Report
from rdpbalancer.lab.demo.service import NAME
from rdpbalancer.lab.demo.stage import Plan, open_stage
from rdpbalancer.lab.demo.tally import Outcome, Tally, verdict
from rdpbalancer.lab.demo.working import Working
from rdpbalancer.lab.desktops import Broker
from rdpbalancer.model import Reason
from rdpbalancer.tasks import cancel_and_wait, spawn

USERS: Final = 30  # by the weights 12, 12 and 6: shares without a remainder
SEED: Final = 1
NEWCOMERS: Final = 3


async def run_script(console: Console, *, plan: Plan | None = None) -> bool:
    """Play the script and print it; the verdict is the last line. True: every promise was kept."""
    report = Report(console)
    tally = Tally()
    rng = random.Random(SEED)
    report.say("rdpbalancer and its simulated farm start, on this machine's loopback interface only ...")
    try:
        async with open_stage(plan or Plan(), rng) as stage:
            tally = stage.tally
            for step in Script(stage, report, rng).steps():
                await step()
    except RdpBalancerError as error:
        report.check(ok=False, said="the script can be played to its end", otherwise=str(error))
    except asyncio.CancelledError:
        report.problems.append("interrupted before the end")
        _conclude(report, tally)
        raise
    return _conclude(report, tally)


def _conclude(report: Report, tally: Tally) -> bool:
    problems = list(dict.fromkeys([*tally.problems, *report.problems]))
    report.say("")
    report.say(verdict(tally, problems), style="bold red" if problems else "bold green")
    return not problems


class Script(DemoMoves):
    """The steps, in their order. Each leaves everybody who has come so far connected."""

    def steps(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """Return the steps."""
        return (
            self.arrive,
            self.come_back,
            self.drain,
            self.kill_router,
            self.kill_relay,
            self.reload,
            self.redirect,
            self.compare_books,
        )

    async def arrive(self) -> None:
        """Users come, each from an address of its own, and work."""
        stage, report = self.stage, self.report
        report.step(f"{USERS} users connect to {stage.endpoint} and work")
        users = stage.new_users(USERS)
        new = await self.come(users, elsewhere=False)
        report.check(ok=new[Outcome.NEW] == USERS, said="each has a desktop")
        rows = (await stage.status())["servers"]
        expected = _shares(USERS, {row["name"]: row["weight"] for row in rows})
        seen = {row["name"]: row["sessions"] for row in rows}
        shares = ", ".join(f"{row['name']} {row['sessions']} (weight {row['weight']})" for row in rows)
        report.check(ok=expected == seen, said=f"they are shared out by weight: {shares}")
        await self.all_work(f"{USERS * WORK_BYTES // 1000} kB came back as they were sent")

    async def come_back(self) -> None:
        """Everybody leaves, and comes back from an address that the balancer has never seen."""
        self.report.step("All leave; all come back, each from another address than before")
        users = self.stage.crowd.present
        await self.stage.all_leave()
        await self.see_returns(users, f"all {len(users)} are back on the desktop they had left")

    async def drain(self) -> None:
        """A drained server gets its users back, and nobody new."""
        stage, report = self.stage, self.report
        report.step("ts2 is drained (rdpbalancer drain ts2)")
        users = [person.name for person in stage.tally.at_home("ts2")]
        await asyncio.gather(*map(stage.leave, users))
        await stage.service.call("set-state", server="ts2", state="drain")
        await self.see_returns(users, f"all {len(users)} users of ts2 still come back to their desktops")
        newcomers = stage.new_users(2 * NEWCOMERS)
        await self.come(newcomers)
        landed = Counter(stage.tally.person(user).server for user in newcomers)
        where = ", ".join(f"{server} {count}" for server, count in sorted(landed.items(), key=str))
        report.check(
            ok=None not in landed and "ts2" not in landed,
            said=f"{len(newcomers)} new users go to other servers: {where}",
        )
        await stage.service.call("set-state", server="ts2", state="online")
        self.told_at = asyncio.get_running_loop().time()

    async def kill_router(self) -> None:
        """The process that decides dies; the relays do not notice, and its successor knows everything."""
        stage, report = self.stage, self.report
        report.step("The router is killed (kill -9) while all are working")
        late = self.one_of_each()
        await asyncio.gather(*map(stage.leave, late))
        before = await self.settled()
        await until(lambda: self.is_kept(late), DEADLINE_S, "bindings and states are on disk")
        states = await self.states()
        working = stage.crowd.present
        async with Working(stage, working) as work:
            await work.rounds(1)
            old = (await stage.status())["router"]
            os.kill(old, signal.SIGKILL)
            arriving = spawn(self.come(late), name="users arrive without a router")
            try:
                await work.rounds(2)
                going_on_at = time.time()
                new = await until(lambda: self.router_after(old), DEADLINE_S, "a new router")
                outcomes = await arriving
            finally:
                await cancel_and_wait(arriving)
            await work.rounds(2)
        early = ", before there is a new router" if going_on_at < new["router_started"] else ""
        report.check(
            ok=not work.errors, said=f"all {len(working)} sessions go on{early}", otherwise=work.first
        )
        after = await self.sessions()
        kept = sum(session in after for session in before)
        said = f"a new router (process {new['router']}) knows all {len(before)} sessions"
        report.check(ok=kept == len(before), said=said, otherwise=f"only {kept}")
        report.check(ok=await self.states() == states, said="and what operators said of the servers")
        own = outcomes[Outcome.OWN]
        said = f"all {len(late)} who came meanwhile are on their own desktops"
        report.check(ok=own == len(late), said=said, otherwise=f"only {own} are")
        report.check(ok=not work.errors, said="no byte was wrong, no session was lost", otherwise=work.first)

    async def kill_relay(self) -> None:
        """One of the processes that move bytes dies: its sessions end, and nothing else."""
        stage, report = self.stage, self.report
        report.step("A relay is killed (kill -9), one of the processes that move the bytes")
        sessions = await self.settled()
        relay, count = Counter(session["relay"] for session in sessions.values()).most_common(1)[0]
        on_it = {session["user"] for session in sessions.values() if session["relay"] == relay}
        stage.killing_relay = True
        os.kill(relay, signal.SIGKILL)
        await until(lambda: self.is_replaced(relay), DEADLINE_S, "a new relay, the old one's sessions gone")
        broken = await self.broken(stage.crowd.present)
        stage.killing_relay = False
        report.check(
            ok=broken == on_it,
            said=f"the {count} sessions on it end, and the other {len(sessions) - count} go on",
            otherwise=f"ended: {names(broken)}",
        )
        await asyncio.gather(*map(stage.leave, broken))
        await self.see_returns(broken, f"all {count} users connect again, and are back on their desktops")

    async def reload(self) -> None:
        """A server is added to the configuration of the running service."""
        stage, report = self.stage, self.report
        report.step("A fourth server is added to the configuration (rdpbalancer reload)")
        name = stage.add_server(weight=100)
        stage.configure()
        changes = await stage.service.call("reload")
        added = [changes["servers_added"], changes["servers_removed"], changes["servers_changed"]]
        report.check(ok=added == [[f"{NAME}/{name}"], [], []], said=f"{name} is added, nothing else changes")
        await until(lambda: self.is_up(name), DEADLINE_S, f"{name} is up")
        await self.all_work("all sessions go on")
        newcomers = stage.new_users(NEWCOMERS)
        await self.come(newcomers)
        landed = {stage.tally.person(user).server for user in newcomers}
        report.check(ok=landed == {name}, said=f"the next {NEWCOMERS} new users get their desktops on {name}")

    async def redirect(self) -> None:
        """A session broker knows better than the balancer, and says so with a routing token."""
        stage, report = self.stage, self.report
        report.step("Three users come from programs that send no name; the farm's session broker knows them")
        broker = Broker()
        for person in stage.tally:
            if person.server is not None:
                broker.assign(person.name, stage.servers[person.server].home)
        for server in stage.servers.values():
            server.broker, server.behaviour = broker, "broker"
        users = self.one_of_each()
        await asyncio.gather(*map(stage.leave, users))
        await self.settled()
        stage.nameless = users
        visits = [visit for _, visit in await asyncio.gather(*(stage.come(user) for user in users))]
        stage.nameless = ()
        redirected = sum(visit.landing is not None and visit.landing.redirects == 1 for visit in visits)
        report.check(ok=redirected == len(users), said="each lands on another server, which redirects")
        reasons = Counter(session["reason"] for session in (await self.settled()).values())
        own = sum(stage.tally.person(user).last is Outcome.OWN for user in users)
        report.check(
            ok=own == len(users) == reasons[Reason.TOKEN],
            said=f"the routing token takes all {len(users)} to their own desktops",
            otherwise=f"only {own}",
        )

    async def compare_books(self) -> None:
        """The balancer, the terminal servers and the users agree on everything."""
        stage, report, tally = self.stage, self.report, self.stage.tally
        report.step("The books are compared")
        await self.settled()
        told = {row["name"]: row["sessions"] for row in (await stage.status())["servers"]}
        held = {name: len(server.sessions) for name, server in stage.servers.items()}
        total = sum(held.values())
        report.check(
            ok=told == held,
            said=f"the balancer and the servers agree on all {total} sessions",
            otherwise=f"{told} and {held}",
        )
        desktops = [desktop for server in stage.servers.values() for desktop in server.desktops]
        visits = sum(desktop.visits for desktop in desktops)
        report.check(
            ok=(tally.users, tally.visits) == (len(desktops), visits),
            said=f"{tally.users} users have one desktop each, with {tally.visits} visits in all",
            otherwise=f"there are {len(desktops)} desktops with {visits} visits",
        )
        await stage.all_leave()
        await self.settled()
        report.check(ok=True, said="all leave, and the balancer counts no session any more")


def _shares(users: int, weights: dict[str, int]) -> dict[str, int]:
    total = sum(weights.values())
    return {name: users * weight // total for name, weight in weights.items()}
