"""Upgrades with something else going on: reloads, a second upgrade, killed processes, SIGTERM."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from rdpbalancer.control.client import UnreachableError
from tests.faults.upgrade.crowd import Crowd
from tests.faults.upgrade.upgrading import gone, one_record_each
from tests.support.running_balancer import RunningBalancer, labs, real_server
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.faults, pytest.mark.slow]
NewBalancer = Callable[..., RunningBalancer]


async def test_reloads_meanwhile(new_balancer: NewBalancer) -> None:
    """Each reload is applied or refused as a whole; in the end the file is what runs, and nobody was cut."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        crowd = Crowd(vip, 30, rest_s=0.2)
        await crowd.come()
        upgrading = asyncio.get_running_loop().create_task(balancer.command("upgrade", "--wait"))
        said: Counter[int] = Counter()
        port = balancer.endpoint(vip.name).port
        while not upgrading.done():
            vip.description["limits"] = {"max_sessions": 100 + sum(said.values())}
            balancer.write_configuration()
            done = await balancer.command("reload")
            said[done.returncode] += 1
        assert 0 == upgrading.result().returncode, upgrading.result().stderr
        assert set(said) <= {0, 1, 69}, said
        added = await balancer.serve(servers)
        assert port == balancer.endpoint(vip.name).port
        for each in (vip, added):
            client = await each.opened("late")
            await client.login("late")
        rounds = crowd.rounds.copy()
        await wait_until_async(lambda: crowd.all_worked_since(rounds), 10, "everybody's work going on")
        await crowd.go()
        assert [] == crowd.errors


async def test_two_at_once(new_balancer: NewBalancer) -> None:
    """One upgrade is done; the other command sees it through, or is told that one is under way."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        client = await vip.opened("alice")
        await client.login("alice")
        both = await asyncio.gather(*(balancer.command("upgrade", "--wait") for _ in range(2)))
        assert 0 in {done.returncode for done in both}
        assert {done.returncode for done in both} <= {0, 1, 69}, [done.stderr for done in both]
        await balancer.answers_again()
        assert (await balancer.status())["generation"] in {1, 2}
        await client.echo_check(random.Random(1), 10_000)
        assert 1 == len(await vip.sessions())


@pytest.mark.parametrize("moment", ["upgrading", "router_retiring", "upgraded"])
async def test_the_router_is_killed(new_balancer: NewBalancer, moment: str) -> None:
    """Whatever router dies, and when: the service goes on with all its sessions."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        crowd = Crowd(vip, 100, rest_s=0.5)
        await crowd.come()
        first = await balancer.router_pid()
        await balancer.ask("ping")
        upgrading = asyncio.get_running_loop().create_task(balancer.command("upgrade", "--wait"))
        if moment != "upgrading":
            await wait_until_async(lambda: balancer.events(moment), 20, moment)
        routers = [pid for pid in balancer.routers() if moment != "upgraded" or pid != first]
        for pid in routers:
            os.kill(pid, signal.SIGKILL)
        await upgrading
        await balancer.answers_again()
        rounds = crowd.rounds.copy()
        await wait_until_async(lambda: crowd.all_worked_since(rounds), 10, "everybody's work going on")
        assert [] == crowd.errors
        assert 100 == len(await vip.sessions())
        await crowd.go()
        await vip.wait_records(100)
        one_record_each(vip, 100)


async def test_the_router_is_killed_during_the_move(new_balancer: NewBalancer) -> None:
    """Sessions on their way lie in a line between two relays; no router has one in its hands."""
    balancer = await asyncio.to_thread(new_balancer, relays=2)
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        crowd = Crowd(vip, 400, rest_s=1.0)
        await crowd.come()
        old = await balancer.relay_pids()
        upgrading = asyncio.get_running_loop().create_task(balancer.command("upgrade", "--wait"))
        await wait_until_async(lambda: balancer.events("upgraded"), 20, "the new code")
        await wait_until_async(lambda: _moving(balancer, old), 20, "a moved session")
        for pid in balancer.routers():
            os.kill(pid, signal.SIGKILL)
        await upgrading
        await balancer.answers_again()
        await gone(set(old), 15)
        await _others_work_on(crowd)
        assert [] == crowd.errors
        assert set(crowd.clients) == {row["user"] for row in await vip.sessions()}
        await crowd.go()
        await vip.wait_records(400)
        one_record_each(vip, 400)


async def _moving(balancer: RunningBalancer, old: list[int]) -> bool:
    try:
        relays = (await balancer.status())["relays"]
    except UnreachableError:  # between two routers there is nobody to ask
        return False
    return any(count for pid, count in relays.items() if int(pid) not in old)


async def _others_work_on(crowd: Crowd) -> None:
    rounds = crowd.rounds.copy()

    def on() -> bool:
        return all(crowd.rounds[user] >= rounds[user] + 2 for user in crowd.clients if user not in crowd.lost)

    await wait_until_async(on, 15, "the others' work going on")


async def test_an_old_relay_hangs_and_is_killed(new_balancer: NewBalancer) -> None:
    """A relay that gives nothing away costs the sessions it holds; those of the other have moved, go on."""
    balancer = await asyncio.to_thread(new_balancer, relays=2)
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        crowd = Crowd(vip, 100, rest_s=0.5)
        await crowd.come()
        relays = await balancer.relay_pids()
        held = {row["user"] for row in await vip.sessions() if row["relay"] == relays[0]}
        assert 50 == len(held)
        os.kill(relays[0], signal.SIGSTOP)
        done = asyncio.get_running_loop().create_task(balancer.command("upgrade", "--wait"))
        await wait_until_async(lambda: balancer.events("upgraded"), 20, "the new code")
        await gone({relays[1]})
        os.kill(relays[0], signal.SIGKILL)
        assert 0 == (await done).returncode, balancer.tail()
        await wait_until_async(lambda: len(crowd.errors) == 50, 10, "the ends of its sessions")
        assert held == crowd.lost
        await _others_work_on(crowd)
        assert set(crowd.clients) - held == {row["user"] for row in await vip.sessions()}


async def test_an_old_relay_is_killed_during_the_move(new_balancer: NewBalancer) -> None:
    """Only sessions that it still held end, each with its record; the others have moved and go on."""
    balancer = await asyncio.to_thread(new_balancer, relays=2)
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        crowd = Crowd(vip, 400, rest_s=1.0)
        await crowd.come()
        relays = await balancer.relay_pids()
        held = {row["user"] for row in await vip.sessions() if row["relay"] == relays[0]}
        done = asyncio.get_running_loop().create_task(balancer.command("upgrade", "--wait"))
        await wait_until_async(lambda: _moving(balancer, relays), 20, "a moved session")
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(relays[0], signal.SIGKILL)
        assert 0 == (await done).returncode, balancer.tail()
        await gone(set(relays))
        await _others_work_on(crowd)
        assert crowd.lost <= held
        assert set(crowd.clients) - crowd.lost == {row["user"] for row in await vip.sessions()}
        await vip.wait_records(len(crowd.lost))
        records = one_record_each(vip, len(crowd.lost))
        assert crowd.lost == {record["user"] for record in records}
        assert {record["close_reason"] for record in records} <= {"relay-lost"}


@pytest.mark.parametrize("moment", ["upgrading", "router_retiring", "upgraded"])
async def test_sigterm(new_balancer: NewBalancer, moment: str) -> None:
    """The service ends as it does at any time: drained, every session with its record, exit status 0."""
    balancer = await asyncio.to_thread(new_balancer, relays=1, shutdown_timeout="2s")
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        client, patient = await vip.opened("alice"), await vip.opened("patient")
        await client.login("alice")
        pid = balancer.pid
        upgrading = asyncio.get_running_loop().create_task(balancer.command("upgrade"))
        if moment != "upgrading":
            await wait_until_async(lambda: balancer.events(moment), 20, moment)
        os.kill(pid, signal.SIGTERM)
        await client.echo_check(random.Random(1), 10_000)
        await client.leave()
        assert b"" == await patient.read_to_end()
        assert balancer.process is not None
        assert 0 == await asyncio.to_thread(balancer.process.wait, 15)
        assert [] == balancer.process.children()
        await upgrading
        records = {record["user"]: record["close_reason"] for record in one_record_each(vip, 2)}
        assert {"alice": "eof", "patient": "shutdown"} == records


@pytest.mark.parametrize("moment", ["upgrading", "router_retiring", "upgraded", "killed"])
async def test_sighup(new_balancer: NewBalancer, moment: str) -> None:
    """The signal comes while no router can carry it out: the next one does."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(2) as servers:
        vip = await balancer.serve(servers[:1])
        vip.description["real_servers"].append(real_server(servers[1]))
        balancer.write_configuration()
        before = len(balancer.events("reloaded"))
        if moment == "killed":
            router = await balancer.router_pid()
            os.kill(router, signal.SIGKILL)
            await wait_until_async(lambda: balancer.events("router_ended"), 10, "its end")
            done = None
        else:
            done = asyncio.get_running_loop().create_task(balancer.command("upgrade", "--wait"))
            await wait_until_async(lambda: balancer.events(moment), 20, moment)
        os.kill(balancer.pid, signal.SIGHUP)
        await wait_until_async(lambda: len(balancer.events("reloaded")) > before, 20, "the reload")
        assert done is None or 0 == (await done).returncode, balancer.tail()
        assert 2 == len(await vip.servers())
