"""An upgrade as the router sees it."""

import msgspec
import pytest

from rdpbalancer import __version__
from rdpbalancer.errors import ConfigurationError
from rdpbalancer.ipc.router_messages import PROTOCOL_VERSION, SupervisorHello, Upgrade
from rdpbalancer.runtime.upgrade_request import UpgradeRequest
from rdpbalancer.tasks import spawn
from tests.support.wait import wait_until_async


class RequestFixture:
    """A request, what it has sent, and how often it was asked for."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem
        self.sent: list[msgspec.Struct] = []
        self.requested = 0
        self.request = UpgradeRequest(send=self.sent.append, check=self._check)
        self.request.greeted(SupervisorHello(PROTOCOL_VERSION, 3, None, True))

    def _check(self) -> None:
        if self.problem:
            raise ConfigurationError("restart-needed", self.problem)

    def note(self) -> None:
        """Be asked for."""
        self.requested += 1


async def test_an_upgrade_is_asked_for_once_and_answered_to_all() -> None:
    fixture = RequestFixture()
    asking = [spawn(fixture.request.ask(requested=fixture.note), name="ask") for _ in range(2)]
    await wait_until_async(lambda: fixture.sent, 5, "the question")
    fixture.request.answered("")
    fixture.request.answered("too late")
    assert [{"generation": 3, "version": __version__}] * 2 == [await each for each in asking]
    assert ([Upgrade()], 1) == (fixture.sent, fixture.requested)
    assert fixture.request.code_changed


async def test_a_refusal_says_why_and_another_can_be_asked_for() -> None:
    fixture = RequestFixture()
    for _ in range(2):
        fixture.sent.clear()
        asking = spawn(fixture.request.ask(requested=fixture.note), name="ask", on_error=lambda _: None)
        await wait_until_async(lambda: fixture.sent, 5, "the question")
        fixture.request.answered("the code does not start")
        with pytest.raises(ConfigurationError, match="does not start; the running code goes on"):
            await asking
    assert 2 == fixture.requested


async def test_nothing_is_asked_where_it_is_impossible() -> None:
    fixture = RequestFixture("with relays: 0 an upgrade would end every session")
    with pytest.raises(ConfigurationError, match="relays: 0"):
        await fixture.request.ask(requested=fixture.note)
    assert ([], 0) == (fixture.sent, fixture.requested)


def test_a_supervisor_of_other_code_ends_the_router() -> None:
    request = UpgradeRequest(send=lambda _: None, check=lambda: None)
    with pytest.raises(SystemExit, match="version 99"):
        request.greeted(SupervisorHello(99, 0, None, False))
    request.answered("nobody has asked")
