"""Simulated feedback agents answer as they are told."""

import pytest

from rdpbalancer.lab.agent import GARBAGE, LONG_LINE, AgentMode, LabAgent
from rdpbalancer.lab.channel import LabError
from rdpbalancer.lab.client import LabClient
from tests.support.wait import wait_until_async


async def _ask(agent: LabAgent, *, timeout_s: float = 5.0) -> bytes:
    client = LabClient(agent.endpoint, timeout_s=timeout_s)
    await client.connect()
    try:
        return await client.read_to_end()
    finally:
        client.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_reply_is_one_line(host: str) -> None:
    """It can be changed between two questions, which are counted."""
    async with LabAgent("75%", host=host) as agent:
        assert b"75%\n" == await _ask(agent)
        agent.reply = "drain #patch day"
        assert b"drain #patch day\n" == await _ask(agent)
        assert 2 == agent.asked


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        (AgentMode.NO_NEWLINE, b"75%"),
        (AgentMode.GARBAGE, GARBAGE),
        (AgentMode.LONG_LINE, LONG_LINE),
        (AgentMode.ANSWER, b"75%\n"),
    ],
)
async def test_it_answers_in_its_mode(mode: AgentMode, answer: bytes) -> None:
    """And closes in order behind it."""
    async with LabAgent("75%") as agent:
        agent.behave(mode)
        assert (mode, answer) == (agent.mode, await _ask(agent))


async def test_a_silent_agent_keeps_its_connection_open() -> None:
    """It takes the connection, says nothing, and ends with who asked."""
    async with LabAgent() as agent:
        agent.behave("silent")
        with pytest.raises(LabError) as caught:
            await _ask(agent, timeout_s=0.1)
        assert ("timeout", 1) == (caught.value.code, agent.asked)


async def test_a_refusing_agent_comes_back() -> None:
    """On its own port; also when it starts so, and when it is stopped meanwhile."""
    agent = LabAgent()
    agent.behave(AgentMode.REFUSE)
    for _ in range(2):
        async with agent:
            with pytest.raises(LabError) as caught:
                await _ask(agent)
            assert "refused" == caught.value.code
            agent.behave(AgentMode.ANSWER)
            port = agent.endpoint.port
            assert b"100%\n" == await _ask(agent)
        agent.behave(AgentMode.REFUSE)
        assert port == agent.endpoint.port


async def test_who_hangs_up_early_does_no_harm() -> None:
    """A reader with a bound leaves within the long line; the agent goes on."""
    async with LabAgent() as agent:
        agent.behave(AgentMode.LONG_LINE)
        client = LabClient(agent.endpoint)
        await client.connect()
        await client.channel.read_exactly(100)
        client.reset()
        agent.behave(AgentMode.ANSWER)
        assert b"100%\n" == await _ask(agent)
        await wait_until_async(lambda: not agent._tasks, 5, "the end of both connections")
