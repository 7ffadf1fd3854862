"""A running balancer for every test: shared processes, virtual services of the test's own, an audit."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.house import House


class Houses:
    """The running balancers of this run, one for each number of relays."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running: dict[int, House] = {}

    def get(self, relays: int) -> House:
        """Return the running balancer with so many relays; start it if there is none."""
        if relays not in self._running:
            self._running[relays] = House(self._folders.mktemp("h"), relays=relays)
            try:
                self._running[relays].start()
            except BaseException:
                self.discard(relays)
                raise
        return self._running[relays]

    def discard(self, relays: int) -> None:
        """Stop a balancer that a failed test has left in an unknown state."""
        house = self._running.pop(relays)
        assert house.process is not None
        house.process.stop(grace_s=10)
        house.process.kill_children()

    def stop(self) -> None:
        """Stop all; fails if one leaves a process behind or ends badly."""
        for house in self._running.values():
            assert 0 == house.stop(), house.tail()


@pytest.fixture(scope="session")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Houses]:
    """The running balancers; stopped at the end of the run."""
    started = Houses(tmp_path_factory)
    yield started
    started.stop()


@pytest.fixture
async def house(request: pytest.FixtureRequest, houses: Houses) -> AsyncIterator[House]:
    """A running balancer with one relay, or as many as the test's (indirect) parameter says."""
    relays = int(getattr(request, "param", 1))
    running = houses.get(relays)
    before = running.descriptors()
    yield running
    try:
        await running.clear(before)
    except BaseException:
        houses.discard(relays)
        raise
