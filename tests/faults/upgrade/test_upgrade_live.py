"""Upgrades under load: no session is lost, no byte wrong, nobody turned away, every record written once."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.wire.confirm import DISCONNECT
from tests.faults.upgrade.crowd import Crowd, Newcomers
from tests.faults.upgrade.upgrading import gone, one_record_each, upgraded
from tests.support.running_balancer import RunningBalancer, labs
from tests.support.wait import wait_until_async

pytestmark = [pytest.mark.faults, pytest.mark.slow]
NewBalancer = Callable[..., RunningBalancer]

# More than the sockets' buffers on the way take (tcp_rmem and tcp_wmem, each side of each connection): the
# rest is pending in the relay, a full read buffer of it.
_STALLED_BYTES = 24_000_000
_STALLED_BOTH_WAYS_BYTES = 7 * _STALLED_BYTES


async def test_three_upgrades_under_a_thousand_sessions(new_balancer: NewBalancer) -> None:
    """1,000 sessions go on byte for byte over three upgrades; who comes meanwhile waits, and is served."""
    balancer = await asyncio.to_thread(new_balancer, relays=2)
    async with labs(3) as servers:
        vip = await balancer.serve(servers, scheduler="weighted-round-robin")
        crowd, newcomers = Crowd(vip, 1000, rest_s=4.0), Newcomers(vip, side_by_side=2)
        await crowd.come()
        newcomers.start()
        for _ in range(3):
            old, rounds, served = (
                set(balancer.processes()) - {balancer.pid},
                crowd.rounds.copy(),
                newcomers.served,
            )
            after = await upgraded(balancer)
            assert after["sessions"] >= 1000
            assert 2 == len(after["relays"])
            await gone(old)
            await _all_go_on(crowd, rounds)
            await wait_until_async(partial(newcomers.more_than, served + 5), 10, "newcomers")
            assert ([], []) == (crowd.errors, newcomers.errors)
        await newcomers.stop()
        await crowd.go()
        count = 1000 + newcomers.served
        await vip.wait_records(count, 15)
        assert ([], []) == (crowd.errors, newcomers.errors)
        records = one_record_each(vip, count)
        assert {"eof"} == {record["close_reason"] for record in records}
        carried = {r["user"]: r["bytes_up"] for r in records if r["user"] in crowd.clients}
        hello_bytes = len("HELLO user0000\n")
        assert {user: echoed + hello_bytes for user, echoed in crowd.echoed_bytes.items()} == carried
        assert newcomers.longest_s < 10


async def _all_go_on(crowd: Crowd, rounds: Counter[str]) -> None:
    await wait_until_async(lambda: crowd.all_worked_since(rounds), 15, "everybody's work going on")


async def test_stalled_and_half_closed_sessions_move(new_balancer: NewBalancer) -> None:
    """What is pending, who has finished, how much was counted: all of it moves with the session, twice."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with (
        labs(1, behaviour="stream", stream_bytes=_STALLED_BYTES) as streams,
        labs(1, behaviour="stream", stream_bytes=1000) as short_streams,
        labs(1, behaviour="echo") as echoes,
    ):
        down, short, both = [await balancer.serve(each) for each in (streams, short_streams, echoes)]
        readers = [await down.opened(f"r{number}", timeout_s=30) for number in range(3)]
        readers[0].half_close()  # has said all, and still listens
        listener = await short.opened("listener")  # whose server has said all; ended if it too says nothing
        assert b"" == (await listener.read_to_end())[1000:]
        stalled, quiet = await both.opened("stalled", timeout_s=30), await both.opened("quiet")
        content = random.Random(7).randbytes(_STALLED_BOTH_WAYS_BYTES)
        # The client does not read, so the server's echo stalls, so the server stops reading too.
        writing = asyncio.get_running_loop().create_task(stalled.channel.write(content))
        for _ in range(2):
            await _stands_still(balancer)
            await upgraded(balancer)
            await listener.channel.write(b"a word,")
            assert not writing.done()
        received, _ = await asyncio.gather(stalled.channel.read_exactly(len(content)), writing)
        assert content == received
        for reader in readers:
            await reader.stream_check(_STALLED_BYTES)
            assert b"" == await reader.read_to_end()
            await reader.leave()
        await listener.channel.write(b"late word")
        await _echoes(quiet, b"still here")
        for client in (stalled, quiet, listener):
            await client.leave()
        await down.wait_records(3)
        assert {"r0": (0, "client"), "r1": (0, "server"), "r2": (0, "server")} == {
            record["user"]: (record["bytes_up"], record["close_side"]) for record in one_record_each(down, 3)
        }
        # What a server says in one breath with its Confirm is passed on by the router, and not counted.
        assert all(0 <= _STALLED_BYTES - record["bytes_down"] < 16_384 for record in down.records())
        (heard,) = await short.wait_records(1)
        assert (len("a word,") * 2 + len("late word"), "server") == (heard["bytes_up"], heard["close_side"])
        await both.wait_records(2)
        assert {"stalled": (len(content), len(content)), "quiet": (10, 10)} == {
            record["user"]: (record["bytes_up"], record["bytes_down"]) for record in one_record_each(both, 2)
        }


async def _stands_still(balancer: RunningBalancer) -> None:
    """Wait until the byte counts of all sessions have not moved between two reports."""
    seen: list[object] = []

    async def still() -> bool:
        rows = await balancer.ask("sessions")
        seen.append(sorted((row["id"], row["bytes_up"], row["bytes_down"]) for row in rows))
        return len(seen) > 1 and seen[-1] == seen[-2]

    await asyncio.sleep(0)
    await wait_until_async(still, 20, "sessions that stand still")


async def _echoes(client: LabClient, word: bytes) -> None:
    await client.channel.write(word)
    assert word == await client.channel.read_exactly(len(word))


async def test_idle_time_is_kept(new_balancer: NewBalancer) -> None:
    """A session's silence counts from its last byte, not from the upgrade."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(1) as servers:
        vip = await balancer.serve(servers, timeouts={"idle": "6s"})
        client = await vip.opened("sleeper")
        await client.login("sleeper")
        await upgraded(balancer)
        (record,) = await vip.wait_records(1, 12)
        assert ("idle", "balancer") == (record["close_reason"], record["close_side"])
        assert 5 <= record["duration_s"] < 8.5
        assert b"" == await client.read_to_end()


async def test_handshakes_are_finished_and_the_queue_is_not(new_balancer: NewBalancer) -> None:
    """Who is in the middle of a handshake is served; who waits in the queue for too long is let go."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(1) as servers, labs(1) as small:
        vip = await balancer.serve(servers)
        narrow = await balancer.serve(
            [{"name": "ts1", "address": str(small[0].endpoint), "max_connections": 1}],
            timeouts={"queue": "60s"},
        )
        half_done = vip.client(
            opening=LabOpening(cookie="halfway", chunk_bytes=20, pause_s=1.0), timeout_s=20
        )
        servers[0].faults.inject("slow-confirm", delay_s=2.5)
        confirming = asyncio.get_running_loop().create_task(vip.opened("confirming"))
        occupant = await narrow.opened("first")
        waiting = narrow.client("second", timeout_s=20)
        await waiting.connect()
        await waiting.send_request()
        await wait_until_async(lambda: _queued(balancer), 5, "one in the queue")
        await half_done.connect()
        sending = asyncio.get_running_loop().create_task(half_done.send_request())
        await upgraded(balancer)
        await sending
        await half_done.await_confirm()
        await confirming
        # The router waits some seconds for the queue, not for as long as the queue itself may last.
        # It says goodbye as where no server can be used, so that the client does not try three times.
        assert DISCONNECT == await waiting.read_to_end()
        await _echoes_after_login(occupant, "first")
        again = narrow.client("second", timeout_s=20)
        opening = asyncio.get_running_loop().create_task(again.open())
        await wait_until_async(lambda: _queued(balancer), 5, "one in the queue of the new router")
        await occupant.leave()
        await opening
        assert [] == balancer.complaints()


async def _queued(balancer: RunningBalancer) -> bool:
    return any(row["queue"] for row in await balancer.ask("services"))


async def _echoes_after_login(client: LabClient, user: str) -> None:
    await client.login(user)
    await client.echo_check(random.Random(1), 5000)


async def test_states_weights_bindings_and_limits_survive(new_balancer: NewBalancer) -> None:
    """The operator's words, the users' bindings and the places taken are the next router's too."""
    balancer = await asyncio.to_thread(new_balancer, relays=1)
    async with labs(3) as servers:
        vip = await balancer.serve(servers, scheduler="weighted-round-robin", limits={"max_sessions": 5})
        homes = {}
        for user in ("a", "b", "c"):
            homes[user] = (await (await vip.opened(user)).login(user)).server
        await balancer.ask("set-state", server="ts1", state="drain", service=vip.name)
        await balancer.ask("set-state", server="ts2", state="halt", service=vip.name)
        await balancer.ask("set-weight", server="ts3", weight=7, service=vip.name)
        await upgraded(balancer)
        rows = await vip.servers()
        states = {name: row["state"] for name, row in rows.items()}
        assert {"ts1": "drain", "ts2": "halt", "ts3": "online"} == states
        assert 7 == rows["ts3"]["weight"]
        assert homes == await vip.bindings()
        assert {(1, None)} == {
            (row["sessions"], row["expires_in"])
            for row in await balancer.ask("persistence", service=vip.name)
        }
        late = [await vip.opened(user) for user in ("d", "e")]
        assert {"ts3"} == {(await client.login("x")).server for client in late}
        one_too_many = vip.client("f")
        await one_too_many.connect()
        assert b"" == await one_too_many.read_to_end()
