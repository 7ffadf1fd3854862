"""kill -9 of each process of the balancer, while users work."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rdpbalancer.control.client import CommandRefusedError
from rdpbalancer.lab.channel import LabError
from rdpbalancer.runtime.signals import HARMLESS
from rdpbalancer.tasks import spawn
from rdpbalancer.wire.confirm import DISCONNECT
from tests.faults.balancer.traffic import Workers
from tests.support.processes import is_alive
from tests.support.running_balancer import RunningBalancer, Vip, labs
from tests.support.wait import wait_until, wait_until_async

NewBalancer = Callable[..., RunningBalancer]

pytestmark = pytest.mark.faults


async def started(new_balancer: NewBalancer, **keys: object) -> RunningBalancer:
    """Start a balancer while the test's loop goes on."""
    return await asyncio.to_thread(lambda: new_balancer(**keys))


def one_record_each(vip: Vip, count: int) -> None:
    """Check that there are so many records, of as many sessions."""
    sessions = Counter(record["session"] for record in vip.records())
    assert (count, 1) == (len(sessions), max(sessions.values()))


@pytest.mark.parametrize("relays", [1, 2])
async def test_the_router_is_killed_with_200_sessions(new_balancer: NewBalancer, relays: int) -> None:
    """Not one byte wrong, not one session lost, newcomers served, one record each, bindings intact."""
    balancer = await started(new_balancer, relays=relays)
    async with labs(3) as servers:
        vip = await balancer.serve(servers)
        workers = Workers(vip, 200)
        await workers.come()
        late = await vip.opened("late")  # within the last second before the kill
        home = (await late.login("late")).server
        router = await balancer.router_pid()
        balancer.kill(router)
        assert not is_alive(router)
        newcomers = await asyncio.gather(*(vip.opened(f"new{number}") for number in range(20)))
        before = dict(workers.rounds)
        await wait_until_async(lambda: workers.worked_since(before), 20, "everybody's work going on")
        await balancer.answers_again()
        assert router != await balancer.router_pid()
        assert {} == workers.errors
        assert 221 == len(await vip.sessions())
        assert {**workers.homes, "late": home} == {
            user: server for user, server in (await vip.bindings()).items() if not user.startswith("new")
        }
        again = await vip.opened("user0007")
        assert workers.homes["user0007"] == (await again.login("user0007")).server
        await workers.go()
        for client in (late, again, *newcomers):
            await client.leave()
        await balancer.quiet()
        await vip.wait_records(222)
        one_record_each(vip, 222)
        assert {"eof"} == {record["close_reason"] for record in vip.records()}


async def test_sessions_that_end_without_a_router_are_recorded(new_balancer: NewBalancer) -> None:
    """What ends between two routers is told to the next one: one record, the binding's time begins."""
    balancer = await started(new_balancer)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        clients = [await vip.opened(f"u{number}") for number in range(10)]
        await balancer.written_down(bindings=10)
        balancer.kill(await balancer.router_pid())
        for client in clients[:9]:
            await client.leave()
        await balancer.answers_again()
        await vip.wait_records(9)
        (row,) = await vip.sessions()
        assert "u9" == row["user"]

        async def time_runs() -> bool:
            rows = await balancer.ask("persistence", service=vip.name)
            return 9 == sum(row["expires_in"] is not None for row in rows)

        await wait_until_async(time_runs, 5, "the bindings of the nine age")
        await clients[9].leave()
        await vip.wait_records(10)
        one_record_each(vip, 10)


@pytest.mark.slow
async def test_the_router_is_killed_again_and_again(new_balancer: NewBalancer) -> None:
    """Three deaths in a row cost no session; the operator's words and the limits stay."""
    balancer = await started(new_balancer)
    async with labs(2) as servers:
        vip = await balancer.serve(servers, limits={"max_sessions": 6})
        await balancer.ask("set-state", server="ts2", state="drain", service=vip.name)
        clients = [await vip.opened(f"u{number}") for number in range(5)]
        await balancer.written_down(bindings=5, overrides=1)
        for _ in range(3):
            balancer.kill(await balancer.router_pid())
            await balancer.answers_again()
        assert "drain" == (await vip.servers())["ts2"]["state"]
        assert 5 == len(await vip.sessions())
        clients.append(await vip.opened("u5"))
        turned_away = vip.client("u6")
        with pytest.raises(LabError):
            await turned_away.open()
        for number, client in enumerate(clients):
            await client.login(f"u{number}")
            await client.echo_check(random.Random(number), 10_000)
        assert {"ts1"} == set((await vip.bindings()).values())


async def test_a_retiring_relay_stays_so_over_a_routers_death(new_balancer: NewBalancer) -> None:
    """A relay that a reload made surplus gets no session from the next router either: it is about to end."""
    balancer = await started(new_balancer, relays=2)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        clients = [await vip.opened(f"u{number}") for number in range(4)]
        by_relay = Counter(row["relay"] for row in await vip.sessions())
        assert [2, 2] == list(by_relay.values())
        balancer.set_global(relays=1)
        await balancer.reload()
        await clients[0].leave()
        await clients[1].leave()
        balancer.kill(await balancer.router_pid())
        await balancer.answers_again()
        clients += [await vip.opened(f"n{number}") for number in range(6)]
        fresh = {row["relay"] for row in await vip.sessions() if row["user"].startswith("n")}
        assert 1 == len(fresh)
        for number, client in enumerate(clients[2:]):
            await client.login("x")
            await client.echo_check(random.Random(number), 1000)


async def test_a_relay_is_killed(new_balancer: NewBalancer) -> None:
    """Only its own sessions end, each with its record; a new relay is started and used."""
    balancer = await started(new_balancer, relays=2)
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        workers = Workers(vip, 20)
        await workers.come()
        mine = {row["user"]: row["relay"] for row in await vip.sessions()}
        victim = await _relay_of(vip, "user0000")
        lost = {user for user, relay in mine.items() if relay == victim}
        assert 10 == len(lost)
        balancer.kill(victim)
        records = await vip.wait_records(10)
        assert lost == {record["user"] for record in records}
        assert {("relay-lost", "balancer")} == {(r["close_reason"], r["close_side"]) for r in records}
        before = dict(workers.rounds)
        await wait_until_async(lambda: workers.worked_since(before), 10, "the others' work going on")

        async def two_again() -> bool:
            pids = await balancer.relay_pids()
            return len(pids) == 2 and victim not in pids

        await wait_until_async(two_again, 10, "a new relay")
        back = [await vip.opened(user) for user in sorted(lost)]
        for user, client in zip(sorted(lost), back, strict=True):
            assert workers.homes[user] == (await client.login(user)).server

        async def new_one_is_used() -> bool:
            client = await vip.opened("user0000")
            await client.leave()
            back.append(client)
            return len({record["relay"] for record in vip.records()} - set(mine.values())) == 1

        await wait_until_async(new_one_is_used, 5, "a session on the new relay")
        await workers.go()
        assert lost == set(workers.errors)
        for client in back:
            await client.leave()
        await vip.wait_records(20 + len(back))
        one_record_each(vip, 20 + len(back))


async def _relay_of(vip: Vip, user: str) -> int:
    return next(int(row["relay"]) for row in await vip.sessions() if row["user"] == user)


async def test_the_only_relay_is_killed(new_balancer: NewBalancer) -> None:
    """Logins that come meanwhile wait for the next relay and are served."""
    balancer = await started(new_balancer, relays=1)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        await vip.opened("lost")
        (victim,) = await balancer.relay_pids()
        balancer.kill(victim)
        clients = await asyncio.gather(*(vip.opened(f"u{number}") for number in range(10)))
        for client in clients:
            assert "ts1" == (await client.login("x")).server
            await client.leave()
        await vip.wait_records(11)
        reasons = Counter(record["close_reason"] for record in vip.records())
        assert {"relay-lost": 1, "eof": 10} == reasons


async def test_the_supervisor_is_killed(new_balancer: NewBalancer) -> None:
    """Its children end by themselves; a new start takes over states, weights and bindings."""
    balancer = await started(new_balancer, relays=2)
    async with labs(3) as servers:
        vip = await balancer.serve(servers, scheduler="weighted-round-robin")
        homes = {}
        for user in ("a", "b", "c", "d"):
            homes[user] = (await (await vip.opened(user)).login(user)).server
        await balancer.ask("set-state", server="ts1", state="drain", service=vip.name, strict=True)
        await balancer.ask("set-weight", server="ts2", weight=17, service=vip.name)
        await balancer.ask("set-state", server="ts3", state="halt", service=vip.name)
        await balancer.written_down(bindings=4, overrides=3)
        children = [pid for pid in balancer.processes() if pid != balancer.pid]
        assert 3 == len(children)
        os.kill(balancer.pid, signal.SIGKILL)
        await wait_until_async(
            lambda: not any(is_alive(pid) for pid in children), 10, "the end of all children"
        )
        assert balancer.process is not None
        await asyncio.to_thread(balancer.process.stop)
        balancer.dismiss()
        await asyncio.to_thread(balancer.start)
        rows = await vip.servers()
        assert {"ts1": ("drain", True), "ts2": ("online", False), "ts3": ("halt", False)} == {
            name: (row["state"], row["strict"]) for name, row in rows.items()
        }
        assert (17, 100) == (rows["ts2"]["weight"], rows["ts1"]["weight"])
        assert homes == await vip.bindings()
        for server in ("ts1", "ts3"):
            await balancer.ask("set-state", server=server, state="online", service=vip.name)
        for user, home in homes.items():
            assert home == (await (await vip.opened(user)).login(user)).server


async def test_everything_is_killed(new_balancer: NewBalancer) -> None:
    """Kill -9 of all at once: the next start finds its sockets free and its state whole."""
    balancer = await started(new_balancer, relays=2)
    async with labs(2) as servers:
        vip = await balancer.serve(servers)
        home = (await (await vip.opened("alice")).login("alice")).server
        await balancer.written_down(bindings=1)
        for pid in balancer.processes():
            os.kill(pid, signal.SIGKILL)
        assert balancer.process is not None
        await asyncio.to_thread(balancer.process.stop)
        balancer.dismiss()
        await asyncio.to_thread(balancer.start)
        assert {"alice": home} == await vip.bindings()
        assert home == (await (await vip.opened("alice")).login("alice")).server


@pytest.mark.slow
async def test_a_frozen_router_is_replaced(new_balancer: NewBalancer) -> None:
    """SIGSTOP of the router: sessions go on; it is killed and replaced within seconds of HANG_S."""
    from rdpbalancer.runtime.liveness import HANG_S

    balancer = await started(new_balancer)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        workers = Workers(vip, 5)
        await workers.come()
        router = await balancer.router_pid()
        balancer.kill(router, signal.SIGSTOP)
        began_at = time.monotonic()
        newcomer = spawn(vip.opened("new", timeout_s=HANG_S + 10), name="user", on_error=lambda _error: None)
        before = dict(workers.rounds)
        await wait_until_async(lambda: workers.worked_since(before), 5, "work going on")
        await wait_until_async(lambda: not is_alive(router), HANG_S + 5, "the end of the frozen router")
        assert time.monotonic() - began_at >= HANG_S - 2
        await newcomer
        await balancer.answers_again()
        assert 6 == len(await vip.sessions())
        assert balancer.events("process_stuck", role="router", pid=router)
        await workers.go()
        assert {} == workers.errors


# ---- stopping ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relays", [0, 1])
async def test_sigterm_drains(new_balancer: NewBalancer, relays: int) -> None:
    """Nobody new; sessions may end by themselves for shutdown_timeout, then each is ended and recorded."""
    balancer = await started(new_balancer, relays=relays, shutdown_timeout="1500ms")
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        patient, staying = await vip.opened("patient"), await vip.opened("staying")
        await patient.login("patient")
        began_at = time.monotonic()
        os.kill(balancer.pid, signal.SIGTERM)
        refused = vip.client("new")

        async def closed() -> bool:
            try:
                await refused.connect()
            except LabError:
                return True
            refused.close()
            return False

        await wait_until_async(closed, 5, "a closed listener")
        await patient.echo_check(random.Random(1), 1000)
        await patient.leave()
        assert b"" == await staying.read_to_end()
        assert time.monotonic() - began_at >= 1.4
        assert balancer.process is not None
        assert 0 == await asyncio.to_thread(balancer.process.wait, 10)
        assert [] == balancer.process.children()
        assert {"patient": "eof", "staying": "shutdown"} == {
            record["user"]: record["close_reason"] for record in vip.records()
        }
        assert 2 == len(vip.records())
        assert not balancer.socket.exists()


@pytest.mark.parametrize("relays", [0, 2])
async def test_a_second_sigterm_ends_at_once(new_balancer: NewBalancer, relays: int) -> None:
    """Who says it twice means it: every session is ended now, with its record."""
    balancer = await started(new_balancer, relays=relays, shutdown_timeout="60s")
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        clients = [await vip.opened(f"u{number}") for number in range(30)]
        os.kill(balancer.pid, signal.SIGTERM)
        await wait_until_async(lambda: balancer.events("router_stopping"), 5, "the drain")
        await clients[0].echo_check(random.Random(1), 0)
        assert balancer.process is not None
        assert balancer.process.returncode is None
        began_at = time.monotonic()
        os.kill(balancer.pid, signal.SIGTERM)
        assert 0 == await asyncio.to_thread(balancer.process.wait, 10)
        assert time.monotonic() - began_at < 6
        for client in clients:
            assert b"" == await client.read_to_end()
        one_record_each(vip, 30)
        assert {"shutdown"} == {record["close_reason"] for record in vip.records()}
        wait_until(lambda: not balancer.process or not balancer.process.children(), 5, "no child left")


async def test_a_reload_lets_nobody_in_while_the_service_stops(new_balancer: NewBalancer) -> None:
    """It is refused, and the stop ends with its last session, not with that of somebody who came since."""
    balancer = await started(new_balancer, relays=1, shutdown_timeout="60s")
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        staying = await vip.opened("staying")
        os.kill(balancer.pid, signal.SIGTERM)
        await wait_until_async(lambda: balancer.events("router_stopping"), 5, "the drain")
        with pytest.raises(CommandRefusedError, match="being stopped"):
            await balancer.reload()
        with pytest.raises(LabError):
            await vip.client("new").connect()
        await staying.leave()
        assert balancer.process is not None
        assert 0 == await asyncio.to_thread(balancer.process.wait, 20)
        assert ["staying"] == [record["user"] for record in vip.records()]


@pytest.mark.parametrize("relays", [0, 1])
async def test_a_stop_says_goodbye_to_who_is_on_the_way(new_balancer: NewBalancer, relays: int) -> None:
    """Silent, in the queue, before their Confirm: each gets a Disconnect Request, and none is our error."""
    balancer = await started(new_balancer, relays=relays, shutdown_timeout="0s")
    async with labs(1) as servers, labs(1) as silent:
        full = [{"name": "ts1", "address": str(servers[0].endpoint), "max_connections": 1}]
        vip = await balancer.serve(full)
        mute = await balancer.serve(silent, health_check={"type": "tcp"})
        silent[0].faults.inject("silent")
        await vip.opened("occupant")
        quiet, queued, unheard = vip.client(), vip.client("queued"), mute.client("unheard")
        for client in (quiet, queued, unheard):
            await client.connect()
        for client in (queued, unheard):
            await client.send_request()

        async def on_their_way() -> bool:
            return (await balancer.status())["half_open"] == 3 and await vip.queue() == 1

        await wait_until_async(on_their_way, 5, "three on their way")
        assert balancer.process is not None
        os.kill(balancer.pid, signal.SIGTERM)
        goodbyes = [await client.read_to_end() for client in (quiet, queued, unheard)]
        assert [DISCONNECT] * 3 == goodbyes
        assert 0 == await asyncio.to_thread(balancer.process.wait, 10)
        assert [] == balancer.complaints()
        assert {None: "shutdown", "queued": "shutdown", "unheard": "shutdown"} == {
            event["user"]: event["reason"] for event in balancer.events("connection_failed")
        }


@pytest.mark.parametrize("wakes", [True, False], ids=["slow", "hung"])
async def test_every_session_has_its_record_at_a_stop(new_balancer: NewBalancer, *, wakes: bool) -> None:
    """A relay that is slow to end its sessions is waited for; one that hangs is killed, and they are told."""
    balancer = await asyncio.to_thread(new_balancer, relays=1, shutdown_timeout="0s")
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        for number in range(20):
            await vip.opened(f"user{number}")
        (relay,) = await balancer.relay_pids()
        os.kill(relay, signal.SIGSTOP)
        os.kill(balancer.pid, signal.SIGTERM)
        await wait_until_async(lambda: balancer.events("router_stopping"), 5, "the stop")
        if wakes:
            # Later than what a stop once allowed for all records together.
            asyncio.get_running_loop().call_later(4, os.kill, relay, signal.SIGCONT)
        assert balancer.process is not None
        assert 0 == await asyncio.to_thread(balancer.process.wait, 30)
        assert [] == balancer.events("records_missing")
        reasons = {record["user"]: record["close_reason"] for record in vip.records()}
        expected = "shutdown" if wakes else "relay-lost"
        assert {f"user{number}": expected for number in range(20)} == reasons


async def test_signals_of_other_recipes_end_nobody(new_balancer: NewBalancer, tmp_path: Path) -> None:
    """USR1, USR2, ALRM, PIPE and their like, to any process: sessions go on. USR1 opens the log file anew."""
    log = tmp_path / "rdpbalancer.log"
    keys = {"format": "json", "level": "debug", "user": "plain", "file": str(log)}
    balancer = await started(new_balancer, relays=1, log=keys)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        alice = await vip.opened("alice")
        await alice.login("alice")
        before = set(balancer.processes())
        for pid in before:
            for number in HARMLESS:
                os.kill(pid, number)
        await alice.echo_check(random.Random(1), 10_000)
        await (await vip.opened("bob")).login("bob")
        assert before == set(balancer.processes())
        log.rename(tmp_path / "rdpbalancer.log.1")
        os.kill(balancer.pid, signal.SIGUSR1)
        await wait_until_async(log.exists, 5, "a new log file")
        await vip.opened("carol")
        await wait_until_async(lambda: "session_opened" in log.read_text(), 5, "the router's lines in it")


async def test_a_log_that_cannot_be_written_keeps_nobody_from_logging_in(
    new_balancer: NewBalancer, tmp_path: Path
) -> None:
    """Its folder is gone when a router is started anew, and when the service is upgraded; `status` warns."""
    log = tmp_path / "log" / "rdpbalancer.log"
    log.parent.mkdir()
    keys = {"format": "json", "level": "debug", "user": "plain", "file": str(log)}
    balancer = await started(new_balancer, relays=1, log=keys)
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        alice = await vip.opened("alice")
        await alice.login("alice")
        log.parent.rename(tmp_path / "moved")
        os.kill(balancer.pid, signal.SIGUSR1)
        await wait_until_async(
            lambda: (tmp_path / "moved" / log.name).read_text().count("log_not_reopened") == 2,
            5,
            "supervisor and router to say so",
        )
        balancer.kill(await balancer.router_pid())
        await (await vip.opened("bob")).login("bob")
        codes = [warning["code"] for warning in (await balancer.ask("status"))["warnings"]]
        assert "log-not-reopened" in codes
        upgraded = await balancer.command("upgrade", "--wait")
        assert (0, "") == (upgraded.returncode, upgraded.stderr)
        await (await vip.opened("carol")).login("carol")
        await alice.echo_check(random.Random(1), 10_000)
        log.parent.mkdir()
        await balancer.reload()
        await vip.opened("dora")
        await wait_until_async(lambda: "session_opened" in log.read_text(), 5, "the router's lines again")
        codes = [warning["code"] for warning in (await balancer.ask("status"))["warnings"]]
        assert "log-not-reopened" not in codes


async def test_a_death_by_a_signal_is_reported(new_balancer: NewBalancer) -> None:
    """Which signal it was stands in the log."""
    balancer = await started(new_balancer, relays=1)
    balancer.kill(await balancer.router_pid(), signal.SIGABRT)
    await wait_until_async(lambda: balancer.events("router_ended"), 5, "its end")
    assert "killed by SIGABRT" in balancer.events("router_ended")[0]["detail"]
    await balancer.answers_again()
