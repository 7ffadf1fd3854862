"""One check, one question to an agent: what they find, in words, and within their time."""

import asyncio
import resource
from collections.abc import Iterator
from typing import get_args

import pytest

from rdpbalancer.core.farm import AgentPolicy, HealthPolicy, RealServer
from rdpbalancer.core.feedback import AgentReport
from rdpbalancer.core.health import HealthState, observe
from rdpbalancer.health.agent import ask
from rdpbalancer.health.monitor import Monitor
from rdpbalancer.health.probe import CHECKS, CheckResult, check
from rdpbalancer.lab.agent import AgentMode, LabAgent
from rdpbalancer.lab.server import LabServer
from rdpbalancer.model import Health, ServerId
from rdpbalancer.settings.service import CheckType
from tests.support.running_balancer import open_descriptors
from tests.support.steps import watching
from tests.support.wait import wait_until_async


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """A check that has ended holds nothing."""
    before = open_descriptors()
    yield
    assert before == open_descriptors()


@pytest.mark.parametrize("security", ["rdp", "tls", "nla", "legacy", "failure:5"])
async def test_a_terminal_server_is_well(security: str) -> None:
    """Any Connection Confirm will do, a negotiation failure included; the server knows a probe for one."""
    async with LabServer(security=security) as lab:
        result = await check("rdp", ["127.0.0.1"], lab.port, timeout_s=2)
        assert (True, True) == (result.ok, result.detail.startswith("confirmed"))
        assert 0 < result.duration_s < 2
        await wait_until_async(lambda: lab.connections == 0, 5, "the probe's end")
        assert (1, 0) == (lab.counters.probes, lab.counters.requests)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "refused"),
        ("dial-hangs", "no answer"),
        ("silent", "no answer"),
        ("accept-then-close", "closed without"),
        ("accept-then-reset", "reset"),
        ("garbage-reply", "Connection Confirm"),
        ("partial-confirm-then-close", "closed without"),
    ],
)
async def test_a_failing_server(fault: str, words: str) -> None:
    """Each way to fail is a failed check that says which."""
    async with LabServer() as lab:
        lab.faults.inject(fault)
        result = await check("rdp", ["127.0.0.1"], lab.port, timeout_s=0.3)
        assert not result.ok
        assert words in result.detail
        lab.faults.clear()


async def test_a_tcp_check_only_connects() -> None:
    """`tcp` is content with a server that says nothing."""
    async with LabServer() as lab:
        lab.faults.inject("silent")
        assert (await check("tcp", ["127.0.0.1"], lab.port, timeout_s=1)).ok
        lab.faults.inject("refuse")
        assert not (await check("tcp", ["127.0.0.1"], lab.port, timeout_s=1)).ok
        lab.faults.clear()


async def test_every_address_is_checked() -> None:
    """One address that answers is enough; none at all is a failure in words."""
    async with LabServer() as lab:
        assert (await check("rdp", ["::1", "127.0.0.1"], lab.port, timeout_s=2)).ok
        result = await check("rdp", [], lab.port, timeout_s=2)
        assert (False, "its name could not be resolved") == (result.ok, result.detail)


async def test_an_address_that_swallows_everything_costs_its_share_of_the_time() -> None:
    """What a dial by a user would find is what a check finds, and what the agent is asked by."""
    async with (
        LabServer() as lab,
        LabServer(host="127.0.0.2", port=lab.port) as hanging,
        LabAgent("30%") as agent,
        LabServer(host="127.0.0.2", port=agent.endpoint.port) as hanging_agent,
    ):
        for dead in (hanging, hanging_agent):
            dead.faults.inject("dial-hangs")
        addresses = ["127.0.0.2", "127.0.0.1"]
        for kind in ("rdp", "tcp"):
            result = await check(kind, addresses, lab.port, timeout_s=1)
            assert (True, "127.0.0.1") == (result.ok, result.address)
        report = await ask(addresses, agent.endpoint.port, timeout_s=1)
        assert isinstance(report, AgentReport)
        for dead in (hanging, hanging_agent):
            dead.faults.clear()


async def test_an_address_that_connects_is_the_servers() -> None:
    """A user's connection would be lost there, so the check does not look for a better one."""
    async with LabServer() as lab, LabServer(host="127.0.0.2", port=lab.port) as other:
        other.faults.inject("garbage-reply")
        assert not (await check("rdp", ["127.0.0.2", "127.0.0.1"], lab.port, timeout_s=1)).ok


async def test_a_shortage_of_ours_says_nothing_of_the_server() -> None:
    """Without a descriptor there is no check, which is something else than a failed one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with LabServer() as lab:
        with watching() as waits:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                result = await check("rdp", ["127.0.0.1"], lab.port, timeout_s=1, waits=waits)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (False, False) == (result.ok, result.made)
        assert "Too many open files" in result.detail


async def test_a_check_that_is_cancelled_holds_nothing() -> None:
    """In the middle of its dial, or of waiting for the answer (see the fixture)."""
    async with LabServer() as lab:
        for fault in ("dial-hangs", "silent"):
            lab.faults.inject(fault)
            with watching() as waits:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await check("rdp", ["127.0.0.1"], lab.port, timeout_s=60, waits=waits)
                assert 0 == len(waits)
            lab.faults.clear()
        await wait_until_async(lambda: lab.connections == 0, 5, "the probes' end")


@pytest.mark.parametrize("mode", [AgentMode.ANSWER, AgentMode.NO_NEWLINE])
async def test_an_agent_answers(mode: AgentMode) -> None:
    """A line with or without its end."""
    async with LabAgent("drain 30%") as agent:
        agent.behave(mode)
        report = await ask(["127.0.0.1"], agent.endpoint.port, timeout_s=1)
        assert isinstance(report, AgentReport)
        assert 30 == report.percent


@pytest.mark.parametrize(
    ("mode", "words"), [(AgentMode.REFUSE, "refused"), (AgentMode.SILENT, "no line within")]
)
async def test_an_agent_does_not_answer(mode: AgentMode, words: str) -> None:
    """It is said why."""
    async with LabAgent() as agent:
        agent.behave(mode)
        answer = await ask(["127.0.0.1"], agent.endpoint.port, timeout_s=0.2)
        assert isinstance(answer, str)
        assert words in answer
    assert isinstance(await ask([], 1, timeout_s=0.2), str)


async def test_an_agent_without_a_word() -> None:
    """An agent that closes at once, or says only blanks, has not answered."""
    async with LabAgent("") as agent:
        assert "it closed without a word" == await ask(["127.0.0.1"], agent.endpoint.port, timeout_s=1)


async def test_an_agent_that_talks_without_end() -> None:
    """No more is read than the bound."""
    async with LabAgent() as agent:
        agent.behave(AgentMode.LONG_LINE)
        report = await ask(["127.0.0.1"], agent.endpoint.port, timeout_s=2)
        assert isinstance(report, AgentReport)
        assert report.ignored


class Owner:
    """Keeps what a monitor tells."""

    def __init__(self, server: RealServer) -> None:
        self._server = server
        self.health = HealthState()
        self.results: list[CheckResult] = []
        self.answers: list[AgentReport | str] = []

    def addresses_of(self, _server: ServerId) -> list[str]:
        """Return where it is."""
        return [self._server.address.host]

    def health_of(self, _server: ServerId) -> HealthState:
        """Return what was observed."""
        return self.health

    def checked(self, _server: ServerId, result: CheckResult) -> None:
        """Keep a result."""
        self.results.append(result)
        self.health = observe(self.health, ok=result.ok, policy=self._server.health, now=0.0)

    def agent_answered(self, _server: ServerId, answer: AgentReport | str) -> None:
        """Keep an answer."""
        self.answers.append(answer)


class Middle:
    """Chance that is always one half."""

    def random(self) -> float:
        """Return 0.5."""
        return 0.5


def watched(lab: LabServer, policy: HealthPolicy, agent: AgentPolicy | None = None) -> tuple[Monitor, Owner]:
    """Return a monitor of a simulated server, and who is told."""
    server = RealServer(ServerId("s", "ts1"), lab.endpoint, health=policy, agent=agent)
    owner = Owner(server)
    return Monitor(server, owner, rng=Middle()), owner


async def test_a_monitor_checks_at_once_and_faster_in_doubt() -> None:
    """The first check decides; after a failure the next ones come at the fast interval."""
    async with LabServer() as lab:
        monitor, owner = watched(lab, HealthPolicy(interval_s=0.05, fast_interval_s=0.02, fall=3))
        monitor.start()
        await wait_until_async(lambda: owner.health.health is Health.UP, 5, "up")
        lab.faults.inject("refuse")
        await wait_until_async(lambda: owner.health.health is Health.DOWN, 5, "down")
        assert [False] * 3 == [result.ok for result in owner.results][-3:]
        await monitor.stop()
        count = len(owner.results)
        await asyncio.sleep(0.15)  # three intervals
        assert count == len(owner.results)
        lab.faults.clear()


async def test_a_hurried_monitor_does_not_wait() -> None:
    """A session has seen something wrong: the next check comes soon, not in an hour."""
    async with LabServer() as lab:
        monitor, owner = watched(lab, HealthPolicy(interval_s=3600, fast_interval_s=0.02))
        monitor.start()
        await wait_until_async(lambda: owner.results, 5, "the first check")
        monitor.hurry()
        await wait_until_async(lambda: len(owner.results) == 2, 5, "the second check")
        await monitor.stop()


async def test_a_monitor_of_what_is_not_checked() -> None:
    """`none` is up at once, without a connection."""
    async with LabServer() as lab:
        monitor, owner = watched(lab, HealthPolicy(type="none"))
        monitor.start()
        assert (Health.UP, 0) == (owner.health.health, lab.counters.accepted)
        await monitor.stop()


async def test_a_monitor_asks_the_agent() -> None:
    """Again and again, and tells failures too."""
    async with LabServer() as lab, LabAgent("10%") as agent:
        policy = AgentPolicy(port=agent.endpoint.port, interval_s=0.02)
        monitor, owner = watched(lab, HealthPolicy(), policy)
        monitor.start()
        await wait_until_async(lambda: len(owner.answers) >= 2, 5, "answers")
        agent.behave(AgentMode.REFUSE)
        await wait_until_async(lambda: isinstance(owner.answers[-1], str), 5, "a failure")
        await monitor.stop()


def test_the_checks_have_the_names_of_the_configuration() -> None:
    """Beside `none`, which looks at nothing."""
    assert {*CHECKS, "none"} == set(get_args(CheckType))
