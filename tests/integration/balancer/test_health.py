"""Health checks, the feedback agent, and what follows from them for users."""

import random
import time
from contextlib import AsyncExitStack

import pytest

from rdpbalancer.lab.agent import AgentMode, LabAgent
from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from rdpbalancer.lab.opening import LabOpening
from rdpbalancer.wire.confirm import DISCONNECT
from tests.support.running_balancer import RunningBalancer, Vip, labs, real_server
from tests.support.wait import wait_until_async

FAST_AGENT = {"interval": "50ms", "timeout": "1s", "stale_after": "600ms"}


async def landing(vip: Vip, user: str) -> str:
    """Return the server on which a user lands."""
    async with LabClient(vip.endpoint, LabOpening(cookie=user)) as client:
        place = await client.login(user)
        await client.leave()
    return place.server


@pytest.mark.parametrize(
    "fault", ["refuse", "silent", "garbage-reply", "accept-then-close", "accept-then-reset", "dial-hangs"]
)
async def test_a_failing_server_goes_down_and_comes_back(balancer: RunningBalancer, fault: str) -> None:
    """After `fall` failures it gets nobody, after `rise` successes it is used again; metrics follow."""
    async with labs(2) as servers:
        # Long enough for the good server, which is played by this process, on a busy machine.
        vip = await balancer.serve(servers, scheduler="first-available", health_check={"timeout": "1s"})
        servers[0].faults.inject(fault)
        row = await vip.wait_server("ts1", health="down")
        assert row["checks_failed"] >= 2
        assert row["reason"]
        assert 0 == await vip.count("server_up", server="ts1")
        assert "ts2" == await landing(vip, "alice")
        servers[0].faults.clear()
        await vip.wait_server("ts1", health="up")
        assert "ts1" == await landing(vip, "bob")
        assert "ts2" == await landing(vip, "alice")
        assert [1, 1] == [
            len(balancer.events(name, server="ts1", service=vip.name)[-1:])
            for name in ("server_down", "server_up")
        ]


async def test_fewer_failures_than_fall_keep_a_server_up(balancer: RunningBalancer) -> None:
    """Fewer failures in a row than `fall` change nothing."""
    async with labs(1) as servers:
        vip = await balancer.serve(
            servers, health_check={"fall": 100, "interval": "50ms", "timeout": "200ms"}
        )
        servers[0].faults.inject("refuse")

        async def failed_thrice() -> bool:
            return bool((await vip.servers())["ts1"]["checks_failed"] >= 3)

        await wait_until_async(failed_thrice, 5, "3 failed checks")
        assert "up" == (await vip.servers())["ts1"]["health"]
        servers[0].faults.clear()
        assert "ts1" == await landing(vip, "alice")


@pytest.mark.parametrize(("on_down", "stays"), [("keep", True), ("kick", False)])
@pytest.mark.parametrize("balancer", [0, 1], indirect=True)
async def test_live_sessions_of_a_server_that_goes_down(
    balancer: RunningBalancer, on_down: str, *, stays: bool
) -> None:
    """`on_down: keep` leaves them alone, `kick` ends them and records why."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, on_down=on_down)
        client = LabClient(vip.endpoint, LabOpening(cookie="alice"))
        await client.open()
        await client.login("alice")
        servers[0].faults.inject("refuse")  # the listener only: the session itself is well
        await vip.wait_server("ts1", health="down")
        if stays:
            await client.echo_check(random.Random(1), 10_000)
            await client.leave()
        else:
            assert b"" == await client.read_to_end()
            client.close()
        record = (await vip.wait_records(1))[0]
        assert ("eof" if stays else "server-down") == record["close_reason"]


async def test_failed_dials_are_observed(balancer: RunningBalancer) -> None:
    """One session that cannot connect has the server checked now, and down long before its next check."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, scheduler="first-available", health_check={"interval": "1h"})
        servers[0].faults.inject("refuse")
        assert "ts2" == await landing(vip, "alice")
        await vip.wait_server("ts1", health="down", timeout_s=3)


async def test_odd_requests_take_no_server_down(balancer: RunningBalancer) -> None:
    """A server that closes after a stranger's request stays up: its health checks are well."""
    async with labs(1, security="nla") as servers:
        vip = await balancer.serve(servers)
        servers[0].faults.inject("accept-then-close")
        row = (await vip.servers())["ts1"]
        servers[0].faults.clear()
        before = row["checks_failed"]
        assert "up" == row["health"]
        for number in range(5):
            servers[0].faults.inject("slow-confirm", delay_s=0.0)
            client = LabClient(vip.endpoint, LabOpening(cookie=f"u{number}"))
            await client.connect()
            await client.send_request()
            client.reset()
        await balancer.quiet()
        row = (await vip.servers())["ts1"]
        assert ("up", True) == (row["health"], row["checks_failed"] <= before + 1)


async def test_what_a_server_does_after_a_request_is_no_health(balancer: RunningBalancer) -> None:
    """Five sessions whose server closes before its confirm: counted, and the server stays up."""
    async with labs(1) as servers:
        vip = await balancer.serve(servers, health_check={"interval": "1h", "fast_interval": "1h"})
        servers[0].faults.inject("accept-then-close")
        for _ in range(5):
            client = LabClient(vip.endpoint, LabOpening(cookie="odd"))
            with pytest.raises(LabError) as caught:
                await client.open()
            assert "not-confirmed" == caught.value.code
            assert DISCONNECT == await client.read_to_end()
            client.close()
        assert 5 == await vip.count("server_connect_failures_total", reason="closed")
        assert "up" == (await vip.servers())["ts1"]["health"]


async def test_a_server_may_be_named(balancer: RunningBalancer) -> None:
    """A host name is resolved, every address of it is tried; one that cannot be is down, and said."""
    async with labs(1) as servers:
        port = servers[0].endpoint.port
        vip = await balancer.serve(
            [
                {"name": "ts1", "address": f"localhost:{port}"},
                {"name": "ts2", "address": f"no-such-host.invalid:{port}"},
            ],
            usable=1,
        )
        assert "ts1" == await landing(vip, "alice")
        assert "resolved" in (await vip.servers())["ts2"]["reason"]
        assert balancer.events("name_not_resolved", server="ts2", service=vip.name)


async def test_checks_of_other_types(balancer: RunningBalancer) -> None:
    """`tcp` asks only for a connection, `none` for nothing, another port may be asked."""
    async with labs(3, behaviour="echo") as servers:
        servers[0].faults.inject("silent")
        vip = await balancer.serve(
            [
                real_server(servers[0], health_check={"type": "tcp"}),
                {"name": "none", "address": "127.0.0.1:11", "health_check": {"type": "none"}},
                {
                    "name": "elsewhere",
                    "address": "127.0.0.1:12",
                    "health_check": {"port": servers[2].endpoint.port},
                },
                {"name": "dead", "address": "127.0.0.1:13", "health_check": {"type": "tcp"}},
            ],
            usable=3,
        )
        assert "down" == (await vip.servers())["dead"]["health"]


async def test_backup_servers_wait_for_need(balancer: RunningBalancer) -> None:
    """A backup server is used only when no ordinary one is usable, and not after that."""
    async with labs(2) as servers:
        vip = await balancer.serve([real_server(servers[0]), real_server(servers[1], backup=True)])
        assert {"ts1"} == {await landing(vip, f"u{number}") for number in range(4)}
        servers[0].faults.inject("refuse")
        await vip.wait_server("ts1", health="down")
        assert "ts2" == await landing(vip, "late")
        servers[0].faults.clear()
        await vip.wait_server("ts1", health="up")
        assert "ts1" == await landing(vip, "later")
        reasons = [record["reason"] for record in await vip.wait_records(6)]
        assert ["scheduled"] * 4 + ["backup", "scheduled"] == reasons


async def test_slow_start(balancer: RunningBalancer) -> None:
    """After coming up, the weight rises with time, and with it the share of new users."""
    async with labs(2) as servers:
        vip = await balancer.serve(servers, slow_start="3s")
        assert 100 == (await vip.servers())["ts1"]["effective_weight"]
        servers[0].faults.inject("refuse")
        await vip.wait_server("ts1", health="down")
        servers[0].faults.clear()
        await vip.wait_server("ts1", health="up")
        weights = [(await vip.servers())["ts1"]["effective_weight"]]
        assert weights[0] < 60

        async def risen() -> bool:
            weights.append((await vip.servers())["ts1"]["effective_weight"])
            return bool(weights[-1] == 100)

        began_at = time.monotonic()
        await wait_until_async(risen, 6, "the whole weight")
        assert weights == sorted(weights)
        assert time.monotonic() - began_at > 1


# ---- the feedback agent --------------------------------------------------------------------------------


async def test_the_agent_says_how_much(balancer: RunningBalancer) -> None:
    """Percent, absolute weight, a bare number, maxconn: the last word counts."""
    async with labs(1) as servers, LabAgent("75%") as agent:
        vip = await balancer.serve(servers, feedback_agent={**FAST_AGENT, "port": agent.endpoint.port})
        for reply, weight, most in (
            ("75%", 75, 0),
            ("40", 40, 0),
            ("weight:200 maxconn:7", 200, 7),
            ("weight:10%", 10, 7),
            ("0%", 0, 7),
            ("100% maxconn:0", 100, 0),
        ):
            agent.reply = reply
            await vip.wait_server("ts1", effective_weight=weight, max_connections=most)


async def test_the_agent_drains_and_is_heard_until_it_takes_it_back(balancer: RunningBalancer) -> None:
    """drain, maint, down, up, ready; its own word only, and the operator's stays beside it."""
    async with labs(2) as servers, LabAgent("drain#patching") as agent:
        vip = await balancer.serve(
            [
                real_server(servers[0], feedback_agent={**FAST_AGENT, "port": agent.endpoint.port}),
                real_server(servers[1], feedback_agent=False),
            ]
        )
        row = await vip.wait_server("ts1", state="drain", health="up")
        assert "patching" == row["agent"]["reason"]
        assert "ts2" == await landing(vip, "alice")
        for reply, wanted in (
            ("50%", {"state": "drain", "effective_weight": 50}),
            ("maint", {"state": "halt"}),
            ("ready 100%", {"state": "online", "health": "up"}),
            ("down#no license", {"state": "online", "health": "down"}),
            ("up", {"state": "online", "health": "up"}),
            ("stopped", {"health": "down"}),
            ("up ready", {"state": "online", "health": "up"}),
        ):
            agent.reply = reply
            await vip.wait_server("ts1", **wanted)
        await balancer.ask("set-state", server="ts1", state="drain", service=vip.name)
        asked = agent.asked
        await wait_until_async(lambda: agent.asked > asked + 2, 5, "more answers")
        assert "drain" == (await vip.servers())["ts1"]["state"]


async def test_the_agent_falls_silent(balancer: RunningBalancer) -> None:
    """A dead agent changes nothing at first; when it is stale the configured weight counts again."""
    async with labs(1) as servers, LabAgent("30%") as agent:
        vip = await balancer.serve(servers, feedback_agent={**FAST_AGENT, "port": agent.endpoint.port})
        await vip.wait_server("ts1", effective_weight=30)
        agent.behave(AgentMode.REFUSE)
        row = await vip.wait_server("ts1", effective_weight=100)
        assert row["agent"]["failures"] >= 2
        assert await vip.count("agent_failures_total") >= 2
        assert "up" == row["health"]
        agent.behave(AgentMode.ANSWER)
        await vip.wait_server("ts1", effective_weight=30)


@pytest.mark.parametrize("mode", [AgentMode.GARBAGE, AgentMode.LONG_LINE, AgentMode.NO_NEWLINE])
async def test_an_odd_agent(balancer: RunningBalancer, mode: AgentMode) -> None:
    """Whatever an agent says, the balancer lives; a line without an end is one, ended by closing."""
    async with labs(1) as servers, LabAgent("60%") as agent:
        vip = await balancer.serve(servers, feedback_agent={**FAST_AGENT, "port": agent.endpoint.port})
        await vip.wait_server("ts1", effective_weight=60)
        agent.reply = "20%"
        agent.behave(mode)
        asked = agent.asked
        await wait_until_async(lambda: agent.asked > asked + 3, 5, "more answers")
        expected = 20 if mode is AgentMode.NO_NEWLINE else 60
        await vip.wait_server("ts1", effective_weight=expected)
        if mode is not AgentMode.NO_NEWLINE:
            assert await vip.count("agent_ignored_words_total") > 0
        assert "ts1" == await landing(vip, "alice")


async def test_weights_are_obeyed(balancer: RunningBalancer) -> None:
    """New users go by weight, those of the operator, of the agent, and of the configuration together."""
    async with labs(3) as servers, LabAgent("50%") as agent, AsyncExitStack() as stack:
        vip = await balancer.serve(
            [
                real_server(servers[0], weight=100),
                real_server(
                    servers[1], weight=200, feedback_agent={**FAST_AGENT, "port": agent.endpoint.port}
                ),
                real_server(servers[2], weight=10),
            ]
        )
        await balancer.ask("set-weight", server="ts3", weight=200, service=vip.name)
        await vip.wait_server("ts2", effective_weight=100)
        for number in range(40):
            await stack.enter_async_context(LabClient(vip.endpoint, LabOpening(cookie=f"u{number}")))
        rows = await vip.servers()
        assert {"ts1": 10, "ts2": 10, "ts3": 20} == {name: row["sessions"] for name, row in rows.items()}
