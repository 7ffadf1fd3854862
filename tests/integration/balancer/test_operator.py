"""The operator's verbs, through the real command line."""

import random

import pytest

from rdpbalancer.tasks import spawn
from rdpbalancer.wire.confirm import DISCONNECT
from tests.support.running_balancer import RunningBalancer, Vip, labs
from tests.support.wait import wait_until_async

DONE, FAILED, USAGE, UNREACHABLE, WAIT_RAN_OUT, BAD_CONFIGURATION = 0, 1, 2, 69, 75, 78


async def on(vip: Vip, user: str) -> str:
    """Return the server on which a user lands; the session stays."""
    return (await (await vip.opened(user)).login(user)).server


async def told_to_go(vip: Vip, user: str) -> bool:
    """Whether a user is refused with a Disconnect Request."""
    client = vip.client(user)
    await client.connect()
    await client.send_request()
    return await client.read_to_end() == DISCONNECT


@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_drain(balancer: RunningBalancer) -> None:
    """No new users; bound ones come back; --strict sends them elsewhere too; online takes it back."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, scheduler="first-available")
        alice = await vip.opened("alice")
        assert "ts1" == (await alice.login("alice")).server
        answer = await balancer.json("drain", "ts1", "--service", vip.name)
        (row,) = answer["servers"]
        assert (f"{vip.name}/ts1", "drain", 1, 0) == (
            row["server"],
            row["state"],
            row["sessions"],
            answer["kicked"],
        )
        assert "drain" == (await vip.servers())["ts1"]["state"]
        assert "ts2" == await on(vip, "bob")
        assert "ts1" == await on(vip, "alice")
        await alice.echo_check(random.Random(1), 1000)
        await balancer.json("drain", "ts1", "--service", vip.name, "--strict")
        assert "ts2" == await on(vip, "alice")
        await balancer.json("online", "ts1", "--service", vip.name)
        assert "ts1" == await on(vip, "carol")
        assert "ts2" == await on(vip, "alice")


async def test_halt(balancer: RunningBalancer) -> None:
    """Nobody new at all, live sessions stay; --kick ends them."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        alice = await vip.opened("alice")
        await alice.login("alice")
        (row,) = (await balancer.json("halt", "ts1", "--service", vip.name))["servers"]
        assert ("halt", 1) == (row["state"], row["sessions"])
        assert await told_to_go(vip, "alice")
        await alice.echo_check(random.Random(1), 1000)
        answer = await balancer.json("halt", f"{vip.name}/ts1", "--kick")
        assert 1 == answer["kicked"]
        assert b"" == await alice.read_to_end()
        assert "kicked" == (await vip.wait_records(1))[0]["close_reason"]


async def test_waiting_for_a_server_to_be_empty(balancer: RunningBalancer) -> None:
    """--wait returns when the last session has ended; --deadline gives up with 75, or kicks."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        alice = await vip.opened("alice")
        words = ("drain", "ts1", "--service", vip.name)
        ran_out = await balancer.command(*words, "--wait", "--deadline", "200ms")
        assert WAIT_RAN_OUT == ran_out.returncode, ran_out.stderr
        assert "wait ran out" in ran_out.stderr
        waiting = spawn(balancer.command(*words, "--wait"), name="user", on_error=lambda _error: None)
        await wait_until_async(
            lambda: len(balancer.events("operator", server="ts1", service=vip.name)) == 2, 5, "heard"
        )
        assert not waiting.done()
        await alice.leave()
        assert DONE == (await waiting).returncode
        await vip.opened("alice")
        kicked = await balancer.command(*words, "--deadline", "200ms", "--kick")
        assert DONE == kicked.returncode, kicked.stderr
        assert 0 == len(await vip.sessions())


async def test_weight(balancer: RunningBalancer) -> None:
    """A runtime weight, 0 as drain, and back to the configured one."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, scheduler="first-available")
        await balancer.json("weight", "ts1", "0", "--service", vip.name)
        assert "ts2" == await on(vip, "alice")
        assert 0 == (await vip.servers())["ts1"]["weight"]
        await balancer.json("weight", "ts1", "256", "--service", vip.name)
        assert 256 == (await vip.servers())["ts1"]["effective_weight"]
        await balancer.json("weight", "ts1", "--reset", "--service", vip.name)
        assert 100 == (await vip.servers())["ts1"]["weight"]
        assert USAGE == (await balancer.command("weight", "ts1", "257")).returncode
        assert USAGE == (await balancer.command("weight", "ts1")).returncode


@pytest.mark.parametrize("balancer", [0, 2], indirect=True)
async def test_kick(balancer: RunningBalancer) -> None:
    """By session, user, server or source; who is not there is a failure, nobody named wrong usage."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, scheduler="weighted-round-robin")
        users = {user: await vip.opened(user, source=f"127.0.3.{n}") for n, user in enumerate("abcdef", 1)}
        rows = {row["user"]: row for row in await vip.sessions()}
        assert {"kicked": 1} == await balancer.json("kick", rows["a"]["id"])
        assert {"kicked": 1} == await balancer.json("kick", "--user", "B")
        assert {"kicked": 1} == await balancer.json("kick", "--source", "127.0.3.3")
        await vip.wait_sessions(3)
        left = [row["server"] for row in await vip.sessions()]
        answer = await balancer.json("kick", "--server", f"{vip.name}/ts2")
        assert {"kicked": left.count("ts2")} == answer
        for user in "abc":
            assert b"" == await users[user].read_to_end()
        unknown = await balancer.command("kick", rows["a"]["id"])
        assert (FAILED, True) == (unknown.returncode, "no session" in unknown.stderr)
        assert FAILED == (await balancer.command("kick", "--user", "nobody")).returncode
        assert USAGE == (await balancer.command("kick")).returncode


async def test_bindings_are_moved_and_deleted(balancer: RunningBalancer) -> None:
    """`persist move` decides the next connection, `persist delete` forgets; show has them."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, scheduler="first-available")
        client = await vip.opened("alice")
        await client.leave()
        await vip.wait_sessions(0)
        assert DONE == (await balancer.command("persist", "move", "ALICE", f"{vip.name}/ts2")).returncode
        assert "ts2" == await on(vip, "alice")
        (row,) = await balancer.json("show", "persistence", "--service", vip.name)
        assert ("rdp-cookie", "alice", "ts2", None, 1) == (
            row["method"],
            row["key"],
            row["server"],
            row["expires_in"],
            row["sessions"],
        )
        assert (
            DONE == (await balancer.command("persist", "delete", "alice", "--service", vip.name)).returncode
        )
        assert {} == await vip.bindings()
        assert "ts1" == await on(vip, "alice")
        move = ("persist", "move", "new", "ts2", "--service", vip.name)
        assert DONE == (await balancer.command(*move)).returncode
        assert "ts2" == await on(vip, "new")
        assert FAILED == (await balancer.command("persist", "delete", "nobody")).returncode
        by_source = ("persist", "move", "127.0.0.1", "ts2", "--service", vip.name, "--method", "source-ip")
        assert DONE == (await balancer.command(*by_source)).returncode
        assert "ts2" == (await vip.bindings())["127.0.0.1"]


async def test_exit_codes(balancer: RunningBalancer) -> None:
    """0 done, 1 failed, 2 usage, 69 unreachable, 78 bad configuration; the words say what to do."""
    async with labs(1) as servers:
        await balancer.serve(servers)
        unknown = await balancer.command("drain", "nosuch")
        assert (FAILED, True) == (unknown.returncode, "there is no server nosuch" in unknown.stderr)
        assert USAGE == (await balancer.command("drain")).returncode
        assert USAGE == (await balancer.command("drain", "ts1", "--deadline", "soon")).returncode
        nowhere = await balancer.command("--socket", str(balancer.folder / "no.sock"), "status")
        assert (UNREACHABLE, True) == (nowhere.returncode, "is the service running?" in nowhere.stderr)
        bad = balancer.folder / "bad.yaml"
        bad.write_text("virtual_services:\n  - name: x\n    lisen: '127.0.0.1:1'\n")
        check = await balancer.command("check", "-c", str(bad))
        assert BAD_CONFIGURATION == check.returncode
        assert f"{bad}:3:5: virtual_services[0].lisen" in check.stderr
        assert "did you mean" in check.stderr
        assert DONE == (await balancer.command("check", "-c", str(balancer.configuration))).returncode


async def test_what_is_shown(balancer: RunningBalancer) -> None:
    """`status` and every `show` carry the promised keys as JSON, and columns without."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers)
        await on(vip, "alice")
        promised = {
            "servers": "service name address state health weight effective_weight sessions max_connections"
            " queue agent checks_failed last_change reason",
            "sessions": "id service server client user method key reason started relay bytes_up bytes_down"
            " state",
            "persistence": "service method key server expires_in sessions",
            "services": "name listen mode scheduler sessions queue servers_usable servers_total",
        }
        for what, keys in promised.items():
            rows = await balancer.json("show", what)
            assert rows
            assert set(keys.split()) <= set(rows[0]), what
            plain = await balancer.command("show", what)
            assert DONE == plain.returncode
            assert len(rows) + 1 == len(plain.stdout.splitlines())
        assert DONE == (await balancer.command("show", "events")).returncode
        status = await balancer.json("status")
        assert ("running", 1, balancer.pid) == (status["status"], status["sessions"], status["pid"])
        assert vip.name in (await balancer.command("status")).stdout
        assert "" == (await balancer.command("--quiet", "drain", f"{vip.name}/ts1")).stdout
