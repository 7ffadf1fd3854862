"""A running balancer for every test: shared processes, virtual services of the test's own, an audit."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.running_balancer import RunningBalancer


class RunningBalancers:
    """The running balancers of this run, one for each number of relays."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running: dict[int, RunningBalancer] = {}

    def get(self, relays: int) -> RunningBalancer:
        """Return the running balancer with so many relays; start it if there is none."""
        if relays not in self._running:
            self._running[relays] = RunningBalancer(self._folders.mktemp("h"), relays=relays)
            try:
                self._running[relays].start()
            except BaseException:
                self.discard(relays)
                raise
        return self._running[relays]

    def discard(self, relays: int) -> None:
        """Stop a balancer that a failed test has left in an unknown state."""
        balancer = self._running.pop(relays)
        assert balancer.process is not None
        balancer.process.stop(grace_s=10)
        balancer.process.kill_children()

    def stop(self) -> None:
        """Stop all; fails if one leaves a process behind or ends badly."""
        for balancer in self._running.values():
            assert 0 == balancer.stop(), balancer.tail()


@pytest.fixture(scope="session")
def balancers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBalancers]:
    """The running balancers; stopped at the end of the run."""
    started = RunningBalancers(tmp_path_factory)
    yield started
    started.stop()


@pytest.fixture
async def balancer(
    request: pytest.FixtureRequest, balancers: RunningBalancers
) -> AsyncIterator[RunningBalancer]:
    """A running balancer with one relay, or as many as the test's (indirect) parameter says."""
    relays = int(getattr(request, "param", 1))
    running = balancers.get(relays)
    before = running.descriptors()
    yield running
    try:
        await running.clear(before)
    except BaseException:
        balancers.discard(relays)
        raise
